"""Peers that take turns, each in a separate process -> one line of a record for each."""

from __future__ import annotations

import multiprocessing
import platform
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.lines import read_lines
from benchmarks.peer.measure import Point, Task
from benchmarks.peer.table import PEERS, Peer
from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path

FORMAT = 1

Record = dict[str, Any]


def peak_mib() -> float:
    """The peak memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, but bytes on macOS
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def work(peer: Peer, task: Task, slices: Iterable[float], tell: Callable[[Record], None]) -> None:
    """The peer's side: works for a slice of time, then reports, and so on.

    Args:
        peer, task: What is measured.
        slices: Seconds; a fit with a declared end is not interrupted, so a slice may take longer.
        tell: Receives the new `points`, any new `facts`, whether it is `done`, and the resources
            that the process has used so far.
    """
    items = peer.points(task)
    base, wall, cpu = peak_mib(), 0.0, 0.0
    for sec in slices:
        begin, began = time.perf_counter(), time.process_time()
        reply: Record = {"points": [], "done": False}
        while time.perf_counter() - begin < sec and not reply["done"]:
            item = next(items, StopIteration)
            if isinstance(item, Point):
                reply["points"].append(_rounded(item))
            elif isinstance(item, dict):
                reply["facts"] = item
            reply["done"] = item is StopIteration
        wall += time.perf_counter() - begin
        cpu += time.process_time() - began
        reply |= {"base_mib": round(base), "peak_mib": round(peak_mib())}
        reply["cpu_share"] = round(min(cpu / max(wall, 1e-9), 1.0), 3)
        tell(reply)
        if reply["done"]:
            return


def _rounded(point: Point) -> list[float | int | None]:
    steps, epochs, sec, psnr, size = astuple(point)
    return [steps, round(epochs, 3), round(sec, 4), round(psnr, 3), size]


@dataclass(frozen=True)
class Job:
    """The job of a peer's process.

    Attributes:
        peer: A row of PEERS.
        task: The task; its limit is multiplied by the row's patience.
        threads: torch's threads.
    """

    peer: str
    task: Task
    threads: int


def _serve(job: Job, pipe: Connection) -> None:
    """A peer's process."""
    warnings.simplefilter("ignore")  # of packages, about packages
    torch.set_num_threads(job.threads)
    peer = PEERS[job.peer]
    task = replace(job.task, limit_sec=job.task.limit_sec * peer.patience)
    try:
        work(peer, task, iter(pipe.recv, None), pipe.send)
    except (EOFError, KeyboardInterrupt):  # the parent process has gone
        return
    except Exception as error:  # any error: the other peers' work must not be lost
        name = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        pipe.send({"error": f"{name}{error}".splitlines()[0]})


class _Worker:
    """A peer's process, seen from outside."""

    def __init__(self, context: Any, job: Job) -> None:
        self.reply: Record = {"points": []}
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(job, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def slice(self, sec: float) -> bool:
        """Lets it work for `sec`; returns whether it is done.

        Raises:
            InputError: it failed or died.
        """
        try:
            self._pipe.send(sec)
            reply = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            raise InputError(f"its process died ({self._process.exitcode})") from None
        if "error" in reply:
            raise InputError(reply["error"])
        self.reply = {**self.reply, **reply, "points": self.reply["points"] + reply["points"]}
        return bool(reply["done"])

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()


def take_turns(
    jobs: Sequence[Job],
    slice_sec: float,
    finished: Callable[[str, Record], None],
    failed: Callable[[str, str], None],
) -> None:
    """Runs all peers in turns of a slice each, until all are done.

    So a change in the machine's load affects all alike, and none runs while another does.

    Args:
        jobs: One for each peer.
        slice_sec: Seconds per turn.
        finished: Called with a peer's name and all that it reported.
        failed: Called with a peer's name and one line.
    """
    # Of one process that has imported what all need, and has done nothing yet.
    known = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
    if "forkserver" in known:
        context.set_forkserver_preload([__name__])
    workers: dict[str, _Worker] = {}
    try:
        for job in jobs:
            workers[job.peer] = _Worker(context, job)
        while workers:
            for name, worker in list(workers.items()):
                try:
                    done = worker.slice(slice_sec)
                except InputError as error:
                    failed(name, str(error))
                    done = True
                else:
                    if done:
                        finished(name, worker.reply)
                if done:
                    workers.pop(name).end()
    finally:
        for worker in workers.values():
            worker.end()


def record_of(name: str, key: Record, reply: Record) -> Record:
    """The record of a peer.

    Args:
        name: A row of PEERS.
        key: What was fitted, and the time limit.
        reply: All that its process reported.
    """
    peer = PEERS[name]
    measured = {k: reply[k] for k in ("base_mib", "peak_mib", "cpu_share")}
    return {
        "format": FORMAT,
        "peer": name,
        "what": peer.what,
        "kind": peer.kind,
        **key,
        **measured,
        "facts": reply.get("facts", {}),
        "points": reply["points"],  # steps, epochs, seconds, PSNR, bytes
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def read_record(path: Path) -> list[Record]:
    """The lines of a record; empty if there is no file.

    Raises:
        InputError: a line was not made by `record_of`.
    """
    records = read_lines(path)
    for number, record in enumerate(records, 1):
        if record.get("format") != FORMAT:
            raise InputError(f"{shown_path(path)}, line {number}: not a record of peers")
    return records
