"""A stopwatch that runs while work is done and is paused while it is watched."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any


class Clock:
    """Monotonic and device-synchronised; `sec` is the time spent inside `running()` blocks.

    Args:
        device: A torch device or its name; what runs on a GPU is waited for.
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
        """Counts the time the block takes; what happens between blocks is free."""
        start = self._now()
        try:
            yield
        finally:
            self.sec += max(self._now() - start, 0.0)  # whatever a virtual machine's clock does
