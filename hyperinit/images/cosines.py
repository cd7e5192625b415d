"""Image -> its lowest cosine coefficients, scaled to about 1: the features of a linear start.

In photographs, coefficients shrink as 1 / frequency, whatever the subject, and colour differences
vary less than half as much as brightness. A fixed table therefore orders and scales them, and
nothing has to be learned or stored (docs/research-log.md 49).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from hyperinit.images.coords import image_to_rgb
from hyperinit.images.pixels import resize

READ_SIDE = 32  # images are reduced to this many pixels a side, whatever their shape
MOST_COSINES = 3 * READ_SIDE**2

# Brightness, red against blue, green against both: orthonormal axes, and how much each varies.
_AXES = ((3**-0.5,) * 3, (2**-0.5, 0.0, -(2**-0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5))
_AXIS_STD = (1.0, 0.45, 0.25)
# Standard deviation of a brightness coefficient: this / sqrt(u^2 + v^2 + 0.5).
_STD = 16.0


def lowest_cosines(images: Tensor, count: int) -> Tensor:
    """The `count` coefficients that vary most in photographs, each scaled to about unit variance.

    Args:
        images: (B, 3, H, W) in [0, 1].
        count: At most MOST_COSINES.

    Returns:
        (B, count), on the device of the images.
    """
    small = torch.stack([resize(image, READ_SIDE, READ_SIDE) for image in images])
    rgb = image_to_rgb(small).transpose(-1, -2).reshape(small.shape)
    waves = _waves().to(rgb)
    axes = rgb.new_tensor(_AXES)
    coefficients: Tensor = torch.einsum("ac,bcyx,uy,vx->bauv", axes, rgb, waves, waves)
    order, std = _order()
    read = coefficients.flatten(1).index_select(1, order[:count].to(rgb.device))
    scaled: Tensor = read / std[:count].to(rgb.device)
    return scaled


@lru_cache(maxsize=1)
def _waves() -> Tensor:
    """The orthonormal cosine basis (READ_SIDE, READ_SIDE), one frequency per row."""
    at = torch.arange(READ_SIDE, dtype=torch.float64)
    waves = torch.cos(math.pi / READ_SIDE * (at + 0.5) * at[:, None]) * math.sqrt(2 / READ_SIDE)
    waves[0] /= 2**0.5
    return waves.float()


@lru_cache(maxsize=1)
def _order() -> tuple[Tensor, Tensor]:
    """Indices of the coefficients by falling standard deviation, and these deviations."""
    at = torch.arange(READ_SIDE, dtype=torch.float64)
    size = _STD / (at[:, None] ** 2 + at**2 + 0.5).sqrt()
    std = (torch.tensor(_AXIS_STD, dtype=torch.float64)[:, None, None] * size).flatten()
    order = torch.argsort(std, descending=True, stable=True)
    return order, std[order].float()
