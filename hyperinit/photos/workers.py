"""Who makes the batches of a training: threads, ahead of the step that needs them, or the GPU.

Every batch is a function of its step, so that how many threads there are, and how far they are
ahead, changes nothing. Decoding and resizing leave Python's lock, so threads are enough, but they
make hundreds of crops a second where a GPU fits thousands of SIRENs. There, the photographs are
sent to it once, as they are, and a crop is two products with a matrix that says how much of every
row, and of every column, a pixel of it covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from hyperinit.photos.photographs import CropSampler, Square

CHUNK_CROPS = 256  # made at a time: the photographs of a chunk lie side by side in memory


class Batches(Protocol):
    """Where training images come from: a pure function of the step."""

    def batch(self, step: int, batch_size: int) -> Tensor:
        """Images of one step."""


class Ahead:
    """Batches of another source, made by `workers` threads.

    At most two batches a thread are ready or in the making, so memory is bounded.
    """

    def __init__(self, source: Batches, workers: int) -> None:
        self._source = source
        self._ahead = 2 * workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
        self._made: dict[tuple[int, int], Future[Tensor]] = {}

    def batch(self, step: int, batch_size: int) -> Tensor:
        """See Batches. What goes wrong in a thread is raised here, at the step it is for."""
        wanted = [(s, batch_size) for s in range(step, step + 1 + self._ahead)]
        for key in set(self._made) - set(wanted):
            self._made.pop(key).cancel()
        for key in wanted:
            if key not in self._made:
                self._made[key] = self._pool.submit(self._source.batch, *key)
        return self._made.pop(wanted[0]).result()


class DeviceCrops:
    """The batches of a CropSampler, on a device: equal to its own but for rounding.

    Args:
        sampler: Its photographs are all read, and kept on the device.
        device: Where.
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
        """(B, size, length): how much of each old row makes a new one, the sum being 1."""
        size = self._sampler.size
        edges = torch.arange(size + 1, device=begin.device, dtype=torch.float64)
        edges = begin[:, None] + edges * side[:, None] / size  # (B, size + 1)
        rows = torch.arange(length, device=begin.device, dtype=torch.float64)
        low, high = edges[:, :-1, None], edges[:, 1:, None]
        covered = (torch.minimum(high, rows + 1) - torch.maximum(low, rows)).clamp_min(0)
        return (covered * (size / side[:, None, None])).float()


def device_bytes(sampler: CropSampler) -> int | None:
    """What the photographs of a sampler take on a device.

    None: a crop may be an enlarged one, for which these products are not the rule.
    """
    sides = [(photo.pixels.shape[1], photo.pixels.shape[2]) for photo in sampler.photos]
    if min(map(min, sides)) < sampler.size or sampler.min_scale < 1:
        return None
    height, width = _largest(sides)
    return len(sides) * 3 * height * width


def _largest(sides: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return max(height for height, _ in sides), max(width for _, width in sides)
