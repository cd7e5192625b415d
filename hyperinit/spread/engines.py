"""Engines for independent pieces of work: this process, or a Ray cluster.

An engine is a map that yields results as they are ready. Ray schedules, retries and notices dead
workers; this module only decides how much to hand out at a time, and translates its errors for the
user. Workers neither read nor write files: all data goes through the calling process.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Any, Protocol

from hyperinit.base.errors import InputError
from hyperinit.base.extras import need

LOCAL = "local"  # a cluster of this machine's cores that ends with the command

RETRIES = 3  # of a piece of work whose worker died, before it is given up

CONNECT_SEC = 10.0  # for a cluster to answer at all

# Memory for data on the way to and from a worker of a local cluster.
STORE_BYTES_PER_WORKER = 2**26


class WorkLost(InputError):
    """A piece of work whose worker died every time it was tried."""


class Engine(Protocol):
    """Runs pieces of work."""

    @property
    def device(self) -> str:
        """The device of its workers: "cpu" or "cuda"; "" if the caller decides."""
        ...

    def map(
        self, function: Callable[[Any], Any], items: Iterable[Any]
    ) -> Iterator[tuple[Any, Any]]:
        """(item, result of the function) for all items, in any order.

        Items are taken when there is room for them. If a worker died every time, the result is a
        WorkLost.
        """
        ...


class Here:
    """Runs work in this process, one piece after the other."""

    device = ""

    def map(
        self, function: Callable[[Any], Any], items: Iterable[Any]
    ) -> Iterator[tuple[Any, Any]]:
        """See Engine; in the order of the items."""
        for item in items:
            yield item, function(item)


HERE = Here()


@dataclass(frozen=True)
class OnRay:
    """A Ray cluster that this process is connected to; see `engine_of`.

    Attributes:
        threads: CPU threads of a worker, and cores that Ray reserves for it.
        gpus: GPUs per worker, such as 0.25; 0: it computes on CPUs.
        most: Pieces of work at a time; None: as many as the cluster has room for.
    """

    threads: int = 1
    gpus: float = 0.0
    most: int | None = None

    @property
    def device(self) -> str:
        """See Engine."""
        return "cuda" if self.gpus else "cpu"

    @property
    def workers(self) -> int:
        """Pieces of work that the cluster currently has room for at a time."""
        import ray

        found = ray.cluster_resources()
        room = found.get("CPU", 0.0) // self.threads
        if self.gpus:
            room = min(room, found.get("GPU", 0.0) // self.gpus)
        return max(1, min(int(room), self.most or int(room)))

    def check_room(self) -> None:
        """Refuses a cluster on which no worker could ever start.

        Raises:
            InputError: it has fewer cores or GPUs than one worker takes.
        """
        import ray

        found = ray.cluster_resources()
        wanted = {"CPU": ("--threads", self.threads), "GPU": ("--ray-gpus", self.gpus)}
        for what, (flag, least) in wanted.items():
            there = found.get(what, 0.0)
            if there < least:
                raise InputError(f"{flag} {least:g}: the cluster has {there:g} {what}s in all")

    def map(
        self, function: Callable[[Any], Any], items: Iterable[Any]
    ) -> Iterator[tuple[Any, Any]]:
        """See Engine.

        It hands out twice as much as there is room for, so that no worker waits, or exactly `most`.

        Raises:
            InputError: the function raised it, or a worker has another version of this package.
        """
        import ray

        call = ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=RETRIES)(_call)
        # In a list, because Ray would otherwise unpickle the function for every piece.
        shared = [ray.put(function)]
        pending: dict[Any, Any] = {}
        waiting = iter(items)
        while True:
            room = self.most or 2 * self.workers
            for item in islice(waiting, max(0, room - len(pending))):
                pending[call.remote(shared, item, self.threads, _version())] = item
            if not pending:
                return
            done, _ = ray.wait(list(pending), num_returns=1)
            for ref in done:
                item = pending.pop(ref)
                yield item, _outcome(ref)


@contextlib.contextmanager
def engine_of(
    address: str | None, *, threads: int | None = None, gpus: float = 0.0, most: int | None = None
) -> Iterator[Engine]:
    """The engine that `--ray` asks for; HERE if it is not given.

    Args:
        address: LOCAL, or a cluster's address as for `ray.init`: "auto", "HOST:PORT", "ray://...".
        threads, gpus, most: See OnRay; one thread by default.

    Raises:
        InputError: Ray is not installed, there is no such cluster, or a number is out of range.
    """
    if address is None:
        if gpus:
            raise InputError("--ray-gpus needs --ray")
        yield HERE
        return
    for flag, value, least in (("--threads", threads, 1), ("--workers", most, 1)):
        if value is not None and value < least:
            raise InputError(f"{flag} must be at least {least}, not {value}")
    if not 0 <= gpus <= 64:
        raise InputError(f"--ray-gpus must be at least 0, such as 0.25, not {gpus:g}")
    ray: Any = need("ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # default of later versions
    found: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        cores = max(most * (threads or 1) if most else os.cpu_count() or 1, threads or 1)
        store = STORE_BYTES_PER_WORKER * max(2, cores)
        found |= {"num_cpus": cores, "object_store_memory": store, "include_dashboard": False}
    _check_reachable(address)
    try:
        ray.init(**found)
    except Exception as error:  # even a bare Exception, if a busy machine starts it too slowly
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        where = "could be started here" if address == LOCAL else "there"
        if address != LOCAL and "RAY_AUTH_MODE" not in os.environ:
            reason += "; a cluster that asks for a token needs RAY_AUTH_MODE=token"
        raise InputError(f"--ray {address}: no cluster {where} ({reason})") from error
    engine = OnRay(threads or 1, gpus, most)
    try:
        engine.check_room()
        yield engine
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuses an address where nothing listens; Ray itself would try for a quarter of an hour.

    Raises:
        InputError: nothing listens there.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # "local", "auto" or an address that Ray must resolve
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SEC).close()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no answer"
        raise InputError(f"--ray {address}: no cluster there ({reason})") from error


def _call(shared: list[Any], item: Any, threads: int, wanted: str) -> Any:
    """Runs a piece of work in a worker."""
    import torch

    if _version() != wanted:
        raise InputError(
            f"a worker has hyperinit {_version()}, this is {wanted}; install the same version"
        )
    torch.set_num_threads(threads)
    return _unpacked(shared[0])(item)


@lru_cache(maxsize=2)
def _unpacked(ref: Any) -> Callable[[Any], Any]:
    """A function in the cluster's memory; unpickled once per worker."""
    import ray

    function: Callable[[Any], Any] = ray.get(ref)
    return function


def _version() -> str:
    try:
        return version("hyperinit")
    except PackageNotFoundError:
        return "from a checkout"


def _outcome(ref: Any) -> Any:
    """The result of a finished piece of work, or a WorkLost."""
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise (InputError(str(cause)) if isinstance(cause, InputError) else error) from error
    except ray.exceptions.RayError as error:
        reason = type(error).__name__
        return WorkLost(f"its worker died {RETRIES + 1} times ({reason}); run the command again")
