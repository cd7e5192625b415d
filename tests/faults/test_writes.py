"""A file is written whole or not at all, whatever happens meanwhile, and no rubbish stays."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import assert_same
from safetensors import safe_open

from hyperinit.base import files
from hyperinit.base.errors import InputError
from hyperinit.base.files import write_atomically
from hyperinit.base.outputs import SIREN, check_output
from hyperinit.images.save import save_image
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.siren.network import Params
from hyperinit.siren.store import load_params, save_params


def siren(seed: int = 0, width: int = 8) -> Params:
    spec = named_init("33")
    generator = torch.Generator().manual_seed(seed)
    return sample_params(spec, spec.siren_config(width, 2), generator=generator)


def kill_in_write(path: Path) -> None:
    """A process that is killed while it writes new content to a path."""
    lines = f"""
import os, time
from hyperinit.base import files
def hang(descriptor):
    print("writing", flush=True)
    time.sleep(600)
files.os.fsync = hang
files.write_atomically({str(path)!r}, b"new" * 1000)
"""
    command = [sys.executable, "-c", lines]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "writing\n"
        writer.send_signal(signal.SIGKILL)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True)
    except OSError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("may not mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_process_killed_in_a_write_harms_nothing_and_leaves_nothing_for_good(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, b"old")
    kill_in_write(path)
    assert path.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2  # what it was writing
    write_atomically(path, b"newer")
    assert path.read_bytes() == b"newer" and os.listdir(tmp_path) == ["a.txt"]


def test_what_another_writer_is_writing_is_left_alone(tmp_path, monkeypatch):
    path, inside, go_on = tmp_path / "a.txt", threading.Event(), threading.Event()
    sync = os.fsync

    def wait(descriptor):
        if threading.current_thread() is slow:
            inside.set()
            assert go_on.wait(10)
        sync(descriptor)

    monkeypatch.setattr(files.os, "fsync", wait)
    slow = threading.Thread(target=write_atomically, args=(path, b"slow"))
    slow.start()
    assert inside.wait(10)
    write_atomically(path, b"fast")
    assert path.read_bytes() == b"fast" and len(os.listdir(tmp_path)) == 2
    go_on.set()
    slow.join()
    assert path.read_bytes() == b"slow" and os.listdir(tmp_path) == ["a.txt"]


def test_many_writers_of_one_file_leave_one_whole_content(tmp_path):
    path = tmp_path / "a.txt"
    contents = [bytes([65 + k]) * 10_000 for k in range(8)]

    def write(content: bytes) -> None:
        for _ in range(20):
            write_atomically(path, content)
            assert path.read_bytes() in contents

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents and os.listdir(tmp_path) == ["a.txt"]


def test_without_locks_a_left_over_goes_when_it_is_old(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    kill_in_write(path)
    (left,) = tmp_path.iterdir()
    monkeypatch.setattr(files, "fcntl", None)
    write_atomically(path, b"new")
    assert left.exists()  # somebody may be writing it
    os.utime(left, (0, 0))
    write_atomically(path, b"new")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_the_old_file(full_disk):
    path = full_disk / "a.safetensors"
    save_params(path, siren())
    with pytest.raises(InputError, match="No space left") as caught:
        save_params(path, siren(width=256))
    assert "\n" not in str(caught.value)
    assert_same(load_params(path)[0], siren())
    save_image(torch.zeros(3, 8, 8), full_disk / "a.png")
    with pytest.raises(InputError, match="No space left"):
        save_image(torch.rand(3, 300, 300), full_disk / "a.png")
    assert sorted(os.listdir(full_disk)) == ["a.png", "a.safetensors"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_an_error_of_the_disk_leaves_the_old_file(tmp_path, monkeypatch, call, failure):
    path = tmp_path / "a.txt"
    write_atomically(path, b"old")

    def fail(*arguments):
        raise OSError(failure, os.strerror(failure))

    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(InputError, match=os.strerror(failure)):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.txt"]


def test_ctrl_c_in_a_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomically(path, b"old")

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_file_modes_follow_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        save_params(tmp_path / "a.safetensors", siren())
        save_image(torch.zeros(3, 2, 2), tmp_path / "a.png")
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_the_longest_names_and_odd_ones_can_be_written(tmp_path):
    names = ["x" * 255, "é" * 127, "two\nlines", "-rf"]
    for name in names:
        write_atomically(tmp_path / name, b"content")
    assert sorted(os.listdir(tmp_path)) == sorted(names)


@pytest.mark.parametrize("path", ["", ".", "zero\0byte.safetensors"])
def test_what_can_be_no_file_name_is_one_line(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot write"):
        write_atomically(path, b"new")
    assert not list(tmp_path.iterdir())


def test_loaded_tensors_do_not_hang_on_their_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_params(path, siren(0))
    loaded, _ = load_params(path)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(path) not in maps.read_text()
    # Written in place, as by a program that is not careful; a mapped file would change with it.
    path.write_bytes(bytes(path.stat().st_size))
    assert_same(loaded, siren(0))
    save_params(path, siren(1))
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(siren(1))


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_the_file_that_it_leads_to_is_written(tmp_path, there):
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "siren.safetensors", tmp_path / "a.safetensors"
    if there:
        save_params(target, siren(seed=0))
    link.symlink_to("b.safetensors")
    (tmp_path / "b.safetensors").symlink_to(target)
    check_output(link, [".safetensors"], SIREN)
    save_params(link, siren(seed=1))
    assert link.is_symlink() and (tmp_path / "b.safetensors").is_symlink()
    assert not target.is_symlink()
    assert_same(load_params(target)[0], siren(seed=1))
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["siren.safetensors"]


def test_a_link_that_leads_nowhere_is_one_line_before_and_in_the_write(tmp_path):
    circle, gone = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    circle.symlink_to(circle.name)
    gone.symlink_to(tmp_path / "missing" / "b.safetensors")
    for link in (circle, gone):
        with pytest.raises(InputError, match="cannot write"):
            check_output(link, [".safetensors"], SIREN)
        with pytest.raises(InputError, match=r"[ab]\.safetensors"):
            write_atomically(link, b"new")
        assert link.is_symlink()


@pytest.mark.parametrize("linked", [True, False])
def test_a_pipe_is_not_replaced_by_a_file(tmp_path, linked):
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "link" if linked else tmp_path / "pipe"
    if linked:
        path.symlink_to("pipe")
    with pytest.raises(InputError, match="is a pipe or a device"):
        write_atomically(path, b"new")
    assert stat.S_ISFIFO(os.stat(path).st_mode)


@pytest.mark.parametrize("path", [".", "/", "..", "here"])
def test_a_directory_is_not_written_as_a_file(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    os.mkdir("here")
    with pytest.raises(InputError, match="is a directory"):
        write_atomically(path, b"new")
    assert os.listdir() == ["here"] and not os.listdir("here")
