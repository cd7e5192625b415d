"""Samples on a regular grid that are not a photograph: sound, grey, RGBA, many bands, a volume.

A signal is (C, *sides), float32 in [-1, 1]: C values at every point of a grid over one dimension
(C, N), two (C, H, W) or three (C, D, H, W). The one exception is (3, H, W), which is an image, in
[0, 1] and fitted in its normalised colours, as everywhere else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path, write_atomically
from hyperinit.images.coords import is_image
from hyperinit.images.decode import TOLERANCE, ImageSource, load_image, to_image
from hyperinit.images.pixels import MAX_PIXELS, centre_crop, image_facts, image_hash
from hyperinit.images.save import SAVE_OPTIONS, check_sides, save_image

SIGNAL_SUFFIXES = (".wav", ".npy")
MAX_DIMS = 3
MOST_LAST = 4  # an array whose last side is at most this looks as if its channels come last
MOST_CHANNELS = 64  # of sound: more rows than this, each of a few values, are samples in time
_PCM16 = 2**15
_WANTED = {".wav": "; expected whole numbers (PCM) of 8, 16, 24 or 32 bits in a plain header"}


def to_signal(source: ImageSource) -> Tensor:
    """A path, array or tensor -> signal (C, *sides) float32 in [-1, 1], or an image in [0, 1].

    Args:
        source: The path of a .wav (see `load_signal`) or .npy file; a float array or tensor (C, N),
            (C, H, W) or (C, D, H, W) in [-1, 1], or (N,), which becomes (1, N). An array of shape
            (3, H, W), and everything else that `to_image` accepts, is an image in [0, 1].

    Raises:
        InputError: the path cannot be read, the shape or type is wrong, channels come last, or
            there are no samples, NaN or infinite values, or values out of range.
    """
    if isinstance(source, (str, os.PathLike)) and is_signal_path(source):
        source = load_signal(source)
    if isinstance(source, np.ndarray):
        if source.dtype.kind != "f":
            raise InputError(f"a signal must be float, in [-1, 1], not {source.dtype}")
        source = torch.from_numpy(np.array(source, dtype=np.float32, order="C"))
    if not isinstance(source, Tensor):
        return to_image(source)
    values = source[None] if source.ndim == 1 else source
    return to_image(values) if values.ndim and shows_image(values) else _checked(values)


def shows_image(samples: Tensor) -> bool:
    """Whether (C, *sides) is an image, judged by its shape."""
    return is_image(samples.ndim - 1, len(samples))


def _checked(values: Tensor) -> Tensor:
    shape = tuple(values.shape)
    if not 1 <= values.ndim - 1 <= MAX_DIMS:
        raise InputError(f"a signal must be (C, N), (C, H, W) or (C, D, H, W), not {shape}")
    _refuse_channels_last(shape)
    if not values.is_floating_point():
        raise InputError(f"a signal must be float, in [-1, 1], not {values.dtype}")
    if values.numel() == 0:
        raise InputError(f"a signal must have samples: its shape is {shape}")
    if values[0].numel() > MAX_PIXELS:
        raise InputError(f"{shape} is over the limit of {MAX_PIXELS / 1e6:g} million samples")
    values = values.detach().float()
    low, high = float(values.min()), float(values.max())  # both NaN if any value is
    if not (low >= -1 - TOLERANCE and high <= 1 + TOLERANCE):
        raise InputError(f"a signal must be in [-1, 1] without NaN, found {low:g} to {high:g}")
    return values if low >= -1 and high <= 1 else values.clamp(-1, 1)


def _refuse_channels_last(shape: tuple[int, ...]) -> None:
    """Refuses shapes with channels last: a picture (H, W, 3), volume (D, H, W, 1) or sound (N, 2).

    Most programs write channels last. Read as it is, such an array would have H, D or N values at
    every point of a grid whose last side is only as long as there are channels.
    """
    *sides, channels = shape
    least = MOST_CHANNELS if len(sides) == 1 else MOST_LAST
    if channels > MOST_LAST or min(sides) <= least:
        return
    axes = {1: "N", 2: "H, W", 3: "D, H, W"}[len(sides)]
    better = f"transpose it to {(channels, *sides)}"
    if len(sides) == 2 and channels == 3:
        better += ", in [0, 1], or save it as an image file, or as .npz, which holds (H, W, 3)"
    if len(sides) == 3 and channels == 3:
        better += ", or save it as .npz, which holds a set of pictures (N, H, W, 3)"
    raise InputError(f"{shape} looks like ({axes}, {channels}); channels must come first: {better}")


def is_signal_path(source: Any) -> bool:
    """Whether a path is a signal's, judged by its suffix."""
    return isinstance(source, (str, os.PathLike)) and (
        Path(source).suffix.lower() in SIGNAL_SUFFIXES
    )


def read_image(path: Path, size: tuple[int, int] | None) -> tuple[Tensor, dict[str, str | int]]:
    """An image file, cropped and resized to (height, width) if given; and facts about it.

    Both come from one reading, so a file that is replaced meanwhile cannot mix two photographs.

    Returns:
        (3, H, W) in [0, 1]; and what a fitted file stores about it. If it is resized, this has the
        hash of the original too, so that a benchmark recognises the photograph at any size.

    Raises:
        InputError: as `load_image`.
    """
    photo = load_image(path)
    if size is None:
        return photo, image_facts(path.name, photo)
    image = centre_crop(photo, *size)
    return image, image_facts(path.name, image) | {"photo_sha256": image_hash(photo)}


def read_samples(path: Path, size: tuple[int, int] | None) -> tuple[Tensor, dict[str, Any]]:
    """Like `read_image`, for a signal too; the facts are {"images": ...} or {"signal": ...}.

    Raises:
        InputError: as `to_signal`, or a size is given for a signal.
    """
    if not is_signal_path(path):
        image, image_about = read_image(path, size)
        return image, {"images": [image_about]}
    name = shown_path(path)
    if size is not None:
        raise InputError(f"{name}: --size is for images; signals are not resized")
    try:
        samples = to_signal(path)
    except InputError as error:
        raise InputError(
            str(error) if str(error).startswith(name) else f"{name}: {error}"
        ) from None
    if shows_image(samples):
        return samples, {"images": [image_facts(path.name, samples)]}
    content = samples.contiguous().numpy()
    digest = hashlib.sha256("x".join(map(str, samples.shape)).encode() + content.tobytes())
    facts = {"name": path.name, "sides": list(samples.shape[1:]), "sha256": digest.hexdigest()}
    rate_hz = sampling_rate_hz(path)
    return samples, {"signal": facts if rate_hz is None else {**facts, "rate_hz": rate_hz}}


@contextlib.contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[None]:
    name = shown_path(path)
    if not os.path.isfile(path):  # also keeps pipes and devices away, which may never end
        what = "not a file" if os.path.exists(path) else "no such file"
        raise InputError(f"{name}: {what}; expected a .wav or .npy file")
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # wave and numpy raise many kinds, even on deeply nested headers
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        wanted = _WANTED.get(Path(path).suffix.lower(), "")
        raise InputError(f"{name}: unreadable ({reason}){wanted}") from error


def load_signal(path: str | os.PathLike[str]) -> Tensor:
    """The values of a PCM .wav file, (channels, frames), or of a .npy file, as stored.

    Integers of 8, 16, 24 or 32 bits become [-1, 1). Code inside a .npy file is never run.

    Raises:
        InputError: the file is missing or damaged, or holds samples of another kind.
    """
    with _readable(path):
        if Path(path).suffix.lower() == ".wav":
            return _load_wav(path)
        # Memory-mapped: a header may claim more data than the file or memory holds.
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        if stored.dtype.kind != "f":
            raise ValueError(f"holds {stored.dtype}, expected float in [-1, 1]")
        if stored.size > 64 * MAX_PIXELS:
            raise ValueError(f"{stored.size} values are too many")
        return torch.from_numpy(np.array(stored, dtype=np.float32, order="C"))


def _load_wav(path: str | os.PathLike[str]) -> Tensor:
    with wave.open(os.fspath(path), "rb") as file:
        channels, size, frames = file.getnchannels(), file.getsampwidth(), file.getnframes()
        if frames > MAX_PIXELS:
            raise ValueError(f"{frames} frames are over the limit of {MAX_PIXELS / 1e6:g} million")
        _check_rate(file.getframerate(), channels)
        if size > 4:
            raise ValueError(f"samples of {8 * size} bits")
        raw = np.frombuffer(file.readframes(frames), dtype=np.uint8)
    if len(raw) != frames * channels * size:
        raise ValueError("truncated")
    if size == 1:  # the one width that is unsigned
        values = raw.astype(np.float32) / 128 - 1
    else:
        whole = np.zeros((len(raw) // size, 4), dtype=np.uint8)
        whole[:, 4 - size :] = raw.reshape(-1, size)  # little-endian: the upper bytes
        values = (whole.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    return torch.from_numpy(values.reshape(frames, channels).T.copy())


def _check_rate(rate_hz: int, channels: int) -> None:
    """Checks that a 16-bit .wav file can have this rate, so that a fit can be written back."""
    if not 1 <= rate_hz * 2 * channels < 2**31:
        raise ValueError(f"a sampling rate of {rate_hz} for {channels} channels")


def sampling_rate_hz(path: str | os.PathLike[str]) -> int | None:
    """Frames a second of a .wav file; None for every other file."""
    if Path(path).suffix.lower() != ".wav":
        return None
    with _readable(path), wave.open(os.fspath(path), "rb") as file:
        return file.getframerate()


def output_suffixes(dims: int, channels: int) -> list[str]:
    """The suffixes that files of such a signal may have."""
    if is_image(dims, channels):
        return list(SAVE_OPTIONS)
    return [".npy", ".wav"] if dims == 1 else [".npy"]


def check_holds(
    path: str | os.PathLike[str], channels: int, sides: Sequence[int], rate_hz: int | None
) -> None:
    """Refuses samples that a file with this suffix cannot hold, before they are drawn.

    Raises:
        InputError: an image is too long for a JPEG, or `path` is a .wav file and the sampling rate
            is unknown or cannot be written.
    """
    name = shown_path(path)
    if is_image(len(sides), channels):
        check_sides(path, *sides)
    elif Path(path).suffix.lower() == ".wav":
        if rate_hz is None:
            raise InputError(f"{name}: the sampling rate is unknown; write .npy")
        try:
            _check_rate(rate_hz, channels)
        except ValueError as error:
            raise InputError(f"{name}: cannot have {error}; write .npy") from error


def save_samples(samples: Tensor, path: str | os.PathLike[str], rate_hz: int | None = None) -> None:
    """Writes an image as `save_image`, or a signal: .npy in float32, .wav in 16 bits.

    The write is atomic.

    Raises:
        InputError: the suffix is another, or a .wav file has no sampling rate.
    """
    if shows_image(samples):
        return save_image(samples, path)
    known, suffix = output_suffixes(samples.ndim - 1, len(samples)), Path(path).suffix.lower()
    if suffix not in known:
        raise InputError(f"{shown_path(path)}: must end in {' or '.join(known)}")
    values, out = samples.detach().cpu().float(), io.BytesIO()
    if suffix == ".npy":
        np.save(out, values.contiguous().numpy(), allow_pickle=False)
    else:
        check_holds(path, len(values), values.shape[1:], rate_hz)
        assert rate_hz is not None
        whole = (values.T * _PCM16).round().clamp(-_PCM16, _PCM16 - 1)
        with wave.open(out, "wb") as file:
            file.setnchannels(len(values))
            file.setsampwidth(2)
            file.setframerate(rate_hz)
            file.writeframes(whole.contiguous().numpy().astype("<i2").tobytes())
    write_atomically(Path(path), out.getvalue())
