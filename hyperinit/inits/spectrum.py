"""Sides of a signal -> how its first layer is scaled, and with it the frequencies of a start."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt

import torch
from torch import Tensor

from hyperinit.images.coords import COORD_STD
from hyperinit.inits.rules import InitSpec

# Dimensions -> standard deviation of the first layer's frequencies along an axis, relative to the
# highest one that its samples can show. Sound has energy at all of them, volumes little at the
# higher ones. From scans by factors of two on synthetic signals: docs/guides/signals.md.
NYQUIST_SHARE = {1: 1 / 8, 3: 1 / 16}


def nyquist(samples: int) -> float:
    """The highest frequency that so many samples in [-1, 1] can show, in radians a unit."""
    return pi * samples / 2


def first_layer_std(spec: InitSpec, dims: int) -> float:
    """Standard deviation of the first layer's frequencies, in radians a unit of coordinate."""
    gain = spec.first.gain / (sqrt(3) if spec.first.dist == "uniform" else 1.0)
    return spec.omega_0 * gain / (dims * (COORD_STD if spec.unit_std_coords else 1.0))


def side_factor(sides: Sequence[int], power: float) -> float:
    """(side / 224)^power of a grid of two dimensions, the side being sqrt(H W)."""
    return float((sqrt(sides[0] * sides[1]) / 224) ** power)


def first_layer_factor(spec: InitSpec, sides: Sequence[int], power: float) -> float | Tensor:
    """What the first layer of a sized init is multiplied by.

    Over two dimensions (side / 224)^power, the side being sqrt(H W), as photographs have it. Over
    one or three a factor for each coordinate, x first, so that its frequencies are NYQUIST_SHARE of
    the Nyquist frequency of its samples.
    """
    if len(sides) == 2:
        return side_factor(sides, power)
    wanted, drawn = NYQUIST_SHARE[len(sides)], first_layer_std(spec, len(sides))
    return torch.tensor([wanted * nyquist(side) / drawn for side in reversed(sides)])
