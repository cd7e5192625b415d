"""Decoded photographs -> train / held-out lists, and lists of photographs -> crops to train on.

Splits are by photograph: tiles and views of one photograph share a `group`, and a group is never
divided.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.images.pixels import from_uint8, image_hash, resize, square_crop, to_uint8

# Photographs are kept with a short side of at most this many pixels. To train on crops of `size`
# pixels, 4 * size is plenty: 1,912 photographs of 512 x 512, kept at 384, take 0.8 GiB.
KEEP_SIDE = 512
HELD_OUT_FRACTION = 0.05

SplitBy = Literal["content", "name"]


@dataclass(frozen=True, slots=True)
class Photo:
    """One photograph, or one tile or view of a photograph; its pixels may not be in memory.

    Attributes:
        name: Unique within its data set, such as "clic/000_01.jpg".
        group: The photograph it shows; all members of a group stay on one side of a split.
        stored: Its `pixels`, or a function that reads them when they are needed.
        hash: `image_hash` of the image before it was reduced.
        weight: How often it is sampled, relative to others; 0 means never.
    """

    name: str
    group: str
    stored: Tensor | Callable[[], Tensor] = field(repr=False, compare=False)
    hash: str
    weight: float = 1.0

    @property
    def pixels(self) -> Tensor:
        """(3, H, W) uint8, perhaps reduced (see `make_photo`).

        Raises:
            InputError: they are not in memory and can no longer be read.
        """
        return self.stored if isinstance(self.stored, Tensor) else self.stored()

    @property
    def image(self) -> Tensor:
        """(3, H, W) float32 in [0, 1]."""
        return from_uint8(self.pixels)


@dataclass(frozen=True)
class Photographs:
    """A data set, split by photograph.

    Attributes:
        name: What the user asked for.
        train: Photographs to train on; never empty.
        held_out: Photographs to measure on, which share no group and no content with `train`;
            empty if there is only one group or nothing was to be held out.
        skipped: (name, reason) of each that could not be used.
    """

    name: str
    train: list[Photo]
    held_out: list[Photo]
    skipped: list[tuple[str, str]]


def make_photo(
    name: str, group: str, image: Tensor, *, keep_side: int | None, weight: float = 1.0
) -> Photo:
    """An image (3, H, W) in [0, 1] as a `Photo`, reduced to a short side of at most `keep_side`.

    The reduction averages areas, so reducing a square crop later gives the same result as from the
    original, except for rounding to 8 bits and of the crop's border.
    """
    height, width = image.shape[-2:]
    kept, short = image, min(height, width)
    if keep_side is not None and short > keep_side:
        kept = resize(image, round(height * keep_side / short), round(width * keep_side / short))
    return Photo(name, group, to_uint8(kept), image_hash(image), weight)


def collect(
    entries: Iterable[tuple[str, str, float]],
    load: Callable[[str], Tensor],
    keep_side: int | None,
) -> tuple[list[Photo], list[tuple[str, str]]]:
    """Decodes each (name, group, weight) by `load(name)`; the second list holds the failures."""
    photos: list[Photo] = []
    skipped: list[tuple[str, str]] = []
    for name, group, weight in entries:
        try:
            image = load(name)
        except InputError as error:
            skipped.append((name, str(error)))
        else:
            photos.append(make_photo(name, group, image, keep_side=keep_side, weight=weight))
    return photos, skipped


def stable_fraction(text: str) -> float:
    """A number in [0, 1) that depends only on the text: the same on every machine and run."""
    return (
        int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:6], "big")
        / 2**48
    )


def split_by_group(
    photos: Sequence[Photo], fraction: float, *, by: SplitBy = "content"
) -> tuple[list[Photo], list[Photo]]:
    """Splits into train and held out, by a stable hash of each group.

    About `fraction` of the groups are held out: at least one if there are two or more and the
    fraction is not 0, and never all. Apart from these two limits, a group's side does not depend
    on the other groups. Groups that share an image (same hash) count as one.

    Args:
        photos: The photographs to split.
        fraction: The share of groups to hold out.
        by: What is hashed: the content of a group's images, which does not depend on where they
            lie or what they are called, or the group's name.

    Raises:
        InputError: fraction is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise InputError(f"held_out_fraction must be at least 0 and below 1, not {fraction}")
    group_of = _merge_duplicates(photos)
    text = {group: group for group in group_of.values()}
    if by == "content":
        text = {}
        for photo in photos:
            group = group_of[photo.group]
            text[group] = min(photo.hash, text.get(group, photo.hash))
    side = {group: stable_fraction(text[group]) for group in text}
    order = sorted(text, key=side.__getitem__)
    held: set[str] = set()
    if fraction > 0 and len(order) > 1:
        held = {group for group in order if side[group] < fraction}
        held = (held or {order[0]}) - {order[-1]}
    train = [photo for photo in photos if group_of[photo.group] not in held]
    return train, [photo for photo in photos if group_of[photo.group] in held]


def _merge_duplicates(photos: Sequence[Photo]) -> dict[str, str]:
    """Group -> the group that represents it and all groups that share an image with it."""
    parent = {photo.group: photo.group for photo in photos}

    def find(group: str) -> str:
        while parent[group] != group:
            group = parent[group]
        return group

    first_with: dict[str, str] = {}
    for photo in photos:
        one, other = find(photo.group), find(first_with.setdefault(photo.hash, photo.group))
        parent[max(one, other)] = min(one, other)
    return {group: find(group) for group in parent}


def _draws(generator: torch.Generator) -> list[float]:
    """The four random numbers that one crop takes from a generator."""
    return torch.rand(4, generator=generator, dtype=torch.float64).tolist()


@dataclass(frozen=True)
class Square:
    """A square of an image, in pixels, and whether it is flipped left to right."""

    top: int
    left: int
    side: int
    flip: bool


def random_square(
    height: int, width: int, size: int, draws: Sequence[float], min_scale: float = 1.0
) -> Square:
    """The square of a random crop, see `random_crop`; `draws` are four numbers in [0, 1)."""
    side_draw, top_draw, left_draw, flip_draw = draws
    short = min(height, width)
    smallest = min(short, max(1, round(min_scale * size)))
    side = round(smallest * (short / smallest) ** side_draw)
    top, left = int(top_draw * (height - side + 1)), int(left_draw * (width - side + 1))
    return Square(top, left, side, flip_draw < 0.5)


def random_crop(
    image: Tensor, size: int, *, generator: torch.Generator, min_scale: float = 1.0
) -> Tensor:
    """A random square of an image, flipped left to right half of the time, at (3, size, size).

    The square's side is log-uniform between `min_scale * size` pixels (less if the image is
    smaller) and the image's short side, so that coarse and fine views are equally frequent. With
    `min_scale` 1, only images smaller than `size` are ever enlarged. `resize` does the resizing.

    Args:
        image: (3, H, W) float in [0, 1], or uint8.
        size: Side of the result in pixels.
        generator: The only source of randomness; every call takes the same number of draws.
        min_scale: See above.
    """
    height, width = image.shape[-2:]
    at = random_square(height, width, size, _draws(generator), min_scale)
    crop = image[:, at.top : at.top + at.side, at.left : at.left + at.side]
    crop = resize(from_uint8(crop) if crop.dtype == torch.uint8 else crop, size, size)
    return crop.flip(-1) if at.flip else crop


def fixed_crops(image: Tensor, size: int, *, quadrants: bool = False) -> Tensor:
    """The crops of a held-out image: its largest centred square, (1, 3, size, size).

    With `quadrants`, the square and then its quarters, row by row: (5, 3, size, size).
    """
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left, half = (height - side) // 2, (width - side) // 2, max(1, side // 2)
    crops = [square_crop(image, size)]
    if quadrants:
        for y in (top, top + side - half):
            for x in (left, left + side - half):
                crops.append(resize(image[:, y : y + half, x : x + half], size, size))
    return torch.stack(crops)


class CropSampler:
    """Photographs -> batches of random crops, each a pure function of (seed, step).

    A run resumed at step s therefore sees the same crops, bit for bit, as one that never stopped.

    Args:
        photos: The photographs to crop, each drawn with probability proportional to its weight.
        size: Side of the crops in pixels.
        seed: Selects the endless sequence of batches.
        min_scale: See `random_crop`.

    Raises:
        InputError: there are no photographs, none has a weight above 0, or size is below 1.
    """

    def __init__(
        self, photos: Sequence[Photo], size: int, *, seed: int, min_scale: float = 1.0
    ) -> None:
        if size < 1:
            raise InputError(f"crop size must be at least 1 pixel, not {size}")
        if not any(photo.weight > 0 for photo in photos):
            raise InputError("no photographs to sample from, or all have weight 0")
        self.photos = list(photos)
        self.size = size
        self.seed = seed
        self.min_scale = min_scale
        self._weights = torch.tensor([photo.weight for photo in photos], dtype=torch.float64)

    def batch(self, step: int, batch_size: int, rows: range | None = None) -> Tensor:
        """The crops of one step: (batch_size, 3, size, size) float32 in [0, 1].

        With `rows`, only these rows of the batch, (len(rows), 3, size, size); other photographs are
        not read. One of several processes takes `range(rank, batch_size, processes)`.
        """
        chosen, generator = self._choose(step, batch_size)
        crops = []
        for row, index in enumerate(chosen):
            if rows is not None and row not in rows:
                _draws(generator)
                continue
            pixels = self.photos[index].pixels
            crop = random_crop(pixels, self.size, generator=generator, min_scale=self.min_scale)
            crops.append(crop)
        return torch.stack(crops) if crops else torch.empty(0, 3, self.size, self.size)

    def squares(
        self, step: int, batch_size: int, sides: Sequence[tuple[int, int]]
    ) -> list[tuple[int, Square]]:
        """The photograph that each crop of a step is cut from, and its square there.

        Args:
            step: See `batch`.
            batch_size: See `batch`.
            sides: Height and width of every photograph.
        """
        chosen, generator = self._choose(step, batch_size)
        return [
            (i, random_square(*sides[i], self.size, _draws(generator), self.min_scale))
            for i in chosen
        ]

    def _choose(self, step: int, batch_size: int) -> tuple[list[int], torch.Generator]:
        """The photographs of a step, and the generator of all its other draws."""
        # Hashed, because with a sum or product of seed and step two seeds would share batches.
        digest = hashlib.sha256(f"{self.seed},{step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        chosen = torch.multinomial(self._weights, batch_size, True, generator=generator)
        return chosen.tolist(), generator
