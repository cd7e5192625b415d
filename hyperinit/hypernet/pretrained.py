"""The hypernetworks that come with the package: name -> `HyperNetwork`, or a linear `LearnedInit`.

Their files and model cards are in `hyperinit/checkpoints/`; `scripts/ship_checkpoint.py` makes them
from a run.
"""

from __future__ import annotations

import logging
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import Any

from hyperinit.base.errors import unknown_name
from hyperinit.hypernet.checkpoint import load_hypernetwork
from hyperinit.hypernet.learned import LEARNED_KIND, LearnedInit, load_learned
from hyperinit.hypernet.network import HyperNetwork
from hyperinit.hypernet.untrained import expected_epochs, suitable_start
from hyperinit.siren.store import checkpoint_file, file_kind

_logger = logging.getLogger("hyperinit")

CHECKPOINTS_DIR = Path(str(files("hyperinit") / "checkpoints"))

# Name -> (depth, width) of its SIREN, and the side of its training images in pixels. The first one
# for a size is the best for it.
PRETRAINED: dict[str, tuple[int, int, int]] = {
    "photo-224": (5, 256, 224),
    "linear-96": (4, 128, 96),
    "photo-96": (4, 128, 96),
    "clothing-48": (3, 64, 48),
    "clothing-96": (4, 128, 96),
}
DEFAULT_PRETRAINED = "photo-224"

# Behind starts that have learned nothing, under today's fit (docs/results/learned-start.md), or
# ahead only on images of one domain. At their size "hyper" becomes such a start, usually UNTAUGHT.
NOT_AHEAD = frozenset({"photo-224", "clothing-48", "clothing-96"})
UNTAUGHT = "waves-steps"
# Name -> length of fits, in epochs, up to which it is ahead of such starts (records learned-96).
LEADS_EPOCHS = {"linear-96": 4.0}


def pretrained_path(name: str) -> Path:
    """The path of an installed checkpoint.

    Raises:
        InputError: there is no such name.
    """
    if name not in PRETRAINED:
        raise unknown_name("pretrained hypernetwork", name, PRETRAINED)
    return CHECKPOINTS_DIR / f"{name}.safetensors"


def load_pretrained(name: str = DEFAULT_PRETRAINED) -> HyperNetwork | LearnedInit:
    """Loads a hypernetwork that comes with the package.

    Args:
        name: "photo-224" (trained on photographs of 224 x 224 pixels, SIREN 5 x 256), "linear-96"
            or "photo-96" (96 x 96, 4 x 128), "clothing-48" (clothing at 48 x 48, 3 x 64) or
            "clothing-96" (96 x 96, 4 x 128). Its `generate` takes images of any size.

    Raises:
        InputError: there is no such name, or the installed file is damaged.
    """
    return load_trained(pretrained_path(name))[0]


def load_trained(path: str | Path) -> tuple[HyperNetwork | LearnedInit, dict[str, Any]]:
    """Loads a trained module of either kind, and the facts about it.

    Args:
        path: A run directory, or a checkpoint file.

    Raises:
        InputError: there is no checkpoint, or it is damaged or of another program or version.
    """
    path = checkpoint_file(path)
    if path.is_file() and file_kind(path) == LEARNED_KIND:
        return load_learned(path)
    return load_hypernetwork(path)


def hyper_for(
    width: int,
    depth: int,
    budget_epochs: float | None = None,
    target_mse: float | None = None,
    pixels: int | None = None,
) -> str:
    """The init that "hyper" stands for: the best start that looks at the image, for this size.

    If no learned start for this size is ahead, it is one that has learned nothing
    (`suitable_start`), and a warning says so.

    Args:
        width, depth: Of the SIREN.
        budget_epochs: The fit's budget; None: not known.
        target_mse: The target of a fit whose end is found on the way.
        pixels: Pixels of the image; None: not known.
    """
    name, untaught = pretrained_for(width, depth), UNTAUGHT
    if budget_epochs is not None:
        untaught = suitable_start(pixels, width, depth, budget_epochs, target_mse)
    if name is None:
        why, own = "no learned start comes with the package", ""
    elif name in NOT_AHEAD:
        why, own = f'no learned start is ahead of "{untaught}" on all photographs', name
    elif expected_epochs(budget_epochs or 0, target_mse) > LEADS_EPOCHS.get(name, inf):
        why = f'no learned start is ahead of "{untaught}" on all photographs in fits of more than'
        why, own = f"{why} {LEADS_EPOCHS[name]:g} epochs", name
    else:
        return name
    text = f'"hyper": for a SIREN of {depth} x {width} {why}, so "{untaught}" is used'
    _logger.warning("%s", text + (f"; to use {own}, give its name" if own else ""))
    return untaught


def pretrained_for(width: int, depth: int) -> str | None:
    """The name of the best pretrained hypernetwork for a SIREN of this size, if there is one."""
    return next((name for name, own in PRETRAINED.items() if own[:2] == (depth, width)), None)
