"""The commands as users type them: results, one clear line for bad input, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import shake_heads, smooth_image, tiny_hyper

from hyperinit import fit, load, load_image, load_params, render, save_image
from hyperinit.app.cli import main
from hyperinit.hypernet.checkpoint import load_hypernetwork
from hyperinit.learn.state import TrainState, save_state
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.learn.tracking import read_log
from hyperinit.siren.store import CHECKPOINT_NAME
from scripts import meta_train

ROOT = Path(__file__).parent.parent
TINY = ["--preset", "tiny", "--data", "synthetic", "--wandb", "disabled"]


@pytest.fixture
def checkpoint(tmp_path) -> str:
    state = TrainState(HYPERNETWORK, shake_heads(tiny_hyper()), torch.optim.AdamW([torch.zeros(1)]))
    save_state(tmp_path / CHECKPOINT_NAME, state, TrainConfig())
    return str(tmp_path / CHECKPOINT_NAME)


@pytest.fixture
def photo(tmp_path) -> str:
    save_image(smooth_image(24), tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def fails(arguments, capsys, run=main) -> str:
    """Runs a command that must fail: exit code 2 and one line, which is returned."""
    with pytest.raises(SystemExit) as stopped:
        run(arguments)
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1
    return lines[0]


def test_generate_writes_what_python_generates(tmp_path, checkpoint, photo):
    assert (
        main(["generate", photo, "--checkpoint", checkpoint, "-o", f"{tmp_path}/o.safetensors"])
        == 0
    )
    params, facts = load_params(tmp_path / "o.safetensors")
    expected = load(checkpoint).generate(load_image(photo))
    assert all(torch.equal(params[name], expected[name]) for name in expected)
    assert facts["images"][0]["name"] == "photo.png" and facts["images"][0]["width"] == 24


@pytest.mark.parametrize(("init", "factor"), [("identity", 0.5), ("33", 1.0)])
def test_a_fit_takes_the_rate_that_suits_its_init(tmp_path, photo, init, factor, monkeypatch):
    calls = []

    def note_and_fit(start, image, config, **options):
        calls.append((start, image, config))
        return fit(start, image, config, **options)

    monkeypatch.setattr("hyperinit.fitting.fit.fit", note_and_fit)
    out = tmp_path / "fitted.safetensors"
    network = ["--width", "16", "--depth", "2", "--budget-epochs", "1", "-o", str(out)]
    assert main(["fit", photo, "--init", init, *network]) == 0
    ((start, image, config),) = calls
    lr = load_params(out)[1]["lr"]
    assert start.lr_factor == factor and lr == fit(start, image, config).lr
    assert fit(replace(start, lr_factor=4.0), image, config).lr > lr  # the start decides


def test_generate_stacks_several_images_or_fills_a_directory(tmp_path, checkpoint, photo):
    other = tmp_path / "other.png"
    save_image(smooth_image(24, seed=3), other)
    command = ["generate", photo, str(other), "--checkpoint", checkpoint, "-o"]
    main([*command, f"{tmp_path}/both.safetensors"])
    main([*command, f"{tmp_path}/each"])
    both, _ = load_params(tmp_path / "both.safetensors")
    one, _ = load_params(tmp_path / "each" / "other.safetensors")
    assert both.batch_shape == (2,)
    assert all(torch.equal(both[name][1], one[name]) for name in one)


@pytest.mark.parametrize("init", ["waves-steps", "33", "CHECKPOINT"])
@pytest.mark.parametrize("many", [False, True])
def test_a_fit_from_a_generated_file_is_the_fit_from_its_init(
    tmp_path, checkpoint, photo, init, many, monkeypatch, capsys
):
    init = checkpoint if init == "CHECKPOINT" else init
    own = ["--width", "16", "--depth", "2"] if init != checkpoint else []
    monkeypatch.chdir(tmp_path)
    save_image(smooth_image(24, seed=3), "other.png")
    photos = ["other.png", photo] if many else [photo]
    assert main(["generate", *photos, "--init", init, *own, "-o", "start.safetensors"]) == 0
    capsys.readouterr()
    length = ["--budget-epochs", "3", "--json", "--quiet"]
    index = ["--index", "1"] if many else []
    assert main(["fit", photo, "--init", "start.safetensors", *index, *length]) == 0
    assert main(["fit", photo, "--init", init, *own, *length]) == 0
    from_file, by_name = map(json.loads, capsys.readouterr().out.splitlines())
    for field in ("mse", "psnr_start", "epochs"):  # its rate, its warm-up and its cost are known
        assert from_file[field] == by_name[field]


@pytest.mark.slow
@pytest.mark.parametrize("init", ["paper", "22", "33", "CHECKPOINT", "FILE"])
def test_fit_improves_from_every_kind_of_init(tmp_path, checkpoint, photo, init, capsys):
    if init == "FILE":
        init = f"{tmp_path}/o.safetensors"
        main(["generate", photo, "--checkpoint", checkpoint, "-o", init])
    init = checkpoint if init == "CHECKPOINT" else init
    out, picture = tmp_path / "fitted.safetensors", tmp_path / "fitted.png"
    options = {"width": 16, "depth": 2, "budget-epochs": 60, "batch-pixels": 64, "render": picture}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    main(["fit", photo, "--init", init, *flags, "-o", str(out)])
    params, facts = load_params(out)
    assert facts["mse"] < 0.5 and "PSNR" in capsys.readouterr().out
    shown = load_image(picture)
    assert (shown - render(params, 24, 24)).abs().max() <= 0.5 / 255 + 1e-6
    main(["render", str(out), "-o", str(picture)])
    assert torch.equal(load_image(picture), shown)
    main(["render", str(out), "--size", "5x9", "-o", str(picture)])
    assert load_image(picture).shape == (3, 5, 9)


def test_bad_input_is_one_line_and_changes_nothing(tmp_path, checkpoint, photo, capsys):
    out = tmp_path / "out.safetensors"
    main(["generate", photo, "--checkpoint", checkpoint, "-o", str(out)])
    precious = out.read_bytes()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(Path(photo).read_bytes()[:40])
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    o = ["-o", str(out)]
    cases = {
        "nope.png": ["fit", f"{tmp_path}/nope.png", *o],
        "broken.jpg": ["generate", photo, str(broken), "--checkpoint", checkpoint, *o],
        "did you mean '33'": ["fit", photo, "--init", "333", *o],
        "junk.safetensors": ["fit", photo, "--init", f"{tmp_path}/junk.safetensors", *o],
        "no such file": ["generate", photo, "--checkpoint", f"{tmp_path}/nowhere", *o],
        "unknown init ''": ["fit", photo, "--init", "", *o],
        "did you mean '--init'": ["fit", photo, "--ini", "33", *o],
        "--budget-epochs": ["fit", photo, "--budget-epochs", "-1", *o],
        "lr must be": ["fit", photo, "--lr", "0", *o],
        "no such directory": ["fit", photo, "-o", f"{tmp_path}/no/where.safetensors"],
        "must end in": ["fit", photo, "--render", f"{tmp_path}/x.xyz", *o],
        "takes no index": ["fit", photo, "--init", "33", "--index", "1", *o],
        "not a SIREN of another program": [
            "fit",
            photo,
            "--init",
            "33",
            "--theirs",
            "order=xy",
            *o,
        ],
        f"{checkpoint} is not a file": [
            "generate",
            photo,
            "--init",
            checkpoint,
            "--index",
            "0",
            *o,
        ],
        "brings a network of its own": [
            *("generate", photo, "--init", checkpoint, "--width", "300", *o)
        ],
        "must look like": ["render", checkpoint, "--size", "12x", "-o", f"{tmp_path}/x.png"],
        "not hyperinit-params-1": ["render", checkpoint, "-o", f"{tmp_path}/x.png"],
    }
    capsys.readouterr()
    for text, arguments in cases.items():
        assert text in fails(arguments, capsys), arguments
    assert out.read_bytes() == precious


@pytest.mark.slow
def test_meta_train_writes_a_whole_run(tmp_path, capsys):
    assert meta_train.main([*TINY, "--out", str(tmp_path / "run")]) == 0
    table = (tmp_path / "run" / "comparison.md").read_text()
    assert capsys.readouterr().out.strip() == table.strip()
    assert [row.split("|")[1].strip() for row in table.splitlines()[2:]] == [
        *("paper", "22", "33", "identity", "waves", "hyper")
    ]
    assert "PSNR at step 0" in table and "epochs to 0.0008" in table
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.toml", "metrics.jsonl", CHECKPOINT_NAME} <= names
    assert {"comparison.jsonl", "comparison.png"} <= names
    load(tmp_path / "run").generate(smooth_image())


def test_a_stored_config_reproduces_the_run(tmp_path):
    meta_train.main([*TINY, "--out", str(tmp_path / "a"), "--seed", "5", "--compare-images", "0"])
    meta_train.main(["--config", f"{tmp_path}/a/config.toml", "--out", str(tmp_path / "b")])
    first, second = (load(tmp_path / name).state_dict() for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_meta_train_refuses_bad_input(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    (tmp_path / "bad.toml").write_text("inner_stepz = 3\n")
    cases = {
        "did you mean '--inner-steps'": ["--inner-stepz", "3"],
        "did you mean 'inner_steps'": ["--config", "bad.toml"],
        "unknown preset": ["--preset", "bsae"],
        "empty": [*TINY, "--data", "empty"],
        "missing": [*TINY, "--data", "missing/photos"],
        "not empty": [*TINY, "--out", "used"],
        "no such file": ["--resume", "nowhere"],
        "leave out --lr": ["--resume", "run", "--lr", "1"],
    }
    meta_train.main([*TINY, "--out", "run", "--compare-images", "0"])
    capsys.readouterr()
    for text, arguments in cases.items():
        assert text in fails(arguments, capsys, meta_train.main), arguments
    assert (tmp_path / "used" / "file").read_text() == "mine"
    assert not (tmp_path / "runs").exists()


def test_resuming_on_other_images_is_refused(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(4):
        save_image(smooth_image(24, seed=seed), folder / f"{seed}.png")
    data = ["--data", str(folder), "--compare-images", "0", "--out", str(tmp_path / "run")]
    meta_train.main([*TINY, *data])
    for seed in range(4):
        save_image(smooth_image(24, seed=9 + seed), folder / f"{seed}.png")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        meta_train.main(["--resume", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert "not the training images" in capsys.readouterr().err.splitlines()[-1]


def start_training(out: Path, *arguments: str) -> subprocess.Popen:
    """A run in a process of its own that writes a checkpoint after every step."""
    command = [sys.executable, "-m", "scripts.meta_train", *TINY, "--checkpoint-sec", "1e-9"]
    command += ["--max-steps", "100000", "--eval-steps", "100000", "--threads", "1"]
    return subprocess.Popen(
        [*command, "--out", str(out), *arguments], cwd=ROOT, stderr=subprocess.DEVNULL
    )


def losses(out: Path) -> dict[int, float]:
    """Training loss by step, as logged so far."""
    log = out / "metrics.jsonl"
    rows = read_log(log) if log.exists() else []
    logged = [row for row in rows if "train/loss" in row.get("values", {})]
    return {row["step"]: row["values"]["train/loss"] for row in logged}


def wait_for_steps(out: Path, process: subprocess.Popen, steps: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if len(losses(out)) >= steps:
            return
        time.sleep(0.05)
    raise AssertionError("the run did not come so far")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_kill_9_loses_nothing_before_the_last_checkpoint(tmp_path):
    process = start_training(tmp_path / "run")
    wait_for_steps(tmp_path / "run", process, 5)
    process.kill()
    process.wait()
    before = losses(tmp_path / "run")
    saved = load_hypernetwork(tmp_path / "run")[1]["step"]
    assert saved >= len(before) - 1  # a checkpoint a step, here
    resumed = subprocess.Popen(
        [sys.executable, "-m", "scripts.meta_train", "--resume", str(tmp_path / "run")],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    wait_for_steps(tmp_path / "run", resumed, len(before) + 3)
    resumed.send_signal(signal.SIGTERM)
    assert resumed.wait(60) == 143
    whole = losses(start_uninterrupted(tmp_path / "whole", len(before) + 3))
    after = losses(tmp_path / "run")
    assert list(after) == list(range(1, len(after) + 1))
    common = whole.keys() & after.keys()
    assert len(common) >= len(before) + 3
    assert {s: after[s] for s in common} == {s: whole[s] for s in common}


def start_uninterrupted(out: Path, steps: int) -> Path:
    """The same run, stopped by Ctrl-C after at least so many steps."""
    process = start_training(out)
    wait_for_steps(out, process, steps)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    return out
