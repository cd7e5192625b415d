"""Makes a hypernetwork that comes with the package of a run.

    python scripts/ship_checkpoint.py runs/NAME photo-224

writes hyperinit/checkpoints/photo-224.safetensors (the network without its optimiser, the hashes of
the photographs it was trained on, and what training took) and configs/photo-224.toml, with which
scripts/meta_train.py makes it again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before any install

from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.files import write_atomically
from hyperinit.base.settings import Parser, from_dict, to_toml
from hyperinit.bench.trial import environment
from hyperinit.hypernet.checkpoint import CHECKPOINT_KIND
from hyperinit.hypernet.pretrained import CHECKPOINTS_DIR, PRETRAINED
from hyperinit.learn.task import TrainConfig
from hyperinit.siren.store import CHECKPOINT_NAME, load_tensors, save_tensors

CONFIGS_DIR = Path(__file__).parent.parent / "configs"

# What is kept of a checkpoint's facts: a machine's paths and loggers are nobody's business.
_KEPT = ("hypernetwork", "train_hashes", "step", "train_sec", "torch")


def ship(run: Path, name: str, checkpoints_dir: Path, configs_dir: Path) -> Path:
    """Writes both files; returns the checkpoint's path.

    Raises:
        InputError: the run's checkpoint cannot be read, or is for a SIREN of another size.
    """
    if name not in PRETRAINED:
        raise unknown_name("pretrained hypernetwork", name, PRETRAINED)
    tensors, info = load_tensors(run / CHECKPOINT_NAME, CHECKPOINT_KIND)
    config = from_dict(TrainConfig, {**info["train"], "data": "DIR", "wandb": "auto"}, source=name)
    if (config.depth, config.width, config.size) != PRETRAINED[name]:
        depth, width, size = PRETRAINED[name]
        raise InputError(f"{run}: {name} is for {size} pixels a side and a SIREN {depth} x {width}")
    own = {key: value for key, value in tensors.items() if key.startswith("hyper/")}
    facts = {key: info[key] for key in _KEPT} | {"commit": environment()["commit"]}
    path = checkpoints_dir / f"{name}.safetensors"
    save_tensors(path, own, CHECKPOINT_KIND, facts)
    write_atomically(configs_dir / f"{name}.toml", to_toml(config).encode())
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = Parser(
        prog="ship_checkpoint.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("name", metavar="NAME", help=", ".join(PRETRAINED))
    arguments = parser.parse_args(argv)
    try:
        path = ship(arguments.run, arguments.name, CHECKPOINTS_DIR, CONFIGS_DIR)
    except InputError as error:
        parser.error(str(error))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
