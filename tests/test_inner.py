"""The inner loop by itself: which pixels its steps see, and along which direction they go."""

from __future__ import annotations

import pytest
import torch
from conftest import assert_same, smooth_image, tiny_hyper

from hyperinit.hypernet import inner
from hyperinit.hypernet.inner import adapt, plain_mse, root_mse, unit_rms
from hyperinit.images.coords import image_coords, image_to_rgb
from hyperinit.siren.network import apply


@pytest.mark.parametrize(("inner_pixels", "seen"), [(40, 40), (10_000, 256)])
def test_each_step_sees_so_many_different_pixels(monkeypatch, inner_pixels, seen):
    calls, real = [], inner.take_inner_steps

    def note(params, coords, rgb, *arguments, **settings):
        calls.append((coords, rgb))
        return real(params, coords, rgb, *arguments, **settings)

    monkeypatch.setattr(inner, "take_inner_steps", note)
    hyper, image = tiny_hyper(3), smooth_image()
    adapt(
        hyper.base.params.map(torch.Tensor.detach), image, hyper.step_sizes(), inner_pixels, seed=1
    )
    ((coords, rgb),) = calls
    assert coords.shape == (1, 3, seen, 2) and rgb.shape == (1, 3, seen, 3)
    for step in coords[0]:
        assert len({tuple(place) for place in step.tolist()}) == seen
    if seen < 256:
        assert not torch.equal(coords[0, 0], coords[0, 1])
    colours = dict(zip(map(tuple, image_coords(image).tolist()), image_to_rgb(image), strict=True))
    for place, colour in zip(coords[0, 0].tolist(), rgb[0, 0], strict=True):
        assert torch.equal(colours[tuple(place)], colour)


@pytest.mark.parametrize("objective", [root_mse, plain_mse])
@pytest.mark.parametrize("normalized", [False, True])
def test_a_step_goes_along_the_gradient_of_its_objective(objective, normalized):
    hyper, image = tiny_hyper(1), smooth_image()
    sizes = hyper.step_sizes()
    start = hyper.base.params.map(lambda value: value.detach().clone().requires_grad_())
    mse = (apply(start, image_coords(image)) - image_to_rgb(image)).square().mean()
    gradients = torch.autograd.grad(objective(mse), list(start.values()))
    settings = {"normalized": True} if normalized else {}  # plain is what it does by itself
    found = adapt(
        start.map(torch.Tensor.detach), image, sizes, 256, seed=0, objective=objective, **settings
    )
    for (name, value), gradient in zip(start.items(), gradients, strict=True):
        along = gradient / gradient.square().mean().sqrt() if normalized else gradient
        expected = value.detach() - sizes[0][name].detach() * along
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)


def test_a_gradient_of_zero_moves_nothing():
    assert torch.equal(unit_rms(torch.zeros(2, 3, 4), batch_dims=1), torch.zeros(2, 3, 4))


def test_an_adapted_siren_belongs_to_no_graph_and_the_start_stays():
    hyper, image = tiny_hyper(2), smooth_image()
    start = hyper.base.params.map(lambda value: value.detach().clone())
    before = start.map(torch.Tensor.clone)
    found = adapt(start, image, hyper.step_sizes(), 64, seed=0)
    assert not any(value.requires_grad for value in found.values())
    assert_same(start.map(torch.Tensor.detach), before)
