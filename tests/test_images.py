from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperinit.base.errors import InputError
from hyperinit.images.decode import MAX_PIXELS, load_image, to_image
from hyperinit.images.pixels import from_uint8, image_hash, resize, square_crop, to_uint8
from hyperinit.images.save import save_image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def photograph(height: int = 12, width: int = 20) -> np.ndarray:
    """Eight-bit (H, W, 3), different everywhere and smooth enough for JPEG."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack((y * 20, x * 12, 255 - y * 10 - x * 6), axis=-1).astype(np.uint8)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png_header(width: int, height: int, bits: int = 8, colours: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


def refusal(path: Path) -> str:
    """The one line with which a file is refused; it must name the file."""
    with pytest.raises(InputError) as caught:
        load_image(path)
    message = str(caught.value)
    assert path.name in message and "\n" not in message
    return message


def test_plain_png_is_read_exactly(tmp_path: Path) -> None:
    pixels = photograph()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert image.dtype == torch.float32 and image.shape == (3, 12, 20) and image.is_contiguous()
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    assert torch.equal(image, load_image(str(tmp_path / "a.png")))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_gives_an_upright_image(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    stored = {  # how a camera held in each way stores the upright scene (EXIF 2.3, tag 0x112)
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](photograph())
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95)
    upright = torch.from_numpy(photograph()).permute(2, 0, 1) / 255
    assert (load_image(path) - upright).abs().mean() < 0.02  # JPEG is not exact


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "LA", "RGBA", "PA"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    white = Image.new("RGB", (3, 2), (255, 255, 255)).convert("RGBA").convert("L")
    picture = white.convert(mode) if mode != "PA" else white.convert("P").convert("PA")
    image = to_image(picture)
    assert image.shape == (3, 2, 3) and image.min() > 0.98


def test_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK").save(tmp_path / "a.jpg")
    middle = load_image(tmp_path / "a.jpg")[:, 8, 8] * 255
    assert torch.allclose(middle, torch.tensor([200.0, 30.0, 60.0]), atol=6)


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert image[:, 0, 0].tolist() == [1, 0, 0]  # opaque
    assert image[:, 0, 1].tolist() == [1, 1, 1]  # hidden red does not appear
    assert image[:, 0, 2].tolist() == pytest.approx([0.8] * 3)
    assert to_image(Image.new("LA", (1, 1), (0, 0))).tolist() == [[[1]], [[1]], [[1]]]


def test_no_alpha_leaves_the_range() -> None:
    every = np.stack(np.meshgrid(range(256), range(256)), -1).astype(np.uint8)  # (256, 256, 2)
    image = to_image(Image.fromarray(every, "LA"))
    assert image.min() >= 0 and image.max() <= 1


def test_transparent_palette_entry_and_colour_key_become_white(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *GREEN])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=1)
    assert load_image(tmp_path / "p.png")[:, 0].T.tolist() == [[1, 0, 0], [1, 1, 1]]
    palette.convert("RGB").save(tmp_path / "rgb.png", transparency=RED)
    assert load_image(tmp_path / "rgb.png")[:, 0].T.tolist() == [[1, 1, 1], [0, 1, 0]]
    grey = Image.fromarray(np.array([[300, 65535, 0]], dtype=np.uint16))
    grey.save(tmp_path / "grey16.png", transparency=300)
    assert load_image(tmp_path / "grey16.png")[0, 0].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("bits", "colours", "row", "key", "seen"),
    [  # the pixels of one row as they are stored, and their reds without the key
        (1, 0, b"\x40", b"\0\1", (0, 1)),
        (2, 0, b"\x10", b"\0\1", (0, 1 / 3)),
        (4, 0, b"\x06", b"\0\6", (0, 6 / 15)),
        (8, 0, b"\0\6", b"\0\6", (0, 6 / 255)),
        (16, 2, bytes(6) + b"\x80\1\x90\2\xa0\3", b"\x80\1\x90\2\xa0\3", (0, 128 / 255)),
    ],
)
def test_a_colour_key_is_found_at_every_depth(tmp_path: Path, bits, colours, row, key, seen):
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" + row)) + png_chunk(b"IEND", b"")
    path = tmp_path / "a.png"
    path.write_bytes(png_header(2, 1, bits, colours) + pixels)
    assert load_image(path)[0, 0].tolist() == pytest.approx(seen)
    path.write_bytes(png_header(2, 1, bits, colours) + png_chunk(b"tRNS", key) + pixels)
    assert load_image(path)[0, 0].tolist() == pytest.approx((0, 1))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_proportional(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 100, 255, 256, 32768, 65535]], dtype=np.uint16)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(values).save(path)
    image = load_image(path)
    assert image.shape == (3, 1, 6)
    assert torch.allclose(image[2, 0], torch.from_numpy(values[0].astype(np.float32)) / 65535)
    assert torch.equal(image, to_image(values))


def test_16_bit_pgm_is_proportional_to_its_own_maximum(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1023\n" + struct.pack(">HH", 1023, 0))
    assert load_image(tmp_path / "a.pgm")[0].tolist() == [[1, 0]]


def test_12_bit_tiff_is_not_nearly_black(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    entries = [  # tag, type (3 = short, 4 = long), value: a minimal TIFF with two 12-bit pixels
        (256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8),
        (277, 3, 1), (278, 3, 1), (279, 4, 3),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        directory += struct.pack("<HHII", tag, kind, 1, value)
    path.write_bytes(b"II*\0" + struct.pack("<I", 12) + b"\xff\xf0\x00\0" + directory + bytes(4))
    assert load_image(path)[0].tolist() == [[1, 0]]


def test_float_tiff_is_kept_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, 0.25, 1]], dtype=np.float32)).save(path)
    assert load_image(path)[1].tolist() == [[0, 0.25, 1]]
    for wrong in (255.0, -0.5, float("nan"), float("inf")):
        Image.fromarray(np.array([[0, wrong]], dtype=np.float32)).save(path)
        assert "[0, 1]" in refusal(path)


def float_tiff(order: str, photometric: int) -> bytes:
    """A minimal TIFF of four floats, 0, 0.25, 0.5 and 1, compressed by deflate."""
    content = zlib.compress(struct.pack(f"{order}4f", 0, 0.25, 0.5, 1))
    entries = [  # tag, type (3 = short, 4 = long), value
        (256, 3, 4), (257, 3, 1), (258, 3, 32), (259, 3, 8), (262, 3, photometric), (273, 4, 8),
        (277, 3, 1), (278, 3, 1), (279, 4, len(content)), (339, 3, 3),
    ]  # fmt: skip
    directory = struct.pack(f"{order}H", len(entries))
    for tag, kind, value in entries:
        field = struct.pack(f"{order}Hxx" if kind == 3 else f"{order}I", value)
        directory += struct.pack(f"{order}HHI", tag, kind, 1) + field
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(content))
    return start + content + directory + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_compressed_float_tiff_is_read_in_its_byte_order(tmp_path: Path, order: str) -> None:
    (tmp_path / "a.tif").write_bytes(float_tiff(order, photometric=1))
    assert load_image(tmp_path / "a.tif")[1].tolist() == [[0, 0.25, 0.5, 1]]


def test_an_inverted_float_tiff_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(float_tiff("<", photometric=0))
    assert "white is zero" in refusal(tmp_path / "a.tif")


def test_32_bit_integer_grey_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "a.tif")
    assert "no defined white" in refusal(tmp_path / "a.tif")


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN, BLUE)]
    for suffix in ("gif", "png", "webp"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
        assert load_image(path)[:, 2, 2].tolist() == [1, 0, 0]


def test_missing_file_and_directory_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.png")
    assert "not a file" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / ("x" * 300 + ".png"))


@pytest.mark.parametrize("content", [b"", b"hello, world", bytes(200), b"<svg width='9'/>"])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert "not an image" in refusal(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-900])
    assert "unreadable" in refusal(path)


def test_message_stays_one_line_whatever_the_name(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_image(tmp_path / "two\nlines.png")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("side", "said"),
    [
        (7_072, "limit of 50 million"),
        (10_000, "limit of 50 million"),  # where Pillow only warns
        (60_000, "pixels"),  # where Pillow refuses by itself
    ],
)
def test_pixel_bomb_is_refused_by_its_header(tmp_path: Path, side: int, said: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_header(side, side) + png_chunk(b"IDAT", zlib.compress(bytes(100))))
    assert side * side > MAX_PIXELS
    assert said in refusal(path)


def test_text_bomb_is_refused(tmp_path: Path) -> None:
    text = b"comment\0\0" + zlib.compress(bytes(70_000_000), 9)
    path = tmp_path / "a.png"
    path.write_bytes(png_header(1, 1) + png_chunk(b"zTXt", text) + png_chunk(b"IEND", b""))
    assert "too large" in refusal(path)


def test_formats_that_start_other_programs_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    assert "EPS" in refusal(tmp_path / "a.png")


def test_to_image_takes_arrays_tensors_and_pictures() -> None:
    pixels = photograph()
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    assert torch.equal(to_image(pixels), expected)
    assert torch.equal(to_image(Image.fromarray(pixels)), expected)
    assert torch.equal(to_image(torch.from_numpy(pixels).permute(2, 0, 1)), expected)
    assert torch.equal(to_image(expected), expected)
    assert torch.allclose(to_image(pixels.astype(np.float64) / 255), expected)
    assert torch.equal(to_image(pixels[::-1, ::-1]), expected.flip(1, 2))  # negative strides
    assert torch.equal(to_image(pixels[:, :, 0]), expected[:1].expand(3, -1, -1))
    big_endian = (pixels.astype(np.uint16) * 257).astype(">u2")
    assert torch.allclose(to_image(big_endian), expected)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (torch.zeros(1, 3, 4, 4), "(1, 3, 4, 4)"),
        (torch.zeros(4, 4, 3), "(4, 4, 3)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
        (torch.full((3, 4, 4), float("nan")), "nan"),
        (torch.full((3, 4, 4), float("inf")), "inf"),
        (torch.full((3, 4, 4), 255.0), "255"),
        (torch.full((3, 4, 4), -0.1), "-0.1"),
        (torch.zeros(3, 0, 4), "no pixels"),
        (np.zeros((4, 4, 4), dtype=np.uint8), "(4, 4, 4)"),
        (np.zeros((4, 4, 3), dtype=np.int32), "int32"),
        (np.full((4, 4), np.nan), "nan"),
        (Image.new("RGB", (0, 4)), "no pixels"),
        (7, "int"),
    ],
)
def test_to_image_refuses_what_is_no_image(source: object, said: str) -> None:
    with pytest.raises(InputError, match="image") as caught:
        to_image(source)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_a_picture_closed_before_it_was_read_says_what_to_do(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        pass
    with pytest.raises(InputError, match=r"PIL image: closed before .*load\(\)"):
        to_image(picture)
    with Image.open(tmp_path / "a.png") as picture:
        picture.load()
    assert to_image(picture).shape == (3, 4, 4)


def test_every_eight_bit_value_survives() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(values)), values)


def test_shrinking_is_the_exact_area_average() -> None:
    image = torch.rand(3, 12, 20, generator=torch.Generator().manual_seed(0))
    whole = torch.nn.functional.avg_pool2d(image[None], (3, 4))[0]
    assert torch.allclose(resize(image, 4, 5), whole, atol=1e-6)
    # Fractional: repeating every pixel 7 x 7 makes the borders whole again.
    fine = image.repeat_interleave(7, 1).repeat_interleave(7, 2)
    fractional = torch.nn.functional.avg_pool2d(fine[None], (12, 20))[0]
    assert torch.allclose(resize(image, 7, 7), fractional, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(5, 41), (31, 7), (33, 47), (12, 20), (1, 1)])
def test_resize_to_any_size_keeps_range_mean_and_place(height: int, width: int) -> None:
    image = to_image(photograph())
    resized = resize(image, height, width)
    assert resized.shape == (3, height, width)
    assert resized.min() >= 0 and resized.max() <= 1
    assert torch.allclose(resized.mean((1, 2)), image.mean((1, 2)), atol=0.01)
    assert torch.allclose(resize(image.flip(-1), height, width), resized.flip(-1), atol=1e-5)


def test_resize_refuses_no_size() -> None:
    with pytest.raises(InputError, match="0 x 4"):
        resize(torch.zeros(3, 4, 4), 0, 4)


def test_square_crop_takes_the_centre() -> None:
    image = torch.zeros(3, 4, 10)
    image[:, :, 3:7] = 1
    assert torch.equal(square_crop(image, 2), torch.ones(3, 2, 2))
    # Enlarged, which rounds: how depends on the version of torch.
    assert torch.allclose(square_crop(image.transpose(1, 2), 9), torch.ones(3, 9, 9))


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (3, 2)])
def test_square_crop_of_tiny_images(shape: tuple[int, int]) -> None:
    crop = square_crop(torch.full((3, *shape), 0.3), 16)
    assert torch.allclose(crop, torch.full((3, 16, 16), 0.3))


def test_hash_identifies_content(tmp_path: Path) -> None:
    image = to_image(photograph())
    save_image(image, tmp_path / "a.png")
    Image.fromarray(photograph()).save(tmp_path / "b.bmp")
    same = {image_hash(image), *(image_hash(load_image(p)) for p in tmp_path.iterdir())}
    assert len(same) == 1
    other = image.clone()
    other[0, 0, 0] += 1 / 255
    assert image_hash(other) not in same
    assert image_hash(torch.zeros(3, 2, 8)) != image_hash(torch.zeros(3, 4, 4))


def test_saved_png_is_exact_and_jpeg_is_close(tmp_path: Path) -> None:
    image = to_image(photograph())
    save_image(image, tmp_path / "a.PNG")
    assert torch.equal(load_image(tmp_path / "a.PNG"), image)
    save_image(image, tmp_path / "a.jpg")
    assert (load_image(tmp_path / "a.jpg") - image).abs().mean() < 0.02


def test_save_refuses_in_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    image = torch.zeros(3, 2, 2)
    save_image(image, tmp_path / "kept.png")
    before = (tmp_path / "kept.png").read_bytes()
    (tmp_path / "folder.png").mkdir()
    for wrong, path, said in [
        (image, "none/a.png", "no such directory"),
        (image, "a.xyz", ".png, .jpg"),
        (image, "folder.png", "folder.png"),
        (image, "x" * 300 + ".png", "xxx.png"),
        (image * float("nan"), "kept.png", "nan"),
    ]:
        with pytest.raises(InputError) as caught:
            save_image(wrong, tmp_path / path)
        assert said in str(caught.value)
    assert (tmp_path / "kept.png").read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"kept.png", "folder.png"}
