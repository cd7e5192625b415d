"""A run that is resumed: by what, from where, and while others are at it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from hyperinit.app import train as app_train
from hyperinit.app.meta_train import main
from hyperinit.base.files import exclusive, write_atomically
from hyperinit.hypernet.checkpoint import CHECKPOINT_KIND
from hyperinit.hypernet.learned import LEARNED_KIND
from hyperinit.record.records import read_records
from hyperinit.siren.store import CHECKPOINT_NAME, read_info

TINY = ["--preset", "tiny", "--wandb", "disabled", "--data", "synthetic", "--compare-images", "0"]
REPTILE = ["--method", "reptile"]


def refused(arguments, capsys) -> str:
    """A command that must fail with exit code 2 and one line, which is returned."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    return lines[0]


def step_of(path) -> int:
    return read_info(path, CHECKPOINT_KIND)["step"]


def test_a_run_of_the_other_method_that_came_to_no_checkpoint_begins_as_it_is_told(
    tmp_path, capsys
):
    run = tmp_path / "run"
    assert main([*TINY, *REPTILE, "--out", str(run), "--eps", "0.3"]) == 0
    (run / CHECKPOINT_NAME).unlink()
    line = refused(["--resume", run], capsys)
    told = line.partition("anew with ")[2].split()
    assert main(told) == 0
    assert read_info(run / CHECKPOINT_NAME, LEARNED_KIND)["train"]["eps"] == 0.3


def test_a_method_that_is_not_the_runs_own_is_refused(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*TINY, "--out", str(run)]) == 0
    line = refused(["--resume", run, *REPTILE], capsys)
    assert "own method, hypernetwork; leave out --method" in line
    assert main(["--resume", str(run), "--method", "hypernetwork"]) == 0


def test_a_copy_of_a_checkpoint_does_not_replace_the_runs_own(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*TINY, "--out", str(run), "--time-limit", "0"]) == 0
    shutil.copy(run / CHECKPOINT_NAME, run / "begin.safetensors")
    assert main(["--resume", str(run / CHECKPOINT_NAME), "--time-limit", "none"]) == 0
    line = refused(["--resume", run / "begin.safetensors", "--time-limit", "none"], capsys)
    assert "begin.safetensors" in line and CHECKPOINT_NAME in line
    assert step_of(run / CHECKPOINT_NAME) == 10


def test_a_run_that_another_process_has_continued_meanwhile_is_left_alone(
    tmp_path, capsys, monkeypatch
):
    run = tmp_path / "run"
    assert main([*TINY, "--out", str(run), "--time-limit", "0"]) == 0
    again = ["--resume", str(run), "--time-limit", "none"]

    @contextlib.contextmanager
    def after_another(path):  # which had the lock while this one read its images
        monkeypatch.setattr(app_train, "exclusive", exclusive)
        assert main(again) == 0
        with exclusive(path):
            yield

    monkeypatch.setattr(app_train, "exclusive", after_another)
    log = run / "metrics.jsonl"
    assert "meanwhile" in refused(again, capsys)
    assert step_of(run / CHECKPOINT_NAME) == 10 and '"step": 10' in log.read_text()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--inner-steps", "0", "--no-second-order"], "--no-second-order.*no --inner-steps"),
        ([*REPTILE, "--lr", "0.1"], "--lr.*transformer"),
        ([*REPTILE, "--patch-size", "8", "--eps", "0.1"], "--eps.*--lr"),
        ([*REPTILE, "--memory-images", "9"], "--memory-images.*--read-numbers"),
        (["--compare-budgets", "1"], "--compare-budgets.*--compare-images"),
        (["--eval-steps", "2"], "--eval-steps.*--compare-images"),
        (["--data", "x.tar", "--no-color-profiles"], "--no-color-profiles.*directory"),
        (["--wandb", "offline", "--log", "none"], "--wandb.*--log"),
        (["--split-by", "name"], "--split-by.*split of their own"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(tmp_path, capsys, flags, told):
    assert re.search(told, refused([*TINY, "--out", tmp_path / "run", *flags], capsys))
    assert not (tmp_path / "run").exists()


def test_a_comparison_that_is_asked_for_once_more_is_made_or_refused(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*TINY, *REPTILE, "--out", str(run)]) == 0
    again = ["--resume", str(run), "--compare-budgets", "1"]
    assert "--compare-images" in refused(again, capsys)
    assert main([*again, "--compare-images", "1"]) == 0
    assert (run / "comparison.jsonl").exists()


def test_a_runs_own_config_file_begins_another(tmp_path):
    assert main([*TINY, *REPTILE, "--out", str(tmp_path / "a")]) == 0  # it names every setting
    again = ["--config", str(tmp_path / "a" / "config.toml"), "--out", str(tmp_path / "b")]
    assert main(again) == 0


def test_a_run_that_its_time_limit_ends_says_so_and_how_it_goes_on(tmp_path, capsys):
    run = tmp_path / "my run"
    assert main([*TINY, "--out", str(run), "--time-limit", "0"]) == 0
    told = next(line for line in capsys.readouterr().err.splitlines() if "time limit" in line)
    assert "step 0 of 10" in told
    again = shlex.split(told.partition("continue with ")[2])
    assert main([part.replace("MINUTES", "5") for part in again]) == 0
    assert step_of(run / CHECKPOINT_NAME) == 10
    assert "time limit" not in capsys.readouterr().err


def test_where_nothing_is_held_out_it_is_said_that_nothing_is_compared(tmp_path, capsys):
    images = [*TINY[:-1], "1", "--held-out-fraction", "0"]
    assert main([*images, "--out", str(tmp_path / "run")]) == 0
    assert (
        "no image is held out, so there is no evaluation and no comparison"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", [CHECKPOINT_NAME, "config.toml", "metrics.jsonl"])
def test_a_run_killed_in_its_first_write_of_a_file_begins_anew_in_its_directory(
    tmp_path, monkeypatch, name
):
    run, replaces = tmp_path / "run", os.replace

    def killed(source, target):
        if Path(target).name != name:
            return replaces(source, target)
        shutil.copy(source, run / Path(source).name)  # which is only removed where it was
        raise KeyboardInterrupt

    run.mkdir()
    (run / ".lock").touch()
    monkeypatch.setattr(os, "replace", killed)
    with contextlib.suppress(KeyboardInterrupt):
        write_atomically(tmp_path / name, b"half")
    monkeypatch.undo()
    left = next(path for path in run.iterdir() if path.suffix == ".tmp")
    assert main([*TINY, "--out", str(run)]) == 0
    assert not (run / left.name).exists() or name == "metrics.jsonl"  # which is only appended to


def test_a_run_of_the_largest_seed_is_compared_on_several_images(tmp_path):
    seed = ["--compare-images", "2", "--held-out-fraction", "0.5", "--seed", str(2**63 - 1)]
    assert main([*TINY[:-2], *seed, "--out", str(tmp_path / "run")]) == 0
    assert {record.seed for record in read_records(tmp_path / "run" / "comparison.jsonl")} == {
        *(2**63 - 1, 0)
    }
