"""A SIREN in fewer bytes: int8 weights of the hidden layers, or all in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path
from hyperinit.siren.network import Params
from hyperinit.siren.store import (
    check_siren_facts,
    load_tensors,
    readable_facts,
    save_params,
    save_tensors,
)

INT8_KIND = "hyperinit-params-int8-1"
_LEVELS = 127


def half(params: Params) -> Params:
    """All tensors in float16.

    Raises:
        InputError: a value is beyond the range of float16, 65,504.
    """
    return Params(params.config, {name: _half(name, value) for name, value in params.items()})


def _half(name: str, value: Tensor) -> Tensor:
    made = value.half()
    if not bool(made.isfinite().all()):
        raise InputError(f"{name} has values beyond the range of float16 (65504); use float32")
    return made


def save_half(path: str | Path, params: Params, **info: Any) -> None:
    """Writes one SIREN in float16; `load_params` reads it like any other."""
    save_params(path, half(params), **info)


def save_int8(path: str | Path, params: Params, **info: Any) -> None:
    """Writes one SIREN with 8-bit weights in the hidden layers, with a scale for each row.

    The first layer (whose errors shift waves by whole pixels), the last layer and all biases have
    few numbers and stay in float16.

    Raises:
        InputError: a value is not finite, or one of the float16 values is beyond its range.
    """
    config, tensors = params.config, {}
    for name, value in params.items():
        hidden = name.endswith("weight") and 0 < int(name.split(".")[1]) < config.depth
        if not hidden:
            tensors[name] = _half(name, value)
            continue
        if not bool(value.isfinite().all()):
            raise InputError(f"{name} has values that are not finite")
        scale = value.abs().amax(dim=-1, keepdim=True).clamp_min(1e-30) / _LEVELS
        tensors[name] = (value / scale).round().clamp(-_LEVELS, _LEVELS).to(torch.int8)
        tensors[f"{name}_scale"] = scale.float()
    save_tensors(path, tensors, INT8_KIND, readable_facts(path, params, info))


def load_int8(path: str | Path) -> tuple[Params, dict[str, Any]]:
    """Reads what `save_int8` wrote: (params in float32, info).

    Raises:
        InputError: the file is damaged, or the tensors do not fit.
    """
    tensors, info = load_tensors(path, INT8_KIND)
    try:
        config = check_siren_facts(Path(path), info)
        del info["siren"]
        plain = {}
        for name, value in tensors.items():
            if name.endswith("_scale"):
                continue
            scale = tensors.get(f"{name}_scale")
            plain[name] = value.float() if scale is None else value.float() * scale
        params = Params(config, plain)
    except (InputError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{shown_path(path)}: damaged ({reason})") from error
    for name, value in params.items():
        if not bool(value.isfinite().all()):
            raise InputError(f"{shown_path(path)}: {name} is not finite")
    return params, info
