"""Optimisers: the updates that their papers describe, written plainly here in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.inits.rules import PAPER_INIT, sample_params
from hyperinit.siren.network import Params, SirenConfig
from hyperinit.siren.vectors import FlatParams
from hyperinit.stepping.optimizers import NAdam, Optimizer
from hyperinit.stepping.soap import OPTIMIZERS, Soap

CONFIG = SirenConfig(12, 3)
FACTORS = (0.5, 0.0, 1.5, 5.0)


def start_of(images: int = 0, dtype: torch.dtype = torch.float32) -> Params:
    generator = torch.Generator().manual_seed(0)
    several = [sample_params(PAPER_INIT, CONFIG, generator=generator) for _ in range(images or 1)]
    stacked = {name: torch.stack([p[name] for p in several]) for name in several[0]}
    params = Params(CONFIG, stacked) if images else several[0]
    return params.map(lambda value: value.to(dtype))


def gradients_of(like: Params, steps: int) -> list[Params]:
    """Some that change in size and direction, as those of a fit do."""
    generator = torch.Generator().manual_seed(1)
    drift = like.map(lambda value: torch.randn(value.shape, generator=generator).double())
    return [_noisy(drift, generator, 1 + step) for step in range(steps)]


def _noisy(params: Params, generator: torch.Generator, size: float) -> Params:
    return params.map(lambda value: (value + torch.randn(value.shape, generator=generator)) / size)


def run(optimizer: Optimizer, gradients: list[Params], lr: float | list[float] = 1e-2) -> None:
    for gradient in gradients:
        for name, value in gradient.items():
            optimizer.gradient.params[name].copy_(value)
        optimizer.step(lr)


def plain_adam(
    start: Tensor, gradients: list[Tensor], lr: float, nesterov: bool, decay: float
) -> Tensor:
    """The update of the docstrings, element by element in float64."""
    beta1, beta2, eps = 0.8, 0.9999, 1e-8
    value = start.double()
    first, second = torch.zeros_like(value), torch.zeros_like(value)
    for t, gradient in enumerate(gradients, 1):
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        direction = first / (1 - beta1**t)
        if nesterov:
            direction = beta1 * first / (1 - beta1 ** (t + 1))
            direction = direction + (1 - beta1) * gradient / (1 - beta1**t)
        value = value - lr * decay * value
        value = value - lr * direction / ((second / (1 - beta2**t)).sqrt() + eps)
    return value


def assert_follows(optimizer: Optimizer, start: Params, gradients: list[Params], decay: float):
    for name, value in start.items():
        layer = int(name.split(".")[1])
        wanted = plain_adam(
            value,
            [gradient[name] for gradient in gradients],
            1e-2 * FACTORS[layer],
            optimizer.nesterov,
            decay,
        )
        torch.testing.assert_close(
            optimizer.flat.params[name].double(), wanted, rtol=1e-5, atol=1e-6
        )


@pytest.mark.slow
@pytest.mark.parametrize("images", [0, 3])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("plain", [False, True], ids=["fused", "plain"])
@pytest.mark.parametrize("name", ["adamw", "nadam"])
def test_updates_are_those_of_the_papers(name, plain, decay, images):
    start = start_of(images)
    gradients = gradients_of(start, 30)
    optimizer = OPTIMIZERS[name](FlatParams(start), FACTORS, weight_decay=decay, plain=plain)
    run(optimizer, gradients)
    assert_follows(optimizer, start, gradients, decay)
    assert torch.equal(optimizer.flat.layers[1], FlatParams(start).layers[1])  # factor 0


@pytest.mark.parametrize("plain", [False, True])
def test_soap_is_no_different_without_the_fused_kernel(plain):
    start = start_of(2)
    gradients = gradients_of(start, 12)
    options = {"weight_decay": 0.1, "refresh_steps": 5}
    one = Soap(FlatParams(start), FACTORS, plain=plain, **options)
    other = Soap(FlatParams(start), FACTORS, **options)
    run(one, gradients)
    run(other, gradients, [1e-2, 1e-2])
    for name, value in one.flat.params.items():
        torch.testing.assert_close(other.flat.params[name], value, rtol=1e-5, atol=1e-6)


def test_nadam_is_that_of_torch_beyond_its_schedule():
    start = start_of()
    gradients = gradients_of(start, 30)
    optimizer = NAdam(FlatParams(start), (1.0,) * 4)
    run(optimizer, gradients)
    theirs = start.map(lambda value: value.clone().requires_grad_())
    other = torch.optim.NAdam(theirs.values(), lr=1e-2, betas=(0.8, 0.9999), momentum_decay=1e6)
    for gradient in gradients:
        for name, value in theirs.items():
            value.grad = gradient[name].float()
        other.step()
    for name, value in theirs.items():
        torch.testing.assert_close(optimizer.flat.params[name], value.detach(), rtol=0, atol=1e-6)


def plain_soap(start: Tensor, gradients: list[Tensor], lr: float, both: bool, every: int) -> Tensor:
    """Every quantity of the paper in the basis that it is defined in, nothing turned in place."""
    beta1, beta2, eps, beta = 0.8, 0.9999, 1e-8, 0.95
    value = start.double()
    first, second = torch.zeros_like(value), torch.zeros_like(value)
    for t, gradient in enumerate(gradients, 1):
        if t == 1:
            right, left = gradient.T @ gradient, gradient @ gradient.T
        else:
            right = beta * right + (1 - beta) * gradient.T @ gradient
            left = beta * left + (1 - beta) * gradient @ gradient.T
        if (t - 1) % every == 0:
            turn_right = torch.linalg.eigh(right)[1]
            turn_left = torch.linalg.eigh(left)[1] if both else torch.eye(len(value)).double()
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * (turn_left.T @ gradient @ turn_right) ** 2
        direction = beta1 * first / (1 - beta1 ** (t + 1))
        direction = direction + (1 - beta1) * gradient / (1 - beta1**t)
        turned = (turn_left.T @ direction @ turn_right) / ((second / (1 - beta2**t)).sqrt() + eps)
        value = value - lr * turn_left @ turned @ turn_right.T
    return value


@pytest.mark.parametrize("sides", ["one-sided", "both"])
def test_soap_is_nadam_in_the_eigenbasis(sides):
    start = start_of(dtype=torch.float64)  # eigenvectors of float32 are others
    gradients = gradients_of(start, 25)
    optimizer = Soap(FlatParams(start), (0.5, 1.0, 1.5, 5.0), sides=sides, refresh_steps=7)
    run(optimizer, gradients)
    for layer, factor in ((1, 1.0), (2, 1.5)):
        name = f"layers.{layer}.weight"
        wanted = plain_soap(
            start[name], [g[name] for g in gradients], 1e-2 * factor, sides == "both", 7
        )
        torch.testing.assert_close(optimizer.flat.params[name], wanted, rtol=1e-5, atol=1e-7)
    for name in ("layers.0.weight", "layers.1.bias", "layers.3.weight"):
        factor = (0.5, 1.0, 1.5, 5.0)[int(name.split(".")[1])]
        wanted = plain_adam(start[name], [g[name] for g in gradients], 1e-2 * factor, True, 0.0)
        torch.testing.assert_close(optimizer.flat.params[name], wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sirens_together_move_as_each_does_alone(name):
    start = start_of(3)
    gradients = gradients_of(start, 12)
    together = OPTIMIZERS[name](FlatParams(start), FACTORS, weight_decay=0.1)
    rates = [1e-2, 3e-3, 1e-2]
    run(together, gradients, rates)
    for image, (single, lr) in enumerate(zip(start.unbatch(), rates, strict=True)):
        alone = OPTIMIZERS[name](FlatParams(single), FACTORS, weight_decay=0.1)
        run(alone, [gradient.unbatch()[image] for gradient in gradients], lr)
        for key, value in alone.flat.params.items():
            torch.testing.assert_close(
                together.flat.params[key][image], value, rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("images", [0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resuming_continues_exactly(name, images):
    start = start_of(images)
    gradients = gradients_of(start, 24)
    options = {"refresh_steps": 5} if name == "soap" else {}
    whole = OPTIMIZERS[name](FlatParams(start), FACTORS, **options)
    run(whole, gradients[:11])
    params, state = FlatParams(whole.flat.params), whole.state()
    run(whole, gradients[11:])
    resumed = OPTIMIZERS[name](params, FACTORS, **options)
    resumed.load_state(state)
    run(resumed, gradients[11:])
    assert torch.equal(resumed.flat.vector, whole.flat.vector)
    with pytest.raises(InputError, match="optimizer state"):
        OPTIMIZERS[name](FlatParams(start_of(5)), FACTORS).load_state(state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_of_several_can_be_taken_back(name):
    start = start_of(3)
    gradients = gradients_of(start, 10)
    optimizer = OPTIMIZERS[name](FlatParams(start), FACTORS)
    run(optimizer, gradients[:5])
    saved = optimizer.state()
    run(optimizer, gradients[5:])
    later = optimizer.state()
    optimizer.restore(saved, 1)
    for part in ("first", "second"):
        now = FlatParams(start)
        now.vector.copy_(optimizer.state()[part])
        for image, state in enumerate((later, saved, later)):
            wanted = FlatParams(start)
            wanted.vector.copy_(state[part])
            for key, value in now.params.items():
                assert torch.equal(value[image], wanted.params[key][image])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fit_that_is_no_number_does_not_end_the_others(name):
    start = start_of(2)
    gradients = gradients_of(start, 6)
    for gradient in gradients[2:]:
        for value in gradient.values():
            value[0] = float("nan")
    optimizer = OPTIMIZERS[name](FlatParams(start), FACTORS)
    run(optimizer, gradients)
    assert all(bool(value[1].isfinite().all()) for value in optimizer.flat.params.values())


def test_arguments_are_checked():
    with pytest.raises(InputError, match="layer_factors"):
        NAdam(FlatParams(start_of()), (1.0,))
    with pytest.raises(InputError, match="one-sided"):
        Soap(FlatParams(start_of()), FACTORS, sides="left")
