"""A directory tree of images -> a `Source` of them, and the weights of its sub-folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from pathlib import Path, PurePosixPath

from torch import Tensor

from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.files import file_sha256, shown_path
from hyperinit.data.source import Source
from hyperinit.data.tiles import groups_of as groups_of
from hyperinit.data.tiles import photograph_of as photograph_of
from hyperinit.images.decode import load_image
from hyperinit.images.files import MAX_FILE_BYTES, image_files
from hyperinit.photos.photographs import Photo
from hyperinit.photos.stored import photos_of


def open_folder(directory: str | os.PathLike[str], *, profiles: bool = True) -> Source:
    """Finds the images below a directory; linked directories are followed.

    Args:
        directory: The top of the tree. `hyperinit.images.files` says which files count.
        profiles: See `load_image`.

    Raises:
        InputError: the directory is missing, is a file or cannot be read.
    """
    top = Path(directory)
    names, unreadable = image_files(top, follow_links=True)

    def read(index: int) -> Tensor:
        path = top / names[index]
        try:
            return load_image(path, profiles=profiles)
        except InputError as error:  # a source gives the reason alone
            raise InputError(str(error).removeprefix(f"{shown_path(path)}: ")) from error

    def digest(index: int) -> str:
        path = top / names[index]
        try:
            # Anything huge or not a file (a pipe may never end) is left to `read` to refuse.
            usual = path.is_file() and path.stat().st_size <= MAX_FILE_BYTES
            return file_sha256(path) if usual else ""
        except OSError as error:
            raise InputError(error.strerror or "cannot be read") from error

    def groups(tiles: bool) -> list[str]:
        found = groups_of(names) if tiles else {}
        return [found.get(name, name) for name in names]

    return Source(
        f"{top}",
        names,
        read,
        groups=groups,
        skipped=tuple(unreadable),
        files=[os.path.join(top, name) for name in names],
        how=f"profiles {profiles}",
        digest=digest,
    )


def photos_in(
    directory: str | os.PathLike[str],
    *,
    keep_side: int | None,
    limit: int | None = None,
    skipped: list[tuple[str, str]],
) -> Iterator[Photo]:
    """Decodes the images below a directory one by one, on demand; see `photos_of`."""
    yield from photos_of(open_folder(directory), keep_side=keep_side, limit=limit, skipped=skipped)


def weight_by_folder(weights: Mapping[str, float], source: Source) -> Callable[[str], float]:
    """Name of an image -> its sampling weight.

    Args:
        weights: Sub-folder ("a" or "a/b") -> weight of the images below it. The deepest matching
            entry counts; other images have weight 1.
        source: The images.

    Raises:
        InputError: a weight is negative or names a sub-folder without images.
    """
    by_folder = {sub_folder.strip("/"): weight for sub_folder, weight in weights.items()}
    known = sorted({parent for name in source.names for parent in _above(name)}) if weights else []
    for sub_folder, weight in weights.items():
        if sub_folder.strip("/") not in known:
            raise unknown_name("sub-folder in weights", sub_folder, known)
        if not (isinstance(weight, (int, float)) and isfinite(weight) and weight >= 0):
            raise InputError(f"weight of {sub_folder!r} must be a number >= 0, not {weight!r}")
    if not weights:
        return lambda name: 1.0
    return lambda name: next((by_folder[up] for up in _above(name) if up in by_folder), 1.0)


def _above(name: str) -> list[str]:
    """Sub-folders that a file lies in, deepest first."""
    return [str(parent) for parent in PurePosixPath(name).parents][:-1]
