"""A command line -> a trained init in a run directory, and its comparison: the common part of all
scripts that train.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from hyperinit.app.compare import comparison_size, free_name, run_comparison, write_comparison
from hyperinit.base.arguments import Parser
from hyperinit.base.errors import InputError, machine_errors
from hyperinit.base.extras import unsent_runs
from hyperinit.base.files import exclusive, make_directory, write_atomically
from hyperinit.base.outputs import check_directory, check_outside
from hyperinit.base.results import results
from hyperinit.base.settings import Presets, resolve, to_dict, to_toml
from hyperinit.base.terminal import exit_code as code_of
from hyperinit.base.terminal import forgiving_output, progress, say, stoppable
from hyperinit.fitting.suits import suitable_batch
from hyperinit.inits.rules import YARDSTICKS
from hyperinit.inits.start import Init, model_init, rule_init
from hyperinit.learn.config import LoopConfig, training_parser
from hyperinit.learn.images import Varied, crops_on, made_ahead
from hyperinit.learn.loop import Stop, train
from hyperinit.learn.rundir import (
    CONFIG_NAME,
    LOCK_NAME,
    MAY_CHANGE,
    as_edited,
    check_kept,
    check_not_continued,
    check_of_use,
    check_same_images,
    check_vacant,
    checkpoint_to_resume,
    clear,
    facts_of_images,
    with_absolute_data,
)
from hyperinit.learn.state import Batches, Task, TrainingImages, TrainState, load_state, new_state
from hyperinit.learn.tracking import Tracker, open_tracker, silent_tracker
from hyperinit.loggers.table import check_logger
from hyperinit.photos.load import NAMES, load, place_of
from hyperinit.photos.photographs import Photographs
from hyperinit.photos.workload import NamedImage, squares_and_quarters
from hyperinit.record.protocol import Protocol
from hyperinit.report.tables import comparison_table
from hyperinit.siren.device import choose_device, free_bytes
from hyperinit.siren.store import CHECKPOINT_NAME, tensors_hash
from hyperinit.spread.processes import Processes, launched

Config = TypeVar("Config", bound=LoopConfig)


@dataclass(frozen=True)
class Program(Generic[Config]):
    """A script that trains.

    Attributes:
        prog: Its name.
        description: Its docstring.
        task: What it trains.
        presets: Name -> settings; "default" is used if none is asked for.
        images: (photographs, config) -> the images it trains on.
        label: config -> the name of its init in comparisons.
        run_prefix: Prefix of the names of run directories.
        methods: The choices of `--method`, if the command has it.
    """

    prog: str
    description: str
    task: Task[Config, Any]
    presets: Presets
    images: Callable[[Photographs, Config], TrainingImages]
    label: Callable[[Config], str]
    run_prefix: str = ""
    methods: tuple[str, ...] = ()


def build(program: Program[Any]) -> Parser:
    """The command line: every setting of the task's config, and where the run goes."""
    task = program.task
    return training_parser(
        program.prog, program.description, task.config, program.presets, program.methods
    )


def run_command(argv: Sequence[str] | None, program: Program[Any]) -> int:
    """Returns the exit code: 0, 2 for bad input, 130, 143 or 129 when stopped by a signal."""
    parser = build(program)
    with forgiving_output():
        arguments = parser.parse_args(argv)
        try:
            with machine_errors(), launched() as processes:
                return stoppable(lambda: _run_command(arguments, program, processes))
        except InputError as error:
            parser.error(str(error))


def _run_command(arguments: argparse.Namespace, program: Program[Any], processes: Processes) -> int:
    """Does what the command line asks for: a new run, or a resumed one."""
    task, device = program.task, choose_device(arguments.device)
    if arguments.resume:
        # A resumed run must equal the uninterrupted one exactly, so it keeps its settings; only
        # those that cannot affect a result may change.
        checkpoint = checkpoint_to_resume(arguments.resume)
        state, config, info = load_state(checkpoint, task)
        check_kept(config, vars(arguments), state.step)
        run_dir = checkpoint.parent
        arguments.preset = "as stored"
        stored = to_dict(as_edited(config, run_dir / CONFIG_NAME, state.step))
        config = resolve(task.config, arguments, {"as stored": stored})
    else:
        arguments.preset = arguments.preset or "default"
        config = resolve(task.config, arguments, program.presets)
        name = f"{program.run_prefix}{arguments.preset}-{datetime.now():%Y%m%d-%H%M%S}"
        run_dir, state, info = arguments.out or Path("runs") / name, None, {}
        if processes.leads:
            check_vacant(run_dir)
            check_directory(run_dir, may_be_made=True)
        if config.data not in NAMES:
            check_outside(run_dir, [place_of(config.data)])
    check_of_use(config, vars(arguments))
    check_logger(config.log)
    config = with_absolute_data(config)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    return run(program, config, run_dir, state, info, device, processes)


def run(
    program: Program[Config],
    config: Config,
    run_dir: Path,
    state: TrainState | None,
    info: Mapping[str, Any],
    device: torch.device,
    processes: Processes,
) -> int:
    """Trains, compares and reports in a run directory.

    Args:
        state: The state of a resumed run.
        info: The facts in its checkpoint, including its images; empty for a new run.
        device: Where to train and compare.
        processes: The processes that share the training; the first one does everything else.
    """
    comparison_protocol(config)  # reports its errors before any work is done
    if device.type == "cpu":
        program.task.check_memory(config, processes.count)
    photos = _photographs(config, resumed=state is not None)
    if processes.leads:
        _describe(photos, config, processes)
    images = _on_device(program.images(photos, config), config, device)
    facts = facts_of_images(photos, images)
    check_same_images(config, info, facts)
    _check_alike(processes, config, images, state)
    if not processes.leads:
        return _help_training(program, config, images, state, device, processes)
    crops = squares_and_quarters(photos.held_out, config.size, config.compare_images)
    held_out = [replace(shown, image=shown.image.to(device)) for shown in crops]
    make_directory(run_dir)
    with exclusive(run_dir / LOCK_NAME):
        if state is None:
            clear(run_dir)
        else:
            check_not_continued(run_dir, program.task.kind, info)
        write_atomically(run_dir / CONFIG_NAME, to_toml(config).encode())
        tracker = _tracker(run_dir, config, state)
        exit_code = 1
        try:
            state = _moved(state or new_state(program.task, config), device)
            with Stop().on_signals() as stop:
                where = (images.batches, held_out, run_dir, tracker)
                train_visibly(state, config, *where, facts, stop, processes)
            exit_code = 0 if stop.signal is None else 128 + stop.signal
            _say_where(state, config, run_dir, stopped=exit_code != 0)
            if exit_code == 0 and held_out:
                init = model_init(program.label(config), state.model)
                compare(init, config, held_out, run_dir, tracker)
            tracker.log_artifact(program.task.name, run_dir / CHECKPOINT_NAME)
        except KeyboardInterrupt as error:  # a second one, or while comparing
            exit_code = code_of(error)
            again = f"; continue with --resume {shlex.quote(str(run_dir))}"
            say(f"stopped at once{again if (run_dir / CHECKPOINT_NAME).exists() else ''}")
        finally:
            tracker.finish(exit_code)
            say_unsent(run_dir)
    return exit_code


def _tracker(run_dir: Path, config: LoopConfig, state: TrainState | None) -> Tracker:
    """The run's log, without the entries of a step that will be logged again."""
    at = None if state is None else state.step - bool(state.unlogged)
    return open_tracker(run_dir, to_dict(config), config.wandb, resume_step=at, log=config.log)


def _say_where(state: TrainState, config: LoopConfig, run_dir: Path, *, stopped: bool) -> None:
    """Prints where a run was stopped, or ended by its time limit, and how to continue."""
    again = f"continue with --resume {shlex.quote(str(run_dir))}"
    if stopped:
        say(f"stopped at step {state.step}; {again}")
    elif state.step < config.max_steps:
        limit, at = config.time_limit_min, f"step {state.step} of {config.max_steps}"
        say(f"the time limit of {limit:g} min was reached at {at}; {again} --time-limit MINUTES")


def say_unsent(run_dir: Path) -> None:
    """Prints how to send what W&B wrote offline, if it did."""
    offline = unsent_runs(run_dir)
    if offline:
        say(f"W&B wrote offline; to send it: wandb login, then wandb sync {shlex.join(offline)}")


def _describe(photos: Photographs, config: LoopConfig, processes: Processes) -> None:
    """Prints what the run trains on, and with how many processes."""
    for name, reason in photos.skipped:
        say(f"skipped {name}: {reason}")
    say(
        f"{photos.name}: {len(photos.train)} images to train on, {len(photos.held_out)} held out, "
        f"{len(photos.skipped)} skipped"
    )
    if config.compare_images and not photos.held_out:
        say("no image is held out, so there is no evaluation and no comparison")
    if processes.count > 1:
        say(f"{processes.count} processes share the images of a step")


def _check_alike(
    processes: Processes, config: LoopConfig, images: TrainingImages, state: TrainState | None
) -> None:
    """Refuses processes that would not train the same thing."""
    settings = {k: v for k, v in to_dict(config).items() if k not in MAY_CHANGE}
    stands = state and (state.step, tensors_hash(state.model.state_dict()))
    seen = (images.hashes, images.weights)
    facts = {"settings": settings, "images": seen, "checkpoint": stands}
    processes.check_alike({what: repr(value) for what, value in facts.items()})


def _help_training(
    program: Program[Config],
    config: Config,
    images: TrainingImages,
    state: TrainState | None,
    device: torch.device,
    processes: Processes,
) -> int:
    """Everything that a process other than the first does: its part of every step."""
    state = _moved(state or new_state(program.task, config), device)
    where = (state, config, images.batches, torch.empty(0), Path(os.devnull), silent_tracker())
    with Stop().on_signals() as stop:
        train(*where, info={}, stop=stop, processes=processes)
    return 128 + stop.signal if stop.signal else 0


def _photographs(config: LoopConfig, *, resumed: bool) -> Photographs:
    """The photographs that a run trains on and is measured on."""
    try:
        return load(
            config.data,
            keep_side=4 * config.size,
            held_out_fraction=config.held_out_fraction,
            weights=config.folder_weights,
            limit=config.data_limit,
            group_tiles=config.group_tiles,
            split_by=config.split_by,
            memory_mib=config.data_memory_mib,
            profiles=config.color_profiles,
        )
    except InputError as error:
        if not resumed:
            raise
        raise InputError(f"{error}; say with --data where the run's images are now") from error


PHOTOS_SHARE = 0.25  # of a GPU's free memory that photographs may take


@dataclass(frozen=True)
class _DeviceBatches:
    """Batches of another source, moved to a device."""

    source: Batches
    device: torch.device

    def batch(self, step: int, batch_size: int) -> torch.Tensor:
        """See Batches."""
        return self.source.batch(step, batch_size).to(self.device)


def _on_device(images: TrainingImages, config: LoopConfig, device: torch.device) -> TrainingImages:
    """Training images on the training device, made there if it is a GPU with enough memory."""
    memory = int(PHOTOS_SHARE * (free_bytes(device) or 0))
    there = crops_on(images, device, memory) or made_ahead(images, config.data_workers)
    batches = Varied(there.batches, config.seed) if config.vary_colors else there.batches
    return replace(there, batches=_DeviceBatches(batches, device))


def _moved(state: TrainState, device: torch.device) -> TrainState:
    """A state whose model and optimiser are on a device; steps are counted on the CPU."""
    state.model.to(device)
    for values in state.optimizer.state.values():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.dim():
                values[name] = value.to(device)
    return state


def train_visibly(
    state: TrainState,
    config: LoopConfig,
    batches: Batches,
    held_out: list[NamedImage],
    run_dir: Path,
    tracker: Tracker,
    info: Mapping[str, Any],
    stop: Stop,
    processes: Processes,
) -> None:
    """The outer loop with a progress bar."""
    bar = progress(total=config.max_steps, initial=state.step, desc="training")

    def on_step(step: int, metrics: dict[str, float]) -> None:
        before, after = metrics["train/psnr_before"], metrics["train/psnr_after"]
        bar.set_postfix_str(
            f"loss {metrics['train/loss']:.3f}, PSNR {before:.1f} -> {after:.1f} dB", refresh=False
        )
        bar.update()

    with bar:
        train(
            state,
            config,
            batches,
            torch.stack([shown.image for shown in held_out]) if held_out else torch.empty(0),
            run_dir,
            tracker,
            info=info,
            stop=stop,
            on_step=on_step,
            processes=processes,
        )


def compare(
    init: Init,
    config: LoopConfig,
    held_out: list[NamedImage],
    run_dir: Path,
    tracker: Tracker,
) -> None:
    """Fits the held-out images from every init, and prints and writes the table.

    An existing comparison is kept: the next one is comparison-2.
    """
    protocol = comparison_protocol(config)
    inits = [*(rule_init(name, config.width, config.depth) for name in YARDSTICKS), init]
    fits = run_comparison(inits, held_out, protocol, seed=config.seed)
    total = comparison_size(len(inits), len(held_out), protocol)
    done = list(progress(fits, total=total, desc="comparing"))
    table = comparison_table(fit.record for fit in done)
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
    cells = [{"run": str(run_dir), "cells": dict(zip(rows[0], r, strict=True))} for r in rows[2:]]
    results("comparison", table, cells)  # before the rest, which a full disk may end
    name = free_name(run_dir)
    write_comparison(done, held_out, run_dir, name)
    tracker.log_table(name, rows[0], rows[2:])
    made = [each for each in (f"{name}.jsonl", f"{name}.png") if (run_dir / each).exists()]
    say(f"this table is {run_dir}/{name}.md, with {' and '.join(made)}")


def comparison_protocol(config: LoopConfig) -> Protocol:
    """The protocol of a run's comparison.

    Raises:
        InputError: one of its settings is out of range.
    """
    try:
        return Protocol(
            image_size=config.size,
            width=config.width,
            depth=config.depth,
            batch_pixels=suitable_batch(config.size**2),
            budgets_epochs=config.compare_budgets,
            lrs=config.compare_lrs,
            # The best rate of a learned start rises with the budget, so each budget has its own.
            lr_budget_epochs=max(config.compare_budgets, default=1.0),
        )
    except InputError as error:
        reason = str(error).replace("budgets_epochs", "compare_budgets")
        raise InputError(reason if reason.startswith("compare") else f"compare_{reason}") from error
