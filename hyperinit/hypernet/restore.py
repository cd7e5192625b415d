"""Facts and tensors of a file -> a module: nothing that a file says of itself is taken on trust."""

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

MOST = 2**24  # of any whole number in the facts; products of four of them are still sizes

Made = TypeVar("Made")
Module = TypeVar("Module", bound=nn.Module)


def config_from(cls: type[Made], facts: Any, **parts: Any) -> Made:
    """The facts of a file as one of the flat dataclasses that they were written from.

    Args:
        cls: The dataclass.
        facts: What JSON gave.
        **parts: Fields that are not flat, made before.

    Raises:
        InputError: not keys and values, an unknown key, a wrong type, or a number out of range.
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
    """The SIREN that a file has under a prefix such as "hyper/base.".

    Raises:
        InputError: its tensors are not those of the SirenConfig in the facts.
    """
    siren = config_from(SirenConfig, facts)
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if siren.depth > len(own):  # before so many names are made
        raise InputError(f"siren depth {siren.depth}: there are {len(own)} tensors")
    return Params(siren, own)


def restored(
    build: Callable[[], Module], tensors: Mapping[str, Tensor], prefix: str, path: Path
) -> Module:
    """A module with the tensors that a file has under "PREFIX/", which bound the memory it takes.

    Args:
        build: Makes a module of these shapes; its numbers are not looked at.

    Raises:
        InputError: the tensors do not fit, or hold numbers that are not finite.
    """
    with torch.device("meta"):
        module = build()
    for name, value in module.state_dict().items():
        found = tensors.get(f"{prefix}/{name}")
        if found is None or found.shape != value.shape:
            shape = "missing" if found is None else tuple(found.shape)
            raise InputError(f"{name} is {shape}, not {tuple(value.shape)}")
        if not found.float().isfinite().all():  # of 8 bits: not every torch can say
            raise InputError(f"{name} holds numbers that are not finite")
    module.to_empty(device="cpu")
    load_module(module, tensors, prefix, path)
    return module.eval()
