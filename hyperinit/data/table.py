"""A user's name for a data set -> the reader for that kind of data."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from hyperinit.data.arrays import open_arrays
from hyperinit.data.hugging_face import (
    PREFIX,
    is_hugging_face,
    open_hugging_face,
    split_name,
)
from hyperinit.data.parquet import open_parquet
from hyperinit.data.paths import ends_with
from hyperinit.data.shards import open_shards
from hyperinit.data.source import Source


@dataclass(frozen=True)
class Kind:
    """A kind of data.

    Attributes:
        example: How it is written, for messages.
        fits: Whether a spec is of this kind; the first row that matches is used.
        open: (spec, largest number of images wanted) -> its images.
    """

    example: str
    fits: Callable[[str], bool]
    open: Callable[[str, int | None], Source]


# Compressed ones are recognised by their content and refused, with advice.
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

KINDS = (
    Kind("hf:NAME", is_hugging_face, open_hugging_face),
    Kind(
        "shards-{000..123}.tar",
        lambda spec: ends_with(spec, *TAR_SUFFIXES),
        open_shards,
    ),
    Kind("FILE.parquet", lambda spec: ends_with(spec, ".parquet", ".pq"), open_parquet),
    Kind("FILE.npy or .npz", lambda spec: ends_with(spec, ".npy", ".npz"), open_arrays),
)


def kind_of(spec: str) -> Kind | None:
    """The kind of data that a spec names; None for the name of a set, a directory or an image."""
    return next((kind for kind in KINDS if kind.fits(spec)), None)


def absolute(spec: str) -> str:
    """A spec that names the same data from any working directory."""
    if spec.startswith(PREFIX):
        name, rest = split_name(spec)
        return f"{PREFIX}{os.path.abspath(name)}{rest}" if os.path.isdir(name) else spec
    return os.path.abspath(spec) if os.path.exists(spec) or kind_of(spec) else spec
