"""Loggers by name: what they get, and that none of them ever ends a run."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from records import ladder

from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.base.extras import EXTRAS, Extra, unsent_runs
from hyperinit.learn import tracking
from hyperinit.learn.config import LoopConfig
from hyperinit.learn.tracking import Tracker, open_tracker, read_log
from hyperinit.loggers.table import LOGGERS, NONE, WANDB, LoggedRun, LoggerKind, check_logger
from hyperinit.record.records import append_record

CONFIG = {"lr": 0.1, "inits": ["33"]}
INSTALLED = Extra("pytest", "pytest", "--log mine needs")


def log_everything(tracker: Tracker) -> None:
    """8 rows, with the start."""
    for step in (1, 2):
        tracker.log({"train/loss": 1 / step, "a b\n": 2.0}, step)
        tracker.log_image("preview", torch.full((3, 4, 6), 0.5), step)
    tracker.log_table("fits", ["init", "mse"], [["a|b", 0.5], [None, float("nan")]])
    (tracker.path.parent / "hyper.safetensors").write_bytes(b"weights")
    tracker.log_artifact("hyper", tracker.path.parent / "hyper.safetensors")
    tracker.summary({"psnr_db": 22.0, "note": "done"})
    tracker.finish()


class Broken:
    """A logger of which everything raises, or hangs."""

    def __init__(self, hangs: bool) -> None:
        self.hangs = hangs
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def method(*_: object, **__: object) -> None:
            self.calls.append(name)
            if self.hangs:
                time.sleep(60)
            raise RuntimeError("broken\npipe")

        return method


def test_the_setting_names_every_logger_and_no_other():
    assert get_args(get_type_hints(LoopConfig)["log"]) == (WANDB, *LOGGERS, NONE)
    with pytest.raises(InputError, match=r"logger 'tensorbord' .did you mean 'tensorboard'"):
        check_logger("tensorbord")


@pytest.mark.parametrize("hangs", [False, True])
def test_a_logger_that_fails_is_one_warning_and_the_run_continues(
    tmp_path, monkeypatch, caplog, hangs
):
    broken = Broken(hangs)
    monkeypatch.setitem(LOGGERS, "mine", LoggerKind("Mine", lambda run: broken))
    monkeypatch.setitem(EXTRAS, "mine", INSTALLED)
    monkeypatch.setattr(tracking, "_CALL_SEC", 0.1)
    tracker = open_tracker(tmp_path, CONFIG, "auto", log="mine")
    log_everything(tracker)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert warning.startswith("Mine failed (") and "\n" not in warning
    assert broken.calls == ["numbers"] and len(read_log(tracker.path)) == 8
    assert not (tmp_path / "wandb").exists()


def test_a_logger_that_does_not_start_is_one_warning(tmp_path, monkeypatch, caplog):
    def start(run: LoggedRun) -> Any:
        raise OSError("no server")

    monkeypatch.setitem(LOGGERS, "mine", LoggerKind("Mine", start))
    monkeypatch.setitem(EXTRAS, "mine", INSTALLED)
    tracker = open_tracker(tmp_path, CONFIG, "auto", log="mine")
    log_everything(tracker)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "Mine did not start (OSError: no server)" in warning
    assert len(read_log(tracker.path)) == 8


def test_no_logger_leaves_the_runs_own_log(tmp_path):
    tracker = open_tracker(tmp_path, CONFIG, "auto", log=NONE)
    log_everything(tracker)
    assert len(read_log(tracker.path)) == 8 and not (tmp_path / "wandb").exists()


@pytest.mark.parametrize("name", LOGGERS)
def test_a_missing_extra_is_one_line_before_anything_is_made(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, EXTRAS[name].module, None)
    with pytest.raises(SystemExit) as stopped:
        main(["meta-train", "--preset", "tiny", "--log", name, "--out", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1
    assert f"pip install 'hyperinit[{name}]'" in error and not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_everything_and_a_resumed_run_every_step_once(tmp_path, caplog):
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_everything(open_tracker(tmp_path, CONFIG, "auto", log="tensorboard"))
    resumed = open_tracker(tmp_path, CONFIG, "auto", resume_step=1, log="tensorboard")
    resumed.log({"train/loss": 7.0}, 2)
    resumed.finish()
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    scalars = [(event.step, event.value) for event in found.Scalars("train/loss")]
    assert scalars == [(1, 1.0), (2, 7.0)]
    assert len(found.Tags()["scalars"]) == 2 and found.Tags()["images"] == ["preview"]
    texts = found.Tags()["tensors"]
    assert {tag.partition("/")[0] for tag in texts} == {"config", "fits", "summary"}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # what its dependencies deprecate
def test_mlflow_has_everything_and_a_resumed_run_keeps_its_id(tmp_path, monkeypatch, caplog):
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    pytest.importorskip("sqlalchemy", reason="mlflow without a database")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    run_dir = tmp_path / "run"
    log_everything(open_tracker(run_dir, CONFIG, "auto", log="mlflow"))
    resumed = open_tracker(run_dir, CONFIG, "auto", resume_step=2, log="mlflow")
    resumed.log({"train/loss": 0.25}, 3)
    resumed.finish(1)
    ours = [r for r in caplog.records if r.name.startswith("hyperinit")]
    assert [r.getMessage() for r in ours if r.levelno >= logging.WARNING] == []
    client = MlflowClient(f"sqlite:///{run_dir / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "hyperinit"]
    (run,) = client.search_runs([experiment.experiment_id])
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(one.step, one.value) for one in losses] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert run.data.params["lr"] == "0.1" and run.data.tags["note"] == "done"
    assert run.info.status == "FAILED"
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names == {"config.json", "fits.md", "hyper.safetensors", "images"}
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


# What W&B wrote offline


@pytest.mark.slow
def test_the_report_says_how_to_send_what_was_written_offline(tmp_path, capsys):
    for one in ladder("33", {1.0: 0.5, 2.0: 0.01}):
        append_record(tmp_path / "comparison.jsonl", one)
    arguments = ["report", str(tmp_path / "comparison.jsonl"), "-o", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "wandb sync" not in capsys.readouterr().err
    for name in ("offline-run-1", "offline-run-2", "run-3"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    (tmp_path / "wandb" / "offline-run-1" / "run-1.wandb.synced").touch()
    (sent,) = unsent_runs(tmp_path)
    assert main(arguments) == 0
    assert f"wandb sync {sent}\n" in capsys.readouterr().err and sent.endswith("offline-run-2")
    assert Path(tmp_path / "out" / "index.html").exists()
