"""A stopwatch that runs while work is done and is paused while it is watched."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Clock:
    """Monotonic and device-synchronised; `sec` is the time spent inside `running()` blocks."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self.sec = 0.0

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Counts the time the block takes; what happens between blocks is free."""
        start = self._now()
        try:
            yield
        finally:
            self.sec += self._now() - start
