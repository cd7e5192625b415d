"""`hyperinit fit` of one image: what was typed is done or refused, and a good file is not lost."""

from __future__ import annotations

import io
import sys

import pytest
from conftest import smooth_image

from hyperinit.app.cli import main
from hyperinit.images.save import save_image
from hyperinit.siren.store import load_params, tensors_hash

SMALL = ["fit", "a.png", "--width", "16", "--depth", "2"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_image(smooth_image(16), "a.png")
    return tmp_path


def test_a_terminal_does_not_change_what_is_written(monkeypatch):
    # At a constant rate this high the best evaluation is not the last one, but at 18 epochs.
    rough = ["--lr", "0.01", "--budget-epochs", "20", "--fit", "schedule=constant"]
    written = []
    for stderr in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stderr)
        assert main([*SMALL, *rough, "-o", "o.safetensors"]) == 0
        params, info = load_params("o.safetensors")
        written.append((tensors_hash(params.tensors), info))
    assert written[0] == written[1]
