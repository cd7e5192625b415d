"""Photographs -> the images of an outer loop: random crops of all, or a few fixed squares."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.learn.config import LoopConfig
from hyperinit.learn.state import Batches, TrainingImages
from hyperinit.photos.photographs import CropSampler, Photographs
from hyperinit.photos.workers import Ahead, DeviceCrops, device_bytes
from hyperinit.photos.workload import squares_and_quarters


class FixedImages:
    """The same images (B, 3, size, size) at every step."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def batch(self, step: int, batch_size: int) -> Tensor:
        """All of them, whatever the batch size."""
        return self.images


class Varied:
    """Batches of another source with random colours and contrasts, some images overlaid.

    This turns few photographs into many training images. Like its source, it is a pure function of
    the step.
    """

    def __init__(self, source: Batches, seed: int) -> None:
        self._source, self._seed = source, seed

    def batch(self, step: int, batch_size: int) -> Tensor:
        """See Batches."""
        images = self._source.batch(step, batch_size)
        digest = hashlib.sha256(f"varied,{self._seed},{step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return varied(images, generator)


OVERLAID_SHARE = 0.3


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] with random colours and contrasts, some mixed with the next.

    Contrast is multiplied by 0.7 to 1.3, that of each colour by another 0.85 to 1.15, and
    brightness is shifted by up to 0.05. OVERLAID_SHARE of the images are mixed with another one.

    Args:
        images: At least one.
        generator: A CPU generator.
    """
    draws = torch.rand(len(images), 7, generator=generator).to(images)[..., None, None]
    share = torch.where(draws[:, 5:6] < OVERLAID_SHARE, 0.5 * draws[:, 6:7], 0)
    mixed = images.lerp(images.roll(1, 0), share)
    mean = mixed.mean((-1, -2), keepdim=True)
    factor = (0.7 + 0.6 * draws[:, :1]) * (0.85 + 0.3 * draws[:, 1:4])
    return ((mixed - mean) * factor + mean + 0.1 * (draws[:, 4:5] - 0.5)).clamp(0, 1)


def crops(photos: Photographs, config: LoopConfig) -> TrainingImages:
    """Random crops of all photographs."""
    sampler = CropSampler(photos.train, config.size, seed=config.seed)
    hashes, weights = zip(*((photo.hash, photo.weight) for photo in photos.train), strict=True)
    return TrainingImages(sampler, list(hashes), weights)


def fixed_squares(photos: Photographs, config: LoopConfig) -> TrainingImages:
    """The centre squares of the first `batch_images` photographs, then quarters if too few.

    Raises:
        InputError: there are still too few.
    """
    chosen = squares_and_quarters(photos.train, config.size, config.batch_images)
    if len(chosen) < config.batch_images:
        raise InputError(
            f"{photos.name} gives only {len(chosen)} squares to train on: lower batch_images from"
            f" {config.batch_images}, or use more photographs"
        )
    images = FixedImages(torch.stack([image.image for image in chosen]))
    return TrainingImages(images, sorted({image.source_hash for image in chosen}))


def crops_on(images: TrainingImages, device: torch.device, memory: int) -> TrainingImages | None:
    """The same crops, made on a device from photographs in its memory.

    None if these take more than `memory` bytes, or the images are not crops of photographs.
    """
    if not isinstance(images.batches, CropSampler):
        return None
    needed = device_bytes(images.batches)
    if needed is None or needed > memory:
        return None
    return replace(images, batches=DeviceCrops(images.batches, device))


def made_ahead(images: TrainingImages, workers: int) -> TrainingImages:
    """The same images; `workers` threads make the batches of later steps ahead of time."""
    return replace(images, batches=Ahead(images.batches, workers)) if workers else images
