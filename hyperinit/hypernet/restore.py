"""Facts and tensors of a file -> a module, without trusting what the file says about itself."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields, make_dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hyperinit.base.errors import InputError
from hyperinit.base.settings import from_dict
from hyperinit.siren.network import Params, SirenConfig
from hyperinit.siren.store import load_module

MOST = 2**24  # largest integer in the facts; products of four of them are still valid sizes

Made = TypeVar("Made")
Module = TypeVar("Module", bound=nn.Module)


def config_from(cls: type[Made], facts: Any, **parts: Any) -> Made:
    """Turns a file's facts back into the flat dataclass that they were written from.

    Args:
        cls: The dataclass.
        facts: The parsed JSON.
        **parts: Fields that are not flat, already restored.

    Raises:
        InputError: the facts are not keys and values, or a key is unknown, a type is wrong or a
            number is out of range.
    """
    if not isinstance(facts, dict):
        raise InputError(f"{cls.__name__} must be keys and values")
    for name, value in facts.items():
        if type(value) is int and value > MOST:
            raise InputError(f"{name} must be at most {MOST}, not {str(value)[:40]}")
    hints = typing.get_type_hints(cls)
    flat = [f for f in fields(cls) if f.name not in parts]  # type: ignore[arg-type]
    needed = [f.name for f in flat if f.default is MISSING and f.name not in facts]
    if needed:
        raise InputError(f"{cls.__name__} has no {needed[0]}")
    names = [(f.name, hints[f.name], field(default=None)) for f in flat]
    checked: Any = from_dict(make_dataclass(cls.__name__, names), facts, source=cls.__name__)
    return cls(**parts, **{name: getattr(checked, name) for name in facts})


def base_from(facts: Any, tensors: Mapping[str, Tensor], prefix: str) -> Params:
    """The SIREN that a file has under a prefix such as "hyper/base.", in float32.

    Raises:
        InputError: its tensors are not those of the SirenConfig in the facts.
    """
    siren = config_from(SirenConfig, facts)
    own = {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}
    if siren.depth > len(own):  # checked before that many names are made
        raise InputError(f"siren depth {siren.depth}: there are {len(own)} tensors")
    return Params(siren, own)


def restored(
    build: Callable[[], Module], tensors: Mapping[str, Tensor], prefix: str, path: Path
) -> Module:
    """A module with the tensors that a file has under "PREFIX/"; these bound the memory it takes.

    Args:
        build: Makes a module with these shapes; its values are not used.

    Raises:
        InputError: the tensors do not fit, or hold values that are not finite.
    """
    with torch.device("meta"):
        module = build()
    for name, value in module.state_dict().items():
        found = tensors.get(f"{prefix}/{name}")
        if found is None or found.shape != value.shape:
            shape = "missing" if found is None else tuple(found.shape)
            raise InputError(f"{name} is {shape}, not {tuple(value.shape)}")
        if not found.float().isfinite().all():  # some torch versions lack isfinite for 8-bit floats
            raise InputError(f"{name} holds numbers that are not finite")
    module.to_empty(device="cpu")
    load_module(module, tensors, prefix, path)
    return module.eval()
