"""The learned starts that come with the package: name -> `HyperNetwork` or `LearnedInit`.

Their files and model cards are in `hyperinit/checkpoints/`; `scripts/ship_checkpoint.py` makes them
from a run.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

from hyperinit.base.errors import unknown_name
from hyperinit.hypernet.checkpoint import load_hypernetwork
from hyperinit.hypernet.learned import LEARNED_KIND, LearnedInit, load_learned
from hyperinit.hypernet.network import HyperNetwork
from hyperinit.hypernet.untrained import likely_epochs, suitable_start
from hyperinit.siren.store import checkpoint_file, file_kind

_logger = logging.getLogger("hyperinit")

CHECKPOINTS_DIR = Path(str(files("hyperinit") / "checkpoints"))

# Name -> (depth, width) of its SIREN, and the side of its training images in pixels. The first one
# for a size is the best for it.
PRETRAINED: dict[str, tuple[int, int, int]] = {
    "steps-224": (5, 256, 224),
    "photo-224": (5, 256, 224),
    "linear-96": (4, 128, 96),
    "photo-96": (4, 128, 96),
    "clothing-48": (3, 64, 48),
    "clothing-96": (4, 128, 96),
}
DEFAULT_PRETRAINED = "steps-224"


@dataclass(frozen=True)
class Lead:
    """Where a learned start is ahead of those that have learned nothing, on photographs of all
    kinds.

    Attributes:
        until_epochs: Side of the image, in pixels -> length of fits from which others end lower;
            in between it is interpolated. Beyond the first and the last side nothing is known.
        least_epochs: The shortest such fit: what the start costs is a part of it.
        beats_sets: Whether it is ahead, too, of what a set teaches on the way (`sets.on_the_way`).
    """

    until_epochs: dict[int, float]
    least_epochs: float = 0.0
    beats_sets: bool = False

    def covers(self, side: float, epochs: float) -> bool:
        """Whether it is ahead in fits of so many epochs of images with sides like this."""
        known = sorted(self.until_epochs.items())
        for (least, before), (most, after) in pairwise(known):
            if least <= side <= most:
                until = before + (after - before) * (side - least) / (most - least)
                return self.least_epochs <= epochs < until
        return False


# Research log, 109. The others are behind under today's fit, or ahead only on images of one domain
# (docs/results/learned-start.md).
LEADS = {
    "linear-96": Lead({48: 5.9, 64: 6.4, 96: 5.1, 128: 3.8, 160: 3.5}),
    "steps-224": Lead(
        {96: 4.3, 112: 4.1, 160: 4.1, 192: 3.5, 224: 3.2, 256: 2.9},
        least_epochs=0.2,
        beats_sets=True,
    ),
}
UNTAUGHT = "waves-steps"


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
        name: "steps-224" or "photo-224" (trained on photographs of 224 x 224 pixels, SIREN
            5 x 256), "linear-96" or "photo-96" (96 x 96, 4 x 128), "clothing-48" (clothing at
            48 x 48, 3 x 64) or "clothing-96" (96 x 96, 4 x 128). Its `generate` takes images of any
            size.

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
    """The init that "hyper" stands for: the best start that looks at the image, for this fit.

    If no learned start is known to be ahead, it is one that has learned nothing
    (`suitable_start`), and a warning says so.

    Args:
        width, depth: Of the SIREN.
        budget_epochs: The fit's budget; None: not known, assumed to be the usual one.
        target_mse: The target of a fit whose end is found on the way.
        pixels: Pixels of the image; None: not known.
    """
    untaught = UNTAUGHT
    if budget_epochs is not None:
        ahead = leading_start(width, depth, budget_epochs, target_mse, pixels)
        if ahead:
            return ahead
        untaught = suitable_start(pixels, width, depth, budget_epochs, target_mse)
    name, own = pretrained_for(width, depth), ""
    if name is None:
        why = "no learned start comes with the package"
    else:
        own = f"; to use {name}, give its name"
        why = f'no learned start is known to be ahead of "{untaught}" in such a fit'
    text = f'"hyper": for a SIREN of {depth} x {width} {why}, so "{untaught}" is used'
    _logger.warning("%s", text + own)
    return untaught


def leading_start(
    width: int, depth: int, budget_epochs: float, target_mse: float | None, pixels: int | None
) -> str | None:
    """The name of the learned start that is known to be ahead in a fit of a photograph, if any.

    Args:
        width, depth, budget_epochs, target_mse, pixels: See `suitable_start`.
    """
    if pixels is None:
        return None
    epochs = likely_epochs(pixels, width, depth, budget_epochs, target_mse)
    for name, lead in LEADS.items():
        if PRETRAINED[name][:2] == (depth, width) and lead.covers(pixels**0.5, epochs):
            return name
    return None


def pretrained_for(width: int, depth: int) -> str | None:
    """The name of the best pretrained hypernetwork for a SIREN of this size, if there is one."""
    return next((name for name, own in PRETRAINED.items() if own[:2] == (depth, width)), None)
