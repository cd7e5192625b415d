"""What a data set costs in memory and time, whatever its size: shards of pictures made on the fly.

    python benchmarks/data.py                              1,000 to 100,000 pictures of 8 x 8
    python benchmarks/data.py --counts 1000 --side 224     fewer and larger ones

    python benchmarks/data.py --what fit generate          a tiny SIREN for each of them, in a file

For every count a process of its own opens the set. To train, that is with no memory for pixels, so
that each picture is read again when it is drawn, and batches of 32 are made; `ms` is of one batch.
To fit and to generate, each picture is given its file; `ms` is of one picture. `MiB` is the most
memory that the process had beyond what it had before it opened the set.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before any install

BATCHES, BATCH_IMAGES, SHARD_IMAGES = 20, 32, 10_000


def write_shards(folder: Path, count: int, side: int) -> str:
    """Noise of so many pictures, each another; returns what `--data` takes."""
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
    """What one set took.

    Attributes:
        images: In it.
        open_sec: Until it was open.
        ms: Of one batch, or of one picture.
    """

    images: int
    open_sec: float
    ms: float


def train(data: str, memory_mib: int) -> Row:
    """Opens a set and makes batches."""
    from hyperinit.photos.load import load
    from hyperinit.photos.photographs import CropSampler

    began = time.perf_counter()
    photos = load(data, memory_mib=memory_mib)
    opened = time.perf_counter()
    sampler = CropSampler(photos.train, 8, seed=0)
    for step in range(BATCHES):
        sampler.batch(step, BATCH_IMAGES)
    batch_ms = (time.perf_counter() - opened) / BATCHES * 1e3
    return Row(len(photos.train) + len(photos.held_out), opened - began, batch_ms)


def _each(data: str, work: Callable[[Any, str, Any], int]) -> Row:
    """Opens a set and gives every picture a file."""
    from hyperinit.inits.rules import named_init
    from hyperinit.inits.start import spec_init
    from hyperinit.photos.load import open_source

    init = spec_init("33", named_init("33"), 4, 1)
    began = time.perf_counter()
    source = open_source(data)
    opened = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        images = work(source, out, init)
    return Row(images, opened - began, (time.perf_counter() - opened) / images * 1e3)


def fit(data: str, memory_mib: int) -> Row:
    """Fits a SIREN of four units to every picture."""
    from hyperinit.sets.directory import fit_directory

    how: dict[str, Any] = {"budget_epochs": 1, "engine": "eager", "eval_epochs": ()}
    return _each(data, lambda source, out, init: fit_directory(source, out, init, **how).fitted)


def generate(data: str, memory_mib: int) -> Row:
    """Writes a start of four units for every picture."""
    from hyperinit.sets.starts import generate_set

    return _each(data, lambda source, out, init: generate_set(source, out, init).made)


WHAT = {"train": train, "fit": fit, "generate": generate}


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
    parser.add_argument("--side", type=int, default=8, help="of the pictures, in pixels (8)")
    parser.add_argument("--memory-mib", type=int, default=0, help="for pixels (0)")
    parser.add_argument("--what", choices=WHAT, nargs="+", default=["train"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(json.dumps(measure(arguments.what[0], arguments.one, arguments.memory_mib)))
        return 0
    print("| to | images | opened in s | ms | MiB |")
    print("|---|---:|---:|---:|---:|")
    for what, count in product(arguments.what, arguments.counts):
        with tempfile.TemporaryDirectory() as folder:
            data = write_shards(Path(folder), count, arguments.side)
            command = [sys.executable, __file__, "--one", data, "--what", what]
            command += ["--memory-mib", str(arguments.memory_mib)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout)
        print(
            f"| {what} | {row['images']:,} | {row['open_sec']:.1f} | {row['ms']:.1f}"
            f" | {row['mib']:.0f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
