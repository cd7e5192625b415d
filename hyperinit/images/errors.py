"""An image and a rendering of it -> a map of the errors."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperinit.base.errors import InputError

MOST_ERROR = 0.1  # of a colour's range; pixels that are off by this or more are white


def error_map(image: Tensor, picture: Tensor, most: float = MOST_ERROR) -> Tensor:
    """Where a rendering of an image is wrong: from black (right) over red and yellow to white.

    Larger errors are brighter, so the map can be read without colour vision too. The scale is
    fixed, so maps of different fits can be compared.

    Args:
        image: (3, H, W) in [0, 1].
        picture: The rendering, of the same shape; NaN and infinity are drawn white.
        most: The root mean square error over the three colours from which a pixel is white.

    Returns:
        (3, H, W) in [0, 1].

    Raises:
        InputError: the shapes differ.
    """
    if image.shape != picture.shape:
        raise InputError(
            f"an image of {tuple(image.shape)} and a picture of {tuple(picture.shape)} cannot be"
            " compared"
        )
    off = (picture - image).square().mean(dim=0).sqrt() / most
    heat = 3 * off.nan_to_num(nan=1.0).clamp(0, 1)
    return torch.stack([heat, heat - 1, heat - 2]).clamp(0, 1)
