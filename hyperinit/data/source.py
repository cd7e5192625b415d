"""A place where pictures lie, as images by number: what the reader of every kind of data gives."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.images.decode import decode_image

# An encoded picture that is larger is no photograph, whatever it says of itself.
MAX_ENCODED_BYTES = 2**29


@dataclass(frozen=True)
class Source:
    """Pictures that can be read one by one.

    Attributes:
        title: What the user asked for, as messages call it.
        names: One for each picture, unique, such as "shard-000.tar/0001.jpg".
        read: Number of a picture -> image (3, H, W) float32 in [0, 1]. It raises InputError with
            the reason alone, without the name, where the picture cannot be used. Threads may
            read at the same time.
        groups: Whether names tell tiles -> the photograph that each picture shows. None: every
            picture is a photograph of its own.
        skipped: (name, reason) of what was found to be no picture before any was read.
        again: Whether reading a picture out of turn costs about what it costs in turn.
        files: What the pictures are in, so that they are the same as long as these are; none where
            that is not known.
        how: What else decides what `read` gives.
        digest: Number of a picture -> SHA-256 of the bytes that it is decoded from, "" where these
            are left to `read` to refuse; InputError as that of `read`. None: only `read` tells
            whether a picture is another than before.
    """

    title: str
    names: Sequence[str]
    read: Callable[[int], Tensor]
    groups: Callable[[bool], Sequence[str]] | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    again: bool = True
    files: Sequence[str] = ()
    how: str = ""
    digest: Callable[[int], str] | None = None


class Numbered(Sequence[str]):
    """Names of pictures that have none: "x.npy[000012]", made when they are asked for.

    Args:
        parts: (prefix, how many) of each part; a count of None is one picture of that very name.
    """

    def __init__(self, parts: Sequence[tuple[str, int | None]]) -> None:
        self._parts = list(parts)
        counts = (1 if count is None else count for _, count in parts)
        self._ends = list(itertools.accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def place(self, index: int) -> tuple[int, int]:
        """(number of the part, number in it) of a picture."""
        part = bisect.bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        part, number = self.place(index % len(self))
        return self.label(part, number)

    def label(self, part: int, number: int) -> str:
        """The name of a picture, by its place."""
        prefix, count = self._parts[part]
        return prefix if count is None else f"{prefix}[{number:06d}]"


def decoded(content: Any, name: str) -> Tensor:
    """The image in the bytes of a file.

    Raises:
        InputError: it cannot be used; the reason alone, without the name.
    """
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise InputError(f"expected the bytes of an image file, found {_kind_of(content)}")
    if len(content) > MAX_ENCODED_BYTES:
        raise InputError(f"{len(content) / 2**20:.0f} MiB are too much for one image")
    try:
        return decode_image(bytes(content), name)
    except InputError as error:
        raise InputError(str(error).removeprefix(f"{name}: ")) from error


def _kind_of(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def line(error: BaseException) -> str:
    """An exception's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__
