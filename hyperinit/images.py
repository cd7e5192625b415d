"""Image file, PIL image, array or tensor -> image (3, H, W) in [0, 1], and back to a file.

The only place in the project where images are decoded, resized and written. What a file means:

- EXIF orientation is applied; of an animation or a multi-page file the first frame is taken.
- Palette, grey, 1-bit, CMYK, YCbCr and LAB become RGB by Pillow's own rules; ICC profiles are
  ignored. 16-bit colour keeps its upper 8 bits (Pillow's rule).
- Transparency (alpha channel, palette or colour key) is composited on white.
- 16-bit grey is divided by its white level: 65535, or 2^n - 1 in an n-bit TIFF.
- Float grey must lie in [0, 1] and is taken as it is.
- Refused, as there is no telling what white is: 32-bit integer grey, float grey outside [0, 1],
  16-bit grey TIFF with inverted photometry.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from hyperinit.errors import InputError
from hyperinit.store import write_atomically

# Larger images are refused by their header, before a pixel is decoded: 50 million pixels are
# 600 MB as float32, and no camera photograph of use here is larger.
MAX_PIXELS = 50_000_000

# Pillow's name of a format -> the file name suffixes. Other formats are refused even where Pillow
# knows them: some start an outside program (EPS), most are not photographs.
IMAGE_FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),  # a JPEG with more pictures behind it, as some cameras write to .jpg
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
}


# HEIC cannot be read, but a folder from a phone is full of it: it is listed as skipped, rather
# than passed over in silence as other kinds of files are.
IMAGE_SUFFIXES = {suffix for suffixes in IMAGE_FORMATS.values() for suffix in suffixes} | {
    ".heic",
    ".heif",
}


def _reason(error: Exception) -> str:
    """One line on why a file could not be decoded, without the path."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that can be read"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return "unreadable image: " + (" ".join(text.split()) or type(error).__name__)


def shown_path(path: str | os.PathLike[str]) -> str:
    """The path as it can stand in a one-line message."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


@contextmanager
def _pillow_errors(name: str) -> Iterator[None]:
    """Turns whatever Pillow raises into an InputError; its warnings are about metadata or size.

    All exceptions, as 30,000 broken files drew OSError, SyntaxError, ValueError, RuntimeError,
    struct.error and DecompressionBombError from its decoders.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name}: {_reason(error)}") from error


def load_image(path: str | os.PathLike[str]) -> Tensor:
    """Decodes one image file by the rules at the top of this module.

    Returns:
        (3, H, W) float32 in [0, 1], upright.

    Raises:
        InputError: no such file, not an image, broken, truncated, over `MAX_PIXELS`, or of a kind
            that is refused. The message starts with the path.
    """
    name = shown_path(path)
    with _pillow_errors(name):
        if not os.path.isfile(path):  # also keeps pipes and devices away, which may never end
            what = "not a file" if os.path.exists(path) else "no such file"
            raise InputError(f"{name}: {what}; expected an image file")
        with Image.open(path) as picture:
            if picture.format not in IMAGE_FORMATS:
                known = ", ".join(IMAGE_FORMATS)
                raise InputError(f"{name}: {picture.format} images are not read; known: {known}")
            return _decode(picture, name)


def image_files(
    directory: str | os.PathLike[str],
) -> tuple[list[str], list[tuple[str, str]]]:
    """Names of all image files below a directory, sorted, and sub-folders that cannot be read.

    Files are known by their suffix; hidden ones are passed over, as are linked directories.

    Returns:
        Names relative to the directory, with "/"; and (sub-folder, reason).

    Raises:
        InputError: the directory is missing, is a file or cannot be read.
    """
    top = Path(directory)
    if not top.is_dir():
        what = "is a file" if top.exists() else "no such directory"
        raise InputError(f"{shown_path(top)}: {what}; expected a directory of images")
    names: list[str] = []
    skipped: list[tuple[str, str]] = []

    def failed(error: OSError) -> None:
        path, reason = Path(error.filename), error.strerror or "cannot be read"
        if path == top:
            raise InputError(f"{shown_path(top)}: {reason}") from error
        skipped.append((path.relative_to(top).as_posix(), reason))

    for parent, children, files in os.walk(top, onerror=failed):
        children[:] = [child for child in children if not child.startswith(".")]
        for file in files:
            if not file.startswith(".") and Path(file).suffix.lower() in IMAGE_SUFFIXES:
                names.append((Path(parent) / file).relative_to(top).as_posix())
    return sorted(names), skipped


# What users have at hand; see `to_image`.
ImageSource = Union[str, "os.PathLike[str]", Image.Image, np.ndarray, Tensor]


def to_image(source: ImageSource) -> Tensor:
    """Whatever a user has at hand -> image (3, H, W) float32 in [0, 1].

    Args:
        source: A path (see `load_image`); a PIL image (same rules); an array (H, W, 3) or (H, W),
            uint8, uint16 or float in [0, 1]; a tensor (3, H, W), uint8 or float in [0, 1], with
            which the result may share its memory.

    Raises:
        InputError: the path cannot be read; or wrong shape or type, no pixels, NaN or infinite
            values, or values out of range.
    """
    if isinstance(source, (str, os.PathLike)):
        return load_image(source)
    if isinstance(source, Image.Image):
        with _pillow_errors("PIL image"):
            return _decode(source, "PIL image")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Tensor):
        return _from_tensor(source)
    expected = "a path, a PIL image, a numpy array or a tensor"
    raise InputError(f"cannot make an image from {type(source).__name__}; expected {expected}")


def _decode(picture: Image.Image, name: str) -> Tensor:
    """PIL image -> image, by the rules at the top of this module; raises what Pillow raises."""
    width, height = picture.size
    if width * height > MAX_PIXELS:
        limit = f"the limit of {MAX_PIXELS / 1e6:g} million pixels"
        raise InputError(f"{name}: {width} x {height} is over {limit}; make it smaller first")
    if width * height == 0:
        raise InputError(f"{name}: the image has no pixels")
    mode = picture.mode
    white = _white_level(picture, name) if mode in ("I", "F") or mode[:2] == "I;" else None
    key = picture.info.get("transparency")
    upright = ImageOps.exif_transpose(picture)
    if white is not None:
        values = torch.from_numpy(np.array(upright, dtype=np.float32))
        grey = values / white
        if not (grey.isfinite().all() and grey.min() >= 0 and grey.max() <= 1):
            raise InputError(f"{name}: grey values must be finite and lie in [0, {white:g}]")
        if isinstance(key, int):
            grey[values == key] = 1.0
        return grey.expand(3, -1, -1).contiguous()
    if upright.has_transparency_data:
        rgba = _unit(upright.convert("RGBA"))
        return rgba[:3] * rgba[3] + (1 - rgba[3])
    return _unit(upright.convert("RGB"))


def _unit(picture: Image.Image) -> Tensor:
    """8-bit PIL image -> (C, H, W) in [0, 1]."""
    return from_uint8(torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous())


def _white_level(picture: Image.Image, name: str) -> float:
    """The value that means white in a grey image of more than 8 bits."""
    if picture.mode == "F":
        return 1.0
    if picture.mode == "I":
        # Pillow holds 16-bit grey PNG (before version 11) and PGM in this mode, scaled to 65535.
        if picture.format in ("PNG", "PPM"):
            return 65535.0
        better = "save it as 8-bit, 16-bit or float in [0, 1]"
        raise InputError(f"{name}: 32-bit integer grey has no defined white; {better}")
    tags: Any = getattr(picture, "tag_v2", {})  # TIFF only
    bits_per_sample, photometric, white_is_zero = 258, 262, 0
    if tags.get(photometric) == white_is_zero:
        raise InputError(f"{name}: inverted 16-bit grey (white is zero) is not read; invert it")
    bits = tags.get(bits_per_sample, 16)
    return float(2 ** (bits[0] if isinstance(bits, tuple) else bits) - 1)


def _from_array(array: np.ndarray) -> Tensor:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise InputError(f"image array must be (H, W, 3) or (H, W), not {array.shape}")
    if array.dtype.kind != "f" and array.dtype.name not in ("uint8", "uint16"):
        raise InputError(f"image array must be uint8, uint16 or float, not {array.dtype}")
    image = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
    if array.dtype.kind != "f":
        image.div_(float(np.iinfo(array.dtype).max))
    image = image.expand(3, -1, -1) if array.ndim == 2 else image.permute(2, 0, 1)
    return _checked(image.contiguous(), "image array")


def _from_tensor(tensor: Tensor) -> Tensor:
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise InputError(f"image tensor must be (3, H, W), not {tuple(tensor.shape)}")
    if tensor.dtype == torch.uint8:
        return _checked(from_uint8(tensor), "image tensor")
    if not tensor.is_floating_point():
        raise InputError(f"image tensor must be uint8 or float, not {tensor.dtype}")
    return _checked(tensor.detach().float(), "image tensor")


def _checked(image: Tensor, name: str) -> Tensor:
    if image.numel() == 0:
        raise InputError(f"{name} has no pixels: its shape is {tuple(image.shape)}")
    low, high = float(image.min()), float(image.max())  # both NaN if any pixel is
    if not (low >= 0 and high <= 1):
        raise InputError(f"{name} must be in [0, 1] without NaN, found {low:g} to {high:g}")
    return image


def to_uint8(image: Tensor) -> Tensor:
    """Image in [0, 1] -> the nearest 8-bit values, same shape; undone by `from_uint8`."""
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def from_uint8(pixels: Tensor) -> Tensor:
    """8-bit values -> image in [0, 1], float32, same shape."""
    return pixels / 255


def image_hash(image: Tensor) -> str:
    """Identifies an image by content: SHA-256 (hex) of its size and its 8-bit pixels.

    Two files with the same decoded pixels have the same hash, whatever their names, formats and
    metadata; this is what checks between training and evaluation images compare.
    """
    digest = hashlib.sha256("x".join(str(side) for side in image.shape).encode())
    digest.update(to_uint8(image).cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resizes (3, H, W) to (3, height, width), in [0, 1].

    Each axis that shrinks is averaged over the exact area of every new pixel, with fractional
    weights at its borders (torch's "area" mode rounds the borders to whole pixels, which shifts
    and blurs unevenly). Each axis that grows is interpolated bicubically and clipped to [0, 1].

    Raises:
        InputError: height or width below 1.
    """
    if height < 1 or width < 1:
        raise InputError(f"image size must be at least 1 x 1, not {height} x {width}")
    for dim, size in ((-2, height), (-1, width)):
        if size < image.shape[dim]:
            image = _average_area(image, size, dim)
    if tuple(image.shape[-2:]) != (height, width):
        image = interpolate(image[None], size=(height, width), mode="bicubic")[0]
    return image.clamp(0, 1)


def _average_area(image: Tensor, size: int, dim: int) -> Tensor:
    """Averages one axis down to `size` bins of equal, possibly fractional, width."""
    length = image.shape[dim]
    edges = torch.arange(size + 1, dtype=torch.float64) * length / size
    low, high = edges[:-1], edges[1:]
    shape = (size, 1) if dim == -2 else (size,)
    total: Tensor | None = None
    for tap in range(ceil(length / size) + (length % size > 0)):  # old pixels that a bin touches
        index = low.floor() + tap
        overlap = (torch.minimum(high, index + 1) - torch.maximum(low, index)).clamp_min(0)
        weight = (overlap * size / length).to(image).view(shape)
        at = index.long().clamp(max=length - 1).to(image.device)
        part = image.index_select(dim, at) * weight
        total = part if total is None else total.add_(part)
    assert total is not None  # at least one tap
    return total


def square_crop(image: Tensor, size: int) -> Tensor:
    """The largest centred square of (3, H, W), resized (see `resize`) to (3, size, size)."""
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[:, top : top + side, left : left + side], size, size)


SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95},
    ".jpeg": {"format": "JPEG", "quality": 95},
}


def save_image(image: Tensor, path: str | os.PathLike[str]) -> None:
    """Writes (3, H, W) in [0, 1] as 8-bit PNG or JPEG, by the path's suffix.

    The file appears complete or not at all; one that was there before is replaced only at the end.

    Raises:
        InputError: not an image in [0, 1]; unknown suffix; the directory is missing or cannot be
            written to.
    """
    target, name = Path(path), shown_path(path)
    options = SAVE_OPTIONS.get(target.suffix.lower())
    if options is None:
        raise InputError(f"{name}: cannot write this kind of file; use {', '.join(SAVE_OPTIONS)}")
    if not os.path.isdir(target.parent):
        raise InputError(f"{name}: no such directory: {shown_path(target.parent)}")
    pixels = to_uint8(to_image(image)).permute(1, 2, 0).cpu().contiguous().numpy()
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, **options)
    write_atomically(target, encoded.getvalue())
