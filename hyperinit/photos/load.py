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

# Everything else names data on disk; a directory with one of these names is written "./builtin".
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
    """A kind of data set that is given by name.

    Attributes:
        load: (name without the kind, how) -> photographs.
        refuses: Option -> why it does not apply to them.
        open: Name without the kind -> all of its images, not split.
    """

    load: Callable[[str, Wanted], Photographs]
    refuses: Mapping[str, str]
    open: Callable[[str], Source]


_FIXED = {"held_out_fraction": "{name} has a fixed split: held_out_fraction does not apply"}
_NO_FOLDERS = {"weights": "{name} has no sub-folders: weights do not apply"}
_WHOLE = {"limit": "{name} is always read whole: limit does not apply"}


def _in_memory(found: Photographs) -> Source:
    """A source of a few images that are already decoded."""
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
    """Decodes a data set once, and splits it. The same call always gives the same result.

    Args:
        source: One of `NAMES`; a directory of images; shards ("x-{000..123}.tar"); "FILE.parquet",
            "FILE.npy" or "FILE.npz", where "#FIELD" after the name says which column or array;
            "hf:NAME", or a directory that Hugging Face's `save_to_disk` wrote.
        keep_side: Images with a longer short side are reduced to this many pixels; None never
            reduces. For crops of `size` pixels, 4 * size is plenty.
        held_out_fraction: Share of the photographs to hold out (default 0.05); not for sets with
            a split of their own.
        weights: Sub-folder -> relative sampling weight; only for directories.
        limit: At most this many usable images (to train on); not for "builtin".
        group_tiles: Whether names such as 000_01 and 000_02 mark tiles of one photograph, which
            are never divided between train and held out; only for directories and shards.
        split_by: See `split_by_group`; not for sets given by name.
        memory_mib: Keep at most this many MiB of pixels in memory; others are read again when
            needed.
        profiles: Whether the ICC profiles of image files are applied. Only directories allow
            False; sets given by name are always read as they are stored.

    Raises:
        InputError: the name, directory or file does not exist, it holds no usable image, there is
            no network, a package is missing, or an option is out of range or not for this set.
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
    """The path of data on disk, without "#FIELD" and the like; names are returned unchanged."""
    return split_name(spec)[0] if spec.startswith(PREFIX) else spec


def is_set(spec: str | os.PathLike[str]) -> bool:
    """Whether `spec` names a set of images, rather than a single image or signal.

    A single .npy file is a signal if it can be one; several ("x-*.npy") are stacks of images.
    """
    name = os.fspath(spec)
    if os.path.isdir(name):
        return True
    if os.path.isfile(name) and name.lower().endswith(".npy"):
        return is_stack(name)
    # An unknown name counts too: opening it lists the known ones.
    named = name in NAMES or (name.startswith("torchvision:") and not os.path.exists(name))
    return named or kind_of(name) is not None


def open_source(spec: str | os.PathLike[str], limit: int | None = None) -> Source:
    """All images of a data set, not yet decoded and not split.

    Args:
        spec: As for `load`; an existing directory takes precedence over a name.
        limit: At most this many of its first images will be read. None: all.

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
    # Other kinds of data in a directory are read only if they are named.
    others = [] if source.names else sorted(filter(kind_of, os.listdir(name)))
    if others:
        raise InputError(
            f"{shown_path(name)}: no image files there, but {shown_path(others[0])}: give its own"
            " path, or hf:DIRECTORY for a data set laid out as on the Hub"
        )
    return source


def _refuse(name: str, refuses: Mapping[str, str], how: Wanted) -> None:
    """Refuses options that were given but do not apply to a data set."""
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
            "%s: by their names, all %d images are tiles of one photograph, so none is held out and"
            " there is no comparison; the setting group_tiles turns this off",
            shown_path(source.title),
            len(photos),
        )
    return Photographs(source.title, train, held_out, skipped)
