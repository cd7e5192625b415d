"""Names of image files -> the photographs that they show or are tiles of."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

# "000_01": tile 01 of photograph 000. A single number counts photographs (photo_001), and a longer
# one is a camera's counter or a time (IMG_1234, 20260101_123456).
_TILE = re.compile(r"(.*\d)_(\d{1,3})")

# "n01443537_12", "scan1_001": the first number often belongs to the name of a class or series, not
# to a photograph. These are tiles only if several are cut alike: into at most this many pieces,
# with numbers of equal length.
_WORD_AND_NUMBER = re.compile(r".*[^\W\d_]\d+")
MAX_TILES = 64


def photograph_of(name: str) -> str:
    """The group of a file: its path up to the tile number, or its whole path without the suffix.

    "clic/000_01.jpg" -> "clic/000"; "cat.png" -> "cat"; "photo_001.jpg" -> "photo_001".
    """
    path = PurePosixPath(name)
    tile = _TILE.fullmatch(path.stem)
    return str(path.with_name(tile[1] if tile else path.stem))


def groups_of(names: Sequence[str]) -> dict[str, str]:
    """The group of every file: `photograph_of` if the names are those of tiles, else its own."""
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
