"""Names, directories and files -> the images of a benchmark, cropped to the protocol's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets.base import Photo, fixed_crops
from hyperinit.images import image_hash, load_image
from hyperinit.trial import NamedImage


@dataclass(frozen=True)
class Workload:
    """Images at the protocol's size, and (name, reason) of each file that could not be used."""

    images: tuple[NamedImage, ...]
    skipped: tuple[tuple[str, str], ...]


def test_images(sources: Sequence[str], size: int, limit: int | None) -> Workload:
    """The centre square of every image, each content once.

    Args:
        sources: Files, directories, or names of data sets, of which the held-out images are taken.
        size: Side in pixels.
        limit: At most this many, from the front.

    Raises:
        InputError: a source cannot be used, or holds no image.
    """
    found: dict[str, NamedImage] = {}
    skipped: list[tuple[str, str]] = []
    for source in sources:
        if source not in datasets.NAMES and Path(source).is_file():
            named = [NamedImage.cropped(Path(source).name, load_image(source), size)]
        else:
            photos, failed = _photos(source, held_out=True, limit=limit)
            skipped += failed
            named = [NamedImage.cropped(p.name, p.image, size, p.hash) for p in photos]
        for image in named:
            found.setdefault(image.hash, image)
    return Workload(tuple(found.values())[:limit], tuple(skipped))


def tuning_images(sources: Sequence[str], size: int, count: int) -> Workload:
    """`count` images to tune on: centre squares first, then their quarters if these are too few.

    Args and errors are those of `test_images`, but data sets give their training images.
    """
    found: dict[str, NamedImage] = {}
    skipped: list[tuple[str, str]] = []
    crops: list[tuple[str, str, int]] = []
    photos: list[Photo] = []
    for source in sources:
        if source not in datasets.NAMES and Path(source).is_file():
            image = load_image(source)
            photos.append(datasets.base.make_photo(Path(source).name, "", image, keep_side=None))
        else:
            own, failed = _photos(source, held_out=False, limit=count)
            photos += own
            skipped += failed
    del crops
    for k in range(5):
        for photo in photos:
            if len(found) == count:
                break
            crop = fixed_crops(photo.image, size, quadrants=True)[k]
            name = photo.name if k == 0 else f"{photo.name} quarter {k}"
            image = NamedImage(name, crop, image_hash(crop), photo.hash)
            found.setdefault(image.hash, image)
    return Workload(tuple(found.values()), tuple(skipped))


def _photos(
    source: str, *, held_out: bool, limit: int | None
) -> tuple[list[Photo], list[tuple[str, str]]]:
    """All photographs of a directory, or one side of a data set's split."""
    if source in datasets.NAMES:
        whole = datasets.load(source, keep_side=None)
        return (whole.held_out if held_out else whole.train), whole.skipped
    whole = datasets.load(source, keep_side=None, held_out_fraction=0.0, limit=limit)
    return whole.train, whole.skipped
