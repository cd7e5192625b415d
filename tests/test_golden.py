"""What the shipped checkpoints give, number by number: any change of their arithmetic shows here.

The image is a formula, so it is the same everywhere. Tolerances are what CPUs differ by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperinit import FitConfig, HyperNetwork, Params, fit, load_pretrained
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.siren.network import predict

SIDE = 64
RTOL = 2e-3

# The fit of protocol 1, field by field: other defaults are no reason for other numbers here.
_PROTOCOL_1: dict[str, Any] = {
    "sampler": "pixels",
    "schedule": "linear",
    "output_lr_factor": 5.0,
    "weight_decay": 0.0,
    "beta2": 0.999,
    "seed": 0,
    "hidden_dtype": "float32",
    "engine": "eager",
    "max_restarts": 0,
    "optimizer": "adamw",
    "beta1": 0.9,
    "rising_rates": False,
}
ADAMW = {name: value for name, value in _PROTOCOL_1.items() if hasattr(FitConfig, name)}


def waves() -> Tensor:
    """Smooth waves, a gradient and some edges: (3, SIDE, SIDE) in [0, 1]."""
    axis = torch.linspace(0, 1, SIDE)
    y, x = axis[:, None], axis
    red = 0.5 + 0.4 * torch.sin(9 * x + 3 * y)
    green = 0.5 + 0.3 * torch.cos(14 * y - 5 * x * x)
    blue = 0.2 + 0.6 * x * y + 0.1 * (torch.sin(40 * x) > 0)
    return torch.stack([red, green, blue])


@dataclass(frozen=True)
class Golden:
    """What one checkpoint gives for `waves`.

    Attributes:
        rms: Name -> root mean square of a parameter, before any gradient step.
        value: Name -> the entry a third of the way through it, before any gradient step.
        moved: Name -> root mean square of what the gradient steps add to it.
        psnr: In dB at step 0 of a fit: before and after the gradient steps.
        lr: Of the fit.
        mse: After its 2 epochs.
    """

    rms: dict[str, float]
    value: dict[str, float]
    moved: dict[str, float]
    psnr: tuple[float, float]
    lr: float
    mse: float


GOLDEN: dict[str, Golden] = {
    "photo-224": Golden(
        rms={
            "layers.0.weight": 0.55375,
            "layers.1.bias": 0.0027527,
            "layers.4.weight": 0.0026466,
            "layers.5.weight": 0.018172,
            "layers.5.bias": 0.044832,
        },
        value={
            "layers.0.weight": 0.051833,
            "layers.1.bias": -0.001293,
            "layers.4.weight": 0.040264,
            "layers.5.weight": -0.013968,
            "layers.5.bias": -0.033663,
        },
        moved={
            "layers.0.weight": 0.00081976,
            "layers.1.bias": 9.3555e-05,
            "layers.4.weight": 0.00030967,
            "layers.5.weight": 0.0006202,
            "layers.5.bias": 0.10801,
        },
        psnr=(12.823, 19.703),
        lr=0.00025,
        mse=0.041215,
    ),
    "photo-96": Golden(
        rms={
            "layers.0.weight": 0.32692,
            "layers.1.bias": 0.0036504,
            "layers.3.weight": 0.0037083,
            "layers.4.weight": 0.028953,
            "layers.4.bias": 0.048083,
        },
        value={
            "layers.0.weight": -0.11361,
            "layers.1.bias": -0.00049018,
            "layers.3.weight": 0.00078921,
            "layers.4.weight": -0.034789,
            "layers.4.bias": -0.010339,
        },
        moved={
            "layers.0.weight": 0.00011893,
            "layers.1.bias": 5.4764e-05,
            "layers.3.weight": 0.00074519,
            "layers.4.weight": 0.0018547,
            "layers.4.bias": 0.093841,
        },
        psnr=(12.874, 21.594),
        lr=0.0005,
        mse=0.028398,
    ),
}


@pytest.fixture(scope="module", params=GOLDEN)
def shipped(request) -> tuple[HyperNetwork, Golden]:
    return load_pretrained(request.param), GOLDEN[request.param]


def psnr(params: Params) -> float:
    image = waves()
    return float(grid_errors(predict(params, image_coords(image)), image_to_rgb(image))[1])


def rms(value: Tensor) -> float:
    return float(value.square().mean().sqrt())


def third(value: Tensor) -> float:
    return float(value.flatten()[value.numel() // 3])


def test_what_the_network_puts_out(shipped):
    hyper, golden = shipped
    params = hyper.generate(waves(), inner_steps=0)
    assert {name: rms(params[name]) for name in golden.rms} == pytest.approx(golden.rms, rel=RTOL)
    found = {name: third(params[name]) for name in golden.value}
    assert found == pytest.approx(golden.value, rel=RTOL, abs=1e-6)
    assert psnr(params) == pytest.approx(golden.psnr[0], abs=0.02)


def test_what_its_gradient_steps_add(shipped):
    hyper, golden = shipped
    before, after = hyper.generate(waves(), inner_steps=0), hyper.generate(waves())
    moved = {name: rms(after[name] - before[name]) for name in golden.moved}
    assert moved == pytest.approx(golden.moved, rel=10 * RTOL)
    assert psnr(after) == pytest.approx(golden.psnr[1], abs=0.05)


@pytest.mark.slow
def test_the_error_after_two_epochs_of_protocol_1(shipped):
    hyper, golden = shipped
    own = {"budget_epochs": 2.0, "lr": golden.lr, "batch_pixels": 1024, "eval_epochs": ()}
    config = FitConfig(**{**ADAMW, **own})
    result = fit(hyper.generate(waves()), waves(), config)
    assert result.mse == pytest.approx(golden.mse, rel=0.02)
