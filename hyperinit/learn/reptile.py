"""Real fits of many images -> the start of the next: Reptile (arXiv 1803.02999), and two readers.

theta_0 += eps (fitted - theta_0), where `fitted` is where the fit that users run, over a declared
budget, leads from theta_0. Nothing is differentiated but the fit itself.

With `read_numbers` the start depends on the image: theta(x) = theta_0 + z(x) A, z being the image's
lowest cosines, and the displacements of fits are what A and theta_0 are corrected by, as recursive
least squares does (`inits.linear`). A linear hypernetwork, taught by nothing but the fits that
follow it.

With `patch_size` a transformer reads the image and predicts what is added to all weights. It is
taught by the same displacements, together with the gradient of the error where the fits start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import torch
from torch import Tensor

from hyperinit.fitting.many import fit_many, fit_unseen
from hyperinit.fitting.suits import PIXEL_BYTES, weight_bytes
from hyperinit.hypernet.learned import LEARNED_KIND, LearnedConfig, LearnedInit, load_learned
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.images.cosines import MOST_COSINES
from hyperinit.inits.start import Start
from hyperinit.learn.config import EVAL_PIXELS, MOST_READ, REPTILE_PRESETS, ReptileConfig
from hyperinit.learn.state import StepResult, Task
from hyperinit.siren.device import fast_products
from hyperinit.siren.network import Params, SirenConfig, predict
from hyperinit.siren.vectors import FlatParams, choose_params, stack_params, to_vector
from hyperinit.stepping.gradients import Gradients, scaled_coords

assert MOST_READ == MOST_COSINES, "what the config allows is what images can be read by"

# On the rate of starts that depend on the image.
READ_LR_FACTOR = 0.6

START_PIXELS = 512  # of each image, on which the slope of the start's error is measured
ADAM_BETAS = (0.9, 0.98)


def displacement_loss(starts: Params, fitted: Params) -> Tensor:
    """Half the mean squared distance of starts to where fits from them ended, ().

    Its gradient is minus the mean displacement, so that a step of plain gradient descent at rate
    eps is Reptile's outer step.

    Args:
        starts: B stacked SIRENs; all may be the same.
        fitted: Where the fits ended.
    """
    return 0.5 * (to_vector(starts) - to_vector(fitted)).square().sum(-1).mean()


def correction_loss(
    model: LearnedInit, images: Tensor, fitted: Params, share: float = 1.0
) -> Tensor:
    """The same value for a linear reader, with recursive least squares' step as its gradient, ().

    A step of plain gradient descent at rate eps goes the part eps of the way to the regression of
    all fits so far.

    Args:
        model: Has a reader, and remembers the images.
        images: (B, 3, H, W).
        fitted: Where the fits of the images, from the model's starts, ended: B stacked SIRENs.
        share: Of all images of the step; the gradients of all shares are averaged.
    """
    assert model.reader is not None
    displaced = (to_vector(fitted) - to_vector(model(images))).detach()
    step = model.gains(images).T @ displaced / share  # (read_numbers + 1, parameters)
    towards = (model.reader * step[:-1]).sum() + to_vector(model.base.params) @ step[-1]
    distance = 0.5 * displaced.square().sum(-1).mean()
    return distance - (towards - towards.detach())


def guided_loss(
    starts: Params, fitted: Params, images: Tensor, start_weight: float, generator: torch.Generator
) -> Tensor:
    """The same value for starts of any origin, with two directions to go as its gradient, ().

    One is to where the fits ended, the other down the error of the starts themselves; each is
    scaled so that its mean length over the images is 1 (and the second by `start_weight`).
    Displacements alone teach the fit's first epochs at the cost of its last, errors alone the start
    at the cost of the fit; docs/research-log.md 66.

    Args:
        starts: B stacked SIRENs, with whatever gradient leads to what is learned.
        fitted: Where the fits ended.
        images: (B, 3, H, W) in [0, 1].
        start_weight: See above.
        generator: Of the pixels on which the error is measured, START_PIXELS at most.
    """
    at = to_vector(starts)
    displaced = to_vector(fitted) - at.detach()
    direction = _unit_mean(displaced)
    if start_weight:
        slope = error_slope(starts.map(Tensor.detach), images, generator)
        direction = direction - start_weight * _unit_mean(slope)
    towards = (at * direction).sum(-1).mean()
    return 0.5 * displaced.square().sum(-1).mean() - (towards - towards.detach())


def error_slope(params: Params, images: Tensor, generator: torch.Generator) -> Tensor:
    """Gradient of each SIREN's root mean squared error, (B, parameters); 0 where it is none.

    Of the root, as that of the square is largest for the images that are furthest off.
    """
    coords, rgb = _some_pixels(images, START_PIXELS, generator)
    flat = FlatParams(params)
    slope = flat.zeros_like()
    seen = scaled_coords(coords, params.config.unit_std_coords).expand(len(images), -1, -1)
    errors = Gradients(flat, slope, len(coords))(seen.contiguous(), rgb).mean(-1)
    found = to_vector(slope.params) / errors.sqrt().clamp_min(1e-3)[:, None]
    finite: Tensor = found.isfinite().all(-1, keepdim=True)
    return torch.where(finite, found, 0)


def _unit_mean(vectors: Tensor) -> Tensor:
    """(B, parameters), scaled to a mean length of 1."""
    length: Tensor = vectors.norm(dim=-1).mean()
    return vectors / length.clamp_min(1e-12)


def _build(config: ReptileConfig) -> LearnedInit:
    start = config.base.start(torch.zeros(3, config.size, config.size), config.seed)
    reads = config.read_numbers or config.patch_size
    # A start that is near its image already takes a lower rate: docs/research-log.md 49.
    factor = start.lr_factor * (READ_LR_FACTOR if reads else 1)
    learned = LearnedConfig(
        siren=start.params.config,
        lr_factor=factor,
        read_numbers=config.read_numbers,
        memory_images=config.memory_images if config.read_numbers else 0,
        modulation=config.modulation,
    )
    return LearnedInit(learned, start.params, torch.Generator().manual_seed(config.seed))


def _optimizer(model: LearnedInit, config: ReptileConfig) -> torch.optim.Optimizer:
    if model.modulator is None:
        return torch.optim.SGD(model.parameters(), lr=config.eps)
    # What the transformer adds can be the same for all images: the base needs no training beside.
    model.base.requires_grad_(False)
    return torch.optim.AdamW(
        model.modulator.parameters(), lr=config.lr, betas=ADAM_BETAS, weight_decay=0.01
    )


def _starts_of(model: LearnedInit, images: Tensor) -> Params:
    """B stacked SIRENs, in float32 whatever a transformer takes on a GPU."""
    if model.modulator is None:
        return model(images).map(Tensor.contiguous)  # type: ignore[no-any-return]
    kind = images.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
        starts: Params = model(images)
    return starts.map(lambda value: value.float().contiguous())


def _fits(
    model: LearnedInit, config: ReptileConfig, starts: Params, images: Tensor, seed: int
) -> Params:
    """Where the fits of B images lead.

    For a reader there are so many that none of them is looked after.
    """
    suits: dict[str, Any] = {"lr_factor": model.config.lr_factor, "prefers": model.prefers}
    starts = starts.map(Tensor.detach)
    if config.read_numbers or config.patch_size:
        # Those for a transformer, on a GPU, may be rounded.
        with fast_products(images.device, allowed=bool(config.patch_size)):
            return fit_unseen(Start(starts, **suits), images, replace(config.fit, seed=seed))
    begun = [Start(params, **suits) for params in starts.unbatch()]
    results = fit_many(begun, list(images), config.fit, seed=seed)
    return stack_params([result.params for result in results])


def _least_bytes(config: ReptileConfig, images: int) -> dict[str, float]:
    """Values and gradients of what is learned, the starts and ends of all fits, and one fit."""
    pixels, weights = config.size**2, SirenConfig(config.width, config.depth).weights
    of_one = 8.0 * (1 + config.read_numbers) + weight_bytes(config.fit.optimizer)
    patches = ceil(config.size / config.patch_size) ** 2 if config.patch_size else 0
    numbers = bool(patches) * config.transformer_layers * config.token_size
    return {
        # Of a transformer: AdamW's four times each number; what its layers keep for their gradient.
        "token_size transformer_layers": 16.0 * 12 * numbers * config.token_size,
        "batch_images patch_size token_size": 4.0 * 16 * images * patches * numbers,
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
    starts = _starts_of(model, images)
    ends = _fits(model, config, starts, images, seed)
    # All errors on as few pixels as the slope where they are the larger part of a step.
    looked = START_PIXELS if config.patch_size else EVAL_PIXELS
    drawn = _some_pixels(images, looked, generator)
    before, after, fitted = _no_worse(starts.map(Tensor.detach), ends, drawn)
    if config.read_numbers:
        loss = correction_loss(model, images, fitted, len(images) / count)
    elif config.patch_size:
        loss = guided_loss(starts, fitted, images, config.start_weight, generator)
    else:
        loss = displacement_loss(starts, fitted)
    errors = before[0], after[0], before[1], after[1]
    return StepResult(loss, *(float(error.mean()) for error in errors))


def _some_pixels(images: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Coordinates (N, 2) and colours (B, N, 3) of `count` pixels; of all where they are fewer."""
    coords, rgb = image_coords(images), image_to_rgb(images)
    if len(coords) <= count:
        return coords, rgb
    drawn = torch.randperm(len(coords), generator=generator)[:count].to(coords.device)
    return coords[drawn], rgb[:, drawn]


def _no_worse(
    starts: Params, ends: Params, seen: tuple[Tensor, Tensor]
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Params]:
    """MSE and PSNR of B starts and of the ends of their fits, on some pixels; and the ends.

    A fit that ended worse than it began leads nowhere: its end is its start.
    """
    coords, rgb = seen
    before, after = (grid_errors(predict(params, coords), rgb) for params in (starts, ends))
    better = after[0] <= before[0]
    mse, psnr = (torch.where(better, b, a) for a, b in zip(before, after, strict=True))
    return before, (mse, psnr), choose_params(better, ends, starts)


def _starts(
    model: LearnedInit, config: ReptileConfig, held_out: Tensor
) -> tuple[dict[str, Sequence[Params]], dict[str, Any]]:
    """Where the fits of held-out images start, and where they lead: what is to become better."""
    before = [model.unadapted(image, seed=0) for image in held_out]
    starts = stack_params(before)
    ends = _fits(model, config, starts, held_out, 0)
    _, _, after = _no_worse(starts, ends, (image_coords(held_out), image_to_rgb(held_out)))
    metrics = {f"weights/{name}_std": float(value.std()) for name, value in before[0].items()}
    return {"before": before, "after": after.unbatch()}, metrics


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
