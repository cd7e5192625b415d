"""Tracking: the JSONL log is always complete, and nothing that W&B does stops a run."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from wandb_stub import WandbStub

from hyperinit.base.errors import InputError
from hyperinit.images.decode import load_image
from hyperinit.learn import tracking
from hyperinit.learn.tracking import Tracker, open_tracker, read_log

HOSTILE = ["../up", "/abs", "..", "", "a\nb", "<script>", "x" * 300, "猫", "C:\\x", "-rf", "\udcff"]


@pytest.fixture(autouse=True)
def clean_wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No key, no settings and no service process of W&B from outside the test, or after it."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("WANDB_"):
            del os.environ[name]
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ.pop("NETRC", None)
    yield
    if sys.modules.get("wandb"):
        sys.modules["wandb"].teardown()
    os.environ.clear()
    os.environ.update(before)


def log_everything(tracker: Tracker, steps: int = 3) -> None:
    """What a run logs; 3 * `steps` + 3 rows and the start."""
    for step in range(steps):
        tracker.log({"train/loss": 1 / (step + 1), "psnr_db": 20.0 + step}, step)
        tracker.log_image("preview", torch.full((3, 2, 4), step / steps), step)
        tracker.log_table("fits", ["init", "mse"], [["33", 0.5], [None, float("nan")]])
    checkpoint = tracker.path.parent / "hyper.safetensors"
    checkpoint.write_bytes(b"weights")
    tracker.log_artifact("hyper", checkpoint)
    tracker.summary({"psnr_db": 22.0})
    tracker.summary({"note": "done"})


def metrics(tracker: Tracker) -> list[tuple[int, Any]]:
    """(step, loss) of every row of metrics."""
    rows = [row for row in read_log(tracker.path) if row["kind"] == "metrics"]
    return [(row["step"], row["values"]["loss"]) for row in rows]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said, apart from W&B's own debug log, which pytest captures from its logger."""
    ours = [record for record in caplog.records if not record.name.startswith("wandb")]
    assert {record.levelno for record in ours} <= {logging.WARNING}
    return [record.getMessage() for record in ours]


def the_warning(caplog: pytest.LogCaptureFixture) -> str:
    """The one line that was said."""
    (text,) = warnings(caplog)
    assert "\n" not in text
    return text


# --- the JSONL log -----------------------------------------------------------------------------


def test_log_holds_everything(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path / "new" / "run", {"lr": 0.1, "inits": ("22",)}, "disabled")
    tracker.log({"loss": 0.5, "count": torch.tensor(3).item(), "bad": float("nan")}, 20)
    image = torch.rand(3, 5, 7)
    tracker.log_image("preview", image, 20)
    tracker.log_table("fits", ["init", "mse"], [["33", 0.25], ["22", None]])
    tracker.log_artifact("hyper", tmp_path / "new" / "run" / "last.safetensors")
    tracker.summary({"psnr_db": float("inf"), "epochs": 8})
    tracker.finish()
    path = "images/preview-000020.png"
    fits = {"columns": ["init", "mse"], "rows": [["33", 0.25], ["22", None]]}
    assert read_log(tmp_path / "new" / "run" / "metrics.jsonl") == [
        {"kind": "start", "step": 0, "config": {"lr": 0.1, "inits": ["22"]}},
        {"kind": "metrics", "step": 20, "values": {"loss": 0.5, "count": 3, "bad": None}},
        {"kind": "image", "step": 20, "name": "preview", "path": path},
        {"kind": "table", "step": 20, "name": "fits", **fits},
        {"kind": "artifact", "step": 20, "name": "hyper", "path": "last.safetensors"},
        {"kind": "summary", "step": 20, "values": {"psnr_db": None, "epochs": 8}},
    ]
    seen = load_image(tmp_path / "new" / "run" / path)
    assert torch.allclose(seen, image, atol=0.5 / 255 + 1e-6)
    assert not (tmp_path / "new" / "run" / "wandb").exists()


def test_every_line_is_on_disk_at_once(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path, {}, "disabled")
    for step in range(3):
        tracker.log({"loss": step}, step)
        assert metrics(tracker)[-1] == (step, step)
        assert tracker.path.read_bytes().endswith(b"}\n")
    tracker.finish()
    tracker.finish()  # does nothing more


def test_a_used_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("precious")
    with pytest.raises(InputError, match="already holds a run"):
        open_tracker(tmp_path, {}, "disabled")
    assert (tmp_path / "metrics.jsonl").read_text() == "precious"


def test_resuming_drops_what_will_be_logged_again(tmp_path: Path) -> None:
    first = open_tracker(tmp_path, {}, "disabled")
    for step in range(6):
        first.log({"loss": step}, step)
    first.finish()
    kept = first.path.read_bytes().splitlines(keepends=True)[:4]
    with open(first.path, "ab") as file:
        file.write(b'{"kind": "metrics", "step": 1, "val')  # what kill -9 may leave
    again = open_tracker(tmp_path, {}, "disabled", resume_step=2)
    for step in range(3, 8):
        again.log({"loss": -step}, step)
    again.finish()
    assert again.path.read_bytes().splitlines(keepends=True)[:4] == kept
    expected = [(0, 0), (1, 1), (2, 2), (3, -3), (4, -4), (5, -5), (6, -6), (7, -7)]
    assert metrics(again) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_damaged_lines_stay_in_the_log_of_a_resumed_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = open_tracker(tmp_path, {}, "disabled")
    for step in range(4):
        first.log({"loss": step}, step)
    first.finish()
    lines = first.path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"step"', b'"step')  # step 1
    first.path.write_bytes(b"".join(lines))
    open_tracker(tmp_path, {}, "disabled", resume_step=2).finish()
    assert first.path.read_bytes().splitlines(keepends=True)[:4] == lines[:4]
    (warning,) = caplog.messages
    assert warning == f"{first.path}: damaged in line 3; left as it is"


def test_a_failed_repair_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_tracker(tmp_path, {}, "disabled")
    first.log({"loss": 1}, 1)
    first.finish()
    before = first.path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=r"metrics\.jsonl.*No space left"):
        open_tracker(tmp_path, {}, "disabled", resume_step=0)
    assert first.path.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"cannot write .*metrics\.jsonl: No space left"):
        open_tracker(tmp_path, {}, "disabled")


def test_a_file_in_place_of_the_directory_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        open_tracker(tmp_path / "run", {}, "disabled")


# --- W&B offline -------------------------------------------------------------------------------


def inspect(run_dir: Path) -> dict[str, Any]:
    """An offline run as W&B's own inspector reads it."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json"]
    output = subprocess.check_output([*command, "wandb"], text=True, cwd=run_dir)
    result: dict[str, Any] = json.loads(output)
    return result


@pytest.mark.slow
def test_offline_log_reads_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [*map(signal.getsignal, signals), sys.stdout, sys.stderr]
    config = {"init": "33", "lr": 1e-4}
    tracker = open_tracker(tmp_path / "run", config, "auto", project="proj", name="my\nname")
    log_everything(tracker)
    tracker.finish(3)
    after = [*map(signal.getsignal, signals), sys.stdout, sys.stderr]
    assert after == before
    assert (capfd.readouterr(), warnings(caplog)) == (("", ""), [])
    assert len(read_log(tracker.path)) == 13
    seen = inspect(tmp_path / "run")
    assert (seen["project"], seen["name"], seen["exit_code"]) == ("proj", "my name", 3)
    assert seen["run_id"] == (tmp_path / "run" / "wandb_id.txt").read_text()
    assert seen["config"].items() >= config.items()
    assert seen["summary"]["train/loss"] == pytest.approx(1 / 3)
    assert seen["summary"]["psnr_db"] == 22
    assert seen["summary"]["note"] == "done"
    assert seen["summary"]["preview"]["_type"] == "image-file"
    assert seen["summary"]["fits"]["nrows"] == 2
    assert not list(Path(os.environ["HOME"]).iterdir())  # nothing outside the run's directory


@pytest.mark.slow
def test_hostile_names_stay_inside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_dir = tmp_path / "out" / "run"
    tracker = open_tracker(run_dir, {name: name for name in HOSTILE}, "offline", name="../\n" * 99)
    (run_dir / "file").write_text("x")
    for name in HOSTILE:
        tracker.log({name: 1.0}, 1)
        tracker.log_image(name, torch.full((3, 2, 2), float("nan")), 1)
        tracker.log_table(name, [name], [[name]])
        tracker.log_artifact(name, run_dir / "file")
        tracker.summary({name: name})
    tracker.finish()
    assert warnings(caplog) == []
    rows = read_log(tracker.path)
    images = [row for row in rows if row["kind"] == "image"]
    assert [row["name"] for row in images] == [*HOSTILE[:-1], "?"]
    assert {str(run_dir / row["path"]) for row in images} == {
        str(path) for path in (run_dir / "images").iterdir()
    }
    assert len({row["path"] for row in images}) == len(HOSTILE)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run"]
    media = run_dir / "wandb" / "latest-run" / "files" / "media" / "images"
    assert sum(path.is_file() for path in media.rglob("*")) == len(HOSTILE)


@pytest.mark.slow
def test_a_resumed_run_keeps_its_id(tmp_path: Path) -> None:
    ids = []
    for resume_step in (None, 1):
        tracker = open_tracker(tmp_path, {}, "offline", resume_step=resume_step)
        ids.append(tracker.wandb_run.id)
        tracker.log({"loss": 1}, 1)
        tracker.finish()
    assert ids[0] == ids[1]
    (tmp_path / "wandb_id.txt").write_bytes(b"\xff" + ids[0].encode())  # damaged: a run anew
    tracker = open_tracker(tmp_path, {}, "offline", resume_step=1)
    assert tracker.wandb_run.id == (tmp_path / "wandb_id.txt").read_text() != ids[0]
    tracker.finish()


# --- W&B in trouble ----------------------------------------------------------------------------


def test_wandb_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracker = open_tracker(tmp_path, {}, "auto")
    log_everything(tracker)
    tracker.finish()
    assert "W&B did not start" in the_warning(caplog)
    assert len(read_log(tracker.path)) == 13


@pytest.mark.slow
@pytest.mark.parametrize(("key", "reason"), [(None, "no API key"), ("short", "40")])
def test_online_without_a_usable_key_logs_offline(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str | None, reason: str
) -> None:
    if key:
        os.environ["WANDB_API_KEY"] = key
    tracker = open_tracker(tmp_path, {}, "auto" if key else "online")
    log_everything(tracker)
    tracker.finish()
    assert reason in the_warning(caplog) and "logging offline" in the_warning(caplog)
    assert len(read_log(tracker.path)) == 13
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1


def test_auto_finds_a_key_in_netrc(tmp_path: Path) -> None:
    assert not tracking.has_key("http://127.0.0.1:8080")
    netrc = Path(os.environ["HOME"]) / ".netrc"
    netrc.write_text("machine 127.0.0.1:8080\n  login user\n  password secret\n")
    netrc.chmod(0o600)
    assert tracking.has_key("http://127.0.0.1:8080")
    assert not tracking.has_key("https://api.wandb.ai")
    netrc.write_text("machine")
    assert not tracking.has_key("http://127.0.0.1:8080")


class BrokenRun:
    """A W&B run of which every method raises or hangs."""

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


@pytest.mark.parametrize("hangs", [False, True])
def test_a_run_outlives_wandb(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hangs: bool,
) -> None:
    monkeypatch.setattr(tracking, "_CALL_SEC", 0.1)
    monkeypatch.setattr(tracking, "_ABANDON_SEC", 0.1)
    tracker = open_tracker(tmp_path, {}, "disabled")
    tracker.wandb_run = broken = BrokenRun(hangs)
    log_everything(tracker)
    tracker.finish()
    assert "W&B failed" in the_warning(caplog)
    assert broken.calls == ["log", "finish"]
    assert len(read_log(tracker.path)) == 13


def test_a_start_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "_start_wandb", lambda *_: time.sleep(60))
    monkeypatch.setattr(tracking, "_START_SEC", 0.1)
    tracker = open_tracker(tmp_path, {}, "auto")
    log_everything(tracker)
    tracker.finish()
    assert "no answer within 0.1 s" in the_warning(caplog)
    assert len(read_log(tracker.path)) == 13


@pytest.mark.long
@pytest.mark.parametrize("listens", [False, True])
def test_a_dead_server_means_offline(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    listens: bool,
) -> None:
    monkeypatch.setattr(tracking, "_INIT_SEC", 1)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:  # accepts connections, but never answers
            server.listen()
        os.environ["WANDB_BASE_URL"] = f"http://127.0.0.1:{server.getsockname()[1]}"
        os.environ["WANDB_API_KEY"] = "k" * 40
        tracker = open_tracker(tmp_path, {}, "auto")
        log_everything(tracker)
        tracker.finish()
    assert "did not start online" in the_warning(caplog)
    assert len(read_log(tracker.path)) == 13
    assert inspect(tmp_path)["summary"]["psnr_db"] == 22


# --- W&B online, against a stub on this machine ------------------------------------------------


@pytest.mark.slow
def test_a_refused_key_means_offline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with WandbStub(status=401) as server:
        os.environ.update(server.env)
        tracker = open_tracker(tmp_path, {}, "auto")
        log_everything(tracker)
        tracker.finish()
    assert "permission denied" in the_warning(caplog)
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1


def check_upload(server: WandbStub, run_dir: Path) -> None:
    """What `log_everything` logged has all arrived."""
    (run_id,) = server.runs
    run = server.runs[run_id]
    assert run_id == (run_dir / "wandb_id.txt").read_text()
    assert [row["_step"] for row in run["history"]] == [0, 1, 2]
    assert [row["psnr_db"] for row in run["history"]] == [20, 21, 22]
    assert run["summary"]["note"] == "done"
    assert json.loads(run["config"])["lr"]["value"] == 0.5
    assert run["exitcode"] == 0
    assert server.uploads["hyper/hyper.safetensors"] == b"weights"
    table = json.loads(server.uploads[f"run-{run_id}-fits/fits.table.json"])
    assert table["data"] == [["33", 0.5], [None, None]]
    assert sum("media/images/preview" in name for name in server.uploads) == 3


@pytest.mark.slow
def test_everything_arrives_online(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with WandbStub() as server:
        os.environ.update(server.env)
        tracker = open_tracker(tmp_path, {"lr": 0.5}, "auto")
        log_everything(tracker)
        tracker.finish()
        check_upload(server, tmp_path)
    assert warnings(caplog) == []
    assert not list(Path(os.environ["HOME"]).iterdir())


@pytest.mark.long
def test_an_offline_run_can_be_synced(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path, {"lr": 0.5}, "offline")
    log_everything(tracker)
    tracker.finish()
    with WandbStub() as server:
        command = [sys.executable, "-m", "wandb", "sync", str(tmp_path / "wandb")]
        environment = {**os.environ, **server.env}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        check_upload(server, tmp_path)


@pytest.mark.long
def test_a_resumed_online_run_has_every_step_once(tmp_path: Path) -> None:
    with WandbStub() as server:
        os.environ.update(server.env)
        for resume_step, steps in ((None, range(6)), (3, range(4, 9))):
            tracker = open_tracker(tmp_path, {}, "auto", resume_step=resume_step)
            for step in steps:
                tracker.log({"loss": step}, step)
            tracker.finish()
        (run,) = server.runs.values()
    assert [row["_step"] for row in run["history"]] == list(range(9))
    assert metrics(tracker) == [(step, step) for step in range(9)]


def kill_children(pid: int) -> None:
    """Kills W&B's service process as the kernel does when memory runs out."""
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            for child in tasks.read_text().split():
                os.kill(int(child), signal.SIGKILL)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("victim", ["server", "service"])
def test_a_process_survives_the_death_of(tmp_path: Path, victim: str) -> None:
    """Seen from outside: exit code 0, one line on stderr, a complete log."""
    program = """
import os, sys, subprocess
from hyperinit.learn import tracking
tracking._FINISH_SEC = 2
tracker = tracking.open_tracker(sys.argv[1], {}, "online")
tracker.log({"loss": 0}, 0)
print("started", flush=True)
input()
for step in range(1, 6):
    tracker.log({"loss": step}, step)
tracker.finish()
"""
    with WandbStub() as server:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            env={**os.environ, **server.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        if victim == "server":
            server.close()
        else:
            kill_children(process.pid)
        out, err = process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert (out, err.count("\n")) == ("", 1), err
    assert err.startswith("W&B failed")
    rows = [row for row in read_log(tmp_path / "metrics.jsonl") if row["kind"] == "metrics"]
    assert [row["step"] for row in rows] == list(range(6))
