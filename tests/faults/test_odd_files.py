"""What is no file, or no file of its kind, given to every command: one line, soon, nothing else."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import smooth_image
from properties import bounded

from hyperinit.app.cli import main
from hyperinit.base import clock as clock_module
from hyperinit.base.clock import Clock
from hyperinit.base.errors import InputError
from hyperinit.base.terminal import Countdown
from hyperinit.fitting import fit as fit_module
from hyperinit.images.decode import load_image
from hyperinit.images.save import save_image
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.learn import loop
from hyperinit.record.records import read_records
from hyperinit.sets import results
from hyperinit.siren.store import load_params

pytestmark = pytest.mark.skipif(os.name != "posix", reason="files of POSIX")

SMALL = ["--init", "33", "--width", "8", "--depth", "1", "--budget-epochs", "2"]
TINY = ["meta-train", "--preset", "tiny", "--wandb", "disabled", "--compare-images", "0"]
MEASURE = [
    *("benchmark", "--image-size", "8", "--width", "8", "--depth", "1", "--batch-pixels", "64"),
    *("--budgets-epochs", "1", "--lrs", "1e-3", "--lr-images", "1", "--seeds", "1"),
    *("--tuning-images", "synthetic", "--inits", "33", "--workers", "1"),
]


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content)) + kind + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )  # fmt: skip


def png(width: int, height: int, *more: bytes) -> bytes:
    """A PNG file that says it is of some size, whatever is in it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + data + chunk(b"IEND", b"")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        before = os.getcwd()
        os.chdir(path.parent)  # a socket's path has 108 bytes at most
        try:
            made.bind(path.name)
        finally:
            os.chdir(before)


def make_sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2**40)


BOMB = zlib.compress(bytes(2**27), 9)  # 128 MB in 130 kB
ODD: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": make_socket,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "an empty device": lambda path: path.symlink_to("/dev/null"),
    "a directory": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to(f"no-{path.name}"),
    "an empty file": Path.touch,
    "a terabyte of zeros": make_sparse,
    "a text": lambda path: path.write_text("no picture\n"),
    "a picture of 2.5e9 pixels": lambda path: path.write_bytes(png(50_000, 50_000)),
    "a picture of 1e18 pixels": lambda path: path.write_bytes(png(2**31 - 1, 2**29)),
    "a picture without its pixels": lambda path: path.write_bytes(png(2000, 2000)),
    "a bomb of text": lambda path: path.write_bytes(
        png(8, 8, *[chunk(b"zTXt", b"k\0\0" + BOMB)] * 3)
    ),
    "a bomb of colours": lambda path: path.write_bytes(
        png(2000, 2000, chunk(b"iCCP", b"k\0\0" + BOMB))
    ),
}


# In the gate: one of each reason to be refused. The others are marked as slow.
GATE = ("a pipe", "a picture of 2.5e9 pixels", "a directory")
PICTURES = [name for name in ODD if name.startswith(("a picture", "a bomb"))]


def every(*left_out: str) -> list:
    """The names of all odd files but some."""
    names = [name for name in ODD if name not in left_out]
    return [n if n in GATE else pytest.param(n, marks=pytest.mark.long) for n in names]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_image(smooth_image(16), tmp_path / "good.png")
    return tmp_path


def refused(arguments: list[str], capsys) -> str:
    """The one line with which a command is refused."""
    with bounded(), pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1 and len(lines[0]) < 600, lines
    return lines[0]


@pytest.mark.parametrize("what", every())
def test_as_an_image_of_a_command(place, what, capsys):
    ODD[what](place / "x.png")
    with bounded(), pytest.raises(InputError, match=r"x\.png"):
        load_image("x.png")
    commands = [
        ["fit", "x.png", *SMALL, "-o", "o.safetensors"],
        ["generate", "good.png", "x.png", "--checkpoint", "linear-96", "-o", "o"],
        [*MEASURE, "--images", "x.png", "--out", "b.jsonl"],
    ]
    for command in commands:
        assert "x.png" in refused(command, capsys), command
    assert not {"o.safetensors", "o", "b.png"} & set(os.listdir())


@pytest.mark.slow
@pytest.mark.parametrize("what", every())
def test_among_the_images_of_a_directory(place, what, capsys):
    (place / "photos").mkdir()
    for name in ("a", "z"):
        save_image(smooth_image(16, ord(name)), place / "photos" / f"{name}.png")
    ODD[what](place / "photos" / "x.png")
    listed = what != "a directory"  # its own images would be, if it had any
    with bounded():
        code = main(["fit", "photos", *SMALL, "-o", "out"])
    said = capsys.readouterr()
    assert code == int(listed) and len(list((place / "out").glob("*.safetensors"))) == 2
    assert ("x.png: " in said.err) == listed
    with bounded():
        assert main([*MEASURE, "--images", "photos", "--out", "b.jsonl"]) == 0
        assert main([*TINY, "--max-steps", "1", "--data", "photos", "--out", "run"]) == 0
    assert (capsys.readouterr().err.count("skipped photos/x.png") == 0) or listed
    assert len({record.image for record in read_records("b.jsonl") if not record.is_tuning}) == 2


@pytest.mark.parametrize("what", every(*PICTURES))
def test_as_any_other_file(place, what, capsys):
    for name in ("x.safetensors", "x.pt", "x.npz", "x.toml", "x.json", "x.jsonl", "x.md", "x.py"):
        ODD[what](place / name)
    commands = {
        "x.safetensors": [
            ["render", "x.safetensors", "-o", "o.png"],
            ["export", "x.safetensors", "--to", "npz"],
            ["generate", "good.png", "--checkpoint", "x.safetensors", "-o", "o.safetensors"],
            ["fit", "good.png", "--init", "x.safetensors"],
            ["meta-train", "--resume", "x.safetensors"],
        ],
        "x.pt": [["render", "x.pt", "-o", "o.png"], ["fit", "good.png", "--init", "x.pt"]],
        "x.npz": [["export", "x.npz", "--to", "fp16"]],
        "x.toml": [[*TINY, "--config", "x.toml"], ["benchmark", "--config", "x.toml"]],
        "x.json": [[*TINY, "--config", "x.json"]],
        "x.jsonl": [
            ["report", "x.jsonl", "-o", "o"],
            ["score", "x.jsonl"],
            ["submit", "x.jsonl", "--by", "x"],
        ],
        "x.md": [["report", "--check", "x.md"], ["report", "--update", "x.md"]],
        "x.py": [["fit", "good.png", "--init", "x.py:start"]],
    }
    fine = {("an empty file", "x.toml"), ("a text", "x.py"), ("an empty device", "x.md")}
    for name, lines in commands.items():
        for line in lines:
            if (what, name) not in fine:
                refused(line, capsys)


@pytest.mark.parametrize("what", every(*PICTURES))
def test_as_what_is_to_be_written(place, what, capsys):
    for name in ("o.safetensors", "o.png", "b.jsonl"):
        ODD[what](place / name)
    replaced = what == "an empty file"
    for command in (
        ["fit", "good.png", *SMALL, "-o", "o.safetensors"],
        ["fit", "good.png", *SMALL, "--render", "o.png"],
        [*MEASURE, "--images", "good.png", "--out", "b.jsonl"],
    ):
        if replaced or what == "a link to nothing":  # its target is made
            assert main(command) == 0
        else:
            refused(command, capsys)
            capsys.readouterr()
    if what == "a pipe":
        refused(["fit", str(place), *SMALL, "-o", "b.jsonl"], capsys)
        refused([*TINY, "--out", "b.jsonl", "--data", "synthetic"], capsys)


@pytest.mark.long
def test_the_longest_names(place, capsys):
    (place / "photos").mkdir()
    stem = "n" * 251
    save_image(smooth_image(16), place / "photos" / f"{stem}.png")
    assert main(["fit", "photos", *SMALL, "-o", "out"]) == 0
    (made,) = (place / "out").glob("*.safetensors")
    assert load_params(made)[1]["images"][0]["name"] == f"{stem}.png"
    assert main([*MEASURE, "--images", "photos", "--thumbnails", "--out", "b.jsonl"]) == 0
    assert main(["report", "b.jsonl", "-o", "report"]) == 0
    capsys.readouterr()
    for command in (
        ["generate", f"photos/{stem}.png", "--checkpoint", "linear-96", "-o", "place"],
        ["fit", f"photos/{stem}.png", *SMALL, "-o", f"{stem}.safetensors"],
    ):
        (place / "place").mkdir(exist_ok=True)
        assert "longer than 255 bytes" in refused(command, capsys)


# Full disks and disks that cannot be written to, real ones


@pytest.fixture(params=["full", "read-only"])
def disk(request, place) -> Iterator[Path]:
    """A small disk that is full, or read-only."""
    path = place / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True)
    except OSError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("may not mount a small disk")
    try:
        if request.param == "full":
            with open(path / "filler", "wb", buffering=0) as file, pytest.raises(OSError):
                while True:
                    file.write(bytes(4096))
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_commands_on_a_full_or_read_only_disk(place, disk, capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(place))
    (place / "photos").mkdir()
    save_image(smooth_image(16), place / "photos" / "a.png")
    commands = [
        ["fit", "good.png", *SMALL, "-o", "disk/o.safetensors"],
        ["fit", "good.png", *SMALL, "--render", "disk/o.png"],
        ["fit", "photos", *SMALL, "-o", "disk/out"],
        ["generate", "good.png", "--checkpoint", "linear-96", "-o", "disk/o.safetensors"],
        ["generate", "good.png", "--checkpoint", "linear-96", "-o", "disk/out"],
        [*MEASURE, "--images", "photos", "--out", "disk/b.jsonl"],
        [*TINY, "--max-steps", "2", "--data", "synthetic", "--out", "disk/run"],
    ]
    for command in commands:
        line = refused(command, capsys)
        assert "No space left" in line or "Read-only" in line, line
    left = {path.name for path in disk.rglob("*") if path.is_file() and path.stat().st_size}
    assert left <= {"filler"}


def test_no_directory_for_temporary_files_is_one_line(place, capsys, monkeypatch):
    (place / "photos").mkdir()
    save_image(smooth_image(16), place / "photos" / "a.png")
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", list)
    line = refused(["fit", "photos", *SMALL, "--dry-run"], capsys)
    assert "set TMPDIR" in line and len(line.splitlines()) == 1


def test_results_of_a_batch_that_cannot_be_written_are_kept_elsewhere(place, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(place))
    (place / "photos").mkdir()
    for seed in range(3):
        save_image(smooth_image(16, seed), place / "photos" / f"{seed}.png")
    real = results.save_params

    def full(path, params, **facts):
        if Path(path).parent.name == "out":
            raise InputError(f"cannot write {path}: No space left on device")
        real(path, params, **facts)

    monkeypatch.setattr(results, "save_params", full)
    line = refused(["fit", "photos", *SMALL, "-o", "out"], capsys)
    kept = list(place.glob("hyperinit-*/*.safetensors"))
    assert len(kept) == 3 and "No space left" in line and "hyperinit-" in line
    for path in kept:
        load_params(path)


# Clocks


class Backwards:
    """A clock that loses ten seconds whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        self.now -= 10
        return self.now


@pytest.mark.slow
def test_a_clock_that_goes_backwards_gives_no_negative_seconds(place, monkeypatch, capsys):
    countdown = Countdown(3, clock=Backwards())
    assert countdown.worked() == "1 of 3, 0 s left"
    # Not in the module `time` itself: threads would wait by it.
    monkeypatch.setattr(clock_module, "time", SimpleNamespace(perf_counter=Backwards()))
    clock = Clock()
    with clock.running():
        pass
    assert clock.sec == 0
    spec = named_init("33")
    params = sample_params(spec, spec.siren_config(8, 1), generator=torch.Generator())
    result = fit_module.fit(params, smooth_image(8), budget_epochs=2)
    assert all(point.sec >= 0 for point in result.curve)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=Backwards()))
    (place / "photos").mkdir()
    save_image(smooth_image(16), place / "photos" / "a.png")
    assert main(["fit", "photos", *SMALL, "-o", "out"]) == 0
    assert main([*TINY, "--max-steps", "2", "--data", "photos", "--out", "run"]) == 0
    assert main([*MEASURE, "--images", "photos", "--out", "b.jsonl"]) == 0
    assert all(point.sec >= 0 for one in read_records("b.jsonl") for point in one.curve)
    assert "-" not in capsys.readouterr().out.partition("images per hour")[0].rpartition(";")[2]
