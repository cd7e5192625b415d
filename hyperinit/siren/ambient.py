"""Shields our computations from torch settings that the process has made elsewhere."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from typing import Any, Generic, Literal, TypeVar, cast

import torch
from torch import Tensor

from hyperinit.base.files import in_forked_processes

Function = TypeVar("Function", bound=Callable[..., Any])
Value = TypeVar("Value")

# As in torch.set_float32_matmul_precision: "highest" is float32, "high" may be TF32.
Precision = Literal["highest", "high"]

_CPU = torch.device("cpu")

_products: ContextVar[Precision] = ContextVar("products", default="highest")


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Inside the block torch has its initial settings, whatever the process has set.

    Gradients are on. Inference mode, autocast, another default dtype or device, and low-precision
    products are off. Training scripts often call fits and gradient steps where they evaluate:
    under no_grad or inference_mode, or with mixed precision.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_dtype.wanted(torch.float32))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device() != _CPU:  # reading is cheap; setting slows every call
            stack.enter_context(_CPU)
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(own_products())
        yield


@contextlib.contextmanager
def products_of(precision: Precision) -> Iterator[None]:
    """Inside the block float32 matrix products have this precision, also in `own_products`."""
    token = _products.set(precision)
    try:
        with own_products():
            yield
    finally:
        _products.reset(token)


@contextlib.contextmanager
def own_products() -> Iterator[None]:
    """Inside the block float32 matrix products are float32, unless `products_of` allows less.

    Otherwise torch computes them in bfloat16, on a processor with units for it, if the process has
    set so by either of two independent settings. If several threads allow different precisions at
    the same time, the strictest counts.
    """
    with _precision.wanted(_products.get()):
        yield


class _Shared(Generic[Value]):
    """A process-wide setting of which each thread may want a value of its own.

    The first block that is entered saves the process's setting, and the last one to end, in any
    thread, restores it. If each thread restored what it found, it might bring back another
    thread's value.

    Args:
        use: Applies the value that is best for all wanted ones.
        keep: Saves the current setting and returns a function that restores it.
    """

    def __init__(
        self, use: Callable[[Collection[Value]], object], keep: Callable[[], Callable[[], object]]
    ) -> None:
        self._use, self._keep = use, keep
        self._lock = threading.Lock()
        self._inside: dict[int, list[Value]] = {}  # thread -> wanted values, the innermost last
        self._restore: Callable[[], object] = lambda: None
        in_forked_processes(self._forget_other_threads)

    def _forget_other_threads(self) -> None:
        self._lock = threading.Lock()
        thread = threading.get_ident()
        others = self._inside.keys() - {thread}
        self._inside = {own: values for own, values in self._inside.items() if own == thread}
        if others and not self._inside:
            self._restore()

    @contextlib.contextmanager
    def wanted(self, value: Value) -> Iterator[None]:
        """Inside the block this thread wants this value."""
        thread = threading.get_ident()
        with self._lock:
            if not self._inside:
                self._restore = self._keep()
            self._inside.setdefault(thread, []).append(value)
            self._use([values[-1] for values in self._inside.values()])
        try:
            yield
        finally:
            with self._lock:
                self._inside[thread].pop()
                if not self._inside[thread]:
                    del self._inside[thread]
                if self._inside:
                    self._use([values[-1] for values in self._inside.values()])
                else:
                    self._restore()


def _matmuls() -> list[Any]:
    """The per-backend settings, one of torch's two ways; older versions do not have them."""
    backends = (torch.backends.mkldnn, torch.backends.cuda)
    matmuls = [getattr(backend, "matmul", None) for backend in backends]
    return [matmul for matmul in matmuls if hasattr(matmul, "fp32_precision")]


def _precision_now() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # both ways have been used; then torch refuses to answer
        return None


def _use_precision(wanted: Collection[Precision]) -> None:
    best: Precision = "highest" if "highest" in wanted else "high"
    exact = {matmul.fp32_precision for matmul in _matmuls()} <= {"none", "ieee"}
    if not (_precision_now() == best == "highest" and exact):
        torch.set_float32_matmul_precision(best)


def _keep_precision() -> Callable[[], None]:
    before, matmuls = _precision_now(), _matmuls()
    own = [matmul.fp32_precision for matmul in matmuls]

    def restore() -> None:
        if (_precision_now(), [matmul.fp32_precision for matmul in matmuls]) == (before, own):
            return
        if before is not None:
            torch.set_float32_matmul_precision(before)
        for matmul, value in zip(matmuls, own, strict=True):
            matmul.fp32_precision = value

    return restore


_precision: _Shared[Precision] = _Shared(_use_precision, _keep_precision)
_dtype: _Shared[torch.dtype] = _Shared(
    lambda wanted: torch.set_default_dtype(*{*wanted}),
    lambda: functools.partial(torch.set_default_dtype, torch.get_default_dtype()),
)


def with_own_settings(function: Function) -> Function:
    """Decorator: runs the function inside `own_settings`."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        with own_settings():
            return function(*arguments, **options)

    return cast(Function, wrapped)


def plain(tensor: Tensor) -> Tensor:
    """The tensor, detached and usable in autograd even if it was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()
