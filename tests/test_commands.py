"""The table of commands: what is listed, what is imported for it, what the tables print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import smooth_image
from records import ladder

from hyperinit.app.cli import COMMANDS, help_text, main
from hyperinit.bench.catalogue import OURS
from hyperinit.bench.sources import BY_NAME, CHECKOUT_RULES, CHECKOUT_TRAINED
from hyperinit.fitting.config import FitConfig
from hyperinit.hypernet.pretrained import PRETRAINED
from hyperinit.images.save import save_image
from hyperinit.inits.rows import ROWS
from hyperinit.record.records import append_record

ROOT = Path(__file__).parent.parent


@pytest.fixture
def records(tmp_path) -> Path:
    path = tmp_path / "records.jsonl"
    for init, errors in {"33": {1.0: 0.4, 4.0: 0.02}, "mine": {1.0: 0.3, 4.0: 0.01}}.items():
        for image, track in (("cat", "tuned"), ("tuning cat", "tuned-lr")):
            for record in ladder(init, errors, image, track=track):
                append_record(path, record)
    return path


def help_of(name: str, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_what_needs_no_torch_imports_none(records, tmp_path):
    # One fresh process runs one after the other, as each leaves behind what it imported.
    code = f"""
import contextlib, io, os, sys
from hyperinit.app.cli import main
def run(*arguments):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as stopped:
            assert stopped.code == 0, arguments
    assert "torch" not in sys.modules, arguments
run("--help")
assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"  # before torch is imported, which reads it
assert "tqdm" not in sys.modules and "argparse" not in sys.modules
run("--version")
for name in {list(COMMANDS)}:
    run(name, "--help")
run("meta-train", "--method", "reptile", "--help")
run("score", {str(records)!r})
run("report", {str(records)!r}, "-o", {str(tmp_path / "report")!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "index.html").exists()


def test_every_command_is_listed_and_has_a_help(capsys):
    for name, command in COMMANDS.items():
        assert f"  {name} " in help_text() and command.help in help_text()
        assert f"usage: hyperinit {name} " in help_of(name, capsys)
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: hyperinit COMMAND")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a command: generate, fit"),
        (["fti"], "unknown command 'fti' (did you mean 'fit'?)"),
        (["--hlep"], "unknown argument '--hlep'"),
    ],
)
def test_no_or_an_unknown_command_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"hyperinit: error: {message}") and error.count("\n") == 1


def test_what_a_help_says_is_what_the_code_knows(capsys):
    shown = help_of("fit", capsys)
    for name in (*BY_NAME, *OURS, *PRETRAINED):
        assert name in shown or name in ROWS
    assert f"({FitConfig().budget_epochs:g})" in shown
    assert "(default: hyper)" in help_of("generate", capsys)
    assert all(name in help_of("generate", capsys) for name in PRETRAINED)


def test_the_tracks_of_the_command_are_those_of_the_benchmark(capsys):
    from hyperinit.app.benchmark import TRACK_NAMES
    from hyperinit.record.tracks import TRACKS

    assert set(TRACK_NAMES) == set(TRACKS)


def test_score_prints_the_tables_of_a_report(records, capsys):
    assert main(["score", str(records), "--reference", "mine"]) == 0
    shown = capsys.readouterr().out
    assert "| 33 | " in shown and "| mine | " in shown
    with pytest.raises(SystemExit) as stopped:
        main(["score", "nowhere.jsonl"])
    assert stopped.value.code == 2
    assert "nowhere.jsonl" in capsys.readouterr().err


def test_inits_lists_all_rows_and_ours(capsys):
    assert main(["inits"]) == 0
    table = capsys.readouterr().out
    assert all(f"| {name} | " in table for name in (*ROWS_BY_NAME, *OURS))
    assert main(["inits", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["rows"]) == ROWS_BY_NAME and set(found["ours"]) == set(OURS)
    assert found["rows"]["36"]["omega_0"] == 50 and found["rows"]["26"]["weight_decay"] == 0
    assert found["ours"]["untrained"]["untrained"]["steps"] >= 1


ROWS_BY_NAME = [row.name for row in ROWS.values()]


def test_a_rival_that_only_a_checkout_has_says_so_in_one_line(capsys, tmp_path, monkeypatch):
    from baselines import RULES
    from baselines.trained import RIVALS

    assert set(RULES) == set(CHECKOUT_RULES) and set(RIVALS) == set(CHECKOUT_TRAINED)
    monkeypatch.chdir(tmp_path)
    save_image(smooth_image(16), tmp_path / "x.png")
    for name, text in (("winner@2", "baselines/"), ("maml", "train_baseline.py maml")):
        for command in (
            ["benchmark", "--inits", name, "--quick"],
            ["fit", "x.png", "--init", name],
        ):
            with pytest.raises(SystemExit) as stopped:
                main(command)
            assert stopped.value.code == 2
            error = capsys.readouterr().err
            assert text in error and "in a checkout" in error and error.count("\n") == 1


@pytest.mark.slow
def test_scripts_take_the_checkouts_own_packages_whatever_is_installed(tmp_path):
    # As another package called datasets, scripts or baselines would be found.
    for name in ("datasets", "baselines", "scripts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not ours')\n")
    names = [path.stem for path in (ROOT / "scripts").glob("*.py")]
    code = f"""
import runpy, sys
for name in {sorted(set(names) - {"catalogue", "__init__"})}:
    sys.path[:] = [{str(ROOT / "scripts")!r}, {str(tmp_path)!r}] + [
        p for p in sys.path if p not in ("", {str(ROOT)!r})
    ]
    ours = ("datasets", "baselines", "scripts")
    for module in [m for m in sys.modules if m.split(".")[0] in ours]:
        del sys.modules[module]
    runpy.run_path(f"{ROOT}/scripts/{{name}}.py", run_name="imported")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
