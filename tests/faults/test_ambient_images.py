"""Reading, resizing, writing and drawing do not depend on what else the process has set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import smooth_image

from hyperinit.images.coords import grid_errors, image_to_rgb
from hyperinit.images.decode import load_image
from hyperinit.images.pixels import image_hash, resize, square_crop
from hyperinit.images.save import save_image, webp
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.siren.network import predict, render
from hyperinit.siren.store import load_params, save_params


@contextlib.contextmanager
def default_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def low_precision_products() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@contextlib.contextmanager
def low_precision_on_this_backend() -> Iterator[None]:
    """The newer of torch's two ways to say so, after which it does not answer to the older one."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this torch has one way to set the precision of products")
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
        assert matmul.fp32_precision == "bf16"  # a process keeps what it has set
    finally:
        matmul.fp32_precision = before


SURROUNDINGS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64 by default": default_float64,
    "deterministic": deterministic,
    "another global seed": lambda: torch.random.fork_rng(devices=[]),
    "low precision products": low_precision_products,
    "low precision of a backend": low_precision_on_this_backend,
}


SPEC = named_init("33")
SIREN = sample_params(SPEC, SPEC.siren_config(32, 3), generator=torch.Generator().manual_seed(0))
IMAGE = smooth_image(40)


def results(directory: Path) -> dict[str, Any]:
    """What users get of an image and a SIREN."""
    directory.mkdir()
    save_image(IMAGE, directory / "a.png")
    image = load_image(directory / "a.png")
    save_params(directory / "a.safetensors", SIREN)
    params, _ = load_params(directory / "a.safetensors")
    drawn = render(params, 30, 50)
    save_image(drawn, directory / "drawn.png")
    coords = torch.linspace(-1, 1, 20, dtype=torch.float32).reshape(10, 2)
    small = resize(image, 13, 17)
    return {
        "loaded": image,
        "smaller": small,
        "larger": resize(image, 61, 44),
        "cropped": square_crop(image[:, 3:], 20),
        "hash": image_hash(small),
        "thumbnail": webp(image, 20),
        "drawn": drawn,
        "predicted": predict(params, coords),
        "colours": image_to_rgb(image),
        "errors": torch.stack(grid_errors(image_to_rgb(image), image_to_rgb(image.flip(-1)))),
        "file": (directory / "a.png").read_bytes(),
        "drawn file": (directory / "drawn.png").read_bytes(),
    }


@pytest.mark.parametrize("surroundings", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_results_are_the_same_in_all_surroundings(tmp_path, surroundings):
    plain = results(tmp_path / "plain")
    with surroundings():
        found = results(tmp_path / "found")
    for name, expected in plain.items():
        value = found[name]
        if isinstance(expected, torch.Tensor):
            assert value.dtype == torch.float32 and torch.equal(value, expected), name
        else:
            assert value == expected, name


def test_sizes_are_drawn_in_turn_and_alike():
    # What is drawn in pieces is what is drawn in one piece.
    large = render(SIREN, 150, 301)
    assert large.shape == (3, 150, 301) and large.is_contiguous()
    three = SIREN.map(lambda value: torch.stack([value] * 3))
    torch.testing.assert_close(render(three, 150, 301)[2], large, rtol=0, atol=1e-4)
