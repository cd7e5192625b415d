"""Printing never ends or fails a job: odd names, closed pipes, full disks."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import smooth_image

from hyperinit.base.terminal import forgiving_output, shown_sec
from hyperinit.images.save import save_image

ROOT = Path(__file__).parent.parent.parent
SMALL = ["--size", "8", "--width", "8", "--depth", "1", "--budget-epochs", "4", "--batch-images"]


def run(arguments: list[str], stdout, **environment: str) -> subprocess.CompletedProcess:
    """A command in a process of its own, from a shell's point of view."""
    return subprocess.run(
        [sys.executable, "-m", "hyperinit.app.cli", *arguments],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def closed_pipe() -> int:
    """The end of a pipe that nobody reads: `| true`."""
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    # One that cp1252 lacks, and one that is no UTF-8 at all.
    for seed, name in enumerate((b"1-\xd1\x82.png", b"2-\xe9.png", b"3.png")):
        save_image(smooth_image(16, seed), tmp_path / "one.png")
        os.rename(tmp_path / "one.png", os.fsencode(folder) + b"/" + name)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes")
def test_names_that_the_terminal_lacks_do_not_stop_a_directory(photos, tmp_path):
    done = run(
        ["fit", str(photos), "-o", str(tmp_path / "out"), *SMALL, "1"],
        subprocess.PIPE,
        PYTHONIOENCODING="cp1252:strict",
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 3
    assert rb"1-\u0442.png" in done.stdout and rb"\xe9.png" in done.stdout.replace(rb"\udc", rb"\x")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="POSIX pipes")
def test_a_pipe_that_is_closed_does_not_stop_a_directory(photos, tmp_path):
    pipe = closed_pipe()
    command = ["fit", str(photos), "-o", str(tmp_path / "out"), *SMALL, "1"]
    done = run(command, pipe, PYTHONUNBUFFERED="1")
    os.close(pipe)
    assert done.returncode == 0 and b"Error" not in done.stderr
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"], ["inits", "--help"]])
@pytest.mark.parametrize("place", ["a pipe", "/dev/full"])
def test_what_nobody_can_read_is_no_error(arguments, place):
    stdout = closed_pipe() if place == "a pipe" else os.open(place, os.O_WRONLY)
    done = run(arguments, stdout)
    os.close(stdout)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_an_error_that_cannot_be_shown_still_has_its_exit_code():
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "hyperinit.app.cli", "fti"]
        assert subprocess.run(command, cwd=ROOT, stderr=full).returncode == 2


def test_the_streams_of_before_are_put_back(monkeypatch):
    before = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", before)
    with forgiving_output():
        print("caf\xe9")
        assert sys.stdout.encoding == "ascii"
        assert sys.stdout.write("more") == 4
    assert sys.stdout is before and before.errors == "strict"
    assert before.buffer.getvalue() == b"caf\\xe9\nmore"


def test_a_stream_that_was_closed_takes_what_is_printed(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    with forgiving_output():
        print("lost")


def test_other_errors_of_a_stream_are_not_swallowed(monkeypatch):
    class Odd(io.StringIO):
        def write(self, text: str) -> int:
            raise PermissionError(13, "odd")

    monkeypatch.setattr(sys, "stdout", Odd())
    with forgiving_output(), pytest.raises(PermissionError):
        print("x")


@pytest.mark.parametrize(
    ("sec", "text"), [(0, "0 s"), (59.4, "59 s"), (65, "1:05"), (7384, "2:03:04")]
)
def test_seconds_are_shown_as_people_read_them(sec, text):
    assert shown_sec(sec) == text
