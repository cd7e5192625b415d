"""Starts that a transformer predicts: how they begin, what teaches them, where images come from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import smooth_image

from hyperinit import InputError
from hyperinit.base.settings import from_dict
from hyperinit.fitting.config import FitConfig
from hyperinit.fitting.fit import fit
from hyperinit.fitting.many import fit_unseen
from hyperinit.hypernet.learned import load_learned
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.inits.start import Start
from hyperinit.learn.config import ReptileConfig
from hyperinit.learn.images import Varied, crops_on, varied
from hyperinit.learn.loop import train_step
from hyperinit.learn.reptile import PRESETS, REPTILE, error_slope, guided_loss
from hyperinit.learn.state import TrainingImages, load_state, new_state, save_state
from hyperinit.photos.photographs import CropSampler, make_photo
from hyperinit.photos.synthetic import synthetic_image
from hyperinit.photos.workers import DeviceCrops, device_bytes
from hyperinit.siren.network import Params, predict
from hyperinit.siren.vectors import stack_params, to_vector

READS = {"patch_size": 4, "weight_tokens": 4, "token_size": 16, "attention_heads": 2}
TINY = from_dict(
    ReptileConfig,
    {**PRESETS["tiny"], **READS, "transformer_layers": 1, "batch_images": 3, "lr": 3e-3},
    source="test",
)
CPU = torch.device("cpu")


def images(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.stack([smooth_image(16, seed + i) for i in range(count)])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mse(params: Params, image: torch.Tensor) -> float:
    with torch.no_grad():
        errors = grid_errors(predict(params, image_coords(image)), image_to_rgb(image))
    return float(errors[0].mean())


# What it is --------------------------------------------------------------------------------------


def test_at_first_every_image_gets_the_base_itself():
    model = new_state(REPTILE, TINY).model
    one, other = (model.generate(image) for image in images(2))
    base = to_vector(model.base.params)
    assert torch.equal(to_vector(one), base) and torch.equal(to_vector(other), base)


def test_after_training_images_differ_the_base_does_not_move_and_files_keep_it(tmp_path):
    state = new_state(REPTILE, TINY)
    before = to_vector(state.model.base.params).clone()
    for _ in range(3):
        train_step(state, TINY, images())
    one, other = (state.model.generate(image) for image in images(2))
    for name in ("layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.2.bias"):
        assert not torch.equal(one[name], other[name])
    assert torch.equal(to_vector(state.model.base.params), before)
    save_state(tmp_path / "checkpoint.safetensors", state, TINY)
    loaded, _ = load_learned(tmp_path)
    assert torch.equal(to_vector(loaded.generate(images(1)[0])), to_vector(one))


def test_training_that_was_interrupted_is_the_same(tmp_path):
    whole, parts = new_state(REPTILE, TINY), new_state(REPTILE, TINY)
    for step in range(4):
        if step == 2:
            save_state(tmp_path / "checkpoint.safetensors", parts, TINY)
            parts, _, _ = load_state(tmp_path / "checkpoint.safetensors", REPTILE)
        for state in (whole, parts):
            train_step(state, TINY, images(seed=step))
    one, other = (state.model.state_dict() for state in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patch_size": 17}, "patch_size 17 exceeds the images' 16"),
        ({"patch_size": 4, "attention_heads": 3}, "multiple of attention_heads"),
        ({"patch_size": 4, "read_numbers": 8}, "read_numbers cannot be combined"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        new_state(REPTILE, replace(TINY, **options))


# What teaches it ---------------------------------------------------------------------------------


def test_fits_side_by_side_lead_where_fits_alone_do():
    base = new_state(REPTILE, TINY).model.base.params.map(torch.Tensor.detach)
    config = FitConfig(budget_epochs=2.0, seed=5)
    ends = fit_unseen(Start(stack_params([base] * 3), lr_factor=0.3), images(), config)
    for image, end in zip(images(), ends.unbatch(), strict=True):
        alone = fit(Start(base, lr_factor=0.3), image, config, max_restarts=0).params
        torch.testing.assert_close(to_vector(end), to_vector(alone), rtol=1e-3, atol=1e-5)


def test_the_slope_is_that_of_the_root_mean_squared_error():
    params = stack_params([new_state(REPTILE, TINY).model.base.params.map(torch.Tensor.detach)] * 2)
    found = error_slope(params, images(2), seeded())
    leaves = params.map(lambda value: value.clone().requires_grad_())
    errors = grid_errors(predict_with_gradient(leaves), image_to_rgb(images(2)))[0]
    wanted = torch.autograd.grad(errors.sqrt().sum(), list(leaves.values()))
    # Twice: the slope of the square over the root.
    wanted = 2 * to_vector(Params(params.config, dict(zip(leaves, wanted, strict=True))))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def predict_with_gradient(params: Params) -> torch.Tensor:
    from hyperinit.siren.network import apply

    return apply(params, image_coords(images(2)))


def test_a_step_leads_to_where_fits_ended_and_down_the_error():
    base = new_state(REPTILE, TINY).model.base.params.map(torch.Tensor.detach)
    starts = stack_params([base] * 2).map(lambda value: value.clone().requires_grad_())
    ended = starts.map(lambda value: value.detach() + 0.01 * torch.ones_like(value))
    vector = {}
    for weight in (0.0, 1.0):
        loss = guided_loss(starts, ended, images(2), weight, seeded())
        gradients = torch.autograd.grad(loss, list(starts.values()))
        named = dict(zip(starts, gradients, strict=True))
        vector[weight] = -2 * to_vector(Params(base.config, named))  # of two images, their mean
        assert float(loss.detach()) == pytest.approx(0.5 * 1e-4 * vector[0.0].shape[1], rel=1e-3)
    displaced = to_vector(ended) - to_vector(starts).detach()
    torch.testing.assert_close(vector[0.0], displaced / displaced.norm(dim=1).mean())
    slope = error_slope(starts.map(torch.Tensor.detach), images(2), seeded())
    down = vector[1.0] - vector[0.0]
    torch.testing.assert_close(down, -slope / slope.norm(dim=1).mean(), rtol=1e-3, atol=1e-5)


def test_a_fit_that_ends_worse_teaches_nothing():
    wild = replace(TINY, fit_lr=1e4, start_weight=0.0)
    state = new_state(REPTILE, wild)
    before = state.model.state_dict()["modulator.weights.0.rows.1.weight"].clone()
    metrics = train_step(state, wild, images())
    after = state.model.state_dict()["modulator.weights.0.rows.1.weight"]
    assert metrics["train/mse_after"] <= metrics["train/mse_before"]
    assert float((after - before).abs().max()) < 1e-6


@pytest.mark.slow
def test_it_learns_to_tell_images_apart():
    config = replace(TINY, start_weight=1.0, horizon_epochs=2.0, max_steps=60)
    state, shown = new_state(REPTILE, config), images()
    before = sum(mse(state.model.generate(image), image) for image in shown)
    for _ in range(60):
        train_step(state, config, shown)
    starts = [state.model.generate(image) for image in shown]
    own = sum(mse(start, image) for start, image in zip(starts, shown, strict=True))
    others = sum(mse(start, image) for start, image in zip(starts, shown.roll(1, 0), strict=True))
    assert own < 0.7 * before and own < 0.8 * others


# Its images --------------------------------------------------------------------------------------


def sampler(size: int = 8, side: int = 40) -> CropSampler:
    sides = [(side, side), (side + 13, side - 4), (side, side + 30)]
    made = [
        make_photo(
            str(i), str(i), synthetic_image(i, max(pair))[:, : pair[0], : pair[1]], keep_side=99
        )
        for i, pair in enumerate(sides)
    ]
    return CropSampler(made, size, seed=3)


def test_crops_made_on_a_device_are_those_made_by_threads():
    crops = sampler()
    there = DeviceCrops(crops, CPU)
    for step in range(3):
        torch.testing.assert_close(there.batch(step, 20), crops.batch(step, 20), rtol=0, atol=1e-5)


def test_photographs_stay_where_they_are_if_there_is_no_room_or_crops_are_enlarged():
    training = TrainingImages(sampler(), [])
    needed = device_bytes(training.batches)
    assert needed == 3 * 3 * 53 * 70
    assert crops_on(training, CPU, needed - 1) is None
    assert isinstance(crops_on(training, CPU, needed).batches, DeviceCrops)
    assert device_bytes(sampler(size=39)) is None  # one is 53 x 36
    assert crops_on(TrainingImages(Varied(sampler(), 0), []), CPU, 2**40) is None


def test_varied_images_are_a_function_of_the_step_and_stay_images():
    source = sampler()
    batch = Varied(source, seed=1).batch(2, 30)
    assert torch.equal(batch, Varied(source, seed=1).batch(2, 30))
    assert not torch.equal(batch, Varied(source, seed=2).batch(2, 30))
    assert float(batch.min()) >= 0 and float(batch.max()) <= 1
    plain = source.batch(2, 30)
    moved = (batch - plain).flatten(1).norm(dim=1) / plain.flatten(1).norm(dim=1)
    assert 0.02 < float(moved.median()) < 0.5 and float(moved.max()) < 0.8


def test_no_more_than_half_of_a_varied_image_is_another_one():
    dark, bright = torch.zeros(3, 4, 4), torch.ones(3, 4, 4)
    mixed = varied(torch.stack([dark, bright] * 200), seeded())[::2].flatten(1).mean(1)
    assert float(mixed.max()) <= 0.55 and 0.2 < float((mixed > 0.06).float().mean()) < 0.4
