"""Images -> the outer loss of a hypernetwork; the only file that imports `higher`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from hyperinit.base.errors import InputError
from hyperinit.hypernet.inner import Objective, StepSizes, take_inner_steps, unit_rms
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.learn.state import StepResult
from hyperinit.siren.network import Params, Siren, apply


@dataclass(frozen=True)
class OuterLoss:
    """The loss that each outer step minimises.

    Attributes:
        query_pixels: Pixels of each image on which the losses are measured; drawn separately from
            the pixels of the inner steps.
        weight_before: Weight of the loss before the inner steps.
        weight_after: Weight of the loss after them.
        residual_penalty: Weight of the mean squared residual of the heads, in units of the
            parameters' own size.
        second_order: Differentiate through the inner gradients.
        inner_loop: "functional" (our own, batched) or "higher" (reference, image by image).

    Raises:
        InputError: both weights of the loss are 0.
    """

    query_pixels: int = 1024
    weight_before: float = 0.2
    weight_after: float = 1.0
    residual_penalty: float = 0.0
    second_order: bool = True
    inner_loop: Literal["functional", "higher"] = "functional"

    def __post_init__(self) -> None:
        if not self.weight_before and not self.weight_after:
            raise InputError("weight_before and weight_after are both 0: nothing would be learned")


class UnrolledConfig(Protocol):
    """The part of a model's config that the outer loss needs."""

    @property
    def inner_steps(self) -> int:
        """Gradient steps per image."""
        ...

    @property
    def inner_pixels(self) -> int:
        """Pixels of each gradient step."""
        ...


class Unrolled(Protocol):
    """A model that returns inits, and defines gradient steps from them: a hypernetwork, MAML."""

    @property
    def config(self) -> UnrolledConfig:
        """See UnrolledConfig."""
        ...

    @property
    def base(self) -> Siren:
        """The base of every image's init."""
        ...

    @property
    def objective(self) -> Objective:
        """The loss of the inner steps."""
        ...

    @property
    def normalized_steps(self) -> bool:
        """See `take_inner_steps`."""
        ...

    def step_sizes(self) -> list[StepSizes]:
        """One mapping for each inner step."""
        ...

    def __call__(self, images: Tensor, /) -> Any:
        """Images (B, 3, H, W) in [0, 1] -> the Params of B stacked SIRENs before inner steps."""
        ...


def outer_loss(
    model: Unrolled,
    images: Tensor,
    config: OuterLoss,
    *,
    generator: torch.Generator,
    part: slice = slice(None),
) -> StepResult:
    """The loss of one outer step; errors are measured on the query pixels.

    Args:
        model: The hypernetwork being trained, or the one init for all images (MAML).
        images: (B, 3, H, W) in [0, 1].
        config: See OuterLoss.
        generator: A CPU generator that draws the pixels.
        part: The images over which the loss is the mean; pixels are drawn for all images.
    """
    drawn, steps = len(images), model.config.inner_steps
    images = images[part]
    all_coords = image_coords(images).to(images.dtype)
    all_rgb = image_to_rgb(images)
    pixels = len(all_coords)

    def draw(*shape: int) -> tuple[Tensor, Tensor]:
        """Coordinates and colours of random pixels, (B, *shape, 2) and (B, *shape, 3)."""
        indices = torch.randint(pixels, (drawn, *shape), generator=generator)[part]
        indices = indices.to(images.device)
        rows = torch.arange(len(images), device=images.device).view(-1, *(1 for _ in shape))
        return all_coords[indices], all_rgb[rows, indices]

    inner_coords, inner_rgb = draw(steps, min(model.config.inner_pixels, pixels))
    coords, rgb = draw(config.query_pixels)

    params = model(images)
    prediction = apply(params, coords)
    mse_before, psnr_before = grid_errors(prediction, rgb)
    if steps and config.inner_loop == "higher":
        prediction = _predict_with_higher(model, params, inner_coords, inner_rgb, coords, config)
    elif steps:
        adapted = take_inner_steps(
            params,
            inner_coords,
            inner_rgb,
            model.step_sizes(),
            second_order=config.second_order,
            objective=model.objective,
            normalized=model.normalized_steps,
        )
        prediction = apply(adapted, coords)
    mse_after, psnr_after = grid_errors(prediction, rgb)
    loss = config.weight_before * mse_before.mean() + config.weight_after * mse_after.mean()
    if config.residual_penalty:
        loss = loss + config.residual_penalty * _residual_size(model, params)
    errors = (mse_before, mse_after, psnr_before, psnr_after)
    return StepResult(loss, *(float(error.detach().mean()) for error in errors))


def _residual_size(model: Unrolled, params: Params) -> Tensor:
    """Mean squared residual, relative to the base parameters' mean square, over all tensors."""
    base = model.base.params
    sizes = [
        (value - base[name]).square().mean() / base[name].detach().square().mean().clamp_min(1e-8)
        for name, value in params.items()
    ]
    return torch.stack(sizes).mean()


def _predict_with_higher(
    model: Unrolled,
    params: Params,
    inner_coords: Tensor,
    inner_rgb: Tensor,
    coords: Tensor,
    config: OuterLoss,
) -> Tensor:
    """The reference implementation: `higher` unrolls torch.optim.SGD, one image at a time.

    Returns:
        The adapted SIRENs' colours at the query pixels, (B, N, 3).
    """
    import higher

    step_sizes = model.step_sizes()
    names = list(params)

    # track_higher_grads=False would detach the base and the step sizes along with the gradients.
    # Detaching only the gradients is first-order MAML.
    def callback(gradients: list[Tensor]) -> list[Tensor]:
        if not config.second_order:
            gradients = [gradient.detach() for gradient in gradients]
        if model.normalized_steps:
            gradients = [unit_rms(gradient, batch_dims=0) for gradient in gradients]
        return gradients

    predictions = []
    for b, single in enumerate(params.unbatch()):
        module = Siren(single)
        # One parameter group per tensor, so that each can have its own learned step size.
        optimizer = torch.optim.SGD([{"params": [p]} for p in module.parameters()], lr=1.0)
        with higher.innerloop_ctx(
            module,
            optimizer,
            copy_initial_weights=False,  # the default, True, would cut off the outer gradient
        ) as (functional, differentiable_sgd):
            functional.update_params([single[name] for name in names])
            for k, sizes in enumerate(step_sizes):
                mse = nn.functional.mse_loss(functional(inner_coords[b, k]), inner_rgb[b, k])
                override = {"lr": [sizes[name] for name in names]}
                loss = model.objective(mse)
                differentiable_sgd.step(loss, override=override, grad_callback=callback)
            predictions.append(functional(coords[b]))
    return torch.stack(predictions)
