"""Pixel grid -> coordinates in [-1, 1], and colours -> the units every error is measured in."""

from __future__ import annotations

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
        pixels: Only of these, counted row by row: (len(pixels), 2).
    """
    y = (torch.arange(height, device=device, dtype=torch.float32) * 2 + 1) / height - 1
    x = (torch.arange(width, device=device, dtype=torch.float32) * 2 + 1) / width - 1
    if pixels is None:
        return torch.stack((x.repeat(height), y.repeat_interleave(width)), dim=-1)
    index = torch.arange(pixels.start, pixels.stop, pixels.step, device=device)
    return torch.stack((x[index % width], y[index // width]), dim=-1)


def image_coords(image: Tensor) -> Tensor:
    """`pixel_coords` of an image (..., 3, H, W), on its device."""
    height, width = image.shape[-2:]
    return pixel_coords(height, width, image.device)


def _statistics(like: Tensor) -> tuple[Tensor, Tensor]:
    """RGB mean and std, shaped (3,) on the tensor's device."""
    mean = torch.tensor(RGB_MEAN, dtype=torch.float32, device=like.device)
    return mean, torch.tensor(RGB_STD, dtype=torch.float32, device=like.device)


def image_to_rgb(image: Tensor) -> Tensor:
    """Image (..., 3, H, W) in [0, 1] -> normalised pixel colours (..., H * W, 3), row by row."""
    mean, std = _statistics(image)
    rgb: Tensor = (image.flatten(-2).transpose(-1, -2) - mean) / std
    return rgb


def rgb_to_image(rgb: Tensor, height: int, width: int) -> Tensor:
    """Normalised pixel colours (..., H * W, 3) -> image (..., 3, H, W) in [0, 1], clipped."""
    mean, std = _statistics(rgb)
    colours = (rgb * std + mean).clamp(0, 1).transpose(-1, -2)
    return colours.reshape(*colours.shape[:-1], height, width)


def grid_errors(prediction: Tensor, rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Grid MSE (normalised units) and PSNR in dB (on [0, 1], unclipped) per image.

    Both inputs are normalised colours (..., N, 3); the results drop the last two dimensions.
    """
    error = (prediction - rgb).square()
    _, std = _statistics(rgb)
    mse_01 = (error * std.square()).mean(dim=(-1, -2))
    return error.mean(dim=(-1, -2)), -10 * torch.log10(mse_01.clamp_min(1e-12))
