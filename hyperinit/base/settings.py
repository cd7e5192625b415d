"""Preset, config file and flags -> one checked instance of a frozen dataclass, and back to TOML.

The dataclass is the only description: flags, `--help`, checks and the commented TOML of
`--print-config` all follow from its fields, which are flat and of the types int, float, str, bool,
Literal, tuple[..., ...] of these, or one of them or None. A file or a flag writes None as "none".
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from hyperinit.base.errors import InputError, unknown_name

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Config = TypeVar("Config", bound="DataclassInstance")

Presets = Mapping[str, Mapping[str, Any]]  # preset name -> the fields that differ from the defaults

# Type -> (what it is called in errors, what it is called in --help).
_KINDS = {
    int: ("a whole number", "N"),
    float: ("a finite number", "X"),
    str: ("text", "TEXT"),
    bool: ("true or false", ""),
}


def option(default: Any, help: str) -> Any:
    """A field of a config dataclass: its default, and one line for `--help` and the TOML file."""
    return dataclasses.field(default=default, metadata={"help": help})


def _split_none(hint: Any) -> tuple[Any, bool]:
    """`int | None` -> (int, True); any other type -> (itself, False)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not types.NoneType)
        return hint, True
    return hint, False


def _checked(hint: Any, value: Any, name: str) -> Any:
    """A value from outside as its field's type; `name` says in errors where it comes from."""
    plain, optional = _split_none(hint)
    origin, args = typing.get_origin(plain), typing.get_args(plain)
    if optional and value in (None, "none"):
        return None
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_checked(args[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    if origin is typing.Literal and (type(value), value) in [(type(x), x) for x in args]:
        return value
    if plain is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    # Bytes of a command line that are not UTF-8 become lone surrogates, which no file can hold.
    if plain is str and isinstance(value, str) and value == value.encode(errors="ignore").decode():
        return value
    if plain in (int, bool) and type(value) is plain:
        return value
    if origin is typing.Literal:
        names = [str(known) for known in args]
        kind, near = f"one of {', '.join(names)}", _did_you_mean(str(value), names, "")
    else:
        kind, near = "a list" if origin is tuple else _KINDS[plain][0], ""
    kind += ' or "none"' if optional else ""
    raise InputError(f"{name} must be {kind}, not {value!r}{near}")


def _did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else otherwise


def _from_text(hint: Any, text: str) -> Any:
    """A flag's text -> the value a config file would hold; text that does not fit stays text."""
    hint, _ = _split_none(hint)
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return text if text == "none" else [_from_text(item, x) for x in text.split(",") if x]
    if typing.get_origin(hint) is typing.Literal:
        return next((known for known in typing.get_args(hint) if str(known) == text), text)
    try:
        return hint(text) if hint in (int, float) else text
    except ValueError:
        return text


def _check_layer(cls: type[Config], values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Checks the names and the types of one source of values."""
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            near = _did_you_mean(str(key), hints, f"; known: {', '.join(hints)}")
            raise InputError(f"{source}: unknown key {key!r}{near}")
    return {key: _checked(hints[key], values[key], f"{source}: {key}") for key in values}


def from_dict(cls: type[Config], values: Mapping[str, Any], *, source: str) -> Config:
    """Fields by name, as a config file or a checkpoint holds them -> an instance.

    Args:
        cls: The dataclass; fields that are not given take its defaults.
        values: What JSON or TOML reads.
        source: Where they come from; every error starts with it.

    Raises:
        InputError: unknown key (the nearest is suggested) or wrong type, or the dataclass refuses.
    """
    return cls(**_check_layer(cls, values, source))


def to_dict(config: DataclassInstance) -> dict[str, Any]:
    """All fields, JSON-able: tuples as lists."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
    }


def as_recorded(config: DataclassInstance, later: Iterable[str]) -> dict[str, Any]:
    """All fields as records name them.

    Args:
        config: Any dataclass.
        later: Fields that came after the first records. They are left out where they have their
            default, so that those records keep saying what they said.
    """
    values = dataclasses.asdict(config)
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return {
        name: value
        for name, value in values.items()
        if name not in later or getattr(config, name) != defaults[name]
    }


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    # JSON's numbers, booleans and strings are TOML's; DEL is the one character more to escape.
    text = json.dumps("none" if value is None else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")


def to_toml(config: DataclassInstance) -> str:
    """All fields, one per line with its help behind it: a config file to start from."""
    text = ""
    for field, value in zip(dataclasses.fields(config), to_dict(config).values(), strict=True):
        help = " ".join(field.metadata.get("help", "").split())
        text += f"{f'{field.name} = {_toml_value(value)}':<36}  # {help}".rstrip(" #") + "\n"
    return text


def read_config_file(path: str | Path) -> dict[str, Any]:
    """A .toml or .json file -> its keys and values, not yet checked.

    Raises:
        InputError: no such file, another suffix, or not valid TOML or JSON.
    """
    path = Path(path)
    if path.suffix not in (".toml", ".json"):
        raise InputError(f"{path}: a config file must end in .toml or .json")
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # both decoders' errors, and bad UTF-8
        raise InputError(f"{path}: not valid {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold keys and values, not {type(values).__name__}")
    return values


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line (exit code 2) and suggest the nearest flag."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.splitlines())}\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but nothing is left over: what is not known is refused here."""
        namespace, rest = super().parse_known_args(args, namespace)
        if rest:
            flag = next((text for text in rest if text.startswith("-")), rest[0]).split("=")[0]
            known = [text for text in self._option_string_actions if text.startswith("--")]
            self.error(f"unknown argument {flag!r}{_did_you_mean(flag, known, '; see --help')}")
        return namespace, rest


def build_parser(cls: type[Config], presets: Presets, parser: Parser) -> Parser:
    """Adds `--preset`, `--config`, `--print-config` and one flag per field to a parser.

    Flags that are not settings (`--out`, `--resume`) are added to `parser` as usual, before or
    after. Only flags that were typed appear in the namespace.
    """
    group = parser.add_argument_group("settings", "later wins: preset, config file, flags")
    if presets:
        names = ", ".join(presets)
        group.add_argument("--preset", metavar="NAME", help=f"settings by name: {names}")
    group.add_argument("--config", metavar="FILE", help="settings from a .toml or .json file")
    group.add_argument(
        "--print-config", action="store_true", help="print the settings as TOML and exit"
    )
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, _ = _split_none(hints[field.name])
        args = typing.get_args(hint)
        default = field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        text = f"{field.metadata.get('help', '')} (default: {shown})".replace("%", "%%")
        how: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text}
        if hint is bool:
            how["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(hint) is typing.Literal:
            how["metavar"] = "|".join(map(str, args))
        else:
            how["metavar"] = f"{_KINDS[args[0]][1]},..." if args else _KINDS[hint][1]
        group.add_argument("--" + field.name.replace("_", "-"), **how)
    return parser


def resolve(cls: type[Config], namespace: argparse.Namespace, presets: Presets) -> Config:
    """What `build_parser`'s parser parsed -> the config; `--print-config` prints it and exits.

    Raises:
        InputError: unknown preset, bad config file, or a value of the wrong type; one line that
            names the preset, the file or the flag.
    """
    values: dict[str, Any] = {}
    preset = getattr(namespace, "preset", None)
    if preset is not None:
        if preset not in presets:
            raise unknown_name("preset", preset, presets)
        values.update(_check_layer(cls, presets[preset], f"preset {preset}"))
    if namespace.config is not None:
        file_values = read_config_file(namespace.config)
        values.update(_check_layer(cls, file_values, str(namespace.config)))
    hints = typing.get_type_hints(cls)
    for name, text in vars(namespace).items():
        if name in hints:
            value = _from_text(hints[name], text) if isinstance(text, str) else text
            values[name] = _checked(hints[name], value, "--" + name.replace("_", "-"))
    config = cls(**values)
    if namespace.print_config:
        sys.stdout.write(to_toml(config))
        raise SystemExit(0)
    return config


def parse(
    cls: type[Config],
    argv: Sequence[str] | None,
    *,
    presets: Presets,
    prog: str,
    description: str,
) -> Config:
    """A whole command line of settings only; user mistakes exit with one line and code 2."""
    parser = build_parser(cls, presets, Parser(prog=prog, description=description))
    try:
        return resolve(cls, parser.parse_args(argv), presets)
    except InputError as error:
        parser.error(str(error))
