"""Hypernetwork: image -> all weights and biases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import assert_same, shake_heads, smooth_image, tiny_hyper

from hyperinit.base.errors import InputError
from hyperinit.fitting.fit import fit
from hyperinit.hypernet.network import HyperConfig, HyperNetwork
from hyperinit.images.coords import grid_errors, image_to_rgb, pixel_coords
from hyperinit.images.save import save_image
from hyperinit.inits.rules import named_init
from hyperinit.siren.network import param_shapes, predict


@pytest.mark.parametrize("name", ["paper", "22", "33"])
def test_untrained_hypernetwork_returns_its_base_init_exactly(name):
    config = HyperConfig(named_init(name).siren_config(16, 2), encoder_size=8, inner_steps=0)
    hyper = HyperNetwork.from_named_init(config, name, seed=3)
    for seed in (0, 1):
        assert_same(hyper.generate(smooth_image(seed=seed)), hyper.base.params)


def test_a_hypernetwork_is_for_images_and_for_the_network_of_its_base():
    config = tiny_hyper().config
    with pytest.raises(InputError, match="from 2 coordinates to 3 colours, not from 1 to 3"):
        replace(config, siren=replace(config.siren, in_features=1))
    with pytest.raises(InputError, match=r"the base is a SIREN with .*width=16.*not with .*=8"):
        HyperNetwork(
            replace(config, siren=replace(config.siren, width=8)), tiny_hyper().base.params
        )


def test_it_outputs_every_parameter_of_the_siren_with_a_leading_batch():
    hyper = shake_heads(tiny_hyper())
    params = hyper(torch.stack([smooth_image(seed=s) for s in range(3)]))
    assert {n: tuple(v.shape[1:]) for n, v in params.items()} == param_shapes(hyper.config.siren)
    assert params.batch_shape == (3,)
    for name, value in params.items():  # every tensor depends on the image
        assert not torch.equal(value[0], value[1]), name


@pytest.mark.parametrize("shape", [(16, 16), (7, 31), (64, 40), (1, 50)])
def test_images_of_any_size_and_aspect_ratio_are_accepted(shape):
    hyper = shake_heads(tiny_hyper())
    params = hyper.generate(torch.rand(3, *shape))
    assert params.batch_shape == () and all(v.isfinite().all() for v in params.values())


def test_inner_steps_lower_the_error_and_are_repeatable(image):
    hyper = tiny_hyper(inner_steps=3)
    with torch.no_grad():
        hyper.log_step_sizes += 3  # the first step sizes are timid
    coords, rgb = pixel_coords(16, 16), image_to_rgb(image)
    before, _ = grid_errors(predict(hyper.base.params, coords), rgb)
    after, _ = grid_errors(predict(hyper.generate(image), coords), rgb)
    assert after < before
    assert_same(hyper.generate(image), hyper.generate(image))


def test_the_first_step_sizes_suit_the_base(image):
    """On `identity` those of init 33 would not be felt."""
    config = HyperConfig(named_init("identity").siren_config(64, 4), encoder_size=8, inner_steps=4)
    hyper = HyperNetwork.from_named_init(config, "identity")
    coords, rgb = pixel_coords(16, 16), image_to_rgb(image)
    before, _ = grid_errors(predict(hyper.base.params, coords), rgb)
    after, _ = grid_errors(predict(hyper.generate(image), coords), rgb)
    assert after < before / 2


def test_a_normalized_step_moves_every_tensor_by_its_step_size(image):
    hyper = tiny_hyper(inner_steps=1, normalized=True)
    moved = hyper.generate(image)
    for name, value in hyper.base.params.items():
        distance = float((moved[name] - value.detach()).square().mean().sqrt())
        assert distance == pytest.approx(float(hyper.step_sizes()[0][name].detach()), rel=1e-3), (
            name
        )


def test_inner_steps_can_be_left_out(image):
    hyper = shake_heads(tiny_hyper(inner_steps=2))
    assert_same(hyper.generate(image, inner_steps=2), hyper.generate(image))
    plain = hyper(image[None]).map(torch.Tensor.detach).unbatch()[0]
    assert_same(hyper.generate(image, inner_steps=0), plain)
    assert hyper.generate_epochs(image, inner_steps=0) == 0
    with pytest.raises(InputError, match="0 to 2"):
        hyper.generate(image, inner_steps=3)


def test_the_cost_of_generating_counts_every_pixel_visit(image):
    assert tiny_hyper(inner_steps=3).generate_epochs(image) == pytest.approx(3 * 32 / 256)
    assert tiny_hyper(inner_steps=0).generate_epochs(image) == 0
    # an image smaller than inner_pixels is visited whole
    assert tiny_hyper(inner_steps=3).generate_epochs(torch.rand(3, 4, 4)) == 3


def test_a_start_is_what_generate_gives_with_its_cost_and_rate(image, tmp_path):
    hyper = shake_heads(tiny_hyper(inner_steps=3))
    hyper.config = replace(hyper.config, lr_factor=0.25)
    start = hyper.start(image, seed=5)
    assert_same(start.params, hyper.generate(image, seed=5))
    assert start.epochs == hyper.generate_epochs(image) and start.sec > 0
    save_image(image, tmp_path / "photo.png")
    result = fit(hyper.start(tmp_path / "photo.png"), tmp_path / "photo.png", budget_epochs=2)
    at_twice = fit(replace(start, lr_factor=0.5), tmp_path / "photo.png", budget_epochs=2)
    assert result.lr < at_twice.lr  # the rate is the start's
    assert result.curve[0].epochs == start.epochs and result.curve[0].sec > 0


def test_the_encoder_sees_normalised_colours(image):
    hyper, seen = tiny_hyper(), []
    hyper.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    hyper(torch.stack([image]))
    expected = image_to_rgb(torch.nn.functional.adaptive_avg_pool2d(image, 8))  # (64, 3)
    torch.testing.assert_close(seen[0][0].flatten(1).T, expected)


def test_a_heads_residual_is_in_units_of_its_parameter():
    code = torch.ones(1, 16)
    for head, value in zip(tiny_hyper().heads, tiny_hyper().base.params.values(), strict=True):
        with torch.no_grad():
            head.left.bias.fill_(1.0)
            if head.right is not None:
                head.right.fill_(1.0)
        # A low-rank residual of ones is rank / sqrt(rank).
        size = 1.0 if head.right is None else head.rank**0.5
        expected = size * value.detach().square().mean().sqrt()
        torch.testing.assert_close(head(code), expected.expand(1, *value.shape))


def test_heads_stay_small_at_the_seeds_size():
    config = HyperConfig(named_init("33").siren_config(256, 5))
    hyper = HyperNetwork.from_named_init(config, "33")
    for head, shape in zip(hyper.heads, param_shapes(config.siren).values(), strict=True):
        assert head.left.out_features <= max(shape[0] * config.rank, 3 * shape[-1])


def test_generating_leaves_the_callers_random_numbers_alone(image):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tiny_hyper().generate(image)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("bad", [torch.rand(1, 8, 8), torch.rand(3, 8), torch.rand(3, 0, 8)])
def test_an_image_of_the_wrong_shape_is_refused(bad):
    with pytest.raises(InputError, match="image tensor"):
        tiny_hyper().generate(bad)


@pytest.mark.parametrize("field", [{"encoder_size": 12}, {"rank": 0}, {"inner_steps": -1}])
def test_impossible_sizes_are_refused(field):
    with pytest.raises(InputError, match=next(iter(field))):
        HyperConfig(named_init("33").siren_config(16, 2), **field)
