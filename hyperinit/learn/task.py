"""Batches of images -> a trained hypernetwork: its `Task`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hyperinit.hypernet.checkpoint import CHECKPOINT_KIND, load_hypernetwork
from hyperinit.hypernet.network import HyperNetwork, numbers_of
from hyperinit.learn.config import TrainConfig
from hyperinit.learn.loss import outer_loss
from hyperinit.learn.state import StepResult, Task
from hyperinit.siren.network import Params


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
    """Inits before and after the inner steps; statistics of the weights and the step sizes."""
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
