"""Names, directories and files -> the images of a benchmark, cropped to the protocol's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from hyperinit.images.decode import load_image
from hyperinit.images.pixels import image_hash, square_crop
from hyperinit.photos.load import NAMES, load
from hyperinit.photos.photographs import Photo, fixed_crops, make_photo


@dataclass(frozen=True)
class NamedImage:
    """An image at the protocol's size.

    Attributes:
        name: What records call it.
        image: (3, size, size) in [0, 1].
        hash: `image_hash` of it.
        source_hash: `image_hash` of the photograph that it was cropped from; "" if there is none.
    """

    name: str
    image: Tensor = field(repr=False, compare=False)
    hash: str
    source_hash: str = ""

    @classmethod
    def cropped(cls, name: str, source: Tensor, size: int, source_hash: str = "") -> NamedImage:
        """The centre square of an image (3, H, W) of any size."""
        image = square_crop(source, size)
        return cls(name, image, image_hash(image), source_hash or image_hash(source))


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
        if source in NAMES:
            found = load(source, keep_side=None)
            photos += found.held_out if held_out else found.train
            skipped += found.skipped
        elif Path(source).is_file():
            name = Path(source).name
            photos.append(make_photo(name, name, load_image(source), keep_side=None))
        else:
            found = load(source, keep_side=None, held_out_fraction=0.0, limit=limit)
            photos += found.train
            skipped += found.skipped
    return photos, skipped
