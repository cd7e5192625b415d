"""Photographs -> what an outer loop trains on: random crops of all, or a few fixed squares."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.learn.config import LoopConfig
from hyperinit.learn.state import TrainingImages
from hyperinit.photos.photographs import CropSampler, Photographs
from hyperinit.photos.workers import Ahead
from hyperinit.photos.workload import squares_and_quarters


class FixedImages:
    """The same images (B, 3, size, size) at every step."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def batch(self, step: int, batch_size: int) -> Tensor:
        """All of them: a step of these has as many images as there are."""
        return self.images


def crops(photos: Photographs, config: LoopConfig) -> TrainingImages:
    """Random crops of all photographs."""
    sampler = CropSampler(photos.train, config.size, seed=config.seed)
    return TrainingImages(sampler, [photo.hash for photo in photos.train])


def fixed_squares(photos: Photographs, config: LoopConfig) -> TrainingImages:
    """The centre squares of the first `batch_images` photographs; quarters where they are fewer.

    Raises:
        InputError: there are fewer even so.
    """
    chosen = squares_and_quarters(photos.train, config.size, config.batch_images)
    if len(chosen) < config.batch_images:
        raise InputError(
            f"{photos.name} gives {len(chosen)} squares to train on: lower batch_images from"
            f" {config.batch_images}, or use more photographs"
        )
    images = FixedImages(torch.stack([image.image for image in chosen]))
    return TrainingImages(images, sorted({image.source_hash for image in chosen}))


def made_ahead(images: TrainingImages, workers: int) -> TrainingImages:
    """These images, the batches of later steps made by so many threads; 0: none."""
    return replace(images, batches=Ahead(images.batches, workers)) if workers else images
