"""A task, the state of its training, and the checkpoint that holds both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import ceil, inf, nan
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from hyperinit.base.errors import InputError, check_memory
from hyperinit.base.settings import from_dict, to_dict
from hyperinit.learn.config import LoopConfig
from hyperinit.loggers.plain import plain
from hyperinit.siren.network import Params
from hyperinit.siren.store import load_tensors, save_tensors


class Batches(Protocol):
    """The source of training images: a pure function of the step, so that resuming is exact."""

    def batch(self, step: int, batch_size: int) -> Tensor:
        """The images (batch_size, 3, size, size) in [0, 1] of one outer step."""


@dataclass(frozen=True)
class TrainingImages:
    """The images that a run trains on.

    Attributes:
        batches: The source of its images.
        hashes: Hashes of the photographs it sees, which its init may not be tested on.
        weights: How often each of them is drawn, relative to others; empty if none is drawn.
    """

    batches: Batches
    hashes: list[str]
    weights: Sequence[float] = ()


@dataclass(frozen=True)
class StepResult:
    """The loss of one outer step, to be differentiated, and the numbers to log.

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
    """What is trained, and on which loss.

    Attributes:
        name: The model's name in logs.
        kind: The kind of its checkpoints, see `store.save_tensors`.
        load: Path of a checkpoint -> the model in it, checked, and the facts about it.
        prefix: The prefix of the model's tensors in them.
        config: The type of its config.
        build: config -> a fresh model; its `facts` go into checkpoints.
        optimizer: (model, config) -> its optimiser; `rate` scales its learning rates.
        loss: (model, config, images (B, 3, H, W), generator, part) -> the step's loss and errors,
            as means over the images of the part. Pixels are drawn for all images, so that those of
            an image do not depend on the part that it is in.
        starts: (model, config, held-out images) -> named inits to evaluate, one per image; and
            further numbers to log.
        see: (model, all images of a step), called before the step in every process that shares it.
        least_bytes: (config, images of a step in one process) -> the least memory it takes, in
            parts: names of the fields that a part grows with -> bytes.
    """

    name: str
    kind: str
    load: Callable[[Path], tuple[Model, dict[str, Any]]]
    prefix: str
    config: type[Config]
    build: Callable[[Config], Model]
    optimizer: Callable[[Model, Config], torch.optim.Optimizer]
    loss: Callable[[Model, Config, Tensor, torch.Generator, slice], StepResult]
    starts: Callable[[Model, Config, Tensor], tuple[dict[str, Sequence[Params]], dict[str, float]]]
    see: Callable[[Model, Tensor], None] = lambda model, images: None
    least_bytes: Callable[[Config, int], dict[str, float]] = lambda config, images: {}

    def check_memory(self, config: Config, processes: int = 1) -> None:
        """Refuses a training that does not fit in this machine's memory, before any work.

        Raises:
            InputError: it does not fit; the message says what to make smaller.
        """
        parts = self.least_bytes(config, ceil(config.batch_images / processes))
        most = max(parts, key=lambda names: parts[names], default="")
        sizes = ", ".join(f"{name} {getattr(config, name)}" for name in most.split())
        needed = processes * sum(parts.values())
        check_memory(needed, f"training with {sizes}", "take smaller ones")


@dataclass
class TrainState:
    """Everything that changes while training; saved whole, so that resuming is bit-exact."""

    task: Task[Any, Any]
    model: Any
    optimizer: torch.optim.Optimizer
    step: int = 0
    train_sec: float = 0.0
    usual_norm: float = 0.0  # geometric moving average of the outer gradient's norm; 0: unknown
    skipped_in_a_row: int = 0
    unlogged: Mapping[str, float] | None = None  # metrics of the last step, not yet in the log


# Fields of a TrainState besides the model and the optimiser: name -> type.
_PROGRESS = {"step": int, "train_sec": float, "usual_norm": float, "skipped_in_a_row": int}

# State that torch's optimisers keep for a parameter: AdamW, and SGD with momentum.
_OPTIMIZER_STATE = ({"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"})


def new_state(task: Task[Config, Any], config: Config) -> TrainState:
    """A fresh model and its optimiser."""
    return _with_optimizer(task, task.build(config), config)


def _with_optimizer(task: Task[Config, Any], model: Any, config: Config) -> TrainState:
    optimizer = task.optimizer(model, config)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return TrainState(task, model, optimizer)


def save_state(path: Path, state: TrainState, config: LoopConfig, **info: Any) -> None:
    """Writes a checkpoint: the model, its optimiser, the config and the state of training."""
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
    if state.unlogged:
        facts["unlogged"] = plain(state.unlogged)
    save_tensors(path, tensors, state.task.kind, facts)


def load_state(path: Path, task: Task[Config, Any]) -> tuple[TrainState, Config, dict[str, Any]]:
    """Reads what `save_state` wrote: training can continue from it.

    Raises:
        InputError: there is no checkpoint, or it is damaged, of another program or version,
            contradicts itself, or has nothing to continue from.
    """
    model, info = task.load(path)
    config = _stored_config(path, task, info)
    siren = model.config.siren
    if (siren.width, siren.depth) != (config.width, config.depth):
        raise InputError(
            f"{path}: its settings are for a SIREN of {config.depth} x {config.width}, but its"
            f" tensors for one of {siren.depth} x {siren.width}"
        )
    state = _with_optimizer(task, model.train(), config)
    for field, kind in _PROGRESS.items():
        value = info[field]
        if type(value) not in {int, kind} or not 0 <= value < inf:
            raise InputError(f"{path}: {field} must be a number >= 0, not {str(value)[:40]!r}")
        setattr(state, field, value)
    for field in ("train_hashes", "held_out_hashes"):
        hashes = info.get(field, [])
        if not isinstance(hashes, list) or not all(isinstance(entry, str) for entry in hashes):
            raise InputError(f"{path}: {field} must be a list of texts")
    unlogged = info.get("unlogged", {})
    numbers = unlogged.values() if isinstance(unlogged, dict) else ["no mapping"]
    if not all(value is None or type(value) in {int, float} for value in numbers):
        raise InputError(f"{path}: unlogged must be numbers by name")
    state.unlogged = {name: nan if unlogged[name] is None else unlogged[name] for name in unlogged}
    tensors, _ = load_tensors(path, task.kind)
    for name, parameter in model.named_parameters():
        prefix = f"optimizer/{name}/"
        saved = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if not saved:
            continue
        shapes = {value.shape for key, value in saved.items() if key != "step"}
        if set(saved) not in _OPTIMIZER_STATE or shapes != {parameter.shape}:
            raise InputError(f"{path}: the optimiser's numbers do not fit {name}")
        state.optimizer.state[parameter] = saved
    return state, config, info


def _stored_config(path: Path, task: Task[Config, Any], info: Mapping[str, Any]) -> Config:
    """The settings in a checkpoint."""
    for field in ("train", *_PROGRESS):
        if field not in info:
            raise InputError(f"{path}: has nothing that training can continue from (no {field})")
    if not isinstance(info["train"], dict):
        raise InputError(f"{path}: its settings must be keys and values")
    unknown = sorted(set(info["train"]) - {field.name for field in fields(task.config)})
    if unknown:
        raise InputError(f"{path}: a run of another program or version, with setting {unknown[0]}")
    try:
        # The behaviour of runs from before these settings existed.
        settings = {"split_by": "name", "color_profiles": False, **info["train"]}
        return from_dict(task.config, settings, source="its settings")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
