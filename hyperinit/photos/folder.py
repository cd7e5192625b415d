"""A directory tree of images -> photographs, split by photograph, with what was skipped and why."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path, PurePosixPath

from torch import Tensor

from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.files import shown_path
from hyperinit.images.decode import load_image
from hyperinit.images.files import image_files
from hyperinit.photos.photographs import Photographs, collect, split_by_group, stable_fraction

# "000_01": tile 01 of photograph 000. Where there is but one number it counts photographs
# (photo_001), and a longer one is a camera's counter or a time (IMG_1234, 20260101_123456).
_TILE = re.compile(r"(.*\d)_\d{1,3}")


def photograph_of(name: str) -> str:
    """The group of a file: its path up to the tile number, or all of it but the suffix.

    "clic/000_01.jpg" -> "clic/000"; "cat.png" -> "cat"; "photo_001.jpg" -> "photo_001".
    """
    path = PurePosixPath(name)
    tile = _TILE.fullmatch(path.stem)
    return str(path.with_name(tile[1] if tile else path.stem))


def load_folder(
    directory: str | os.PathLike[str],
    *,
    keep_side: int | None,
    held_out_fraction: float,
    weights: Mapping[str, float] | None = None,
    limit: int | None = None,
) -> Photographs:
    """Decodes every image below a directory once.

    See `hyperinit.images.image_files` for which files count.

    Args:
        directory: The top of the tree.
        keep_side: See `datasets.load`.
        held_out_fraction: See `split_by_group`.
        weights: Sub-folder ("a" or "a/b") -> sampling weight of the images below it; the deepest
            entry counts, other images have 1.
        limit: Reads only this many files, a fixed choice that is spread over the tree.

    Raises:
        InputError: the directory is missing, is a file or cannot be read; no image in it is
            usable; a weight is negative or names a sub-folder without images.
    """
    top = Path(directory)
    names, skipped = image_files(top)
    _check_weights(weights or {}, names)
    if limit is not None and limit < len(names):
        names = sorted(sorted(names, key=stable_fraction)[:limit])

    def load(name: str) -> Tensor:
        try:
            return load_image(top / name)
        except InputError as error:  # the list of skipped files has the name already
            raise InputError(str(error).removeprefix(f"{shown_path(top / name)}: ")) from error

    entries = [(name, photograph_of(name), _weight(name, weights or {})) for name in names]
    photos, unreadable = collect(entries, load, keep_side)
    skipped += unreadable
    if not photos:
        first = f"; the first of {len(skipped)} skipped: {': '.join(skipped[0])}" if skipped else ""
        raise InputError(f"{shown_path(top)}: no usable image in this directory{first}")
    train, held_out = split_by_group(photos, held_out_fraction)
    return Photographs(str(top), train, held_out, skipped)


def _above(name: str) -> list[str]:
    """Sub-folders that a file lies in, deepest first."""
    return [str(parent) for parent in PurePosixPath(name).parents][:-1]


def _check_weights(weights: Mapping[str, float], names: list[str]) -> None:
    sub_folders = sorted({parent for name in names for parent in _above(name)})
    for sub_folder, weight in weights.items():
        if sub_folder.strip("/") not in sub_folders:
            raise unknown_name("sub-folder in weights", sub_folder, sub_folders)
        if not (isinstance(weight, (int, float)) and isfinite(weight) and weight >= 0):
            raise InputError(f"weight of {sub_folder!r} must be a number >= 0, not {weight!r}")


def _weight(name: str, weights: Mapping[str, float]) -> float:
    by_folder = {sub_folder.strip("/"): weight for sub_folder, weight in weights.items()}
    return next((by_folder[parent] for parent in _above(name) if parent in by_folder), 1.0)
