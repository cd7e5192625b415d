"""Makes the batches of a training: in threads that work ahead, or on the GPU.

Every batch is a function of its step, so the number of threads, and how far ahead they are, changes
nothing. Decoding and resizing release the GIL, so threads are enough on a CPU. But they make only
hundreds of crops a second, and a GPU fits thousands of SIRENs. There, the photographs are uploaded
once, and a crop is two matrix products, with weights that say how much of each old row and column
a new pixel covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from hyperinit.photos.photographs import CropSampler, Square

CHUNK_CROPS = 256  # made at a time: the photographs of a chunk are all in memory as floats


class Batches(Protocol):
    """A source of training images: a pure function of the step."""

    def batch(self, step: int, batch_size: int) -> Tensor:
        """The images of one step."""


class Ahead:
    """Batches of another source, made ahead of time by `workers` threads.

    At most two batches per thread are ready or in progress, so memory is bounded.
    """

    def __init__(self, source: Batches, workers: int) -> None:
        self._source = source
        self._ahead = 2 * workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
        self._made: dict[tuple[int, int], Future[Tensor]] = {}

    def batch(self, step: int, batch_size: int) -> Tensor:
        """See Batches. Errors in a thread are raised here, at the step that they belong to."""
        wanted = [(s, batch_size) for s in range(step, step + 1 + self._ahead)]
        for key in set(self._made) - set(wanted):
            self._made.pop(key).cancel()
        for key in wanted:
            if key not in self._made:
                self._made[key] = self._pool.submit(self._source.batch, *key)
        return self._made.pop(wanted[0]).result()


class DeviceCrops:
    """The batches of a CropSampler, made on a device: equal to the sampler's own up to rounding.

    Args:
        sampler: All its photographs are read, and kept on the device.
        device: The device.
    """

    def __init__(self, sampler: CropSampler, device: torch.device) -> None:
        self._sampler, self._device = sampler, device
        pixels = [photo.pixels for photo in sampler.photos]
        self._sides = [(image.shape[1], image.shape[2]) for image in pixels]
        height, width = _largest(self._sides)
        self._photos = torch.zeros(len(pixels), 3, height, width, dtype=torch.uint8, device=device)
        for own, image in zip(self._photos, pixels, strict=True):
            own[:, : image.shape[1], : image.shape[2]] = image.to(device)

    def batch(self, step: int, batch_size: int) -> Tensor:
        """The crops of one step: (batch_size, 3, size, size) float32 in [0, 1]."""
        squares = self._sampler.squares(step, batch_size, self._sides)
        chunks = [squares[i : i + CHUNK_CROPS] for i in range(0, len(squares), CHUNK_CROPS)]
        return torch.cat([self._crops(chunk) for chunk in chunks])

    def _crops(self, chosen: Sequence[tuple[int, Square]]) -> Tensor:
        numbers = [(i, at.top, at.left, at.side, at.flip) for i, at in chosen]
        index, top, left, side, flip = torch.tensor(numbers).to(self._device).unbind(1)
        photos = self._photos[index].float() / 255  # (B, 3, H, W)
        rows = self._covered(top, side, photos.shape[-2])
        columns = self._covered(left, side, photos.shape[-1])
        columns = torch.where(flip.bool()[:, None, None], columns.flip(1), columns)
        crops = rows[:, None] @ photos @ columns.mT[:, None]
        return crops.clamp(0, 1)

    def _covered(self, begin: Tensor, side: Tensor, length: int) -> Tensor:
        """(B, size, length): the weight of each old row in each new one; the weights sum to 1."""
        size = self._sampler.size
        edges = torch.arange(size + 1, device=begin.device, dtype=torch.float64)
        edges = begin[:, None] + edges * side[:, None] / size  # (B, size + 1)
        rows = torch.arange(length, device=begin.device, dtype=torch.float64)
        low, high = edges[:, :-1, None], edges[:, 1:, None]
        covered = (torch.minimum(high, rows + 1) - torch.maximum(low, rows)).clamp_min(0)
        return (covered * (size / side[:, None, None])).float()


def device_bytes(sampler: CropSampler) -> int | None:
    """The bytes that the photographs of a sampler take on a device.

    None: a crop may have to be enlarged, which the matrix products do not do.
    """
    sides = [(photo.pixels.shape[1], photo.pixels.shape[2]) for photo in sampler.photos]
    if min(map(min, sides)) < sampler.size or sampler.min_scale < 1:
        return None
    height, width = _largest(sides)
    return len(sides) * 3 * height * width


def _largest(sides: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return max(height for height, _ in sides), max(width for _, width in sides)
