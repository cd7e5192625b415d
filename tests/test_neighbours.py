"""The nearest fitted SIREN as an init: which one is chosen, what it costs, what it may not see."""

from __future__ import annotations

import pytest
import torch
from conftest import assert_same, smooth_image

from hyperinit import (
    fit_directory,
    load_image,
    load_params,
    save_image,
    save_params,
    signal_start,
)
from hyperinit.base.errors import InputError
from hyperinit.bench.plan import Entry, Plan
from hyperinit.bench.sources import load_init
from hyperinit.images.pixels import square_crop
from hyperinit.inits.neighbours import thumbnail, thumbnail_of
from hyperinit.inits.rules import NAMED_INITS, named_init
from hyperinit.inits.start import spec_init
from hyperinit.photos.workload import NamedImage
from hyperinit.record.protocol import Protocol
from hyperinit.sets.directory import result_name

WIDTH, DEPTH, SIZE = 24, 2, 32


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """SIRENs of four photographs, 40 x 32 pixels, fitted at 32 x 32."""
    top = tmp_path_factory.mktemp("fitted")
    (top / "photos").mkdir()
    for seed in range(4):
        image = torch.nn.functional.interpolate(smooth_image(SIZE, seed)[None], (32, 40))[0]
        save_image(image, top / "photos" / f"{seed}.png")
    init = spec_init("paper", named_init("paper"), WIDTH, DEPTH)
    options = {"budget_epochs": 60, "lr": 5e-3, "batch_pixels": 256}
    fit_directory(top / "photos", top / "sirens", init, size=SIZE, **options)
    return top


def load(fitted):
    return load_init(str(fitted / "sirens"), NAMED_INITS, WIDTH, DEPTH)


def test_a_sirens_thumbnail_is_that_of_its_image(fitted):
    image = square_crop(load_image(fitted / "photos" / "2.png"), SIZE)
    params, _ = load_params(fitted / "sirens" / result_name("2.png"))
    difference = (thumbnail_of(params) - thumbnail(image)).square().mean().sqrt()
    assert float(difference) < 0.25 * float(thumbnail(image).std())


def test_the_siren_of_the_most_similar_image_is_chosen(fitted):
    init = load(fitted)
    generator = torch.Generator().manual_seed(0)
    for seed in range(4):
        expected, _ = load_params(fitted / "sirens" / result_name(f"{seed}.png"))
        noisy = smooth_image(SIZE, seed) * 0.9 + 0.1 * torch.rand(3, 32, 32, generator=generator)
        for size in (SIZE, 2 * SIZE):
            assert_same(init.start(square_crop(noisy, size), 7).params, expected)
    assert init.name == "sirens" and init.epochs(noisy) == 1.0
    assert init.facts["neighbours"] == 4


def test_an_image_is_not_tested_on_its_own_siren(fitted):
    photo = load_image(fitted / "photos" / "1.png")
    for size in (SIZE, 16):  # also at a size that no SIREN was fitted at
        protocol = Protocol(image_size=size, width=WIDTH, depth=DEPTH, lr_images=1)
        shown = NamedImage.cropped("1.png", photo, size)
        other = NamedImage.cropped("other", smooth_image(SIZE, 9), size)
        with pytest.raises(InputError, match=r"trained on the test image 1\.png"):
            Plan("tuned", (Entry(load(fitted)),), (shown,), (other,), 1, protocol)


def test_a_directory_with_a_damaged_siren_is_refused_by_name(fitted, tmp_path):
    source = fitted / "sirens" / result_name("0.png")
    content = bytearray(source.read_bytes())
    content[-20] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"damaged\.safetensors: checksum"):
        load_init(str(tmp_path), NAMED_INITS, WIDTH, DEPTH)


def test_a_directory_of_sirens_of_signals_is_refused_by_name(tmp_path):
    start = signal_start(torch.zeros(1, 300), width=8, depth=1)
    save_params(tmp_path / "sound.safetensors", start.params)
    with pytest.raises(InputError, match=f"{tmp_path.name}: an image needs a SIREN from 2"):
        load_init(str(tmp_path), NAMED_INITS, WIDTH, DEPTH)
