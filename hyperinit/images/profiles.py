"""Colours of an image file -> sRGB, by the ICC profile that is in the file.

A Display-P3 photograph read as if it were sRGB is pale, and a CMYK one has colours that no press
ever printed. Where a profile says sRGB in other words, as most do, nothing is changed: pixels, and
so the hashes of images, are exactly those that are stored.
"""

from __future__ import annotations

import io
import logging
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

# By so many 8-bit levels a profile may differ from sRGB and still be it: profiles round their
# curves and primaries in different ways, and Display P3 differs by 70.
MOST_OFF = 2

# Profiles of printers have tables of 1 or 2 MB.
MAX_PROFILE_BYTES = 2**23

_logger = logging.getLogger("hyperinit")


GREY_MODES = ("1", "L", "LA", "La")


def in_srgb(picture: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """A picture without alpha as RGB, 8 bits, in sRGB.

    Profiles are applied to colours alone: RGB and what becomes RGB (palettes, YCbCr), and CMYK.
    Grey is taken as it is. A profile that cannot be used is ignored, with a warning that names
    the file; so is one for other colours than the file has.

    Args:
        picture: Of any mode that Pillow converts to RGB.
        profile: The file's, if it has one.
        name: Of the file, for the warning.
    """
    if not profile or picture.mode in (*GREY_MODES, "LAB"):
        return picture.convert("RGB")
    colours = picture if picture.mode == "CMYK" else picture.convert("RGB")
    try:
        transform = _transform(profile, colours.mode)
        if transform is None:
            return colours.convert("RGB")
        converted: Image.Image = transform.apply(colours)
        return converted
    # ImageCms raises OSError, ValueError, TypeError and its own PyCMSError; ImportError where
    # Pillow was built without it.
    except Exception as error:
        _warn(name, " ".join(str(error).split()) or type(error).__name__)
        return colours.convert("RGB")


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> Any:
    """The way from a profile's colours to sRGB; None where it leads nowhere else."""
    from PIL import ImageCms

    if len(profile) > MAX_PROFILE_BYTES:
        raise ValueError(f"{len(profile) / 1e6:.0f} MB")
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    if space != mode:
        raise ValueError(f"it is for {space} colours, the image has {mode}")
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode == "RGB":
        before = _all_colours()
        after = np.asarray(transform.apply(before), dtype=np.int16)
        if np.abs(after - np.asarray(before, dtype=np.int16)).max() <= MOST_OFF:
            return None
    return transform


@lru_cache(maxsize=1)
def _all_colours() -> Image.Image:
    """Every sixteenth level of red, green and blue with each other, and all greys."""
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    return Image.fromarray(np.concatenate((cube, grey)).reshape(-1, 64, 3))


@lru_cache(maxsize=4096)  # once for each file, however often it is read
def _warn(name: str, reason: str) -> None:
    _logger.warning("%s: its colour profile is ignored, it cannot be used (%s)", name, reason)
