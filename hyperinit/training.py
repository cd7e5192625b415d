"""Batches of images -> a trained hypernetwork: its settings, its task, and how it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hyperinit.config import option
from hyperinit.errors import InputError
from hyperinit.hypernet import HyperConfig, HyperNetwork
from hyperinit.init import named_init
from hyperinit.meta import OuterLoss, outer_loss
from hyperinit.outer import LoopConfig, StepResult, Task
from hyperinit.siren import Params, SirenConfig
from hyperinit.store import CHECKPOINT_NAME, load_module, load_tensors

CHECKPOINT_KIND = "hyperinit-hypernetwork-1"


@dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """A whole meta-training run; the run's `config.toml` is this, resolved."""

    lr: float = option(1e-3, "learning rate of the encoder and the heads", above=0)
    base_lr: float = option(1e-4, "learning rate of the learned base", above=0)
    step_size_lr: float = option(
        2e-2, "learning rate of the logarithms of the inner step sizes", above=0
    )
    encoder_size: int = option(32, "images are resized to this side before they are encoded")
    channels: int = option(32, "channels of the encoder's first convolution")
    code_size: int = option(256, "length of the image's code")
    rank: int = option(8, "rank of the predicted residual of a weight matrix")
    inner_steps: int = option(3, "gradient steps from the generated init (K); 0: none")
    inner_pixels: int = option(1024, "pixels per inner step")
    normalized_steps: bool = option(False, "inner steps along gradients scaled to unit size")
    weight_before: float = option(0.2, "weight of the loss before the inner steps")
    weight_after: float = option(1.0, "weight of the loss after the inner steps")
    residual_penalty: float = option(0.0, "weight of the heads' mean squared residual")
    second_order: bool = option(True, "differentiate through the inner gradients")
    inner_loop: Literal["functional", "higher"] = option("functional", "higher is the reference")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.hyper, self.outer  # noqa: B018  each checks its own fields

    @property
    def hyper(self) -> HyperConfig:
        """What to build."""
        base = named_init(self.base_init)
        fields = {k: v for k, v in asdict(self).items() if k in HyperConfig.__dataclass_fields__}
        siren = base.siren_config(self.width, self.depth)
        return HyperConfig(siren=siren, lr_factor=base.lr_factor, **fields)

    @property
    def outer(self) -> OuterLoss:
        """What to minimise."""
        names = OuterLoss.__dataclass_fields__
        return OuterLoss(**{k: v for k, v in asdict(self).items() if k in names})


def _build(config: TrainConfig) -> HyperNetwork:
    return HyperNetwork.from_named_init(config.hyper, config.base_init, config.seed)


def _optimizer(hyper: HyperNetwork, config: TrainConfig) -> torch.optim.Optimizer:
    groups = [
        {"params": [*hyper.encoder.parameters(), *hyper.heads.parameters()], "lr": config.lr},
        {"params": list(hyper.base.parameters()), "lr": config.base_lr},
        {"params": [hyper.log_step_sizes], "lr": config.step_size_lr},
    ]
    return torch.optim.AdamW(groups, weight_decay=0.0)


def _loss(
    hyper: HyperNetwork, config: TrainConfig, images: Tensor, generator: torch.Generator
) -> StepResult:
    return outer_loss(hyper, images, config.outer, generator=generator).mean()


def _starts(
    hyper: HyperNetwork, held_out: Tensor
) -> tuple[dict[str, Sequence[Params]], dict[str, float]]:
    """Inits before and after the inner steps; statistics of the weights, the step sizes."""
    with torch.no_grad():
        before = hyper(held_out).map(lambda value: value.detach()).unbatch()
    after = [hyper.generate(image) for image in held_out]
    metrics = {f"weights/{name}_std": float(value.std()) for name, value in after[0].items()}
    for k, sizes in enumerate(hyper.step_sizes()):
        for name, size in sizes.items():
            metrics[f"step_sizes/{k}/{name}"] = float(size.detach())
    return {"before": before, "after": after}, metrics


HYPERNETWORK = Task(
    name="hypernetwork",
    kind=CHECKPOINT_KIND,
    prefix="hyper",
    config=TrainConfig,
    build=_build,
    optimizer=_optimizer,
    loss=_loss,
    starts=_starts,
)


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
    load_module(hyper, tensors, "hyper", path)
    return hyper.eval(), info


def load(path: str | Path) -> HyperNetwork:
    """The hypernetwork of a run directory or a checkpoint file; errors as `load_hypernetwork`."""
    return load_hypernetwork(path)[0]
