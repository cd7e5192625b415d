"""How many units there are -> the waves of a first layer, spread evenly: nothing is left to luck.

A first layer with independent draws has its low frequencies, of which an image consists for the
most part, by chance: of 64 waves one draw in three hardly has any, and its fit takes a third more
epochs. Here lengths are the quantiles of a law, directions turn by the golden ratio from one length
to the next, as seeds do in a sunflower, and so do phases by another irrational number; a generator
only turns the whole. What a transformer learned to add to a draw led here (research log, 67).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Steps from one wave to the next, as shares of the circle (or sphere) and of a period.
_GOLDEN, _PLASTIC, _PHASE = (5**0.5 - 1) / 2, 0.7548776662466927, 2**0.5 - 1

# Lengths are sqrt(-2 ln(1 - u)), the length of two normal numbers, to a power that leaves this one,
# below which 98 % lie, where it is.
_TOP = math.sqrt(-2 * math.log(0.02))


def even_waves(count: int, dims: int, power: float, generator: torch.Generator) -> Tensor:
    """Wave vectors (count, dims), from the shortest to the longest, for a scale of 1.

    Args:
        count: Of waves.
        dims: Coordinates of a sample; 1, 2 or 3.
        power: The higher, the more of them are long waves; with 1, and for two coordinates, lengths
            are as those of normal numbers.
        generator: Of the turn of the whole.
    """
    number = torch.arange(count, dtype=torch.float64)
    length = _TOP * ((-2 * torch.log1p(-(number + 0.5) / count)).sqrt() / _TOP) ** power
    return (length[:, None] * _directions(number, dims, generator)).float()


def even_phases(count: int, bound: float, generator: torch.Generator) -> Tensor:
    """Biases (count,) within +-bound that go with `even_waves`."""
    number = torch.arange(count, dtype=torch.float64)
    return (bound * (2 * _turned(number * _PHASE, generator) - 1)).float()


def _directions(number: Tensor, dims: int, generator: torch.Generator) -> Tensor:
    """Unit vectors (count, dims); half of all directions, as a wave is its own mirror image."""
    turn = math.pi * _turned(number * _GOLDEN, generator)
    if dims == 1:
        return torch.ones_like(number)[:, None]
    if dims == 2:
        return torch.stack((turn.cos(), turn.sin()), dim=1)
    height = 2 * _turned(number * _PLASTIC, generator) - 1
    across = (1 - height**2).sqrt()
    return torch.stack((across * turn.cos(), across * turn.sin(), height), dim=1)


def _turned(steps: Tensor, generator: torch.Generator) -> Tensor:
    """Steps from a random beginning, in [0, 1)."""
    drawn = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64)
    return (steps + drawn.cpu()) % 1
