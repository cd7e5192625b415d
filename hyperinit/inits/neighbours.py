"""A directory of fitted SIRENs + image -> the SIREN of the most similar image, as an init.

A cheap control for every learned init: what is a start worth that only remembers photographs?
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path
from hyperinit.images.coords import image_to_rgb, pixel_coords
from hyperinit.images.pixels import resize
from hyperinit.inits.start import Init, check_shows_image
from hyperinit.siren.dataset import ParamDataset
from hyperinit.siren.network import Params, predict
from hyperinit.siren.store import CHECKPOINT_NAME, load_siren, shown_hashes, tensors_hash

# Images are compared at this many pixels a side, in normalised colours: layout and colour, no
# detail. A SIREN is evaluated at SAMPLES a side and averaged, so that its detail does not alias.
SIDE, SAMPLES = 16, 64


def thumbnail(image: Tensor) -> Tensor:
    """An image (3, H, W) in [0, 1] averaged to SIDE x SIDE: normalised colours (SIDE^2, 3)."""
    return image_to_rgb(resize(image, SIDE, SIDE))


def thumbnail_of(params: Params) -> Tensor:
    """The thumbnail of what a SIREN shows: (SIDE^2, 3)."""
    shown = predict(params, pixel_coords(SAMPLES, SAMPLES))
    cells = shown.T.reshape(1, 3, SAMPLES, SAMPLES)
    return torch.nn.functional.adaptive_avg_pool2d(cells, SIDE)[0].flatten(1).T


def holds_sirens(directory: Path) -> bool:
    """Whether a directory holds SIRENs for `neighbour_init`, and is not a run directory."""
    is_run = (directory / CHECKPOINT_NAME).exists()
    return directory.is_dir() and not is_run and any(directory.glob("*.safetensors"))


def neighbour_init(name: str, directory: str | Path) -> Init:
    """The SIREN whose thumbnail is nearest to the image's, the same for every seed.

    The files do not store the images they were fitted to, but they show them. Their thumbnails are
    rendered once, here, which counts as preparation, as training does. Looking at the new image
    costs one epoch; that and reading the chosen file are on the clock.

    Raises:
        InputError: as `ParamDataset`, or the SIRENs do not show images, or a file is damaged.
    """
    dataset = ParamDataset(directory)
    try:
        dataset.config.check_image()
    except InputError as error:
        raise InputError(f"{shown_path(directory)}: {error}: name one of its files") from error
    thumbnails, digest, hashes = [], hashlib.sha256(), set[str]()
    for i, path in enumerate(dataset.paths):
        params, _ = load_siren(path)
        thumbnails.append(thumbnail_of(params))
        digest.update(tensors_hash(params.tensors).encode())
        hashes |= shown_hashes(dataset.info(i))
    known = torch.stack(thumbnails)  # (SIRENs, SIDE^2, 3)

    def start(image: Tensor, seed: int) -> Params:
        check_shows_image(name, image)
        distances = (known - thumbnail(image).cpu()).square().mean(dim=(1, 2))
        return load_siren(dataset.paths[int(distances.argmin())])[0]

    facts = {
        "siren": dataset.config.facts,
        "neighbours": len(known),
        "sha256": digest.hexdigest(),
    }
    return Init(name, start, lambda image: 1.0, facts, frozenset(hashes))
