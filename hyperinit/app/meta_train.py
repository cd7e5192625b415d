"""`hyperinit meta-train`: meta-trains a hypernetwork and compares its inits on held-out images.

    hyperinit meta-train                            built-in photographs; less than five minutes
    hyperinit meta-train --data DIR                 any directory of images
    hyperinit meta-train --preset base --data DIR   224 x 224 and a SIREN of 5 x 256; hours
    hyperinit meta-train --method reptile           one start for all images, through real fits
    hyperinit meta-train --resume runs/NAME         continues exactly where it stopped
    hyperinit meta-train --resume runs/NAME --compare-budgets 1,4     compares once more

Writes into a new directory below runs/: config.toml, metrics.jsonl, checkpoint.safetensors, and at
the end comparison.md, .jsonl, .png and thumbnails for `hyperinit report`.
"""

from __future__ import annotations

import importlib
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperinit.base.arguments import Parser
from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.settings import Presets, read_config_file
from hyperinit.base.terminal import forgiving_output
from hyperinit.learn.config import (
    REPTILE_PRESETS,
    SEED_SIZES,
    TINY_SIZES,
    LoopConfig,
    ReptileConfig,
    TrainConfig,
    training_parser,
)

if TYPE_CHECKING:
    from hyperinit.app.train import Program

PRESETS: dict[str, dict[str, Any]] = {
    # 96x96, SIREN 4x128, built-in photographs: shows something in less than five minutes.
    "default": {"time_limit_min": 2.0},
    # The seed experiment's own problem.
    "base": {
        **SEED_SIZES,
        "inner_pixels": 2048,
        "query_pixels": 2048,
        "max_steps": 20000,
        "compare_lrs": (1.2e-4, 2e-4, 3.4e-4),
    },
    # Takes seconds: a check that everything works.
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


@dataclass(frozen=True)
class Method:
    """A value of `--method`.

    Attributes:
        config: The class of its settings.
        presets: Name -> settings.
        task: MODULE:NAME of its task, imported when needed.
        label: Name of its init in comparisons.
        run_prefix: Prefix of the names of run directories.
    """

    config: type[LoopConfig]
    presets: Presets
    task: str
    label: str
    run_prefix: str = ""


METHODS = {
    "hypernetwork": Method(TrainConfig, PRESETS, "hyperinit.learn.task:HYPERNETWORK", "hyper"),
    "reptile": Method(
        ReptileConfig, REPTILE_PRESETS, "hyperinit.learn.reptile:REPTILE", "reptile", "reptile-"
    ),
}
USUAL = "hypernetwork"


def build(method: str = USUAL, prog: str = "hyperinit meta-train") -> Parser:
    """The command line of a method."""
    row = METHODS[method]
    return training_parser(prog, __doc__ or "", row.config, row.presets, tuple(METHODS))


def program(method: str, prog: str) -> Program[Any]:
    """Everything that a method needs to train."""
    from hyperinit.app.train import Program
    from hyperinit.learn.images import crops

    row = METHODS[method]
    module, _, name = row.task.partition(":")
    return Program(
        prog=prog,
        description=__doc__ or "",
        task=getattr(importlib.import_module(module), name),
        presets=row.presets,
        images=crops,
        label=lambda config: row.label,
        run_prefix=row.run_prefix,
        methods=tuple(METHODS),
    )


def method_of(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The method, and the rest of the command line. It is the method of the run to resume, else
    that of `--method`, else the first one that has all settings of the config file.

    Raises:
        InputError: there is no such method, or it is not that of the run to resume.
    """
    parser = Parser(add_help=False)
    parser.add_argument("--method", metavar="NAME")
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--config")
    known, rest = ArgumentParser.parse_known_args(parser, list(argv))
    if known.method not in (None, *METHODS):
        raise unknown_name("method", known.method, METHODS)
    if known.config is not None:
        rest += ["--config", known.config]
    if known.resume is None:
        return known.method or _method_of_settings(known.config) or USUAL, rest
    rest += ["--resume", str(known.resume)]
    own = _method_of_run(known.resume)
    if own is not None and known.method not in (None, own):
        raise InputError(f"--resume keeps the run's own method, {own}; leave out --method")
    return own or known.method or USUAL, rest


def _method_of_run(run: Path) -> str | None:
    """The method of a run; None if it cannot be read, which is reported when the run is opened."""
    from hyperinit.hypernet.learned import LEARNED_KIND
    from hyperinit.learn.rundir import checkpoint_to_resume
    from hyperinit.siren.store import file_kind

    with suppress(InputError):
        kind = file_kind(checkpoint_to_resume(run))
        return "reptile" if kind == LEARNED_KIND else USUAL
    return None


def _method_of_settings(path: str | None) -> str | None:
    """The first method that has all settings of a config file, such as a run's own."""
    with suppress(InputError):  # reported when the file is used
        keys = set() if path is None else set(read_config_file(path))
        for name, row in METHODS.items():
            if keys <= {field.name for field in fields(row.config)}:
                return name
    return None


def main(argv: Sequence[str] | None = None, prog: str = "hyperinit meta-train") -> int:
    """Returns the exit code: 0, 2 for bad input, 128 + its number when stopped by a signal."""
    try:
        method, rest = method_of(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        Parser(prog=prog).error(str(error))
    with forgiving_output():  # --help, and errors in flags, must not load what trains
        build(method, prog).parse_args(rest)
    from hyperinit.app.train import run_command

    return run_command(rest, program(method, prog))


if __name__ == "__main__":  # torchrun -m hyperinit.app.meta_train
    sys.exit(main())
