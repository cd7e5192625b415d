"""Params + image -> a learning rate: the LR range test that the seed experiment began with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.fitting.config import FitConfig
from hyperinit.fitting.steps import adamw, batches_of, rate_factors
from hyperinit.siren.network import Params, apply

# The defaults of Lightning's learning rate finder, which the source's `auto_lr` called.
MIN_LR, MAX_LR, STEPS = 1e-8, 1.0, 100
SMOOTHING = 0.98
STOP_RATIO = 4.0
SKIP_FIRST, SKIP_LAST = 10, 1


@dataclass(frozen=True)
class LrRange:
    """A sweep over learning rates and the rate it suggests.

    Attributes:
        lrs: Learning rate of each step.
        losses: Smoothed training loss after each step.
        suggestion: The rate at which the loss falls most steeply.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


def lr_range_test(params: Params, image: Tensor, config: FitConfig) -> LrRange:
    """Raises the learning rate exponentially, step by step, and watches the loss.

    Steepness is per step, that is per log(LR), as in the Lightning version that the source used
    (later versions divide by the difference in LR, which favours the smallest rates).

    Args:
        params: Where the fit will start; not modified.
        image: (3, H, W) in [0, 1].
        config: The fit whose rate is wanted; its own rate, budget and schedule are not used.

    Raises:
        InputError: the loss diverges before anything can be concluded.
    """
    params = params.map(lambda value: value.detach().clone().requires_grad_())
    optimizer = adamw(params, config, rate_factors(config, params.config.depth))
    pixels = image.shape[-2] * image.shape[-1]
    next_batch = batches_of(image, config, config.step_pixels(pixels))
    lrs: list[float] = []
    losses: list[float] = []
    average, best = 0.0, float("inf")
    for step in range(STEPS):
        lr = MIN_LR * (MAX_LR / MIN_LR) ** (step / STEPS)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        coords, rgb = next_batch()
        loss = (apply(params, coords) - rgb).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        average = SMOOTHING * average + (1 - SMOOTHING) * float(loss.detach())
        smoothed = average / (1 - SMOOTHING ** (step + 1))
        if not smoothed < float("inf"):
            break
        lrs.append(lr)
        losses.append(smoothed)
        best = min(best, smoothed)
        if smoothed > STOP_RATIO * best:
            break
    if len(losses) < SKIP_FIRST + SKIP_LAST + 2:
        raise InputError(
            f"LR range test: the loss diverged after {len(losses)} steps; set the rate by hand"
        )
    steepest = int(np.gradient(losses[SKIP_FIRST:-SKIP_LAST]).argmin())
    return LrRange(tuple(lrs), tuple(losses), lrs[SKIP_FIRST + steepest])
