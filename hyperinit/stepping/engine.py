"""Engine and precision -> the function that computes the loss of a fit."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.siren.network import Params, apply
from hyperinit.siren.sine import fast_sin

AUTO = "auto"

_logger = logging.getLogger(__name__)

# Weights x pixel visits from which a fit gains more by faster steps than compiling costs; 48 epochs
# of 224 x 224 pixels with SIREN 5 x 256 are 6.4e11. See docs/results/fit-engine.md.
COMPILE_WORK = 6e11

# How much faster bfloat16 products must be to be worth the conversions around them.
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


# Compiled once per process, and again by torch for each new shape. Only compiled does fast_sin save
# time: otherwise its many small operations cost more.
_compiled = functools.cache(
    lambda: torch.compile(functools.partial(squared_errors, sine=fast_sin), dynamic=False)
)
_cannot_compile = False


def _compiled_errors(*arguments: Any) -> Tensor:
    try:
        errors: Tensor = _compiled()(*arguments)
    except Exception as error:  # from torch's compiler, the C++ compiler it calls, or its cache
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"engine: torch.compile failed ({reason}); use eager") from error
    return errors


def _compiled_errors_if_possible(*arguments: Any) -> Tensor:
    """For "auto": falls back to the eager engine if there is no compiler."""
    global _cannot_compile
    if not _cannot_compile:
        try:
            return _compiled_errors(*arguments)
        except InputError as error:
            _cannot_compile = True
            _logger.warning("%s; this fit continues with the eager engine", error)
    return squared_errors(*arguments)


@functools.cache
def bfloat16_pays(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 matrices clearly faster than float32; timed."""

    def sec(dtype: torch.dtype) -> float:
        left, right = (torch.ones(n, 256, dtype=dtype, device=device) for n in (2048, 256))
        times = []
        for _ in range(6):
            begin = time.perf_counter()
            (left @ right).sum().item()  # .item() waits for the device
            times.append(time.perf_counter() - begin)
        return min(times)

    return sec(torch.float32) > BFLOAT16_GAIN * sec(torch.bfloat16)


def settled(engine: str, hidden_dtype: str, *, work: float, device: torch.device) -> dict[str, str]:
    """What "auto" was resolved to in a fit, for records: {"engine": ..., "hidden_dtype": ...}.

    Call it after the fit: only then is it known whether compiling was possible.

    Args:
        engine, hidden_dtype, work, device: As `loss_of` got them before the fit.
    """
    low = hidden_dtype == AUTO and bfloat16_pays(device)
    compiled = work >= COMPILE_WORK and not _cannot_compile
    return {
        "engine": ("compiled" if compiled else "eager") if engine == AUTO else engine,
        "hidden_dtype": ("bfloat16" if low else "float32")
        if hidden_dtype == AUTO
        else hidden_dtype,
    }


def loss_of(engine: str, hidden_dtype: str, *, work: float, device: torch.device) -> SquaredErrors:
    """The function that computes the squared errors of a step.

    Args:
        engine, hidden_dtype: See FitConfig.
        work: Weights x pixels that the fit will visit; decides what "auto" becomes.
        device: The parameters' device; it decides too.
    """
    low = hidden_dtype == "bfloat16" or (hidden_dtype == AUTO and bfloat16_pays(device))
    engines = {
        "eager": squared_errors,
        "compiled": _compiled_errors,
        AUTO: _compiled_errors_if_possible if work >= COMPILE_WORK else squared_errors,
    }
    chosen = engines[engine]
    dtype = torch.bfloat16 if low else None
    return lambda params, coords, rgb: chosen(params, coords, rgb, dtype)
