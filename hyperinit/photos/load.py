"""A name, a directory or other data -> photographs, split into train and held out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.files import shown_path
from hyperinit.data.arrays import is_stack
from hyperinit.data.hugging_face import PREFIX, split_name
from hyperinit.data.source import Source
from hyperinit.data.table import KINDS, kind_of
from hyperinit.photos.builtin import load_builtin
from hyperinit.photos.folder import open_folder, weight_by_folder
from hyperinit.photos.photographs import (
    HELD_OUT_FRACTION,
    KEEP_SIDE,
    Photographs,
    SplitBy,
    split_by_group,
)
from hyperinit.photos.stored import MEMORY_MIB, keep_photos
from hyperinit.photos.synthetic import load_synthetic
from hyperinit.photos.torchvision_sets import SETS, load_torchvision, open_torchvision

# Everything else is taken for data on disk; a directory that is called like this is "./builtin".
NAMES = ("builtin", "synthetic", *(f"torchvision:{name}" for name in SETS))


@dataclass(frozen=True)
class Wanted:
    """How a data set is to be read; see `load`."""

    keep_side: int | None = KEEP_SIDE
    held_out_fraction: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    limit: int | None = None
    group_tiles: bool = True
    split_by: SplitBy = "content"
    memory_mib: int = MEMORY_MIB
    profiles: bool = True

    @property
    def fraction(self) -> float:
        """Share of the photographs to hold out."""
        return HELD_OUT_FRACTION if self.held_out_fraction is None else self.held_out_fraction


@dataclass(frozen=True)
class _Named:
    """A kind of data sets that go by a name.

    Attributes:
        load: (name without the kind, how) -> photographs.
        refuses: Option -> why it is not for them.
        open: Name without the kind -> all of its images, not split.
    """

    load: Callable[[str, Wanted], Photographs]
    refuses: Mapping[str, str]
    open: Callable[[str], Source]


_FIXED = {"held_out_fraction": "{name} has a fixed split: held_out_fraction is not for it"}
_NO_FOLDERS = {"weights": "{name} has no sub-folders: weights are not for it"}
_WHOLE = {"limit": "{name} is always read whole: limit is not for it"}


def _in_memory(found: Photographs) -> Source:
    """A few images that are decoded already."""
    photos = [*found.train, *found.held_out]
    return Source(found.name, [photo.name for photo in photos], lambda i: photos[i].image)


_NAMED = {
    "builtin": _Named(
        lambda name, how: load_builtin(keep_side=how.keep_side),
        _FIXED | _NO_FOLDERS | _WHOLE,
        lambda name: _in_memory(load_builtin(keep_side=None)),
    ),
    "synthetic": _Named(
        lambda name, how: load_synthetic(
            keep_side=how.keep_side, held_out_fraction=how.fraction, limit=how.limit
        ),
        _NO_FOLDERS,
        lambda name: _in_memory(load_synthetic(keep_side=None, held_out_fraction=0, limit=None)),
    ),
    "torchvision": _Named(
        lambda name, how: load_torchvision(name, keep_side=how.keep_side, limit=how.limit),
        _FIXED | _NO_FOLDERS,
        open_torchvision,
    ),
}


def load(
    source: str | os.PathLike[str],
    *,
    keep_side: int | None = KEEP_SIDE,
    held_out_fraction: float | None = None,
    weights: Mapping[str, float] | None = None,
    limit: int | None = None,
    group_tiles: bool = True,
    split_by: SplitBy = "content",
    memory_mib: int = MEMORY_MIB,
    profiles: bool = True,
) -> Photographs:
    """Decodes a data set once. The same call always gives the same images and split.

    Args:
        source: One of `NAMES`; a directory of images; shards ("x-{000..123}.tar"); "FILE.parquet",
            "FILE.npy" or "FILE.npz", where "#FIELD" behind the name says which column or array;
            "hf:NAME", or a directory that Hugging Face's `save_to_disk` wrote.
        keep_side: Images with a longer short side are reduced to this many pixels; None keeps all.
            For crops of `size` pixels, 4 * size is plenty.
        held_out_fraction: Share of the photographs to hold out (default 0.05); not for sets with
            a split of their own.
        weights: Sub-folder -> relative sampling weight; only for directories.
        limit: At most this many usable images (to train on); not for "builtin".
        group_tiles: Whether names such as 000_01 and 000_02 are tiles of one photograph, which are
            never divided between training and held out; only for directories and shards.
        split_by: See `split_by_group`; not for sets that go by a name.
        memory_mib: Pixels of so many are kept in memory; others are read again when needed.
        profiles: Whether the ICC profiles of image files are applied; only for directories can
            this be turned off. Sets that go by a name are always taken as they are stored.

    Raises:
        InputError: unknown name, no such directory or file, nothing usable in it, no network, a
            package that is missing, or an option that is out of range or not for this data set.
    """
    name = os.fspath(source)
    how = Wanted(
        *(keep_side, held_out_fraction, weights or {}, limit),
        *(group_tiles, split_by, memory_mib, profiles),
    )
    for option, value, least in (
        ("keep_side", keep_side, 1),
        ("limit", limit, 1),
        ("memory_mib", memory_mib, 0),
    ):
        if value is not None and value < least:
            raise InputError(f"{option} must be at least {least}, not {value}")
    if name in NAMES:
        kind, _, rest = name.partition(":")
        _refuse(name, _NAMED[kind].refuses, how)
        return _NAMED[kind].load(rest, how)
    if kind_of(name) is not None:
        _refuse(name, _NO_FOLDERS, how)
    return _load_source(_open(name, limit, profiles), how)


def place_of(spec: str) -> str:
    """The path of data that lie here, without what else is said of them; names stay names."""
    return split_name(spec)[0] if spec.startswith(PREFIX) else spec


def is_set(spec: str | os.PathLike[str]) -> bool:
    """Whether something is a set of images, rather than a single image or signal.

    A .npy file is a signal where it can be one, as ever; in several ("x-*.npy") are stacks.
    """
    name = os.fspath(spec)
    if os.path.isdir(name):
        return True
    if os.path.isfile(name) and name.lower().endswith(".npy"):
        return is_stack(name)
    # Also one that is unknown: opening it names those that there are.
    named = name in NAMES or (name.startswith("torchvision:") and not os.path.exists(name))
    return named or kind_of(name) is not None


def open_source(spec: str | os.PathLike[str], limit: int | None = None) -> Source:
    """All images of a data set, none of them decoded yet, and not split.

    Args:
        spec: As `load` takes it; an existing directory comes before a name.
        limit: How many of its first images will be read at most. None: all.

    Raises:
        InputError: see `load`.
    """
    name = os.fspath(spec)
    if name in NAMES and not os.path.isdir(name):
        kind, _, rest = name.partition(":")
        return _NAMED[kind].open(rest)
    return _open(name, limit, profiles=True)


def _open(name: str, limit: int | None, profiles: bool) -> Source:
    """Data on disk, or on the Hub."""
    other = kind_of(name)
    if other is not None:
        return other.open(name, limit)
    if not name or (os.path.basename(name) == name and not Path(name).exists()):
        examples = ", ".join(kind.example for kind in KINDS)
        raise unknown_name("data set", name, [*NAMES, f"{examples}, or an existing directory"])
    source = open_folder(name, profiles=profiles)
    # Of other kinds of data a directory may hold, none is read unless it is named.
    others = [] if source.names else sorted(filter(kind_of, os.listdir(name)))
    if others:
        raise InputError(
            f"{shown_path(name)}: no image files there, but {shown_path(others[0])}: give its own"
            " path, or hf:DIRECTORY for a data set as the Hub keeps it"
        )
    return source


def _refuse(name: str, refuses: Mapping[str, str], how: Wanted) -> None:
    """Refuses options that are given and not for a data set."""
    for option, reason in refuses.items():
        if getattr(how, option) not in (None, {}):
            raise InputError(reason.format(name=shown_path(name)))


def _load_source(source: Source, how: Wanted) -> Photographs:
    skipped: list[tuple[str, str]] = []
    photos = keep_photos(
        source,
        keep_side=how.keep_side,
        limit=how.limit,
        group_tiles=how.group_tiles,
        weight=weight_by_folder(how.weights, source),
        memory_mib=how.memory_mib,
        skipped=skipped,
    )
    train, held_out = split_by_group(photos, how.fraction, by=how.split_by)
    if how.fraction > 0 and len(photos) > 1 and len({photo.group for photo in photos}) == 1:
        logging.getLogger("hyperinit").warning(
            "%s: %d images count as one photograph by their names: nothing held out, no comparison;"
            " the setting group_tiles turns this off",
            shown_path(source.title),
            len(photos),
        )
    return Photographs(source.title, train, held_out, skipped)
