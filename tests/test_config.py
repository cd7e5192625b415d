"""Command line, config file and presets -> one checked config."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from hyperinit.base.arguments import Parser
from hyperinit.base.errors import InputError
from hyperinit.base.settings import (
    build_parser,
    check,
    from_dict,
    from_texts,
    option,
    resolve,
    to_dict,
    to_toml,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class TrainConfig:
    """One field of every supported type."""

    version: ClassVar[int] = 1  # no setting

    inner_steps: int = option(3, "gradient steps on the generated init", at_least=0)
    outer_lr: float = option(1e-4, "step size of the hypernetwork, 100 % of it", above=0)
    data: str = option("builtin", "data set name or directory")
    loop: Literal["higher", "functional"] = option("functional", "how inner steps are unrolled")
    first_order: bool = option(False, "ignore second derivatives")
    time_limit_min: float | None = option(None, "stop after this many minutes", above=0)
    holdout: str | None = option("kodak", "data set to evaluate on")
    loss_weights: tuple[float, ...] = option(
        (1.0, 0.5), "weight of the loss per inner step", at_least=0, below=10
    )
    inits: tuple[str, ...] = option(("paper", "33"), "inits to compare with")

    def __post_init__(self) -> None:
        check(self)


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "base": {"inner_steps": 5, "data": "folder", "outer_lr": 3e-4},
}


def parse(*argv: str) -> TrainConfig:
    """As a script does: bad input exits with one line and code 2."""
    parser = build_parser(TrainConfig, PRESETS, Parser(prog="train", description="Trains."))
    try:
        return resolve(TrainConfig, parser.parse_args(argv), PRESETS)
    except InputError as error:
        parser.error(str(error))


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr of a command line that must exit with code 2."""
    with pytest.raises(SystemExit) as exit_info:
        parse(*argv)
    out, err = capsys.readouterr()
    assert exit_info.value.code == 2
    assert out == ""
    assert err.startswith("train: error: ") and err.count("\n") == 1
    return err


def test_no_arguments_give_the_defaults() -> None:
    assert parse() == TrainConfig()


def test_flags_of_every_type() -> None:
    config = parse(
        *("--inner-steps", "4", "--outer-lr", "1e-3", "--data", "a dir", "--loop", "higher"),
        *("--first-order", "--time-limit-min", "7", "--holdout", "none"),
        *("--loss-weights", "0,2,.5", "--inits", "22"),
    )
    assert config == TrainConfig(
        4, 1e-3, "a dir", "higher", True, 7.0, None, (0.0, 2.0, 0.5), ("22",)
    )
    assert isinstance(config.time_limit_min, float)


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('data = "flowers"\nouter_lr = 1\nfirst_order = true\n')
    config = parse(
        "--outer-lr", "0.5", "--no-first-order", "--preset", "base", "--config", f"{file}"
    )
    assert config == TrainConfig(inner_steps=5, data="flowers", outer_lr=0.5, first_order=False)


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--inner-step", "4"], ["'--inner-step'", "did you mean '--inner-steps'"]),
        (["--innersteps=4"], ["'--innersteps'", "did you mean '--inner-steps'"]),
        (["--zzz"], ["'--zzz'", "see --help"]),
        (["stray"], ["'stray'"]),
        (["--inner-steps"], ["--inner-steps", "expected one argument"]),
        (["--inner-steps", "four"], ["--inner-steps must be a whole number", "'four'"]),
        (["--inner-steps", "1.5"], ["--inner-steps must be a whole number", "'1.5'"]),
        (["--inner-steps", "-1"], ["--inner-steps must be at least 0, not -1"]),
        (["--outer-lr", "0"], ["--outer-lr must be above 0, not 0.0"]),
        (["--time-limit-min", "0"], ['--time-limit-min must be above 0 or "none", not 0.0']),
        (["--loss-weights", "1,-1"], ["--loss-weights[1] must be at least 0, not -1.0"]),
        (["--loss-weights", "10"], ["--loss-weights[0] must be below 10, not 10.0"]),
        (["--loss-weights", "none"], ["--loss-weights must be a list, not 'none'"]),
        (["--outer-lr", "9" * 400], ["--outer-lr must be a finite number"]),
        (["--outer-lr", "nan"], ["--outer-lr must be a finite number"]),
        (["--time-limit-min", "1e999"], ["--time-limit-min", 'number or "none"']),
        (["--loss-weights", "1,x"], ["--loss-weights[1] must be a finite number", "'x'"]),
        (["--loop", "highr"], ["--loop", "higher, functional", "did you mean 'higher'"]),
        (["--preset", "bse"], ["preset 'bse'", "did you mean 'base'", "default, base"]),
        (["--data", "bad\udcff"], ["--data must be text"]),
        (["--config", "missing.toml"], ["missing.toml: No such file"]),
        (["--config", "config.yaml"], ["config.yaml", "must end in .toml or .json"]),
    ],
)
def test_bad_command_lines_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], argv: list[str], parts: list[str]
) -> None:
    line = refused(capsys, *argv)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("a.toml", "inner_step = 4", ["unknown key 'inner_step' (did you mean 'inner_steps'?)"]),
        ("a.toml", "[train]\nloop = 1", ["unknown key 'train'", "known: inner_steps, outer_lr"]),
        ("a.toml", "inner_steps = ", ["not valid TOML"]),
        ("a.toml", "inner_steps = 1\ninner_steps = 2", ["not valid TOML"]),
        ("a.toml", "inner_steps = true", ["inner_steps must be a whole number, not True"]),
        ("a.toml", "inner_steps = -1", ["inner_steps must be at least 0, not -1"]),
        ("a.toml", "version = 2", ["unknown key 'version'"]),
        ("a.toml", "a = " + "[" * 100_000, ["not valid TOML"]),
        ("a.toml", "inner_steps = 4.0", ["inner_steps must be a whole number, not 4.0"]),
        ("a.toml", "inner_steps = '4'", ["inner_steps must be a whole number, not '4'"]),
        ("a.toml", "first_order = 1", ["first_order must be true or false, not 1"]),
        ("a.toml", "outer_lr = inf", ["outer_lr must be a finite number"]),
        ("a.toml", "outer_lr = " + "9" * 400, ["outer_lr must be a finite number"]),
        ("a.toml", "inits = {a = 1}", ["inits must be a list, not {'a': 1}"]),
        ("a.toml", "inits = 'paper'", ["inits must be a list, not 'paper'"]),
        ("a.toml", "loss_weights = [1, '2']", ["loss_weights[1] must be a finite number"]),
        ("a.toml", "loop = 3", ["loop must be one of higher, functional, not 3"]),
        ("a.json", "{", ["not valid JSON"]),
        ("a.json", "[1]", ["must hold keys and values"]),
        ("a.json", "[" * 100_000, ["not valid JSON"]),
        ("a.json", '{"data": "a", "loop": "higher", "data": "b"}', ["duplicate key 'data'"]),
        ("a.json", '{"data": null}', ["data must be text, not None"]),
    ],
)
def test_bad_config_files_are_refused_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    parts: list[str],
) -> None:
    (tmp_path / name).write_text(text)
    line = refused(capsys, "--config", str(tmp_path / name))
    assert all(part in line for part in [name, *parts]), line


def test_files_that_are_not_text_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.toml").write_bytes(b"data = '\xff'")
    (tmp_path / "b.toml").mkdir()
    assert "not valid TOML" in refused(capsys, "--config", str(tmp_path / "a.toml"))
    assert "b.toml" in refused(capsys, "--config", str(tmp_path / "b.toml"))


def test_printed_config_reads_back_as_the_same_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--preset", "base", "--holdout", "none", "--time-limit-min", "0.1", "--inits", ""]
    with pytest.raises(SystemExit) as exit_info:
        parse(*argv, "--print-config")
    printed = capsys.readouterr().out
    assert exit_info.value.code == 0
    assert "# gradient steps on the generated init" in printed.splitlines()[0]
    (tmp_path / "my.toml").write_text(printed)
    assert parse("--config", str(tmp_path / "my.toml")) == parse(*argv)


@pytest.mark.parametrize(
    "text", ['"', "\\", "a\nb", "# no", "\x7f\x00\x1f", "猫 \U0001f431", "\u2028"]
)
def test_any_text_survives_toml_and_json(text: str) -> None:
    config = TrainConfig(data=text, inits=(text, text), outer_lr=1e-300)
    for values in (tomllib.loads(to_toml(config)), json.loads(json.dumps(to_dict(config)))):
        assert from_dict(TrainConfig, values, source="stored") == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inner_steps": -1}, "inner_steps must be at least 0, not -1"),
        ({"inner_steps": "4"}, "inner_steps must be a whole number, not '4'"),
        ({"inner_steps": True}, "inner_steps must be a whole number, not True"),
        ({"outer_lr": float("nan")}, "outer_lr must be a finite number, not nan"),
        ({"time_limit_min": "none"}, "time_limit_min must be a finite number"),
        ({"loop": "highr"}, "loop must be one of higher, functional, not 'highr' (did you mean"),
        ({"loss_weights": (1, -1)}, "loss_weights[1] must be at least 0, not -1"),
        ({"first_order": 1}, "first_order must be true or false, not 1"),
    ],
)
def test_what_is_made_in_python_is_checked_alike(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        TrainConfig(**fields)


def test_numbers_of_numpy_and_other_collections_will_do_in_python() -> None:
    fields: dict[str, Any] = {"inner_steps": np.int64(3), "outer_lr": np.float32(1)}
    for weights in ([1, 2], range(3), {1, 2}, np.ones(2)):
        assert TrainConfig(**fields, loss_weights=weights).outer_lr == 1  # type: ignore[arg-type]


def test_single_fields_from_text() -> None:
    texts = {"loss_weights": "1,2", "holdout": "none", "loop": "higher", "inner_steps": "2"}
    assert from_texts(TrainConfig, texts, source="--fit") == {
        **{"loss_weights": (1.0, 2.0), "holdout": None, "loop": "higher", "inner_steps": 2}
    }
    with pytest.raises(InputError, match=r"--fit: unknown key 'lop' \(did you mean 'loop'\?\)"):
        from_texts(TrainConfig, {"lop": "higher"}, source="--fit")
    with pytest.raises(InputError, match=r"--fit: inner_steps must be a whole number, not 'x'"):
        from_texts(TrainConfig, {"inner_steps": "x"}, source="--fit")


def test_a_stored_config_is_checked_like_a_file() -> None:
    with pytest.raises(InputError, match=r"run/last: unknown key 'widht'; known: inner_steps"):
        from_dict(TrainConfig, {"widht": 3}, source="run/last")


def test_help_lists_every_field_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert exit_info.value.code == 0
    assert "--loss-weights X,... weight of the loss per inner step (default: 1.0,0.5)" in text
    assert "100 % of it (default: 0.0001)" in text
    assert "--first-order, --no-first-order" in text


def test_flags_of_the_caller_and_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    main = Parser(prog="hyperinit")
    commands = main.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train")
    train.add_argument("--resume", action="store_true")
    build_parser(TrainConfig, {}, train)
    namespace = main.parse_args(["train", "--resume", "--inner-steps", "1"])
    assert namespace.resume and namespace.command == "train"
    assert resolve(TrainConfig, namespace, {}) == TrainConfig(inner_steps=1)
    with pytest.raises(SystemExit):
        main.parse_args(["train", "--resum"])
    expected = "hyperinit train: error: unknown argument '--resum' (did you mean '--resume'?)\n"
    assert capsys.readouterr().err == expected


def test_a_wrong_preset_is_named() -> None:
    namespace = argparse.Namespace(preset="p", config=None, print_config=False)
    with pytest.raises(InputError, match="preset p: unknown key 'lr'"):
        resolve(TrainConfig, namespace, {"p": {"lr": 1}})


@dataclass(frozen=True)
class Limited:
    steps: int = option(3, at_least=1, at_most=9)
    inner: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class LimitedToo(Limited):
    steps: int = option(5)


@dataclass(frozen=True)
class LimitedAnew(Limited):
    steps: int = option(20, at_most=30)


def test_a_field_that_is_declared_again_keeps_its_limits() -> None:
    assert (Limited().steps, LimitedToo().steps, LimitedAnew().steps) == (3, 5, 20)
    for cls in (Limited, LimitedToo):
        with pytest.raises(InputError, match="steps must be at least 1, not 0"):
            cls(steps=0)
        with pytest.raises(InputError, match="steps must be at most 9, not 10"):
            cls(steps=10)
    with pytest.raises(InputError, match="steps must be at most 30, not 31"):
        LimitedAnew(steps=31)
