"""Pictures of a source -> photographs, with as many in memory as allowed.

Every picture is decoded once, to find its hash and whether it can be used. If that takes long, the
findings are recorded for the next run (`RECORD_SEC`). Pixels that do not fit in memory are read
again whenever they are drawn, or wait in a temporary file if random access is slow
(`Source.again`). So memory is bounded however many pictures there are, except for their names and
hashes, less than a kilobyte each.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import prod
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import __version__ as PIL_VERSION
from torch import Tensor

from hyperinit.base.errors import InputError, free_memory
from hyperinit.base.files import make_directory, shown_path, write_atomically
from hyperinit.base.terminal import progress
from hyperinit.data.source import Source
from hyperinit.data.spool import Spool
from hyperinit.photos.photographs import Photo, make_photo, stable_fraction
from hyperinit.photos.torchvision_sets import cache_directory

MEMORY_MIB = 2048  # of pixels, by default

# If reading a source takes longer than this, the findings are recorded in the cache directory, so
# that the next run opens it at once. The version changes when files are decoded differently.
RECORD_SEC, RECORD_VERSION = 20.0, 2

# What a tensor takes in memory beside its numbers.
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
    """Decodes pictures one by one, on demand; their pixels are in memory.

    Args:
        source: The pictures.
        keep_side: See `make_photo`.
        limit: Return at most this many usable pictures, in a fixed order that is spread over the
            source. None: all, in the order of the source.
        group_tiles: Whether names mark tiles of one photograph.
        weight: Name -> sampling weight.
        skipped: (name, reason) of each unusable picture is appended to it.

    Raises:
        InputError: no picture can be used.
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

    Args and errors are those of `photos_of`. A source without fast random access needs room for
    the other pixels in the directory for temporary files.
    """
    record = _record_path(source, limit) if source.again and source.files else None
    found = None if record is None else _recorded(record, len(source.names))
    unusable = None if found is None else _still_unusable(source, found.skipped)
    if found is not None and unusable is not None:
        skipped += unusable
        groups = source.groups(group_tiles) if source.groups else source.names
        memory = _Memory(_room(memory_mib))
        photos = []
        for index, sha256 in zip(found.index, found.sha256, strict=True):
            name, again = source.names[index], _Again(source, index, keep_side, sha256, memory)
            photos.append(Photo(name, groups[index], again, sha256, weight(name)))
        return photos
    began, before = time.monotonic(), len(skipped)
    numbered = _numbered(source, keep_side, limit, group_tiles, weight, skipped)
    numbers = _kept(numbered, source, keep_side, limit, memory_mib)
    if record is not None and time.monotonic() - began > RECORD_SEC:
        indices, hashes = [i for i, _ in numbers], [photo.hash for _, photo in numbers]
        _write_record(record, _Record(indices, hashes, skipped[before:]))
    return [photo for _, photo in numbers]


def _kept(
    numbered: Iterator[tuple[int, Photo]],
    source: Source,
    keep_side: int | None,
    limit: int | None,
    memory_mib: int,
) -> list[tuple[int, Photo]]:
    """Photographs with their index, and as many pixels in memory as there is room for."""
    shown = progress(
        numbered,
        total=len(source.names) if limit is None else min(limit, len(source.names)),
        desc="reading images",
        **{"delay": 2.0, "disable": None, "leave": False},
    )
    memory, spool = _Memory(_room(memory_mib)), Spool()
    found: list[tuple[int, Photo]] = []
    for index, photo in shown:
        if not memory.has_room_for(photo.pixels):
            again = _Again(source, index, keep_side, photo.hash, memory)
            photo = replace(
                photo, stored=again if source.again else _Waiting.of(photo.pixels, spool)
            )
        found.append((index, photo))
    return sorted(found, key=lambda entry: entry[0])


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
    """(index, image) of the pictures that can be decoded."""
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
    """The first `limit` pictures of an order that can be decoded, read in file order."""
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


def _room(memory_mib: int) -> int:
    """Bytes for pixels: as many as allowed, and at most half of the free memory."""
    free = free_memory()
    return memory_mib * 2**20 if free is None else min(memory_mib * 2**20, free // 2)


class _Memory:
    """Room for pixels, and the pixels that were put there when they were first drawn."""

    def __init__(self, room_bytes: int) -> None:
        self._room = room_bytes
        self._lock = Lock()
        self.pixels: dict[int, Tensor] = {}

    def has_room_for(self, pixels: Tensor) -> bool:
        """Whether there is room; if so, reserves it."""
        with self._lock:
            cost = pixels.numel() + _TENSOR_BYTES
            if cost > self._room:
                self._room = 0  # full from the first that does not fit: smaller ones neither
                return False
            self._room -= cost
            return True


@dataclass(frozen=True, slots=True)
class _Again:
    """The pixels of a photograph, read again from its source if they are not in memory."""

    source: Source
    index: int
    keep_side: int | None
    sha256: str
    memory: _Memory

    def __call__(self) -> Tensor:
        kept = self.memory.pixels.get(self.index)
        if kept is not None:
            return kept
        name = self.source.names[self.index]
        where = f"{shown_path(self.source.title)}: {name}"
        try:
            photo = make_photo(name, "", self.source.read(self.index), keep_side=self.keep_side)
        except InputError as error:
            raise InputError(f"{where}: can no longer be read: {error}") from error
        if photo.hash != self.sha256:
            raise InputError(f"{where}: was changed while in use")
        if self.memory.has_room_for(photo.pixels):
            self.memory.pixels[self.index] = photo.pixels
        return photo.pixels


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The pixels of a photograph, kept in a temporary file."""

    spool: Spool
    start: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, pixels: Tensor, spool: Spool) -> _Waiting:
        """Writes pixels (3, H, W) uint8 to the temporary file."""
        content = pixels.contiguous().numpy().tobytes()
        return cls(spool, spool.add(content), tuple(pixels.shape))

    def __call__(self) -> Tensor:
        content = bytearray(self.spool.read(self.start, prod(self.shape)))
        return torch.frombuffer(content, dtype=torch.uint8).reshape(self.shape)


@dataclass(frozen=True)
class _Record:
    """What reading a whole source found: indices and hashes of pictures, and what was skipped."""

    index: list[int]
    sha256: list[str]
    skipped: Skipped


def _record_path(source: Source, limit: int | None) -> Path | None:
    """The path of a source's record; its name depends on the files and the decoders' versions.

    None if a file is missing.
    """
    digest = hashlib.sha256(f"{RECORD_VERSION},{PIL_VERSION},{limit},{source.how}".encode())
    try:
        for file in source.files:
            facts = os.stat(file)
            line = f"\n{os.path.abspath(file)},{facts.st_size},{facts.st_mtime_ns}"
            digest.update(line.encode(errors="surrogateescape"))
    except OSError:
        return None
    return cache_directory() / "read" / f"{digest.hexdigest()}.npz"


def _recorded(path: Path, count: int) -> _Record | None:
    """What was found when a source was read before; None if there is no usable record."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            index, sha256 = stored["index"].tolist(), stored["sha256"]
            skipped = [(str(n), str(r)) for n, r in json.loads(stored["skipped"].tobytes())]
        whole = len(index) == len(sha256) > 0 and all(0 <= i < count for i in index)
        hashes = [row.tobytes().hex() for row in sha256]
    except Exception:  # damaged, or of another kind: the source is read again
        return None
    return _Record(index, hashes, skipped) if whole else None


def _still_unusable(source: Source, recorded: Skipped) -> Skipped | None:
    """The pictures that were unusable when a source was recorded, with today's reasons.

    None if one of them can be used now: it lacked a package, a permission or memory then.
    """
    before = len(source.skipped)  # found without reading, so the same as before
    numbers = {name: index for index, name in enumerate(source.names)} if recorded[before:] else {}
    skipped = recorded[:before]
    for name, _ in recorded[before:]:
        if name not in numbers or _read(source, numbers[name], skipped) is not None:
            return None
    return skipped


def _write_record(path: Path, record: _Record) -> None:
    """Stores what was found; if that fails, the next run reads everything again."""
    hashes = np.frombuffer(bytes.fromhex("".join(record.sha256)), np.uint8).reshape(-1, 32)
    said = np.frombuffer(json.dumps(record.skipped).encode(), np.uint8)
    content = io.BytesIO()
    np.savez(content, index=np.array(record.index, np.int64), sha256=hashes, skipped=said)
    with contextlib.suppress(InputError):
        make_directory(path.parent)
        write_atomically(path, content.getvalue())
