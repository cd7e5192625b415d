"""The default fit: what it promises of errors, budgets, collapses and of the process around it."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import smooth_image

from hyperinit.bench.catalogue import inits_for_fit
from hyperinit.bench.sources import load_init
from hyperinit.fitting import descent, steps
from hyperinit.fitting.config import PROTOCOL_1, FitConfig, rate_of, suited
from hyperinit.fitting.fit import fit, too_small
from hyperinit.fitting.many import fit_many
from hyperinit.fitting.suits import suitable_batch, suitable_lr, suitable_width, width_for
from hyperinit.fitting.target import fit_to_target
from hyperinit.inits.rules import Preference, named_init, sample_params
from hyperinit.inits.start import Start
from hyperinit.siren.network import Params, SirenConfig
from hyperinit.stepping import watch

WIDTH, DEPTH = 32, 3


def start(seed: int = 0, name: str = "identity") -> Params:
    spec = named_init(name)
    config = spec.siren_config(WIDTH, DEPTH)
    return sample_params(spec, config, generator=torch.Generator().manual_seed(seed))


def narrow() -> Params:
    """Of too few weights for 24 x 32 pixels."""
    spec = named_init("identity")
    config = spec.siren_config(16, DEPTH)
    return sample_params(spec, config, generator=torch.Generator().manual_seed(0))


def picture(height: int = 24, width: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth colours with an edge, so that some pixels are harder than others."""
    image = smooth_image(max(height, width), seed)[:, :height, :width].clone()
    image[:, height // 3 : height // 2, width // 4 : width // 2] = 0.9
    return image


def test_the_default_fit_is_better_than_that_of_protocol_1() -> None:
    image = picture()
    old = {**PROTOCOL_1, "batch_pixels": 256, "lr": 4e-3}
    errors = [fit(start(), image, **options).mse for options in ({}, old)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("units", [True, False])
def test_gradients_are_in_bfloat16_where_the_processor_has_units(
    units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "has_bfloat16_units", lambda: units)
    options: dict[str, Any] = {"budget_epochs": 4}
    exact = fit(start(), picture(), backward_dtype="float32", **options)
    small = fit(start(), picture(), **options)
    assert small.became["backward_dtype"] == "float32" and small.mse == exact.mse
    monkeypatch.setattr(steps, "BACKWARD_WORK", 0)  # as in larger networks
    expected = "bfloat16" if units else "float32"
    found = fit(start(), picture(), **options)
    assert found.became["backward_dtype"] == expected
    assert found.mse == fit(start(), picture(), backward_dtype=expected, **options).mse
    assert (found.mse == exact.mse) == (not units)
    assert found.mse == pytest.approx(exact.mse, rel=0.1)
    for own in ({"optimizer": "adamw"}, {"hidden_dtype": "bfloat16"}):  # autograd's gradients
        for dtype in ("auto", "bfloat16"):
            other = fit(start(), picture(), backward_dtype=dtype, **own, **options)
            assert other.became["backward_dtype"] == "float32"


def test_progress_is_told_between_looks_and_changes_nothing() -> None:
    told: list[tuple[float, float]] = []
    options: dict[str, Any] = {"budget_epochs": 2, "eval_epochs": ()}
    found = fit(start(), picture(), on_progress=lambda *now: told.append(now), **options)
    assert found.mse == fit(start(), picture(), **options).mse
    epochs = [at for at, _ in told]
    assert epochs == sorted(epochs) and len(told) == 3 and epochs[-1] == 2
    assert told[-1][1] < told[0][1] and found.curve[-1].train_mse == told[-1][1]


def test_a_fit_is_the_same_every_time_and_another_seed_is_another() -> None:
    runs = [fit(start(), picture(), budget_epochs=1, seed=seed).mse for seed in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 3), (7, 40), (33, 32)])
def test_images_of_any_shape_are_fitted(shape: tuple[int, int]) -> None:
    result = fit(start(), torch.rand(3, *shape), budget_epochs=4)
    assert math.isfinite(result.mse) and result.kept.mse <= result.curve[0].mse


@pytest.mark.parametrize("optimizer", ["nadam", "soap"])
@pytest.mark.parametrize("frozen", [(), (0,), (0, 1, 2), (3,)])
def test_frozen_layers_stay_as_they_are(optimizer: Any, frozen: tuple[int, ...]) -> None:
    params = start()
    result = fit(params, picture(), budget_epochs=1, optimizer=optimizer, frozen_layers=frozen)
    for layer in range(DEPTH + 1):
        same = torch.equal(result.params.layer(layer)[0], params.layer(layer)[0])
        assert same == (layer in frozen)


def test_gradients_by_hand_and_by_autograd_give_one_fit() -> None:
    by_hand = fit(start(), picture(), budget_epochs=0.5)
    # "auto" takes the way of the compiled engine, which is autograd's, and finds the fit too short.
    by_autograd = fit(start(), picture(), budget_epochs=0.5, engine="auto")
    assert by_autograd.mse == pytest.approx(by_hand.mse, rel=1e-3)


def test_fits_together_are_those_that_each_would_be_alone() -> None:
    images = [picture(seed=seed) for seed in range(3)]
    starts = [start(seed) for seed in range(3)]
    together = fit_many(starts, images, budget_epochs=1)
    for own, begin, image in zip(together, starts, images, strict=True):
        assert own.mse == pytest.approx(fit(begin, image, budget_epochs=1).mse, rel=1e-2)


def test_starts_of_different_cost_are_not_charged_alike() -> None:
    images = [picture(seed=seed) for seed in range(3)]
    starts = [Start(start(seed), epochs=cost) for seed, cost in enumerate((0.0, 0.5, 0.0))]
    results = fit_many(starts, images, budget_epochs=1, eval_epochs=())
    assert [result.curve[0].epochs for result in results] == [0.0, 0.5, 0.0]
    assert results[1].curve[-1].steps < results[0].curve[-1].steps


def test_the_rate_of_a_start_reaches_the_fit() -> None:
    rates = [
        fit(Start(start(), lr_factor=factor), picture(), budget_epochs=0.1).lr
        for factor in (0.25, 0.5)
    ]
    assert rates[0] < rates[1]
    assert fit(start(), picture(), budget_epochs=0.1, lr=1e-3).lr == 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("lr", [0.05, 1.0, 100.0])
def test_a_rate_that_is_far_too_high_ends_near_a_good_one(lr: float) -> None:
    image = picture()
    good = fit(start(), image, budget_epochs=4)
    found = fit(start(), image, budget_epochs=4, lr=lr)
    assert found.restarts
    assert found.psnr > good.psnr - 1.5
    assert found.curve[-1].epochs < 4 + 3 * 1.5  # noticed soon


@pytest.mark.parametrize(("name", "lr"), [("identity", 0.02), ("33", 20.0)])
def test_a_fit_that_ends_at_a_single_colour_is_made_again_at_the_rate_that_suits(
    name: str, lr: float
) -> None:
    begin, image = Start(start(name=name)), picture()  # too short a fit to look dead on the way
    good = fit(begin, image, budget_epochs=1, eval_epochs=())
    found = fit(begin, image, budget_epochs=1, eval_epochs=(), lr=lr)
    assert found.restarts == 1 and found.lr == good.lr
    assert found.mse == good.mse and found.curve[-1].epochs == pytest.approx(2, abs=0.1)


def test_a_single_colour_that_a_high_rate_fits_well_is_no_failure() -> None:
    plain = torch.full((3, 24, 32), 0.3)
    found = fit(start(), plain, budget_epochs=2, lr=0.02, eval_epochs=())
    assert found.kept.psnr > 40 and not found.restarts


def test_a_preferred_rate_is_the_same_in_every_kind_of_fit() -> None:
    begin = Start(start(), prefers=Preference(lr_factor=2.0))  # not for rates that rise
    usual = fit(begin, picture(), budget_epochs=12, max_restarts=0, stop_mse=10.0).lr
    assert rate_of(FitConfig(budget_epochs=12), begin, 24 * 32) == usual


@pytest.mark.slow
def test_a_fit_that_stalls_is_restarted_at_half_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Start(start(), lr_factor=0.5)
    usual = fit(begin, picture(), budget_epochs=16)
    assert not usual.restarts
    monkeypatch.setattr(descent, "detail", lambda images: torch.zeros(images.shape[:-3]))
    monkeypatch.setattr(watch, "STALL_FALL", math.inf)  # now every fit looks stalled
    found = fit(begin, picture(), budget_epochs=16, max_restarts=1, eval_epochs=())
    assert found.restarts == 1 and found.stalled and found.lr == pytest.approx(usual.lr / 2)
    for other in (replace(begin, lr_factor=1.0), Start(narrow(), lr_factor=0.5)):
        (unwatched,) = descent.descend(other, picture(), FitConfig(budget_epochs=16))
        assert not unwatched.stalled


@pytest.mark.slow
def test_a_fit_that_looks_dead_at_every_rate_is_made_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = Start(narrow(), lr_factor=0.5)
    unwatched = fit(begin, picture(), budget_epochs=16, max_restarts=0)
    monkeypatch.setattr(watch, "DEAD_VARIANCE", 0.0)
    monkeypatch.setattr(watch, "DEAD_FALL", math.inf)  # now every fit looks dead
    found = fit(begin, picture(), budget_epochs=16)
    assert found.restarts == 3 and not found.diverged and found.mse == unwatched.mse


def test_a_rate_a_little_too_high_is_taken_back_to_the_one_that_suits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin, image = Start(start(name="33")), picture()
    usual = fit(begin, image, budget_epochs=4)
    monkeypatch.setattr(descent, "EARLY_SHARE", 1.0)
    monkeypatch.setattr(watch, "DEAD_VARIANCE", 0.0)
    monkeypatch.setattr(watch, "DEAD_FALL", math.inf)  # now every fit looks dead
    found = fit(begin, image, budget_epochs=4, lr=usual.lr * 2, max_restarts=1)
    assert found.restarts == 1 and found.lr == pytest.approx(usual.lr)


def test_a_benchmark_sees_a_collapse_as_it_is() -> None:
    result = fit(start(), picture(), budget_epochs=4, lr=1.0, max_restarts=0)
    assert result.restarts == 0 and result.mse > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("lr_factor", [1, 3, 10, 1e9])
@pytest.mark.parametrize("name", ["identity", "33", "paper"])
def test_a_longer_budget_never_ends_below_a_shorter_one(name: str, lr_factor: float) -> None:
    spec, image = named_init(name), picture()
    begin = Start(start(name=name), lr_factor=spec.lr_factor, prefers=spec.prefers)
    psnrs = []
    for budget in (1, 2, 4, 8):
        config = suited(FitConfig(budget_epochs=budget), begin)
        lr = lr_factor * rate_of(config, begin, image[0].numel())
        psnrs.append(fit(begin, image, config, lr=lr).kept.psnr)
    assert all(b > a - 0.5 for a, b in itertools.pairwise(psnrs))


@pytest.mark.parametrize("omega_0", [None, 20.0])
def test_the_command_takes_what_suits_init_33_as_the_library_does(omega_0: float | None) -> None:
    init = load_init("33@0.5", inits_for_fit("33@0.5", omega_0), WIDTH, DEPTH)
    begin = init.start(picture(), 0)
    assert begin.prefers == named_init("33").prefers
    assert suited(FitConfig(), begin).optimizer == "soap"


def detailed() -> torch.Tensor:
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, 32, mode="bilinear")[0]


def of_width(width: int, depth: int = 4) -> Start:
    spec = named_init("identity")
    generator = torch.Generator().manual_seed(0)
    params = sample_params(spec, spec.siren_config(width, depth), generator=generator)
    return Start(params, lr_factor=spec.lr_factor)


@pytest.mark.slow
def test_a_network_that_is_too_small_is_told_the_width_that_does() -> None:
    small = fit(of_width(16), detailed(), budget_epochs=8)
    assert small.kept.psnr < 20 and small.enough_width == 64
    assert "of 4 x 16" in too_small(small) and "a width of 64" in too_small(small)
    enough = fit(of_width(64), detailed(), budget_epochs=8)
    assert enough.kept.psnr > 39 and enough.enough_width is None and not too_small(enough)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"budget_epochs": 2},
        {"lr": 1e-6, "max_restarts": 0},
        {"frozen_layers": (1, 2)},
        {"optimizer": "adamw"},
    ],
)
def test_where_something_else_is_the_limit_no_width_is_named(options: dict[str, Any]) -> None:
    result = fit(of_width(16), detailed(), **{"budget_epochs": 8, **options})
    assert result.kept.psnr < 20 and result.enough_width is None


def test_from_a_start_that_cannot_be_fitted_no_width_is_named() -> None:
    zeros = Start(of_width(16).params.map(torch.zeros_like))
    assert fit(zeros, detailed(), budget_epochs=8).enough_width is None


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_where_a_fit_is_called_does_not_matter(context: Any) -> None:
    expected = fit(start(), picture(), budget_epochs=0.5)
    with context():
        inside = fit(start(), picture(), budget_epochs=0.5)
        many = fit_many([start()], [picture()], budget_epochs=0.5)
        target = fit_to_target(start(), picture(), 0.5)
    assert inside.mse == many[0].mse == expected.mse
    assert target.reached
    Params(inside.params.config, dict(inside.params)).map(lambda v: v.requires_grad_())


def test_the_default_dtype_and_autocast_do_not_matter() -> None:
    expected = fit(start(), picture(), budget_epochs=0.5)
    params, image = start(), picture()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = fit(params, image, budget_epochs=0.5)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.mse == expected.mse


def test_batches_suit_the_image() -> None:
    assert [suitable_batch(side * side) for side in (4, 32, 96, 224, 4000)] == [
        *(16, 32, 144, 784, 1024)
    ]


def test_rates_fall_with_size_width_and_depth_and_follow_the_init() -> None:
    def lr(width: int = 128, depth: int = 4, pixels: int = 9216, factor: float = 0.5) -> float:
        siren = SirenConfig(width, depth)
        return suitable_lr(siren, pixels, suitable_batch(pixels), 8, factor)

    assert lr() == pytest.approx(3.5e-4)
    assert lr(width=256) < lr() and lr(depth=6) < lr()
    assert lr(pixels=768 * 512) < 2.5 * lr()
    assert lr(factor=1.0) == pytest.approx(96 / 70 * lr(), rel=1e-6)  # init 33
    assert lr(pixels=32 * 32, factor=1.0) < lr(pixels=32 * 32)


def test_widths_suit_the_image_and_the_target() -> None:
    assert suitable_width(224 * 224) == 256 == suitable_width(16)
    assert 256 < suitable_width(512 * 512) <= 384
    siren = SirenConfig(256, 5)
    assert width_for(siren, 8e-4, 8e-4) == 256
    assert width_for(siren, 3.2e-3, 8e-4) > 400


@pytest.mark.parametrize("field", ["beta1", "seed", "sampler", "optimizer", "schedule"])
def test_a_bad_option_is_named(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        FitConfig(**{field: "no such thing"})
