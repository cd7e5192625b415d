"""Where a disk fills up or a place is read later on, what was paid for is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import smooth_image

from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.hypernet.checkpoint import load_hypernetwork
from hyperinit.images.save import save_image
from hyperinit.learn import loop
from hyperinit.record import records as records_module
from hyperinit.record.records import read_records
from hyperinit.record.thumbnails import Thumbnails
from hyperinit.siren import store
from hyperinit.siren.store import load_params

ROOT = Path(__file__).parent.parent.parent
SMALL = ["--size", "8", "--width", "8", "--depth", "1", "--budget-epochs", "4"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("photos/a.png", "tuning.png")):
        Path(name).parent.mkdir(exist_ok=True)
        save_image(smooth_image(16, seed=seed), name)
    return tmp_path


def benchmark(out: str) -> list[str]:
    sizes = ["--image-size", "8", "--width", "8", "--depth", "1", "--batch-pixels", "64"]
    rates = ["--budgets-epochs", "1", "--lrs", "1e-3", "--lr-images", "1", "--seeds", "1"]
    images = ["--images", "photos/a.png", "--tuning-images", "tuning.png", "--inits", "33"]
    return ["benchmark", *images, *sizes, *rates, "--thumbnails", "--workers", "1", "--out", out]


def refused(arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_a_fit_whose_disk_has_filled_up_is_kept_elsewhere(place, monkeypatch, capsys):
    real = store.save_params
    monkeypatch.setattr("tempfile.tempdir", str(place))

    def full(path, params, **facts):
        if Path(path) == Path("o.safetensors"):
            raise InputError("cannot write o.safetensors: No space left on device")
        real(path, params, **facts)

    monkeypatch.setattr("hyperinit.siren.store.save_params", full)
    error = refused(["fit", "photos/a.png", *SMALL, "-o", "o.safetensors"], capsys)
    (kept,) = place.glob("hyperinit-*/o.safetensors")
    assert str(kept) in error and load_params(kept)[1]["mse"] > 0


def test_the_last_steps_of_a_training_are_kept_elsewhere(place, monkeypatch, capsys):
    real = loop.save_state
    monkeypatch.setattr("tempfile.tempdir", str(place))

    def full(path, state, config, **info):
        if state.step and path.parent.name == "run":
            raise InputError("cannot write run: No space left on device")
        real(path, state, config, **info)

    monkeypatch.setattr(loop, "save_state", full)
    training = ["meta-train", "--preset", "tiny", "--data", "synthetic", "--wandb", "disabled"]
    always = ["--checkpoint-sec", "1e-9", "--out", "run"]  # each step tries, and training goes on
    error = refused([*training, *always], capsys)
    (kept,) = place.glob("hyperinit-*/checkpoint.safetensors")
    assert "step 10 is in" in error and load_hypernetwork(kept)[1]["step"] == 10


@pytest.mark.slow
def test_pictures_that_cannot_be_kept_cost_no_record(place, monkeypatch, caplog):
    def full(self, record, *pictures):
        raise InputError("cannot write b.thumbnails: No space left on device")

    monkeypatch.setattr(Thumbnails, "add", full)
    assert main(benchmark("b.jsonl")) == 0
    assert {record.is_tuning for record in read_records("b.jsonl")} == {True, False}
    assert sum("no more pictures" in line for line in caplog.messages) == 1


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_record_that_cannot_be_written_is_one_line_and_leaves_whole_lines(
    place, monkeypatch, capsys
):
    assert main(benchmark("b.jsonl")) == 0
    before = Path("b.jsonl").read_bytes()
    assert main([*benchmark("b.jsonl"), "--inits", "33"]) == 0
    assert Path("b.jsonl").read_bytes() == before
    monkeypatch.setattr(records_module.os, "fsync", _no_space)
    error = refused([*benchmark("b.jsonl"), "--inits", "33", "22"], capsys)
    assert "cannot write b.plans.json: No space left" in error
    assert Path("b.jsonl").read_bytes() == before


def _no_space(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "command",
    [
        [*benchmark("photos/b.jsonl"), "--images", "photos"],
        [*benchmark("photos/b.jsonl"), "--images", "hf:photos:train#image"],
        ["meta-train", "--preset", "tiny", "--data", "photos", "--out", "photos/run"],
        ["meta-train", "--preset", "tiny", "--data", "hf:photos", "--out", "photos/run"],
    ],
)
def test_pictures_are_not_written_where_images_are_read(place, command, capsys):
    assert "choose a place outside" in refused(command, capsys)
    assert os.listdir("photos") == ["a.png"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="descriptors of POSIX")
def test_a_fit_without_stdout_and_stderr_writes_a_whole_file(place):
    command = [sys.executable, "-m", "hyperinit.app.cli", "fit", str(place / "photos/a.png")]
    line = " ".join(map(str, [*command, *SMALL, "-o", place / "o.safetensors"]))
    done = subprocess.run(["sh", "-c", f"exec {line} <&- >&- 2>&-"], cwd=ROOT)
    assert done.returncode == 0
    assert load_params(place / "o.safetensors")[1]["mse"] > 0
