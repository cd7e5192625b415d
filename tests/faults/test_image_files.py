"""What is in an image file is what is read, whatever else the process does with Pillow."""

from __future__ import annotations

import struct
import threading
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile
from properties import SETTINGS

from hyperinit.base.errors import InputError
from hyperinit.images.decode import decode_image, load_image, to_image

NOISE = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
FORMATS = ("png", "jpg", "webp", "bmp", "gif", "tif")


@pytest.fixture
def lenient(monkeypatch):
    """As another library in the process may have set it."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)


def encoded(suffix: str) -> bytes:
    out = BytesIO()
    Image.fromarray(NOISE).save(out, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    return out.getvalue()


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_is_refused_where_pillow_would_take_it(tmp_path, lenient, suffix, share):
    path, content = tmp_path / f"a.{suffix}", encoded(suffix)
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"unreadable|not an image"):
        load_image(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True  # theirs again


def test_a_truncated_picture_that_is_not_loaded_yet_is_refused(tmp_path, lenient):
    (tmp_path / "a.png").write_bytes(encoded("png")[:3000])
    with Image.open(tmp_path / "a.png") as picture, pytest.raises(InputError, match="unreadable"):
        to_image(picture)


def test_the_setting_comes_back_after_many_threads(tmp_path, lenient):
    (tmp_path / "whole.png").write_bytes(encoded("png"))
    (tmp_path / "half.png").write_bytes(encoded("png")[:3000])
    accepted = []

    def read(name: str) -> None:
        for _ in range(30):
            try:
                load_image(tmp_path / name)
                accepted.append(name)
            except InputError:
                pass

    threads = [threading.Thread(target=read, args=(n,)) for n in ("whole.png", "half.png") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(accepted) == {"whole.png"} and len(accepted) == 90
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize("dtype", [np.float32, np.float64, torch.float32, torch.float16])
def test_what_a_resize_leaves_the_range_by_is_clipped(dtype):
    values = [[-2e-4, 0.25, 1.0005], [0.0, 1.0000002, 1.0]]
    if isinstance(dtype, torch.dtype):
        image = to_image(torch.tensor([values] * 3, dtype=dtype))
    else:
        image = to_image(np.array(values, dtype=dtype))
    assert image[0, 0].tolist() == pytest.approx([0, 0.25, 1]) and image.max() == 1
    assert image.min() == 0


def test_a_float_tiff_slightly_out_of_range_is_clipped(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[-1e-7, 0.5, 1.0000002]], dtype=np.float32)).save(path)
    assert load_image(path)[0].tolist() == [[0, 0.5, 1]]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1.002, -0.002])
def test_what_is_further_out_or_no_number_is_refused(tmp_path, wrong):
    for source in (torch.full((3, 2, 2), wrong), np.full((2, 2), wrong)):
        with pytest.raises(InputError, match=r"must be in \[0, 1\]"):
            to_image(source)
    Image.fromarray(np.array([[0, wrong]], dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"lie in \[0, 1\]"):
        load_image(tmp_path / "a.tif")


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_signed_integers_are_called_so(tmp_path, bits):
    path = tmp_path / "a.tif"
    content = np.arange(4, dtype=f"<i{bits // 8}").tobytes()
    entries = [  # tag, type (3 = short, 4 = long), value: a minimal TIFF of 2 x 2 pixels
        (256, 3, 2), (257, 3, 2), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8),
        (277, 3, 1), (278, 3, 2), (279, 4, len(content)), (339, 3, 2),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        directory += struct.pack("<HHII", tag, kind, 1, value)
    start = b"II*\0" + struct.pack("<I", 8 + len(content))
    path.write_bytes(start + content + directory + bytes(4))
    with pytest.raises(InputError, match=f"signed {bits}-bit integers") as caught:
        load_image(path)
    assert "32-bit integer grey" not in str(caught.value)


@SETTINGS
@given(
    suffix=st.sampled_from(FORMATS),
    flips=st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 255)), max_size=4),
    cut=st.floats(0, 1),
)
def test_valid_then_mutated_files(tmp_path: Path, suffix, flips, cut):
    content = bytearray(encoded(suffix))
    for position, change in flips:
        content[position % len(content)] ^= change
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content[: round(cut * len(content))])
    try:
        image = load_image(path)
    except InputError as error:
        assert str(error).isprintable()
    else:
        assert image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1


@SETTINGS
@given(content=st.binary(max_size=300), suffix=st.sampled_from(FORMATS))
def test_random_bytes(tmp_path: Path, content, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load_image(path)


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "CMYK", "RGBA", "RGB"])
def test_a_turned_tiff_is_the_same_picture_by_its_path(tmp_path, mode):
    grey = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30) * 100
    picture = Image.fromarray(grey if mode == "I;16" else NOISE[:20, :30])
    picture = picture if mode == "I;16" else picture.convert(mode)
    for orientation in range(1, 9):
        exif, path = Image.Exif(), tmp_path / f"{orientation}.tif"
        exif[0x112] = orientation
        picture.save(path, exif=exif)
        upright = decode_image(path.read_bytes(), "a.tif")
        assert upright.shape == ((3, 20, 30) if orientation < 5 else (3, 30, 20))
        assert torch.equal(load_image(path), upright)
        with Image.open(path) as unread:
            assert torch.equal(to_image(unread), upright)
            assert unread.filename == str(path)  # theirs, as it was
