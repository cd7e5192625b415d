"""Real fits of many images -> the start of the next: Reptile (arXiv 1803.02999), and a reader.

theta_0 += eps (fitted - theta_0), where `fitted` is where the fit that users run, over a declared
budget, leads from theta_0. Nothing is differentiated but the fit itself.

With `read_numbers` the start depends on the image: theta(x) = theta_0 + z(x) A, z being the image's
lowest cosines, and the displacements of fits are what A and theta_0 are corrected by, as recursive
least squares does (`inits.linear`). A linear hypernetwork, taught by nothing but the fits that
follow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from hyperinit.fitting.fit import FitResult, fit
from hyperinit.fitting.suits import PIXEL_BYTES, weight_bytes
from hyperinit.hypernet.learned import LEARNED_KIND, LearnedConfig, LearnedInit, load_learned
from hyperinit.images.cosines import MOST_COSINES
from hyperinit.inits.start import Start
from hyperinit.learn.config import MOST_READ, REPTILE_PRESETS, ReptileConfig
from hyperinit.learn.state import StepResult, Task
from hyperinit.siren.network import Params, SirenConfig
from hyperinit.siren.vectors import to_vector

assert MOST_READ == MOST_COSINES, "what the config allows is what images can be read by"

# On the rate of starts that depend on the image.
READ_LR_FACTOR = 0.6


def displacement_loss(starts: Sequence[Params], fitted: Sequence[Params]) -> Tensor:
    """Half the mean squared distance of starts to where fits from them ended, ().

    Its gradient is minus the mean displacement, so that a step of plain gradient descent at rate
    eps is Reptile's outer step.

    Args:
        starts: Live parameters, one for each image; all may be the same.
        fitted: Where the fits ended.
    """
    distances = [
        torch.stack([(value - end[name]).square().sum() for name, value in start.items()]).sum()
        for start, end in zip(starts, fitted, strict=True)
    ]
    return 0.5 * torch.stack(distances).mean()


def correction_loss(
    model: LearnedInit, images: Tensor, fitted: Sequence[Params], share: float = 1.0
) -> Tensor:
    """The same value for a linear reader, with recursive least squares' step as its gradient, ().

    A step of plain gradient descent at rate eps goes the part eps of the way to the regression of
    all fits so far.

    Args:
        model: Has a reader, and remembers the images.
        images: (B, 3, H, W).
        fitted: Where the fits of the images, from the model's starts, ended.
        share: Of all images of the step; the gradients of all shares are averaged.
    """
    assert model.reader is not None
    starts = model(images)
    ended = torch.stack([to_vector(end) for end in fitted])
    displaced = (ended - to_vector(starts)).detach()
    step = model.gains(images).T @ displaced / share  # (read_numbers + 1, parameters)
    towards = (model.reader * step[:-1]).sum() + to_vector(model.base.params) @ step[-1]
    distance = 0.5 * displaced.square().sum(-1).mean()
    return distance - (towards - towards.detach())


def _build(config: ReptileConfig) -> LearnedInit:
    start = config.base.start(torch.zeros(3, config.size, config.size), config.seed)
    # A start that is near its image already takes a lower rate: docs/research-log.md 49.
    factor = start.lr_factor * (READ_LR_FACTOR if config.read_numbers else 1)
    learned = LearnedConfig(
        siren=start.params.config,
        lr_factor=factor,
        read_numbers=config.read_numbers,
        memory_images=config.memory_images if config.read_numbers else 0,
    )
    return LearnedInit(learned, start.params)


def _optimizer(model: LearnedInit, config: ReptileConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=config.eps)


def _fits(
    model: LearnedInit, config: ReptileConfig, images: Tensor, seed: int, first: int = 0
) -> list[FitResult]:
    """The fit of each image from where the model starts it, each with pixels of its own.

    The images are those of a step from number `first` on.
    """
    starts = [
        Start(model.unadapted(image, seed=seed), lr_factor=model.config.lr_factor)
        for image in images
    ]
    return [
        fit(start, image, config.fit, seed=seed + i)
        for i, (start, image) in enumerate(zip(starts, images, strict=True), first)
    ]


def _least_bytes(config: ReptileConfig, images: int) -> dict[str, float]:
    """Values and gradients of what is learned, the starts and ends of all fits, and one fit."""
    pixels, weights = config.size**2, SirenConfig(config.width, config.depth).weights
    of_one = 8.0 * (1 + config.read_numbers) + weight_bytes(config.fit.optimizer)
    return {
        "width depth read_numbers": of_one * weights,
        "batch_images width depth": 8.0 * images * weights,
        "batch_images size": (12.0 * images + PIXEL_BYTES) * pixels,
    }


def _loss(
    model: LearnedInit,
    config: ReptileConfig,
    images: Tensor,
    generator: torch.Generator,
    part: slice = slice(None),
) -> StepResult:
    seed, count = int(torch.randint(2**31, (1,), generator=generator)), len(images)
    images = images[part]
    results = _fits(model, config, images, seed, part.start or 0)
    before, after = [r.curve[0] for r in results], [r.kept for r in results]
    fitted = [result.params for result in results]
    if config.read_numbers:
        loss = correction_loss(model, images, fitted, len(images) / count)
    else:
        loss = displacement_loss([model.base.params] * len(images), fitted)
    return StepResult(
        loss,
        *(fmean(point.mse for point in points) for points in (before, after)),
        *(fmean(point.psnr for point in points) for points in (before, after)),
    )


def _starts(
    model: LearnedInit, config: ReptileConfig, held_out: Tensor
) -> tuple[dict[str, Sequence[Params]], dict[str, Any]]:
    """Where the fits of held-out images start, and where they lead: what is to become better."""
    before = [model.unadapted(image, seed=0) for image in held_out]
    after = [result.params for result in _fits(model, config, held_out, 0)]
    metrics = {f"weights/{name}_std": float(value.std()) for name, value in before[0].items()}
    return {"before": before, "after": after}, metrics


REPTILE: Task[ReptileConfig, LearnedInit] = Task(
    name="learned-init",
    kind=LEARNED_KIND,
    load=load_learned,
    prefix="model",
    config=ReptileConfig,
    build=_build,
    optimizer=_optimizer,
    loss=_loss,
    starts=_starts,
    see=LearnedInit.remember,
    least_bytes=_least_bytes,
)

PRESETS = REPTILE_PRESETS
