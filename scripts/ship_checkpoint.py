"""Turns a run, of either method, into a hypernetwork that comes with the package.

    python scripts/ship_checkpoint.py runs/NAME photo-224

writes hyperinit/checkpoints/photo-224.safetensors (the network without its optimiser, the hashes of
the photographs it was trained on, and what training took) and configs/photo-224.toml, with which
scripts/meta_train.py makes it again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before any install

from hyperinit.base.arguments import RATE, Parser
from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.files import write_atomically
from hyperinit.base.settings import from_dict, to_toml
from hyperinit.bench.trial import environment
from hyperinit.hypernet.learned import LEARNED_KIND
from hyperinit.hypernet.pretrained import CHECKPOINTS_DIR, PRETRAINED
from hyperinit.learn.reptile import REPTILE
from hyperinit.learn.task import HYPERNETWORK
from hyperinit.siren.store import CHECKPOINT_NAME, file_kind, load_tensors, save_tensors

CONFIGS_DIR = Path(__file__).parent.parent / "configs"

# The facts of a checkpoint that are kept; a machine's paths and loggers stay private.
_KEPT = ("hypernetwork", "learned", "train_hashes", "step", "train_sec", "torch")

# The reader of images is by far the largest part; without one it is the base. Half precision does
# not affect a start, and 8 bits change its error by 0.2 % (docs/research-log.md 58, 85); they are
# for readers that are otherwise too large.
_BASE = "model/base."
_READER = "model/reader"
_READS = (_READER, "model/modulator")
_READ_TYPES = (torch.float16, torch.float8_e5m2)
MOST_BYTES = 8_000_000

# Tensors that only continued training needs.
_TRAINS = ("model/moments",)


def ship(
    run: Path,
    name: str,
    checkpoints_dir: Path,
    configs_dir: Path,
    lr_factor: float | None = None,
    read_numbers: int | None = None,
) -> Path:
    """Writes both files; returns the checkpoint's path.

    Args:
        run: The run directory.
        name: A name in `PRETRAINED`.
        checkpoints_dir, configs_dir: Where the files go.
        lr_factor: See `LearnedConfig`; to be given if fits of training photographs have shown that
            another one suits them better than the one used in training.
        read_numbers: Keep only the first of a linear reader's numbers, if all take too much space:
            an image's cosine coefficients hardly depend on each other.

    Raises:
        InputError: the run's checkpoint cannot be read, is for a SIREN of another size, has no
            training settings because it was shipped itself, or reads fewer numbers; or `lr_factor`
            is not a positive number, so that it could not be loaded. Then nothing is written.
    """
    if lr_factor is not None and not 0 < lr_factor < inf:
        raise InputError(f"--lr-factor must be a positive number, not {lr_factor}")
    if name not in PRETRAINED:
        raise unknown_name("pretrained hypernetwork", name, PRETRAINED)
    task = REPTILE if file_kind(run / CHECKPOINT_NAME) == LEARNED_KIND else HYPERNETWORK
    tensors, info = load_tensors(run / CHECKPOINT_NAME, task.kind)
    if "train" not in info:
        raise InputError(f"{run}: has no training settings; give a run directory")
    config: Any = from_dict(
        task.config, {**info["train"], "data": "DIR", "wandb": "auto"}, source=name
    )
    if (config.depth, config.width, config.size) != PRETRAINED[name]:
        depth, width, size = PRETRAINED[name]
        raise InputError(f"{run}: {name} is for {size} pixels a side and a SIREN {depth} x {width}")
    own = {
        key: value
        for key, value in tensors.items()
        if key.startswith(f"{task.prefix}/") and not key.startswith(_TRAINS)
    }
    facts = {key: info[key] for key in _KEPT if key in info} | {"commit": environment()["commit"]}
    kind = "learned" if "learned" in facts else "hypernetwork"
    facts[kind] = {key: value for key, value in facts[kind].items() if key != "memory_images"}
    if lr_factor is not None:
        facts[kind]["lr_factor"] = lr_factor
    if read_numbers is not None:
        own = _first_numbers(own, read_numbers, run)
        facts[kind]["read_numbers"] = read_numbers
    path = checkpoints_dir / f"{name}.safetensors"
    save_tensors(path, _small(own), task.kind, facts)
    write_atomically(configs_dir / f"{name}.toml", to_toml(config).encode())
    return path


def _first_numbers(tensors: Mapping[str, Tensor], count: int, run: Path) -> dict[str, Tensor]:
    """The tensors with a reader of the first `count` numbers, scaled to the same size."""
    reader = tensors.get(_READER)
    if reader is None:
        raise InputError(f"--read-numbers is for a linear start, which {run} is not")
    if not 0 < count <= len(reader):
        raise InputError(
            f"--read-numbers must be 1 to {len(reader)}, which {run} reads, not {count}"
        )
    # `LearnedInit.read` divides the numbers by the root of their count.
    return {**tensors, _READER: reader[:count] * (count / len(reader)) ** 0.5}


def _small(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with the largest part in the first of _READ_TYPES that is small enough."""
    largest = _READS if any(k.startswith(_READS) for k in tensors) else _BASE
    for dtype in _READ_TYPES:
        stored = {k: v.to(dtype) if k.startswith(largest) else v for k, v in tensors.items()}
        if sum(value.nbytes for value in stored.values()) <= MOST_BYTES:
            break
    return stored


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = Parser(
        prog="ship_checkpoint.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("name", metavar="NAME", help=", ".join(PRETRAINED))
    parser.add_argument(
        "--lr-factor",
        type=RATE,
        metavar="X",
        help="learning rate of fits from it, relative to the default (default: as trained)",
    )
    parser.add_argument(
        "--read-numbers",
        type=int,
        metavar="N",
        help="keep the first N numbers that a linear start reads (default: all)",
    )
    arguments = parser.parse_args(argv)
    try:
        dirs = CHECKPOINTS_DIR, CONFIGS_DIR
        what = arguments.lr_factor, arguments.read_numbers
        path = ship(arguments.run, arguments.name, *dirs, *what)
    except InputError as error:
        parser.error(str(error))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
