"""Params + image + a target error -> fitted Params, with a budget that is found on the way.

This is one fit whose end is moved while it runs. As in every fit, its learning rate decays to 0 at
the end. Once the rate has fallen, how far the error is above its final value depends little on the
image. So the training loss, and later the error over a sample of the pixels, tells where the end
must be. A fit that just missed its target continues. Only the error over all pixels decides whether
the target is reached, and no more than the cap is spent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import ceil, inf, isfinite, log
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.arguments import check_positive
from hyperinit.base.clock import Clock
from hyperinit.base.errors import InputError
from hyperinit.fitting.config import AUTO, FitConfig, rate_of, with_options
from hyperinit.fitting.descent import DIVERGED_MSE, FitResult, descend
from hyperinit.fitting.fit import UNTRAINED, as_start, flat_mse
from hyperinit.fitting.steps import rate_factors
from hyperinit.fitting.suits import ABSURD_WIDTH, width_for
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.images.decode import ImageSource
from hyperinit.inits.start import Start
from hyperinit.siren.ambient import plain, with_own_settings
from hyperinit.siren.network import Params, check_params, predict
from hyperinit.siren.signals import to_samples

# Schedule -> (gain, power): after a share f of a fit's steps, log(error / final error) is about
# gain (1 - f) ^ power. Measured for linear with 224 x 224 pixels, SIREN 5 x 256, init 33, and for
# power with 64 x 64 and 96 x 96, `identity-sized`, docs/research-log.md 42. Only the cost depends
# on these numbers.
DECAY = {"power": (6.0, 1.5), "linear": (5.0, 1.7), "constant": (5.0, 1.7)}
# In a short fit the error falls less: for n steps the gain is at most this times n ^ GAIN_POWER
# (docs/research-log.md 51).
SHORT_GAIN, GAIN_POWER = 0.72, 0.3
# Training loss / error over all pixels; "residual" and "credit" steps see harder pixels.
LOSS_RATIO = {"pixels": 0.95, "points": 0.95, "residual": 1.22, "credit": 1.75}
USUAL_EPOCHS = 12.0  # assumed length of a fit to a target, to choose its rate (~ epochs^-0.1)
# A start is first evaluated on a sample of this many pixels. If their error is more than FAR times
# the target, the start is not good enough. Otherwise all pixels are evaluated, because a sample may
# miss the few wrong pixels of an otherwise plain image.
SAMPLE_PIXELS, FAR = 1024, 2.0
# From this share of its steps on, a fit is planned by such a sample. Its error is within 5 % of
# that of all pixels; the training loss lags behind and is within 12 %. The fit ends when the sample
# is better than the target by a factor of MARGIN (docs/research-log.md 102).
SAMPLED_PART, MARGIN = 0.6, 1.03
# Least extension after an end that missed, as a share of the steps taken: bounds how often all
# pixels are evaluated.
MIN_MORE = 0.05

# A run is given up for a lower rate if after HOPE_STEPS its error is neither HOPE_GAIN times lower
# than that of its start or of a single colour, nor within HOPE_ABOVE times the target; or if it
# rose by BLOWN_GAIN. After MAX_RUNS of these, one runs to its end at the rate that did best.
HOPE_STEPS = 100
HOPE_GAIN = 4.0
HOPE_ABOVE = 10.0
MAX_RUNS = 3
BLOWN_GAIN = 10.0
# A run stalls if it has not improved by STALL_GAIN in the last half of its steps while it is still
# STALL_ABOVE times above the target, at least STALL_STEPS after the start and any lowered rate. Its
# rate is then too high, and it continues at STALL_LR_FACTOR times that.
STALL_STEPS = 160
STALL_GAIN = 1.4
STALL_ABOVE = 3.0
STALL_LR_FACTOR = 0.6


@dataclass(frozen=True)
class Run:
    """One fit from the start.

    Attributes:
        epochs: The epochs it spent.
        mse: Its final error over all pixels.
        lr: The learning rate it began with.
    """

    epochs: float
    mse: float
    lr: float


@dataclass(frozen=True, eq=False)
class TargetResult:
    """The result of `fit_to_target`.

    Attributes:
        params: The best SIREN that was found, the start included.
        mse, psnr: Errors of `params` over all pixels, in ImageNet-normalised units and in dB on
            [0, 1].
        reached: Whether `mse` is at or below the target.
        improved: Whether `mse` is at or below the target, or below the start's.
        epochs: Pixel visits / pixels of all runs together, including making the start.
        sec: Seconds of the same, and of every evaluation of all pixels on the way.
        runs: The runs, in order.
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
    """The state of a fit to a target, reported a few times per epoch.

    Attributes:
        epochs: Epochs spent so far by all runs together, including making the start.
        planned_epochs: Estimate of the epochs that all runs will have spent when the target is
            reached; the budget if there is no estimate yet.
        mse: Error over all pixels, estimated from the training loss or, near the end, from a
            sample; in ImageNet-normalised units.
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
        start: Where every run starts; not modified. Its cost is part of the result.
        image: (3, H, W) in [0, 1], or anything else that `fit` accepts.
        target_mse: In ImageNet-normalised units; 8e-4 is 43.9 dB. For a signal, in its own units.
        config: See FitConfig. `budget_epochs` is a cap on all runs together, to the nearest step.
            `eval_epochs`, `eval_pixels` and `stop_mse` are set here. A run that hardly improves, or
            blows up, is given up and restarted at half the rate, or at the suitable one if that is
            lower, whatever `max_restarts` says. Engine "auto" is "eager", because the length of
            the fit is not known.
        on_progress: Called every 20 steps, on the clock.
        **options: Fields of FitConfig to set.

    Raises:
        InputError: an option or the image is unusable, there are several SIRENs, or no layer is
            trained.
    """
    config = with_options(config, options)
    check_positive("target_mse", target_mse)
    start = as_start(start)
    check_params(start.params, "fit_to_target")
    if not any(rate_factors(config, start.params.config.depth)):
        raise InputError(UNTRAINED)
    image = plain(to_samples(image, start.params.config)).to(start.params.device)
    pixels = image[0].numel()
    flat = flat_mse(image, start.params.config.in_features)
    step_epochs = config.step_pixels(pixels) / pixels
    # With restarts allowed a fit returns the best of all its evaluations.
    config = replace(
        config, max_restarts=1, stop_mse=None, eval_epochs=(), eval_pixels=SAMPLE_PIXELS
    )
    if config.engine == AUTO:  # it would decide by the budget, which is only a cap here
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
            own = replace(own, max_restarts=0) if is_last else own  # the last run is not given up
            end = End(
                target_mse,
                round(left / step_epochs),
                LOSS_RATIO[config.sampler],
                DECAY[config.schedule],
                is_last=is_last,
                flat_mse=flat,
                on_plan=_in_epochs(on_progress, epochs, step_epochs),
            )
            # The cost of making the start is counted once, here.
            begun = replace(start, epochs=0.0, sec=0.0)
            (result,) = descend(begun, image, own, replan=end)
            best = result if best is None or result.kept.mse < best.kept.mse else best
            visited = result.curve[-1].epochs
            if visited == 0:  # the start is good enough or NaN, or less than a step is left
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
    """A seed wrapped to a signed 64-bit integer."""
    return (seed + 2**63) % 2**64 - 2**63


def advice(result: TargetResult, target_mse: float) -> str:
    """What may help after a target was missed, in a few words."""
    if not isfinite(result.mse):
        return f"the start is not a usable SIREN: its error is {result.mse}"
    if not result.runs:
        return "nothing is left to fit with: raise budget_epochs"
    if not result.improved:
        return f"the fit did not improve: try lr other than {result.runs[0].lr:g}"
    width = width_for(result.params.config, result.mse, target_mse)
    if width > ABSURD_WIDTH:
        return "no network reaches that error: raise target_mse"
    return f"raise budget_epochs, or width to about {width}"


def _in_epochs(
    on_progress: Callable[[Progress], None], spent_epochs: float, step_epochs: float
) -> Callable[[int, int, float], None]:
    """Converts what an `End` reports about one run into the progress of all runs."""

    def on_plan(step: int, steps: int, mse: float) -> None:
        now, planned = (spent_epochs + count * step_epochs for count in (step, steps))
        on_progress(Progress(now, planned, mse))

    return on_plan


@dataclass
class End:
    """Decides where a run must end: a `Replan` for `descend`.

    Attributes:
        target_mse: The target error.
        max_steps: The most steps of the whole run.
        loss_ratio: Training loss / error over all pixels, as far as known.
        decay: The `DECAY` of the fit's schedule.
        is_last: Whether this is the last run.
        flat_mse: Error of the best single colour.
        start_mse: Error before the first step.
        train_mse: The latest training loss.
        lr_factor: Factor on the fit's learning rate from here on.
        losses: Step -> training loss.
        lowered_step: When the rate was last lowered.
        on_plan: Called with (steps taken, steps of the whole run, estimated error over all pixels).
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
        """Steps of the whole run; only those already taken if it is done or hopeless."""
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
        """The same, once the error over all pixels is known."""
        if step == 0:
            self.start_mse = mse
            return self.max_steps if self.target_mse < mse < inf else 0
        if mse <= self.target_mse or self.hopeless(step):
            return step
        self.loss_ratio = self.train_mse / mse
        return min(max(self._steps(step, mse), ceil((1 + MIN_MORE) * step)), self.max_steps)

    def far(self, mse: float) -> bool:
        """Whether a start with about this error is surely above the target."""
        return mse > FAR * self.target_mse

    def hopeless(self, step: int) -> bool:
        """Whether another run at a lower rate would reach the target sooner."""
        # A start that shows the image, or is near the target, cannot gain that much.
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
        if not above < most:  # too far away for an estimate, or NaN
            return self.max_steps
        steps = float(max(step, 1))
        for _ in range(10):  # fixed point: the gain depends on the number of steps
            gain = min(most, SHORT_GAIN * steps**GAIN_POWER)
            part = 1 - min(above / gain, 1) ** (1 / power)
            found = self.max_steps if part <= 0 else min(step / part, self.max_steps)
            steps = (steps * found) ** 0.5
        return min(round(steps), self.max_steps)
