"""A directory tree of images -> photographs, split by photograph, with what was skipped and why."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path, PurePosixPath

from torch import Tensor

from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.files import shown_path
from hyperinit.images.decode import load_image
from hyperinit.images.files import image_files
from hyperinit.photos.photographs import (
    Photo,
    Photographs,
    split_by_group,
    stable_fraction,
    usable,
)

# "000_01": tile 01 of photograph 000. Where there is but one number it counts photographs
# (photo_001), and a longer one is a camera's counter or a time (IMG_1234, 20260101_123456).
_TILE = re.compile(r"(.*\d)_(\d{1,3})")

# "n01443537_12", "scan1_001": the number belongs to a word, the name of a class or of a series, as
# often as to a photograph. These are tiles if several are cut alike: into at most so many pieces,
# with numbers of one length.
_WORD_AND_NUMBER = re.compile(r".*[^\W\d_]\d+")
MAX_TILES = 64


def photograph_of(name: str) -> str:
    """The group of a file: its path up to the tile number, or all of it but the suffix.

    "clic/000_01.jpg" -> "clic/000"; "cat.png" -> "cat"; "photo_001.jpg" -> "photo_001".
    """
    path = PurePosixPath(name)
    tile = _TILE.fullmatch(path.stem)
    return str(path.with_name(tile[1] if tile else path.stem))


def groups_of(names: Sequence[str]) -> dict[str, str]:
    """The group of every file: `photograph_of` where the names are those of tiles, else its own."""
    tiles: dict[str, list[str]] = defaultdict(list)
    for name in names:
        tiles[photograph_of(name)].append(name)
    folders: dict[str, list[str]] = defaultdict(list)  # folder -> groups that need evidence
    for group in tiles:
        path = PurePosixPath(group)
        if _WORD_AND_NUMBER.fullmatch(path.name):
            folders[str(path.parent)].append(group)
    groups = {name: group for group, members in tiles.items() for name in members}
    for doubtful in folders.values():
        if not _are_cut_alike([tiles[group] for group in doubtful]):
            names_alone = (name for group in doubtful for name in tiles[group])
            groups |= {name: str(PurePosixPath(name).with_suffix("")) for name in names_alone}
    return groups


def _are_cut_alike(groups: Sequence[Sequence[str]]) -> bool:
    found = [_TILE.fullmatch(PurePosixPath(name).stem) for group in groups for name in group]
    lengths = {len(tile[2]) for tile in found if tile}
    return len(groups) > 1 and len(lengths) == 1 and max(map(len, groups)) <= MAX_TILES


def photos_in(
    directory: str | os.PathLike[str],
    *,
    keep_side: int | None,
    weights: Mapping[str, float] | None = None,
    limit: int | None = None,
    group_tiles: bool = True,
    skipped: list[tuple[str, str]],
) -> Iterator[Photo]:
    """Decodes the images below a directory, one when it is asked for; see `load_folder`.

    With a limit they come in an order that is fixed and spread over the tree, else by name.

    Args:
        skipped: (name, reason) of each that cannot be used is appended here.
    """
    top = Path(directory)
    names, unreadable = image_files(top, follow_links=True)
    skipped += unreadable
    _check_weights(weights or {}, names)
    groups = groups_of(names) if group_tiles else {n: n for n in names}

    def load(name: str) -> Tensor:
        try:
            return load_image(top / name)
        except InputError as error:  # the list of skipped files has the name already
            raise InputError(str(error).removeprefix(f"{shown_path(top / name)}: ")) from error

    names = names if limit is None else sorted(names, key=stable_fraction)
    entries = [(name, groups[name], _weight(name, weights or {})) for name in names]
    found = False
    for photo in itertools.islice(usable(entries, load, keep_side, skipped), limit):
        found = True
        yield photo
    if not found:
        first = f"; the first of {len(skipped)} skipped: {': '.join(skipped[0])}" if skipped else ""
        raise InputError(f"{shown_path(top)}: no usable image in this directory{first}")


def load_folder(
    directory: str | os.PathLike[str],
    *,
    keep_side: int | None,
    held_out_fraction: float,
    weights: Mapping[str, float] | None = None,
    limit: int | None = None,
    group_tiles: bool = True,
) -> Photographs:
    """Decodes every image below a directory once.

    See `hyperinit.images.image_files` for which files count; linked directories are followed.

    Args:
        directory: The top of the tree.
        keep_side: See `datasets.load`.
        held_out_fraction: See `split_by_group`.
        weights: Sub-folder ("a" or "a/b") -> sampling weight of the images below it; the deepest
            entry counts, other images have 1.
        limit: At most this many images, a fixed choice that is spread over the tree; files that
            cannot be used do not count.
        group_tiles: Whether names such as 000_01 and 000_02 are tiles of one photograph.

    Raises:
        InputError: the directory is missing, is a file or cannot be read; no image in it is
            usable; a weight is negative or names a sub-folder without images.
    """
    name, skipped = str(Path(directory)), list[tuple[str, str]]()
    found = photos_in(
        directory,
        keep_side=keep_side,
        weights=weights,
        limit=limit,
        group_tiles=group_tiles,
        skipped=skipped,
    )
    photos = sorted(found, key=lambda photo: photo.name)
    train, held_out = split_by_group(photos, held_out_fraction)
    if held_out_fraction > 0 and len(photos) > 1 and len({photo.group for photo in photos}) == 1:
        logging.getLogger("hyperinit").warning(
            "%s: %d images count as one photograph by their names: nothing held out, no comparison;"
            " the setting group_tiles turns this off",
            shown_path(name),
            len(photos),
        )
    return Photographs(name, train, held_out, skipped)


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
