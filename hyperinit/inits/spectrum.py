"""Sides of a signal -> the scale of the first layer, which sets the frequencies of a start."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt

import torch
from torch import Tensor

from hyperinit.images.coords import COORD_STD
from hyperinit.inits.rules import InitSpec

# Dimensions -> standard deviation of the first layer's frequencies along an axis, relative to the
# Nyquist frequency, the highest that the samples can show. Sound has energy at all frequencies,
# volumes little at high ones. From scans by factors of two on synthetic signals, see
# docs/guides/signals.md.
NYQUIST_SHARE = {1: 1 / 8, 3: 1 / 16}


def nyquist(samples: int) -> float:
    """The highest frequency that this many samples in [-1, 1] can show, in radians per unit."""
    return pi * samples / 2


def first_layer_std(spec: InitSpec, dims: int) -> float:
    """Standard deviation of the first layer's frequencies, in radians per unit of coordinate."""
    gain = spec.first.gain / (sqrt(3) if spec.first.dist == "uniform" else 1.0)
    return spec.omega_0 * gain / (dims * (COORD_STD if spec.unit_std_coords else 1.0))


def side_factor(sides: Sequence[int], power: float) -> float:
    """(side / 224)^power of a two-dimensional grid, where side = sqrt(H W)."""
    return float((sqrt(sides[0] * sides[1]) / 224) ** power)


def first_layer_factor(spec: InitSpec, sides: Sequence[int], power: float) -> float | Tensor:
    """The factor that multiplies the first layer of a sized init.

    In two dimensions it is (side / 224)^power with side = sqrt(H W), as for photographs. In one or
    three there is a factor for each coordinate, x first, which makes the standard deviation of its
    frequencies NYQUIST_SHARE of its Nyquist frequency.
    """
    if len(sides) == 2:
        return side_factor(sides, power)
    wanted, drawn = NYQUIST_SHARE[len(sides)], first_layer_std(spec, len(sides))
    return torch.tensor([wanted * nyquist(side) / drawn for side in reversed(sides)])
