"""The inits and settings that all races of a page share, and the reading of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path
from hyperinit.demo.command import MIN_SIDE
from hyperinit.demo.race import race_config
from hyperinit.fitting.suits import check_fit_memory
from hyperinit.hypernet.hub import local_checkpoint
from hyperinit.hypernet.network import HyperNetwork
from hyperinit.hypernet.pretrained import PRETRAINED, load_trained, pretrained_path
from hyperinit.images.decode import load_image
from hyperinit.inits.rules import YARDSTICKS
from hyperinit.inits.start import Init, model_init, rule_init
from hyperinit.record.protocol import PROTOCOLS

# The hypernetwork that takes part if no checkpoint is given.
DEFAULT_CHECKPOINT = pretrained_path("photo-96")

# Photographs inside scikit-image that the default meta-training never sees.
EXAMPLES = ("astronaut", "chelsea", "coffee")


@dataclass(frozen=True)
class Arena:
    """What all races of a page have in common.

    Attributes:
        inits: The inits, all for SIRENs of one size.
        size: Side of the images in pixels.
        device: The device of the fits.
    """

    inits: Sequence[Init]
    size: int
    device: Any = "cpu"


def arena(
    checkpoint: str | Path = DEFAULT_CHECKPOINT, size: int | None = None, device: Any = "cpu"
) -> Arena:
    """The hand-designed inits, and the trained one of a checkpoint, which sets the sizes.

    Args:
        checkpoint: A hypernetwork's or a learned init's: a name in PRETRAINED, a run directory, a
            file, or hub:OWNER/NAME.
        size: Side of the images in pixels; None: that of the checkpoint's training images.
        device: The device of the fits.

    Raises:
        InputError: there is no usable checkpoint, or the size is too small.
    """
    if size is not None and size < MIN_SIDE:
        raise InputError(f"--size must be at least {MIN_SIDE}, not {size}")
    name = str(checkpoint)
    path = pretrained_path(name) if name in PRETRAINED else local_checkpoint(name)
    model, info = load_trained(path)
    hashes = frozenset(info.get("train_hashes", ()))
    called = "hyper" if isinstance(model, HyperNetwork) else "learned"
    learned = replace(model_init(called, model), train_hashes=hashes)
    width, depth = model.config.siren.width, model.config.siren.depth
    trained_size = PRETRAINED[name][-1] if name in PRETRAINED else PROTOCOLS["small"]["image_size"]
    trained_size = info.get("train", {}).get("size", trained_size)
    named = [rule_init(name, width, depth) for name in YARDSTICKS]
    side = size or trained_size
    if torch.device(device).type == "cpu":
        lanes, batch_pixels = len(named) + 1, race_config().step_pixels(side**2)
        check_fit_memory(model.config.siren, side**2, batch_pixels, lanes)
    return Arena([*named, learned], side, device)


def examples() -> list[Path]:
    """The files of EXAMPLES; empty if scikit-image is not installed."""
    package = find_spec("skimage")
    folders = list(package.submodule_search_locations or ()) if package else []
    paths = [Path(folder) / "data" / f"{name}.png" for folder in folders for name in EXAMPLES]
    return [path for path in paths if path.is_file()]


def read_photo(path: str | Path) -> Tensor:
    """An uploaded file as an image (3, H, W) in [0, 1].

    Raises:
        InputError: it is not an image, or too small. The message leaves out the path, which is not
            the user's.
    """
    try:
        photo = load_image(path)
    except InputError as error:
        raise InputError(str(error).removeprefix(f"{shown_path(path)}: ")) from error
    height, width = photo.shape[-2:]
    if min(height, width) < MIN_SIDE:
        raise InputError(
            f"the image has {height} x {width} pixels; at least {MIN_SIDE} x {MIN_SIDE} are needed"
        )
    return photo
