"""A stopwatch that runs while work is done and pauses while it is evaluated."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any


class Clock:
    """A monotonic, device-synchronised clock; `sec` is the time spent inside `running()` blocks.

    Args:
        device: A torch device or its name; the clock waits for work on a GPU.
    """

    def __init__(self, device: Any = "cpu") -> None:
        self._device = device
        self.sec = 0.0

    def _now(self) -> float:
        kind = str(self._device).partition(":")[0]
        if kind in ("cuda", "mps"):
            import torch

            if kind == "cuda":
                torch.cuda.synchronize(self._device)
            else:
                torch.mps.synchronize()
        return time.perf_counter()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Counts the time that the block takes; time between blocks is free."""
        start = self._now()
        try:
            yield
        finally:
            self.sec += max(self._now() - start, 0.0)  # a virtual machine's clock may go back
