"""Image file, PIL image, array or tensor -> image (3, H, W) in [0, 1], and back to a file.

The only place in the project where images are decoded, resized and written. What a file means:

- EXIF orientation is applied; an animation or a multi-page file gives its first frame.
- Colours become sRGB by the file's ICC profile, see `profiles`. Without a profile they are
  taken for sRGB, and CMYK, YCbCr and LAB become RGB by Pillow's own rules. Profiles of grey images
  are ignored. 16-bit colour keeps its upper 8 bits (Pillow's rule).
- Transparency (alpha channel, palette or colour key) is composited on white.
- 16-bit grey is divided by its white level: 65535, or 2^n - 1 in an n-bit TIFF.
- Float grey must lie in [0, 1], to within `TOLERANCE`, and is clipped.
- Refused, because their white level is unknown: 32-bit integer grey, signed integers, float grey
  outside [0, 1], 16-bit or float grey TIFF with inverted photometry.
- Truncated files are refused, whatever Pillow's process-wide setting says.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Union

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from hyperinit.base.errors import InputError, check_memory, memory_errors
from hyperinit.base.files import in_forked_processes, shown_path
from hyperinit.images.files import (
    IMAGE_FORMATS,
    MAX_FILE_BYTES,
    START_BYTES,
    make_readable,
)
from hyperinit.images.pixels import MAX_PIXELS, centre_crop, from_uint8
from hyperinit.images.profiles import GREY_MODES, in_srgb

# How far a resize or colour conversion by another program may leave [0, 1]; clipped.
TOLERANCE = 1e-3

# Bits of a PNG as Pillow calls them -> a colour key at these bits -> at the 8 that Pillow reads.
_KEYS_IN_8_BITS: dict[object, Callable[[int], int]] = {
    "L;2": lambda key: key * 85,
    "L;4": lambda key: key * 17,
    "RGB;16B": lambda key: key >> 8,
}


def _reason(error: Exception) -> str:
    """One line on why a file could not be decoded, without the path."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that can be read"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return "unreadable image: " + (" ".join(text.split()) or type(error).__name__)


class _WholeFilesOnly:
    """While any thread is inside, Pillow refuses truncated files.

    Training scripts often switch `ImageFile.LOAD_TRUNCATED_IMAGES` on for the whole process, which
    makes the missing part of an image grey. The setting is restored when the last thread leaves.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = False
        in_forked_processes(self._forget_threads)

    def _forget_threads(self) -> None:
        self._lock = threading.Lock()
        if self._inside:
            self._inside, ImageFile.LOAD_TRUNCATED_IMAGES = 0, self._before

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = ImageFile.LOAD_TRUNCATED_IMAGES
                ImageFile.LOAD_TRUNCATED_IMAGES = False
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = self._before


_whole_files_only = _WholeFilesOnly()


@contextmanager
def _pillow_errors(name: str) -> Iterator[None]:
    """Turns whatever Pillow raises into an InputError, and ignores its metadata and size warnings.

    It catches all exceptions: on 30,000 broken files Pillow's decoders raised OSError, SyntaxError,
    ValueError, RuntimeError, struct.error and DecompressionBombError.
    """
    try:
        with memory_errors(), _whole_files_only, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name}: {_reason(error)}") from error


def load_image(path: str | os.PathLike[str], *, profiles: bool = True) -> Tensor:
    """Decodes one image file by the rules at the top of this module.

    Args:
        path: The image file.
        profiles: Whether its ICC profile is applied. If not, colours are taken for sRGB, as in
            versions before 0.2.

    Returns:
        (3, H, W) float32 in [0, 1], upright.

    Raises:
        InputError: the file is missing, not an image, broken, truncated, over `MAX_PIXELS`, or of
            a kind that is refused. The message starts with the path.
    """
    name = shown_path(path)
    with _pillow_errors(name):
        if not os.path.isfile(path):  # also keeps pipes and devices away, which may never end
            what = "not a file" if os.path.exists(path) else "no such file"
            raise InputError(f"{name}: {what}; expected an image file")
        if os.path.getsize(path) > MAX_FILE_BYTES:
            raise InputError(f"{name}: larger than {MAX_FILE_BYTES} bytes; make it smaller first")
        with open(path, "rb") as file:
            start = file.read(START_BYTES)
        return _decode_file(path, start, name, profiles)


def decode_image(content: bytes, name: str) -> Tensor:
    """Decodes the content of an image file, as `load_image` does.

    Args:
        content: The file's bytes.
        name: What error messages call it.

    Raises:
        InputError: as `load_image`. The message starts with the name.
    """
    with _pillow_errors(name):
        return _decode_file(io.BytesIO(content), content[:START_BYTES], name)


def _decode_file(
    file: str | os.PathLike[str] | io.BytesIO, start: bytes, name: str, profiles: bool = True
) -> Tensor:
    make_readable(start, name)
    with Image.open(file) as picture:
        if picture.format not in IMAGE_FORMATS:
            known = ", ".join(IMAGE_FORMATS)
            raise InputError(f"{name}: {picture.format} images are not read; known: {known}")
        return _decode(picture, name, profiles)


# Everything that `to_image` accepts.
ImageSource = Union[str, "os.PathLike[str]", Image.Image, np.ndarray, Tensor]


def to_image(source: ImageSource) -> Tensor:
    """A path, PIL image, array or tensor -> image (3, H, W) float32 in [0, 1].

    Args:
        source: A path (see `load_image`); a PIL image (same rules); an array (H, W, 3) or (H, W),
            uint8, uint16 or float in [0, 1]; a tensor (3, H, W), uint8 or float in [0, 1], which
            may share its memory with the result. Floats outside by up to `TOLERANCE` are clipped.

    Raises:
        InputError: the path cannot be read, the shape or type is wrong, or there are no pixels,
            NaN or infinite values, or values out of range.
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


def _decode(picture: Image.Image, name: str, profiles: bool = True) -> Tensor:
    """PIL image -> image, by the rules at the top of this module; raises what Pillow raises."""
    width, height = picture.size
    if width * height > MAX_PIXELS:
        limit = f"the limit of {MAX_PIXELS / 1e6:g} million pixels"
        raise InputError(f"{name}: {width} x {height} is over {limit}; make it smaller first")
    if width * height == 0:
        raise InputError(f"{name}: the image has no pixels")
    # Bytes per pixel: two copies of its 8-bit colours, and the float ones.
    check_memory(18.0 * width * height, f"{name}: {width} x {height}", "make it smaller first")
    _refuse_signed(picture, name)
    mode = picture.mode
    white = _white_level(picture, name) if mode in ("I", "F") or mode[:2] == "I;" else None
    key = _colour_key(picture)
    _load(picture, name)
    upright = ImageOps.exif_transpose(picture)
    if key is not None:
        upright.info["transparency"] = key
    if white is not None:
        values = torch.from_numpy(np.array(upright, dtype=np.float32))
        grey = values / white
        if not (grey.min() >= -TOLERANCE and grey.max() <= 1 + TOLERANCE):  # false for NaN
            raise InputError(f"{name}: grey values must be finite and lie in [0, {white:g}]")
        grey = grey.clamp(0, 1)
        if isinstance(key, int):
            grey[values == key] = 1.0
        return grey.expand(3, -1, -1).contiguous()
    profile = picture.info.get("icc_profile") if profiles else None
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        colours = in_srgb(rgba.convert("RGB"), None if mode in GREY_MODES else profile, name)
        alpha = _unit(rgba)[3]
        return _unit(colours) * alpha + (1 - alpha)
    return _unit(in_srgb(upright, profile, name))


def _colour_key(picture: Image.Image) -> Any:
    """What marks transparent pixels, as the pixels will be read.

    Pillow 12.3 leaves the colour key of a PNG at the file's bits where it brings pixels to 8.
    """
    key = picture.info.get("transparency")
    for tile in getattr(picture, "tile", ()):
        scaled = _KEYS_IN_8_BITS.get(tile.args) if picture.format == "PNG" else None
        if scaled is not None and isinstance(key, int):
            return scaled(key)
        if scaled is not None and isinstance(key, tuple):
            return tuple(map(scaled, key))
    return key


def _load(picture: Image.Image, name: str) -> None:
    """Reads the pixels of a picture that may not have been read yet.

    Pillow 12.3 memory-maps an uncompressed TIFF that has a path, at its upright size. If the image
    is stored rotated, its rows come out scrambled. Without a path, Pillow does not memory-map.
    It also swaps the bytes of compressed big-endian floats, which libtiff has swapped before.
    """
    if isinstance(picture, ImageFile.ImageFile) and picture.tile and picture.fp is None:
        raise InputError(f"{name}: closed before its pixels were read; call its load() before")
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        picture.load()
        return
    tiles: Any = picture.tile
    picture.tile = [
        tile._replace(args=("F;32NF", *tile.args[1:]))
        if tile.codec_name == "libtiff" and tile.args[0] == "F;32BF"
        else tile
        for tile in tiles
    ]
    path, picture.filename = picture.filename, ""
    try:
        picture.load()
    finally:
        picture.filename = path


def _unit(picture: Image.Image) -> Tensor:
    """8-bit PIL image -> (C, H, W) in [0, 1]."""
    return from_uint8(torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous())


def _refuse_signed(picture: Image.Image, name: str) -> None:
    """Refuses a TIFF of signed integers, which Pillow reads as unsigned."""
    tags: Any = getattr(picture, "tag_v2", {})
    bits_per_sample, sample_format, signed = 258, 339, 2
    formats = tags.get(sample_format, ())
    if signed in (formats if isinstance(formats, tuple) else (formats,)):
        bits = tags.get(bits_per_sample, 8)
        bits = bits[0] if isinstance(bits, tuple) else bits
        better = "save it as unsigned 8-bit or 16-bit, or as float in [0, 1]"
        raise InputError(f"{name}: signed {bits}-bit integers have no defined white; {better}")


def _white_level(picture: Image.Image, name: str) -> float:
    """The value that means white in a grey image of more than 8 bits."""
    tags: Any = getattr(picture, "tag_v2", {})  # TIFF only
    bits_per_sample, photometric, white_is_zero = 258, 262, 0
    if tags.get(photometric) == white_is_zero and picture.mode != "I":
        raise InputError(
            f"{name}: inverted 16-bit or float grey (white is zero) is not read; invert it"
        )
    if picture.mode == "F":
        return 1.0
    if picture.mode == "I":
        # Pillow holds 16-bit grey PNG (before version 11) and PGM in this mode, scaled to 65535.
        if picture.format in ("PNG", "PPM"):
            return 65535.0
        better = "save it as 8-bit, 16-bit or float in [0, 1]"
        raise InputError(f"{name}: 32-bit integer grey has no defined white; {better}")
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
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise InputError(f"{name} must be in [0, 1] without NaN, found {low:g} to {high:g}")
    return image if low >= 0 and high <= 1 else image.clamp(0, 1)


def load_sized(path: str | os.PathLike[str], size: tuple[int, int] | None) -> Tensor:
    """An image file as (3, H, W), cropped to the centre and resized to (height, width) if given.

    Raises:
        InputError: as `load_image`.
    """
    image = load_image(path)
    return image if size is None else centre_crop(image, *size)
