"""The processes of one training: which part of a step each does, and what they tell each other.

torch.distributed is all that is needed. Every process has the whole model and takes the same step
once the gradients are added up, which is one sum a step. A wrapper such as
DistributedDataParallel, which accelerate and Fabric put around a module, works in its `forward`,
and second-order gradients through functional calls do not pass there.
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

# What torchrun and `accelerate launch` set, as does whoever starts processes by hand.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# How long to wait for a process that is silent. One that has ended is noticed at once.
WAIT_SEC = 1800.0


class ProcessLost(InputError):
    """Another process of the run has ended, or has been silent for WAIT_SEC."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them.

    Attributes:
        rank: The number of this one, from 0.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes, evaluates and speaks."""
        return self.rank == 0

    def part(self, items: int) -> slice:
        """Which of so many items are this process's: nobody has two more than anybody else.

        Where there are fewer items than processes, some have none.
        """
        return slice(items * self.rank // self.count, items * (self.rank + 1) // self.count)

    def weighted_sum(
        self, weight: float, parameters: Iterable[nn.Parameter], numbers: Sequence[float]
    ) -> list[float]:
        """Adds up gradients, in place, and numbers, each times its process's weight.

        A parameter that no process has a gradient of is left without one.

        Args:
            weight: Of this process; those of all add up to 1. At 0 it need not have any gradient.
            parameters: Whose gradients are replaced, in the order that all processes have.
            numbers: As many in every process.

        Returns:
            The sums of the numbers; they and the gradients are the same bits in every process.

        Raises:
            ProcessLost: see there.
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
        """The greatest of each number over all processes.

        Raises:
            ProcessLost: see there.
        """
        values = torch.tensor(numbers, dtype=torch.float64)
        if self.count > 1:
            self._wait(lambda: distributed.all_reduce(values, distributed.ReduceOp.MAX))
        return [float(value) for value in values]

    def check_alike(self, facts: Mapping[str, str]) -> None:
        """Refuses to work with processes that were given something else.

        Args:
            facts: What all processes must have in common: what it is -> its value or a hash of it.

        Raises:
            InputError: they differ, in every process. ProcessLost: see there.
        """
        if self.count == 1:
            return
        found: list[Mapping[str, str]] = [{}] * self.count
        self._wait(lambda: distributed.all_gather_object(found, dict(facts)))
        for rank, other in enumerate(found):
            for what, value in found[0].items():
                if other.get(what) != value:
                    raise InputError(
                        f"process {rank} of {self.count} has other {what} than process 0: start"
                        " all with the same command, on the same files"
                    )

    def _wait(self, together: Callable[[], object]) -> None:
        """Does what all processes do together."""
        try:
            together()
        except RuntimeError as error:
            raise ProcessLost(
                f"process {self.rank} of {self.count}: another process of this run has ended or"
                " does not answer; the last checkpoint stands: continue with --resume"
            ) from error


ALONE = Processes()


@contextlib.contextmanager
def launched() -> Iterator[Processes]:
    """The processes that torchrun, `accelerate launch` or the like has started, or one alone.

    On CUDA each takes the device of its number on its machine.

    Raises:
        InputError: they do not find each other.
    """
    if not all(name in os.environ for name in VARIABLES) or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    try:
        distributed.init_process_group("gloo", timeout=timedelta(seconds=WAIT_SEC))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the processes of this run do not find each other ({reason}): start them with"
            " torchrun or accelerate launch"
        ) from error
    try:
        if torch.cuda.is_available():
            local = int(os.environ.get("LOCAL_RANK", "0"))
            torch.cuda.set_device(local % torch.cuda.device_count())
        yield Processes(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
