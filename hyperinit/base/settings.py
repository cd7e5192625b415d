"""Preset, config file and flags -> one checked instance of a frozen dataclass, and back to TOML.

The dataclass is the only description: flags, `--help`, checks and the commented TOML of
`--print-config` are all derived from its fields. These are flat and of the types int, float, str,
bool, Literal, tuple[..., ...] of these, or one of them or None. In files and flags, None is "none".
Limits are declared beside the default. They always hold if the class calls `check`; a bad value
from a preset, a file or a flag is refused with the name of its source.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import numbers
import operator
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hyperinit.base.errors import InputError, did_you_mean, unknown_name
from hyperinit.base.files import read_small

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from hyperinit.base.arguments import Parser


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Config = TypeVar("Config", bound="DataclassInstance")

Presets = Mapping[str, Mapping[str, Any]]  # preset name -> the fields that differ from the defaults

_FITS: dict[str, Callable[[Any, float], bool]] = {
    "at least": operator.ge,
    "above": operator.gt,
    "below": operator.lt,
    "at most": operator.le,
}
MAX_FILE_BYTES = 2**20  # of a config file; ours have 2 kB
_MOST_DIGITS = 18  # of a whole number, because torch takes 64 bits

# Type -> (its name in errors, its name in --help).
_KINDS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "N"),
    float: ("a finite number", "X"),
    str: ("text", "TEXT"),
    bool: ("true or false", ""),
}


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A field of a config dataclass: its default, and one line for `--help` and the TOML file.

    `at_least`, `at_most`, `above` and `below` limit the number, or every number of a tuple. A
    subclass that redeclares the field without limits inherits them.
    """
    bounds = {"at least": at_least, "at most": at_most, "above": above, "below": below}
    limits = {words: bound for words, bound in bounds.items() if bound is not None}
    return dataclasses.field(default=default, metadata={"help": help, "limits": limits})


@dataclasses.dataclass(frozen=True)
class _Setting:
    """A field of a config dataclass, with its type analysed."""

    default: Any
    help: str
    kind: type  # int, float, str or bool: of the value, of a tuple's items, of a Literal's choices
    choices: tuple[Any, ...]  # of a Literal; else ()
    is_list: bool
    optional: bool
    limits: Mapping[str, float]  # "at least", "at most", "above" or "below" -> bound


@functools.cache
def _settings(cls: type[DataclassInstance]) -> dict[str, _Setting]:
    """Field name -> its `_Setting`."""
    hints = typing.get_type_hints(cls)
    return {
        field.name: _setting(field, hints[field.name], _limits(cls, field.name))
        for field in dataclasses.fields(cls)
    }


def _limits(cls: type[DataclassInstance], name: str) -> Mapping[str, float]:
    """The limits that the class, or its nearest base that has any, declares for a field."""
    for declaring in cls.__mro__:
        field = vars(declaring).get("__dataclass_fields__", {}).get(name)
        if field is not None and field.metadata.get("limits"):
            return dict(field.metadata["limits"])
    return {}


def _setting(field: dataclasses.Field[Any], hint: Any, limits: Mapping[str, float]) -> _Setting:
    optional = typing.get_origin(hint) in (typing.Union, types.UnionType)
    if optional:
        (hint,) = (part for part in typing.get_args(hint) if part is not types.NoneType)
    is_list = typing.get_origin(hint) is tuple
    if is_list:
        hint = typing.get_args(hint)[0]
    choices = typing.get_args(hint)
    help = field.metadata.get("help", "")
    kind = type(choices[0]) if choices else hint
    return _Setting(field.default, help, kind, choices, is_list, optional, limits)


def _checked(setting: _Setting, value: Any, name: str) -> Any:
    """A value converted to its field's type; `name` says in errors where it comes from."""
    if value is None and setting.optional:
        return None
    single = isinstance(value, (str, Mapping)) or not isinstance(value, Collection)
    if setting.is_list and not single:
        item = dataclasses.replace(setting, is_list=False, optional=False)
        return tuple(_checked(item, part, f"{name}[{i}]") for i, part in enumerate(value))
    wanted = "a list" if setting.is_list else _wanted(setting, value)
    if not wanted:
        return setting.kind(value)
    none = ' or "none"' if setting.optional else ""
    near = did_you_mean(_short(value).strip("'"), map(str, setting.choices))
    raise InputError(f"{name} must be {wanted}{none}, not {_short(value)}{near}")


def _short(value: Any) -> str:
    """A wrong value, for a message."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:79]}…"


def _wanted(setting: _Setting, value: Any) -> str:
    """What a wrong value should have been; "" if it is right."""
    if setting.choices:
        known = [(type(choice), choice) for choice in setting.choices]
        names = ", ".join(map(str, setting.choices))
        return "" if (type(value), value) in known else f"one of {names}"
    if not _is_a(setting.kind, value):
        return _KINDS[setting.kind][0]
    for words, bound in setting.limits.items():
        if not _FITS[words](value, bound):
            return f"{words} {bound}"
    if setting.kind is int and abs(value) >= 10**_MOST_DIGITS and not setting.limits:
        return f"of at most {_MOST_DIGITS} digits"
    return ""


def _is_a(kind: type, value: Any) -> bool:
    """Whether a value has a kind. NumPy numbers are numbers; True and texts are not."""
    if kind is str:
        # Non-UTF-8 bytes on a command line become lone surrogates, which files cannot hold.
        return isinstance(value, str) and value == value.encode(errors="ignore").decode()
    if kind is bool or isinstance(value, bool):
        return kind is type(value)
    if kind is int:
        return isinstance(value, numbers.Integral)
    try:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:  # an integer that is too large for a float
        return False


def check(config: DataclassInstance) -> None:
    """For `__post_init__` of a config dataclass: an InputError names a field that is wrong.

    A field that is itself a dataclass was checked when it was made. NumPy numbers and lists become
    Python numbers and tuples, which torch and JSON accept.
    """
    for name, setting in _settings(type(config)).items():
        if setting.kind in _KINDS:
            value = getattr(config, name)
            checked = _checked(setting, value, name)
            if not _is_own(value):  # or else 8 became 8.0, in files too
                object.__setattr__(config, name, checked)


def _is_own(value: Any) -> bool:
    """Whether a value has only Python's own types, which files can hold."""
    parts = value if type(value) is tuple else (value,)
    return all(type(part) in (*_KINDS, types.NoneType) for part in parts)


def _read(setting: _Setting, value: Any, name: str) -> Any:
    """A value from a file -> the field's value, checked."""
    return _checked(setting, None if setting.optional and value == "none" else value, name)


def _read_text(setting: _Setting, text: str, name: str) -> Any:
    """Like `_read`, for text from a command line; text that cannot be converted is refused."""
    if setting.is_list and text != "none":
        return _read(setting, [_convert(setting, item) for item in text.split(",") if item], name)
    return _read(setting, _convert(setting, text), name)


def _convert(setting: _Setting, text: str) -> Any:
    if setting.kind in (int, float):
        with contextlib.suppress(ValueError):
            return setting.kind(text)
    return text


def _read_all(
    cls: type[Config],
    values: Mapping[str, Any],
    source: str,
    read: Callable[[_Setting, Any, str], Any] = _read,
) -> dict[str, Any]:
    """All values of one source, so that none is used before all are checked."""
    settings = _settings(cls)
    for key in values:
        if key not in settings:
            near = did_you_mean(str(key), settings) or f"; known: {', '.join(settings)}"
            raise InputError(f"{source}: unknown key {key!r}{near}")
    return {key: read(settings[key], values[key], f"{source}: {key}") for key in values}


def from_dict(cls: type[Config], values: Mapping[str, Any], *, source: str) -> Config:
    """Fields by name, from a config file or a checkpoint -> an instance.

    Args:
        cls: The dataclass; fields that are not given have its defaults.
        values: Values read from JSON or TOML.
        source: Where they come from; every error about a field starts with it.

    Raises:
        InputError: a key is unknown (the message suggests one), a type is wrong, a number is out of
            range, or the dataclass refuses.
    """
    return cls(**_read_all(cls, values, source))


def from_texts(cls: type[Config], texts: Mapping[str, str], *, source: str) -> dict[str, Any]:
    """Fields as written on a command line -> their values, checked; errors as `from_dict`.

    "none" stands for None, and commas separate the items of a tuple.
    """
    return _read_all(cls, texts, source, _read_text)


def to_dict(config: DataclassInstance) -> dict[str, Any]:
    """All fields, JSON-able: tuples as lists."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
    }


def as_recorded(
    config: DataclassInstance, later: Iterable[str], usual: DataclassInstance | None = None
) -> dict[str, Any]:
    """All fields in the form in which records store them.

    Args:
        config: Any dataclass.
        later: Fields that were added after the first records. They are left out if they have their
            usual value, so that the meaning of old records does not change.
        usual: Has the usual values; by default the defaults of the fields.

    A field with `facts` of its own is recorded by them.
    """
    values = dataclasses.asdict(config)
    for name in values:
        values[name] = getattr(getattr(config, name), "facts", values[name])
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    if usual is not None:
        defaults = {field.name: getattr(usual, field.name) for field in dataclasses.fields(usual)}
    return {
        name: value
        for name, value in values.items()
        if name not in later or getattr(config, name) != defaults[name]
    }


def toml_value(value: Any) -> str:
    """A value of `to_dict` in TOML."""
    if isinstance(value, list):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    # JSON's numbers, booleans and strings are valid TOML, except that TOML also escapes DEL.
    text = json.dumps("none" if value is None else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")


def to_toml(config: DataclassInstance) -> str:
    """All fields, one per line with its help as a comment: a config file to start from."""
    text = ""
    for field, value in zip(dataclasses.fields(config), to_dict(config).values(), strict=True):
        help = " ".join(field.metadata.get("help", "").split())
        text += f"{f'{field.name} = {toml_value(value)}':<36}  # {help}".rstrip(" #") + "\n"
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without duplicate keys, of which Python would silently use the last."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"duplicate key {max(keys, key=keys.count)!r}")
    return dict(pairs)


def read_config_file(path: str | Path) -> dict[str, Any]:
    """A .toml or .json file -> its keys and values, not yet checked.

    Raises:
        InputError: the file is missing, has another suffix, or is not valid TOML or JSON.
    """
    path = Path(path)
    if path.suffix not in (".toml", ".json"):
        raise InputError(f"{path}: a config file must end in .toml or .json")
    try:
        text = read_small(path, MAX_FILE_BYTES).decode("utf-8-sig").replace("\r\n", "\n")
        toml = path.suffix == ".toml"
        values = tomllib.loads(text) if toml else json.loads(text, object_pairs_hook=_unique)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # both decoders' errors, and bad UTF-8
        raise InputError(f"{path}: not valid {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold keys and values, not {type(values).__name__}")
    return values


def build_parser(cls: type[Config], presets: Presets, parser: Parser) -> Parser:
    """Adds `--preset`, `--config`, `--print-config` and one flag per field to a parser.

    Flags that are not settings (`--out`, `--resume`) are added to `parser` as usual, before or
    after. Settings appear in the namespace only if they were typed.
    """
    group = parser.add_argument_group("settings", "later ones win: preset, config file, flags")
    if presets:
        names = ", ".join(presets)
        group.add_argument("--preset", metavar="NAME", help=f"settings by name: {names}")
    group.add_argument("--config", metavar="FILE", help="settings from a .toml or .json file")
    group.add_argument(
        "--print-config", action="store_true", help="print the settings as TOML and exit"
    )
    for name, setting in _settings(cls).items():
        default = setting.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        text = f"{setting.help} (default: {shown})".replace("%", "%%")
        how: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
        if setting.kind is bool:
            how["action"] = argparse.BooleanOptionalAction
        else:
            one = "|".join(map(str, setting.choices)) or _KINDS[setting.kind][1]
            how["metavar"] = f"{one},..." if setting.is_list else one
        group.add_argument("--" + name.replace("_", "-"), **how)
    return parser


def resolve(cls: type[Config], namespace: argparse.Namespace, presets: Presets) -> Config:
    """The parsed command line of `build_parser` -> the config; `--print-config` prints and exits.

    Raises:
        InputError: a preset is unknown, a config file is bad, or a value has the wrong type or is
            out of range; the message names the preset, the file or the flag.
    """
    values: dict[str, Any] = {}
    preset = getattr(namespace, "preset", None)
    if preset is not None:
        if preset not in presets:
            raise unknown_name("preset", preset, presets)
        values.update(_read_all(cls, presets[preset], f"preset {preset}"))
    if namespace.config is not None:
        file_values = read_config_file(namespace.config)
        values.update(_read_all(cls, file_values, str(namespace.config)))
    for name, setting in _settings(cls).items():
        if name in namespace:
            value, flag = getattr(namespace, name), "--" + name.replace("_", "-")
            read = _read_text if isinstance(value, str) else _read  # switches are not text
            values[name] = read(setting, value, flag)
    config = cls(**values)
    if namespace.print_config:
        sys.stdout.write(to_toml(config))
        raise SystemExit(0)
    return config
