"""A directory of results never mixes two settings, and what was left open is recorded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import smooth_image

from hyperinit.base.errors import InputError
from hyperinit.fitting.descent import FitResult
from hyperinit.fitting.fit import failure
from hyperinit.images.save import save_image
from hyperinit.inits.rules import NAMED_INITS, sample_params
from hyperinit.inits.start import spec_init
from hyperinit.photos import folder
from hyperinit.record.records import CurvePoint
from hyperinit.sets import results as results_module
from hyperinit.sets.directory import fit_directory
from hyperinit.siren.network import SirenConfig
from hyperinit.siren.store import load_params
from hyperinit.stepping import engine

INIT = spec_init("33", NAMED_INITS["33"], 8, 2)
FAST = {"budget_epochs": 2.0, "batch_pixels": 64, "eval_epochs": ()}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(2):
        save_image(smooth_image(16, seed=seed), folder / f"{seed}.png")
    return folder


def test_results_of_another_width_are_not_taken_for_finished(photos, tmp_path):
    fit_directory(photos, tmp_path / "out", INIT, **FAST)
    assert fit_directory(photos, tmp_path / "out", INIT, **FAST).finished == 2
    wider = spec_init("33", NAMED_INITS["33"], 16, 2)
    with pytest.raises(InputError, match="use another output directory"):
        fit_directory(photos, tmp_path / "out", wider, **FAST)


def test_what_auto_became_first_holds_for_the_directory(photos, tmp_path, monkeypatch):
    out, options = tmp_path / "out", {**FAST, "hidden_dtype": "auto", "engine": "auto"}
    monkeypatch.setattr(engine, "bfloat16_pays", lambda device: True)
    fit_directory(photos, out, INIT, **options)
    save_image(smooth_image(16, seed=9), photos / "9.png")
    monkeypatch.setattr(engine, "bfloat16_pays", lambda device: False)  # another machine
    assert fit_directory(photos, out, INIT, **options).fitted == 1
    became = [load_params(path)[1]["became"] for path in out.glob("*.safetensors")]
    expected = {"engine": "eager", "hidden_dtype": "bfloat16", "optimizer": "soap"}
    expected["backward_dtype"] = "float32"
    assert became == [{**expected, "batch_pixels": 64}] * 3


def test_results_that_do_not_say_what_auto_became_are_finished(photos, tmp_path, monkeypatch):
    real = results_module.save_params

    def as_before(path, params, *, became, **facts):
        real(path, params, **facts)

    monkeypatch.setattr(results_module, "save_params", as_before)
    options = {**FAST, "hidden_dtype": "auto"}
    fit_directory(photos, tmp_path / "out", INIT, **options)
    assert fit_directory(photos, tmp_path / "out", INIT, **options).finished == 2


def test_a_photograph_that_changes_while_it_is_read_has_no_result(photos, tmp_path, monkeypatch):
    real = folder.load_image

    def replaced_meanwhile(path, **options):
        image = real(path, **options)
        if path.name == "1.png":
            save_image(smooth_image(16, seed=7), path)
        return image

    monkeypatch.setattr(folder, "load_image", replaced_meanwhile)
    report = fit_directory(photos, tmp_path / "out", INIT, **FAST)
    assert report.fitted == 1 and [name for name, _ in report.failed] == ["1.png"]
    assert "changed while being read" in report.failed[0][1]


def test_a_fit_whose_error_hardly_falls_still_has_a_result(tmp_path):
    photos = tmp_path / "noise"
    photos.mkdir()
    noise = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    save_image(noise, photos / "n.png")
    init = spec_init("paper", NAMED_INITS["paper"], 32, 3)
    report = fit_directory(photos, tmp_path / "out", init, budget_epochs=8, eval_epochs=())
    assert (report.fitted, report.failed) == (1, ())


def test_a_fit_that_is_given_up_is_not_said_to_diverge():
    begin = CurvePoint(0.0, 0, 0.0, 1.0, 5.0, 1.0)
    end = CurvePoint(1.0, 10, 0.1, 0.9, 5.5, 0.9)
    params = sample_params(NAMED_INITS["paper"], SirenConfig(8, 2), generator=torch.Generator())
    given_up = FitResult(params, end, (begin, end), 1e-3, diverged=True, restarts=3)
    assert "given up" in failure(given_up) and "max_restarts=0" in failure(given_up)
    assert "diverged" not in failure(given_up)
    assert "below 0.001" in failure(replace(given_up, restarts=0))
