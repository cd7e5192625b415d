"""JSON about a fit -> a record, with every field checked.

A file may come from a stranger, so nothing in it is trusted. Types, ranges and depth are checked
here, and all other modules can rely on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from math import inf, nan
from typing import Any, NoReturn

from hyperinit.record.labels import split_label
from hyperinit.record.record import CurvePoint, Record
from hyperinit.record.tracks import split_stored_track

MAX_DEPTH = 16  # of nesting inside facts, settings and the environment
# For epochs, seconds and errors, besides 0: ratios and squares of these are still finite.
MIN_NUMBER, MAX_NUMBER = 1e-30, 1e30
MAX_SIDE = 2**20  # of sizes in pixels and units
MAX_SEED = 2**64 - 1  # torch's


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:60]!a} occurs twice")
    return found


def no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def checked(values: dict[str, Any]) -> Record:
    """Turns the values in a file into a record.

    Raises:
        ValueError: a field is missing, unknown, of another type or out of range.
    """
    stated = "changes" in values  # in the first format, it is part of the init's name
    for name in values:
        if name not in _CHECKS:
            raise ValueError(f"unknown field {name[:60]!a}")
    for name, check in _CHECKS.items():
        if name not in values:
            if name in _OPTIONAL:
                continue
            raise ValueError(f"{name} is missing")
        check(name, values[name])
    values["curve"] = tuple(map(_point, values["curve"]))
    values["track"], values["is_tuning"] = split_stored_track(values["track"])
    if not stated:
        values["init"], values["changes"] = split_label(
            values["init"], values.get("settings", {}), values["lr"]
        )
    return Record(**values)


def _point(row: Any) -> CurvePoint:
    if not isinstance(row, list) or len(row) != len(_ROW):
        raise ValueError("curve must have rows of 6 numbers")
    for (name, may_be_null), value in zip(_ROW.items(), row, strict=True):
        if value is None and may_be_null:
            continue
        if type(value) not in (int, float) or not abs(value) <= MAX_NUMBER:
            raise ValueError(f"{name} in the curve must be a number, not {_short(value)}")
        if 0 < abs(value) < MIN_NUMBER:
            raise ValueError(f"{name} in the curve is out of range: {_short(value)}")
        if value < 0 and name != "psnr":
            raise ValueError(f"{name} in the curve must not be negative")
    values: list[Any] = [inf if value is None else value for value in row]
    point = CurvePoint(*values)
    # PSNR is infinite if there is no error, and unknown if the fit diverged or the MSE is NaN.
    return replace(point, psnr=nan) if point.psnr == inf and point.mse else point


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {_short(value)}")
    _no_surrogates(name, value)


def _no_surrogates(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} contains half a character (a lone surrogate)") from None


def _number(least: float, most: float = MAX_NUMBER) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if type(value) not in (int, float) or not least <= value <= most:
            raise ValueError(
                f"{name} must be a number from {least:g} to {most:g}, not {_short(value)}"
            )

    return check


def _whole(least: int, most: int) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(
                f"{name} must be a whole number from {least} to {most}, not {_short(value)}"
            )

    return check


def _flag(name: str, value: Any) -> None:
    if type(value) is not bool:
        raise ValueError(f"{name} must be true or false, not {_short(value)}")


def _curve(name: str, value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise ValueError("curve must have rows of 6 numbers")


def _facts(name: str, value: Any) -> None:
    """Checks that JSON is not too deep, and has only finite numbers and valid text."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} must have keys and values, not {_short(value)}")
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                for key in one:
                    _no_surrogates(name, key)
                below += one.values()
            elif isinstance(one, list):
                below += one
            elif isinstance(one, str):
                _no_surrogates(name, one)
            elif isinstance(one, (int, float)) and not abs(one) < inf:
                raise ValueError(f"{name} has a number that is not finite")
            elif type(one) is int and abs(one) > MAX_SEED:
                raise ValueError(f"{name} has a number that is too large")
        if not below:
            return
        level = below
    raise ValueError(f"{name} is nested too deeply")


def _settings(name: str, value: Any) -> None:
    _facts(name, value)
    for field in ("image_size", "width", "depth", "batch_pixels"):
        if field in value:
            most = MAX_SIDE**2 if field == "batch_pixels" else MAX_SIDE
            _whole(1, most)(f"{name}.{field}", value[field])
    for flag in ("rising_rates", "rising_units"):
        if flag in value:
            _flag(f"{name}.{flag}", value[flag])
    if "warmup_steps" in value:
        _whole(0, MAX_SEED)(f"{name}.warmup_steps", value["warmup_steps"])
    _frozen(value)


def _changes(name: str, value: Any) -> None:
    _facts(name, value)
    _frozen(value)
    if "lr" in value:
        _number(MIN_NUMBER)("changes.lr", value["lr"])


def _frozen(values: Mapping[str, Any]) -> None:
    layers = values.get("frozen_layers", [])
    if not isinstance(layers, list) or any(type(layer) is not int for layer in layers):
        raise ValueError(f"frozen_layers must be a list of whole numbers, not {_short(layers)}")


def _short(value: Any) -> str:
    if type(value) is int and value.bit_length() > 200:
        return "a number of many digits"
    text = ascii(value) if isinstance(value, (str, int, float, bool, type(None))) else ""
    text = text or type(value).__name__
    return text if len(text) <= 60 else text[:59] + "…"


# Column of a curve's row -> whether it may be null.
_ROW = {f.name: f.name in ("mse", "psnr", "train_mse") for f in fields(CurvePoint)}

_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "track": _text,
    "init": _text,
    "init_facts": _facts,
    "image": _text,
    "image_hash": _text,
    "seed": _whole(0, MAX_SEED),
    "lr": _number(MIN_NUMBER),
    "budget_epochs": _number(MIN_NUMBER),
    "curve": _curve,
    "init_epochs": _number(0),
    "init_sec": _number(0),
    "params_hash": _text,
    "diverged": _flag,
    "settings": _settings,
    "environment": _facts,
    "version": _whole(0, 10**6),
    "changes": _changes,
    "source_hash": _text,
}
_OPTIONAL = ("settings", "environment", "changes", "source_hash")
