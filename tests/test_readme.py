"""Commands and code that the documents show: they parse, and the README's run as printed."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import smooth_image

from hyperinit.app import benchmark, cli, fit, generate, meta_train, report, tables, train
from hyperinit.base.arguments import Parser
from hyperinit.base.results import own_manner
from hyperinit.demo import command as demo
from hyperinit.exchange import command as exchange
from hyperinit.hypernet.pretrained import pretrained_path
from hyperinit.images.save import save_image
from hyperinit.publish import command as publish
from hyperinit.shell import completion, doctor
from hyperinit.siren.store import CHECKPOINT_NAME
from scripts import train_baseline

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

PARSERS: dict[str, Callable[[], Parser]] = {
    "hyperinit generate": lambda: generate.generate_parser(""),
    "hyperinit fit": lambda: fit.build(""),
    "hyperinit render": lambda: generate.render_parser(""),
    "hyperinit export": lambda: exchange.build(""),
    "hyperinit demo": lambda: demo.build(""),
    "hyperinit gallery": lambda: demo.gallery_parser(""),
    "hyperinit doctor": lambda: doctor.build(""),
    "hyperinit completion": lambda: completion.build(""),
    "hyperinit inits": lambda: tables.inits_parser(""),
    "hyperinit score": lambda: tables.score_parser(""),
    "hyperinit report": lambda: report.build(""),
    "hyperinit submit": lambda: publish.submit_parser(""),
    "hyperinit leaderboard": lambda: publish.leaderboard_parser(""),
    "hyperinit benchmark": lambda: benchmark.build("", ""),
    "hyperinit meta-train": lambda: meta_train.build(),
    "scripts/meta_train.py": lambda: meta_train.build(),
    "scripts/report.py": lambda: report.build(""),
    "scripts/benchmark.py": lambda: benchmark.build("", ""),
    "scripts/frozen_layers.py": lambda: benchmark.build("", "", track="frozen"),
    "scripts/train_baseline.py": lambda: train.build(train_baseline.program("")),
}


def blocks(path: Path, language: str) -> list[str]:
    """The contents of the fenced blocks of a language."""
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(program, its arguments) of each of our commands in the shell blocks of a document."""
    for block in blocks(path, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part.split(">")[0], comments=True)
                while words and ("=" in words[0] or words[0] in ("nice", "time")):
                    del words[0]
                if words[:1] == ["hyperinit"] and len(words) > 1:
                    yield f"hyperinit {words[1]}", words[2:]
                elif words[:1] == ["python"] and words[1:2] and words[1] in PARSERS:
                    yield words[1], words[2:]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_of_a_document_parses(path, capsys):
    for program, arguments in commands(path):
        if "..." in arguments or program == "hyperinit --help":
            continue
        if program == "scripts/train_baseline.py" and not arguments[0].startswith("-"):
            arguments = arguments[1:]
        try:
            with own_manner():
                PARSERS[program]().parse_args(arguments)
        except SystemExit as stopped:
            assert not stopped.code, f"{program} {shlex.join(arguments)}: {capsys.readouterr().err}"


def test_every_command_has_a_parser_here():
    listed = {f"hyperinit {name}" for name in cli.COMMANDS}
    assert listed == {name for name in PARSERS if name.startswith("hyperinit ")}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Where the README's names exist: photo.jpg, DIR, runs/NAME."""
    monkeypatch.chdir(tmp_path)
    save_image(smooth_image(32), tmp_path / "photo.jpg")
    (tmp_path / "DIR").mkdir()
    shutil.copy("photo.jpg", "DIR")
    (tmp_path / "runs" / "NAME").mkdir(parents=True)
    shutil.copy(pretrained_path("photo-96"), tmp_path / "runs" / "NAME" / CHECKPOINT_NAME)
    return tmp_path


@pytest.mark.slow
def test_the_readmes_python_runs_as_printed(place, capsys):
    (code,) = blocks(ROOT / "README.md", "python")
    exec(compile(code, "README.md", "exec"), {})
    after, before = map(float, capsys.readouterr().out.split())
    assert after > before and Path("siren.safetensors").exists()


@pytest.mark.long
def test_the_readmes_commands_run_as_printed(place):
    ran = set()
    for program, arguments in commands(ROOT / "README.md"):
        _, _, name = program.partition("hyperinit ")
        if name in ("generate", "fit", "render", "inits"):
            assert cli.main([name, *arguments]) == 0, arguments
            ran.add(name)
    assert ran >= {"generate", "fit", "render"}
