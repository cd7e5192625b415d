"""Image + several inits -> their fits side by side, with the state of all after every turn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.fitting.config import FitConfig
from hyperinit.fitting.descent import FitResult, descent
from hyperinit.inits.start import Init
from hyperinit.record.protocol import PROTOCOLS, TARGETS
from hyperinit.record.records import CurvePoint
from hyperinit.siren.network import render

BUDGET_EPOCHS = 64.0  # declared; within it, every init reaches 8e-4 on most 96 x 96 photographs
MAX_BUDGET_EPOCHS = 1000.0


def race_config(lr: float | None = None, budget_epochs: float = BUDGET_EPOCHS) -> FitConfig:
    """The config of a fit that is evaluated every epoch, and more often in the first.

    Raises:
        InputError: a value is out of range.
    """
    config = FitConfig(
        lr=lr, budget_epochs=budget_epochs, batch_pixels=PROTOCOLS["small"]["batch_pixels"]
    )
    if budget_epochs > MAX_BUDGET_EPOCHS:
        raise InputError(f"budget_epochs must be at most {MAX_BUDGET_EPOCHS:g}")
    every_epoch = map(float, range(1, math.ceil(budget_epochs)))
    return replace(config, eval_epochs=(0.25, 0.5, *every_epoch))


@dataclass(frozen=True, eq=False)
class Lane:
    """The current state of one init's fit.

    Attributes:
        init: The init's name.
        start: The rendering at step 0: (3, H, W) in [0, 1].
        result: The result of the fit as if it ended here.
        over: Whether it does end here.
    """

    init: str
    start: Tensor
    result: FitResult
    over: bool = False

    @property
    def now(self) -> CurvePoint:
        """Its last evaluation."""
        return self.result.curve[-1]

    @cached_property
    def picture(self) -> Tensor:
        """The current rendering: (3, H, W) in [0, 1]."""
        return render(self.result.params, *self.start.shape[-2:])

    def hit(self, target: float) -> CurvePoint | None:
        """Its first evaluation with an error at or below a target."""
        return next((point for point in self.result.curve if point.mse <= target), None)


def race(
    image: Tensor, inits: Sequence[Init], config: FitConfig, target: float = min(TARGETS)
) -> Iterator[list[Lane]]:
    """Fits an image from several inits side by side, each as `fit` would alone.

    The fit that is furthest behind in epochs takes the next turn, from one of its evaluations to
    the next. Each fit has its own clock, which starts with the cost of making its start, in epochs
    and in seconds. A fit is over at its first evaluation at or below the target, when the error
    blows up, or when its budget is spent. None is restarted.

    Args:
        image: (3, H, W) in [0, 1].
        inits: Inits with distinct names.
        config: The config of every fit; `seed` is also that of the init. Turns end at evaluations.
        target: MSE over all pixels, in ImageNet-normalised units.

    Yields:
        All lanes in the order of `inits`: once when all starts are made, then after every turn.
    """
    fits, lanes = {}, {}
    for init in inits:
        start = init.start(image, config.seed)
        fits[init.name] = descent(start, image, config)
        (result,) = next(fits[init.name])
        lanes[init.name] = Lane(init.name, render(start.params, *image.shape[-2:]), result)
    yield list(lanes.values())
    while running := [lane for lane in lanes.values() if not lane.over]:
        lane = min(running, key=lambda lane: lane.now.epochs)
        there = lane.result.diverged or lane.hit(target) is not None
        results = None if there else next(fits[lane.init], None)
        lane = replace(lane, over=True) if results is None else replace(lane, result=results[0])
        lanes[lane.init] = lane
        yield list(lanes.values())
