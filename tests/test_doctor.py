"""The doctor: one screen, whatever state the machine is in, and an exit code to rely on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from hyperinit.app.cli import main
from hyperinit.shell import doctor

ROOT = Path(__file__).parent.parent


def found(capsys, code: int = 0) -> dict[str, dict]:
    assert main(["doctor", "--json"]) == code
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {row["name"]: row for row in rows}


def test_it_fits_on_a_screen_and_finds_what_is_here(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 10 <= len(lines) <= 24
    text = "\n".join(lines)
    for what in ("hyperinit", "torch ", "threads", "device", "compiler", "cache", "free", "W&B"):
        assert what in text, what
    assert "encoding" in text and "extras" in text


def test_a_missing_package_and_a_full_disk_will_fail(capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(2**40, 2**40, 1000))
    assert found(capsys, 1)["directory"]["state"] == "fails"
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "NEEDED", (*doctor.NEEDED, "no-such-package"))
    row = found(capsys, 1)["packages"]
    assert row["state"] == "fails" and row["advice"] == "pip install no-such-package"


def test_what_is_only_worth_knowing_does_not_fail(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 99.0, 99.0))
    monkeypatch.setattr(doctor, "_cores", lambda: 0)
    rows = found(capsys)
    for name in ("compiler", "W&B", "load", "threads"):
        assert rows[name]["state"] == "note" and rows[name]["advice"], name
    assert "OMP_NUM_THREADS" in rows["threads"]["advice"]
    # Quiet: only what is not well.
    assert main(["doctor", "--quiet"]) == 0
    assert all(line.startswith("note") for line in capsys.readouterr().out.splitlines())


def test_memory_is_what_a_fit_may_take_and_not_what_the_machine_has(capsys, monkeypatch):
    monkeypatch.setattr("hyperinit.shell.doctor.free_memory", lambda: 2 * 10**8)
    row = found(capsys)["memory"]
    assert row["state"] == "note" and row["value"].startswith("200 MB") and row["advice"]
    monkeypatch.setattr("hyperinit.shell.doctor.free_memory", lambda: None)
    assert found(capsys)["memory"]["state"] == "ok"


@pytest.mark.parametrize("look", doctor.LOOKS)
def test_a_look_that_cannot_be_taken_is_a_finding_and_no_error(look, capsys, monkeypatch):
    def broken():
        raise RuntimeError("as if\nbroken")
        yield

    monkeypatch.setitem(doctor.LOOKS, look, broken)
    row = found(capsys)[look]
    assert row["state"] == "note" and "RuntimeError: as if broken" in row["value"]


def test_in_a_hostile_environment_it_still_speaks(tmp_path):
    # No home, no usable caches, an odd locale, a working directory that is gone, torch broken.
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libtorch: cannot open')\n")
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"""
import os, sys
sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]
os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})
from hyperinit.app.cli import main
sys.exit(main(["doctor"]))
"""
    environment = {
        "PATH": "/nowhere",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "XDG_CACHE_HOME": "/proc/nowhere",
        "NETRC": str(tmp_path),
        "SYSTEMROOT": os.environ.get("SYSTEMROOT", ""),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    out = done.stdout.decode()
    assert done.returncode == 1 and done.stderr == b"", done.stderr
    assert "FAILS  torch" in out and "libtorch: cannot open" in out
    assert "note   encoding" in out and "note   compiler" in out and "note   cache" in out
