"""`hyperinit meta-train`: meta-trains a hypernetwork and compares its inits on held-out images.

    hyperinit meta-train                            built-in photographs, about 8 minutes
    hyperinit meta-train --data DIR                 any directory of images
    hyperinit meta-train --preset base --data DIR   224 x 224 and a SIREN of 5 x 256; hours
    hyperinit meta-train --resume runs/NAME         continues exactly where it stopped

Writes into a new directory below runs/: config.toml, metrics.jsonl, checkpoint.safetensors, and at
the end comparison.md, .jsonl, .png and thumbnails for `hyperinit report`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hyperinit.app.train import Program, run_command
from hyperinit.learn.images import crops
from hyperinit.learn.task import HYPERNETWORK

PRESETS: dict[str, dict[str, Any]] = {
    # 96x96, SIREN 4x128, built-in photographs: shows something in ten minutes on two cores.
    "default": {"time_limit_min": 5.0},
    # The seed experiment's own problem.
    "base": {
        "size": 224,
        "width": 256,
        "depth": 5,
        "inner_pixels": 2048,
        "query_pixels": 2048,
        "max_steps": 20000,
        "compare_lrs": (1.25e-4, 2.5e-4, 5e-4),
    },
    # Seconds: to see that everything works.
    "tiny": {
        "size": 16,
        "width": 16,
        "depth": 2,
        "encoder_size": 8,
        "channels": 4,
        "code_size": 16,
        "rank": 2,
        "inner_pixels": 64,
        "query_pixels": 64,
        "batch_images": 2,
        "max_steps": 10,
        "warmup_steps": 2,
        "eval_steps": 5,
        "compare_images": 1,
        "compare_budgets": (1.0, 2.0),
        "compare_lrs": (1e-3,),
    },
}

PROGRAM = Program(
    prog="hyperinit meta-train",
    description=__doc__ or "",
    task=HYPERNETWORK,
    presets=PRESETS,
    images=crops,
    label=lambda config: "hyper",
)


def main(argv: Sequence[str] | None = None, prog: str = "hyperinit meta-train") -> int:
    """Returns the exit code: 0, 2 for bad input, 130 or 143 when stopped by a signal."""
    return run_command(argv, replace(PROGRAM, prog=prog))
