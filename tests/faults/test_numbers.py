"""Every number of every command: what is absurd, not finite or no number is refused in one line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import smooth_image

from hyperinit.app import benchmark, cli, fit, generate, meta_train, report, tables
from hyperinit.app.cli import COMMANDS, main
from hyperinit.app.train import build as build_training
from hyperinit.app.train import comparison_protocol
from hyperinit.base.arguments import Parser, number, parser_of, theirs_of, whole
from hyperinit.base.errors import InputError
from hyperinit.base.settings import _settings, resolve
from hyperinit.demo import command as demo
from hyperinit.exchange import command as export
from hyperinit.fitting.config import FitConfig, fit_options
from hyperinit.images.save import save_image
from hyperinit.publish.command import leaderboard, submit
from hyperinit.record.protocol import PROTOCOLS, Protocol
from hyperinit.shell import completion, doctor
from scripts import train_baseline

HOSTILE = {
    "23 digits": "12345678901234567890123",
    "minus 23 digits": "-12345678901234567890123",
    "5000 digits": "9" * 5000,
    "1e400": "1e400",
    "-1e400": "-1e400",
    "nan": "nan",
    "inf": "inf",
    "-inf": "-inf",
    "nothing": "",
    "a blank": " ",
    "an expression": "10**9",
    "a word": "many",
    "hexadecimal": "0x10",
    "a list": "1,,x",
    "a zero byte": "1\0",
    "a surrogate": "1\udcff",
    "a line break": "1\n2 x",
}
ABSURD = "1000000000000000"  # no count, size or number of epochs; a seed, a rate or seconds perhaps
MAY_BE_HUGE = (
    *("seed", "lr", "omega", "mse", "limit", "factor", "decay", "rate", "penalty", "norm"),
    *("power", "sec", "weight", "eps"),
)
NUMBERS = (int, float)


@dataclass(frozen=True)
class Case:
    """One option that takes a number."""

    command: str
    flag: str
    needed: tuple[str, ...]  # what else the command line must have
    is_list: bool = False

    def __str__(self) -> str:
        return f"{self.command} {self.flag}"


RIVAL = train_baseline.program("maml")
PARSERS = {
    "fit": (fit.build("hyperinit fit"), ("a.png",)),
    "generate": (generate.generate_parser("hyperinit generate"), ("a.png", "-o", "b")),
    "render": (generate.render_parser("hyperinit render"), ("a", "-o", "b.png")),
    "export": (export.build("hyperinit export"), ("a", "--to", "npz")),
    "demo": (demo.build("hyperinit demo"), ()),
    "inits": (tables.inits_parser("hyperinit inits"), ()),
    "score": (tables.score_parser("hyperinit score"), ("a",)),
    "report": (report.build("hyperinit report"), ("a",)),
    "benchmark": (benchmark.build("hyperinit benchmark", ""), ()),
    **{f"meta-train {name}": (meta_train.build(name), ()) for name in meta_train.METHODS},
    "train_baseline maml": (build_training(RIVAL), ()),
    "submit": (parser_of(lambda: submit([])), ("a", "--by", "me")),
    "leaderboard": (parser_of(lambda: leaderboard([])), ("a",)),
    "gallery": (parser_of(lambda: demo.gallery([])), ("a", "--images", "b")),
    "doctor": (parser_of(lambda: doctor.main([])), ()),
    "completion": (parser_of(lambda: completion.main([])), ("bash",)),
}
SETTINGS = {
    "benchmark": (Protocol, PROTOCOLS),
    **{f"meta-train {n}": (p.config, p.presets) for n, p in meta_train.METHODS.items()},
    "train_baseline maml": (RIVAL.task.config, RIVAL.presets),
}


def cases() -> Iterator[Case]:
    """All options that have a type of their own, or that are numbers of a settings class."""
    for command, (parser, needed) in PARSERS.items():
        kinds = {}
        if command in SETTINGS:
            kinds = {n: s for n, s in _settings(SETTINGS[command][0]).items() if s.kind in NUMBERS}
        for action in parser._actions:
            flag = next((f for f in action.option_strings if f.startswith("--")), "")
            if not flag or action.nargs == 0 or isinstance(action, argparse._HelpAction):
                continue
            setting = kinds.get(action.dest)
            if setting is not None and not setting.choices:
                yield Case(command, flag, needed, setting.is_list)
            elif setting is None and callable(action.type) and action.type.__name__ != "Path":
                yield Case(command, flag, needed)


CASES = list(cases())


def read(case: Case, text: str) -> None:
    """What the command does with its line before any work; refused: SystemExit or InputError."""
    parser, _ = PARSERS[case.command]
    arguments = parser.parse_args([*case.needed, case.flag, text])
    if case.command in SETTINGS:
        config, presets = SETTINGS[case.command]
        arguments.preset = arguments.preset or ("standard" if config is Protocol else "default")
        found = resolve(config, arguments, presets)
        if config is not Protocol:
            comparison_protocol(found)


def refusal(case: Case, text: str, capsys) -> str:
    """The line with which an option is refused; "" where it is taken."""
    try:
        read(case, text)
    except InputError as error:
        line = str(error)
    except SystemExit as stopped:
        assert stopped.code == 2
        line = capsys.readouterr().err.removesuffix("\n")
    else:
        return ""
    assert len(line.splitlines()) == 1 and len(line) < 400, line
    assert case.flag in line or case.flag[2:].replace("-", "_") in line, line
    return line


def test_the_walk_has_all_commands_and_no_number_without_bounds():
    assert {name.partition(" ")[0] for name in PARSERS} >= set(COMMANDS)
    assert len(CASES) > 100
    for parser, _ in PARSERS.values():
        for action in parser._actions:
            assert action.type not in NUMBERS, f"{action.dest}: use whole() or number()"


def test_an_empty_path_is_refused_and_not_taken_for_the_working_directory(capsys):
    paths = [(one, action) for one in PARSERS.values() for action in one[0]._actions]
    paths = [(one, action) for one, action in paths if action.type is Path]
    assert len(paths) > 20
    for (parser, needed), action in paths:
        flags = action.option_strings
        words = [*needed, flags[-1], ""] if flags else ["", *needed[1:]]
        with pytest.raises(SystemExit) as stopped:
            parser.parse_args(words)
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and "must name a file or a directory, not ''" in error, words


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_no_usable_number_is_refused_in_one_line(case, capsys):
    for what, text in HOSTILE.items():
        if what == "nothing" and case.is_list:
            continue  # an empty list
        huge = what == "23 digits" and any(part in case.flag for part in MAY_BE_HUGE)
        if huge and case.flag not in ("--seed", "--seeds", "--limit", "--data-limit"):
            continue
        line = refusal(case, text, capsys)
        assert line, f"{case} takes {what}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_nobody_means_is_refused_in_one_line(case, capsys):
    if not any(part in case.flag for part in MAY_BE_HUGE) or "lr-images" in case.flag:
        assert refusal(case, ABSURD, capsys), case
    if "size" in case.flag and case.command in ("fit", "generate", "render", "export"):
        for size in (
            "100000x100000",
            "99999x99999",
            # Sound of two seconds, and a volume: only `render` draws these.
            *(() if case.command == "render" else ("100000", "1x1x1")),
            "0x5",
            "5x-1",
            "\uff11x\uff11",
        ):
            assert refusal(case, size, capsys), size
    if case.flag in ("--threads", "--workers", "--limit", "--batch-images", "--index", "--port"):
        assert refusal(case, "-1", capsys), case
    if case.flag in ("--width", "--depth", "--seeds", "--batch-pixels", "--verify", "--threads"):
        assert refusal(case, "0", capsys) and refusal(case, "-3", capsys), case


@pytest.mark.parametrize("field", FitConfig.__dataclass_fields__)
def test_options_of_a_fit_are_bounded_too(field):
    kind = str(FitConfig.__dataclass_fields__[field].type)
    if "int" not in kind and "float" not in kind:
        pytest.skip("no number")
    for what, text in HOSTILE.items():
        if what == "nothing" and "tuple" in kind:
            continue
        if what == "23 digits" and field not in ("seed", "batch_pixels", "max_restarts"):
            continue
        with pytest.raises(InputError) as caught:
            FitConfig(**fit_options([f"{field}={text}"]))
        line = str(caught.value)
        assert field in line and len(line.splitlines()) == 1 and len(line) < 400, (what, line)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--width", "65536", "--depth", "1000"],
        ["--width", "60000", "--depth", "3"],
        ["--init", "33", "--width", "50000"],
    ],
)
def test_a_network_that_nothing_can_hold_is_refused_before_memory_is_taken(
    tmp_path, arguments, capsys
):
    save_image(smooth_image(16), tmp_path / "a.png")
    with pytest.raises(SystemExit) as stopped:
        main(["fit", str(tmp_path / "a.png"), *arguments])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and "smaller width" in error


def test_what_memory_does_not_suffice_for_is_one_line(monkeypatch, capsys):
    for error in (
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ):

        def fails(arguments, error=error):
            raise error

        monkeypatch.setattr(cli, "run", fails)
        with pytest.raises(SystemExit) as stopped:
            main(["fit"])
        assert stopped.value.code == 2 and "not enough memory" in capsys.readouterr().err
    monkeypatch.setattr(cli, "run", lambda arguments: (_ for _ in ()).throw(RuntimeError("bug")))
    with pytest.raises(RuntimeError, match="bug"):
        main(["fit"])


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "", "1e400", "9" * 5000, "x"])
@pytest.mark.parametrize("name", ["first_omega", "hidden_omega"])
def test_conventions_of_others_are_numbers(tmp_path, capsys, name, text):
    with pytest.raises(SystemExit) as stopped:
        main(["render", str(tmp_path / "a.pt"), "-o", "b.png", "--theirs", f"{name}={text}"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and name in error
    assert len(error) < 300


def test_parsers_say_what_would_be_right(capsys):
    parser = Parser(prog="p")
    parser.add_argument("--n", type=whole(1, 9))
    parser.add_argument("-x", "--xx", type=number(above=True, most=2))
    for flag, text, said in (
        ("--n", "0", "--n must be at least 1 and at most 9, not 0"),
        ("--n", "a", "--n must be a whole number, not 'a'"),
        ("--xx", "0", "--xx must be a positive number, not 0"),
        ("-x", "2.5", "--xx must be at most 2, not 2.5"),
        ("-x", "nan", "--xx must be a finite number, not nan"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args([flag, text])
        assert capsys.readouterr().err == f"p: error: {said}\n"


def test_a_target_that_no_network_gets_to_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_image(smooth_image(16), tmp_path / "p.png")
    line = "fit p.png --target-mse 1e-320 --width 16 --depth 2 --budget-epochs 8 --init identity"
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert stopped.value.code == 2
    assert "no network reaches that error: raise --target-mse" in capsys.readouterr().err


def test_a_number_of_conventions_is_refused_by_the_name_of_its_flag(capsys):
    with pytest.raises(InputError, match=r"^--conventions first_omega=nan: "):
        theirs_of(["first_omega=nan"], "--conventions")


def test_a_flag_with_several_values_adds_to_those_before_and_one_replaces_them():
    """`--fit beta1=0.5 --fit sampler=points` fitted without the first, and said nothing."""
    parser = Parser(prog="p")
    parser.add_argument("more", nargs="*")
    parser.add_argument("--images", nargs="+", default=["builtin"])
    parser.add_argument("--width", type=int, default=1)
    for _ in range(2):  # and the default stays what it is
        assert parser.parse_args([]).images == ["builtin"]
        told = parser.parse_args(
            ["x", "--images", "a", "b", "--width", "2", "--images", "c", "--width", "3"]
        )
        assert (told.more, told.images, told.width) == (["x"], ["a", "b", "c"], 3)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fit p.png -o o --fit beta1=0.5 beta1=0.6", "--fit: beta1 is given twice"),
        ("fit p.png -o o --fit beta1=0.5 --fit beta1=0.6", "--fit: beta1 is given twice"),
        ("benchmark --track open --fit beta1=1 beta1=1", "--fit: beta1 is given twice"),
        ("fit p.png -o o --theirs order=xy --theirs order=yx", "--theirs: order is given twice"),
        ("fit p.png -o o --fit beta1", "--fit takes K=V, such as sampler=points, not 'beta1'"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(tmp_path, monkeypatch, capsys, line, said):
    """The last one counted."""
    monkeypatch.chdir(tmp_path)
    save_image(smooth_image(16), tmp_path / "p.png")
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert stopped.value.code == 2 and said in capsys.readouterr().err
