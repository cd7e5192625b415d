"""What tests train with several processes; `python share_training.py OUT` is one of these."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from socket import socket

import torch
from conftest import smooth_image

from hyperinit.base.errors import InputError
from hyperinit.base.settings import from_dict
from hyperinit.learn.loop import Stop, train
from hyperinit.learn.reptile import PRESETS, REPTILE, ReptileConfig
from hyperinit.learn.state import load_state, new_state
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.learn.tracking import open_tracker, silent_tracker
from hyperinit.siren.store import CHECKPOINT_NAME
from hyperinit.spread.processes import ALONE, Processes, launched

SIZES = {"size": 8, "width": 16, "depth": 2, "max_steps": 4, "wandb": "disabled"}
SIZES |= {"schedule": "constant"}  # which does not depend on max_steps
HYPER = TrainConfig(
    **SIZES,
    encoder_size=8,
    channels=4,
    code_size=16,
    rank=2,
    inner_steps=2,
    inner_pixels=32,
    query_pixels=32,
    warmup_steps=2,
    residual_penalty=0.1,
)
LEARNED = from_dict(ReptileConfig, {**PRESETS["tiny"], **SIZES, "read_numbers": 3}, source="test")

# Name -> what is trained. Of three images one process has two and one has one; of one image, none.
RUNS = {
    "hyper-3": (HYPERNETWORK, replace(HYPER, batch_images=3)),
    "hyper-1": (HYPERNETWORK, replace(HYPER, batch_images=1)),
    "reptile-3": (REPTILE, replace(LEARNED, batch_images=3)),
}


class Images:
    """A pure function of the step."""

    def batch(self, step, batch_size):
        return torch.stack([smooth_image(8, seed=10 * step + i) for i in range(batch_size)])


def run(out: Path, name: str, processes: Processes = ALONE, stop=None, on_step=None, steps=None):
    """Trains one of RUNS in a directory of its name, or continues what is there."""
    task, config = RUNS[name]
    config, run_dir = replace(config, max_steps=steps or config.max_steps), out / name
    if (run_dir / CHECKPOINT_NAME).exists():
        state, *_ = load_state(run_dir / CHECKPOINT_NAME, task)
    else:
        state = new_state(task, config)
    step = state.step or None
    leads = processes.leads
    tracker = open_tracker(run_dir, {}, "disabled", resume_step=step) if leads else silent_tracker()
    held_out = torch.stack([smooth_image(8, seed=7)]) if leads else torch.empty(0)
    where = (state, config, Images(), held_out, run_dir, tracker)
    on_step = on_step or (lambda step, metrics: None)
    how = {"info": {"train_hashes": []}, "stop": stop or Stop(), "on_step": on_step}
    try:
        train(*where, **how, processes=processes)
    finally:
        tracker.finish()
    return state


def everything(out: Path, processes: Processes) -> None:
    """All that is shown about two processes, one after the other, as they start slowly."""
    for name in RUNS:
        run(out, name, processes)
    processes.greatest(0)  # the last checkpoint is there
    run(out, "reptile-3", processes, steps=6)  # resumed

    stop = Stop()

    def on_step(step, metrics):
        if step == 2 and processes.rank == 1:
            stop.signal = 15

    state = run(out / "stopped", "hyper-3", processes, stop, on_step)
    (out / f"stopped-{processes.rank}").write_text(f"{state.step} {stop.signal}")
    try:
        processes.check_alike({"images": "these", "settings": str(processes.rank)})
    except InputError as error:
        (out / f"unlike-{processes.rank}").write_text(str(error))

    def die(step, metrics):
        if step == 2 and processes.rank == 1:
            os._exit(9)

    try:
        run(out / "lost", "hyper-3", processes, on_step=die)
    except InputError as error:
        (out / f"lost-{processes.rank}").write_text(str(error))


def start(count: int, *command: str, **settings) -> list[subprocess.Popen]:
    """Starts a command in so many processes that find each other, as torchrun does."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    root = str(Path(__file__).parent.parent)
    place |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **place, "RANK": str(rank)},
            **pipes,
            **settings,
        )
        for rank in range(count)
    ]


if __name__ == "__main__":
    with launched() as found:
        everything(Path(sys.argv[1]), found)
