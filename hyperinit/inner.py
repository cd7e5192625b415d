"""Inner loop: Params + pixels -> Params a few gradient steps later, differentiably."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hyperinit.siren import Params, apply

StepSizes = Mapping[str, Tensor]  # name -> whatever broadcasts to that parameter


def inner_loss(mse: Tensor) -> Tensor:
    """What an inner step descends, given the MSE; finite gradient even for a perfect fit."""
    return mse.clamp_min(1e-8).sqrt()


def take_inner_steps(
    params: Params,
    coords: Tensor,
    rgb: Tensor,
    step_sizes: Sequence[StepSizes],
    *,
    second_order: bool,
) -> Params:
    """Plain gradient steps on the root of the MSE of B SIRENs, each on its own pixels.

    The root keeps the length of a step independent of how far off an image is: steps on the MSE
    itself that suit most images throw one of unusual colours into chaos.

    Args:
        params: B stacked SIRENs.
        coords: (B, K, N, 2): fresh pixels for each of the K steps.
        rgb: (B, K, N, 3), normalised.
        step_sizes: K mappings, one a step.
        second_order: Let gradients flow through the steps; otherwise each step's gradient counts
            as a constant (first-order MAML).
    """
    for k, sizes in enumerate(step_sizes):
        # The sum over images keeps each image's gradient free of how many neighbours it has.
        mse = (apply(params, coords[:, k]) - rgb[:, k]).square().mean(dim=(-1, -2))
        loss = inner_loss(mse).sum()
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=second_order)
        named = zip(params.items(), gradients, strict=True)
        params = Params(
            params.config, {name: value - sizes[name] * grad for (name, value), grad in named}
        )
    return params
