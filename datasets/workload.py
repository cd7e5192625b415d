"""Names, directories and files -> the images of a benchmark, cropped to the protocol's size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import datasets
from datasets.base import Photo, fixed_crops, make_photo
from hyperinit.images import image_hash, load_image
from hyperinit.trial import NamedImage

Skipped = list[tuple[str, str]]  # name and reason of each file that could not be used


def images_to_test(
    sources: Sequence[str], size: int, limit: int | None
) -> tuple[list[NamedImage], Skipped]:
    """The centre square of every image, each content once.

    Args:
        sources: Files, directories, or names of data sets, of which the held-out images are taken.
        size: Side in pixels.
        limit: At most this many, from the front.

    Raises:
        InputError: a source cannot be used, or holds no image.
    """
    photos, skipped = _photos(sources, held_out=True, limit=limit)
    found: dict[str, NamedImage] = {}
    for photo in photos:
        image = NamedImage.cropped(photo.name, photo.image, size, photo.hash)
        found.setdefault(image.hash, image)
    return list(found.values())[:limit], skipped


def images_to_tune_on(
    sources: Sequence[str], size: int, count: int
) -> tuple[list[NamedImage], Skipped]:
    """The `squares_and_quarters` of all images.

    Args and errors are those of `images_to_test`, but data sets give their training images.
    """
    photos, skipped = _photos(sources, held_out=False, limit=count)
    return squares_and_quarters(photos, size, count), skipped


def squares_and_quarters(photos: Sequence[Photo], size: int, count: int) -> list[NamedImage]:
    """The first `count` of: centre squares of all photographs, then the quarters of these."""
    found: dict[str, NamedImage] = {}
    for k in range(5):
        for photo in photos:
            if len(found) < count:
                crop = fixed_crops(photo.image, size, quadrants=k > 0)[k]
                name = f"{photo.name} quarter {k}" if k else photo.name
                image = NamedImage(name, crop, image_hash(crop), photo.hash)
                found.setdefault(image.hash, image)
    return list(found.values())


def _photos(
    sources: Sequence[str], *, held_out: bool, limit: int | None
) -> tuple[list[Photo], Skipped]:
    """All photographs of files and directories, and one side of each data set's split."""
    photos: list[Photo] = []
    skipped: Skipped = []
    for source in sources:
        if source in datasets.NAMES:
            found = datasets.load(source, keep_side=None)
            photos += found.held_out if held_out else found.train
            skipped += found.skipped
        elif Path(source).is_file():
            name = Path(source).name
            photos.append(make_photo(name, name, load_image(source), keep_side=None))
        else:
            found = datasets.load(source, keep_side=None, held_out_fraction=0.0, limit=limit)
            photos += found.train
            skipped += found.skipped
    return photos, skipped
