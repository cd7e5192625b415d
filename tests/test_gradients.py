"""The gradients made by hand are autograd's."""

from __future__ import annotations

import pytest
import torch

from hyperinit.inits.rules import PAPER_INIT, sample_params
from hyperinit.siren.network import Params, SirenConfig, apply
from hyperinit.siren.vectors import FlatParams
from hyperinit.stepping import gradients
from hyperinit.stepping.gradients import Gradients, LowGradients, scaled_coords


def start_of(config: SirenConfig, images: int, dtype: torch.dtype) -> Params:
    generator = torch.Generator().manual_seed(0)
    several = [sample_params(PAPER_INIT, config, generator=generator) for _ in range(images or 1)]
    if not images:
        return several[0].map(lambda value: value.to(dtype))
    return Params(config, {n: torch.stack([p[n] for p in several]).to(dtype) for n in several[0]})


@pytest.mark.parametrize("images", [0, 1, 3])
@pytest.mark.parametrize(
    "config",
    [
        SirenConfig(16, 3),
        SirenConfig(8, 1),
        SirenConfig(12, 2, bias=False),
        SirenConfig(16, 4, 20.0, unit_std_coords=True),
        SirenConfig(8, 2, in_features=1, out_features=1),
        SirenConfig(8, 2, unit_std_coords=True, in_features=3, out_features=5),
    ],
    ids=str,
)
def test_gradients_are_those_of_autograd(images, config):
    start = start_of(config, images, torch.float64)
    flat = FlatParams(start)
    gradient = flat.zeros_like()
    gradient.vector.fill_(float("nan"))  # whatever was there is overwritten
    generator = torch.Generator().manual_seed(1)
    coords = torch.rand(*start.batch_shape, 20, config.in_features, generator=generator)
    coords = coords.double() * 2 - 1
    rgb = torch.randn(*start.batch_shape, 20, config.out_features, generator=generator).double()
    squared = Gradients(flat, gradient, 20)(scaled_coords(coords, config.unit_std_coords), rgb)
    leaves = start.map(lambda value: value.clone().requires_grad_())
    errors = (apply(leaves, coords) - rgb).square().mean(-1)
    errors.mean(-1).sum().backward()
    torch.testing.assert_close(squared, errors.detach(), rtol=1e-9, atol=1e-10)
    for name, value in leaves.items():
        torch.testing.assert_close(gradient.params[name], value.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("images", [0, 3])
@pytest.mark.parametrize(
    "config",
    [
        SirenConfig(48, 4),
        SirenConfig(48, 3, bias=False),
        SirenConfig(48, 2, 20.0),
        SirenConfig(8, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize(("lowest", "one_library"), [(0, True), (2, True), (0, False)])
def test_gradients_in_bfloat16_are_nearly_as_good_and_residuals_the_same(
    images, config, lowest, one_library, monkeypatch
):
    if one_library:  # as on processors where torch's own choice is the faster one
        monkeypatch.setattr(gradients, "onednn_linear", lambda: None)
    start, lowest = start_of(config, images, torch.float32), min(lowest, config.depth)
    generator = torch.Generator().manual_seed(1)
    coords = torch.rand(*start.batch_shape, 200, 2, generator=generator) * 2 - 1
    rgb = torch.randn(*start.batch_shape, 200, 3, generator=generator)
    flat, found, squared = FlatParams(start), [], []
    for kind in (Gradients, LowGradients):
        gradient = flat.zeros_like()
        squared.append(kind(flat, gradient, 200, lowest)(coords, rgb))
        found.append(gradient.params)
    if one_library:
        assert torch.equal(*squared)
    torch.testing.assert_close(*squared, rtol=1e-3, atol=1e-6)
    for name, exact in found[0].items():
        low = found[1][name]
        assert low.dtype == torch.float32
        assert float((low - exact).norm()) <= 0.015 * float(exact.norm()), name
    hidden = "layers.1.weight"
    assert torch.equal(found[0][hidden], found[1][hidden]) == (config.depth == 1 or lowest == 2)


def test_frozen_layers_below_need_no_gradient():
    start = start_of(SirenConfig(16, 3), 0, torch.float32)
    flat = FlatParams(start)
    whole, part = flat.zeros_like(), flat.zeros_like()
    coords, rgb = torch.rand(9, 2) * 2 - 1, torch.randn(9, 3)
    Gradients(flat, whole, 9)(coords, rgb)
    Gradients(flat, part, 9, lowest=2)(coords, rgb)
    assert not part.layers[0].any() and not part.layers[1].any()
    assert torch.equal(part.layers[2], whole.layers[2])
    assert torch.equal(part.layers[3], whole.layers[3])


def test_flat_params_are_a_copy_in_one_piece():
    start = start_of(SirenConfig(16, 3), 2, torch.float32)
    flat = FlatParams(start)
    assert all(torch.equal(flat.params[name], start[name]) for name in start)
    flat.layers[1].zero_()
    assert not flat.params["layers.1.weight"].any() and start["layers.1.weight"].any()
    assert flat.params["layers.2.weight"].any()
    flat.image(1)[0][0].zero_()
    assert flat.params["layers.0.weight"][0].any()
    assert not flat.params["layers.0.weight"][1].any()
