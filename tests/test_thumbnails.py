"""Small pictures of fits beside records: complete, resumable, and no part of what is measured."""

from __future__ import annotations

import io

import pytest
import torch
from conftest import smooth_image
from PIL import Image

from hyperinit.bench.plan import Entry, Plan
from hyperinit.bench.run import open_records, run
from hyperinit.images.save import webp
from hyperinit.inits.rules import named_init
from hyperinit.inits.start import spec_init
from hyperinit.photos.workload import NamedImage
from hyperinit.record.protocol import Protocol
from hyperinit.record.thumbnails import SIDE, Thumbnails, folder_of

PROTOCOL = Protocol(
    image_size=16,
    width=16,
    depth=2,
    budgets_epochs=(1, 2, 4),
    lrs=(1e-3,),
    lr_images=1,
    batch_pixels=64,
)


def make_plan() -> Plan:
    images = [NamedImage.cropped(f"image {i}", smooth_image(20, i), 16) for i in range(2)]
    inits = [Entry(spec_init(name, named_init(name), 16, 2)) for name in ("paper", "33")]
    return Plan("tuned", tuple(inits), (images[0],), (images[1],), 2, PROTOCOL)


@pytest.mark.slow
def test_a_benchmark_keeps_pictures_of_one_seed_and_the_shown_budgets(tmp_path):
    path = tmp_path / "r.jsonl"
    with open_records(path, Thumbnails(folder_of(path))) as file:
        records = list(run(make_plan(), file))
    thumbnails = Thumbnails(folder_of(path))
    for record in records:
        kept = (record.is_tuning, record.seed) == (False, 0) and record.budget_epochs in (1, 4)
        assert (thumbnails.end(record) is not None) == kept
        if kept:
            assert thumbnails.start(record) and thumbnails.image(record)
    # 1 image, 2 starts, 2 inits x 2 budgets
    assert len(list(folder_of(path).iterdir())) == 7


@pytest.mark.slow
def test_pictures_are_made_later_for_records_that_have_none_and_move_no_record(tmp_path):
    path = tmp_path / "r.jsonl"
    with open_records(path) as file:
        list(run(make_plan(), file))
    before = path.read_bytes()
    for _ in range(2):
        with open_records(path, Thumbnails(folder_of(path))) as file:
            list(run(make_plan(), file))
        assert path.read_bytes() == before
        assert len(list(folder_of(path).iterdir())) == 7


def test_pictures_are_small_and_show_the_image(tmp_path):
    image = smooth_image(300)[:, :, :200]
    found = Image.open(io.BytesIO(webp(image)))
    assert found.format == "WEBP" and found.size == (round(SIDE * 200 / 300), SIDE)
    mean = torch.tensor(list(found.convert("RGB").resize((1, 1)).getpixel((0, 0)))) / 255
    assert (mean - image.mean((1, 2))).abs().max() < 0.1
    assert webp(torch.full((3, 8, 8), float("nan")))
