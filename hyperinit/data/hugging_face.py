"""Data sets of Hugging Face's `datasets`, by name or on disk -> images by index.

Needs that package, which is imported only when such a set is asked for. A set that was downloaded,
or saved by `save_to_disk`, is memory-mapped and read in any order. With a limit, a set given by
name is streamed instead, so that only its first images are downloaded. So is a set in a directory
that is laid out as on the Hub, such as a folder of Parquet files.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.extras import EXTRAS, need
from hyperinit.base.files import shown_path
from hyperinit.data.parquet import USUAL
from hyperinit.data.source import MAX_ENCODED_BYTES, Numbered, Source, decoded, line
from hyperinit.data.spool import Spool

PREFIX = "hf:"

# What `save_to_disk` writes: for a single data set, and for several splits.
ON_DISK = ("dataset_info.json", "dataset_dict.json")

_NAME = re.compile(r"(?P<name>.+?)(@(?P<config>[^@:#]+))?(:(?P<split>\w+))?(#(?P<column>.+))?")


def is_hugging_face(spec: str) -> bool:
    """Whether `spec` is "hf:NAME", or a directory that `save_to_disk` wrote."""
    path = spec.partition("#")[0] if not os.path.exists(spec) else spec
    return spec.startswith(PREFIX) or _is_saved(path)


def _is_saved(path: str) -> bool:
    return any(os.path.isfile(os.path.join(path, name)) for name in ON_DISK)


def split_name(spec: str) -> tuple[str, str]:
    """("NAME", "@CONFIG:SPLIT#COLUMN") of "hf:NAME@CONFIG:SPLIT#COLUMN"."""
    name = _parts(spec)["name"]
    return name, spec.removeprefix(PREFIX).removeprefix(name)


def _parts(spec: str) -> re.Match[str]:
    found = _NAME.fullmatch(spec.removeprefix(PREFIX))
    if found is None:
        raise InputError(f"{shown_path(spec)}: expected hf:NAME, or hf:NAME@CONFIG:SPLIT#COLUMN")
    return found


@dataclass
class _Rows:
    """The image column of a data set that is memory-mapped from disk."""

    rows: Any  # datasets.Dataset with one column
    column: str
    names: Numbered

    def read(self, index: int) -> Tensor:
        """See `Source.read`."""
        try:
            value = self.rows[index][self.column]
        except Exception as error:  # Arrow raises many kinds on damaged files
            raise InputError(f"cannot be read ({line(error)})") from error
        return decoded(_content(value), self.names[index])


@dataclass
class _Streamed:
    """The first images of a data set, still encoded, in a temporary file."""

    spool: Spool
    places: list[tuple[int, int] | str]  # (first byte, byte count), or why there are none
    names: Numbered

    def read(self, index: int) -> Tensor:
        """See `Source.read`."""
        place = self.places[index]
        if isinstance(place, str):
            raise InputError(place)
        start, size = place
        return decoded(self.spool.read(start, size), self.names[index])


def _content(value: Any) -> Any:
    """The bytes of an image file from one value of a column, which may name a separate file."""
    if not isinstance(value, dict) or value.get("bytes") is not None or not value.get("path"):
        return value.get("bytes") if isinstance(value, dict) else value
    path = value["path"]
    try:
        if os.path.getsize(path) > MAX_ENCODED_BYTES:
            raise InputError(f"{shown_path(path)} is too large for one image")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{shown_path(path)}: {error.strerror or 'cannot be read'}") from error


def open_hugging_face(spec: str, limit: int | None = None) -> Source:
    """Finds the images of a data set.

    Args:
        spec: "hf:NAME"; a directory that `save_to_disk` wrote, with or without "hf:" before it; or
            "hf:DIR" for files that are laid out as on the Hub. "@CONFIG", ":SPLIT" (default: train,
            or the only one) and "#COLUMN" (default: the one with images) may follow the name, in
            this order.
        limit: A set that was not saved by `save_to_disk` is streamed, and only this many images
            are fetched.

    Raises:
        InputError: `datasets` is not installed, the data set, split or column does not exist, or
            there is no network.
    """
    found = _parts(spec)
    name, split = found["name"], found["split"] or ""
    # As for other files, a picture's name does not depend on where its set is stored.
    label = f"{Path(name).resolve().name}{split_name(spec)[1]}" if os.path.isdir(name) else spec
    package = _package()
    try:
        if _is_saved(name):
            rows = _one_split(package.load_from_disk(name), split, spec)
        else:
            rows = package.load_dataset(
                name, found["config"], split=split or "train", streaming=limit is not None
            )
        column = _image_column(package, rows, found["column"] or "", spec)
        rows = rows.with_format(None).select_columns([column])
        if isinstance(_features(rows)[column], package.Image):
            rows = rows.cast_column(column, package.Image(decode=False))
        if hasattr(rows, "__len__"):
            names = Numbered([(label, len(rows))])
            return Source(spec, names, _Rows(rows, column, names).read)
        values = (row[column] for row in islice(rows, limit))
        streamed = _fetched(values, label)
    except InputError:
        raise
    except Exception as error:  # from the network, the Hub or the files on disk
        raise InputError(f"{shown_path(spec)}: cannot be loaded ({line(error)})") from error
    return Source(spec, streamed.names, streamed.read)


def _package() -> Any:
    """Hugging Face's `datasets`, even if another folder of that name comes first on the path, as
    in a checkout of this project."""
    module = sys.modules.get("datasets") or need("hf")
    if hasattr(module, "load_from_disk"):
        return module
    for place in sys.path:
        spec = PathFinder.find_spec("datasets.arrow_dataset", [os.path.join(place, "datasets")])
        if spec is None:
            continue
        for name in [n for n in sys.modules if n.partition(".")[0] == "datasets"]:
            del sys.modules[name]
        sys.path.insert(0, place)
        try:
            return need("hf")
        finally:
            sys.path.remove(place)
    raise InputError(EXTRAS["hf"].line)


def _one_split(found: Any, split: str, spec: str) -> Any:
    """A data set, or the chosen one from a dictionary of splits."""
    if not isinstance(found, dict):
        if split:
            raise InputError(f"{shown_path(spec)}: has no splits, so there is no {split!r}")
        return found
    chosen = split or ("train" if "train" in found or len(found) != 1 else next(iter(found)))
    if chosen not in found:
        raise unknown_name(f"split of {shown_path(spec)}", chosen, found)
    return found[chosen]


def _features(rows: Any) -> Any:
    """Column -> its type; for a stream this may take a look at the first row."""
    return rows.features if rows.features is not None else rows._resolve_features().features


def _image_column(package: Any, rows: Any, wanted: str, spec: str) -> str:
    features = _features(rows)
    holders = [
        name
        for name, kind in features.items()
        if isinstance(kind, package.Image)
        or getattr(kind, "dtype", "") in ("binary", "large_binary")
    ]
    if wanted:
        if wanted not in features:
            raise unknown_name(f"column of {shown_path(spec)}", wanted, features)
        if wanted not in holders:
            kind = features[wanted]
            raise InputError(f"{shown_path(spec)}: column {wanted!r} holds {kind}, not images")
        return wanted
    images = [name for name in holders if isinstance(features[name], package.Image)]
    usual = [name for known in USUAL for name in images or holders if name.lower() == known]
    if usual or len(images or holders) == 1:
        return str((usual or images or holders)[0])
    if not holders:
        raise InputError(
            f"{shown_path(spec)}: has no column of images; it has {', '.join(features)}"
        )
    several = ", ".join(images or holders)
    raise InputError(f"{shown_path(spec)}: which column? Add #COLUMN, with one of {several}")


def _fetched(values: Iterable[Any], label: str) -> _Streamed:
    spool = Spool()
    places: list[tuple[int, int] | str] = []
    for value in values:
        try:
            content = _content(value)
            if not isinstance(content, bytes):
                raise InputError("has no bytes of an image file")
        except InputError as error:
            places.append(str(error))
        else:
            places.append((spool.add(content), len(content)))
    return _Streamed(spool, places, Numbered([(label, len(places))]))
