"""Batches of images -> a trained hypernetwork, in a run directory that survives being killed."""

from __future__ import annotations

import contextlib
import hashlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from hyperinit.config import from_dict, option, to_dict
from hyperinit.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.errors import InputError
from hyperinit.fit import preview
from hyperinit.hypernet import HyperConfig, HyperNetwork
from hyperinit.init import named_init
from hyperinit.meta import OuterLoss, outer_loss
from hyperinit.siren import Params, SirenConfig, predict
from hyperinit.store import load_tensors, save_tensors
from hyperinit.tracking import Tracker

CHECKPOINT_KIND = "hyperinit-hypernetwork-1"
CHECKPOINT_NAME = "checkpoint.safetensors"

# An outer gradient this many times its usual norm is noise: in a stable run the largest is 3 times.
CHAOTIC_NORM = 5.0
MAX_SKIPPED = 20


@dataclass(frozen=True)
class TrainConfig:
    """A whole meta-training run; the run's `config.toml` is this, resolved."""

    data: str = option("builtin", "builtin, synthetic, torchvision:NAME, or a directory of images")
    data_weights: tuple[str, ...] = option((), "sampling weight of sub-folders: clothing=0.1,...")
    data_limit: int | None = option(None, "use at most this many images")
    held_out_fraction: float | None = option(None, "of a directory's photographs; none: 0.05")
    size: int = option(96, "side of the square training images, in pixels")
    width: int = option(128, "units of the SIREN's sine layers")
    depth: int = option(4, "number of the SIREN's sine layers")
    base_init: str = option("33", "hand-designed init that the learned base starts from")
    encoder_size: int = option(32, "images are resized to this side before they are encoded")
    channels: int = option(32, "channels of the encoder's first convolution")
    code_size: int = option(256, "length of the image's code")
    rank: int = option(8, "rank of the predicted residual of a weight matrix")
    inner_steps: int = option(3, "gradient steps from the generated init (K); 0: none")
    inner_pixels: int = option(1024, "pixels per inner step")
    query_pixels: int = option(1024, "pixels per image on which the outer loss is measured")
    weight_before: float = option(0.2, "weight of the loss before the inner steps")
    weight_after: float = option(1.0, "weight of the loss after the inner steps")
    residual_penalty: float = option(0.0, "weight of the heads' mean squared residual")
    second_order: bool = option(True, "differentiate through the inner gradients")
    inner_loop: Literal["functional", "higher"] = option("functional", "higher is the reference")
    max_steps: int = option(1500, "outer steps of the whole run; the rates decay over these")
    batch_images: int = option(4, "images per outer step")
    lr: float = option(1e-3, "learning rate of the encoder and the heads")
    base_lr: float = option(1e-4, "learning rate of the learned base")
    step_size_lr: float = option(2e-2, "learning rate of the logarithms of the inner step sizes")
    warmup_steps: int = option(50, "outer steps over which the rates rise")
    clip_norm: float = option(1.0, "largest norm of the outer gradient")
    time_limit_min: float | None = option(
        None, "stop (and compare) after so many minutes of training, resumed parts included"
    )
    checkpoint_sec: float = option(120.0, "seconds between checkpoints")
    eval_steps: int = option(100, "outer steps between evaluations on held-out images")
    compare_budgets: tuple[float, ...] = option((2.0, 8.0, 32.0), "budgets of the comparison")
    compare_lrs: tuple[float, ...] = option((2.5e-4, 5e-4, 1e-3), "its learning rates")
    compare_images: int = option(6, "its held-out images; 0: no comparison")
    seed: int = option(0, "of the base init, the batches and the pixels")
    threads: int | None = option(None, "CPU threads; none: torch's default")
    wandb: Literal["auto", "online", "offline", "disabled"] = option(
        "auto", "auto: online with a key, else offline"
    )

    def __post_init__(self) -> None:
        least = {"max_steps": 1, "batch_images": 1, "size": 4, "eval_steps": 1, "query_pixels": 1}
        for field, minimum in {**least, "warmup_steps": 0, "compare_images": 0}.items():
            if getattr(self, field) < minimum:
                raise InputError(f"{field} must be at least {minimum}, not {getattr(self, field)}")
        for field in ("lr", "base_lr", "step_size_lr", "clip_norm", "checkpoint_sec"):
            if not getattr(self, field) > 0:
                raise InputError(f"{field} must be positive, not {getattr(self, field)}")
        self.hyper, self.outer, self.folder_weights  # noqa: B018  each checks its own fields

    @property
    def hyper(self) -> HyperConfig:
        """What to build."""
        siren = named_init(self.base_init).siren_config(self.width, self.depth)
        fields = {k: v for k, v in asdict(self).items() if k in HyperConfig.__dataclass_fields__}
        return HyperConfig(siren=siren, **fields)

    @property
    def outer(self) -> OuterLoss:
        """What to minimise."""
        names = OuterLoss.__dataclass_fields__
        return OuterLoss(**{k: v for k, v in asdict(self).items() if k in names})

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


@dataclass
class TrainState:
    """Everything that changes while training; saved whole, so that resuming is bit-exact."""

    hyper: HyperNetwork
    optimizer: torch.optim.AdamW
    step: int = 0
    train_sec: float = 0.0
    usual_norm: float = 0.0  # geometric moving average of the outer gradient's; 0: not known yet
    skipped_in_a_row: int = 0


_PROGRESS = ("step", "train_sec", "usual_norm", "skipped_in_a_row")  # of a TrainState


def new_state(config: TrainConfig) -> TrainState:
    """A fresh hypernetwork and its optimiser."""
    hyper = HyperNetwork.from_named_init(config.hyper, config.base_init, config.seed)
    groups = [
        {"params": [*hyper.encoder.parameters(), *hyper.heads.parameters()], "lr": config.lr},
        {"params": list(hyper.base.parameters()), "lr": config.base_lr},
        {"params": [hyper.log_step_sizes], "lr": config.step_size_lr},
    ]
    for group in groups:
        group["base_lr"] = group["lr"]
    return TrainState(hyper, torch.optim.AdamW(groups, weight_decay=0.0))


def rate(step: int, config: TrainConfig) -> float:
    """Factor on all learning rates: a linear rise, then half a cosine down to 0."""
    rise = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return rise * 0.5 * (1 + math.cos(math.pi * step / config.max_steps))


def save_state(path: Path, state: TrainState, config: TrainConfig, **info: Any) -> None:
    """Writes a checkpoint: the hypernetwork, its optimiser, the config, where training stands."""
    tensors = {f"hyper/{name}": value for name, value in state.hyper.state_dict().items()}
    for name, parameter in state.hyper.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = value
    facts = {
        "hypernetwork": asdict(state.hyper.config),
        "train": to_dict(config),
        **{field: getattr(state, field) for field in _PROGRESS},
        "torch": torch.__version__,
        **info,
    }
    save_tensors(path, tensors, CHECKPOINT_KIND, facts)


def load_state(path: Path) -> tuple[TrainState, TrainConfig, dict[str, Any]]:
    """Reads what `save_state` wrote, ready to go on.

    Raises:
        InputError: as `load_hypernetwork`, or there is nothing to go on from.
    """
    tensors, info = load_tensors(path, CHECKPOINT_KIND)
    for field in ("train", *_PROGRESS):
        if field not in info:
            raise InputError(f"{path}: not a checkpoint that training can go on from (no {field})")
    config = from_dict(TrainConfig, info["train"], source=str(path))
    state = new_state(config)
    _load_hyper(state.hyper, tensors, path)
    for name, parameter in state.hyper.named_parameters():
        prefix = f"optimizer/{name}/"
        saved = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if saved:
            state.optimizer.state[parameter] = saved
    for field in _PROGRESS:
        setattr(state, field, info[field])
    return state, config, info


def load_hypernetwork(path: str | Path) -> tuple[HyperNetwork, dict[str, Any]]:
    """Loads a trained hypernetwork and the facts about it.

    Args:
        path: A run directory, or a checkpoint file.

    Raises:
        InputError: no checkpoint there, or a damaged one, or one of another program or version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / CHECKPOINT_NAME
    tensors, info = load_tensors(path, CHECKPOINT_KIND)
    try:
        fields = dict(info["hypernetwork"])
        config = HyperConfig(siren=SirenConfig(**fields.pop("siren")), **fields)
        base = {
            name.removeprefix("hyper/base."): value
            for name, value in tensors.items()
            if name.startswith("hyper/base.")
        }
        hyper = HyperNetwork(config, Params(config.siren, base))
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a hypernetwork of this version ({error})") from error
    _load_hyper(hyper, tensors, path)
    return hyper.eval(), info


def _load_hyper(hyper: HyperNetwork, tensors: Mapping[str, Tensor], path: Path) -> None:
    own = {k.removeprefix("hyper/"): v for k, v in tensors.items() if k.startswith("hyper/")}
    try:
        hyper.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: tensors do not fit its own config ({reason})") from error


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


def meta_train(
    state: TrainState,
    config: TrainConfig,
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


def train_step(state: TrainState, config: TrainConfig, images: Tensor) -> dict[str, float]:
    """One outer step, in place; returns its metrics.

    Where the inner steps of one image are chaotic, the second-order gradient explodes and points
    nowhere. A few such steps, even clipped, push more images into chaos, until none is left out:
    so a step whose gradient is far from its usual norm changes nothing and is only counted.

    Raises:
        InputError: MAX_SKIPPED steps in a row were skipped: this is no accident.
    """
    generator = torch.Generator().manual_seed(_step_seed(config.seed, state.step))
    result = outer_loss(state.hyper, images, config.outer, generator=generator)
    state.optimizer.zero_grad(set_to_none=True)
    result.loss.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(state.hyper.parameters(), config.clip_norm))
    loss = float(result.loss.detach())
    factor = rate(state.step, config)
    usual = state.usual_norm or norm
    if math.isfinite(loss) and math.isfinite(norm) and norm <= CHAOTIC_NORM * usual:
        state.usual_norm = usual**0.95 * norm**0.05
        for group in state.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        state.optimizer.step()
        state.skipped_in_a_row = 0
    else:
        state.skipped_in_a_row += 1
        if state.skipped_in_a_row == MAX_SKIPPED:
            raise InputError(
                f"outer loss diverged at step {state.step}: try a smaller lr, base_lr or"
                " step_size_lr"
            )
    state.step += 1
    return {
        "train/loss": loss,
        "train/mse_before": float(result.mse_before.mean()),
        "train/mse_after": float(result.mse_after.mean()),
        "train/psnr_before": float(result.psnr_before.mean()),
        "train/psnr_after": float(result.psnr_after.mean()),
        "train/gradient_norm": norm,
        "train/rate": factor,
        "train/skipped_in_a_row": state.skipped_in_a_row,
    }


def _step_seed(seed: int, step: int) -> int:
    """The pixels of a step depend on the run's seed and the step alone."""
    return int.from_bytes(hashlib.sha256(f"pixels,{seed},{step}".encode()).digest()[:7], "big")


def _evaluate(state: TrainState, held_out: Tensor, tracker: Tracker) -> None:
    """Logs errors of generated inits on held-out images, weight statistics and a preview."""
    if len(held_out) == 0:
        return
    hyper = state.hyper
    coords = image_coords(held_out)
    with torch.no_grad():
        before = hyper(held_out).map(lambda value: value.detach()).unbatch()
    after = [hyper.generate(image) for image in held_out]
    metrics: dict[str, float] = {}
    for when, generated in (("before", before), ("after", after)):
        errors = [
            grid_errors(predict(params, coords), image_to_rgb(image))
            for params, image in zip(generated, held_out, strict=True)
        ]
        metrics[f"held_out/mse_{when}"] = sum(float(mse) for mse, _ in errors) / len(errors)
        metrics[f"held_out/psnr_{when}"] = sum(float(psnr) for _, psnr in errors) / len(errors)
    for name, value in after[0].items():
        metrics[f"weights/{name}_std"] = float(value.std())
    for k, sizes in enumerate(hyper.step_sizes()):
        for name, size in sizes.items():
            metrics[f"step_sizes/{k}/{name}"] = float(size.detach())
    tracker.log(metrics, state.step)
    rows = [
        torch.cat((image, preview(b, image), preview(a, image), error_map(a, image)), dim=-1)
        for image, b, a in zip(held_out[:4], before, after, strict=False)
    ]
    tracker.log_image("preview: target, before, after, error x4", torch.cat(rows, 1), state.step)


def error_map(params: Params, image: Tensor) -> Tensor:
    """Absolute error per channel, four times enlarged and clipped: (3, H, W) in [0, 1]."""
    return (4 * (preview(params, image) - image).abs()).clamp(0, 1)


def load(path: str | Path) -> HyperNetwork:
    """The hypernetwork of a run directory or a checkpoint file; errors as `load_hypernetwork`."""
    return load_hypernetwork(path)[0]
