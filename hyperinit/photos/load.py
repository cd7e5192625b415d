"""A name or a directory -> decoded photographs, split by photograph into train and held out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hyperinit.base.errors import InputError, unknown_name
from hyperinit.photos.builtin import load_builtin
from hyperinit.photos.folder import load_folder
from hyperinit.photos.photographs import (
    HELD_OUT_FRACTION,
    KEEP_SIDE,
    Photographs,
)
from hyperinit.photos.synthetic import load_synthetic
from hyperinit.photos.torchvision_sets import SETS, load_torchvision

# Everything else is taken for a directory; one that is called like this is "./builtin".
NAMES = ("builtin", "synthetic", *(f"torchvision:{name}" for name in SETS))


def load(
    source: str | os.PathLike[str],
    *,
    keep_side: int | None = KEEP_SIDE,
    held_out_fraction: float | None = None,
    weights: Mapping[str, float] | None = None,
    limit: int | None = None,
    group_tiles: bool = True,
) -> Photographs:
    """Decodes a data set into memory. The same call always gives the same images and split.

    Args:
        source: One of `NAMES`, or a directory of images.
        keep_side: Images with a longer short side are reduced to this many pixels; None keeps all.
            For crops of `size` pixels, 4 * size is plenty.
        held_out_fraction: Share of the photographs to hold out (default 0.05); only for
            directories and "synthetic", as the other sets have a fixed split.
        weights: Sub-folder -> relative sampling weight; only for directories.
        limit: At most this many usable images (to train on); not for "builtin".
        group_tiles: Whether names such as 000_01 and 000_02 are tiles of one photograph, which are
            never divided between training and held out; only for directories.

    Raises:
        InputError: unknown name, no such directory, nothing usable in it, no network, or an option
            that is out of range or not for this data set.
    """
    name = os.fspath(source)
    kind = name.partition(":")[0] if name in NAMES else "folder"
    _check_options(kind, name, keep_side, held_out_fraction, weights, limit)
    fraction = HELD_OUT_FRACTION if held_out_fraction is None else held_out_fraction
    if kind == "builtin":
        return load_builtin(keep_side=keep_side)
    if kind == "synthetic":
        return load_synthetic(keep_side=keep_side, held_out_fraction=fraction, limit=limit)
    if kind == "torchvision":
        return load_torchvision(name.partition(":")[2], keep_side=keep_side, limit=limit)
    if not name or (os.path.basename(name) == name and not Path(name).exists()):
        raise unknown_name("data set", name, [*NAMES, "or an existing directory"])
    return load_folder(
        name,
        keep_side=keep_side,
        held_out_fraction=fraction,
        weights=weights,
        limit=limit,
        group_tiles=group_tiles,
    )


def _check_options(
    kind: str,
    name: str,
    keep_side: int | None,
    held_out_fraction: float | None,
    weights: Mapping[str, float] | None,
    limit: int | None,
) -> None:
    for field, value in (("keep_side", keep_side), ("limit", limit)):
        if value is not None and value < 1:
            raise InputError(f"{field} must be at least 1, not {value}")
    if held_out_fraction is not None and kind in ("builtin", "torchvision"):
        raise InputError(f"{name} has a fixed split: held_out_fraction is not for it")
    if weights and kind != "folder":
        raise InputError(f"{name} has no sub-folders: weights are not for it")
    if limit is not None and kind == "builtin":
        raise InputError("builtin is always read whole: limit is not for it")
