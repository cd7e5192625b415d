"""Params + image -> fitted Params: what the one fit loop promises about budget, start and end."""

from __future__ import annotations

import math
import typing
from typing import Any

import pytest
import torch
from conftest import assert_same
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.fitting.config import PROTOCOL_1, FitConfig
from hyperinit.fitting.descent import FitResult
from hyperinit.fitting.fit import failure
from hyperinit.fitting.fit import fit as fit_by_default
from hyperinit.fitting.suits import default_lr
from hyperinit.fitting.target import fit_to_target
from hyperinit.images.coords import image_to_rgb, pixel_coords
from hyperinit.inits.rules import PAPER_INIT, sample_params
from hyperinit.inits.start import Start
from hyperinit.record.records import CurvePoint
from hyperinit.siren.network import Params, Siren, SirenConfig, predict
from hyperinit.siren.signals import preview
from hyperinit.stepping import engine
from hyperinit.stepping.samplers import SAMPLERS


def fit(start: Any, image: Any, config: FitConfig | None = None, **options: Any) -> FitResult:
    """A fit of protocol 1, unless a config says otherwise; test_default_fit.py has the default."""
    return fit_by_default(start, image, config or FitConfig(**PROTOCOL_1), **options)


def start_params(width: int = 16, depth: int = 2, seed: int = 0) -> Params:
    config = PAPER_INIT.siren_config(width, depth)
    return sample_params(PAPER_INIT, config, generator=torch.Generator().manual_seed(seed))


def noise(height: int, width: int, seed: int = 1) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def smooth(height: int = 12, width: int = 12) -> Tensor:
    """A gradient across, one down, and one channel of a single value."""
    x = torch.linspace(0, 1, width).expand(height, width)
    y = torch.linspace(0, 1, height)[:, None].expand(height, width)
    return torch.stack((x, y, torch.full((height, width), 0.4)))


def same(a: Params, b: Params) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def finite(params: Params) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in params.values())


def copy(params: Params) -> Params:
    return params.map(lambda value: value.detach().clone())


# What a fit does ---------------------------------------------------------------------------------


def test_a_fit_comes_near_the_image() -> None:
    image = smooth()
    result = fit(start_params(), image, budget_epochs=60, batch_pixels=48)
    assert result.mse < 0.1 * result.curve[0].mse
    assert result.psnr > result.curve[0].psnr + 10
    assert not result.diverged
    shown = preview(result.params, image)
    assert shown.shape == image.shape
    assert float((shown - image).abs().mean()) < 0.05


def test_the_result_is_what_the_last_point_of_the_curve_says() -> None:
    image = smooth(5, 9)
    result = fit(start_params(), image, budget_epochs=6, batch_pixels=20)
    error = predict(result.params, pixel_coords(5, 9)) - image_to_rgb(image)
    assert result.mse == result.curve[-1].mse == pytest.approx(float(error.square().mean()))
    assert not any(value.requires_grad for value in result.params.values())


def test_psnr_is_of_the_error_in_0_to_1() -> None:
    image = noise(6, 6)
    result = fit(start_params(), image, budget_epochs=0)
    std = torch.tensor([0.229, 0.224, 0.225])
    error = (predict(result.params, pixel_coords(6, 6)) - image_to_rgb(image)) * std
    assert result.psnr == pytest.approx(-10 * math.log10(float(error.square().mean())), abs=1e-3)


def test_params_stay_untouched_and_a_module_is_fitted_in_place() -> None:
    params, image = start_params(), smooth()
    before, siren = copy(params), Siren.from_params(params)
    from_params = fit(params, image, budget_epochs=3)
    assert same(params, before)
    assert not any(value.requires_grad for value in params.values())
    from_module = fit(siren, image, budget_epochs=3)
    assert same(siren.params, from_module.params) and same(from_params.params, from_module.params)
    assert not same(siren.params, before) and same(params, before)
    assert all(value.requires_grad for value in siren.parameters())  # can be trained further
    assert not any(value.requires_grad for value in from_module.params.values())


def test_a_module_made_in_inference_mode_is_fitted_in_place() -> None:
    with torch.inference_mode():
        module = Siren(start_params())
        result = fit(module, noise(4, 4), budget_epochs=1)
    assert_same(module.params, result.params)


def test_results_can_be_looked_for_in_a_list() -> None:
    one, other = (fit(start_params(), noise(4, 4), budget_epochs=0) for _ in range(2))
    assert [one, other].index(other) == 1 and len({one, other}) == 2


def test_the_result_does_not_change_when_the_module_does() -> None:
    siren = Siren.from_params(start_params())
    result = fit(siren, smooth(), budget_epochs=1)
    kept = copy(result.params)
    fit(siren, smooth(), budget_epochs=1)
    assert same(result.params, kept)


def test_the_image_stays_untouched() -> None:
    image = noise(6, 6)
    before = image.clone()
    fit(start_params(), image, budget_epochs=2)
    assert torch.equal(image, before)


def test_options_are_fields_of_the_config() -> None:
    params, image = start_params(), smooth()
    config = FitConfig(**{**PROTOCOL_1, "budget_epochs": 2, "batch_pixels": 36})
    assert same(
        fit(params, image, config).params,
        fit(params, image, budget_epochs=2, batch_pixels=36).params,
    )
    assert fit(params, image, config, budget_epochs=3).curve[-1].steps == 12


def test_default_learning_rate_is_inverse_in_width() -> None:
    assert default_lr(SirenConfig(width=256)) == pytest.approx(5e-4)
    assert default_lr(SirenConfig(width=64)) == pytest.approx(2e-3)


# Determinism -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_same_seed_gives_the_same_bits_and_another_seed_does_not(sampler: Any) -> None:
    params, image = start_params(), noise(8, 8)
    options: dict[str, Any] = {"budget_epochs": 2, "batch_pixels": 16, "sampler": sampler}
    first, again, other = (fit(params, image, seed=seed, **options) for seed in (1, 1, 2))
    assert same(first.params, again.params)
    assert [point.mse for point in first.curve] == [point.mse for point in again.curve]
    assert not same(first.params, other.params)


def test_a_fit_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    fit(start_params(), noise(4, 4), budget_epochs=1)
    assert torch.equal(torch.random.get_rng_state(), before)


# Samplers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_pixels", [1, 8, 35])
def test_every_epoch_visits_every_pixel_exactly_once(batch_pixels: int) -> None:
    image = noise(5, 7)
    coords, rgb = pixel_coords(5, 7), image_to_rgb(image)
    pixel_of = {tuple(point): i for i, point in enumerate(coords.tolist())}
    next_batch = SAMPLERS["pixels"](image, batch_pixels, torch.Generator().manual_seed(0))
    visits: list[int] = []
    while len(visits) < 4 * 35:
        batch_coords, batch_rgb = next_batch()
        assert batch_coords.shape == (batch_pixels, 2)
        indices = [pixel_of[tuple(point)] for point in batch_coords.tolist()]
        assert torch.equal(batch_rgb, rgb[indices])
        visits += indices
    epochs = [visits[i * 35 : (i + 1) * 35] for i in range(4)]  # batches may straddle two
    assert all(sorted(epoch) == list(range(35)) for epoch in epochs)
    assert epochs[0] != epochs[1]  # shuffled anew


def test_points_at_pixel_centres_have_the_colours_of_the_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = noise(5, 7)
    coords = pixel_coords(5, 7)
    monkeypatch.setattr(torch, "rand", lambda *size, generator: (coords + 1) / 2)
    points, colours = SAMPLERS["points"](image, 35, torch.Generator())()
    assert torch.allclose(points, coords, atol=1e-6)
    assert torch.allclose(colours, image_to_rgb(image), atol=1e-4)


def test_points_between_pixels_are_interpolated() -> None:
    """Bilinear interpolation gives a linear image back exactly, and all of its area is used."""
    image = (pixel_coords(6, 10).T.reshape(2, 6, 10) + 1) / 2  # red: x, green: y, in [0, 1]
    image = torch.cat((image, torch.zeros(1, 6, 10)))
    points, colours = SAMPLERS["points"](image, 500, torch.Generator().manual_seed(0))()
    assert points.shape == (500, 2) and colours.shape == (500, 3)
    assert float(points.min()) < -0.95 and float(points.max()) > 0.95
    edge = torch.tensor([1 - 1 / 10, 1 - 1 / 6])  # beyond the outer centres colours are constant
    expected = torch.zeros(3, 500, 1)
    expected[:2, :, 0] = ((points.clamp(-edge, edge) + 1) / 2).T
    assert torch.allclose(colours, image_to_rgb(expected), atol=1e-5)


def test_fitting_random_points_lowers_the_error_at_the_pixels() -> None:
    result = fit(start_params(), smooth(), budget_epochs=30, batch_pixels=48, sampler="points")
    assert result.mse < 0.3 * result.curve[0].mse


# Budget ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget_epochs", "batch_pixels", "steps"),
    [(3, 16, 12), (1, 64, 1), (0.5, 16, 2), (2, 60, 2), (0, 16, 0), (10, 48, 13)],
)
def test_the_budget_is_met_in_pixel_visits(
    budget_epochs: float, batch_pixels: int, steps: int
) -> None:
    result = fit(
        start_params(), noise(8, 8), budget_epochs=budget_epochs, batch_pixels=batch_pixels
    )
    assert result.curve[-1].steps == steps
    assert result.curve[-1].epochs == pytest.approx(steps * batch_pixels / 64)
    # to the nearest step
    assert abs(result.curve[-1].epochs - budget_epochs) <= batch_pixels / 64 / 2


def test_no_budget_leaves_the_start_as_it_is() -> None:
    params = start_params()
    result = fit(params, noise(8, 8), budget_epochs=0)
    assert same(result.params, params)
    assert len(result.curve) == 1 and result.curve[0].steps == 0
    assert math.isnan(result.curve[0].train_mse)


def test_what_the_start_has_cost_is_part_of_the_budget() -> None:
    params, image = start_params(), noise(8, 8)
    options: dict[str, Any] = {"budget_epochs": 4, "batch_pixels": 16, "eval_epochs": (2, 3)}
    result = fit(Start(params, epochs=1.5, sec=7.0), image, **options)
    assert result.curve[-1].steps == 10  # 2.5 epochs of 4 steps
    assert [point.epochs for point in result.curve] == [1.5, 2, 3, 4]
    assert result.curve[0].sec == 7.0
    assert result.curve[-1].sec >= 7.0


def test_a_start_that_has_spent_the_budget_is_not_fitted() -> None:
    params = start_params()
    result = fit(Start(params, epochs=3), noise(8, 8), budget_epochs=2)
    assert same(result.params, params)
    assert [(point.steps, point.epochs) for point in result.curve] == [(0, 3)]


def test_a_batch_is_never_larger_than_the_image() -> None:
    result = fit(start_params(), noise(4, 5), budget_epochs=6, batch_pixels=2048)
    assert result.curve[-1].steps == 6
    assert result.curve[-1].epochs == 6


def test_the_curve_has_start_and_end_and_the_declared_epochs() -> None:
    options: dict[str, Any] = {
        "budget_epochs": 5,
        "batch_pixels": 16,
        "eval_epochs": (0.5, 1, 3, 64),
    }
    curve = fit(start_params(), noise(8, 8), **options).curve
    assert [point.epochs for point in curve] == [0, 0.5, 1, 3, 5]
    assert [point.steps for point in curve] == [0, 2, 4, 12, 20]
    seconds = [point.sec for point in curve]
    assert seconds == sorted(seconds) and seconds[0] == 0
    assert math.isnan(curve[0].train_mse)
    assert all(point.train_mse > 0 for point in curve[1:])


def test_evaluating_more_often_changes_nothing() -> None:
    params, image = start_params(), noise(8, 8)
    often = fit(params, image, budget_epochs=3, batch_pixels=16, eval_epochs=(0.25, 0.5, 1, 2))
    rarely = fit(params, image, budget_epochs=3, batch_pixels=16, eval_epochs=())
    assert same(often.params, rarely.params)
    assert len(often.curve) == 6 and len(rarely.curve) == 2


def test_evaluating_a_sample_of_the_pixels_changes_nothing_but_the_curve() -> None:
    params, image = start_params(), noise(16, 16)
    options: dict[str, Any] = {"budget_epochs": 3, "batch_pixels": 16, "eval_epochs": (1, 2)}
    whole = fit(params, image, **options)
    sample = fit(params, image, eval_pixels=64, **options)
    assert same(whole.params, sample.params)
    assert sample.curve[0].mse == whole.curve[0].mse and sample.kept.mse == whole.kept.mse
    assert sample.curve[-1].mse == whole.curve[-1].mse
    for point, exact in zip(sample.curve[1:-1], whole.curve[1:-1], strict=True):
        assert point.mse != exact.mse and point.mse == pytest.approx(exact.mse, rel=0.5)
    assert fit(params, image, eval_pixels=256, **options).curve[-1].mse == whole.curve[-1].mse


def test_a_fit_can_stop_once_it_is_good_enough() -> None:
    options: dict[str, Any] = {
        "budget_epochs": 60,
        "batch_pixels": 48,
        "eval_epochs": range(60),
        "schedule": "constant",
    }
    whole = fit(start_params(), smooth(), **options)
    target = max(whole.curve[40].mse, whole.curve[40].train_mse)
    result = fit(start_params(), smooth(), stop_mse=target, **options)
    assert result.curve[-1].epochs < 60
    assert result.mse <= target and result.curve[-1].train_mse <= target
    assert not any(p.mse <= target and p.train_mse <= target for p in result.curve[:-1])
    # and was the same fit until then
    assert [p.mse for p in result.curve] == [p.mse for p in whole.curve[: len(result.curve)]]


def test_every_evaluation_is_reported_as_it_happens() -> None:
    seen: list[CurvePoint] = []
    result = fit(start_params(), noise(8, 8), budget_epochs=3, on_eval=seen.append)
    assert tuple(seen) == result.curve


# Optimiser ---------------------------------------------------------------------------------------


def learning_rates(monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[list[float]]:
    """The learning rate of each parameter group at each step of a fit of 4 steps."""
    seen: list[list[float]] = []
    step = torch.optim.AdamW.step

    def record(self: torch.optim.AdamW, *args: Any) -> Any:
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    fit(start_params(), noise(4, 4), budget_epochs=4, **options)
    return seen


def test_linear_schedule_decays_to_0_over_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = learning_rates(monkeypatch, lr=0.08, output_lr_factor=1)
    assert seen == [pytest.approx([lr, lr]) for lr in (0.08, 0.06, 0.04, 0.02)]


def test_constant_schedule_does_not_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = learning_rates(monkeypatch, lr=0.08, schedule="constant", output_lr_factor=1)
    assert seen == [pytest.approx([0.08, 0.08])] * 4


def test_the_output_layer_has_a_learning_rate_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = learning_rates(monkeypatch, lr=0.08, schedule="constant", output_lr_factor=3)
    assert seen == [pytest.approx([0.08, 0.24])] * 4


def test_adamw_moves_by_the_learning_rate_in_its_first_step() -> None:
    """Which layers a rate is for: Adam's first step is the rate itself, for any gradient."""
    params = start_params()
    result = fit(params, noise(4, 4), budget_epochs=1, lr=1e-3, output_lr_factor=3)
    for name in params:
        moved = float((result.params[name] - params[name]).abs().max())
        assert moved == pytest.approx(3e-3 if name.startswith("layers.2.") else 1e-3, rel=1e-2)


def test_no_momentum_may_be_written_as_a_whole_number() -> None:
    options = {"budget_epochs": 1, "optimizer": "adamw"}
    whole = fit(start_params(), noise(4, 4), beta1=0, **options)
    assert_same(whole.params, fit(start_params(), noise(4, 4), beta1=0.0, **options).params)


def test_weight_decay_shrinks_weights() -> None:
    params, image = start_params(), noise(4, 4)
    options: dict[str, Any] = {"budget_epochs": 1, "lr": 1e-3, "output_lr_factor": 1}
    plain = fit(params, image, **options).params
    decayed = fit(params, image, weight_decay=10.0, **options).params
    for name in params:
        assert torch.allclose(decayed[name], plain[name] - 1e-2 * params[name], atol=1e-6)


@pytest.mark.parametrize("layers", [(0,), (1,), (2,), (0, 1), (0, 2)])
def test_frozen_layers_do_not_move_and_the_others_do(layers: tuple[int, ...]) -> None:
    params = start_params()
    result = fit(
        params, smooth(), budget_epochs=3, batch_pixels=48, frozen_layers=layers, weight_decay=0.1
    )
    for name in params:
        frozen = int(name.split(".")[1]) in layers
        assert torch.equal(params[name], result.params[name]) == frozen, name
    assert not any(value.requires_grad for value in result.params.values())


def test_all_layers_can_be_frozen() -> None:
    params = start_params()
    result = fit(params, smooth(), budget_epochs=3, frozen_layers=(0, 1, 2))
    assert same(result.params, params)
    assert result.curve[-1].epochs == 3


@pytest.mark.parametrize("how", [{"frozen_layers": (0, 1, 2)}, {"layer_lr_factors": (0, 0, 0)}])
def test_what_trains_nothing_is_said_to_do_so(how: Any) -> None:
    found = failure(fit(start_params(), smooth(), budget_epochs=3, **how))
    assert found.startswith("no layer is trained")
    with pytest.raises(InputError, match="no layer is trained"):
        fit_to_target(start_params(), smooth(), 1e-3, **how)


def test_frozen_layers_of_a_module_can_be_trained_afterwards() -> None:
    siren = Siren.from_params(start_params())
    fit(siren, smooth(), budget_epochs=1, frozen_layers=(0,))
    assert all(value.requires_grad for value in siren.parameters())


# Unusual images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("height,width", [(1, 9), (9, 1), (1, 1), (2, 3)])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_small_and_thin_images_are_fitted(height: int, width: int, sampler: Any) -> None:
    image = noise(height, width)
    result = fit(start_params(), image, budget_epochs=30, sampler=sampler)
    assert result.curve[-1].steps == 30
    assert finite(result.params)
    assert result.mse < result.curve[0].mse


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_one_colour_image_is_fitted(level: float) -> None:
    image = torch.full((3, 8, 8), level)
    result = fit(start_params(), image, budget_epochs=100)
    assert finite(result.params) and not result.diverged
    assert result.mse < 0.05 * result.curve[0].mse
    assert math.isfinite(result.psnr)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_image_with_values_that_are_no_numbers_is_refused(bad: float) -> None:
    image = noise(4, 4)
    image[1, 2, 3] = bad
    params = start_params()
    siren = Siren.from_params(params)
    with pytest.raises(InputError, match="must be in"):
        fit(siren, image)
    assert same(siren.params, params)


@pytest.mark.parametrize("shape", [(1, 4, 4), (4, 4), (4, 4, 3), (2, 3, 4, 4), (3, 0, 4), (3, 4)])
def test_an_image_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="image tensor"):
        fit(start_params(), torch.zeros(shape))


# Divergence --------------------------------------------------------------------------------------


def assert_flagged(result: FitResult) -> None:
    assert result.diverged
    assert result.mse == result.curve[-1].mse == float("inf")
    assert all(math.isfinite(point.mse) for point in result.curve[:-1])
    assert finite(result.params)


@pytest.mark.parametrize("lr", [1e3, 1e30])
def test_divergence_is_flagged_and_the_last_good_params_are_returned(lr: float) -> None:
    params = start_params()
    result = fit(params, noise(8, 8), lr=lr, budget_epochs=8, batch_pixels=16)
    assert_flagged(result)
    assert same(result.params, params)  # nothing after the start was any better
    assert result.curve[-1].epochs < 8  # stopped, not run to the end


def test_a_module_that_diverges_ends_at_its_last_good_params() -> None:
    params = start_params()
    siren = Siren.from_params(params)
    assert_flagged(fit(siren, noise(8, 8), lr=1e30, budget_epochs=2))
    assert same(siren.params, params)


def test_a_start_that_is_not_finite_is_flagged_at_once() -> None:
    params = start_params().map(lambda value: value * float("nan"))
    result = fit(params, noise(4, 4), budget_epochs=2)
    assert result.diverged
    assert [(point.steps, point.mse) for point in result.curve] == [(0, float("inf"))]


# Refused options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "meant"),
    [("budget_epoch", "budget_epochs"), ("learning_lr", "lr"), ("batch", "batch_pixels")],
)
def test_an_unknown_option_suggests_the_nearest(option: str, meant: str) -> None:
    options: dict[str, Any] = {option: 1}
    with pytest.raises(InputError, match=rf"unknown fit option '{option}'.*{meant}"):
        fit(start_params(), noise(4, 4), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget_epochs": -1}, "budget_epochs must be at least 0, not -1"),
        ({"budget_epochs": float("inf")}, "budget_epochs"),
        ({"budget_epochs": float("nan")}, "budget_epochs"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": float("nan")}, "lr must be a finite number"),
        ({"batch_pixels": 0}, "batch_pixels must be at least 1"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"schedule": "lineer"}, "schedule must be one of .*'lineer'.*did you mean 'linear'"),
        ({"sampler": "pixel"}, "sampler must be one of .*'pixel'.*did you mean 'pixels'"),
        ({"layer_lr_factors": (1, -1, 1)}, r"layer_lr_factors\[1\] must be at least 0"),
        ({"layer_lr_factors": (1, 1)}, "layer_lr_factors: 2 factors for 3 layers"),
        (
            {"hidden_dtype": "bf16"},
            "hidden_dtype must be one of float32, bfloat16, auto, not 'bf16'",
        ),
        ({"engine": "compile"}, "engine must be one of .*'compile'.*did you mean 'compiled'"),
        ({"beta2": 1.0}, "beta2 must be below 1, not 1.0"),
        ({"max_restarts": -1}, "max_restarts must be at least 0, not -1"),
        ({"frozen_layers": (3,)}, "frozen_layers: no layer 3; this SIREN has 0 to 2"),
        ({"frozen_layers": (-1,)}, "frozen_layers: no layer -1"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(start_params(), noise(4, 4), **options)


def test_what_is_no_config_is_named() -> None:
    with pytest.raises(
        InputError, match="config must be a FitConfig, not dict; give its fields by"
    ):
        fit(start_params(), noise(4, 4), {"budget_epochs": 1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value"), [("lr", "1e-3"), ("budget_epochs", "8"), ("batch_pixels", "2048")]
)
def test_an_option_of_the_wrong_type_is_named(option: str, value: Any) -> None:
    with pytest.raises(InputError, match=option):
        fit(start_params(), noise(4, 4), **{option: value})


def test_a_stack_of_sirens_is_refused() -> None:
    stacked = start_params().map(lambda value: torch.stack((value, value)))
    with pytest.raises(InputError, match="one SIREN"):
        fit(stacked, noise(4, 4), budget_epochs=1)


# Restarts ----------------------------------------------------------------------------------------


def test_a_fit_that_blows_up_is_restarted_at_a_lower_rate() -> None:
    params, image = start_params(), smooth()
    options: dict[str, Any] = {"budget_epochs": 20, "batch_pixels": 48, "eval_epochs": (1,)}
    seen: list[CurvePoint] = []
    result = fit(params, image, lr=4.0, max_restarts=20, on_eval=seen.append, **options)
    assert not result.diverged and 0 < result.restarts < 20
    assert result.lr <= 4.0 / 3
    assert result.mse < result.curve[0].mse
    # It is the fit that this rate gives, and what the failed ones cost is on the curve.
    alone = fit(params, image, lr=result.lr, **options)
    assert [p.mse for p in result.curve] == [p.mse for p in alone.curve]
    assert result.curve[0].epochs >= result.restarts and result.curve[0].sec > 0
    assert result.curve[0].steps == round(result.curve[0].epochs * 3)
    for quantity in ("epochs", "steps", "sec"):
        values = [getattr(point, quantity) for point in seen]
        assert values == sorted(values)


def test_restarts_are_bounded_and_the_best_verified_params_are_returned() -> None:
    params = start_params()
    result = fit(params, noise(8, 8), lr=1e30, budget_epochs=2, max_restarts=0)
    assert result.diverged and result.restarts == 0
    assert same(result.params, params) and result.kept.mse < float("inf")


def test_a_fit_that_ends_worse_than_it_began_counts_as_failed() -> None:
    image = smooth()
    good = fit(start_params(), image, budget_epochs=60, batch_pixels=48).params
    options: dict[str, Any] = {"budget_epochs": 2, "batch_pixels": 48, "lr": 0.3}
    assert fit(good, image, **options).mse > fit(good, image, budget_epochs=0).mse
    result = fit(good, image, max_restarts=1, **options)
    assert result.restarts == 1
    assert result.kept.mse <= fit(good, image, budget_epochs=0).mse
    error = predict(result.params, pixel_coords(12, 12)) - image_to_rgb(image)
    assert result.kept.mse == pytest.approx(float(error.square().mean()))


def test_no_fit_is_begun_again_unless_asked_to() -> None:
    assert fit(start_params(), noise(8, 8), lr=1e30, budget_epochs=2).restarts == 0


def test_a_start_that_is_not_finite_is_not_begun_again() -> None:
    params = start_params().map(lambda value: value * float("nan"))
    assert fit(params, noise(4, 4), budget_epochs=2, max_restarts=3).restarts == 0


# Options of speed --------------------------------------------------------------------------------


@pytest.mark.slow
def test_hidden_layers_in_bfloat16_fit_nearly_as_well_and_the_weights_stay_float32() -> None:
    options: dict[str, Any] = {"budget_epochs": 60, "batch_pixels": 48}
    plain = fit(start_params(depth=3), smooth(), **options)
    result = fit(start_params(depth=3), smooth(), hidden_dtype="bfloat16", **options)
    assert all(value.dtype == torch.float32 for value in result.params.values())
    assert not same(result.params, plain.params)  # it was used
    assert result.mse < 0.1 * result.curve[0].mse


def test_first_and_last_layer_stay_float32() -> None:
    """Without layers between them, bfloat16 changes nothing."""
    plain = fit(start_params(depth=1), smooth(), budget_epochs=2)
    result = fit(start_params(depth=1), smooth(), budget_epochs=2, hidden_dtype="bfloat16")
    assert same(result.params, plain.params)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # torch.compile warns of its own dependencies
def test_a_compiled_fit_is_the_same_fit() -> None:
    plain = fit(start_params(), smooth(), budget_epochs=2)
    result = fit(start_params(), smooth(), budget_epochs=2, engine="compiled")
    for name in plain.params:
        torch.testing.assert_close(result.params[name], plain.params[name], atol=1e-4, rtol=1e-3)


def test_only_a_long_fit_is_compiled_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fit(start_params(), smooth(), budget_epochs=2)
    compiled: list[int] = []

    def loss(params: Params, coords: Tensor, rgb: Tensor, *rest: Any) -> Tensor:
        compiled.append(len(coords))
        return engine.squared_errors(params, coords, rgb, *rest)

    monkeypatch.setattr(engine, "_compiled", lambda: loss)
    assert same(fit(start_params(), smooth(), budget_epochs=2, engine="auto").params, plain.params)
    assert not compiled
    monkeypatch.setattr(engine, "COMPILE_WORK", 1.0)
    assert same(fit(start_params(), smooth(), budget_epochs=2, engine="auto").params, plain.params)
    assert compiled


def test_without_a_compiler_a_fit_goes_on_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Tensor:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(engine, "_compiled", lambda: fail)
    monkeypatch.setattr(engine, "COMPILE_WORK", 1.0)
    monkeypatch.setattr(engine, "_cannot_compile", False)
    plain = fit(start_params(), smooth(), budget_epochs=2)
    assert same(fit(start_params(), smooth(), budget_epochs=2, engine="auto").params, plain.params)
    with pytest.raises(InputError, match=r"engine.*no C\+\+ compiler.*eager"):
        fit(start_params(), smooth(), budget_epochs=2, engine="compiled")


@pytest.mark.parametrize("pays", [True, False])
def test_bfloat16_is_taken_where_it_pays(pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "bfloat16_pays", lambda device: pays)
    options: dict[str, Any] = {"budget_epochs": 2}
    expected = "bfloat16" if pays else "float32"
    known = fit(start_params(depth=3), smooth(), hidden_dtype=expected, **options)
    found = fit(start_params(depth=3), smooth(), hidden_dtype="auto", **options)
    assert same(found.params, known.params)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [(16, 16), (32 * 32, 32), (48 * 48, 36), (64 * 64, 64), (96 * 96, 144), (10**6, 1024)],
)
def test_an_epoch_has_about_64_steps(pixels: int, expected: int) -> None:
    assert FitConfig(batch_pixels=None).step_pixels(pixels) == expected
    assert FitConfig(batch_pixels=100).step_pixels(pixels) == min(100, pixels)


def test_every_layer_can_have_a_rate_of_its_own() -> None:
    """Adam's first step is the rate itself, for any gradient."""
    params = start_params()
    result = fit(
        params, noise(4, 4), budget_epochs=1, lr=1e-3, layer_lr_factors=(1, 0.5, 2)
    )  # and the output layer's own factor of 5 on top
    rates = {"0": 1e-3, "1": 5e-4, "2": 1e-2}
    for name in params:
        moved = float((result.params[name] - params[name]).abs().max())
        assert moved == pytest.approx(rates[name.split(".")[1]], rel=1e-2)


def test_pixels_that_are_far_off_are_drawn_more_often() -> None:
    batches = SAMPLERS["residual"](noise(6, 6), 12, torch.Generator().manual_seed(0))
    coords = pixel_coords(6, 6)
    pixel_of = {tuple(point): i for i, point in enumerate(coords.tolist())}
    counts = torch.zeros(36)
    first: list[int] = []
    for step in range(63):
        drawn = [pixel_of[tuple(point)] for point in batches()[0].tolist()]
        first += drawn if step < 3 else []
        if step >= 3:
            counts += torch.bincount(torch.tensor(drawn), minlength=36)
        # Pixels 0 to 8 have a residual of 4, the others of 1: the mean is 1.75.
        batches.observe(torch.tensor([[16.0 if i < 9 else 1.0, 0, 0] for i in drawn]))
    assert sorted(first) == list(range(36))  # every residual is known before it is used
    expected = (4 + 0.3 * 1.75) / (1 + 0.3 * 1.75)
    assert float(counts[:9].mean() / counts[9:].mean()) == pytest.approx(expected, rel=0.25)


def test_residual_sampling_survives_residuals_that_are_no_numbers() -> None:
    batches = SAMPLERS["residual"](noise(4, 4), 16, torch.Generator().manual_seed(0))
    for bad in (float("nan"), float("inf"), 0.0):
        coords, rgb = batches()
        assert torch.isfinite(coords).all() and torch.isfinite(rgb).all()
        batches.observe(torch.full((16, 3), bad))


def test_every_sampler_can_be_chosen() -> None:
    names = typing.get_args(typing.get_type_hints(FitConfig)["sampler"])
    assert sorted(names) == sorted(["credit", *SAMPLERS])
