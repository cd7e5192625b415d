"""Training runs on disks that are full or broken: numbers first, pictures if possible."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import smooth_image

from hyperinit.app import compare
from hyperinit.app import train as app_train
from hyperinit.app.meta_train import main
from hyperinit.base import files
from hyperinit.base.errors import InputError
from hyperinit.hypernet.checkpoint import load_hypernetwork
from hyperinit.learn import tracking
from hyperinit.learn.tracking import open_tracker, read_log
from hyperinit.record.records import read_records
from hyperinit.siren.store import CHECKPOINT_NAME

SYNTHETIC = ["--preset", "tiny", "--wandb", "disabled", "--data", "synthetic"]


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Writes beyond so many bytes fail, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def one_line(capsys) -> str:
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if "error: " in line]
    return line


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, capsys):
    run = tmp_path / "run"
    main([*SYNTHETIC, "--compare-images", "0", "--out", str(run), "--time-limit", "1e-9"])
    before = (run / CHECKPOINT_NAME).read_bytes()
    with no_file_larger_than(len(before) // 2), pytest.raises(SystemExit) as stopped:
        main(["--resume", str(run), "--time-limit", "none"])
    assert stopped.value.code == 2 and CHECKPOINT_NAME in one_line(capsys)
    assert (run / CHECKPOINT_NAME).read_bytes() == before
    assert not [name for name in os.listdir(run) if name.startswith(f".{CHECKPOINT_NAME}")]
    assert main(["--resume", str(run), "--time-limit", "none"]) == 0  # there is room again
    assert load_hypernetwork(run)[1]["step"] == 10


def test_where_the_log_is_full_the_trained_steps_are_kept(tmp_path, capsys, monkeypatch):
    run, real = tmp_path / "run", tracking.Tracker._write

    def full_after_step_4(self, kind, step, **content):
        if step > 4:
            raise InputError(f"cannot write {self.path}: {os.strerror(errno.ENOSPC)}")
        real(self, kind, step, **content)

    monkeypatch.setattr(tracking.Tracker, "_write", full_after_step_4)
    with pytest.raises(SystemExit):
        main([*SYNTHETIC, "--compare-images", "0", "--out", str(run)])
    assert "No space left" in one_line(capsys)
    monkeypatch.undo()
    assert load_hypernetwork(run)[1]["step"] == 5
    assert main(["--resume", str(run)]) == 0


def rows_of(run) -> list:
    """What a log says: of which step, and what of it."""
    rows = read_log(run / "metrics.jsonl")
    return [(r["step"], sorted(r.get("values", [r.get("name")]))) for r in rows if is_number(r)]


def is_number(row) -> bool:
    return row["kind"] in ("metrics", "image")


@pytest.mark.parametrize("at", [(5, "train/loss"), (5, "held_out/psnr_before"), (6, "train/loss")])
def test_after_a_full_disk_the_log_has_every_row_once(tmp_path, monkeypatch, at):
    real = tracking.Tracker._write

    def full(self, kind, step, **content):
        if step == at[0] and at[1] in content.get("values", {}):
            raise InputError(f"cannot write {self.path}: {os.strerror(errno.ENOSPC)}")
        real(self, kind, step, **content)

    monkeypatch.setattr(app_train, "compare", lambda *arguments: None)
    assert main([*SYNTHETIC, "--out", str(tmp_path / "whole")]) == 0
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(tracking.Tracker, "_write", full)
        main([*SYNTHETIC, "--out", str(run)])
    assert load_hypernetwork(run)[1]["step"] == at[0]
    assert main(["--resume", str(run)]) == 0
    assert rows_of(run) == rows_of(tmp_path / "whole")
    assert "unlogged" not in load_hypernetwork(run)[1]


def test_a_run_resumed_at_its_first_step_is_evaluated_there_once(tmp_path, monkeypatch):
    monkeypatch.setattr(app_train, "compare", lambda *arguments: None)
    run = tmp_path / "run"
    main([*SYNTHETIC, "--out", str(run), "--time-limit", "0"])
    assert load_hypernetwork(run)[1]["step"] == 0
    once = rows_of(run)
    assert main(["--resume", str(run)]) == 0
    assert rows_of(run) == once and {step for step, _ in once} == {0}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_log_on_a_full_disk_is_one_line_before_training(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").touch()
    os.symlink("/dev/full", run / "metrics.jsonl")
    with pytest.raises(InputError, match="No space left"):
        open_tracker(run, {}, "disabled")


@pytest.mark.slow
def test_previews_that_cannot_be_written_do_not_end_training(tmp_path, caplog):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").touch()
    (run / "images").write_bytes(b"a file where the folder would be")
    with caplog.at_level(logging.WARNING):
        assert main([*SYNTHETIC, "--out", str(run)]) == 0
    warnings = [r.message for r in caplog.records if "pictures" in r.message]
    assert len(warnings) == 1 and "images" in warnings[0]
    assert load_hypernetwork(run)[1]["step"] == 10
    kinds = {row["kind"] for row in read_log(run / "metrics.jsonl")}
    assert "image" not in kinds and "metrics" in kinds


def test_only_the_first_lost_picture_is_a_warning(tmp_path, caplog):
    tracker = open_tracker(tmp_path, {}, "disabled")
    (tmp_path / "images").write_bytes(b"")
    for step in range(3):
        tracker.log_image("preview", smooth_image(), step)
    (tmp_path / "images").unlink()
    tracker.log_image("preview", torch.zeros(3, 4, 4), 3)  # it can be written again
    tracker.finish()
    assert len(caplog.records) == 1
    assert [r["step"] for r in read_log(tracker.path) if r["kind"] == "image"] == [3]


def test_a_chart_that_cannot_be_made_leaves_the_table_and_the_records(
    tmp_path, caplog, capsys, monkeypatch
):
    def broken(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compare, "png", broken)
    run = tmp_path / "run"
    assert main([*SYNTHETIC, "--out", str(run), "--max-steps", "1"]) == 0
    captured = capsys.readouterr()
    assert "| hyper |" in captured.out
    assert (run / "comparison.jsonl").exists() and (run / "comparison.md").exists()
    assert [r for r in caplog.records if "No space left" in r.message]
    assert captured.err.splitlines()[-1].endswith("/comparison.md, with comparison.jsonl")


def test_a_comparison_that_cannot_be_written_is_printed_and_kept_elsewhere(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    free = files._open_temporary

    def full(path):
        if path == run / "comparison.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device")
        return free(path)

    run = tmp_path / "run"
    monkeypatch.setattr(files, "_open_temporary", full)
    with pytest.raises(SystemExit) as stopped:
        main([*SYNTHETIC, "--out", str(run), "--max-steps", "1"])
    captured = capsys.readouterr()
    assert stopped.value.code == 2 and "| hyper |" in captured.out
    spare = captured.err.splitlines()[-1].rpartition("; the comparison is in ")[2]
    assert any(record.init == "hyper" for record in read_records(Path(spare)))
