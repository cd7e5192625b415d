"""Meta-trains a hypernetwork and compares its inits with paper, 22 and 33 on held-out images.

    python scripts/meta_train.py                          built-in photographs, about 8 minutes
    python scripts/meta_train.py --data DIR               any directory of images
    python scripts/meta_train.py --preset base --data DIR the seed's 224x224 and SIREN 5x256; hours
    python scripts/meta_train.py --resume runs/NAME       goes on, exactly where it stopped

Writes into a new directory below runs/: config.toml, metrics.jsonl, checkpoint.safetensors, and at
the end comparison.md, .jsonl, .png and thumbnails for scripts/report.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import datasets
from datasets.workload import squares_and_quarters
from hyperinit.compare import comparison_size, run_comparison, write_comparison
from hyperinit.config import Parser, build_parser, resolve, to_dict, to_toml
from hyperinit.errors import InputError
from hyperinit.hypernet import HyperNetwork
from hyperinit.init import NAMED_INITS
from hyperinit.protocol import Protocol
from hyperinit.store import exclusive, make_directory, write_atomically
from hyperinit.tracking import Tracker, open_tracker
from hyperinit.training import (
    CHECKPOINT_NAME,
    Stop,
    TrainConfig,
    TrainState,
    load_state,
    meta_train,
    new_state,
)
from hyperinit.trial import NamedImage, hyper_init, spec_init

PRESETS: dict[str, dict[str, Any]] = {
    # 96x96, SIREN 4x128, built-in photographs: shows something in ten minutes on two cores.
    "default": {"time_limit_min": 5.0},
    # The seed experiment's own problem.
    "base": {
        "size": 224,
        "width": 256,
        "depth": 5,
        "inner_pixels": 2048,
        "query_pixels": 2048,
        "max_steps": 20000,
        "compare_lrs": (1.25e-4, 2.5e-4, 5e-4),
    },
    # Seconds: to see that everything works.
    "tiny": {
        "size": 16,
        "width": 16,
        "depth": 2,
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
        "compare_images": 1,
        "compare_budgets": (1.0, 2.0),
        "compare_lrs": (1e-3,),
    },
}


def build() -> Parser:
    """The command line: every setting of TrainConfig, and where the run goes."""
    text = (__doc__ or "").split("\n", 1)
    parser = Parser(prog="meta_train.py", description=text[0])
    parser.add_argument("--out", type=Path, help="run directory (default: runs/PRESET-DATE-TIME)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="run directory to go on with")
    parser.add_argument(
        *("--time-limit",),
        dest="time_limit_min",
        metavar="MINUTES",
        default=argparse.SUPPRESS,
        help="the same as --time-limit-min",
    )
    return build_parser(TrainConfig, PRESETS, parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 2 for bad input, 130 or 143 when stopped by a signal."""
    parser = build()
    arguments = parser.parse_args(argv)
    try:
        if arguments.resume:
            # A resumed run must repeat the uninterrupted one exactly, so it keeps its settings;
            # only what cannot move a result may be given anew.
            state, config, info = load_state(arguments.resume / CHECKPOINT_NAME)
            given = {k: v for k, v in vars(arguments).items() if v not in (None, False)}
            extra = set(given) - {"resume", "time_limit_min", "checkpoint_sec", "wandb"}
            if extra:
                flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(extra))
                raise InputError(f"--resume keeps the run's own settings: leave out {flags}")
            new = resolve(TrainConfig, arguments, PRESETS)
            config = replace(config, **{k: getattr(new, k) for k in given if k != "resume"})
            run_dir = arguments.resume
        else:
            arguments.preset = arguments.preset or "default"
            config = resolve(TrainConfig, arguments, PRESETS)
            name = f"{arguments.preset}-{datetime.now():%Y%m%d-%H%M%S}"
            run_dir, state, info = arguments.out or Path("runs") / name, None, {}
            if run_dir.exists() and any(run_dir.iterdir()):
                raise InputError(f"{run_dir} is not empty: choose another --out, or --resume it")
        torch.set_num_threads(config.threads or torch.get_num_threads())
        return run(config, run_dir, state, info.get("train_hashes"))
    except KeyboardInterrupt:  # before there was anything to lose
        return 130
    except InputError as error:
        parser.error(str(error))


def run(
    config: TrainConfig, run_dir: Path, state: TrainState | None, train_hashes: list[str] | None
) -> int:
    """Trains, compares and reports in a run directory.

    Args:
        state: Where a resumed run stands.
        train_hashes: The images that a resumed run was trained on so far.
    """
    photos = datasets.load(
        config.data,
        keep_side=4 * config.size,
        held_out_fraction=config.held_out_fraction,
        weights=config.folder_weights,
        limit=config.data_limit,
    )
    for name, reason in photos.skipped:
        say(f"skipped {name}: {reason}")
    held_out = squares_and_quarters(photos.held_out, config.size, config.compare_images)
    say(
        f"{photos.name}: {len(photos.train)} images to train on, {len(photos.held_out)} held out, "
        f"{len(photos.skipped)} skipped"
    )
    if train_hashes is not None and train_hashes != [photo.hash for photo in photos.train]:
        raise InputError(f"{config.data}: not the training images this run began with")
    make_directory(run_dir)
    with exclusive(run_dir / ".lock"):
        write_atomically(run_dir / "config.toml", to_toml(config).encode())
        resume_step = None if state is None else state.step
        tracker = open_tracker(run_dir, to_dict(config), config.wandb, resume_step=resume_step)
        exit_code = 1
        try:
            state = state or new_state(config)
            with Stop().on_signals() as stop:
                train(state, config, photos, held_out, run_dir, tracker, stop)
            exit_code = 0 if stop.signal is None else 128 + stop.signal
            if exit_code:
                say(f"stopped at step {state.step}; go on with --resume {run_dir}")
            elif held_out:
                compare(state.hyper, config, held_out, run_dir, tracker)
            tracker.log_artifact("hypernetwork", run_dir / CHECKPOINT_NAME)
        except KeyboardInterrupt:  # while comparing; the checkpoint is written
            exit_code = 130
            say(f"stopped; compare with --resume {run_dir}")
        finally:
            tracker.finish(exit_code)
    return exit_code


def train(
    state: TrainState,
    config: TrainConfig,
    photos: datasets.Photographs,
    held_out: list[NamedImage],
    run_dir: Path,
    tracker: Tracker,
    stop: Stop,
) -> None:
    """The outer loop under a progress bar."""
    bar = progress(total=config.max_steps, initial=state.step, desc="meta-training")

    def on_step(step: int, metrics: dict[str, float]) -> None:
        before, after = metrics["train/psnr_before"], metrics["train/psnr_after"]
        bar.set_postfix_str(
            f"loss {metrics['train/loss']:.3f}, PSNR {before:.1f} -> {after:.1f} dB", refresh=False
        )
        bar.update()

    with bar:
        meta_train(
            state,
            config,
            datasets.CropSampler(photos.train, config.size, seed=config.seed),
            torch.stack([shown.image for shown in held_out]) if held_out else torch.empty(0),
            run_dir,
            tracker,
            info={"train_hashes": [photo.hash for photo in photos.train]},
            stop=stop,
            on_step=on_step,
        )


def compare(
    hyper: HyperNetwork,
    config: TrainConfig,
    held_out: list[NamedImage],
    run_dir: Path,
    tracker: Tracker,
) -> None:
    """Fits the held-out images from every init, and prints and writes the table."""
    protocol = Protocol(
        image_size=config.size,
        width=config.width,
        depth=config.depth,
        budgets_epochs=config.compare_budgets,
        lrs=config.compare_lrs,
        # The best rate of a learned start rises with the budget: every budget has its own choice.
        lr_budget_epochs=max(config.compare_budgets),
    )
    inits = [spec_init(n, spec, config.width, config.depth) for n, spec in NAMED_INITS.items()]
    inits.append(hyper_init("hyper", hyper))
    fits = run_comparison(inits, held_out, protocol, seed=config.seed)
    total = comparison_size(len(inits), len(held_out), protocol)
    table = write_comparison(list(progress(fits, total=total, desc="comparing")), held_out, run_dir)
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
    tracker.log_table("comparison", rows[0], rows[2:])
    print(table)
    say(f"the same as {run_dir}/comparison.md, with comparison.jsonl and comparison.png")


def progress(*arguments: Any, **settings: Any) -> Any:
    """A progress bar on stderr; a line every half minute where that is not a terminal."""
    return tqdm(*arguments, mininterval=0.5 if sys.stderr.isatty() else 30, **settings)


def say(text: str) -> None:
    """A line for the user, beside the progress bar."""
    tqdm.write(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
