"""The processes of one training: their parts of a step, and how they communicate.

Only torch.distributed is needed. Every process has the whole model and takes the same step after
the gradients are summed, once per step. Wrappers such as DistributedDataParallel, which accelerate
and Fabric put around a module, work in its `forward`, which second-order gradients through
functional calls do not use.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn

from hyperinit.base.errors import InputError

# Set by torchrun and `accelerate launch`, or by hand.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# How long to wait for a silent process. One that has ended is noticed at once.
WAIT_SEC = 1800.0


class ProcessLost(InputError):
    """Another process of the run has ended, or has been silent for WAIT_SEC."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: The index of this process, from 0.
        count: The number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes, evaluates and prints."""
        return self.rank == 0

    def part(self, items: int) -> slice:
        """The slice of `items` items that belongs to this process; parts differ by at most one.

        With fewer items than processes, some have none.
        """
        return slice(items * self.rank // self.count, items * (self.rank + 1) // self.count)

    def weighted_sum(
        self, weight: float, parameters: Iterable[nn.Parameter], numbers: Sequence[float]
    ) -> list[float]:
        """Sums gradients (in place) and numbers over all processes, each times its weight.

        A parameter without a gradient in any process is left without one.

        Args:
            weight: This process's weight; all weights sum to 1. With 0, gradients may be missing.
            parameters: Parameters whose gradients are replaced, in the same order everywhere.
            numbers: The same number of numbers in every process.

        Returns:
            The sums of the numbers; they and the gradients are bit-equal in every process.

        Raises:
            ProcessLost: see the class.
        """
        if self.count == 1:
            return list(numbers)
        parameters = list(parameters)
        gradients = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in parameters]
        found = [float(p.grad is not None) for p in parameters]
        head = torch.tensor([*found, *(weight * number for number in numbers)], dtype=torch.float64)
        total = torch.cat([(weight * g.detach()).cpu().flatten() for g in gradients])
        self._wait(lambda: (distributed.all_reduce(head), distributed.all_reduce(total)))
        at = 0
        for has, parameter in zip(head[: len(found)].tolist(), parameters, strict=True):
            values = total[at : at + parameter.numel()].view(parameter.shape)
            parameter.grad = values.to(parameter) if has else None
            at += parameter.numel()
        return [float(number) for number in head[len(found) :]]

    def greatest(self, *numbers: float) -> list[float]:
        """The maximum of each number over all processes.

        Raises:
            ProcessLost: see the class.
        """
        values = torch.tensor(numbers, dtype=torch.float64)
        if self.count > 1:
            self._wait(lambda: distributed.all_reduce(values, distributed.ReduceOp.MAX))
        return [float(value) for value in values]

    def check_alike(self, facts: Mapping[str, str]) -> None:
        """Refuses to work if processes were started with different settings or files.

        Args:
            facts: What all processes must have in common: name -> value, or a hash of it.

        Raises:
            InputError: they differ (raised in every process).
            ProcessLost: see the class.
        """
        if self.count == 1:
            return
        found: list[Mapping[str, str]] = [{}] * self.count
        self._wait(lambda: distributed.all_gather_object(found, dict(facts)))
        for rank, other in enumerate(found):
            for what, value in found[0].items():
                if other.get(what) != value:
                    raise InputError(
                        f"process {rank} of {self.count} has other {what} than process 0; start"
                        " all with the same command, on the same files"
                    )

    def _wait(self, together: Callable[[], object]) -> None:
        """Runs a collective operation of all processes."""
        try:
            together()
        except RuntimeError as error:
            raise ProcessLost(
                f"process {self.rank} of {self.count}: another process of this run has ended or"
                " does not answer; the last checkpoint is kept, continue with --resume"
            ) from error


ALONE = Processes()


@contextlib.contextmanager
def launched() -> Iterator[Processes]:
    """The processes that torchrun, `accelerate launch` or the like started, or this one alone.

    On CUDA, each uses the device with its local index on its machine.

    Raises:
        InputError: they cannot find each other.
    """
    if not all(name in os.environ for name in VARIABLES) or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    try:
        distributed.init_process_group("gloo", timeout=timedelta(seconds=WAIT_SEC))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the processes of this run cannot find each other ({reason}); start them with"
            " torchrun or accelerate launch"
        ) from error
    try:
        if torch.cuda.is_available():
            local = int(os.environ.get("LOCAL_RANK", "0"))
            torch.cuda.set_device(local % torch.cuda.device_count())
        yield Processes(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
