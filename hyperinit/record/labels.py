"""The changes of an entry's fit <-> the label that tables show.

Records of the first format have the label as the init's name. This is the only place that parses
such a name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

_FROZEN, _LR = "frozen_layers", "lr"


def label(init: str, changes: Mapping[str, Any]) -> str:
    """The label, such as "33", "33 frozen 0,1", "33 at 3.3e-05" or "33 hidden_dtype=bfloat16"."""
    parts = [init]
    for name, value in changes.items():
        if name == _FROZEN:
            parts.append(f"frozen {','.join(map(str, value))}")
        elif name == _LR:
            parts.append(f"at {value:g}")
        else:
            parts.append(f"{name}={tuple(value) if isinstance(value, list) else value}")
    return " ".join(parts)


def split_label(text: str, settings: Mapping[str, Any], lr: float) -> tuple[str, dict[str, Any]]:
    """Splits a label of the first format into the init's name and the changes.

    Args:
        text: The label.
        settings: The record's settings; they must agree, or the whole text is the name.
        lr: The record's learning rate, likewise.
    """
    name, found, changed = text.partition(" frozen ")
    frozen = settings.get(_FROZEN)
    if found and frozen and changed == ",".join(map(str, frozen)):
        return name, {_FROZEN: frozen}
    name, found, changed = text.rpartition(" at ")
    if found and changed == f"{lr:g}":
        return name, {_LR: lr}
    name, *options = re.split(r" (?=[a-z]\w*=)", text)
    changes = {}
    for option in options:
        field, _, value = option.partition("=")
        changes[field] = settings.get(field, _value(value))
    return (name, changes) if label(name, changes) == text else (text, {})


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
