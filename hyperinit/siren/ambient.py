"""What a process has set for torch elsewhere must not change what is computed here."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])

# As torch.set_float32_matmul_precision takes it: "highest" is float32, "high" may be TF32.
Precision = Literal["highest", "high"]

_products: ContextVar[Precision] = ContextVar("products", default="highest")


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Inside the block torch is set as it is at first, whatever the process has set.

    Gradients are on; inference mode, autocast, another default dtype and products of low precision
    are off. Fits and gradient steps are often called where a training script evaluates: under
    no_grad or inference_mode, or with mixed precision.
    """
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
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
    has set that, by either of two ways that do not know of each other.
    """
    wanted = _products.get()
    # One way is by the backend, of which older versions of torch know nothing.
    backends = (torch.backends.mkldnn, torch.backends.cuda)
    matmuls: list[Any] = [getattr(backend, "matmul", None) for backend in backends]
    matmuls = [matmul for matmul in matmuls if hasattr(matmul, "fp32_precision")]
    own = [matmul.fp32_precision for matmul in matmuls]
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # both ways have been used, and this one has no answer
        before = None
    if before == wanted == "highest" and {*own} <= {"none", "ieee"}:
        yield
        return
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        if before is not None:
            torch.set_float32_matmul_precision(before)
        for matmul, value in zip(matmuls, own, strict=True):
            matmul.fp32_precision = value


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
