"""Stacks of images in .npy and .npz files -> images by index.

The shape says what an array is: (N, H, W, 3), (N, 3, H, W) where W is not 3, (N, H, W, 1) and
(N, 1, H, W) are stacks of images, (N, H, W) one of grey images, and (H, W, 3) a single image.
Values are those of `to_image`: uint8, uint16, or float in [0, 1]. Objects are never unpickled.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import IO

import numpy as np
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path
from hyperinit.data.paths import expand, short_names, split_field
from hyperinit.data.source import Numbered, Source, line
from hyperinit.images.decode import to_image

# A compressed array can only be unpacked whole.
MAX_UNPACKED_BYTES = 2**31

# Bytes before a member's content in a zip archive: a fixed part, which ends in two lengths.
_ZIP_HEADER_BYTES, _ZIP_LENGTHS_AT = 30, 26

# numpy writes far shorter headers; gigabytes of blanks would take only kilobytes in a zip archive.
_MAX_HEADER_BYTES = 2**16

_CUT_OFF = "the file ends before the array does"
_WANTED = "a stack is (N, H, W, 3), (N, 3, H, W) or (N, H, W)"


@dataclass
class _Stack:
    """An array of images, opened when it is needed.

    Attributes:
        label: The prefix of its pictures' names.
        shape: Shape of the array.
        open: Opens the array (N, ...), memory-mapped where possible.
        check: Raises if a memory-mapped file is now too short: reading past its end would kill the
            process.
    """

    label: str
    shape: tuple[int, ...]
    open: Callable[[], np.ndarray]
    check: Callable[[], None] = lambda: None

    @property
    def count(self) -> int | None:
        """How many images it holds; None if it is a single image."""
        return None if len(self.shape) == 3 and self.shape[-1] == 3 else self.shape[0]


@dataclass
class _Arrays:
    """All stacks that were asked for; the one read last is kept open."""

    stacks: list[_Stack]
    names: Numbered
    lock: Lock = field(default_factory=Lock)
    current: int = -1
    array: np.ndarray = field(default_factory=lambda: np.empty(0))

    def read(self, index: int) -> Tensor:
        """See `Source.read`."""
        part, number = self.names.place(index)
        stack = self.stacks[part]
        try:
            with self.lock:
                if self.current != part:
                    self.array, self.current = np.empty(0), -1  # the last one goes first
                    self.array, self.current = stack.open(), part
                array = self.array
            stack.check()
            picture = np.array(array if stack.count is None else array[number])
        except Exception as error:  # from zipfile, zlib or numpy: damaged, encrypted, now too short
            reason = error.strerror if isinstance(error, OSError) else line(error)
            raise InputError(reason or "cannot be read") from error
        return to_image(_rows_columns(picture))


def _rows_columns(picture: np.ndarray) -> np.ndarray:
    """An image as `to_image` takes it: (H, W, 3) or (H, W)."""
    if picture.ndim == 3 and picture.shape[-1] not in (1, 3) and picture.shape[0] in (1, 3):
        picture = np.moveaxis(picture, 0, -1)
    return picture[..., 0] if picture.ndim == 3 and picture.shape[-1] == 1 else picture


def open_arrays(spec: str, limit: int | None = None) -> Source:
    """Finds the images in .npy and .npz files.

    Args:
        spec: See `expand`; "FILE.npz#KEY" takes one array of it.
        limit: Ignored.

    Raises:
        InputError: a file is missing, damaged or of another kind; or a .npy file, the array that
            was asked for, or every array of an .npz file is not a stack of images. Other arrays
            beside a stack of images, such as labels, are skipped.
    """
    path, key = split_field(spec)
    paths = expand(path)
    stacks: list[_Stack] = []
    skipped: list[tuple[str, str]] = []
    again = True
    for file, shown in zip(paths, short_names(paths), strict=True):
        try:
            if file.lower().endswith(".npz"):
                again &= _open_archive(file, shown, key, stacks, skipped)
            else:
                if key:
                    raise InputError(
                        f"{shown_path(file)}: has no array {key!r}, it is a single one"
                    )
                stacks.append(_npy(file, shown, 0, os.path.getsize(file)))
        except _NoStack as error:
            raise InputError(f"{shown_path(file)}: {error}; {_WANTED}") from error
        except InputError:
            raise
        except Exception as error:  # from numpy or zipfile, on broken files
            raise InputError(f"{shown_path(file)}: cannot be read ({line(error)})") from error
    names = Numbered([(stack.label, stack.count) for stack in stacks])
    read = _Arrays(stacks, names).read
    return Source(spec, names, read, skipped=tuple(skipped), again=again, files=paths, how=key)


def is_stack(path: str) -> bool:
    """Whether a .npy file holds images and cannot be a signal, whose values are floats."""
    try:
        with open(path, "rb") as file:
            return _header(file)[2].kind != "f"
    except (_NoStack, OSError, ValueError, EOFError):
        return False


class _NoStack(Exception):
    """An array is not a stack of images; the text says why."""


def _npy(path: str, label: str, start: int, end: int) -> _Stack:
    """An array that is stored uncompressed in a file, from byte `start` on."""
    with open(path, "rb") as file:
        file.seek(start)
        shape, order, dtype, length = _header(file)
    at = start + length
    last = at + dtype.itemsize * _count(shape)
    if last > end:
        raise ValueError(_CUT_OFF)

    def check() -> None:
        if os.path.getsize(path) < last:
            raise ValueError(_CUT_OFF)

    def open_array() -> np.ndarray:
        mapped: np.ndarray = np.memmap(path, dtype, "r", at, shape, order)  # type: ignore[call-overload]
        return mapped

    return _Stack(label, shape, open_array, check)


def _header(content: IO[bytes]) -> tuple[tuple[int, ...], str, np.dtype, int]:
    """(shape, order, dtype, length of the header) of a .npy file.

    Raises:
        _NoStack: this is not a stack of images.
    """
    file = io.BytesIO(content.read(_MAX_HEADER_BYTES))  # whatever length it claims to have
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file)
    except (RecursionError, MemoryError) as error:  # from the parser
        raise ValueError("its header is nested too deep") from error
    if dtype.hasobject:
        raise _NoStack(f"its dtype is {dtype}: objects are not read, as they can run programs")
    if dtype.kind != "f" and dtype.name not in ("uint8", "uint16"):
        raise _NoStack(f"its dtype is {dtype}, not uint8, uint16 or float")
    sides = len(shape) == 4 and (shape[-1] in (1, 3) or shape[1] in (1, 3))
    if not (sides or len(shape) == 3) or min(shape) < 1:
        raise _NoStack(f"its shape is {shape}")
    return shape, "F" if fortran else "C", dtype, file.tell()


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:  # Python integers do not overflow
        total *= int(side)
    return total


def _open_archive(
    path: str, shown: str, key: str, stacks: list[_Stack], skipped: list[tuple[str, str]]
) -> bool:
    """Collects the stacks of an .npz file; returns whether all its arrays are uncompressed.

    Raises:
        _NoStack: the array that was asked for, or every readable one, is not a stack of images.
    """
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if key and key not in members:
        known = ", ".join(sorted(members)) or "none"
        raise InputError(f"{shown_path(path)}: has no array {key!r}; it has {known}")
    plain, before = True, len(stacks) + len(skipped)
    others: list[str] = []
    for name, info in members.items():
        if key and name != key:
            continue
        try:
            if info.compress_type == zipfile.ZIP_STORED:
                stack = _npy(path, f"{shown}/{name}", *_place(path, info))
            else:
                stack, plain = _packed(path, f"{shown}/{name}", info), False
        except _NoStack as error:
            if key:
                raise
            others.append(f"{name}: {error}")
        except Exception as error:  # also from zipfile and zlib: encrypted, unknown compression
            if key:
                raise
            skipped.append((f"{shown}/{name}", line(error)))
        else:
            stacks.append(stack)
    if len(stacks) + len(skipped) == before:
        raise _NoStack(f"it holds no array of images ({', '.join(others) or 'it is empty'})")
    return plain


def _place(path: str, info: zipfile.ZipInfo) -> tuple[int, int]:
    """(first byte, byte after the last) of an uncompressed member of a zip archive."""
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        header = file.read(_ZIP_HEADER_BYTES)
    lengths = header[_ZIP_LENGTHS_AT:]
    name, extra = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
    start = info.header_offset + _ZIP_HEADER_BYTES + name + extra
    return start, min(start + info.file_size, os.path.getsize(path))


def _packed(path: str, label: str, info: zipfile.ZipInfo) -> _Stack:
    """A compressed array, unpacked when its first image is read."""
    if info.file_size > MAX_UNPACKED_BYTES:
        size = f"{info.file_size / 2**30:.1f} GiB compressed"
        raise ValueError(f"{size}: write it with numpy.savez, or as .npy, to be read in parts")
    with zipfile.ZipFile(path) as archive, archive.open(info) as file:
        shape, order, dtype, length = _header(file)
    nbytes = dtype.itemsize * _count(shape)
    if nbytes > info.file_size:
        raise ValueError(_CUT_OFF)

    def open_array() -> np.ndarray:
        with zipfile.ZipFile(path) as archive, archive.open(info) as file:
            file.read(length)
            content = file.read(nbytes)
        array: np.ndarray = np.frombuffer(content, dtype)
        return array.reshape(shape, order="F" if order == "F" else "C")

    return _Stack(label, shape, open_array)
