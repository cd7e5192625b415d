"""How much faster two processes meta-train than one: seconds per outer step, on idle cores.

    python benchmarks/processes.py                     one process and two, 96 x 96, 8 images a step
    python benchmarks/processes.py --processes 1 2 4   more of them
    python benchmarks/processes.py --size 32 --steps 4 --rounds 1   checks that it works

Every process has one thread. Rounds alternate between the numbers of processes, because the
machine's load changes. A row has the median of the rounds, and the speed-up over the first row. The
first steps of every run are not timed.

`apart` is the most that the machine allows: the same number of processes at once, each training on
its part of the images alone, so that none waits for another and no gradients are summed.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before any install

WARM_UP_STEPS = 2


def worker(size: int, batch_images: int, steps: int) -> None:
    """Trains the default network in this process's part of a run; the first prints seconds."""
    import torch

    from hyperinit.learn.loop import Stop, train
    from hyperinit.learn.state import new_state
    from hyperinit.learn.task import HYPERNETWORK, TrainConfig
    from hyperinit.learn.tracking import silent_tracker
    from hyperinit.photos.load import load
    from hyperinit.photos.photographs import CropSampler
    from hyperinit.spread.processes import launched

    torch.set_num_threads(1)
    last = WARM_UP_STEPS + steps
    config = TrainConfig(
        size=size,
        batch_images=batch_images,
        max_steps=last,
        eval_steps=10 * last,
        checkpoint_sec=1e9,
        wandb="disabled",
    )
    photos = load("synthetic", limit=2 * batch_images, held_out_fraction=0)
    sampler = CropSampler(photos.train, size, seed=0)
    ends: list[float] = []
    with launched() as processes, tempfile.TemporaryDirectory() as folder:
        train(
            new_state(HYPERNETWORK, config),
            config,
            sampler,
            torch.empty(0),
            Path(folder),
            silent_tracker(),
            info={"train_hashes": []},
            stop=Stop(),
            on_step=lambda step, metrics: ends.append(time.perf_counter()),
            processes=processes,
        )
        if processes.leads:
            print(json.dumps((ends[last - 1] - ends[WARM_UP_STEPS - 1]) / steps))


def step_sec(count: int, arguments: argparse.Namespace, apart: bool = False) -> float:
    """Starts `count` processes; returns the seconds of an outer step.

    Args:
        count: Number of processes.
        arguments: The parsed command line.
        apart: Whether each trains its part of the images alone; the slowest counts.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = 1 if apart else count
    found = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    images = arguments.batch_images // count if apart else arguments.batch_images
    one = [sys.executable, __file__, "--one", "--size", str(arguments.size)]
    one += ["--batch-images", str(images), "--steps", str(arguments.steps)]
    processes = [
        subprocess.Popen(
            one,
            env={**os.environ, **found, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"a run of {count} processes failed")
    return max(float(text) for text in printed if text)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one row for each number of processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels (96)")
    parser.add_argument("--batch-images", type=int, default=8, help="images per outer step (8)")
    parser.add_argument("--steps", type=int, default=30, help="timed steps per run (30)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        worker(arguments.size, arguments.batch_images, arguments.steps)
        return 0
    sec: dict[tuple[int, bool], list[float]] = {
        (count, apart): [] for count in arguments.processes for apart in (False, True)
    }
    del sec[arguments.processes[0], True]  # nothing to be apart from, where that is 1
    for _ in range(arguments.rounds):
        for (count, apart), found in sec.items():
            found.append(step_sec(count, arguments, apart))
    print("| processes | s a step | times as fast | rounds, s |\n|---:|---:|---:|---|")
    first = statistics.median(sec[arguments.processes[0], False])
    for (count, apart), found in sec.items():
        middle, rounds = statistics.median(found), ", ".join(f"{one:.3f}" for one in found)
        label = f"{count}, apart" if apart else count
        print(f"| {label} | {middle:.3f} | {first / middle:.2f} | {rounds} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
