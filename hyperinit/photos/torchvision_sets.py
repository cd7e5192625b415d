"""Data sets that torchvision downloads -> photographs, with the sets' own test split held out.

The files go to a cache directory and stay there. Read a set's licence before you publish a model
trained on it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperinit.base.errors import InputError, unknown_name
from hyperinit.data.source import Source
from hyperinit.images.decode import to_image
from hyperinit.photos.photographs import Photo, Photographs, collect

HELD_OUT_COUNT = 100


@dataclass(frozen=True)
class TorchvisionSet:
    """One data set of torchvision.

    Attributes:
        class_name: Its class in torchvision.datasets.
        train: Arguments that select the part to train on.
        held_out: Arguments that select the part to hold out.
        count: Number of images to train on, evenly spaced; at the default `keep_side` they fit in
            about 1 GiB.
        options: Arguments for both parts.
    """

    class_name: str
    train: dict[str, Any]
    held_out: dict[str, Any]
    count: int
    options: dict[str, Any] = field(default_factory=dict)


SETS = {
    "cifar10": TorchvisionSet("CIFAR10", {"train": True}, {"train": False}, 10_000),
    "stl10": TorchvisionSet("STL10", {"split": "train"}, {"split": "test"}, 5_000),
    # Its "test" split has six times the images of the other two.
    "flowers102": TorchvisionSet("Flowers102", {"split": "test"}, {"split": "val"}, 1_000),
    "pets": TorchvisionSet("OxfordIIITPet", {"split": "trainval"}, {"split": "test"}, 1_500),
    "imagenette": TorchvisionSet(
        "Imagenette", {"split": "train"}, {"split": "val"}, 2_000, {"size": "320px"}
    ),
    "celeba": TorchvisionSet("CelebA", {"split": "train"}, {"split": "test"}, 5_000),
}


def load_torchvision(
    name: str, *, keep_side: int | None, limit: int | None, cache: Path | None = None
) -> Photographs:
    """Downloads a data set unless it is in the cache, and decodes part of it.

    Args:
        name: A key of `SETS`.
        keep_side: See `datasets.load`.
        limit: Images to train on, instead of the set's own `count`.
        cache: Directory for the downloaded files; `cache_directory()` by default.

    Raises:
        InputError: the name is unknown, torchvision is missing or broken, there is no network, or
            the download failed.
    """
    row, cache = _row(name), cache or cache_directory()
    build = _class(row.class_name)
    # Both parts are fetched before either is decoded, so that failures come early.
    train_source = _open(name, build, cache, {**row.options, **row.train})
    held_out_source = _open(name, build, cache, {**row.options, **row.held_out})
    count = row.count if limit is None else limit
    train, skipped = _take(f"{name}/train", train_source, count, keep_side)
    held_out, more = _take(f"{name}/held_out", held_out_source, HELD_OUT_COUNT, keep_side)
    if not train:
        raise InputError(f"torchvision:{name}: no usable image in {cache}")
    seen = {photo.hash for photo in train}
    more += [(photo.name, "same image as one in train") for photo in held_out if photo.hash in seen]
    held_out = [photo for photo in held_out if photo.hash not in seen]
    return Photographs(f"torchvision:{name}", train, held_out, skipped + more)


def open_torchvision(name: str, cache: Path | None = None) -> Source:
    """All images of a data set, decoded on demand; those to train on come first.

    Args and errors are those of `load_torchvision`.
    """
    row, cache = _row(name), cache or cache_directory()
    build = _class(row.class_name)
    parts = {
        side: _open(name, build, cache, {**row.options, **chosen})
        for side, chosen in (("train", row.train), ("held_out", row.held_out))
    }
    places = [(side, i) for side, part in parts.items() for i in range(len(part))]

    def read(index: int) -> Tensor:
        side, number = places[index]
        return _image(parts[side], number)

    names = [f"{name}/{side}/{number:06d}" for side, number in places]
    return Source(f"torchvision:{name}", names, read)


def cache_directory() -> Path:
    """Where downloads are kept: hyperinit/ in the user's cache directory, or in the temporary
    directory for a user without a home."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "hyperinit"
    try:
        return Path.home() / ".cache" / "hyperinit"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "hyperinit"


def _row(name: str) -> TorchvisionSet:
    if name not in SETS:
        raise unknown_name("torchvision data set", name, SETS)
    return SETS[name]


def _class(class_name: str) -> Callable[..., Any]:
    try:
        # With a torch that it was not built for, the import itself fails with a RuntimeError.
        import torchvision

        build: Callable[..., Any] = getattr(torchvision.datasets, class_name)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise InputError(
            f"torchvision cannot be used ({_line(error)}); install the version that fits"
            " your torch, or use other data (builtin, or a directory of images)"
        ) from error
    return build


def _open(name: str, build: Callable[..., Any], cache: Path, options: dict[str, Any]) -> Any:
    """The torchvision data set, from the cache; downloaded to it first if needed."""
    try:
        try:
            return build(str(cache), download=False, **options)
        except RuntimeError:  # not in the cache yet
            cache.mkdir(parents=True, exist_ok=True)
            return build(str(cache), download=True, **options)
    except (OSError, RuntimeError, ImportError) as error:
        raise InputError(
            f"torchvision:{name} cannot be downloaded to {cache}: {_line(error)}"
        ) from error


def _take(
    prefix: str, source: Any, count: int, keep_side: int | None
) -> tuple[list[Photo], list[tuple[str, str]]]:
    """Decodes `count` images, evenly spaced, because some data sets are sorted by class."""
    count = min(count, len(source))
    names = [f"{prefix}/{i * len(source) // count:06d}" for i in range(count)]

    def load(name: str) -> Tensor:
        return _image(source, int(name.rpartition("/")[2]))

    return collect([(name, name, 1.0) for name in names], load, keep_side)


def _image(source: Any, number: int) -> Tensor:
    try:
        picture, _ = source[number]
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(_line(error)) from error
    picture.info.pop("icc_profile", None)  # a published set is read as it is stored
    return to_image(picture)


def _line(error: Exception) -> str:
    """An exception's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__
