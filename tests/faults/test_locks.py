"""Two processes never write to one place; only that is called so."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from hyperinit.base import files
from hyperinit.base.errors import InputError
from hyperinit.base.files import exclusive
from hyperinit.bench.run import open_records

NO_FLOCK = """
#include <errno.h>
int flock(int descriptor, int operation) { errno = %s; return -1; }
"""
HOLD = "\nwith exclusive(path):\n    print('held', flush=True)\n    input()\n"


def python(lines: str, path: Path, **settings) -> subprocess.Popen:
    """Another process, in which `path` is a path and `exclusive` is imported."""
    start = f"from hyperinit.base.files import exclusive\npath = {str(path)!r}\n"
    return subprocess.Popen(
        [sys.executable, "-c", start + lines],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def test_a_lock_that_another_process_holds_is_refused_until_that_is_killed(tmp_path):
    lock = tmp_path / ".lock"
    with python(HOLD, lock) as holder:
        assert holder.stdout.readline() == "held\n"
        said = r"\.lock: another process is writing here"
        with pytest.raises(InputError, match=said), exclusive(lock):
            pytest.fail("two hold one lock")
        holder.kill()
        holder.wait()
    with exclusive(lock):  # free, though nobody tidied up
        pass


def test_a_lock_is_free_after_an_error_in_its_block(tmp_path):
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / ".lock"):
        raise ZeroDivisionError
    with exclusive(tmp_path / ".lock"):
        pass


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("reason", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
@pytest.mark.parametrize("killed_before", [False, True])
def test_a_file_system_without_locks_is_used_with_one_warning(tmp_path, reason, killed_before):
    (tmp_path / "flock.c").write_text(NO_FLOCK % reason)
    library = tmp_path / "flock.so"
    command = ["gcc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "flock.c")]
    subprocess.run(command, check=True)
    lock = tmp_path / ".lock"
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    if killed_before:
        with python(HOLD, lock, env=environment) as holder:
            holder.stdout.readline()
            holder.kill()
    lines = "for _ in range(2):\n    with exclusive(path):\n        print('in')"
    with python(lines, lock, env=environment) as user:
        out, err = user.communicate()
    assert user.returncode == 0 and out == "in\nin\n"
    (line,) = err.splitlines()
    assert str(lock) in line and "no locks" in line and "another process is" not in line


@pytest.mark.parametrize("failure", [OSError(errno.ENOLCK, "No locks"), NotImplementedError()])
def test_the_warning_is_on_the_log_and_comes_once(tmp_path, monkeypatch, caplog, failure):
    def refuse(self):
        raise failure

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    with caplog.at_level(logging.WARNING, "hyperinit"):
        for _ in range(2):
            with exclusive(tmp_path / ".lock"):
                pass
    assert len(caplog.records) == 1


def test_a_record_file_has_one_lock_whatever_links_lead_to_it(tmp_path):
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "r.jsonl")
    for first, second in ((link, tmp_path / "r.jsonl"), (tmp_path / "r.jsonl", link)):
        busy = pytest.raises(InputError, match="another process is writing here")
        with open_records(first), busy, open_records(second):
            pass
    (tmp_path / "r.jsonl").symlink_to(link)
    with pytest.raises(InputError, match=r"cannot write .*link\.jsonl"), open_records(link):
        pass


def test_other_failures_give_their_own_reason(tmp_path, monkeypatch):
    def broken(self):
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(InputError, match="no such directory"), exclusive(tmp_path / "no" / "lock"):
        pass
    assert not (tmp_path / "no").exists()
    with pytest.raises(InputError, match=r"cannot write .*directory"), exclusive(tmp_path):
        pass
    monkeypatch.setattr(filelock.FileLock, "_acquire", broken)
    with pytest.raises(InputError, match="Input/output error"), exclusive(tmp_path / "lock"):
        pass


def test_nobody_needs_fcntl(tmp_path, monkeypatch):
    # As on Windows, where there is none: files are written, left-overs go when they are old.
    monkeypatch.setattr(files, "fcntl", None)
    for content in (b"old", b"new"):
        files.write_atomically(tmp_path / "a", content)
    assert (tmp_path / "a").read_bytes() == b"new" and os.listdir(tmp_path) == ["a"]
