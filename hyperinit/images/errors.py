"""An image and a picture of it -> where the picture is wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperinit.base.errors import InputError

MOST_ERROR = 0.1  # of the range of a colour; what is off by this or more is white


def error_map(image: Tensor, picture: Tensor, most: float = MOST_ERROR) -> Tensor:
    """Where a picture of an image is wrong: black, red, yellow, white, from right to off by `most`.

    The brighter the wronger, so that it can be read without colours too. The scale is fixed, and
    maps of different fits can be compared.

    Args:
        image: (3, H, W) in [0, 1].
        picture: What is shown of it, of this shape; what is no number counts as white.
        most: Root mean square over the three colours that is drawn white.

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
