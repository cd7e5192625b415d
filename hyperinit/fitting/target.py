"""Params + image + a wanted error -> fitted Params, at a budget that is found on the way.

One fit whose end is moved while it runs. Its rate decays to 0 at its end, as in every fit, and how
far the error is above its final value depends little on the image once the rate has fallen: the
training loss, and later the error over a sample of the pixels, tells where the end has to be. A fit
that just missed continues. Whether the target is reached is only ever said of all pixels, and no
more than the cap is spent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import ceil, inf, isfinite, log
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.clock import Clock
from hyperinit.base.errors import InputError
from hyperinit.fitting.config import AUTO, FitConfig, rate_of, with_options
from hyperinit.fitting.descent import DIVERGED_MSE, FitResult, descend
from hyperinit.fitting.fit import UNTRAINED, as_start
from hyperinit.fitting.steps import rate_factors
from hyperinit.fitting.suits import ABSURD_WIDTH, width_for
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.images.decode import ImageSource
from hyperinit.inits.start import Start
from hyperinit.siren.ambient import plain, with_own_settings
from hyperinit.siren.network import Params, predict
from hyperinit.siren.signals import to_samples

# Schedule -> (gain, power): after the part f of the steps of a fit, log(error / final error) is
# about gain (1 - f) ^ power. Linear: 224 x 224 pixels, SIREN 5 x 256, init 33; power: 64 x 64 and
# 96 x 96, `identity-sized`, docs/research-log.md 42. Only the cost depends on these numbers.
DECAY = {"power": (6.0, 1.5), "linear": (5.0, 1.7), "constant": (5.0, 1.7)}
# A short fit has not come as far above its end: of a fit over n steps the gain is at most this
# times n ^ GAIN_POWER (docs/research-log.md 51).
SHORT_GAIN, GAIN_POWER = 0.72, 0.3
# Of the training loss to the error over all pixels; with "residual" a step sees the harder pixels.
LOSS_RATIO = {"pixels": 0.95, "points": 0.95, "residual": 1.22, "credit": 1.75}
USUAL_EPOCHS = 12.0  # of a fit to a target, for the rate that suits it; its power is -0.1
# A start is first looked at by a sample of so many pixels. Where their error is so many times the
# target it is taken for not good enough; else all are looked at, and where the target was missed:
# the few pixels that are wrong in an otherwise plain image may be in no sample.
SAMPLE_PIXELS, FAR = 1024, 2.0
# From this part of its steps on a fit is planned by such a sample, whose error is within 5 % of
# that of all pixels, where the training loss lags behind and says it within 12 %; and ends where
# the sample is so many times better than the target (docs/research-log.md 102).
SAMPLED_PART, MARGIN = 0.6, 1.03
# Of the steps taken, where an end missed: bounds how often all pixels are looked at.
MIN_MORE = 0.05

HOPE_STEPS = 100  # by then a fit at a good rate
HOPE_GAIN = 4.0  # is surely better by this factor than its start or a single colour, or is
HOPE_ABOVE = 10.0  # at most so many times above the target
MAX_RUNS = 3  # given up for a lower rate; then one is made to its end, at the rate that did best
BLOWN_GAIN = 10.0  # and one that has become worse by this factor will not be back soon
STALL_STEPS = 160  # from here on, and as long after a rate was lowered, a fit
STALL_GAIN = 1.4  # that has not become better by this factor in the last half of its steps, and is
STALL_ABOVE = 3.0  # still so many times above the target, has too high a rate:
STALL_LR_FACTOR = 0.6  # what it continues with


@dataclass(frozen=True)
class Run:
    """One fit from the start.

    Attributes:
        epochs: What it spent.
        mse: What it ended with on all pixels.
        lr: The learning rate it began with.
    """

    epochs: float
    mse: float
    lr: float


@dataclass(frozen=True)
class TargetResult:
    """What `fit_to_target` ends with.

    Attributes:
        params: The best SIREN that was found, the start included.
        mse, psnr: Of `params`, over all pixels, in ImageNet-normalised units and in dB on [0, 1].
        reached: Whether `mse` is at or below the target.
        improved: Whether it is, or is below the start's.
        epochs: Pixel visits / pixels of all runs together, making the start included.
        sec: Seconds of the same, and of every look at all pixels on the way.
        runs: What was run, in order.
    """

    params: Params
    mse: float
    psnr: float
    reached: bool
    epochs: float
    sec: float
    runs: tuple[Run, ...]
    improved: bool = True


@dataclass(frozen=True)
class Progress:
    """Where a fit to a target stands, a few times an epoch.

    Attributes:
        epochs: Spent so far by all runs together, making the start included.
        planned_epochs: What all will have spent when the target is reached, as it looks now; the
            budget where that cannot be told yet.
        mse: Over all pixels, estimated from the training loss or, near the end, from some of them;
            in ImageNet-normalised units.
    """

    epochs: float
    planned_epochs: float
    mse: float


@with_own_settings
def fit_to_target(  # more than 60 lines: a docstring, a loop, what it returns
    start: Params | Start,
    image: ImageSource,
    target_mse: float,
    config: FitConfig | None = None,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **options: Any,
) -> TargetResult:
    """Fits one SIREN until its error over all pixels is at most `target_mse`.

    Args:
        start: Where every fit starts; left as it is. Its cost is part of the result.
        image: (3, H, W) in [0, 1], or anything else that `fit` takes.
        target_mse: In ImageNet-normalised units; 8e-4 is 43.9 dB. Of a signal, in its own.
        config: See FitConfig. `budget_epochs` is the most that all runs together may visit,
            to the nearest step. `eval_epochs`, `eval_pixels` and `stop_mse` are set here, and a
            fit that brings next to nothing, or blows up, is given up and restarted at half the
            rate, or at the one that suits if that is lower, whatever `max_restarts` says. "auto"
            is the eager engine: how long the fit will be is not known.
        on_progress: Called every 20 steps, on the clock.
        **options: Fields of FitConfig to set.

    Raises:
        InputError: an option or the image is unusable, there are several SIRENs, or no layer is to
            be trained.
    """
    config = with_options(config, options)
    if not 0 < target_mse < inf:
        raise InputError(f"target_mse must be a positive number, not {target_mse}")
    start = as_start(start)
    if start.params.batch_shape:
        many = start.params.batch_shape[0]
        raise InputError(f"fit_to_target takes one SIREN, not {many} (see Params.unbatch)")
    if not any(rate_factors(config, start.params.config.depth)):
        raise InputError(UNTRAINED)
    image = plain(to_samples(image, start.params.config)).to(start.params.device)
    pixels = image[0].numel()
    flat_mse = _flat_mse(image, start.params.config.in_features)
    step_epochs = config.step_pixels(pixels) / pixels
    # With restarts allowed a fit returns the best of all its evaluations.
    config = replace(
        config, max_restarts=1, stop_mse=None, eval_epochs=(), eval_pixels=SAMPLE_PIXELS
    )
    if config.engine == AUTO:  # decides by the budget, and this one is only a cap
        config = replace(config, engine="eager")
    usual = replace(config, budget_epochs=USUAL_EPOCHS)
    lr, suits = rate_of(usual, start, pixels), rate_of(replace(usual, lr=None), start, pixels)
    runs: list[Run] = []
    epochs = start.epochs
    clock = Clock(image.device)
    best: FitResult | None = None
    with clock.running():
        while best is None or best.kept.mse > target_mse:
            left, is_last = max(config.budget_epochs - epochs, 0), len(runs) == MAX_RUNS
            lr = min(runs, key=lambda run: run.mse).lr if is_last else lr
            seed = _wrapped(config.seed + len(runs))
            own = replace(config, budget_epochs=left, lr=lr, seed=seed)
            own = replace(own, max_restarts=0) if is_last else own  # nothing is left to give up for
            end = End(
                target_mse,
                round(left / step_epochs),
                LOSS_RATIO[config.sampler],
                DECAY[config.schedule],
                is_last=is_last,
                flat_mse=flat_mse,
                on_plan=_in_epochs(on_progress, epochs, step_epochs),
            )
            # What making it cost is counted here, once.
            begun = replace(start, epochs=0.0, sec=0.0)
            (result,) = descend(begun, image, own, replan=end)
            best = result if best is None or result.kept.mse < best.kept.mse else best
            visited = result.curve[-1].epochs
            if visited == 0:  # the start is good enough or no number, or less than a step is left
                break
            epochs += visited
            runs.append(Run(visited, result.mse, lr))
            if is_last:
                break
            lr = min(lr / 2, suits)  # from a rate far too high, halves would take the whole budget
        improved = reached = best.kept.mse <= target_mse
        if not reached:
            start_mse, psnr = _errors(start.params, image)
            improved = best.kept.steps > 0 and best.kept.mse < start_mse
            if not improved:
                kept = replace(best.kept, mse=start_mse, psnr=psnr)
                best = replace(best, params=start.params.map(torch.clone), kept=kept)
    return TargetResult(
        params=best.params,
        mse=best.kept.mse,
        psnr=best.kept.psnr,
        reached=reached,
        epochs=epochs,
        sec=start.sec + clock.sec,
        runs=tuple(runs),
        improved=improved,
    )


def _errors(params: Params, image: Tensor) -> tuple[float, float]:
    """MSE and PSNR over all pixels."""
    dims = params.config.in_features
    shown = predict(params, image_coords(image, dims))
    mse, psnr = grid_errors(shown, image_to_rgb(image, dims), dims)
    return float(mse), float(psnr)


def _wrapped(seed: int) -> int:
    """A seed that is a 64-bit number: after the largest comes the smallest."""
    return (seed + 2**63) % 2**64 - 2**63


def _flat_mse(image: Tensor, dims: int) -> float:
    """Error of the best single colour."""
    return float(image_to_rgb(image, dims).var(dim=0, correction=0).mean())


def advice(result: TargetResult, target_mse: float) -> str:
    """What may help where a target was not reached, in a few words."""
    if not isfinite(result.mse):
        return f"the start is no usable SIREN: its error is {result.mse}"
    if not result.runs:
        return "nothing is left to fit with: raise budget_epochs"
    if not result.improved:
        return f"nothing became better: try lr other than {result.runs[0].lr:g}"
    width = width_for(result.params.config, result.mse, target_mse)
    if width > ABSURD_WIDTH:
        return "no network gets that low: raise target_mse"
    return f"raise budget_epochs, or width to about {width}"


def _in_epochs(
    on_progress: Callable[[Progress], None], spent_epochs: float, step_epochs: float
) -> Callable[[int, int, float], None]:
    """What an `End` tells of one run, as progress of all."""

    def on_plan(step: int, steps: int, mse: float) -> None:
        now, planned = (spent_epochs + count * step_epochs for count in (step, steps))
        on_progress(Progress(now, planned, mse))

    return on_plan


@dataclass
class End:
    """Where a fit from the start has to end: a `Replan` of `descend`.

    Attributes:
        target_mse: Wanted.
        max_steps: Of the whole fit.
        loss_ratio: Of the training loss to the error over all pixels, as far as it is known.
        decay: Of the fit's schedule, see DECAY.
        is_last: Whether there is no other fit to hope for.
        flat_mse: Error of the best single colour.
        start_mse: Before the first step.
        train_mse: The last that was seen.
        lr_factor: On the fit's rate from here on.
        losses: Training loss after so many steps.
        lowered_step: When the rate was last lowered.
        on_plan: Told (steps taken, steps of the whole fit, estimated error over all pixels).
    """

    target_mse: float
    max_steps: int
    loss_ratio: float
    decay: tuple[float, float] = DECAY["power"]
    is_last: bool = False
    flat_mse: float = 0.0
    start_mse: float = inf
    train_mse: float = inf
    lr_factor: float = 1.0
    losses: dict[int, float] = field(default_factory=dict)
    lowered_step: int = 0
    on_plan: Callable[[int, int, float], None] = lambda step, steps, mse: None

    def running(self, step: int, train_mse: float, glimpse: Callable[[], float]) -> int:
        """Steps of the whole fit; no more than those taken, where it is done or hopeless."""
        self.train_mse = train_mse
        self.losses[step] = train_mse
        if self._stalls(step):
            self.lr_factor *= STALL_LR_FACTOR
            self.lowered_step = step
        mse, steps = train_mse / self.loss_ratio, step
        if not self.hopeless(step):
            steps = self._steps(step, mse)
            if step >= SAMPLED_PART * steps:
                mse = glimpse()
                self.loss_ratio = train_mse / mse if 0 < mse < inf else self.loss_ratio
                steps = self._steps(step, mse)
        self.on_plan(step, steps, mse)
        return steps

    def looked(self, step: int, mse: float) -> int:
        """The same, now that the error over all pixels is known."""
        if step == 0:
            self.start_mse = mse
            return self.max_steps if self.target_mse < mse < inf else 0
        if mse <= self.target_mse or self.hopeless(step):
            return step
        self.loss_ratio = self.train_mse / mse
        return min(max(self._steps(step, mse), ceil((1 + MIN_MORE) * step)), self.max_steps)

    def far(self, mse: float) -> bool:
        """Whether a start with an error of about this is surely above the target."""
        return mse > FAR * self.target_mse

    def hopeless(self, step: int) -> bool:
        """Whether another fit at a lower rate will be there sooner."""
        # Of a start that shows the image, or is near the target, no such gain can be expected.
        begun_mse = max(self.start_mse, self.flat_mse)
        hoped_mse = max(begun_mse / HOPE_GAIN, HOPE_ABOVE * self.target_mse)
        hopes = self.is_last or self.train_mse / self.loss_ratio < hoped_mse
        slow = step >= HOPE_STEPS and not hopes
        blown_mse = BLOWN_GAIN * min(self.losses.values(), default=inf)
        return slow or not self.train_mse < min(blown_mse, DIVERGED_MSE)

    def _stalls(self, step: int) -> bool:
        if step < self.lowered_step + STALL_STEPS or self.train_mse < STALL_ABOVE * self.target_mse:
            return False
        half = min(self.losses, key=lambda past: abs(past - step / 2))
        return self.train_mse * STALL_GAIN > self.losses[half]

    def _steps(self, step: int, mse: float) -> int:
        above = log(max(MARGIN * mse / self.target_mse, 1))
        most, power = self.decay
        if not above < most:  # too far off to tell, or no number
            return self.max_steps
        steps = float(max(step, 1))
        for _ in range(10):  # the gain depends on what is looked for
            gain = min(most, SHORT_GAIN * steps**GAIN_POWER)
            part = 1 - min(above / gain, 1) ** (1 / power)
            found = self.max_steps if part <= 0 else min(step / part, self.max_steps)
            steps = (steps * found) ** 0.5
        return min(round(steps), self.max_steps)
