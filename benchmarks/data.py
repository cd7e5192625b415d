"""What a data set costs in memory and time, whatever its size: shards of pictures made on the fly.

    python benchmarks/data.py                              1,000 to 100,000 pictures of 8 x 8
    python benchmarks/data.py --counts 1000 --side 224     fewer and larger ones

For every count a process of its own opens the set with no memory for pixels, so that each picture
is read again when it is drawn, and then makes batches of 32. `MiB` is the most memory that it had
beyond what it had before it opened the set.
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
from collections.abc import Sequence
from pathlib import Path

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


def measure(data: str, memory_mib: int) -> dict[str, float]:
    """Opens a set and makes batches, in this process."""
    import torch

    from hyperinit.photos.load import load
    from hyperinit.photos.photographs import CropSampler

    torch.set_num_threads(1)
    load("synthetic", limit=2)  # what is imported lazily counts as before
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    photos = load(data, memory_mib=memory_mib)
    opened = time.perf_counter()
    sampler = CropSampler(photos.train, 8, seed=0)
    for step in range(BATCHES):
        sampler.batch(step, BATCH_IMAGES)
    return {
        "images": len(photos.train) + len(photos.held_out),
        "held_out": len(photos.held_out),
        "open_sec": opened - began,
        "batch_ms": (time.perf_counter() - opened) / BATCHES * 1e3,
        "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one row for each count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--side", type=int, default=8, help="of the pictures, in pixels (8)")
    parser.add_argument("--memory-mib", type=int, default=0, help="for pixels (0)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.memory_mib)))
        return 0
    print("| images | held out | opened in s | ms a batch of 32 | MiB |")
    print("|---:|---:|---:|---:|---:|")
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as folder:
            data = write_shards(Path(folder), count, arguments.side)
            command = [sys.executable, __file__, "--one", data]
            command += ["--memory-mib", str(arguments.memory_mib)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout)
        print(
            f"| {row['images']:,} | {row['held_out']:,} | {row['open_sec']:.1f} "
            f"| {row['batch_ms']:.1f} | {row['mib']:.0f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
