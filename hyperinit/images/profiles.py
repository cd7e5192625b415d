"""Colours of an image file -> sRGB, by the ICC profile in the file.

A Display P3 photograph read as sRGB looks pale, and a CMYK one gets colours that were never
printed. Most profiles are equivalent to sRGB. Pixels then stay exactly as stored, and so do the
hashes of images.
"""

from __future__ import annotations

import io
import logging
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

# A profile counts as sRGB if it differs by at most this many 8-bit levels: profiles round their
# curves and primaries in different ways. Display P3 differs by 70.
MOST_OFF = 2

# Printer profiles have tables of 1 or 2 MB.
MAX_PROFILE_BYTES = 2**23

_logger = logging.getLogger("hyperinit")


GREY_MODES = ("1", "L", "LA", "La")


def in_srgb(picture: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """A picture without alpha as RGB, 8 bits, in sRGB.

    Profiles are applied to colours only: RGB, modes that become RGB (palettes, YCbCr), and CMYK.
    Grey is used as it is. A profile that cannot be used, or that is for another colour space than
    the file's, is ignored with a warning that names the file.

    Args:
        picture: An image in any mode that Pillow converts to RGB.
        profile: The file's ICC profile, if it has one.
        name: What the warning calls the file.
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
    # ImageCms raises OSError, ValueError, TypeError and its own PyCMSError, or ImportError if
    # Pillow was built without it.
    except Exception as error:
        _warn(name, " ".join(str(error).split()) or type(error).__name__)
        return colours.convert("RGB")


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> Any:
    """The transform from a profile's colours to sRGB; None if they are sRGB already."""
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
    """All combinations of 16 levels of red, green and blue, and all greys."""
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    return Image.fromarray(np.concatenate((cube, grey)).reshape(-1, 64, 3))


@lru_cache(maxsize=4096)  # once for each file, however often it is read
def _warn(name: str, reason: str) -> None:
    _logger.warning("%s: its colour profile cannot be used and is ignored (%s)", name, reason)
