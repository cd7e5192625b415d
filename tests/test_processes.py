"""Several processes that share a training, over gloo on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import share_training
import torch
from share_training import RUNS, run, start

from hyperinit.base.errors import InputError
from hyperinit.learn.state import load_state
from hyperinit.learn.tracking import read_log
from hyperinit.siren.store import CHECKPOINT_NAME
from hyperinit.spread.processes import ALONE, Processes, launched


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """What two processes have left."""
    out = tmp_path_factory.mktemp("shared")
    started = start(2, share_training.__file__, str(out))
    texts = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 9], texts
    return out


def losses(run_dir: Path) -> list[float]:
    rows = [row["values"] for row in read_log(run_dir / "metrics.jsonl") if "values" in row]
    return [values["train/loss"] for values in rows if "train/loss" in values]


def assert_alike(model, other) -> None:
    """Up to rounding, which Adam makes as large as 1e-5 where a gradient is nearly zero."""
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hyper-3", "hyper-1"])
def test_two_processes_train_what_one_trains(shared, tmp_path, name):
    alone = run(tmp_path, name)
    together, *_ = load_state(shared / name / CHECKPOINT_NAME, RUNS[name][0])
    assert together.step == alone.step == 4
    assert_alike(together.model, alone.model)
    assert losses(shared / name) == pytest.approx(losses(tmp_path / name), rel=1e-4)


@pytest.mark.slow
def test_reptile_too_and_a_resumed_run_with_it(shared, tmp_path):
    alone = run(tmp_path, "reptile-3", steps=6)
    together, *_ = load_state(shared / "reptile-3" / CHECKPOINT_NAME, RUNS["reptile-3"][0])
    assert together.step == 6
    assert_alike(together.model, alone.model)


@pytest.mark.slow
def test_one_process_continues_what_two_have_begun(shared, tmp_path):
    shutil.copytree(shared / "hyper-3", tmp_path / "cut" / "hyper-3")
    resumed = run(tmp_path / "cut", "hyper-3", steps=6)
    whole = run(tmp_path / "whole", "hyper-3", steps=6)
    assert resumed.step == 6
    assert_alike(resumed.model, whole.model)


@pytest.mark.slow
def test_what_one_is_told_all_do(shared):
    assert [(shared / f"stopped-{rank}").read_text() for rank in (0, 1)] == ["2 15", "2 15"]


@pytest.mark.slow
def test_processes_with_other_settings_are_refused_by_all(shared):
    for rank in (0, 1):
        text = (shared / f"unlike-{rank}").read_text()
        assert text.startswith("process 1 of 2 has other settings than process 0")


@pytest.mark.slow
def test_where_one_dies_the_other_ends_with_one_line_and_keeps_what_there_is(shared):
    text = (shared / "lost-0").read_text()
    assert text.startswith("process 0 of 2: another process of this run has ended")
    assert "--resume" in text and "\n" not in text
    state, *_ = load_state(shared / "lost" / "hyper-3" / CHECKPOINT_NAME, RUNS["hyper-3"][0])
    assert state.step == 2


@pytest.mark.parametrize(("items", "count"), [(7, 3), (2, 4), (0, 2), (8, 1)])
def test_every_item_is_in_one_part_and_parts_are_alike(items, count):
    parts = [range(items)[Processes(rank, count).part(items)] for rank in range(count)]
    assert [i for part in parts for i in part] == list(range(items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_process_that_nobody_has_started_with_others_is_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")  # of another program
    monkeypatch.delenv("RANK", raising=False)
    with launched() as processes:
        assert processes == ALONE


def test_processes_that_cannot_meet_say_so(monkeypatch):
    for name, value in {
        "RANK": "x",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="cannot find each other"), launched():
        pass
