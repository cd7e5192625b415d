"""Trains a rival, and compares its init with paper, 22 and 33 on held-out images.

    python scripts/train_baseline.py strainer --data DIR
    python scripts/train_baseline.py snp --noise spectrum
    python scripts/train_baseline.py maml --preset base --data DIR --time-limit 120
    python scripts/train_baseline.py --resume runs/NAME
    python scripts/train_baseline.py meta-sgd --print-config

NAME is strainer, snp, maml, fomaml, meta-sgd, reptile, transinr, ipc or seed-hyper;
docs/reference/rivals.md says what they are.

default    its published settings on 96 x 96 pixels and SIREN 4 x 128, for five minutes
base       these settings on 224 x 224 and 5 x 256, until the published number of steps
published  with its own sizes too
tiny       a check that everything works

Except in published, the transformers of transinr and ipc are smaller and take 3,000 steps, and the
residual network of seed-hyper is smaller too.

The run directory has the layout of meta_train.py's, and is an init for benchmark.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before any install

from baselines.trained import LEARNED, RIVALS, BaselineConfig
from hyperinit.app.train import Program, build, run_command
from hyperinit.base.errors import InputError, unknown_name
from hyperinit.learn.config import SEED_SIZES, TINY_SIZES
from hyperinit.learn.state import TrainingImages
from hyperinit.photos.photographs import Photographs

SCALES: dict[str, dict[str, Any]] = {
    "default": {"time_limit_min": 5.0},
    "base": {
        **SEED_SIZES,
        "compare_lrs": (1.25e-4, 2.5e-4, 5e-4),
    },
    "tiny": {
        **TINY_SIZES,
        "inner_pixels": 64,
        "query_pixels": 64,
        "batch_images": 2,
        "max_steps": 4,
        "eval_steps": 2,
        "patch_size": 6,
        "weight_tokens": 4,
        "token_size": 16,
        "transformer_layers": 2,
        "attention_heads": 2,
        "trunk_width": 2,
        "code_size": 16,
    },
}


def presets(name: str) -> dict[str, dict[str, Any]]:
    """The presets of one rival; "default" comes first."""
    row = RIVALS[name]
    own = {"rival": name, **row.settings}
    scales = {scale: {**own, **row.scaled, **sizes} for scale, sizes in SCALES.items()}
    return {**scales, "published": {**own, **row.sizes}}


def images(name: str, photos: Photographs, config: BaselineConfig) -> TrainingImages:
    """The training images of a rival; called before anything is written.

    Raises:
        InputError: the config is for another rival than NAME.
    """
    if name not in ("", config.rival):
        raise InputError(
            f"the run, --config or --rival says {config.rival}, but NAME is {name}; leave out one"
            " of the two"
        )
    return RIVALS[config.rival].images(photos, config)


def program(name: str) -> Program[BaselineConfig]:
    """The script for one rival; "" if a config or a run must say which."""
    return Program(
        prog="train_baseline.py",
        description=__doc__ or "",
        task=LEARNED,
        presets=presets(name) if name else {scale: {} for scale in SCALES},
        images=lambda photos, config: images(name, photos, config),
        label=lambda config: config.rival,
        run_prefix=f"{name}-" if name else "",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 2 for bad input, 130 or 143 when stopped by a signal."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else ""
    if name and name not in RIVALS:
        build(program("")).error(str(unknown_name("rival", name, RIVALS)))
    return run_command(arguments, program(name))


if __name__ == "__main__":
    sys.exit(main())
