"""What "auto" is: eager where compiling fails, for any reason; and files say what it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import smooth_image
from torch._subclasses.fake_tensor import FakeTensorMode

from hyperinit.app.cli import main
from hyperinit.fitting.config import FitConfig, suited
from hyperinit.fitting.steps import settled_options
from hyperinit.images.save import save_image
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.inits.start import Start
from hyperinit.siren.network import SirenConfig
from hyperinit.siren.store import load_params
from hyperinit.stepping import engine

ROOT = Path(__file__).parent.parent.parent
FIT = """
import sys, torch
from hyperinit.stepping import engine
engine.COMPILE_WORK = 0  # or it would take a long fit
from hyperinit.app.cli import main
sys.exit(main())
"""


@pytest.fixture
def photo(tmp_path) -> str:
    save_image(smooth_image(16), tmp_path / "a.png")
    return str(tmp_path / "a.png")


def small(photo: str, *flags: str) -> list[str]:
    size = ["--init", "33", "--width", "8", "--depth", "2", "--budget-epochs", "4"]
    return ["fit", photo, *size, *flags]


@pytest.mark.long
@pytest.mark.parametrize(
    "environment",
    [
        {"TORCHINDUCTOR_CACHE_DIR": "/proc/nowhere"},
        {"TMPDIR": "/proc/nowhere", "TORCHINDUCTOR_CACHE_DIR": "/dev/full/x"},
        {"CXX": "/nowhere/c++", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"},
    ],
    ids=["no cache", "no temporary directory", "no compiler"],
)
def test_where_compiling_fails_a_fit_is_eager_after_one_line(photo, tmp_path, environment):
    out = tmp_path / "o.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", FIT, *small(photo, "--fit", "engine=auto", "-o", str(out))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("torch.compile failed") == 1 and "Traceback" not in done.stderr
    assert load_params(out)[1]["became"]["engine"] == "eager"


def test_whatever_the_compiler_raises_the_fit_is_eager(photo, tmp_path, monkeypatch, caplog):
    class Odd(Exception):
        pass

    def fails(*arguments):
        raise Odd("of no known kind")

    monkeypatch.setattr(engine, "_cannot_compile", False)
    monkeypatch.setattr(engine, "_compiled", lambda: fails)
    monkeypatch.setattr(engine, "COMPILE_WORK", 0)
    out = tmp_path / "o.safetensors"
    assert main(small(photo, "--fit", "engine=auto", "-o", str(out))) == 0
    assert sum("of no known kind" in line for line in caplog.messages) == 1
    assert load_params(out)[1]["became"]["engine"] == "eager"


def test_a_file_says_what_auto_became(photo, tmp_path, monkeypatch):
    files = {}
    for pays in (False, True):  # as two machines, or one beside other work, would decide
        monkeypatch.setattr(engine, "bfloat16_pays", lambda device, pays=pays: pays)
        out = tmp_path / f"{pays}.safetensors"
        assert main(small(photo, "--fit", "hidden_dtype=auto", "-o", str(out))) == 0
        files[pays] = load_params(out)
    became = {pays: info["became"]["hidden_dtype"] for pays, (_, info) in files.items()}
    assert became == {False: "float32", True: "bfloat16"}
    (a, _), (b, _) = files.values()
    assert any(not torch.equal(a[name], b[name]) for name in a)
    out = tmp_path / "default.safetensors"
    assert main(small(photo, "-o", str(out))) == 0
    assert load_params(out)[1]["fit"]["hidden_dtype"] == "float32"  # nothing is left to a timing


def test_on_a_gpu_auto_is_eager_and_said_to_be():
    """Steps are captured there; a long fit was said to be compiled."""
    one = sample_params(named_init("33"), SirenConfig(8, 2), generator=torch.Generator())
    with FakeTensorMode(allow_non_fake_inputs=True):  # needs no GPU
        start = Start(one.map(lambda value: torch.empty(value.shape, device="cuda")))
        config = suited(FitConfig(engine="auto"), start)
        assert settled_options(config, start.params, 64, work=1e15)["engine"] == "eager"
