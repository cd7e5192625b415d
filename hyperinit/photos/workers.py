"""Batches that threads make ahead of the step that needs them.

Every batch is a function of its step, so that how many threads there are, and how far they are
ahead, changes nothing. Decoding and resizing leave Python's lock, so threads are enough.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from torch import Tensor


class Batches(Protocol):
    """Where training images come from: a pure function of the step."""

    def batch(self, step: int, batch_size: int) -> Tensor:
        """Images of one step."""


class Ahead:
    """Batches of another source, made by `workers` threads.

    At most two batches a thread are ready or in the making, so memory is bounded.
    """

    def __init__(self, source: Batches, workers: int) -> None:
        self._source = source
        self._ahead = 2 * workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
        self._made: dict[tuple[int, int], Future[Tensor]] = {}

    def batch(self, step: int, batch_size: int) -> Tensor:
        """See Batches. What goes wrong in a thread is raised here, at the step it is for."""
        wanted = [(s, batch_size) for s in range(step, step + 1 + self._ahead)]
        for key in set(self._made) - set(wanted):
            self._made.pop(key).cancel()
        for key in wanted:
            if key not in self._made:
                self._made[key] = self._pool.submit(self._source.batch, *key)
        return self._made.pop(wanted[0]).result()
