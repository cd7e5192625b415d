"""Pixel grid -> coordinates in [-1, 1], and colours -> the units every error is measured in.

Images are (..., 3, H, W) in [0, 1], and networks are fitted to their normalised colours. Any other
signal, (..., C, *sides) over one to three `dims`, is in [-1, 1] and used as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Population std of linspace(-1, 1, 1000), digit for digit the constant of the seed experiment
# (rows 14 to 38 divide coordinates by it, so that the first layer sees unit variance).
COORD_STD = 0.5779279084228418

# ImageNet statistics of RGB in [0, 1]. All errors ("grid MSE", targets 0.08 / 0.02 / 8e-4) are in
# these normalised units, as in the seed experiment; PSNR is on [0, 1].
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)


def pixel_coords(
    height: int, width: int, device: torch.device | str = "cpu", pixels: range | None = None
) -> Tensor:
    """Centres of all pixels, row by row: (height * width, 2), columns x then y, in (-1, 1).

    Each axis spans [-1, 1] on its own, so a SIREN can be rendered at any size.

    Args:
        pixels: Return only these pixels, numbered row by row: (len(pixels), 2).
    """
    return grid_coords((height, width), device, pixels)


def grid_coords(
    sides: Sequence[int], device: torch.device | str = "cpu", samples: range | None = None
) -> Tensor:
    """Centres of all samples of a grid, the last side varying fastest: (samples, dims) in (-1, 1).

    Columns are x, y, z: the coordinate along the last side comes first.

    Args:
        sides: Samples along each dimension, as in the shape of a tensor.
        samples: Return only these samples, numbered in memory order: (len(samples), dims).
    """
    axes = [(torch.arange(n, device=device, dtype=torch.float32) * 2 + 1) / n - 1 for n in sides]
    if samples is None:
        grids = torch.meshgrid(*axes, indexing="ij")
        return torch.stack([grid.reshape(-1) for grid in reversed(grids)], dim=-1)
    index = torch.arange(samples.start, samples.stop, samples.step, device=device)
    columns = []
    for axis in reversed(axes):
        columns.append(axis[index % len(axis)])
        index = index // len(axis)
    return torch.stack(columns, dim=-1)


def image_coords(image: Tensor, dims: int = 2) -> Tensor:
    """`grid_coords` of an image (..., 3, H, W), or a signal (..., C, *sides), on its device."""
    return grid_coords(image.shape[-dims:], image.device)


def is_image(dims: int, channels: int) -> bool:
    """Whether a signal with this many dimensions, and values at each point, is an image."""
    return (dims, channels) == (2, 3)


def _statistics(like: Tensor) -> tuple[Tensor, Tensor]:
    """RGB mean and std, shaped (3,) on the tensor's device."""
    mean = torch.tensor(RGB_MEAN, dtype=torch.float32, device=like.device)
    return mean, torch.tensor(RGB_STD, dtype=torch.float32, device=like.device)


def image_to_rgb(image: Tensor, dims: int = 2) -> Tensor:
    """Image (..., 3, H, W) in [0, 1] -> normalised pixel colours (..., H * W, 3), row by row.

    A signal (..., C, *sides) that is not an image -> its values unchanged, (..., samples, C).
    """
    values = image.flatten(-dims).transpose(-1, -2)
    if not is_image(dims, values.shape[-1]):
        return values
    mean, std = _statistics(image)
    rgb: Tensor = (values - mean) / std
    return rgb


def rgb_to_image(rgb: Tensor, height: int, width: int) -> Tensor:
    """Normalised pixel colours (..., H * W, 3) -> image (..., 3, H, W) in [0, 1], clipped."""
    mean, std = _statistics(rgb)
    colours = (rgb * std + mean).clamp(0, 1).transpose(-1, -2)
    return colours.reshape(*colours.shape[:-1], height, width)


def grid_errors(prediction: Tensor, rgb: Tensor, dims: int = 2) -> tuple[Tensor, Tensor]:
    """Grid MSE (normalised units) and PSNR in dB (on [0, 1], unclipped) per image.

    Both inputs are normalised colours (..., N, 3); the results drop the last two dimensions. For a
    signal that is not an image, both are values (..., N, C) in [-1, 1], and PSNR is on that range.
    """
    error = (prediction - rgb).square()
    if not is_image(dims, rgb.shape[-1]):
        mse = error.mean(dim=(-1, -2))
        return mse, -10 * torch.log10((mse / 4).clamp_min(1e-12))
    _, std = _statistics(rgb)
    mse_01 = (error * std.square()).mean(dim=(-1, -2))
    return error.mean(dim=(-1, -2)), -10 * torch.log10(mse_01.clamp_min(1e-12))
