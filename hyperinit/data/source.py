"""`Source`: images by index, whatever they are stored in. Every reader returns one."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.images.decode import decode_image

# A larger encoded picture is not a photograph, whatever it claims to be.
MAX_ENCODED_BYTES = 2**29


@dataclass(frozen=True)
class Source:
    """Pictures that can be read one by one.

    Attributes:
        title: What the user asked for, as messages call it.
        names: A unique name for each picture, such as "shard-000.tar/0001.jpg".
        read: Index of a picture -> image (3, H, W) float32 in [0, 1]. Raises InputError with the
            reason alone, without the name, if the picture cannot be used. Thread-safe.
        groups: Whether names mark tiles -> the photograph that each picture shows. None: every
            picture is a photograph of its own.
        skipped: (name, reason) of everything rejected before any picture was read.
        again: Whether reading in random order costs about as much as reading in sequence.
        files: The files that hold the pictures: these are unchanged as long as the files are.
            Empty if not known.
        how: Whatever else determines what `read` returns.
        digest: Index of a picture -> SHA-256 of the bytes that it is decoded from, or "" if `read`
            is to refuse them; raises InputError as `read` does. None: only `read` can tell whether
            a picture has changed.
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
    """Names for pictures that have none: "x.npy[000012]", made on demand.

    Args:
        parts: (prefix, count) of each part; a count of None is one picture named by the prefix.
    """

    def __init__(self, parts: Sequence[tuple[str, int | None]]) -> None:
        self._parts = list(parts)
        counts = (1 if count is None else count for _, count in parts)
        self._ends = list(itertools.accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def place(self, index: int) -> tuple[int, int]:
        """(index of the part, index within it) of a picture."""
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
        """The name of a picture, given its place."""
        prefix, count = self._parts[part]
        return prefix if count is None else f"{prefix}[{number:06d}]"


def decoded(content: Any, name: str) -> Tensor:
    """Decodes the bytes of an image file.

    Raises:
        InputError: the image cannot be used; the reason alone, without the name.
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
