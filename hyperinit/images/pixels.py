"""Images as tensors: 8-bit values, hashes, sizes."""

from __future__ import annotations

import hashlib
import operator
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from hyperinit.base.arguments import MAX_PIXELS as MAX_PIXELS
from hyperinit.base.errors import InputError, check_memory


def to_uint8(image: Tensor) -> Tensor:
    """Image in [0, 1] -> the nearest 8-bit values, same shape; `from_uint8` is the inverse."""
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def from_uint8(pixels: Tensor) -> Tensor:
    """8-bit values -> image in [0, 1], float32, same shape."""
    return pixels.to(torch.float32) / 255  # whatever the default dtype is


def image_hash(image: Tensor) -> str:
    """Identifies an image by content: SHA-256 (hex) of its size and its 8-bit pixels.

    Two files with the same decoded pixels have the same hash, whatever their names, formats and
    metadata. Checks that keep training and evaluation images apart compare these hashes.
    """
    digest = hashlib.sha256("x".join(str(side) for side in image.shape).encode())
    digest.update(to_uint8(image).cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def image_facts(name: str, image: Tensor) -> dict[str, str | int]:
    """What a file made from an image (3, H, W) stores about it: name, height, width, sha256."""
    height, width = image.shape[-2:]
    return {"name": name, "height": height, "width": width, "sha256": image_hash(image)}


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resizes (3, H, W) to (3, height, width), in [0, 1].

    Each axis that shrinks is averaged over the exact area of every new pixel, with fractional
    weights at its borders (torch's "area" mode rounds the borders to whole pixels, which shifts
    and blurs unevenly). Each axis that grows is interpolated bicubically and clipped to [0, 1].

    Raises:
        InputError: height or width below 1, or more than `MAX_PIXELS`.
    """
    check_size(height, width)
    if height < image.shape[-2]:
        image = _average_rows(image, height)
    if width < image.shape[-1]:
        columns = image.transpose(-1, -2).contiguous()
        image = _average_rows(columns, width).transpose(-1, -2).contiguous()
    if tuple(image.shape[-2:]) != (height, width):
        image = interpolate(image[None], size=(height, width), mode="bicubic")[0]
    return image.clamp(0, 1)


def whole_sides(sides: Any) -> tuple[int, ...]:
    """Checks the sides of a grid of the Python API.

    Raises:
        InputError: one of them is not a whole number.
    """
    try:
        return tuple(operator.index(side) for side in sides)
    except TypeError:
        raise InputError(f"sides must be whole numbers, not {sides!r:.60}") from None


def check_size(height: int, width: int) -> None:
    """Refuses a size that images cannot be resized to.

    Raises:
        InputError: a side below 1, more than `MAX_PIXELS`, or more than memory holds.
    """
    if height < 1 or width < 1:
        raise InputError(f"image size must be at least 1 x 1, not {height} x {width}")
    if height * width > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 10**6} million pixels"
        raise InputError(f"image size must be at most {limit}, not {height} x {width}")
    check_memory(12.0 * height * width, f"an image of {height} x {width}", "take a smaller size")


def _average_rows(image: Tensor, size: int) -> Tensor:
    """Averages the rows of (3, H, W) into `size` bins of equal, possibly fractional, height.

    It adds whole rows, which are contiguous in memory: 50 times as fast as adding columns.
    """
    length = image.shape[-2]
    edges = torch.arange(size + 1, dtype=torch.float64) * length / size
    low, high = edges[:-1], edges[1:]
    taps = []  # (rows, weights) of the first old row that each bin touches, of the second, ...
    for tap in range(ceil(length / size) + (length % size > 0)):
        index = low.floor() + tap
        overlap = (torch.minimum(high, index + 1) - torch.maximum(low, index)).clamp_min(0)
        weights = (overlap * size / length).to(image).unsqueeze(-1)
        taps.append((index.long().clamp(max=length - 1).to(image.device), weights))
    channels = []
    for channel in image:  # one at a time: each may need a copy of itself in memory
        rows, weights = taps[0]
        total = channel.index_select(0, rows) * weights
        for rows, weights in taps[1:]:
            total.add_(channel.index_select(0, rows) * weights)
        channels.append(total)
    return torch.stack(channels)


def square_crop(image: Tensor, size: int) -> Tensor:
    """The largest centred square of (3, H, W), resized (see `resize`) to (3, size, size)."""
    return centre_crop(image, size, size)


def centre_crop(image: Tensor, height: int, width: int) -> Tensor:
    """The largest centred part of (3, H, W) with this aspect ratio, resized to (3, height, width).

    Raises:
        InputError: height or width below 1, or more than `MAX_PIXELS`.
    """
    check_size(height, width)
    scale = min(image.shape[-2] / height, image.shape[-1] / width)
    cut = [
        max(1, min(side, round(scale * wanted)))
        for side, wanted in zip(image.shape[-2:], (height, width), strict=True)
    ]
    top, left = ((side - kept) // 2 for side, kept in zip(image.shape[-2:], cut, strict=True))
    return resize(image[:, top : top + cut[0], left : left + cut[1]], height, width)
