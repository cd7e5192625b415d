"""The colour photographs inside the scikit-image package -> photographs with a fixed split.

Nothing is downloaded: only files inside the scikit-image package are read. Licences, as stated in
its docstrings: chelsea, coffee, retina CC0; astronaut, hubble_deep_field, rocket public domain;
ihc no known restrictions; motorcycle_* (Middlebury stereo data) none stated.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.images.decode import load_image
from hyperinit.photos.photographs import Photographs, collect

# File -> the photograph it shows. The two motorcycle files show one scene from two viewpoints.
FILES = {
    "astronaut.png": "astronaut",
    "chelsea.png": "chelsea",
    "coffee.png": "coffee",
    "hubble_deep_field.jpg": "hubble_deep_field",
    "ihc.png": "ihc",
    "motorcycle_left.png": "motorcycle",
    "motorcycle_right.png": "motorcycle",
    "retina.jpg": "retina",
    "rocket.jpg": "rocket",
}

# A person, an animal and a still life. The motorcycle would be a fourth, but it is a third of the
# everyday scenes that are left to train on.
HELD_OUT = ("astronaut", "chelsea", "coffee")


def load_builtin(*, keep_side: int | None) -> Photographs:
    """Reads the photographs inside scikit-image.

    Raises:
        InputError: scikit-image is not installed, or too many of its files are missing.
    """
    package = find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise InputError(
            "the built-in photographs are part of scikit-image, which is not installed;"
            " pip install scikit-image, or give a directory of images"
        )
    directory = Path(package.submodule_search_locations[0]) / "data"
    entries = [(name, group, 1.0) for name, group in FILES.items()]

    def load(name: str) -> Tensor:
        # One is tagged Adobe RGB. Its colours are read as when results on it were published.
        return load_image(directory / name, profiles=False)

    photos, skipped = collect(entries, load, keep_side)
    train = [photo for photo in photos if photo.group not in HELD_OUT]
    held_out = [photo for photo in photos if photo.group in HELD_OUT]
    if not train or not held_out:
        raise InputError(
            f"scikit-image lacks its photographs ({skipped[0][1]});"
            " reinstall it, or give a directory of images"
        )
    return Photographs("builtin", train, held_out, skipped)
