"""A function over tensors at fixed addresses -> a CUDA graph that replays it without the host.

A step of a small fit is some sixty kernels of a few microseconds each, and launching them from
Python takes several times as long. Captured as a CUDA graph, they are a single launch.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch

_logger = logging.getLogger(__name__)

# Normal calls before the capture: what libraries do only once, such as loading kernels, cannot be
# captured.
WARM_CALLS = 3

_capturing = threading.Lock()  # torch allows one capture at a time in a process

_captures = ContextVar("captures", default=True)


@contextlib.contextmanager
def without_capture() -> Iterator[None]:
    """Inside the block no new function is captured: for comparisons."""
    token = _captures.set(False)
    try:
        yield
    finally:
        _captures.reset(token)


class Replayed:
    """A function that is captured at its fourth call on a CUDA device, and replayed from then on.

    Every call, replayed or not, does the same to the same memory. Anything that differs from call
    to call must be in tensors; tensors that the function creates stay private to it.

    Args:
        function: Reads and writes tensors that exist beforehand and are never replaced, and
            neither waits for the device nor draws random numbers.
        device: The device of the tensors.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self._function, self._device = function, device
        self.restart()

    def restart(self) -> None:
        """Discards the capture, because constants inside the function have changed."""
        self._replay: Callable[[], None] | None = None
        self._calls = 0
        self._is_captured = self._device.type == "cuda" and _captures.get()

    def __call__(self) -> None:
        """Calls the function."""
        if self._is_captured and self._calls == WARM_CALLS:
            self._replay = self._captured()
        self._calls += 1
        (self._replay or self._function)()

    def _captured(self) -> Callable[[], None]:
        """The function as a CUDA graph, or itself if it cannot be captured."""
        try:
            return capture(self._function, self._device)
        except Exception as error:  # from CUDA, a library, or an operation that cannot be captured
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            _logger.warning("steps run without a CUDA graph (capturing failed: %s)", reason)
            return self._function


def capture(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Captures a function's CUDA work, without running it, and returns what replays it.

    Raises:
        Exception: it cannot be captured; nothing has been done.
    """
    graph = torch.cuda.CUDAGraph()
    with _capturing, torch.cuda.device(device):
        current = torch.cuda.current_stream()
        stream = _side_stream(current.device_index, threading.get_ident())
        try:
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                function()
        finally:
            torch.cuda.set_stream(current)  # a failed capture does not restore it
    return graph.replay


@functools.cache
def _side_stream(device: int, thread: int) -> torch.cuda.Stream:
    """One stream per device and thread, because libraries keep a workspace for each stream."""
    return torch.cuda.Stream(device)
