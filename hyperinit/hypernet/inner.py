"""Inner loop: Params + pixels -> Params a few gradient steps later, differentiable."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hyperinit.base.arguments import check_seed
from hyperinit.base.errors import check_memory
from hyperinit.images.coords import image_coords, image_to_rgb
from hyperinit.siren.network import Params, apply

MAX_INNER_STEPS = 1000
PIXEL_BYTES = 28  # memory of inner steps for each pixel: its coordinates, colours and index

StepSizes = Mapping[str, Tensor]  # name -> a tensor that broadcasts to that parameter
Objective = Callable[[Tensor], Tensor]  # MSE -> the loss that an inner step descends


def root_mse(mse: Tensor) -> Tensor:
    """A hypernetwork's inner objective; its gradient is finite even for a perfect fit.

    The root makes the length of a step independent of the size of the error. Steps on the MSE
    itself that suit most images become chaotic on images with unusual colours.
    """
    return mse.clamp_min(1e-8).sqrt()


def plain_mse(mse: Tensor) -> Tensor:
    """The inner objective of the meta-learning literature."""
    return mse


def unit_rms(gradient: Tensor, batch_dims: int) -> Tensor:
    """A parameter's gradient, scaled to a root mean square of 1 for each SIREN.

    A step then has the same length whatever the gradient's size. Where the loss is steep, plain
    steps overshoot, the next gradients are even steeper, and the whole path becomes chaotic.
    """
    dims = tuple(range(batch_dims, gradient.ndim))
    return gradient / (gradient.square().mean(dim=dims, keepdim=True) + 1e-16).sqrt()


def take_inner_steps(
    params: Params,
    coords: Tensor,
    rgb: Tensor,
    step_sizes: Sequence[StepSizes],
    *,
    second_order: bool,
    objective: Objective = root_mse,
    normalized: bool = False,
) -> Params:
    """Gradient steps of B SIRENs, each on its own pixels.

    Args:
        params: B stacked SIRENs.
        coords: (B, K, N, 2): fresh pixels for each of the K steps.
        rgb: (B, K, N, 3), normalised.
        step_sizes: K mappings, one per step.
        second_order: Let gradients flow through the steps; otherwise each step's gradient counts
            as a constant (first-order MAML).
        objective: The loss to descend.
        normalized: Take steps along `unit_rms` gradients instead of plain ones.
    """
    for k, sizes in enumerate(step_sizes):
        # Summed over images, so that an image's gradient does not depend on the batch size.
        mse = (apply(params, coords[:, k]) - rgb[:, k]).square().mean(dim=(-1, -2))
        loss = objective(mse).sum()
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=second_order)
        if normalized:
            gradients = tuple(unit_rms(gradient, batch_dims=1) for gradient in gradients)
        named = zip(params.items(), gradients, strict=True)
        params = Params(
            params.config, {name: value - sizes[name] * grad for (name, value), grad in named}
        )
    return params


def adapt(
    params: Params,
    image: Tensor,
    step_sizes: Sequence[StepSizes],
    inner_pixels: int,
    *,
    seed: int,
    objective: Objective = root_mse,
    normalized: bool = False,
) -> Params:
    """Inner steps of one SIREN on one image, each on `inner_pixels` random pixels.

    Args:
        params: One SIREN, detached.
        image: (3, H, W) in [0, 1], or a signal.
        step_sizes: One mapping per step.
        inner_pixels: Pixels per step, without replacement; at most as many as the image has.
        seed: Seed of the pixels.
        objective: The loss to descend.
        normalized: See `take_inner_steps`.

    Raises:
        InputError: there is not enough memory for so large an image.
    """
    dims = params.config.in_features
    if image.device.type == "cpu":
        pixels = math.prod(image.shape[1:])
        what = f"the inner steps on an image of {'x'.join(map(str, image.shape[1:]))}"
        check_memory(PIXEL_BYTES * float(pixels), what, "take a smaller --size")
    coords, rgb = image_coords(image, dims), image_to_rgb(image, dims)
    count = min(inner_pixels, len(coords))
    generator = torch.Generator().manual_seed(check_seed(seed))
    # Cloned, because a view would keep the indices of all pixels in memory.
    draws = [torch.randperm(len(coords), generator=generator)[:count].clone() for _ in step_sizes]
    indices = torch.stack(draws).to(image.device)
    adapted = take_inner_steps(
        params.map(lambda value: value[None].requires_grad_()),
        coords[indices][None],
        rgb[indices][None],
        step_sizes,
        second_order=False,
        objective=objective,
        normalized=normalized,
    )
    return adapted.map(Tensor.detach).unbatch()[0]
