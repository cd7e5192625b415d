"""What a process has set for torch elsewhere must not change what is computed here."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from typing import Any, Generic, Literal, TypeVar, cast

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])
Value = TypeVar("Value")

# As torch.set_float32_matmul_precision takes it: "highest" is float32, "high" may be TF32.
Precision = Literal["highest", "high"]

_CPU = torch.device("cpu")

_products: ContextVar[Precision] = ContextVar("products", default="highest")


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Inside the block torch is set as it is at first, whatever the process has set.

    Gradients are on; inference mode, autocast, another default dtype or device and products of low
    precision are off. Fits and gradient steps are often called where a training script evaluates:
    under no_grad or inference_mode, or with mixed precision.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_dtype.wanted(torch.float32))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device() != _CPU:  # asking is cheap; setting it slows every call
            stack.enter_context(_CPU)
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(own_products())
        yield


@contextlib.contextmanager
def products_of(precision: Precision) -> Iterator[None]:
    """Matrix products of float32 have this precision inside the block, `own_products` included."""
    token = _products.set(precision)
    try:
        with own_products():
            yield
    finally:
        _products.reset(token)


@contextlib.contextmanager
def own_products() -> Iterator[None]:
    """Matrix products of float32 are float32 inside the block, but for what `products_of` allows.

    On a processor with units for it torch would otherwise take them in bfloat16 where the process
    has set that, by either of two ways that do not know of each other. Of threads that
    allow different things at a time, the strictest decides.
    """
    with _precision.wanted(_products.get()):
        yield


class _Shared(Generic[Value]):
    """A setting that the process has once, while each of its threads may want a value of its own.

    The first block that wants any keeps what the process has set, and the last one to end, in
    whatever thread, restores that: a thread that restored what it found would bring back what
    another one had set.

    Args:
        use: Sets the value that is best for all that are wanted.
        keep: Gives what restores the setting as it is.
    """

    def __init__(
        self, use: Callable[[Collection[Value]], object], keep: Callable[[], Callable[[], object]]
    ) -> None:
        self._use, self._keep = use, keep
        self._lock = threading.Lock()
        self._inside: dict[int, list[Value]] = {}  # of each thread, the innermost last
        self._restore: Callable[[], object] = lambda: None

    @contextlib.contextmanager
    def wanted(self, value: Value) -> Iterator[None]:
        """Inside the block this thread wants the value."""
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
    """One of torch's two ways to set it is by the backend; older versions of torch know of none."""
    backends = (torch.backends.mkldnn, torch.backends.cuda)
    matmuls = [getattr(backend, "matmul", None) for backend in backends]
    return [matmul for matmul in matmuls if hasattr(matmul, "fp32_precision")]


def _precision_now() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # both ways have been used, and this one has no answer
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
    """The function, always run inside `own_settings`."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        with own_settings():
            return function(*arguments, **options)

    return cast(Function, wrapped)


def plain(tensor: Tensor) -> Tensor:
    """A tensor that takes part in gradients, whatever it was made in; detached."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()
