"""Training runs: work that was paid for is kept, whatever happens to the process or its data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import smooth_image

from hyperinit.app import train as app_train
from hyperinit.app.meta_train import main
from hyperinit.base.files import exclusive
from hyperinit.hypernet.checkpoint import CHECKPOINT_KIND, load_hypernetwork
from hyperinit.images.save import save_image
from hyperinit.learn.rundir import LOCK_NAME
from hyperinit.learn.tracking import read_log
from hyperinit.photos.load import load
from hyperinit.record.records import read_records
from hyperinit.siren.store import CHECKPOINT_NAME, load_tensors, save_tensors

ROOT = Path(__file__).parent.parent.parent
TINY = ["--preset", "tiny", "--wandb", "disabled"]
SYNTHETIC = [*TINY, "--data", "synthetic"]
NO_COMPARISON = ["--compare-images", "0"]


def refused(arguments, capsys) -> str:
    """A command that must fail with exit code 2 and one line, which is returned."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return next(line for line in error.splitlines() if "error: " in line)


@pytest.fixture
def folder(tmp_path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(4):
        save_image(smooth_image(24, seed=seed), photos / f"p{'abcd'[seed]}.png")
    return photos


def killed_before_its_first_checkpoint(run: Path) -> None:
    """What is then there."""
    run.mkdir()
    (run / "config.toml").write_text("size = 16\n")
    (run / "metrics.jsonl").write_text('{"kind": "start", "step": 0, "config": {}}\n')
    (run / LOCK_NAME).touch()
    (run / f".{CHECKPOINT_NAME}.x1y2").write_bytes(b"half a check")


def test_a_run_killed_before_its_first_checkpoint_starts_anew_in_its_directory(tmp_path, capsys):
    run = tmp_path / "run"
    killed_before_its_first_checkpoint(run)
    line = refused(["--resume", run], capsys)
    assert f"--out {run}" in line and "first checkpoint" in line
    assert main([*SYNTHETIC, *NO_COMPARISON, "--out", str(run)]) == 0
    assert load_hypernetwork(run)[1]["step"] == 10
    starts = [row for row in read_log(run / "metrics.jsonl") if row["kind"] == "start"]
    assert len(starts) == 1 and starts[0]["config"]["max_steps"] == 10


@pytest.mark.parametrize("name", ["notes.txt", CHECKPOINT_NAME])
def test_a_directory_that_holds_anything_else_is_refused(tmp_path, capsys, name):
    run = tmp_path / "run"
    killed_before_its_first_checkpoint(run)
    (run / name).write_bytes(b"mine")
    assert "is not empty" in refused([*SYNTHETIC, "--out", run], capsys)
    assert (run / name).read_bytes() == b"mine"
    assert (run / "metrics.jsonl").stat().st_size > 0


def test_a_run_that_is_still_before_its_first_checkpoint_is_not_taken_over(tmp_path, capsys):
    run = tmp_path / "run"
    killed_before_its_first_checkpoint(run)
    with exclusive(run / LOCK_NAME):
        line = refused([*SYNTHETIC, *NO_COMPARISON, "--out", run], capsys)
    assert "another process" in line and (run / "metrics.jsonl").stat().st_size > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--compare-budgets", "1,0"], "compare_budgets"),
        (["--compare-budgets", ""], "compare_budgets"),
        (["--compare-lrs", "1e-3,1e-3"], "compare_lrs"),
        (["--compare-lrs", "-1"], "compare_lrs"),
    ],
)
def test_settings_of_the_comparison_are_checked_before_training(tmp_path, capsys, flags, message):
    assert message in refused([*SYNTHETIC, *flags, "--out", tmp_path / "run"], capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_finished_run_is_compared_again_with_other_budgets_rates_and_images(tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main([*SYNTHETIC, "--out", run, "--max-steps", "2"]) == 0
    first = (tmp_path / "run" / "comparison.jsonl").read_bytes()
    weights = (tmp_path / "run" / CHECKPOINT_NAME).read_bytes()
    other = ["--compare-budgets", "1", "--compare-lrs", "2e-3,4e-3", "--compare-images", "2"]
    assert main(["--resume", run, *other]) == 0
    records = read_records(tmp_path / "run" / "comparison-2.jsonl")
    assert {r.lr for r in records} == {2e-3, 4e-3} and {r.budget_epochs for r in records} == {1.0}
    assert len({r.image_hash for r in records}) == 2
    assert (tmp_path / "run" / "comparison.jsonl").read_bytes() == first
    before, after = load_hypernetwork(run)[0], weights
    assert before is not None and after  # the same network, with other settings beside it
    assert "--lr" in refused(["--resume", run, "--lr", "1"], capsys)


def stopped(run: Path, data: Path | str, *flags: str) -> None:
    arguments = [*TINY, *NO_COMPARISON, "--data", str(data), "--out", str(run), *flags]
    main([*arguments, "--time-limit", "1e-9"])
    assert load_hypernetwork(run)[1]["step"] == 1


def test_a_run_is_resumed_from_another_working_directory(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stopped(tmp_path / "run", folder.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["--resume", str(tmp_path / "run"), "--time-limit", "none"]) == 0
    assert load_hypernetwork(tmp_path / "run")[1]["step"] == 10


def test_where_the_data_moved_hashes_decide(tmp_path, folder, capsys):
    run, moved = tmp_path / "run", tmp_path / "moved"
    stopped(run, folder)
    folder.rename(moved)
    assert "--data" in refused(["--resume", run], capsys)
    others = tmp_path / "others"
    others.mkdir()
    for seed in range(4):
        save_image(smooth_image(24, seed=100 + seed), others / f"p{'abcd'[seed]}.png")
    line = refused(["--resume", run, "--data", others], capsys)
    assert "not the training images this run began with" in line
    assert load_hypernetwork(run)[1]["step"] == 1
    finish = ["--time-limit", "none", "--data", str(moved)]
    assert main(["--resume", str(run / CHECKPOINT_NAME), *finish]) == 0
    info = load_hypernetwork(run)[1]
    assert info["step"] == 10 and info["train"]["data"] == str(moved)


@pytest.fixture
def folders(tmp_path) -> Path:
    """Photographs in two folders; one of them is held out."""
    photos = tmp_path / "photos"
    for seed in range(4):
        place = photos / "ab"[seed % 2]
        place.mkdir(parents=True, exist_ok=True)
        save_image(smooth_image(24, seed=seed), place / f"p{seed}.png")
    return photos


WEIGHTS = ("--data-weights", "a=0.5")


def test_a_run_is_not_resumed_on_other_held_out_images(tmp_path, folders, capsys):
    run = tmp_path / "run"
    stopped(run, folders, "--split-by", "name")
    (held_out,) = load(str(folders), split_by="name").held_out
    save_image(smooth_image(24, seed=50), folders / held_out.name)
    line = refused(["--resume", run], capsys)
    assert "not the held-out images this run began with (1 then, 1 now)" in line


def test_images_that_have_other_names_are_not_called_other_images(tmp_path, folder, capsys):
    run = tmp_path / "run"
    stopped(run, folder)
    photo = load(str(folder)).train[0]
    (folder / photo.name).rename(folder / "z.png")
    line = refused(["--resume", run], capsys)
    assert "the training images are in another order than when this run began" in line


def test_a_run_is_not_resumed_where_photographs_moved_between_weights(tmp_path, folders, capsys):
    run = tmp_path / "run"
    stopped(run, folders, *WEIGHTS)
    (folders / "b" / "p1.png").rename(folders / "a" / "p9.png")  # the order of all is as before
    line = refused(["--resume", run], capsys)
    assert "data_weights" in line and str(folders) in line


def test_a_run_that_does_not_say_as_much_of_its_images_is_resumed(tmp_path, folders):
    run = tmp_path / "run"
    stopped(run, folders, *WEIGHTS)
    tensors, facts = load_tensors(run / CHECKPOINT_NAME, CHECKPOINT_KIND)
    assert len(facts.pop("held_out_hashes")) == 1 and facts.pop("weights_hash")
    save_tensors(run / CHECKPOINT_NAME, tensors, CHECKPOINT_KIND, facts)
    assert resumed(run, "--time-limit", "none")["step"] == 10


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--no-second-order", "--no-color-profiles"], "--no-color-profiles, --no-second-order"),
        (["--second-order"], "--second-order"),
        (["--seed", "0"], "--seed"),
        (["--data-weights", ""], "--data-weights"),
        (["--clip-norm", "none", "--print-config"], "--clip-norm, --print-config"),
    ],
)
def test_a_resumed_run_refuses_other_settings_however_they_are_typed(
    tmp_path, capsys, flags, named
):
    stopped(tmp_path, "synthetic")
    before = (tmp_path / "config.toml").read_bytes()
    line = refused(["--resume", tmp_path, *flags], capsys)
    assert line.endswith(f"--resume keeps the run's own settings: leave out {named}")
    assert (tmp_path / "config.toml").read_bytes() == before


def edit(run: Path, **values: str) -> None:
    """Changes values in the run's config file."""
    path = run / "config.toml"
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{edited(line, values)}\n" for line in lines))


def edited(line: str, values: dict[str, str]) -> str:
    name = line.split(" = ")[0]
    return f"{name} = {values[name]}" if name in values else line


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"lr": "0.5", "max_steps": "20"}, "set max_steps back to 10, lr back to 0.001, or start"),
        ({"clip_norm": '"none"'}, "set clip_norm back to 1.0, or start"),
        ({"color_profiles": "false"}, "set color_profiles back to true, or start"),
        ({"lr": '"fast"'}, "lr must be a finite number, not 'fast'"),
        ({"time_limit_min": "-1"}, "time_limit_min must be at least 0"),
    ],
)
def test_an_edited_config_file_is_not_overwritten_without_a_word(tmp_path, capsys, values, says):
    stopped(tmp_path, "synthetic")
    edit(tmp_path, **values)
    before = (tmp_path / "config.toml").read_bytes()
    line = refused(["--resume", tmp_path], capsys)
    assert f"{tmp_path}/config.toml" in line and says in line
    assert (tmp_path / "config.toml").read_bytes() == before


def resumed(run: Path, *flags: str) -> dict:
    """The settings and the step of a run after it was resumed."""
    assert main(["--resume", str(run), *flags]) == 0
    info = load_hypernetwork(run)[1]
    return {**info["train"], "step": info["step"]}


def test_what_may_change_is_taken_from_the_config_file_and_flags_win(tmp_path):
    stopped(tmp_path, "synthetic")
    edit(tmp_path, time_limit_min='"none"', compare_budgets="[2.0]", checkpoint_sec="7")
    found = resumed(tmp_path, "--checkpoint-sec", "8")
    assert (found["step"], found["compare_budgets"], found["checkpoint_sec"]) == (10, [2.0], 8.0)


def test_a_run_at_its_end_may_be_given_more_steps(tmp_path, capsys):
    stopped(tmp_path, "synthetic")
    line = refused(["--resume", tmp_path, "--max-steps", "12"], capsys)
    assert line.endswith("--resume keeps the run's own settings: leave out --max-steps")
    edit(tmp_path, time_limit_min='"none"')
    assert resumed(tmp_path)["step"] == 10
    line = refused(["--resume", tmp_path, "--max-steps", "8"], capsys)
    assert line.endswith("leave out --max-steps")
    found = resumed(tmp_path, "--max-steps", "11")
    assert (found["step"], found["max_steps"]) == (11, 11)
    edit(tmp_path, max_steps="12")
    found = resumed(tmp_path)
    assert (found["step"], found["max_steps"]) == (12, 12)


@pytest.mark.parametrize("content", [None, b"lr = = 3\n", b"\xff", b"", b"size = 16\n"])
def test_a_config_file_that_is_gone_or_unreadable_stops_no_resume(tmp_path, caplog, content):
    stopped(tmp_path, "synthetic")
    path = tmp_path / "config.toml"
    before = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert resumed(tmp_path)["step"] == 1  # its time was up
    assert path.read_bytes() == before
    lost = content in (b"lr = = 3\n", b"\xff")  # perhaps an edit with a slip in it
    assert (f"{path}: not valid TOML" in caplog.text) == lost


def started(run: Path, *prefix: str) -> subprocess.Popen:
    """A run in a process of its own that has written its first checkpoint."""
    flags = ["--max-steps", "1000000", *SYNTHETIC, *NO_COMPARISON, "--out", str(run)]
    code = "import sys; from hyperinit.app.meta_train import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", code, *flags],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # As from a terminal, even where these tests were started under nohup.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    log = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and b"train/loss" in log.read_bytes()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_a_terminal_that_closes_leaves_a_checkpoint(tmp_path):
    process = started(tmp_path / "run")
    process.send_signal(signal.SIGHUP)
    for _ in range(20):  # signals that wait together are one
        time.sleep(0.02)
        process.send_signal(signal.SIGHUP)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGHUP and "Traceback" not in error
    assert load_hypernetwork(tmp_path / "run")[1]["step"] > 0


@pytest.mark.long
def test_under_nohup_a_terminal_that_closes_does_not_stop_training(tmp_path):
    process = started(tmp_path / "run", "nohup")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.long
def test_a_second_ctrl_c_leaves_the_last_checkpoint_and_no_traceback(tmp_path):
    process = started(tmp_path / "run")
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error
    load_hypernetwork(tmp_path / "run")


def test_a_second_ctrl_c_in_the_middle_of_a_step(tmp_path, monkeypatch, capsys):
    real, steps = app_train.train, []

    def interrupted(*arguments, **settings):
        def on_step(step, metrics):
            steps.append(step)
            if step == 3:
                raise KeyboardInterrupt

        real(*arguments, **{**settings, "on_step": on_step})

    monkeypatch.setattr(app_train, "train", interrupted)
    run = tmp_path / "run"
    assert main([*SYNTHETIC, *NO_COMPARISON, "--out", str(run)]) == 130
    assert f"--resume {run}" in capsys.readouterr().err
    monkeypatch.setattr(app_train, "train", real)
    assert main(["--resume", str(run)]) == 0
    assert load_hypernetwork(run)[1]["step"] == 10


def test_a_run_without_a_checkpoint_is_not_said_to_continue(tmp_path, monkeypatch, capsys):
    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(app_train, "train", interrupted)
    assert main([*SYNTHETIC, *NO_COMPARISON, "--out", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped at once"
