"""Options of a FitConfig -> the function that computes the loss of a fit."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.fitting.config import AUTO, FitConfig
from hyperinit.siren.network import Params, apply
from hyperinit.siren.sine import fast_sin

# Weights x pixels that a fit must visit to save by faster steps what compiling takes: a fit of 48
# epochs of 224 x 224 pixels and SIREN 5 x 256 has 6.4e11. See docs/fit-engine.md.
COMPILE_WORK = 6e11

# How much faster products in bfloat16 must be, to be worth the conversions around them.
BFLOAT16_GAIN = 1.3

SquaredErrors = Callable[[Params, Tensor, Tensor], Tensor]


def squared_errors(
    params: Params,
    coords: Tensor,
    rgb: Tensor,
    hidden_dtype: torch.dtype | None = None,
    sine: Callable[[Tensor], Tensor] = torch.sin,
) -> Tensor:
    """Squared errors (..., N, 3) of the colours at some coordinates; see `apply`."""
    return (apply(params, coords, hidden_dtype, sine) - rgb).square()


# Compiled once in a process, and again by torch for each new shape. Uncompiled, the many small
# operations of fast_sin would cost more than they save.
_compiled = functools.cache(
    lambda: torch.compile(functools.partial(squared_errors, sine=fast_sin), dynamic=False)
)
_cannot_compile = False


def _compiled_errors(*arguments: Any) -> Tensor:
    try:
        errors: Tensor = _compiled()(*arguments)
    except RuntimeError as error:  # of torch's compiler, or of the C++ compiler it calls
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"engine: torch.compile failed ({reason}); use eager") from error
    return errors


def _compiled_errors_if_possible(*arguments: Any) -> Tensor:
    """For "auto": that there is no compiler is no reason to fail."""
    global _cannot_compile
    if not _cannot_compile:
        try:
            return _compiled_errors(*arguments)
        except InputError:
            _cannot_compile = True
    return squared_errors(*arguments)


@functools.cache
def bfloat16_pays(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 matrices clearly faster than float32 ones: timed."""

    def sec(dtype: torch.dtype) -> float:
        left, right = (torch.ones(n, 256, dtype=dtype, device=device) for n in (2048, 256))
        times = []
        for _ in range(6):
            begin = time.perf_counter()
            (left @ right).sum().item()  # .item() waits for the device
            times.append(time.perf_counter() - begin)
        return min(times)

    return sec(torch.float32) > BFLOAT16_GAIN * sec(torch.bfloat16)


def loss_of(config: FitConfig, *, work: float, device: torch.device) -> SquaredErrors:
    """The function that computes the squared errors of a step.

    Args:
        config: Of which `engine` and `hidden_dtype` are used.
        work: Weights x pixels that the fit will visit; decides what "auto" is.
        device: Of the parameters; the same.
    """
    low = config.hidden_dtype == "bfloat16" or (
        config.hidden_dtype == AUTO and bfloat16_pays(device)
    )
    engines = {
        "eager": squared_errors,
        "compiled": _compiled_errors,
        AUTO: _compiled_errors_if_possible if work >= COMPILE_WORK else squared_errors,
    }
    chosen = engines[config.engine]
    dtype = torch.bfloat16 if low else None
    return lambda params, coords, rgb: chosen(params, coords, rgb, dtype)
