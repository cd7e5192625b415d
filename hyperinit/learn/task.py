"""Batches of images -> a trained hypernetwork: its settings, its task, and how it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from hyperinit.base.settings import option
from hyperinit.hypernet.checkpoint import CHECKPOINT_KIND, load_hypernetwork
from hyperinit.hypernet.network import HyperConfig, HyperNetwork, numbers_of
from hyperinit.inits.rules import named_init
from hyperinit.learn.config import MOST_SIDE, AdaptingConfig
from hyperinit.learn.loss import OuterLoss, outer_loss
from hyperinit.learn.state import StepResult, Task
from hyperinit.siren.network import Params


@dataclass(frozen=True)
class TrainConfig(AdaptingConfig):
    """A whole meta-training run; the run's `config.toml` is this, resolved."""

    lr: float = option(1e-3, "learning rate of the encoder and the heads", above=0)
    base_lr: float = option(1e-4, "learning rate of the learned base", above=0)
    step_size_lr: float = option(
        2e-2, "learning rate of the logarithms of the inner step sizes", above=0
    )
    encoder_size: int = option(
        32, "images are resized to this side before they are encoded", at_most=MOST_SIDE
    )
    channels: int = option(32, "channels of the encoder's first convolution", at_most=MOST_SIDE)
    code_size: int = option(256, "length of the image's code", at_most=MOST_SIDE)
    rank: int = option(8, "rank of the predicted residual of a weight matrix", at_most=MOST_SIDE)
    inner_steps: int = option(3, "gradient steps from the generated init (K); 0: none")
    normalized_steps: bool = option(False, "inner steps along gradients scaled to unit size")
    weight_before: float = option(0.2, "weight of the loss before the inner steps", at_least=0)
    weight_after: float = option(1.0, "weight of the loss after the inner steps", at_least=0)
    residual_penalty: float = option(0.0, "weight of the heads' mean squared residual", at_least=0)

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


def _least_bytes(config: TrainConfig, images: int) -> dict[str, float]:
    """Values, gradients and AdamW's moments; the SIRENs and activations of the inner steps."""
    siren, pixels = config.hyper.siren, config.size**2
    seen = config.inner_steps * min(config.inner_pixels, pixels) + config.query_pixels
    activations = seen * siren.width * (siren.depth + 1)
    return {
        "width depth rank code_size channels encoder_size": 16.0 * numbers_of(config.hyper),
        "batch_images size": 12.0 * images * pixels,
        "batch_images width depth inner_steps": (
            4.0 * images * siren.weights * (config.inner_steps + 1)
        ),
        "batch_images width depth query_pixels inner_pixels inner_steps": (
            4.0 * images * activations
        ),
    }


def _loss(
    hyper: HyperNetwork,
    config: TrainConfig,
    images: Tensor,
    generator: torch.Generator,
    part: slice = slice(None),
) -> StepResult:
    return outer_loss(hyper, images, config.outer, generator=generator, part=part)


def _starts(
    hyper: HyperNetwork, config: TrainConfig, held_out: Tensor
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
    load=load_hypernetwork,
    prefix="hyper",
    config=TrainConfig,
    build=_build,
    optimizer=_optimizer,
    loss=_loss,
    starts=_starts,
    least_bytes=_least_bytes,
)
