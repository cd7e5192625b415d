"""Pictures of a source -> photographs, of which as many are kept in memory as may be.

Every picture is decoded once, which finds its hash and whether it can be used. What does not fit
in memory is read again whenever it is drawn; where reading out of turn is slow (`Source.again`),
its pixels wait in a temporary file. So memory is bounded however many there are, but for their
names and hashes, about half a kilobyte each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import prod

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path
from hyperinit.base.terminal import progress
from hyperinit.data.source import Source
from hyperinit.data.spool import Spool
from hyperinit.photos.photographs import Photo, make_photo, stable_fraction

MEMORY_MIB = 2048  # of pixels, where nothing else is said

# What a tensor takes beside its numbers.
_TENSOR_BYTES = 1024

Skipped = list[tuple[str, str]]


def photos_of(
    source: Source,
    *,
    keep_side: int | None,
    limit: int | None = None,
    group_tiles: bool = True,
    weight: Callable[[str], float] = lambda name: 1.0,
    skipped: Skipped,
) -> Iterator[Photo]:
    """Decodes pictures, one when it is asked for; its pixels are in memory.

    Args:
        source: Where they lie.
        keep_side: See `make_photo`.
        limit: At most so many that can be used, in an order that is fixed and spread over the
            source; without it they come in turn.
        group_tiles: Whether names tell tiles of one photograph.
        weight: Name -> sampling weight.
        skipped: (name, reason) of each that cannot be used is appended here.

    Raises:
        InputError: not one can be used.
    """
    numbered = _numbered(source, keep_side, limit, group_tiles, weight, skipped)
    yield from (photo for _, photo in numbered)


def keep_photos(
    source: Source,
    *,
    keep_side: int | None,
    limit: int | None = None,
    group_tiles: bool = True,
    weight: Callable[[str], float] = lambda name: 1.0,
    memory_mib: int = MEMORY_MIB,
    skipped: Skipped,
) -> list[Photo]:
    """All photographs of a source, in its order, with pixels of at most `memory_mib` in memory.

    Args and errors are those of `photos_of`; a source that is read in turn needs room for the
    other pixels in the directory for temporary files.
    """
    numbered = _numbered(source, keep_side, limit, group_tiles, weight, skipped)
    shown = progress(
        numbered,
        total=len(source.names) if limit is None else min(limit, len(source.names)),
        desc="reading images",
        **{"delay": 2.0, "disable": None, "leave": False},
    )
    room, spool = memory_mib * 2**20, Spool()
    found: list[tuple[int, Photo]] = []
    for index, photo in shown:
        room -= photo.pixels.numel() + _TENSOR_BYTES
        if room < 0:
            again = _Again(source, index, keep_side, photo.hash)
            photo = replace(
                photo, stored=again if source.again else _Waiting.of(photo.pixels, spool)
            )
        found.append((index, photo))
    return [photo for _, photo in sorted(found, key=lambda entry: entry[0])]


def _numbered(
    source: Source,
    keep_side: int | None,
    limit: int | None,
    group_tiles: bool,
    weight: Callable[[str], float],
    skipped: Skipped,
) -> Iterator[tuple[int, Photo]]:
    skipped += source.skipped
    names = source.names
    groups = source.groups(group_tiles) if source.groups else names
    found = False
    for index, image in islice(_usable(source, limit, skipped), limit):
        found, name, group = True, names[index], groups[index]
        yield index, make_photo(name, group, image, keep_side=keep_side, weight=weight(name))
    if not found:
        first = f"; the first of {len(skipped)} skipped: {': '.join(skipped[0])}" if skipped else ""
        raise InputError(f"{shown_path(source.title)}: no usable image{first}")


def _usable(source: Source, limit: int | None, skipped: Skipped) -> Iterator[tuple[int, Tensor]]:
    """(number, image) of those that can be decoded."""
    order: Sequence[int] = range(len(source.names))
    if limit is not None:
        order = sorted(order, key=lambda index: stable_fraction(source.names[index]))
        if not source.again:
            yield from _in_turn(source, order, limit, skipped)
            return
    for index in order:
        image = _read(source, index, skipped)
        if image is not None:
            yield index, image


def _in_turn(
    source: Source, order: Sequence[int], limit: int, skipped: Skipped
) -> Iterator[tuple[int, Tensor]]:
    """The first of an order that can be decoded, `limit` of them, read by their place."""
    at, wanted = 0, limit
    while wanted and at < len(order):
        part = sorted(order[at : at + wanted])
        at += len(part)
        for index in part:
            image = _read(source, index, skipped)
            if image is not None:
                wanted -= 1
                yield index, image


def _read(source: Source, index: int, skipped: Skipped) -> Tensor | None:
    try:
        return source.read(index)
    except InputError as error:
        skipped.append((source.names[index], str(error)))
        return None


@dataclass(frozen=True, slots=True)
class _Again:
    """The pixels of a photograph that is read anew whenever they are needed."""

    source: Source
    index: int
    keep_side: int | None
    sha256: str

    def __call__(self) -> Tensor:
        name = self.source.names[self.index]
        where = f"{shown_path(self.source.title)}: {name}"
        try:
            photo = make_photo(name, "", self.source.read(self.index), keep_side=self.keep_side)
        except InputError as error:
            raise InputError(f"{where}: can no longer be read: {error}") from error
        if photo.hash != self.sha256:
            raise InputError(f"{where}: was changed while it was in use")
        return photo.pixels


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The pixels of a photograph in a temporary file."""

    spool: Spool
    start: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, pixels: Tensor, spool: Spool) -> _Waiting:
        """Writes pixels (3, H, W) uint8."""
        content = pixels.contiguous().numpy().tobytes()
        return cls(spool, spool.add(content), tuple(pixels.shape))

    def __call__(self) -> Tensor:
        content = bytearray(self.spool.read(self.start, prod(self.shape)))
        return torch.frombuffer(content, dtype=torch.uint8).reshape(self.shape)
