"""Checks before the work whether its output files may be written."""

from __future__ import annotations

import errno
import json
import os
import struct
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path, written_place

SIREN = "hyperinit-params-1"  # the kind of files of SIRENs, see siren/store.py
IMAGE = "image"

# First bytes of renderings of SIRENs. RIFF is the container of WebP and of WAV, and numpy arrays
# are for signals.
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"\x93NUMPY")
MAX_NAME_BYTES = 255
_MAX_HEADER_BYTES = 2**24  # of a safetensors file's header, which is read to find its kind


def check_output(
    path: str | os.PathLike[str],
    suffixes: Sequence[str],
    kind: str,
    *,
    inputs: Iterable[str | os.PathLike[str]] = (),
    may_be_made: bool = False,
) -> None:
    """Refuses a file that must not be overwritten or cannot be written; changes nothing.

    Args:
        path: The file to write.
        suffixes: Its allowed suffixes, lower case.
        kind: What it will be; an existing file must be of the same kind: `SIREN`, `IMAGE`, or
            another kind of safetensors file.
        inputs: Files that are read; none of them may be the output.
        may_be_made: Whether its directory will be created if it is missing.

    Raises:
        InputError: the file must not or cannot be written; the message says why.
    """
    path, name = Path(path), shown_path(path)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{name}: must end in {' or '.join(suffixes)}")
    for source in inputs:
        if is_same_file(path, source):
            raise InputError(f"{name}: is one of the inputs; choose another file to write")
    try:
        folder = written_place(path).parent
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise _too_long(name, MAX_NAME_BYTES) from error
        raise InputError(f"cannot write {name}: {error.strerror}") from error
    check_directory(folder, may_be_made=may_be_made)
    place = _standing(folder) if may_be_made else folder
    longest = MAX_NAME_BYTES if os.name == "nt" else os.pathconf(place, "PC_NAME_MAX")
    if len(os.fsencode(path.name)) > longest:
        raise _too_long(name, longest)
    if path.is_dir():
        raise InputError(f"{name}: is a directory; choose another file to write")
    if not path.exists():
        return
    found = file_kind_of(path)
    if found and found != kind:
        raise InputError(
            f"{name}: exists and is {_article(found)}, which would be lost; choose another file"
            " to write"
        )
    if not os.access(path, os.W_OK):
        raise InputError(f"{name}: is write-protected; choose another file to write")


def check_directory(path: str | os.PathLike[str], *, may_be_made: bool = False) -> None:
    """Refuses a directory in which no file can be created; leaves nothing behind.

    Args:
        path: The directory.
        may_be_made: Whether it will be created, with its parents, if it is missing.

    Raises:
        InputError: it is missing, not a directory, or cannot be written to.
    """
    place = _standing(Path(path)) if may_be_made else Path(path)
    if not place.is_dir():
        what = "is a file" if place.exists() else "no such directory"
        raise InputError(f"cannot write to {shown_path(place)}: {what}")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot write to {shown_path(place)}: {reason}") from error


def _too_long(name: str, longest: int) -> InputError:
    return InputError(f"{name}: the name is longer than {longest} bytes; choose a shorter one")


def _standing(path: Path) -> Path:
    """A directory, or if it is missing its nearest parent that exists."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def check_outside(path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Refuses a place for pictures inside a directory of images, where the next run would read
    them as input.

    Raises:
        InputError: it is in one of these directories, at any depth.
    """
    place = os.path.realpath(path)
    for source in inputs:
        top = os.path.realpath(source)
        if os.path.isdir(top) and os.path.commonpath([top, place]) == top:
            raise InputError(
                f"{shown_path(path)}: is in {shown_path(source)}, where images are read, but"
                " pictures would be written beside it; choose a place outside"
            )


def is_same_file(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> bool:
    """Whether two paths lead to the same file, also through links and other spellings."""
    try:
        return os.path.samefile(a, b)
    except OSError:
        return os.path.abspath(a) == os.path.abspath(b)


def file_kind_of(path: str | os.PathLike[str]) -> str:
    """The kind of a file, from its first bytes: a kind of safetensors file, "image", "records",
    "" for an empty file, or "another file"."""
    path = Path(path)
    if not path.is_file():
        return "another file"
    try:
        with open(path, "rb") as file:
            start = file.read(16)
            if not start:
                return ""
            if start.startswith(_PICTURES):
                return IMAGE
            if start.startswith(b"{"):
                return "records"
            return _safetensors_kind(start[:8], start[8:] + file.read(_MAX_HEADER_BYTES))
    except OSError as error:
        raise InputError(f"{shown_path(path)}: cannot be read ({error.strerror})") from error


def _safetensors_kind(length: bytes, content: bytes) -> str:
    """The kind in the header of a safetensors file: JSON, after its length in eight bytes."""
    if len(length) == 8 and content.startswith(b"{"):
        (size,) = struct.unpack("<Q", length)
        try:
            header = json.loads(content[: min(size, _MAX_HEADER_BYTES)])
            return (
                str(header.get("__metadata__", {}).get("kind", "")) or "a file of another program"
            )
        except (ValueError, RecursionError, AttributeError):
            pass
    return "another file"


def _article(kind: str) -> str:
    """A kind with its article, for use in a sentence."""
    names = {
        SIREN: "a SIREN",
        IMAGE: "an image",
        "hyperinit-hypernetwork-1": "the checkpoint of a hypernetwork",
        "records": "a file of records",
        "another file": "a file of another kind",
    }
    return names.get(kind, kind)
