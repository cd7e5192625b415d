"""Names, directories and files -> the images of a benchmark, cropped to the protocol's size."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from hyperinit.base.errors import check_room
from hyperinit.base.files import recorded_name
from hyperinit.data.table import kind_of
from hyperinit.images.decode import load_image
from hyperinit.images.pixels import image_hash, square_crop
from hyperinit.photos.folder import photos_in
from hyperinit.photos.load import NAMES, load
from hyperinit.photos.photographs import Photo, fixed_crops, make_photo
from hyperinit.photos.stored import photos_of


@dataclass(frozen=True)
class NamedImage:
    """An image at the protocol's size.

    Attributes:
        name: What records call it.
        image: (3, size, size) in [0, 1].
        hash: `image_hash` of it.
        source_hash: `image_hash` of the photograph that it was cropped from; "" if there is none.
        source_side: The short side of that photograph in pixels; 0 if not known.
    """

    name: str
    image: Tensor = field(repr=False, compare=False)
    hash: str
    source_hash: str = ""
    source_side: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", recorded_name(self.name))

    @classmethod
    def cropped(cls, name: str, source: Tensor, size: int, source_hash: str = "") -> NamedImage:
        """The centre square of an image (3, H, W) of any size."""
        check_room(f"images of {size} x {size}", "take fewer or smaller ones")
        image = square_crop(source, size)
        side = min(source.shape[-2:])
        return cls(name, image, image_hash(image), source_hash or image_hash(source), side)


Skipped = list[tuple[str, str]]  # name and reason of each file that could not be used


def images_to_test(
    sources: Sequence[str], size: int, limit: int | None
) -> tuple[list[NamedImage], Skipped]:
    """The centre square of every image; duplicates are returned once.

    Photographs are cropped as they are read, so memory is bounded by the result.

    Args:
        sources: Files, directories, shards and the like (see `load`), or names of data sets, whose
            held-out images are used.
        size: Side in pixels.
        limit: At most this many, the first ones.

    Raises:
        InputError: a source cannot be used, or holds no image.
    """
    skipped: Skipped = []
    found: dict[str, NamedImage] = {}
    for source in sources:
        photos = _photos(source, held_out=True, limit=limit, skipped=skipped)
        images = [NamedImage.cropped(p.name, p.image, size, p.hash) for p in photos]
        by_name = source not in NAMES and not _is_image(source)
        for image in sorted(images, key=lambda image: image.name) if by_name else images:
            found.setdefault(image.hash, image)
    return list(found.values())[:limit], skipped


def images_to_tune_on(
    sources: Sequence[str], size: int, count: int
) -> tuple[list[NamedImage], Skipped]:
    """The `squares_and_quarters` of all images.

    Args and errors are those of `images_to_test`, but named data sets give their training images.
    """
    skipped: Skipped = []
    photos = (
        photo
        for source in sources
        for photo in _photos(source, held_out=False, limit=count, skipped=skipped)
    )
    return squares_and_quarters(photos, size, count), skipped


def squares_and_quarters(photos: Iterable[Photo], size: int, count: int) -> list[NamedImage]:
    """The first `count` of the centre squares of all photographs, followed by their quarters.

    Photographs are not kept, and none is read after the last one needed.
    """
    squares: dict[str, NamedImage] = {}
    quarters: list[list[NamedImage]] = [[], [], [], []]
    for photo in photos if count > 0 else ():
        for k, crop in enumerate(fixed_crops(photo.image, size, quadrants=True)):
            check_room(f"images of {size} x {size}", "take fewer or smaller ones")
            name = f"{photo.name} quarter {k}" if k else photo.name
            image = NamedImage(name, crop.clone(), image_hash(crop), photo.hash)
            if k:
                quarters[k - 1].append(image)
            else:
                squares.setdefault(image.hash, image)
        if len(squares) >= count:
            break
    found = dict(squares)
    for image in itertools.chain(*quarters):
        if len(found) < count:
            found.setdefault(image.hash, image)
    return list(found.values())


def _is_image(source: str) -> bool:
    return Path(source).is_file() and kind_of(source) is None


def _photos(source: str, *, held_out: bool, limit: int | None, skipped: Skipped) -> Iterator[Photo]:
    """The photographs of a file or other data, in order, or one side of a named set's split."""
    kind = None if source in NAMES else kind_of(source)
    if source in NAMES:
        found = load(source, keep_side=None)
        skipped += found.skipped
        yield from found.held_out if held_out else found.train
    elif kind is not None:
        yield from photos_of(kind.open(source, limit), keep_side=None, limit=limit, skipped=skipped)
    elif _is_image(source):
        name = Path(source).name
        yield make_photo(name, name, load_image(source), keep_side=None)
    elif Path(source).is_dir():
        yield from photos_in(source, keep_side=None, limit=limit, skipped=skipped)
    else:
        load(source)  # raises an error that says what is wrong with the name
