"""Directories of photographs: grouped by evidence, counted by what is usable, in bounded memory."""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path

import pytest
import torch

from hyperinit.images.decode import load_image
from hyperinit.images.files import image_files
from hyperinit.images.pixels import image_hash, square_crop
from hyperinit.images.save import save_image
from hyperinit.photos import workload
from hyperinit.photos.folder import groups_of
from hyperinit.photos.load import load
from hyperinit.photos.photographs import fixed_crops
from hyperinit.photos.synthetic import synthetic_image
from hyperinit.photos.workload import images_to_test, images_to_tune_on

SAID = "images are tiles of one photograph, so none is held out"


def write(top: Path, *names: str, side: int = 8) -> None:
    """A different image under each name."""
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        image = synthetic_image(zlib.crc32(name.encode()), side)
        save_image(image, (top / name).with_suffix(".png"))
        (top / name).with_suffix(".png").rename(top / name)


def test_names_of_classes_and_series_are_no_tiles():
    tiny = [f"n01443537_{i}.JPEG" for i in range(500)] + [f"n02124075_{i}.JPEG" for i in range(500)]
    scans = [f"scan1_{i:03d}.png" for i in range(30)]
    assert len(set(groups_of(tiny).values())) == 1000
    assert len(set(groups_of(tiny[:12]).values())) == 12
    assert len(set(groups_of(scans).values())) == 30


def test_names_that_are_cut_alike_are_tiles():
    clic = [f"clic/{i:03d}_{t:02d}.jpg" for i in range(3) for t in range(4)]
    assert set(groups_of(clic).values()) == {"clic/000", "clic/001", "clic/002"}
    words = [f"photo{i}_{t:02d}.jpg" for i in range(3) for t in range(4)]
    assert set(groups_of(words).values()) == {"photo0", "photo1", "photo2"}
    assert set(groups_of(["IMG_1234_1.jpg", "IMG_1234_2.jpg"]).values()) == {"IMG_1234"}


def test_tiny_imagenet_is_held_out_image_by_image(tmp_path, caplog):
    write(tmp_path, *(f"n01443537_{i}.JPEG" for i in range(12)))
    found = load(tmp_path, held_out_fraction=0.5)
    assert found.train and found.held_out and not caplog.records


def test_tiles_of_one_photograph_say_that_nothing_is_held_out(tmp_path, caplog):
    write(tmp_path, *(f"000_{i:02d}.png" for i in range(6)))
    with caplog.at_level(logging.WARNING, "hyperinit"):
        found = load(tmp_path, held_out_fraction=0.5)
    assert len(found.train) == 6 and not found.held_out
    (record,) = caplog.records
    assert f"6 {SAID}" in record.getMessage() and "group_tiles" in record.getMessage()


def test_grouping_can_be_turned_off(tmp_path, caplog):
    write(tmp_path, *(f"000_{i:02d}.png" for i in range(6)))
    found = load(tmp_path, held_out_fraction=0.5, group_tiles=False)
    assert found.train and found.held_out and not caplog.records
    assert len({photo.group for photo in found.train + found.held_out}) == 6


def test_a_limit_counts_usable_photographs(tmp_path):
    write(tmp_path, *(f"good{i}.png" for i in range(6)))
    for i in range(40):
        (tmp_path / f"bad{i}.jpg").write_bytes(b"nothing")
    found = load(tmp_path, limit=5)
    assert len(found.train + found.held_out) == 5
    assert found == load(tmp_path, limit=5)
    assert len(load(tmp_path, limit=50).train + load(tmp_path, limit=50).held_out) == 6
    images, skipped = images_to_test([str(tmp_path)], 8, 5)
    assert len(images) == 5 and all(reason for _, reason in skipped)
    names = [photo.name for photo in found.train + found.held_out]
    assert sorted(names) == [image.name for image in images]


def test_a_limit_does_not_read_on(tmp_path, monkeypatch):
    write(tmp_path, *(f"{i}.png" for i in range(30)))
    read = []
    monkeypatch.setattr(
        "hyperinit.photos.folder.load_image",
        lambda path, **how: read.append(path) or load_image(path, **how),
    )
    load(tmp_path, limit=3)
    images_to_test([str(tmp_path)], 8, 3)
    images_to_tune_on([str(tmp_path)], 8, 3)
    assert len(read) == 9


def test_what_is_measured_on_is_cropped_as_before(tmp_path):
    write(tmp_path, *(f"{i}.png" for i in range(5)), side=40)
    source = [str(tmp_path)]
    images, _ = images_to_test(source, 16, None)
    assert [image.name for image in images] == [f"{i}.png" for i in range(5)]
    for image in images:
        photo = load_image(tmp_path / image.name)
        assert torch.equal(image.image, square_crop(photo, 16))
        assert image.source_hash == image_hash(photo)
    tuned, _ = images_to_tune_on(source, 16, 7)
    quarters = [f"{image.name} quarter 1" for image in tuned[:2]]
    assert [image.name for image in tuned[5:]] == quarters
    photo = load_image(tmp_path / tuned[0].name)
    assert torch.equal(tuned[5].image, fixed_crops(photo, 16, quadrants=True)[1])
    assert images_to_tune_on(source, 16, 0)[0] == []


def test_photographs_are_not_kept_at_full_size(tmp_path, monkeypatch):
    write(tmp_path, *(f"{i}.png" for i in range(6)), side=300)
    alive, most = 0, 0

    class Counted:
        """A photograph that is counted while it is alive."""

        def __init__(self, photo) -> None:
            nonlocal alive, most
            self.photo = photo
            alive += 1
            most = max(most, alive)

        def __getattr__(self, name: str):
            return getattr(self.photo, name)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    photos_in = workload.photos_in
    monkeypatch.setattr(
        workload, "photos_in", lambda *a, **k: (Counted(photo) for photo in photos_in(*a, **k))
    )
    for images, _ in (
        images_to_test([str(tmp_path)], 16, None),
        images_to_tune_on([str(tmp_path)], 16, 8),
    ):
        held = sum(image.image.untyped_storage().nbytes() for image in images)
        assert held == len(images) * 3 * 16 * 16 * 4  # crops alone, no views of more
    assert most <= 2


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_linked_folders_are_read_once(tmp_path):
    top, other = tmp_path / "top", tmp_path / "other"
    write(top, "a.png", "sub/b.png")
    write(other, "c.png")
    for name, target in {
        "circle": top,
        "sub/up": top,
        "around": tmp_path,
        "again": top / "sub",
        "outside": other,
        "outside2": other,
        "dangling": tmp_path / "nothing",
    }.items():
        (top / name).symlink_to(target, target_is_directory=True)
    names, _ = image_files(top, follow_links=True)
    pictures = [os.path.realpath(top / name) for name in names]
    assert len(pictures) == len(set(pictures)) == 3
    found = load(top, held_out_fraction=0.4)
    assert len(found.train + found.held_out) == 3


def test_a_large_photograph_is_reduced_alike_in_every_layout():
    # Right whatever the memory layout: a crop of an array (H, W, 3), as other programs hold them.
    pixels = torch.rand(200, 300, 3, generator=torch.Generator().manual_seed(0)).permute(2, 0, 1)
    view = pixels[:, 10:190, 20:200]
    assert torch.equal(square_crop(view, 32), square_crop(view.contiguous(), 32))
