"""Colour profiles in image files, and the containers that need more than Pillow: what users see."""

from __future__ import annotations

import io
import logging
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, features

from hyperinit.base.errors import InputError
from hyperinit.images.decode import load_image, to_image
from hyperinit.images.files import image_files
from hyperinit.images.pixels import image_hash
from hyperinit.photos.load import load

SRGB = ((0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
DISPLAY_P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
WHITE = (0.9642, 1.0, 0.8249)  # D50, to which the primaries above are adapted


def fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def icc(space: bytes, kind: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2 (ICC.1:2001-04, clauses 6.1 and 6.2)."""
    table, content = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, tag in tags.items():
        table += name + struct.pack(">II", start + len(content), len(tag))
        content += tag + bytes(-len(tag) % 4)
    head = struct.pack(
        ">I4sI4s4s4s", start + len(content), bytes(4), 0x02400000, kind, space, connection
    )
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(*WHITE)
    return head.ljust(128, b"\0") + table + content


def rgb_profile(primaries: tuple[tuple[float, ...], ...]) -> bytes:
    """Three primaries, and the curve of sRGB."""
    x = np.arange(1024) / 1023
    curve = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    numbers = (curve * 65535).round().astype(">u2").tobytes()
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(*WHITE)}
    for name, primary in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags[name + b"XYZ"] = b"XYZ " + bytes(4) + fixed(*primary)
        tags[name + b"TRC"] = b"curv" + bytes(4) + struct.pack(">I", len(x)) + numbers
    return icc(b"RGB ", b"mntr", b"XYZ ", tags)


def cmyk_profile() -> bytes:
    """A press whose cyan is (55, -37, -50) in Lab, as a real one's; each ink darkens."""
    inks = {0: (55, -37, -50), 1: (48, 74, -3), 2: (89, -5, 93), 3: (16, 0, 0)}
    nodes = []
    for corner in range(16):
        lab = np.array([100.0, 0, 0])
        for ink, (light, a, b) in inks.items():
            if corner >> (3 - ink) & 1:
                lab = np.array([lab[0] * light / 100, lab[1] + a, lab[2] + b])
        nodes += [lab[0] * 2.55, lab[1] + 128, lab[2] + 128]
    straight = bytes(range(256))
    body = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    body += straight * 4 + np.clip(nodes, 0, 255).astype(np.uint8).tobytes() + straight * 3
    white = b"XYZ " + bytes(4) + fixed(*WHITE)
    return icc(b"CMYK", b"prtr", b"Lab ", {b"wtpt": white, b"A2B0": body, b"A2B1": body})


def colours(side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def stored(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def test_display_p3_becomes_what_it_shows(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 3), (200, 100, 50), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=rgb_profile(DISPLAY_P3))
    linear = np.where(
        pixels[0, 0] / 255 <= 0.04045, 0, ((pixels[0, 0] / 255 + 0.055) / 1.055) ** 2.4
    )
    wanted = np.linalg.solve(np.array(SRGB).T, np.array(DISPLAY_P3).T @ linear)
    wanted = 1.055 * wanted ** (1 / 2.4) - 0.055
    found = load_image(tmp_path / "a.png")[:, 0, 0]
    assert found.numpy() == pytest.approx(wanted, abs=1.5 / 255)
    assert found[0] > 210 / 255 > 200 / 255  # redder than the numbers say
    assert torch.equal(load_image(tmp_path / "a.png", profiles=False), stored(pixels))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_a_profile_is_found_in_every_format(tmp_path: Path, suffix: str) -> None:
    path, profile = tmp_path / f"a.{suffix}", rgb_profile(DISPLAY_P3)
    Image.new("RGB", (16, 16), (200, 100, 50)).save(path, icc_profile=profile, quality=95)
    assert load_image(path)[0, 8, 8] > 208 / 255


def test_srgb_in_any_words_changes_no_pixel(tmp_path: Path) -> None:
    pixels = colours()
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    pillows = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for number, profile in enumerate((pillows, rgb_profile(SRGB))):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png", icc_profile=profile)
    hashes = {image_hash(load_image(path)) for path in tmp_path.iterdir()}
    assert hashes == {image_hash(stored(pixels))}


def test_cmyk_follows_its_press(tmp_path: Path) -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    cyan.save(tmp_path / "plain.tif")
    cyan.save(tmp_path / "press.tif", icc_profile=cmyk_profile())
    assert load_image(tmp_path / "plain.tif")[:, 8, 8].tolist() == [0, 1, 1]
    red, green, blue = load_image(tmp_path / "press.tif")[:, 8, 8] * 255
    assert red < 60 and 120 < green < 170 and 190 < blue < 235  # Lab (55, -37, -50)


def test_alpha_stays_and_its_colours_are_converted(tmp_path: Path) -> None:
    pixels = np.zeros((1, 2, 4), dtype=np.uint8)
    pixels[0] = (200, 100, 50, 255), (200, 100, 50, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=rgb_profile(DISPLAY_P3))
    image = load_image(tmp_path / "a.png")
    assert image[0, 0, 0] > 208 / 255 and image[:, 0, 1].tolist() == [1, 1, 1]


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
def test_profiles_of_grey_images_change_nothing(
    tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    grey = Image.fromarray(colours()[..., 0])
    grey = (
        grey.convert(mode) if mode != "I;16" else Image.fromarray(colours()[..., 0] * np.uint16(9))
    )
    grey.save(tmp_path / "plain.png")
    grey.save(tmp_path / "tagged.png", icc_profile=rgb_profile(DISPLAY_P3))
    assert torch.equal(load_image(tmp_path / "plain.png"), load_image(tmp_path / "tagged.png"))
    assert not caplog.records


@pytest.mark.parametrize(
    "profile",
    [
        b"nonsense",
        rgb_profile(DISPLAY_P3)[:300],
        cmyk_profile(),
        rgb_profile(SRGB)[:128],
        bytes(9000),
    ],
)
def test_a_profile_that_cannot_be_used_is_ignored_with_a_warning(
    tmp_path: Path, profile: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = colours()
    path = tmp_path / "broken.png"
    Image.fromarray(pixels).save(path, icc_profile=profile)
    with caplog.at_level(logging.WARNING, "hyperinit"):
        assert torch.equal(load_image(path), stored(pixels))
        load_image(path)
    (record,) = caplog.records  # once a file
    message = record.getMessage()
    assert "broken.png" in message and "and is ignored" in message and "\n" not in message


def test_a_picture_in_memory_has_its_profile_applied() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 100, 50)).save(
        buffer, "PNG", icc_profile=rgb_profile(DISPLAY_P3)
    )
    assert to_image(Image.open(buffer))[0, 0, 0] > 208 / 255


def test_a_folder_can_be_read_without_profiles(tmp_path: Path) -> None:
    for number in range(3):
        picture = Image.fromarray(np.roll(colours(), number))
        picture.save(tmp_path / f"{number}.png", icc_profile=rgb_profile(DISPLAY_P3))
    with_, without = load(tmp_path), load(tmp_path, profiles=False)
    assert not {p.hash for p in with_.train} & {p.hash for p in without.train}
    assert image_hash(load_image(tmp_path / "0.png", profiles=False)) in {
        p.hash for p in without.train + without.held_out
    }


def test_the_built_in_photographs_stay_what_they_were() -> None:
    # One is tagged Adobe RGB: committed results and checkpoints have these hashes.
    found = load("builtin", keep_side=8)
    hashes = {photo.name: photo.hash for photo in found.train + found.held_out}
    assert hashes["rocket.jpg"].startswith("03bd31742bc855cc")
    assert hashes["astronaut.png"].startswith("4f64fcd1392815f4")


# Containers


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_avif_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 100, 50)).save(tmp_path / "a.avif", quality=95)
    middle = load_image(tmp_path / "a.avif")[:, 8, 8] * 255
    assert torch.allclose(middle, torch.tensor([200.0, 100.0, 50.0]), atol=4)


def test_heic_is_read_in_its_colours(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    pixels = np.zeros((32, 48, 3), dtype=np.uint8) + np.uint8([200, 100, 50])
    pixels[:8] = 0
    profile = rgb_profile(DISPLAY_P3)
    Image.fromarray(pixels).save(tmp_path / "a.heic", quality=95, icc_profile=profile)
    image = load_image(tmp_path / "a.heic")
    assert image.shape == (3, 32, 48) and image[:, 2, 24].max() < 0.1
    assert image[0, 24, 8] > 206 / 255  # as Display P3 shows 200
    assert image_files(tmp_path)[0] == ["a.heic"]


def test_without_the_plugin_heic_is_one_line_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    start = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic"
    (tmp_path / "phone.heic").write_bytes(start + bytes(100))
    with pytest.raises(InputError) as caught:
        load_image(tmp_path / "phone.heic")
    assert "hyperinit[heic]" in str(caught.value) and "phone.heic" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_avif_in_pillow_the_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    (tmp_path / "a.avif").write_bytes(
        struct.pack(">I", 20) + b"ftypavif" + bytes(4) + b"mif1" + bytes(9)
    )
    with pytest.raises(InputError, match=r"Pillow 11.3 .* pip install -U pillow"):
        load_image(tmp_path / "a.avif")


@pytest.mark.parametrize("brand", [b"heic", b"avif"])
def test_broken_containers_are_one_line(tmp_path: Path, brand: bytes) -> None:
    pytest.importorskip("pillow_heif")
    (tmp_path / "a.heic").write_bytes(struct.pack(">I", 20) + b"ftyp" + brand + bytes(400))
    with pytest.raises(InputError) as caught:
        load_image(tmp_path / "a.heic")
    assert "a.heic" in str(caught.value) and "\n" not in str(caught.value)
