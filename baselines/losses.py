"""The losses of trained rivals, and pictures that replace photographs."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from baselines.noise import NOISES
from hyperinit.base.errors import InputError
from hyperinit.fitting.config import PROTOCOL_1, FitConfig
from hyperinit.fitting.many import fit_many
from hyperinit.hypernet.learned import LearnedInit
from hyperinit.hypernet.modulation import Trunk
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.learn.images import FixedImages
from hyperinit.learn.loss import OuterLoss, outer_loss
from hyperinit.learn.reptile import displacement_loss
from hyperinit.learn.state import StepResult, TrainingImages
from hyperinit.photos.photographs import Photographs
from hyperinit.siren.network import apply
from hyperinit.siren.vectors import stack_params

if TYPE_CHECKING:
    from baselines.trained import BaselineConfig

_DEFAULT_POWERS = {"spectrum": 1.0, "dead-leaves": 3.0}


def heads_loss(
    model: LearnedInit, config: BaselineConfig, images: Tensor, generator: torch.Generator
) -> StepResult:
    """STRAINER's loss: the sum of the MSEs of as many images as there are heads.

    All heads see the same random `query_pixels` (or all pixels, if there are no more), so that the
    shared layers are evaluated only once.
    """
    coords, rgb = image_coords(images), image_to_rgb(images)
    if config.query_pixels < len(coords):
        chosen = torch.randperm(len(coords), generator=generator)[: config.query_pixels]
        coords, rgb = coords[chosen], rgb[:, chosen]
    mse, psnr = grid_errors(model.show_heads(coords), rgb)
    errors = (float(mse.detach().mean()), float(psnr.detach().mean()))
    return StepResult(mse.sum(), errors[0], errors[0], errors[1], errors[1])


def unrolled_loss(
    model: LearnedInit, config: BaselineConfig, images: Tensor, generator: torch.Generator
) -> StepResult:
    """MAML's loss: the MSE after the inner steps, if any, on pixels drawn separately."""
    loss = OuterLoss(
        query_pixels=min(config.query_pixels, images.shape[-2] * images.shape[-1]),
        weight_before=0.0,
        second_order=config.second_order,
        inner_loop=config.inner_loop,
    )
    return outer_loss(model, images, loss, generator=generator)


def predicted_loss(
    model: LearnedInit, config: BaselineConfig, images: Tensor, generator: torch.Generator
) -> StepResult:
    """The seed's loss: the MSE of the predicted SIRENs, and penalties on code and weight size.

    All images are measured on the same random `query_pixels`. The penalty pulls the weights of a
    layer, over all images, to mean 0 and standard deviation 1 / (3 fan_in) in the first layer and
    sqrt(6 / fan_in) / (3 omega_0) in the others.
    """
    trunk = model.modulator
    if not isinstance(trunk, Trunk):
        raise InputError("this learned init predicts no weights")
    coords, rgb = image_coords(images), image_to_rgb(images)
    if config.query_pixels < len(coords):
        chosen = torch.randperm(len(coords), generator=generator)[: config.query_pixels]
        coords, rgb = coords[chosen], rgb[:, chosen]
    code = trunk.code(images)
    params = trunk.predict(code, model.config.siren)
    mse, psnr = grid_errors(apply(params, coords.expand(len(images), *coords.shape)), rgb)
    errors = (float(mse.detach().mean()), float(psnr.detach().mean()))
    sizes = []
    for layer in range(config.depth + 1):
        weight = params[f"layers.{layer}.weight"]
        wanted = sqrt(6 / weight.shape[-1]) / (3 * model.config.siren.omega_0)
        wanted = wanted if layer else 1 / (3 * weight.shape[-1])
        sizes.append((weight.std() - wanted).square() + weight.mean().square())
    penalty = config.code_penalty * code.square().mean()
    penalty = penalty + config.norm_penalty * torch.stack(sizes).sum()
    return StepResult(mse.mean() + penalty, errors[0], errors[0], errors[1], errors[1])


def reptile_loss(
    model: LearnedInit, config: BaselineConfig, images: Tensor, generator: torch.Generator
) -> StepResult:
    """The `displacement_loss` of a short fit of each image, with Adam at a constant rate."""
    starts = model(images)
    pixels = images.shape[-2] * images.shape[-1]
    inner_pixels = min(config.inner_pixels, pixels)
    results = fit_many(
        starts.map(Tensor.detach).unbatch(),
        list(images),
        FitConfig(
            **{
                **PROTOCOL_1,  # Adam on random pixels, as in the source
                "budget_epochs": config.inner_steps * inner_pixels / pixels,
                "batch_pixels": inner_pixels,
                "lr": config.inner_lr,
                "schedule": "constant",
                "output_lr_factor": config.output_lr_factor,
                "eval_epochs": (),
                "seed": int(torch.randint(2**31, (1,), generator=generator)),
            }
        ),
    )
    first, last = [r.curve[0] for r in results], [r.curve[-1] for r in results]
    return StepResult(
        displacement_loss(starts, stack_params([result.params for result in results])),
        *(sum(point.mse for point in points) / len(points) for points in (first, last)),
        *(sum(point.psnr for point in points) / len(points) for points in (first, last)),
    )


def noise_images(photos: Photographs, config: BaselineConfig) -> TrainingImages:
    """SNP's training images: pictures of noise, without looking at any photograph."""
    generator = torch.Generator().manual_seed(config.seed)
    power = config.noise_power
    power = _DEFAULT_POWERS.get(config.noise, 0.0) if power is None else power
    made = NOISES[config.noise](config.batch_images, config.size, generator, power)
    return TrainingImages(FixedImages(made), [])
