"""The time and memory that reading and resizing photographs takes.

    python benchmarks/images.py                        one thread, a photograph of 4000 x 3000
    python benchmarks/images.py --height 6000 --width 8000 --repeats 5

Prints two Markdown tables: operations on one photograph (medians of the repeats), and what
`benchmark` and `meta-train` do to load a directory of them (once, each in a separate process for
its peak memory). Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from hyperinit.images.decode import load_image
from hyperinit.images.pixels import image_hash, resize, square_crop
from hyperinit.images.save import save_image
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.photos.load import load
from hyperinit.photos.workload import images_to_test
from hyperinit.record.protocol import Protocol
from hyperinit.siren.network import render


def median_sec(function: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, after an untimed one."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def peak_mib() -> float:
    """The peak memory of the process so far, or since `forget_peak`."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak() -> None:
    """Resets the peak to the current memory, if the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def imported(directory: str) -> None:
    """Does nothing: only the imports."""


def to_test(directory: str) -> None:
    """`hyperinit benchmark --images DIR`."""
    images_to_test([directory], Protocol().image_size, None)


def to_test_two(directory: str) -> None:
    """`hyperinit benchmark --images DIR --limit 2`, where the first image cannot be read."""
    found, skipped = images_to_test([directory], Protocol().image_size, 2)
    assert len(found) == 2 and len(skipped) == 1, (len(found), skipped)


def to_train(directory: str) -> None:
    """`hyperinit meta-train --data DIR`, with its presets for squares of 96 pixels."""
    load(directory, keep_side=4 * 96)


def to_train_two(directory: str) -> None:
    """`hyperinit meta-train --data DIR --data-limit 2`, where the first image cannot be read."""
    found = load(directory, keep_side=4 * 96, limit=2, held_out_fraction=0)
    assert len(found.train) == 2, found.train


LOADERS: dict[str, Callable[[str], None]] = {
    "nothing: the imports alone": imported,
    "for `benchmark`": to_test,
    "for `benchmark --limit 2`": to_test_two,
    "for `meta-train`": to_train,
    "for `meta-train --data-limit 2`": to_train_two,
}


def measured(function: Callable[[str], None], directory: str) -> tuple[float, float]:
    """CPU seconds of a call in this process, and the process's peak memory in MiB."""
    forget_peak()
    start = time.process_time()
    function(directory)
    return time.process_time() - start, peak_mib()


def alone(function: Callable[[str], None], directory: str) -> tuple[float, float]:
    """The same in a new process."""
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        return pool.submit(measured, function, directory).result()


def write_photographs(name: str, count: int, height: int, width: int) -> None:
    """Writes different photographs as JPEG files, and before them a file that is not an image."""
    directory = Path(name)
    (directory / "0.jpg").write_bytes(b"not a photograph")
    for i in range(1, count + 1):
        coarse = torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(i))
        save_image(resize(coarse, height, width), directory / f"{i}.jpg")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--size", type=int, default=224, help="side to resize to")
    parser.add_argument("--photographs", type=int, default=12, help="photographs in a directory")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    height, width, size = arguments.height, arguments.width, arguments.size
    print(f"{width} x {height} pixels, one thread\n")
    print("| what is loaded | photographs | CPU s | peak MiB |\n| --- | ---: | ---: | ---: |")
    for count in (max(arguments.photographs // 2, 2), arguments.photographs):
        with tempfile.TemporaryDirectory() as name:
            alone(partial(write_photographs, count=count, height=height, width=width), name)
            for what, function in LOADERS.items():
                seconds, mib = alone(function, name)
                print(f"| {what} | {count} | {seconds:.2f} | {mib:.0f} |", flush=True)
    print(flush=True)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 60, 80, generator=generator)
    image = resize(coarse, height, width)
    spec = named_init("33")
    siren = sample_params(spec, spec.siren_config(64, 3), generator=generator)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        save_image(image, directory / "0.jpg")
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
        }
        print("| what | CPU s | peak MiB so far |")
        print("| --- | ---: | ---: |")
        for what, function in rows.items():
            seconds = median_sec(function, arguments.repeats)
            print(f"| {what} | {seconds:.3f} | {peak_mib():.0f} |", flush=True)


if __name__ == "__main__":
    main()
