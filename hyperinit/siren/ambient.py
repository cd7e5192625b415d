"""What a process has set for torch elsewhere must not change what is computed here."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Gradients on, and inference mode, autocast and another default dtype off, inside the block.

    Fits and gradient steps are often called where a training script evaluates: under no_grad or
    inference_mode, or with mixed precision.
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
        yield


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
