"""`hyperinit meta-train`: meta-trains a hypernetwork and compares its inits on held-out images.

    hyperinit meta-train                            built-in photographs, about 8 minutes
    hyperinit meta-train --data DIR                 any directory of images
    hyperinit meta-train --preset base --data DIR   224 x 224 and a SIREN of 5 x 256; hours
    hyperinit meta-train --method reptile           one start for all images, through real fits
    hyperinit meta-train --resume runs/NAME         continues exactly where it stopped
    hyperinit meta-train --resume runs/NAME --compare-budgets 1,4     compares once more

Writes into a new directory below runs/: config.toml, metrics.jsonl, checkpoint.safetensors, and at
the end comparison.md, .jsonl, .png and thumbnails for `hyperinit report`.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyperinit.app.train import Program, run_command
from hyperinit.base.arguments import Parser
from hyperinit.base.errors import InputError, unknown_name
from hyperinit.hypernet.learned import LEARNED_KIND
from hyperinit.learn.config import SEED_SIZES, TINY_SIZES
from hyperinit.learn.images import crops
from hyperinit.learn.reptile import PRESETS as REPTILE_PRESETS
from hyperinit.learn.reptile import REPTILE
from hyperinit.learn.rundir import checkpoint_to_resume
from hyperinit.learn.task import HYPERNETWORK
from hyperinit.siren.store import file_kind

PRESETS: dict[str, dict[str, Any]] = {
    # 96x96, SIREN 4x128, built-in photographs: shows something in ten minutes on two cores.
    "default": {"time_limit_min": 2.0},
    # The seed experiment's own problem.
    "base": {
        **SEED_SIZES,
        "inner_pixels": 2048,
        "query_pixels": 2048,
        "max_steps": 20000,
        "compare_lrs": (1.2e-4, 2e-4, 3.4e-4),
    },
    # Seconds: to see that everything works.
    "tiny": {
        **TINY_SIZES,
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


# What `--method` chooses from.
METHODS: dict[str, Program[Any]] = {
    "hypernetwork": PROGRAM,
    "reptile": Program(
        prog=PROGRAM.prog,
        description=PROGRAM.description,
        task=REPTILE,
        presets=REPTILE_PRESETS,
        images=crops,
        label=lambda config: "reptile",
        run_prefix="reptile-",
    ),
}


def method_of(argv: Sequence[str]) -> tuple[str, list[str]]:
    """What `--method` says, or the kind of the run to resume; and the rest of the command line.

    Raises:
        InputError: no such method.
    """
    parser = Parser(add_help=False)
    parser.add_argument("--method", metavar="NAME")
    parser.add_argument("--resume", type=Path)
    known, rest = ArgumentParser.parse_known_args(parser, list(argv))
    method = known.method
    if known.resume is not None:
        rest += ["--resume", str(known.resume)]
        with suppress(InputError):  # said again, and better, when the run is opened
            kind = file_kind(checkpoint_to_resume(known.resume))
            method = "reptile" if kind == LEARNED_KIND else "hypernetwork"
    method = method or "hypernetwork"
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    return method, rest


def main(argv: Sequence[str] | None = None, prog: str = "hyperinit meta-train") -> int:
    """Returns the exit code: 0, 2 for bad input, 128 + its number when stopped by a signal."""
    try:
        method, rest = method_of(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        Parser(prog=prog).error(str(error))
    return run_command(rest, replace(METHODS[method], prog=prog, methods=tuple(METHODS)))


if __name__ == "__main__":  # torchrun -m hyperinit.app.meta_train
    sys.exit(main())
