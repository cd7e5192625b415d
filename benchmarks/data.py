"""The cost of a data set in memory and time, by its size: shards of pictures made on the fly.

    python benchmarks/data.py                              1,000 to 100,000 pictures of 8 x 8
    python benchmarks/data.py --counts 1000 --side 224     fewer and larger ones

    python benchmarks/data.py --what fit learn generate    a tiny SIREN for each of them, in a file

For every count a separate process opens the set. For training, there is no memory for pixels, so
each picture is read again when it is drawn; the process makes batches of 32, and `ms` is for one
batch. Otherwise `hyperinit fit`, `fit --learn` or `generate` writes a file for each picture, and
`ms` is for one picture. Then the last file is removed and the command is repeated: `continued` is
the time to find the missing one and make it. Times are CPU times, without waiting for the disk.
`MiB` is the peak memory of the process beyond what it had before it opened the set.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before any install

BATCHES, BATCH_IMAGES, SHARD_IMAGES = 20, 32, 10_000

# The smallest possible network and fit, so that everything else dominates.
TINY_FIT = "--init 33 --width 4 --depth 1 --budget-epochs 1 --fit engine=eager --threads 1 --json"


def write_shards(folder: Path, count: int, side: int) -> str:
    """Writes `count` different pictures of noise; returns the value for `--data`."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    shards = -(-count // SHARD_IMAGES)
    for shard in range(shards):
        with tarfile.open(folder / f"s-{shard:05d}.tar", "w") as archive:
            for number in range(shard * SHARD_IMAGES, min(count, (shard + 1) * SHARD_IMAGES)):
                pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
                picture = io.BytesIO()
                Image.fromarray(pixels).save(picture, "PNG", compress_level=0)
                member = tarfile.TarInfo(f"{number:09d}.png")
                member.size = picture.tell()
                picture.seek(0)
                archive.addfile(member, picture)
    return f"{folder}/s-{{00000..{shards - 1:05d}}}.tar"


@dataclass
class Row:
    """The cost of one set, in CPU time.

    Attributes:
        images: Number of images.
        open_sec: Time to open it.
        ms: Time for one batch, or for one picture.
        again_sec: Time for a repeated command to make the one missing file.
    """

    images: int
    open_sec: float
    ms: float
    again_sec: float | None = None


def train(data: str, memory_mib: int) -> Row:
    """Opens a set and makes batches."""
    from hyperinit.photos.load import load
    from hyperinit.photos.photographs import CropSampler

    began = time.process_time()
    photos = load(data, memory_mib=memory_mib)
    opened = time.process_time()
    sampler = CropSampler(photos.train, 8, seed=0)
    for step in range(BATCHES):
        sampler.batch(step, BATCH_IMAGES)
    batch_ms = (time.process_time() - opened) / BATCHES * 1e3
    return Row(len(photos.train) + len(photos.held_out), opened - began, batch_ms)


def fit(data: str, memory_mib: int) -> Row:
    """Fits a SIREN of four units to every picture."""
    return _each(["fit", data, *TINY_FIT.split()], data)


def learn(data: str, memory_mib: int) -> Row:
    """The same, with starts learned on the way."""
    return _each(["fit", data, *TINY_FIT.split(), "--learn"], data)


def generate(data: str, memory_mib: int) -> Row:
    """Writes a start of a few units for every picture, from an untrained hypernetwork."""
    from hyperinit.app.meta_train import PRESETS
    from hyperinit.learn.state import new_state, save_state
    from hyperinit.learn.task import HYPERNETWORK, TrainConfig

    config = TrainConfig(**{**PRESETS["tiny"], "width": 4, "depth": 1})
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder) / "c.safetensors", new_state(HYPERNETWORK, config), config)
        checkpoint = ["--checkpoint", f"{folder}/c.safetensors", "--threads", "1", "--json"]
        return _each(["generate", data, *checkpoint], data)


def _each(argv: list[str], data: str) -> Row:
    """Makes a file for every picture, and then again for a missing one."""
    from hyperinit.photos.load import open_source
    from hyperinit.sets.results import result_name

    began = time.process_time()
    names = open_source(data).names
    open_sec, last, images = time.process_time() - began, result_name(names[-1]), len(names)
    del names  # the command has its own
    with tempfile.TemporaryDirectory() as out:
        sec = _command_sec([*argv, "-o", out])
        Path(out, last).unlink()
        again_sec = _command_sec([*argv, "-o", out])
        if not Path(out, last).exists():
            raise SystemExit("the last picture has no file")
    return Row(images, open_sec, sec / images * 1e3, again_sec)


def _command_sec(argv: list[str]) -> float:
    """CPU seconds that a command takes in this process; its output is discarded."""
    from hyperinit.app.cli import main

    began = time.process_time()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        if main(argv):
            raise SystemExit(f"failed: hyperinit {' '.join(argv)}")
    return time.process_time() - began


WHAT = {"train": train, "fit": fit, "learn": learn, "generate": generate}


def measure(what: str, data: str, memory_mib: int) -> dict[str, float]:
    """A row for one set, in this process."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:  # what is imported lazily counts as before
        WHAT[what](write_shards(Path(folder), BATCH_IMAGES, 8), memory_mib)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row = WHAT[what](data, memory_mib)
    mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {**asdict(row), "mib": mib}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one row for each count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--side", type=int, default=8, help="side of the pictures in pixels (8)")
    parser.add_argument("--memory-mib", type=int, default=0, help="memory for pixels (0)")
    parser.add_argument("--what", choices=WHAT, nargs="+", default=["train"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(json.dumps(measure(arguments.what[0], arguments.one, arguments.memory_mib)))
        return 0
    print("| to | images | opened in s | ms | continued in s | MiB |")
    print("|---|---:|---:|---:|---:|---:|")
    for what, count in product(arguments.what, arguments.counts):
        with tempfile.TemporaryDirectory() as folder:
            data = write_shards(Path(folder), count, arguments.side)
            command = [sys.executable, __file__, "--one", data, "--what", what]
            command += ["--memory-mib", str(arguments.memory_mib)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout)
        again = "" if row["again_sec"] is None else f"{row['again_sec']:.1f}"
        print(
            f"| {what} | {row['images']:,} | {row['open_sec']:.1f} | {row['ms']:.1f}"
            f" | {again} | {row['mib']:.0f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
