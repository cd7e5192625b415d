"""Batches of images -> a trained module, in a run directory that survives being killed.

The loop under every training: what is trained and what it descends is a `Task`.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from hyperinit.base.errors import InputError
from hyperinit.base.settings import check, from_dict, option, to_dict
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.learn.tracking import Tracker
from hyperinit.siren.network import Params, predict, preview
from hyperinit.siren.store import CHECKPOINT_NAME, load_module, load_tensors, save_tensors

MAX_SKIPPED = 20


@dataclass(frozen=True)
class LoopConfig:
    """What every training run has to decide; a task's own config adds to it."""

    data: str = option("builtin", "builtin, synthetic, torchvision:NAME, or a directory of images")
    data_weights: tuple[str, ...] = option((), "sampling weight of sub-folders: clothing=0.1,...")
    data_limit: int | None = option(None, "use at most this many images")
    held_out_fraction: float | None = option(None, "of a directory's photographs; none: 0.05")
    size: int = option(96, "side of the square training images, in pixels", at_least=4)
    width: int = option(128, "units of the SIREN's sine layers")
    depth: int = option(4, "number of the SIREN's sine layers")
    base_init: str = option("33", "hand-designed init that the learned base starts from")
    max_steps: int = option(
        1500, "outer steps of the whole run; the rates decay over these", at_least=1
    )
    batch_images: int = option(4, "images per outer step", at_least=1)
    query_pixels: int = option(
        1024, "pixels per image on which the outer loss is measured", at_least=1
    )
    lr: float = option(1e-3, "learning rate of the outer loop", above=0)
    step_size_lr: float = option(2e-2, "learning rate of the inner step sizes, if learned", above=0)
    warmup_steps: int = option(50, "outer steps over which the rates rise", at_least=0)
    schedule: Literal["cosine", "linear", "step", "constant"] = option(
        "cosine", "of the rates: down to 0, or to a tenth for the last fifth (step)"
    )
    clip_norm: float | None = option(1.0, "largest norm of the outer gradient; none: any", above=0)
    skip_norm: float | None = option(
        5.0, "skip steps whose gradient is so many times its usual norm; none: never", above=0
    )
    time_limit_min: float | None = option(
        None, "stop (and compare) after so many minutes of training, resumed parts included"
    )
    checkpoint_sec: float = option(120.0, "seconds between checkpoints", above=0)
    eval_steps: int = option(100, "outer steps between evaluations on held-out images", at_least=1)
    compare_budgets: tuple[float, ...] = option((2.0, 8.0, 32.0), "budgets of the comparison")
    compare_lrs: tuple[float, ...] = option((2.5e-4, 5e-4, 1e-3), "its learning rates")
    compare_images: int = option(6, "its held-out images; 0: no comparison", at_least=0)
    seed: int = option(0, "of the base init, the batches and the pixels")
    threads: int | None = option(None, "CPU threads; none: torch's default")
    wandb: Literal["auto", "online", "offline", "disabled"] = option(
        "auto", "auto: online with a key, else offline"
    )

    def __post_init__(self) -> None:
        check(self)
        self.folder_weights  # noqa: B018  checks its own fields

    @property
    def folder_weights(self) -> dict[str, float]:
        """`data_weights`, parsed."""
        weights = {}
        for entry in self.data_weights:
            folder, _, weight = entry.rpartition("=")
            try:
                weights[folder] = float(weight)
            except ValueError:
                weights[folder] = -1.0
            if not folder or not weights[folder] >= 0:
                raise InputError(f"data_weights: {entry!r} is not of the form clothing=0.1")
        return weights


class Batches(Protocol):
    """Where training images come from: a pure function of the step, so that resuming is exact."""

    def batch(self, step: int, batch_size: int) -> Tensor:
        """Images (batch_size, 3, size, size) in [0, 1] of one outer step."""


@dataclass(frozen=True)
class TrainingImages:
    """What a run trains on.

    Attributes:
        batches: Where its images come from.
        hashes: Of the photographs it sees, which its init may not be tested on.
    """

    batches: Batches
    hashes: list[str]


@dataclass(frozen=True)
class StepResult:
    """The loss of one outer step, to be differentiated, and what to log of it.

    Errors are means over the images, before and after the inner steps or the fit of the step: MSE
    in normalised units, PSNR in dB.
    """

    loss: Tensor
    mse_before: float
    mse_after: float
    psnr_before: float
    psnr_after: float


Config = TypeVar("Config", bound=LoopConfig)
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Task(Generic[Config, Model]):
    """What is trained, and what it descends.

    Attributes:
        name: Of what is trained, in logs.
        kind: Of its checkpoints, see `store.save_tensors`.
        prefix: Of the model's tensors in them.
        config: Type of its config.
        build: config -> a fresh model; its `facts` go into checkpoints.
        optimizer: (model, config) -> its optimiser; the rates it has are scaled by `rate`.
        loss: (model, config, images (B, 3, H, W), generator) -> the step's loss and errors.
        starts: (model, held-out images) -> named inits to evaluate, one an image; and further
            numbers to log.
    """

    name: str
    kind: str
    prefix: str
    config: type[Config]
    build: Callable[[Config], Model]
    optimizer: Callable[[Model, Config], torch.optim.Optimizer]
    loss: Callable[[Model, Config, Tensor, torch.Generator], StepResult]
    starts: Callable[[Model, Tensor], tuple[dict[str, Sequence[Params]], dict[str, float]]]


@dataclass
class TrainState:
    """Everything that changes while training; saved whole, so that resuming is bit-exact."""

    task: Task[Any, Any]
    model: Any
    optimizer: torch.optim.Optimizer
    step: int = 0
    train_sec: float = 0.0
    usual_norm: float = 0.0  # geometric moving average of the outer gradient's; 0: not known yet
    skipped_in_a_row: int = 0


_PROGRESS = ("step", "train_sec", "usual_norm", "skipped_in_a_row")  # of a TrainState


def new_state(task: Task[Config, Any], config: Config) -> TrainState:
    """A fresh model and its optimiser."""
    model = task.build(config)
    optimizer = task.optimizer(model, config)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return TrainState(task, model, optimizer)


def rate(step: int, config: LoopConfig) -> float:
    """Factor on all learning rates: a linear rise, then the schedule."""
    rise, done = min(1.0, (step + 1) / (config.warmup_steps + 1)), step / config.max_steps
    fall = {
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "linear": 1 - done,
        "step": 1.0 if done < 0.8 else 0.1,
        "constant": 1.0,
    }
    return rise * fall[config.schedule]


def save_state(path: Path, state: TrainState, config: LoopConfig, **info: Any) -> None:
    """Writes a checkpoint: the model, its optimiser, the config, where training stands."""
    prefix = state.task.prefix
    tensors = {f"{prefix}/{name}": value for name, value in state.model.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = value
    facts = {
        **state.model.facts,
        "train": to_dict(config),
        **{field: getattr(state, field) for field in _PROGRESS},
        "torch": torch.__version__,
        **info,
    }
    save_tensors(path, tensors, state.task.kind, facts)


def load_state(path: Path, task: Task[Config, Any]) -> tuple[TrainState, Config, dict[str, Any]]:
    """Reads what `save_state` wrote, ready to go on.

    Raises:
        InputError: no checkpoint there, or a damaged one, or one of another program or version,
            or there is nothing to go on from.
    """
    tensors, info = load_tensors(path, task.kind)
    for field in ("train", *_PROGRESS):
        if field not in info:
            raise InputError(f"{path}: not a checkpoint that training can go on from (no {field})")
    config = from_dict(task.config, info["train"], source=str(path))
    state = new_state(task, config)
    load_module(state.model, tensors, task.prefix, path)
    for name, parameter in state.model.named_parameters():
        prefix = f"optimizer/{name}/"
        saved = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if saved:
            state.optimizer.state[parameter] = saved
    for field in _PROGRESS:
        setattr(state, field, info[field])
    return state, config, info


class Stop:
    """Set by the first Ctrl-C or SIGTERM; a second one interrupts at once."""

    signal: int | None = None

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[Stop]:
        """Catches both signals inside the block."""

        def handler(number: int, frame: FrameType | None) -> None:
            self.signal = number
            for caught, old in previous.items():
                signal.signal(caught, old)

        caught = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, handler) for number in caught}
        try:
            yield self
        finally:
            for number, old in previous.items():
                signal.signal(number, old)


def train(
    state: TrainState,
    config: LoopConfig,
    batches: Batches,
    held_out: Tensor,
    run_dir: Path,
    tracker: Tracker,
    *,
    info: Mapping[str, Any],
    stop: Stop,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> None:
    """The outer loop: runs until `max_steps`, the time limit, or a signal.

    Writes a checkpoint every `checkpoint_sec`, and one at the end whatever the reason to end was.

    Args:
        state: Changed in place.
        batches: Training images.
        held_out: (M, 3, size, size) images to evaluate and show, never trained on.
        run_dir: Where the checkpoint goes.
        info: Further facts for the checkpoint, such as the hashes of the training images.
        stop: Looked at after every step.
        on_step: Called with the number of steps done and the step's metrics.

    Raises:
        InputError: the loss became non-finite; the last checkpoint is left as it was.
    """
    path = run_dir / CHECKPOINT_NAME
    limit_sec = math.inf if config.time_limit_min is None else config.time_limit_min * 60
    started, saved_at = time.monotonic() - state.train_sec, time.monotonic()
    if state.step == 0:
        save_state(path, state, config, **info)
        _evaluate(state, held_out, tracker)
    while state.step < config.max_steps and stop.signal is None and state.train_sec < limit_sec:
        metrics = train_step(state, config, batches.batch(state.step, config.batch_images))
        state.train_sec = time.monotonic() - started
        tracker.log(metrics, state.step)
        on_step(state.step, metrics)
        if state.step % config.eval_steps == 0 or state.step == config.max_steps:
            _evaluate(state, held_out, tracker)
        due = time.monotonic() - saved_at > config.checkpoint_sec
        if due and state.skipped_in_a_row == 0:
            save_state(path, state, config, **info)
            saved_at = time.monotonic()
    save_state(path, state, config, **info)


def train_step(state: TrainState, config: LoopConfig, images: Tensor) -> dict[str, float]:
    """One outer step, in place; returns its metrics.

    Where the inner steps of one image are chaotic, the second-order gradient explodes and points
    nowhere. A few such steps, even clipped, push more images into chaos, until none is left out:
    so a step whose gradient is far from its usual norm changes nothing and is only counted.

    Raises:
        InputError: MAX_SKIPPED steps in a row were skipped: this is no accident.
    """
    generator = torch.Generator().manual_seed(_step_seed(config.seed, state.step))
    result = state.task.loss(state.model, config, images, generator)
    state.optimizer.zero_grad(set_to_none=True)
    result.loss.backward()
    most = math.inf if config.clip_norm is None else config.clip_norm
    norm = float(torch.nn.utils.clip_grad_norm_(state.model.parameters(), most))
    loss = float(result.loss.detach())
    factor = rate(state.step, config)
    usual = state.usual_norm or norm
    chaotic = config.skip_norm is not None and norm > config.skip_norm * usual
    if math.isfinite(loss) and math.isfinite(norm) and not chaotic:
        state.usual_norm = usual**0.95 * norm**0.05
        for group in state.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        state.optimizer.step()
        state.skipped_in_a_row = 0
    else:
        state.skipped_in_a_row += 1
        if state.skipped_in_a_row == MAX_SKIPPED:
            raise InputError(
                f"outer loss diverged at step {state.step}: try smaller rates (lr, base_lr,"
                " step_size_lr)"
            )
    state.step += 1
    return {
        "train/loss": loss,
        "train/mse_before": result.mse_before,
        "train/mse_after": result.mse_after,
        "train/psnr_before": result.psnr_before,
        "train/psnr_after": result.psnr_after,
        "train/gradient_norm": norm,
        "train/rate": factor,
        "train/skipped_in_a_row": state.skipped_in_a_row,
    }


def _step_seed(seed: int, step: int) -> int:
    """The pixels of a step depend on the run's seed and the step alone."""
    return int.from_bytes(hashlib.sha256(f"pixels,{seed},{step}".encode()).digest()[:7], "big")


def _evaluate(state: TrainState, held_out: Tensor, tracker: Tracker) -> None:
    """Logs errors of the inits for held-out images, what else the task has, and a preview."""
    if len(held_out) == 0:
        return
    coords = image_coords(held_out)
    starts, metrics = state.task.starts(state.model, held_out)
    for when, generated in starts.items():
        errors = [
            grid_errors(predict(params, coords), image_to_rgb(image))
            for params, image in zip(generated, held_out, strict=True)
        ]
        metrics[f"held_out/mse_{when}"] = sum(float(mse) for mse, _ in errors) / len(errors)
        metrics[f"held_out/psnr_{when}"] = sum(float(psnr) for _, psnr in errors) / len(errors)
    tracker.log(metrics, state.step)
    rows = []
    for image, *inits in zip(held_out[:4], *starts.values(), strict=False):
        pictures = [preview(params, image) for params in inits]
        rows.append(torch.cat((image, *pictures, error_map(inits[-1], image)), dim=-1))
    name = f"preview: target, {', '.join(starts)}, error x4"
    tracker.log_image(name, torch.cat(rows, 1), state.step)


def error_map(params: Params, image: Tensor) -> Tensor:
    """Absolute error per channel, four times enlarged and clipped: (3, H, W) in [0, 1]."""
    return (4 * (preview(params, image) - image).abs()).clamp(0, 1)
