"""A count and a size -> generated images: smooth blobs of colour under gratings. For tests."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from hyperinit.images.coords import pixel_coords
from hyperinit.photos.photographs import Photographs, collect, split_by_group

COUNT = 12
SIDE = 64


def synthetic_image(seed: int, side: int = SIDE) -> Tensor:
    """Four Gaussian blobs and two sine gratings of random colours: (3, side, side) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coords = pixel_coords(side, side)  # (side * side, 2)

    def uniform(*shape: int, low: float, high: float) -> Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    centres, widths = uniform(4, 2, low=-1, high=1), uniform(4, low=0.2, high=0.8)
    distances = (coords[:, None] - centres).square().sum(-1)  # (side * side, 4)
    blobs = torch.exp(-distances / (2 * widths.square())) @ uniform(4, 3, low=-0.5, high=0.5)
    angles, cycles = uniform(2, low=0, high=pi), uniform(2, low=2, high=12)
    waves = coords @ (torch.stack((angles.cos(), angles.sin())) * cycles * pi)
    gratings = torch.sin(waves) @ uniform(2, 3, low=-0.15, high=0.15)
    rgb = uniform(3, low=0.3, high=0.7) + blobs + gratings
    return rgb.clamp(0, 1).T.reshape(3, side, side).contiguous()


def load_synthetic(
    *, keep_side: int | None, held_out_fraction: float, limit: int | None
) -> Photographs:
    """`limit` (default `COUNT`) generated images of `SIDE` x `SIDE` pixels, each its own group."""
    count = COUNT if limit is None else limit
    entries = [(f"synthetic_{index:04d}", f"synthetic_{index:04d}", 1.0) for index in range(count)]
    photos, skipped = collect(
        entries, lambda name: synthetic_image(int(name.rpartition("_")[2])), keep_side
    )
    train, held_out = split_by_group(photos, held_out_fraction)
    return Photographs("synthetic", train, held_out, skipped)
