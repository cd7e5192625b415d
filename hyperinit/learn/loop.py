"""Batches of images -> a trained module, in a run directory that survives being killed.

The outer loop of every training. A `Task` says what is trained, and on which loss.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.files import write_or_spare
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.learn.config import LoopConfig
from hyperinit.learn.state import Batches, TrainState, save_state
from hyperinit.learn.tracking import Tracker
from hyperinit.siren.network import Params, predict
from hyperinit.siren.signals import preview
from hyperinit.siren.store import CHECKPOINT_NAME
from hyperinit.spread.processes import ALONE, Processes

_logger = logging.getLogger("hyperinit")

MAX_SKIPPED = 20


def rate(step: int, config: LoopConfig) -> float:
    """Factor on all learning rates: a linear warm-up, then the schedule."""
    rise, done = min(1.0, (step + 1) / (config.warmup_steps + 1)), step / config.max_steps
    fall = {
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "linear": 1 - done,
        "linear-tenth": 1 - 0.9 * done,
        "step": 1.0 if done < 0.8 else 0.1,
        "constant": 1.0,
    }
    return rise * fall[config.schedule]


class Stop:
    """Set by the first Ctrl-C, SIGTERM or SIGHUP; a second Ctrl-C interrupts at once."""

    signal: int | None = None

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[Stop]:
        """Catches these signals inside the block, except those that the process ignores (nohup).

        A closing terminal may send SIGHUP more than once, so after the first it is ignored until
        the process ends. Ctrl-C is ignored while Python shuts down: a run that stopped in order
        must end with its own exit code.
        """
        hang_up = getattr(signal, "SIGHUP", None)  # not on every system

        def handler(number: int, frame: FrameType | None) -> None:
            self.signal = number
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
            restore()

        def restore() -> None:
            for number, old in previous.items():
                hung_up = number == hang_up == self.signal
                signal.signal(number, signal.SIG_IGN if hung_up else old)

        wanted = [n for n in (signal.SIGINT, signal.SIGTERM, hang_up) if n is not None]
        caught = [n for n in wanted if signal.getsignal(n) != signal.SIG_IGN]
        previous = {number: signal.signal(number, handler) for number in caught}
        try:
            yield self
        finally:
            restore()


def train(  # more than 60 lines: a third is its docstring
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
    processes: Processes = ALONE,
) -> None:
    """The outer loop: runs until `max_steps`, the time limit, or a signal.

    Writes a checkpoint every `checkpoint_sec`, and one at the end whatever the reason for it. If
    several processes share the steps, all of them call this, and the first one writes.

    Args:
        state: Changed in place.
        batches: Training images.
        held_out: (M, 3, size, size) images to evaluate and show, never trained on.
        run_dir: Where the checkpoint goes.
        info: Further facts for the checkpoint, such as the hashes of the training images.
        stop: Checked after every step; a signal to one process stops all.
        on_step: Called with the number of steps done and the step's metrics.
        processes: The processes that share the images of every step.

    Raises:
        InputError: the loss became non-finite; the last checkpoint is kept as it is.
        ProcessLost: another process has ended; the training so far is saved if possible.
    """
    path = run_dir / CHECKPOINT_NAME

    def save(to: Path = path) -> None:
        if processes.leads:
            save_state(to, state, config, **info)

    limit_sec = math.inf if config.time_limit_min is None else config.time_limit_min * 60
    started, saved_at = time.monotonic() - state.train_sec, time.monotonic()
    if state.step == 0 and not path.exists():  # otherwise it has been evaluated already
        _evaluate(state, config, held_out, tracker)
        save()
    if state.unlogged:
        _log_step(state, config, held_out, tracker)
    while state.step < config.max_steps:
        try:
            if _is_over(state, stop, limit_sec, processes):
                break
            images = batches.batch(state.step, config.batch_images)
            metrics = train_step(state, config, images, processes)
            state.train_sec = max(time.monotonic() - started, state.train_sec)
            state.unlogged = metrics
            _log_step(state, config, held_out, tracker)
        except InputError:  # a full disk, a lost process: save the training so far if possible
            if state.skipped_in_a_row < MAX_SKIPPED:
                with contextlib.suppress(InputError):
                    save()
            raise
        on_step(state.step, metrics)
        due = time.monotonic() - saved_at > config.checkpoint_sec
        if due and state.skipped_in_a_row == 0:
            try:
                save()
            except InputError as error:  # there may be room again before the end
                _logger.warning("%s; training continues, and the last checkpoint is kept", error)
            saved_at = time.monotonic()
    write_or_spare(path, save, f"step {state.step}")


def _log_step(state: TrainState, config: LoopConfig, held_out: Tensor, tracker: Tracker) -> None:
    """Logs the metrics of the last step, and evaluates if that is due.

    Until both are in the log, a checkpoint says that they are missing, and a resumed run logs them.
    """
    tracker.log(state.unlogged or {}, state.step)
    if state.step % config.eval_steps == 0 or state.step == config.max_steps:
        _evaluate(state, config, held_out, tracker)
    state.unlogged = None


def _is_over(state: TrainState, stop: Stop, limit_sec: float, processes: Processes) -> bool:
    """Whether to end before the next step; all processes agree on it."""
    signal_number, is_late = processes.greatest(stop.signal or 0, state.train_sec >= limit_sec)
    stop.signal = int(signal_number) or None
    return bool(signal_number or is_late)


def train_step(
    state: TrainState, config: LoopConfig, images: Tensor, processes: Processes = ALONE
) -> dict[str, float]:
    """Takes one outer step, in place; returns its metrics.

    If the inner steps of one image are chaotic, the second-order gradient explodes and its
    direction means nothing. A few such steps, even clipped, make more images chaotic, and in the
    end all. So a step whose gradient is far above its usual norm is skipped and only counted.

    Args:
        state: Changed in place.
        images: All images of the step, (B, 3, size, size), in every process.
        processes: The processes that share them. Each computes the gradient of its part, and all
            take the same step.

    Raises:
        InputError: MAX_SKIPPED steps in a row were skipped, so training has diverged.
        ProcessLost: another process has ended; the state is that before the step.
    """
    state.optimizer.zero_grad(set_to_none=True)
    kept = [value.clone() for value in state.model.buffers()]
    try:
        loss, errors = _descend(state, config, images, processes)
    except Exception:  # the images are already in the statistics, and will be added again
        for value, before in zip(state.model.buffers(), kept, strict=True):
            value.copy_(before)
        raise
    most = math.inf if config.clip_norm is None else config.clip_norm
    norm = float(torch.nn.utils.clip_grad_norm_(state.model.parameters(), most))
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
                " step_size_lr; eps, fit_lr)"
            )
    state.step += 1
    return {
        "train/loss": loss,
        **errors,
        "train/gradient_norm": norm,
        "train/rate": factor,
        "train/skipped_in_a_row": state.skipped_in_a_row,
    }


def _descend(
    state: TrainState, config: LoopConfig, images: Tensor, processes: Processes
) -> tuple[float, dict[str, float]]:
    """Leaves the step's gradient in the model; returns the loss, and the errors by name."""
    generator = torch.Generator().manual_seed(_step_seed(config.seed, state.step))
    part = processes.part(len(images))
    state.task.see(state.model, images)
    names = ("mse_before", "mse_after", "psnr_before", "psnr_after")
    numbers = [0.0] * (1 + len(names))
    if part.stop > part.start:
        result = state.task.loss(state.model, config, images, generator, part)
        result.loss.backward()
        numbers = [float(result.loss.detach()), *(getattr(result, name) for name in names)]
    weight = (part.stop - part.start) / len(images)
    loss, *errors = processes.weighted_sum(weight, state.model.parameters(), numbers)
    return loss, {f"train/{name}": value for name, value in zip(names, errors, strict=True)}


def _step_seed(seed: int, step: int) -> int:
    """The seed of a step's pixels, which depend only on the run's seed and the step."""
    return int.from_bytes(hashlib.sha256(f"pixels,{seed},{step}".encode()).digest()[:7], "big")


def _evaluate(state: TrainState, config: LoopConfig, held_out: Tensor, tracker: Tracker) -> None:
    """Logs errors of the inits for held-out images, the task's own numbers, and a preview."""
    if len(held_out) == 0:
        return
    coords = image_coords(held_out)
    starts, metrics = state.task.starts(state.model, config, held_out)
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
    """Absolute error per channel, multiplied by four and clipped: (3, H, W) in [0, 1]."""
    return (4 * (preview(params, image) - image).abs()).clamp(0, 1)
