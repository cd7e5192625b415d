"""Image (3, H, W) in [0, 1] -> a file."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path, write_atomically
from hyperinit.images.decode import to_image
from hyperinit.images.pixels import resize, to_uint8

SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95},
    ".jpeg": {"format": "JPEG", "quality": 95},
}
MOST_SIDE = {"JPEG": 65500}  # pixels, libjpeg's limit; a PNG can hold any image


def check_sides(path: str | os.PathLike[str], height: int, width: int) -> None:
    """Refuses an image that is too long for the format of its file.

    Raises:
        InputError: it is; the message names a format that can hold it.
    """
    most = MOST_SIDE.get(SAVE_OPTIONS.get(Path(path).suffix.lower(), {}).get("format", ""))
    if most is not None and max(height, width) > most:
        raise InputError(
            f"{shown_path(path)}: a JPEG has at most {most} pixels a side, not {height} x {width}:"
            " write .png"
        )


def save_image(image: Tensor, path: str | os.PathLike[str]) -> None:
    """Writes (3, H, W) in [0, 1] as 8-bit PNG or JPEG, by the path's suffix.

    The write is atomic: an existing file is replaced only once the new one is complete.

    Raises:
        InputError: not an image in [0, 1]; unknown suffix; more pixels a side than a JPEG has; the
            directory is missing or cannot be written to.
    """
    target, name = Path(path), shown_path(path)
    options = SAVE_OPTIONS.get(target.suffix.lower())
    if options is None:
        raise InputError(f"{name}: cannot write this kind of file; use {', '.join(SAVE_OPTIONS)}")
    if not os.path.isdir(target.parent):
        raise InputError(f"{name}: no such directory: {shown_path(target.parent)}")
    image = to_image(image)
    check_sides(target, *image.shape[1:])
    pixels = to_uint8(image).permute(1, 2, 0).cpu().contiguous().numpy()
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, **options)
    write_atomically(target, encoded.getvalue())


THUMBNAIL_SIDE = 128  # pixels at most: about 4 kB a picture


def webp(image: Tensor, side: int = THUMBNAIL_SIDE) -> bytes:
    """An image (3, H, W) in [0, 1] as WebP, at most `side` pixels a side; NaN is black."""
    image = image.detach().float().nan_to_num().clamp(0, 1)
    height, width = image.shape[-2:]
    scale = min(1.0, side / max(height, width))
    small = resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
    out = io.BytesIO()
    pixels = to_uint8(small).permute(1, 2, 0).cpu().contiguous().numpy()
    Image.fromarray(pixels).save(out, format="WEBP", quality=85)
    return out.getvalue()
