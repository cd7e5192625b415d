"""Sides of a signal -> how its first layer is scaled, and with it the frequencies of a start."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt

import torch
from torch import Tensor

from hyperinit.images.coords import COORD_STD
from hyperinit.inits.rules import InitSpec

SHARE = 0.125


def nyquist(samples: int) -> float:
    """The highest frequency that so many samples in [-1, 1] can show, in radians a unit."""
    return pi * samples / 2


def first_layer_std(spec: InitSpec, dims: int) -> float:
    """Standard deviation of the first layer's frequencies, in radians a unit of coordinate."""
    std = spec.first.gain / dims / (COORD_STD if spec.unit_std_coords else 1.0)
    return spec.omega_0 * (std / sqrt(3) if spec.first.dist == "uniform" else std)


def first_layer_factor(spec: InitSpec, sides: Sequence[int], power: float) -> float | Tensor:
    """What the first layer of a sized init is multiplied by."""
    if len(sides) == 2:
        return float((sqrt(sides[0] * sides[1]) / 224) ** power)
    std = first_layer_std(spec, len(sides))
    return torch.tensor([SHARE * nyquist(side) / std for side in reversed(sides)])
