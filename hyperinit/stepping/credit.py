"""Image -> the pixels of each step of a fit: credit sampling, evenly spaced visits by residual.

Sampling with replacement in proportion to the residual gains little, because some pixels come
twice in a row and others not for a long time. Here nothing is drawn with replacement: pixels are
visited in passes, and a credit decides in which passes each one takes part. Measured in
docs/research-log.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.images.coords import image_to_rgb

# The smallest weight, relative to the largest: every pixel is visited at least once in 1 / FLOOR
# passes.
FLOOR = 0.1

# Added to the local standard deviation of the image, which is the weight of the first pass.
FIRST_PASS_STD = 0.05

# Credits are integers, in units of 1 / UNIT, and weights are rounded up to them: with sums of
# floats a visit would now and then come a pass late.
UNIT = 2**16

# Seeds are drawn below this; adding a pass number cannot overflow.
_SEEDS = 2**62


class CreditSampler:
    """The batches of one fit, or of B fits of images of one size that run together.

    The image is divided into nearly equal cells of about `cell` x `cell` pixels. In a pass every
    pixel has one turn. Turns take one pixel from each cell after the other, and each cell has its
    own order: bit-reversed Morton order, XORed with a random number for each pass and cell, so
    that any few consecutive pixels are spread over the cell. At its turn, a pixel's weight is
    added to its credit. If the credit is then at least 1, the pixel is visited and pays 1. The
    weight is clip(r / max r, FLOOR, 1), where r is the residual at the last visit, known when the
    pass is planned. In the first pass r is `local_std` + FIRST_PASS_STD.

    Batches are filled with the visited pixels, in order, and all have the same size. A batch may
    span the end of a pass, and contains a pixel at most once for each pass that it overlaps: at
    most twice if a pass has at least a batch of visits, which cells of at least 4 x 4 ensure. An
    epoch is as many visits as the image has pixels, whichever pixels they are. So a step takes
    batch_pixels / pixels of an epoch, and a pass takes as many epochs as the mean weight.

    All randomness comes from one number of the generator and does not depend on the images: each of
    B images gets the batches that it would get on its own. On a GPU the host waits for the device
    once per planned pass, and in no other step.

    For a signal over one or three dimensions, cells are intervals or cubes, and pixels are samples.

    Args:
        image: (3, H, W) or (B, 3, H, W) in [0, 1]; or a signal, (..., C, *sides) in [-1, 1].
        cell: Side of a cell in pixels.
        generator: On the CPU.
        batch_pixels: Pixels per step and image, N; by default one from each cell. At most as many
            as the image has.
        dims: Dimensions of the grid.

    Raises:
        InputError: `cell` or `batch_pixels` is below 1.
    """

    def __init__(
        self,
        image: Tensor,
        cell: int,
        generator: torch.Generator,
        batch_pixels: int | None = None,
        dims: int = 2,
    ) -> None:
        sides = image.shape[-dims:]
        for name, value in (("cell", cell), ("batch_pixels", batch_pixels)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        self.batch_shape = tuple(image.shape[: -dims - 1])
        self.pixels = prod(sides)
        self._turns = _turns(sides, cell).to(image.device)  # (codes, cells)
        self.batch_pixels = min(batch_pixels or self._turns.shape[1], self.pixels)
        images = self.batch_shape[0] if self.batch_shape else 1
        self._seed = int(torch.randint(_SEEDS, (), generator=generator))
        credit = torch.randint(UNIT, (self.pixels,), generator=self._generator(0))
        self._credit = credit.to(image.device, torch.int32).expand(images, -1).clone()
        first = local_std(image, dims).reshape(images, self.pixels) + FIRST_PASS_STD
        self._residuals = first.contiguous()
        # Row i holds the visits of image i from column _at to column _ends[i].
        columns = 3 * self.pixels + self.batch_pixels + 1  # the last one is never read
        self._queue = torch.empty(images, columns, dtype=torch.long, device=image.device)
        self._at = 0
        self._ends = [0] * images
        self._passes = [0] * images
        self._flips: dict[int, Tensor] = {}  # pass -> the numbers that XOR its cells' orders

    @property
    def passes(self) -> tuple[int, ...]:
        """Passes planned so far, for each image; the last one may not be used up yet."""
        return tuple(self._passes)

    def next_batch(self) -> Tensor:
        """The next step's pixels, numbered row by row in the image: (N,), or (B, N).

        A view that is valid until the next call.
        """
        end = self._at + self.batch_pixels
        if min(self._ends) < end:
            self._refill()
            end = self._at + self.batch_pixels
        batch = self._queue[:, self._at : end]
        self._at = end
        return batch if self.batch_shape else batch[0]

    def report(self, indices: Tensor, residuals: Tensor) -> None:
        """Stores the residuals of a batch.

        Args:
            indices: As returned by `next_batch`.
            residuals: (N,) or (B, N): root of the mean square over the channels. Residuals that
                are not finite count as the smallest weight until the next visit.
        """
        if not self.batch_shape:
            indices, residuals = indices[None], residuals[None]
        self._residuals.scatter_(-1, indices, residuals)

    def state(self) -> dict[str, Any]:
        """Everything that the next batches depend on, except the image and the arguments."""
        last = max(self._ends)
        return {
            "seed": self._seed,
            "passes": list(self._passes),
            "left": [end - self._at for end in self._ends],
            "queue": self._queue[:, self._at : last].clone(),
            "credit": self._credit.clone(),
            "residuals": self._residuals.clone(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores a `state()`: the next batches are those that followed it.

        Raises:
            InputError: the state is of other images.
        """
        if state["credit"].shape != self._credit.shape:
            found, wanted = tuple(state["credit"].shape), tuple(self._credit.shape)
            raise InputError(f"sampler state is of {found} images and pixels, not {wanted}")
        self._seed, self._passes = state["seed"], list(state["passes"])
        self._at, self._ends = 0, list(state["left"])
        self._queue[:, : max(self._ends)] = state["queue"].to(self._queue.device)
        self._credit.copy_(state["credit"])
        self._residuals.copy_(state["residuals"])
        self._flips.clear()

    def _generator(self, number: int) -> torch.Generator:
        """The generator for pass `number`, from 1; 0 is for the credits.

        Each pass has its own, because images that run together are not in the same pass.
        """
        return torch.Generator().manual_seed(self._seed + number)

    def _refill(self) -> None:
        """Plans passes until every image has a batch of visits left."""
        while short := [
            i for i, end in enumerate(self._ends) if end - self._at < self.batch_pixels
        ]:
            if max(self._ends) + self.pixels >= self._queue.shape[1]:
                kept = self._queue[:, self._at : max(self._ends)].clone()
                self._queue[:, : kept.shape[1]] = kept
                self._ends = [end - self._at for end in self._ends]
                self._at = 0
            self._plan(short)

    def _plan(self, images: list[int]) -> None:
        """Appends one pass to the queues of some images."""
        rows: Tensor | slice = slice(None)
        if len(images) < len(self._ends):
            rows = torch.tensor(images).to(self._queue.device, non_blocking=True)
        residuals = self._residuals[rows].nan_to_num(0, 0, 0)
        largest = residuals.amax(-1, keepdim=True).clamp_min(torch.finfo(residuals.dtype).tiny)
        weights = (residuals / largest).clamp_(FLOOR, 1)
        credit = self._credit[rows] + (weights * UNIT).ceil_().int()
        visited = credit >= UNIT
        self._credit[rows] = credit - UNIT * visited.int()
        turns = self._order(images)
        # If a cell has no pixel for a code, the turn goes to a dummy pixel that is never visited.
        taken = torch.nn.functional.pad(visited, (0, 1)).gather(-1, turns)
        counts = taken.sum(-1).tolist()
        if self._queue.device.type == "cpu":
            for i, pixels in zip(images, turns[taken].split(counts), strict=True):
                self._queue[i, self._ends[i] : self._ends[i] + len(pixels)] = pixels
        else:
            begins = [self._ends[i] for i in images]
            self._append(
                rows, torch.tensor(begins).to(turns.device, non_blocking=True), turns, taken
            )
        for i, count in zip(images, counts, strict=True):
            self._ends[i] += count
            self._passes[i] += 1

    def _append(self, rows: Tensor | slice, begins: Tensor, turns: Tensor, taken: Tensor) -> None:
        """Writes the turns that are taken into some queues, without waiting for the device."""
        # Turns that are not taken go to the last column, which holds no visits.
        last = self._queue.shape[1] - 1
        places = torch.where(taken, begins[:, None] + taken.cumsum(-1) - 1, last)
        if isinstance(rows, slice):
            self._queue.scatter_(-1, places, turns)
        else:
            self._queue[rows[:, None], places] = turns

    def _order(self, images: list[int]) -> Tensor:
        """The turns of the next pass of some images: (images, codes * cells) pixels.

        The number `self.pixels` stands for no pixel.
        """
        codes, cells = self._turns.shape
        numbers = [self._passes[i] + 1 for i in images]
        for number in set(numbers) - self._flips.keys():
            flips = torch.randint(codes, (cells,), generator=self._generator(number))
            self._flips[number] = flips.to(self._turns.device, non_blocking=True)
        order = self._turn_codes(torch.stack([self._flips[number] for number in numbers]))
        for number in [number for number in self._flips if number <= min(self._passes)]:
            del self._flips[number]
        return order

    def _turn_codes(self, flips: Tensor) -> Tensor:
        """Turns (B, turns), with each cell's codes XORed with its entry of `flips` (B, cells)."""
        codes = torch.arange(len(self._turns), device=flips.device)
        turns = self._turns.expand(len(flips), *self._turns.shape)
        return turns.gather(1, codes[:, None] ^ flips[:, None]).flatten(1)


def cell_grid(sides: Sequence[int], cell: int) -> tuple[int, ...]:
    """Number of cells along each side: equal parts as close to `cell` pixels as possible."""
    return tuple(max(1, round(side / cell)) for side in sides)


def _turns(sides: Sequence[int], cell: int) -> Tensor:
    """(codes, cells): the pixel of each cell at each step of bit-reversed Morton order.

    If a cell has no such pixel, the entry is the number of pixels: along each dimension the number
    of codes is a power of two, and a cell's side need not be.
    """
    dims, parts = len(sides), cell_grid(sides, cell)
    divided = [_divide(side, count) for side, count in zip(sides, parts, strict=True)]
    bits = int(max(place.max() for _, place in divided)).bit_length()
    code = cell_index = torch.zeros((), dtype=torch.long)
    for axis, (part, place) in enumerate(divided):
        along = [-1 if other == axis else 1 for other in range(dims)]
        cell_index = cell_index * parts[axis] + part.view(along)
        for bit in range(bits):  # the lowest bits of each position become the code's highest
            high = dims * (bits - 1 - bit) + axis
            code = code | ((place >> bit & 1) << high).view(along)
    turns = torch.full((2 ** (dims * bits), prod(parts)), prod(sides))
    turns[code, cell_index] = torch.arange(prod(sides)).view_as(cell_index)
    return turns


def _divide(length: int, parts: int) -> tuple[Tensor, Tensor]:
    """Divides 0 .. length - 1 into nearly equal parts: each number's part and place in it."""
    positions = torch.arange(length)
    part = positions * parts // length
    return part, positions - (part * length + parts - 1) // parts


def local_std(image: Tensor, dims: int = 2) -> Tensor:
    """Standard deviation of each pixel's 3x3 neighbourhood: (..., H * W), in normalised units.

    It is the root of the channels' mean variance. Borders are padded with the nearest pixel.

    Args:
        image: (..., 3, H, W) in [0, 1]; or a signal (..., C, *sides), with 3 samples a side.
        dims: Dimensions of its grid.
    """
    rgb = image_to_rgb(image, dims).transpose(-1, -2).reshape(image.shape)
    axes = tuple(range(-dims, 0))
    padded = _pad_edges(rgb, axes)
    inner: tuple[Any, ...] = (..., *[slice(1, -1)] * dims)
    # Shifts and sums in a fixed order give bit-equal results for one image alone and in a batch.
    around = [
        torch.roll(padded, shifts, axes)[inner]
        for shifts in itertools.product((-1, 0, 1), repeat=dims)
    ]
    mean = sum(around[1:], around[0]) / len(around)
    squares = [(value - mean).square() for value in around]
    variance = sum(squares[1:], squares[0]) / len(squares)
    channels = variance.unbind(-dims - 1)
    return (sum(channels[1:], channels[0]) / len(channels)).sqrt().flatten(-dims)


def _pad_edges(image: Tensor, axes: Sequence[int]) -> Tensor:
    """Pads one row at each end of every axis with a copy of the outermost one."""
    for axis in axes:
        ends = image.narrow(axis, 0, 1), image, image.narrow(axis, image.shape[axis] - 1, 1)
        image = torch.cat(ends, axis)
    return image
