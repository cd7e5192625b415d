"""How long photographs take to be read and reduced, and what memory that takes.

    python benchmarks/images.py                        one thread, a photograph of 4000 x 3000
    python benchmarks/images.py --height 6000 --width 8000 --repeats 5

Prints a Markdown table: the median of the repeats. Time on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hyperinit.images.decode import load_image
from hyperinit.images.pixels import image_hash, resize, square_crop
from hyperinit.images.save import save_image
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.photos.load import load
from hyperinit.photos.workload import images_to_test
from hyperinit.siren.network import render


def median_sec(function: Callable[[], Any], repeats: int) -> float:
    """Of a call, after one that is not timed."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def peak_mib() -> float:
    """The most memory that the process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--size", type=int, default=224, help="side that is reduced to")
    parser.add_argument("--photographs", type=int, default=12, help="in the directory")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    height, width, size = arguments.height, arguments.width, arguments.size
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 60, 80, generator=generator)
    image = resize(coarse, height, width)
    spec = named_init("33")
    siren = sample_params(spec, spec.siren_config(64, 3), generator=generator)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        save_image(image, directory / "0.jpg")
        for i in range(1, arguments.photographs):
            (directory / f"{i}.jpg").write_bytes((directory / "0.jpg").read_bytes())
        source = str(directory)
        rows: dict[str, Callable[[], Any]] = {
            f"area average to {size} x {size}": lambda: resize(image, size, size),
            "the same, (H, W, 3) in memory": lambda: resize(
                image.permute(1, 2, 0).contiguous().permute(2, 0, 1), size, size
            ),
            f"centre square to {size}": lambda: square_crop(image, size),
            "area average to half": lambda: resize(image, height // 2, width // 2),
            "decode the JPEG": lambda: load_image(directory / "0.jpg"),
            "hash": lambda: image_hash(image),
            "SIREN 3 x 64 drawn at 1500 x 2000": lambda: render(siren, 1500, 2000),
            f"{arguments.photographs} of them for a benchmark": lambda: images_to_test(
                [source], size, None
            ),
            f"{arguments.photographs} of them to train on": lambda: load(
                source, keep_side=4 * size
            ),
        }
        print(f"{width} x {height} pixels, one thread\n\n| what | CPU s | peak MiB so far |")
        print("| --- | ---: | ---: |")
        for what, function in rows.items():
            seconds = median_sec(function, arguments.repeats)
            print(f"| {what} | {seconds:.3f} | {peak_mib():.0f} |", flush=True)


if __name__ == "__main__":
    main()
