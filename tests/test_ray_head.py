"""A cluster that was there before the command: its head dies in mid-run, comes back, and the same
command continues."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_ray import FIT, children, command, finished, images_in, with_ray

START = "ray.scripts.scripts"  # what the program `ray` is


def is_listening(port: int) -> bool:
    for host in ("127.0.0.1", socket.gethostbyname(socket.gethostname())):
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), 1).close()
            return True
    return False


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# Where a port is not given, Ray waits half a minute for a program to choose one, and gives up: on
# a busy machine that is too short.
PORTS = (
    *("metrics-export-port", "runtime-env-agent-port"),
    *("dashboard-agent-grpc-port", "dashboard-agent-listen-port"),
)


class Head:
    """`ray start --head` with one core, on a port that stays."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen | None = None
        self.folders: list[str] = []

    def start(self) -> None:
        # Sockets lie below it, whose paths may have a hundred characters.
        self.folders.append(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        how = ["--head", "--block", "--num-cpus", "1", "--port", str(self.port)]
        how += ["--include-dashboard", "false"]
        how += ["--object-store-memory", "100000000", "--temp-dir", self.folders[-1]]
        how += [text for name in PORTS for text in (f"--{name}", str(free_port()))]
        self.process = subprocess.Popen(
            [sys.executable, "-m", START, "start", *how, "--disable-usage-stats"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not is_listening(self.port):
            assert self.process.poll() is None
            time.sleep(0.2)

    def kill(self) -> None:
        """Ends it and all that it started, as a machine that loses its power."""
        if self.process is None:
            return
        for pid in [*children(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None


@pytest.fixture
def head() -> Iterator[Head]:
    found = Head()
    try:
        yield found
    finally:
        found.kill()
        for folder in found.folders:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
@with_ray
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="what a head started is found in /proc")
def test_a_run_on_a_cluster_continues_after_its_head_has_died(tmp_path, head, monkeypatch):
    # With a token of an earlier cluster in the user's home the head would ask for it.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    source, out = images_in(tmp_path / "in", 6), tmp_path / "out"
    fit = ["fit", source, "-o", out, *FIT[:4], "--budget-epochs", "100", "--batch-images", "1"]
    fit += ["--fit", "engine=eager", "--ray", f"127.0.0.1:{head.port}"]
    head.start()
    running = command(*fit)
    while running.poll() is None and len(list(out.glob("*.safetensors"))) < 2:
        assert head.process is not None and head.process.poll() is None, "the head ended by itself"
        time.sleep(0.05)
    head.kill()
    # The command ends, whether it noticed on its own or is told to.
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.communicate(timeout=150)
    ended = running.poll()
    if ended is None:
        running.kill()
    told = running.communicate()
    print(ended, *told)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert 2 <= len(before) < 6
    assert ended not in (None, 0), told
    head.start()
    assert f"{len(before)} finished before" in finished(command(*fit))
    after = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert len(after) == 6
    assert {path: after[path] for path in before} == before
