"""Images -> the outer loss of a hypernetwork; the only file that imports `higher`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from hyperinit.hypernet.inner import take_inner_steps, unit_rms
from hyperinit.hypernet.learned import LearnedInit
from hyperinit.hypernet.network import HyperNetwork
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.learn.loop import StepResult
from hyperinit.siren.network import Params, Siren, apply


@dataclass(frozen=True)
class OuterLoss:
    """What the outer loop minimises, per outer step.

    Attributes:
        query_pixels: Pixels of each image on which the losses are measured; drawn apart from the
            pixels of the inner steps.
        weight_before: Weight of the loss before the inner steps.
        weight_after: Weight of the loss after them.
        residual_penalty: Weight of the mean squared residual of the heads, in units of the
            parameters' own size.
        second_order: Differentiate through the inner gradients.
        inner_loop: "functional" (our own, batched) or "higher" (reference, image by image).
    """

    query_pixels: int = 1024
    weight_before: float = 0.2
    weight_after: float = 1.0
    residual_penalty: float = 0.0
    second_order: bool = True
    inner_loop: Literal["functional", "higher"] = "functional"


@dataclass(frozen=True)
class OuterResult:
    """One outer step's loss (to be differentiated), and its error per image (B,), detached.

    MSE in normalised units and PSNR in dB, before and after the inner steps, on query pixels.
    """

    loss: Tensor
    mse_before: Tensor
    mse_after: Tensor
    psnr_before: Tensor
    psnr_after: Tensor

    def mean(self) -> StepResult:
        """The same with errors averaged over the images."""
        errors = (self.mse_before, self.mse_after, self.psnr_before, self.psnr_after)
        return StepResult(self.loss, *(float(error.mean()) for error in errors))


def outer_loss(
    hyper: HyperNetwork | LearnedInit,
    images: Tensor,
    config: OuterLoss,
    *,
    generator: torch.Generator,
) -> OuterResult:
    """The loss of one outer step.

    Args:
        hyper: The hypernetwork being trained, or the one init for all images (MAML).
        images: (B, 3, H, W) in [0, 1].
        config: See OuterLoss.
        generator: Of the pixels; a CPU generator.
    """
    batch, steps = len(images), hyper.config.inner_steps
    all_coords = image_coords(images).to(images.dtype)
    all_rgb = image_to_rgb(images)
    pixels = len(all_coords)

    def draw(*shape: int) -> tuple[Tensor, Tensor]:
        """Coordinates and colours of random pixels, (B, *shape, 2) and (B, *shape, 3)."""
        indices = torch.randint(pixels, (batch, *shape), generator=generator).to(images.device)
        rows = torch.arange(batch, device=images.device).view(-1, *(1 for _ in shape))
        return all_coords[indices], all_rgb[rows, indices]

    inner_coords, inner_rgb = draw(steps, min(hyper.config.inner_pixels, pixels))
    coords, rgb = draw(config.query_pixels)

    params = hyper(images)
    prediction = apply(params, coords)
    mse_before, psnr_before = grid_errors(prediction, rgb)
    if steps and config.inner_loop == "higher":
        prediction = _predict_with_higher(hyper, params, inner_coords, inner_rgb, coords, config)
    elif steps:
        adapted = take_inner_steps(
            params,
            inner_coords,
            inner_rgb,
            hyper.step_sizes(),
            second_order=config.second_order,
            objective=hyper.objective,
            normalized=hyper.normalized_steps,
        )
        prediction = apply(adapted, coords)
    mse_after, psnr_after = grid_errors(prediction, rgb)
    loss = config.weight_before * mse_before.mean() + config.weight_after * mse_after.mean()
    if config.residual_penalty:
        loss = loss + config.residual_penalty * _residual_size(hyper, params)
    errors = (mse_before, mse_after, psnr_before, psnr_after)
    return OuterResult(loss, *(error.detach() for error in errors))


def _residual_size(hyper: HyperNetwork | LearnedInit, params: Params) -> Tensor:
    """Mean squared residual, relative to the base parameters' mean square, over all tensors."""
    base = hyper.base.params
    sizes = [
        (value - base[name]).square().mean() / base[name].detach().square().mean().clamp_min(1e-8)
        for name, value in params.items()
    ]
    return torch.stack(sizes).mean()


def _predict_with_higher(
    hyper: HyperNetwork | LearnedInit,
    params: Params,
    inner_coords: Tensor,
    inner_rgb: Tensor,
    coords: Tensor,
    config: OuterLoss,
) -> Tensor:
    """The reference path: `higher` unrolls torch.optim.SGD on a module, one image at a time.

    Returns:
        The adapted SIRENs' colours at the query pixels, (B, N, 3).
    """
    import higher

    step_sizes = hyper.step_sizes()
    names = list(params)

    # track_higher_grads=False would cut the base and the step sizes off together with the
    # gradients' own gradients; detaching the gradients alone is first-order MAML.
    def callback(gradients: list[Tensor]) -> list[Tensor]:
        if not config.second_order:
            gradients = [gradient.detach() for gradient in gradients]
        if hyper.normalized_steps:
            gradients = [unit_rms(gradient, batch_dims=0) for gradient in gradients]
        return gradients

    predictions = []
    for b, single in enumerate(params.unbatch()):
        module = Siren(single)
        # One parameter group a tensor, so that each can have its own learned step size.
        optimizer = torch.optim.SGD([{"params": [p]} for p in module.parameters()], lr=1.0)
        with higher.innerloop_ctx(
            module,
            optimizer,
            copy_initial_weights=False,  # True, the default, cuts the outer gradient off
        ) as (functional, differentiable_sgd):
            functional.update_params([single[name] for name in names])
            for k, sizes in enumerate(step_sizes):
                mse = nn.functional.mse_loss(functional(inner_coords[b, k]), inner_rgb[b, k])
                override = {"lr": [sizes[name] for name in names]}
                loss = hyper.objective(mse)
                differentiable_sgd.step(loss, override=override, grad_callback=callback)
            predictions.append(functional(coords[b]))
    return torch.stack(predictions)
