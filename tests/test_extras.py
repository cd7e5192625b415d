"""Optional packages: each one that is missing is one line that names its extra."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
import torch
from conftest import smooth_image

from hyperinit import InputError, SirenConfig, from_pretrained, save_image, write_siren
from hyperinit.app.cli import main
from hyperinit.base.extras import EXTRAS, Extra, need
from hyperinit.base.settings import tomllib
from hyperinit.images.files import make_readable
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.loggers.table import check_logger
from hyperinit.spread.engines import engine_of

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"

# Extras that the library itself does not import: tools, and what benchmarks/ compares with.
NOT_IMPORTED = {"dev", "docs", "notebook", "peers"}


def test_the_table_is_that_of_pyproject():
    declared = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    extras = declared["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - NOT_IMPORTED
    for name, row in EXTRAS.items():
        assert any(line.startswith(row.package) for line in extras[name]), name


def wants_onnx(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    params = sample_params(named_init("33"), SirenConfig(8, 1), generator=generator)
    write_siren(folder / "a.onnx", params, "onnx")


def wants_a_report(folder: Path) -> None:
    from hyperinit.report.wandb_report import _api

    _api()


def wants_a_photograph_of_a_phone(folder: Path) -> None:
    make_readable(struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic", "phone.heic")


def wants_a_cluster(folder: Path) -> None:
    with engine_of("local"):
        pass


# Extra -> what a user does that needs it.
USES = {
    "completion": lambda folder: main(["completion", "bash"]),
    "demo": lambda folder: main(["demo", "--no-browser"]),
    "export": wants_onnx,
    "heic": wants_a_photograph_of_a_phone,
    "hf": lambda folder: main(["meta-train", "--data", "hf:me/set", "--out", f"{folder}/run"]),
    "hub": lambda folder: from_pretrained("me/tiny"),
    "mlflow": lambda folder: main(["meta-train", "--log", "mlflow", "--out", f"{folder}/run"]),
    "parquet": lambda folder: main(["meta-train", "--data", "a.parquet", "--out", f"{folder}/run"]),
    "ray": wants_a_cluster,
    "report": wants_a_report,
    "tensorboard": lambda folder: check_logger("tensorboard"),
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_package_is_one_line_that_names_the_extra(extra, tmp_path, monkeypatch, capsys):
    for name in [n for n in sys.modules if n.startswith(f"{EXTRAS[extra].module}.")]:
        monkeypatch.delitem(sys.modules, name)  # imported by a test before
    monkeypatch.setitem(sys.modules, EXTRAS[extra].module, None)
    with pytest.raises((InputError, SystemExit)) as stopped:
        USES[extra](tmp_path)
    lines = (capsys.readouterr().err or str(stopped.value)).splitlines()
    assert len(lines) == 1
    assert f"{EXTRAS[extra].package}: pip install 'hyperinit[{extra}]'" in lines[0]
    assert not EXTRAS[extra].is_installed and not list(tmp_path.iterdir())


def test_a_command_that_needs_an_extra_says_so_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    save_image(smooth_image(), tmp_path / "a.png")
    with pytest.raises(SystemExit) as stopped:
        main(["fit", str(tmp_path / "a.png"), "--init", "hub:me/tiny"])
    assert stopped.value.code == 2
    assert "pip install 'hyperinit[hub]'" in capsys.readouterr().err


def test_a_package_that_is_there_but_broken_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "brokenpackage.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(EXTRAS, "broken", Extra("brokenpackage", "broken-package", "it needs"))
    with pytest.raises(InputError, match=r"cannot be imported.*no_such_module_at_all"):
        need("broken")
