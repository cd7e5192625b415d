"""Meta-training: the outer loss, its two inner loops, and what is really in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import shake_heads, smooth_image, tiny_hyper

from hyperinit.images.coords import image_to_rgb, pixel_coords
from hyperinit.learn.loss import OuterLoss, outer_loss
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.siren.network import apply


def run(hyper, seed=0, **fields):
    """Outer loss and its gradients by name, in float64."""
    images = torch.stack([smooth_image(seed=s) for s in range(2)]).double()
    hyper = hyper.double()
    generator = torch.Generator().manual_seed(seed)
    result = outer_loss(hyper, images, OuterLoss(query_pixels=40, **fields), generator=generator)
    result.loss.backward()
    return result, {name: p.grad for name, p in hyper.named_parameters()}


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("normalized", [False, True])
def test_the_fast_inner_loop_equals_higher(second_order, inner_steps, normalized):
    runs = [
        run(
            shake_heads(tiny_hyper(inner_steps, normalized=normalized)),
            weight_before=0.0,
            second_order=second_order,
            inner_loop=loop,
        )
        for loop in ("functional", "higher")
    ]
    (ours, our_gradients), (reference, their_gradients) = runs
    torch.testing.assert_close(ours.loss, reference.loss, rtol=1e-12, atol=1e-14)
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(gradient, their_gradients[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("inner_loop", ["functional", "higher"])
def test_the_outer_gradient_reaches_base_heads_encoder_and_step_sizes(inner_loop):
    _, gradients = run(shake_heads(tiny_hyper()), weight_before=0.0, inner_loop=inner_loop)
    for name, gradient in gradients.items():
        assert gradient is not None and gradient.abs().sum() > 0, name


def test_second_order_gradients_agree_with_finite_differences():
    hyper = shake_heads(tiny_hyper(2)).double()
    _, gradients = run(hyper, weight_before=0.0)
    weight, step = hyper.base.layers[0].weight, 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[3, 1] += sign * step
        values.append(float(run(hyper, weight_before=0.0)[0].loss.detach()))
        with torch.no_grad():
            weight[3, 1] -= sign * step
    slope = (values[0] - values[1]) / (2 * step)
    # backward() adds up over the three calls; the first call's gradient was read before
    assert gradients["base.layers.0.weight"][3, 1] / 3 == pytest.approx(slope, rel=1e-4)


def test_first_and_second_order_differ():
    loss = {"weight_before": 0.0}
    first = run(shake_heads(tiny_hyper(3)), second_order=False, **loss)[1]
    second = run(shake_heads(tiny_hyper(3)), second_order=True, **loss)[1]
    assert not torch.allclose(first["base.layers.1.weight"], second["base.layers.1.weight"])


def test_no_inner_steps_is_plain_hypernetwork_training():
    result, gradients = run(shake_heads(tiny_hyper(0)), weight_before=0.0)
    assert result.mse_before == result.mse_after
    assert gradients["heads.0.left.weight"].abs().sum() > 0


def test_the_loss_is_the_weighted_sum_of_its_parts():
    result, _ = run(shake_heads(tiny_hyper()), weight_before=0.3, weight_after=0.7)
    assert result.mse_before != result.mse_after
    expected = 0.3 * result.mse_before + 0.7 * result.mse_after
    assert float(result.loss.detach()) == pytest.approx(expected, rel=1e-9)


def test_the_weights_of_a_runs_settings_reach_its_loss():
    config = TrainConfig(weight_before=0.3, weight_after=0.7, query_pixels=40)
    images = torch.stack([smooth_image()])
    generator = torch.Generator().manual_seed(0)
    result = HYPERNETWORK.loss(tiny_hyper(), config, images, generator)
    expected = 0.3 * result.mse_before + 0.7 * result.mse_after
    assert float(result.loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_an_inner_step_descends_the_root_of_the_error(image):
    coords, rgb = pixel_coords(16, 16), image_to_rgb(image)
    hyper = tiny_hyper(1)
    hyper.config = replace(hyper.config, inner_pixels=256)  # all, so that it is known which
    start = hyper.base.params.map(lambda value: value.detach().clone().requires_grad_())
    root = (apply(start, coords) - rgb).square().mean().sqrt()
    gradients = torch.autograd.grad(root, list(start.values()))
    found, sizes = hyper.generate(image), hyper.step_sizes()[0]
    for (name, value), gradient in zip(start.items(), gradients, strict=True):
        expected = value.detach() - sizes[name].detach() * gradient
        torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=1e-7)
        if gradient.abs().max() > 0:
            assert not torch.equal(found[name], value.detach())
    assert float(hyper.objective(torch.tensor(0.04))) == pytest.approx(0.2)


def test_the_residual_penalty_is_really_in_the_loss():
    # The seed's code computed its regularisers but never optimised them.
    plain, without = run(shake_heads(tiny_hyper()))
    penalised, gradients = run(shake_heads(tiny_hyper()), residual_penalty=1.0)
    assert penalised.loss > plain.loss
    assert not torch.allclose(gradients["heads.0.left.weight"], without["heads.0.left.weight"])
    untrained, _ = run(tiny_hyper(), residual_penalty=1.0)
    torch.testing.assert_close(untrained.loss, run(tiny_hyper())[0].loss)


def test_the_residual_penalty_is_the_mean_square_relative_to_the_base():
    hyper = shake_heads(tiny_hyper(0)).double()
    images = torch.stack([smooth_image(seed=s) for s in range(2)]).double()
    losses = [
        outer_loss(
            hyper,
            images,
            OuterLoss(query_pixels=40, residual_penalty=weight),
            generator=torch.Generator().manual_seed(0),
        ).loss
        for weight in (0.0, 0.5)
    ]
    base, made = hyper.base.params, hyper(images)
    sizes = [(made[n] - base[n]).square().mean() / base[n].square().mean() for n in base]
    torch.testing.assert_close(losses[1] - losses[0], 0.5 * torch.stack(sizes).mean())


def test_coordinates_are_scaled_the_same_in_meta_training_and_fitting():
    # The seed's code divided by the coordinates' std when fitting but not when meta-training.
    hyper = tiny_hyper(0).double()
    images = torch.stack([smooth_image()]).double()
    loss = OuterLoss(query_pixels=20000)
    generator = torch.Generator().manual_seed(0)
    measured = outer_loss(hyper, images, loss, generator=generator).mse_before
    coords = pixel_coords(16, 16).double()
    exact = (apply(hyper.base.params, coords) - image_to_rgb(images[0])).square().mean().detach()
    assert float(measured) == pytest.approx(float(exact), rel=0.05)
