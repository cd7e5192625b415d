"""Training by real fits: Reptile (arXiv 1803.02999), and two hypernetworks taught the same way.

Reptile: theta_0 += eps (fitted - theta_0), where `fitted` is the end of a fit from theta_0, the
same fit that users run, over a declared budget. Nothing is differentiated except the fit itself.

With `read_numbers` the start depends on the image: theta(x) = theta_0 + z(x) A, where z is the
image's lowest cosine coefficients. Recursive least squares corrects A and theta_0 by the
displacements of fits (`inits.linear`). This is a linear hypernetwork, taught only by the fits that
start from it.

With `gradient_steps` each fit begins after a few gradient steps on its image. What is learned is
where these begin.

With `patch_size` a transformer reads the image and predicts a residual of all weights. It is taught
by the same displacements, together with the gradient of the error at the start of the fits.
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
from hyperinit.hypernet.untrained import STEPPINGS
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.images.cosines import MOST_COSINES
from hyperinit.inits.start import Start
from hyperinit.learn.config import EVAL_PIXELS, MOST_READ, REPTILE_PRESETS, ReptileConfig
from hyperinit.learn.state import StepResult, Task
from hyperinit.siren.device import fast_products
from hyperinit.siren.network import Params, SirenConfig, predict
from hyperinit.siren.vectors import FlatParams, choose_params, stack_params, to_vector
from hyperinit.stepping.gradients import Gradients, scaled_coords

assert MOST_READ == MOST_COSINES, "the config allows as many numbers as an image has"

# Factor on the learning rate of fits from starts that depend on the image.
READ_LR_FACTOR = 0.6

START_PIXELS = 512  # of each image, to measure the gradient of the start's error
ADAM_BETAS = (0.9, 0.98)


def displacement_loss(starts: Params, fitted: Params) -> Tensor:
    """Half the mean squared distance from starts to the ends of their fits, ().

    Its gradient is minus the mean displacement, so a step of plain gradient descent at rate eps is
    Reptile's outer step.

    Args:
        starts: B stacked SIRENs; all may be the same.
        fitted: The ends of the fits.
    """
    return 0.5 * (to_vector(starts) - to_vector(fitted)).square().sum(-1).mean()


def correction_loss(
    model: LearnedInit, images: Tensor, starts: Params, fitted: Params, share: float = 1.0
) -> Tensor:
    """The same value for a linear reader; its gradient is recursive least squares' step, ().

    A step of plain gradient descent at rate eps goes a share eps of the way to the regression of
    all fits so far.

    Args:
        model: Has a reader, with the images in its statistics.
        images: (B, 3, H, W).
        starts: B stacked SIRENs, where the model has the images' fits start.
        fitted: The ends of these fits.
        share: The share of the step's images that these are; gradients of all shares are averaged.
    """
    assert model.reader is not None
    displaced = (to_vector(fitted) - to_vector(starts)).detach()
    step = model.gains(images).T @ displaced / share  # (read_numbers + 1, parameters)
    towards = (model.reader * step[:-1]).sum() + to_vector(model.base.params) @ step[-1]
    distance = 0.5 * displaced.square().sum(-1).mean()
    return distance - (towards - towards.detach())


def guided_loss(
    starts: Params, fitted: Params, images: Tensor, start_weight: float, generator: torch.Generator
) -> Tensor:
    """The same value for starts of any kind, with a gradient that sums two directions, ().

    One leads to the ends of the fits, the other down the error of the starts themselves. Each is
    scaled to a mean length of 1 over the images (the second then by `start_weight`). Displacements
    alone improve the fit's first epochs at the cost of its last, errors alone the start at the cost
    of the fit; docs/research-log.md 66.

    Args:
        starts: B stacked SIRENs, attached to the graph of what is learned.
        fitted: The ends of the fits.
        images: (B, 3, H, W) in [0, 1].
        start_weight: See above.
        generator: Draws the pixels on which the error is measured, at most START_PIXELS.
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
    """Gradient of each SIREN's root mean squared error, (B, parameters); 0 if it is not finite.

    The root is used because the gradient of the MSE is dominated by the images with large errors.
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
    blank = torch.zeros(3, config.size, config.size)
    if config.gradient_steps is None:
        start = config.base.start(blank, config.seed)
    else:
        kind = STEPPINGS[config.gradient_steps]
        start = kind.drawn(config.width, config.depth, blank, config.seed)
    reads = config.read_numbers or config.patch_size
    # A start that is already close to its image needs a lower rate: docs/research-log.md 49.
    factor = start.lr_factor * (READ_LR_FACTOR if reads else 1)
    learned = LearnedConfig(
        siren=start.params.config,
        lr_factor=factor,
        read_numbers=config.read_numbers,
        memory_images=config.memory_images if config.read_numbers else 0,
        modulation=config.modulation,
        gradient_steps=config.gradient_steps,
    )
    return LearnedInit(learned, start.params, torch.Generator().manual_seed(config.seed))


def _optimizer(model: LearnedInit, config: ReptileConfig) -> torch.optim.Optimizer:
    if not config.learn_output:
        for value in model.base.layers[-1].parameters():
            value.requires_grad_(False)
    if model.modulator is None:
        return torch.optim.SGD(model.parameters(), lr=config.eps)
    # The transformer can learn a residual common to all images, so the base needs no training.
    model.base.requires_grad_(False)
    return torch.optim.AdamW(
        model.modulator.parameters(), lr=config.lr, betas=ADAM_BETAS, weight_decay=0.01
    )


def _starts_of(model: LearnedInit, images: Tensor) -> Params:
    """B stacked SIRENs in float32, whatever precision a transformer has on a GPU."""
    if model.modulator is None:
        return model(images).map(Tensor.contiguous)  # type: ignore[no-any-return]
    kind = images.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
        starts: Params = model(images)
    return starts.map(lambda value: value.float().contiguous())


def _stepped(model: LearnedInit, starts: Params, images: Tensor, seed: int) -> Params:
    """B starts after the model's gradient steps, if it takes any.

    Gradients pass as if there were no steps: where these begin moves by as much as where they end.
    """
    if model.stepping is None:
        return starts
    begun = starts.map(Tensor.detach).unbatch()
    pairs = enumerate(zip(begun, images, strict=True))
    ended = stack_params([model.stepping.take(one, image, seed + i) for i, (one, image) in pairs])
    moved = {name: (ended[name] - value).detach() for name, value in starts.items()}
    return Params(starts.config, {name: value + moved[name] for name, value in starts.items()})


def _fits(
    model: LearnedInit, config: ReptileConfig, starts: Params, images: Tensor, seed: int
) -> Params:
    """The ends of the fits of B images.

    With a reader, or gradient steps, there are so many fits that none is watched or restarted.
    """
    suits: dict[str, Any] = {"lr_factor": model.config.lr_factor, "prefers": model.prefers}
    starts = starts.map(Tensor.detach)
    if config.read_numbers or config.patch_size or config.gradient_steps is not None:
        # Fits for a transformer may use TF32 on a GPU.
        with fast_products(images.device, allowed=bool(config.patch_size)):
            return fit_unseen(Start(starts, **suits), images, replace(config.fit, seed=seed))
    begun = [Start(params, **suits) for params in starts.unbatch()]
    results = fit_many(begun, list(images), config.fit, seed=seed)
    return stack_params([result.params for result in results])


def _least_bytes(config: ReptileConfig, images: int) -> dict[str, float]:
    """Values and gradients of the learned parameters, starts and ends of all fits, and one fit."""
    pixels, weights = config.size**2, SirenConfig(config.width, config.depth).weights
    of_one = 8.0 * (1 + config.read_numbers) + weight_bytes(config.fit.optimizer)
    patches = ceil(config.size / config.patch_size) ** 2 if config.patch_size else 0
    numbers = bool(patches) * config.transformer_layers * config.token_size
    return {
        # A transformer's four numbers per parameter with AdamW, and its stored activations.
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
    starts = _stepped(model, _starts_of(model, images), images, seed + (part.start or 0))
    ends = _fits(model, config, starts, images, seed)
    # With a transformer, errors would dominate a step's cost, so they use as few pixels too.
    looked = START_PIXELS if config.patch_size else EVAL_PIXELS
    drawn = _some_pixels(images, looked, generator)
    before, after, fitted = _no_worse(starts.map(Tensor.detach), ends, drawn)
    if config.read_numbers:
        loss = correction_loss(model, images, starts, fitted, len(images) / count)
    elif config.patch_size:
        loss = guided_loss(starts, fitted, images, config.start_weight, generator)
    else:
        loss = displacement_loss(starts, fitted)
    errors = before[0], after[0], before[1], after[1]
    return StepResult(loss, *(float(error.mean()) for error in errors))


def _some_pixels(images: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Coordinates (N, 2) and colours (B, N, 3) of `count` random pixels, or all if fewer."""
    coords, rgb = image_coords(images), image_to_rgb(images)
    if len(coords) <= count:
        return coords, rgb
    drawn = torch.randperm(len(coords), generator=generator)[:count].to(coords.device)
    return coords[drawn], rgb[:, drawn]


def _no_worse(
    starts: Params, ends: Params, seen: tuple[Tensor, Tensor]
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Params]:
    """MSE and PSNR of B starts and of the ends of their fits, on some pixels; and the ends.

    If a fit ended worse than it began, its start counts as its end.
    """
    coords, rgb = seen
    before, after = (grid_errors(predict(params, coords), rgb) for params in (starts, ends))
    better = after[0] <= before[0]
    mse, psnr = (torch.where(better, b, a) for a, b in zip(before, after, strict=True))
    return before, (mse, psnr), choose_params(better, ends, starts)


def _starts(
    model: LearnedInit, config: ReptileConfig, held_out: Tensor
) -> tuple[dict[str, Sequence[Params]], dict[str, Any]]:
    """The starts and ends of the fits of held-out images: the errors that training is to lower."""
    before = [model.generate(image) for image in held_out]
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
