"""What a fit says of itself at its end is of all pixels, whatever its looks on the way see."""

from __future__ import annotations

import pytest
import torch
from conftest import smooth_image

from hyperinit.fitting import target
from hyperinit.fitting.config import FitConfig, SampledFit
from hyperinit.fitting.fit import fit
from hyperinit.fitting.many import fit_many
from hyperinit.fitting.target import fit_to_target
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.siren.network import Params, predict

OPTIONS = {"budget_epochs": 4, "batch_pixels": 64, "eval_pixels": 1}


def start():
    spec = named_init("33")
    generator = torch.Generator().manual_seed(0)
    return sample_params(spec, spec.siren_config(16, 2), generator=generator)


def true_mse(params, image) -> float:
    return float(grid_errors(predict(params, image_coords(image)), image_to_rgb(image))[0])


@pytest.mark.parametrize("restarts", [0, 3])
def test_the_result_of_a_fit_is_of_all_pixels(restarts):
    image = smooth_image(16)
    often = {**OPTIONS, "eval_epochs": (0.25, 0.5, 1, 2, 3, 3.5), "max_restarts": restarts}
    for result in (fit(start(), image, **often), fit_many([start()], [image], **often)[0]):
        truth = pytest.approx(true_mse(result.params, image), rel=1e-4)
        assert result.kept.mse == truth and result.mse == truth
        assert result.kept == result.curve[-1]  # a pixel that is right by chance is not kept


def test_a_fit_stops_by_the_error_of_all_pixels():
    image = smooth_image(16)
    result = fit(start(), image, eval_epochs=range(4), stop_mse=0.9, **OPTIONS)
    assert all(point.mse > 0.9 for point in result.curve[:-1])
    assert result.mse == pytest.approx(true_mse(result.params, image), rel=1e-4)


def test_a_target_is_reached_on_all_pixels():
    image = smooth_image(16)
    result = fit_to_target(start(), image, 0.2, **{**OPTIONS, "budget_epochs": 60})
    assert result.mse == pytest.approx(true_mse(result.params, image), rel=1e-4)
    assert result.reached == (true_mse(result.params, image) <= 0.2)


@pytest.mark.parametrize("corner", [0, 7, 14, 21, 28, 35, 42])
def test_what_a_sample_of_the_pixels_misses_costs_no_fit_to_a_target_its_best(corner, monkeypatch):
    """Of a few bright pixels on grey the first look sees too many or none: 1,024 of 4,096."""
    image = torch.full((3, 64, 64), 0.5)
    image[:, corner : corner + 2, corner : corner + 2] = 1
    plain = image_to_rgb(torch.full((3, 1, 1), 0.5))[0] + 0.02
    begun = start()
    own = {"layers.2.weight": torch.zeros(3, 16), "layers.2.bias": plain}
    begun = Params(begun.config, {**begun.tensors, **own})
    begun_mse, ends = true_mse(begun, image), []
    real = target.descend
    monkeypatch.setattr(target, "descend", lambda *a, **k: ends.append(real(*a, **k)) or ends[-1])
    result = fit_to_target(begun, image, 1e-4, budget_epochs=4)
    assert not result.reached
    best = min(begun_mse, *(end.mse for (end,) in ends))
    assert result.mse == pytest.approx(best, rel=1e-4)
    assert result.mse == pytest.approx(true_mse(result.params, image), rel=1e-4)
    assert result.improved == (best < begun_mse)


def test_the_fits_inside_a_training_look_at_a_sample_alone(monkeypatch):
    from hyperinit.fitting import descent

    seen = []
    real = descent.predict
    monkeypatch.setattr(descent, "predict", lambda p, c: seen.append(len(c)) or real(p, c))
    config = SampledFit(budget_epochs=1, eval_epochs=(), eval_pixels=8)
    fit_many([start()], [smooth_image(16)], config, seed=3)
    assert seen == [8, 8]
    fit_many([start()], [smooth_image(16)], FitConfig(budget_epochs=1, eval_epochs=()))
    assert seen == [8, 8, 256, 256]
