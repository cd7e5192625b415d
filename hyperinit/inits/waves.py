"""A number of units -> the waves of a first layer, spread evenly instead of drawn independently.

An image consists mostly of low frequencies, and a first layer with independent draws has them only
by chance: with 64 waves, one draw in three hardly has any, and its fit takes a third more epochs.
Here, lengths are the quantiles of a distribution. Directions turn by the golden ratio from one
length to the next, like seeds in a sunflower, and phases by another irrational number. The
generator only rotates the whole. What a transformer learned to add to a draw led to this (research
log, 67).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Steps from one wave to the next, as fractions of the circle (or sphere) and of a period.
_GOLDEN, _PLASTIC, _PHASE = (5**0.5 - 1) / 2, 0.7548776662466927, 2**0.5 - 1

# Lengths are sqrt(-2 ln(1 - u)), the length of a vector of two normal numbers, to a power, scaled
# so that this 98 % quantile stays where it is.
_TOP = math.sqrt(-2 * math.log(0.02))


def even_waves(count: int, dims: int, power: float, generator: torch.Generator) -> Tensor:
    """Wave vectors (count, dims), from the shortest to the longest, for a scale of 1.

    Args:
        count: Number of waves.
        dims: Number of coordinates. Of more than 3, directions are drawn independently.
        power: The higher, the more of them are long waves. With 1 and two coordinates, lengths are
            distributed as those of vectors of normal numbers.
        generator: Draws the rotation of the whole, or all directions.
    """
    number = torch.arange(count, dtype=torch.float64)
    length = _TOP * ((-2 * torch.log1p(-(number + 0.5) / count)).sqrt() / _TOP) ** power
    return (length[:, None] * _directions(number, dims, generator)).float()


def even_phases(count: int, bound: float, generator: torch.Generator) -> Tensor:
    """Biases (count,) within +-bound that go with `even_waves`."""
    number = torch.arange(count, dtype=torch.float64)
    return (bound * (2 * _turned(number * _PHASE, generator) - 1)).float()


def _directions(number: Tensor, dims: int, generator: torch.Generator) -> Tensor:
    """Unit vectors (count, dims) over half of all directions: opposite waves are the same wave."""
    if dims > 3:
        drawn = torch.randn(len(number), dims, generator=generator, device=generator.device)
        return nn.functional.normalize(drawn.cpu().double())
    turn = math.pi * _turned(number * _GOLDEN, generator)
    if dims == 1:
        return torch.ones_like(number)[:, None]
    if dims == 2:
        return torch.stack((turn.cos(), turn.sin()), dim=1)
    height = 2 * _turned(number * _PLASTIC, generator) - 1
    across = (1 - height**2).sqrt()
    return torch.stack((across * turn.cos(), across * turn.sin(), height), dim=1)


def _turned(steps: Tensor, generator: torch.Generator) -> Tensor:
    """Steps from a random origin, in [0, 1)."""
    drawn = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64)
    return (steps + drawn.cpu()) % 1
