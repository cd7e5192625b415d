"""Params + image + a wanted error -> fitted Params, at a budget that is found on the way.

One fit whose end is moved while it runs. Its rate decays linearly to 0 at its end, as in every fit,
and how far the error is above its final value depends little on the image once the rate has fallen:
the training loss so far tells where the end has to be. A fit that just missed is taken further at a
lower rate. Whether the target is reached is only ever said of all pixels, and no more than the cap
is spent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite, log, nan
from typing import Any, Literal

from torch import Tensor

from hyperinit.clock import Clock
from hyperinit.errors import InputError
from hyperinit.fit import DIVERGED_MSE, CurvePoint, FitConfig, FitResult, default_lr, descend, fit
from hyperinit.fit_config import with_options
from hyperinit.images import ImageSource, to_image
from hyperinit.siren import Params

# Of a fit with linear decay, after the part f of its steps: log(error / final error) is about
# DECAY_GAIN (1 - f) ^ DECAY_POWER. Six photographs, 224 x 224 pixels, SIREN 5 x 256, init 33, 16
# and 32 epochs; docs/research-log.md has the readings. Only the cost depends on these numbers.
DECAY_GAIN = 4.5
DECAY_POWER = 1.85
MARGIN = 1.05  # on the training loss: pixels of a step are no random sample of what is hard

EXTENSION_EXPONENT = 1.2  # of a fit taken further: error ~ (all its epochs) ^ -1.2
EXTENSION_LR_FACTOR = 0.3  # of the rate of the fit that is taken further
EXTENSION_MARGIN = 1.1
MIN_RUN = 0.1  # of all epochs so far: bounds how many runs there can be

HOPE_STEPS = 100  # by then a fit at a good rate
HOPE_GAIN = 4.0  # has surely become better by this factor

Kind = Literal["fit", "extension"]


@dataclass(frozen=True)
class Run:
    """One fit on the way to a target.

    Attributes:
        kind: "fit" from the start, or "extension" of the best so far.
        epochs: What it spent.
        mse: What it reached on all pixels.
        lr: The learning rate it used.
    """

    kind: Kind
    epochs: float
    mse: float
    lr: float


@dataclass(frozen=True)
class TargetResult:
    """What `fit_to_target` ends with.

    Attributes:
        params: The best SIREN that was found.
        mse, psnr: Of `params`, over all pixels, in ImageNet-normalised units and in dB on [0, 1].
        reached: Whether `mse` is at or below the target.
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


def fit_to_target(
    params: Params,
    image: ImageSource,
    target_mse: float,
    config: FitConfig | None = None,
    *,
    spent_epochs: float = 0.0,
    spent_sec: float = 0.0,
    **options: Any,
) -> TargetResult:
    """Fits one SIREN until its error over all pixels is at most `target_mse`.

    Args:
        params: Where every fit starts; left as they are.
        image: (3, H, W) in [0, 1], or anything else that `to_image` takes.
        target_mse: In ImageNet-normalised units; 8e-4 is 43.9 dB.
        config: See FitConfig. `budget_epochs` is the most that all runs together may visit,
            to the nearest step. `eval_epochs` and `stop_mse` are set here, and a fit that brings
            next to nothing is given up and begun again at half the rate, whatever `max_restarts`
            says.
        spent_epochs, spent_sec: What making the start has already cost; part of the result.
        **options: Fields of FitConfig to set.

    Raises:
        InputError: an option or the image is unusable.
    """
    config = with_options(config, options)
    if not 0 < target_mse < float("inf"):
        raise InputError(f"target_mse must be a positive number, not {target_mse}")
    image = to_image(image).to(params["layers.0.weight"].device)
    pixels = image.shape[-2] * image.shape[-1]
    step_epochs = config.step_pixels(pixels) / pixels
    config = replace(config, max_restarts=0, stop_mse=None, eval_epochs=())
    lr = config.lr or default_lr(params.config)
    runs: list[Run] = []
    epochs = spent_epochs
    clock = Clock(image.device)
    with clock.running():
        best = fit(params, image, config, budget_epochs=0)
        start_mse = best.kept.mse
        best_epochs = 0.0  # that `best` has been fitted for, without runs that led elsewhere
        can_extend = True
        while isfinite(start_mse) and best.kept.mse > target_mse:
            left = config.budget_epochs - epochs
            kind: Kind = "extension" if best_epochs and can_extend else "fit"
            if kind == "extension":
                wanted = extension_epochs(best_epochs, best.kept.mse / target_mse)
                run_epochs = min(max(wanted, MIN_RUN * epochs), left)
                run_lr = lr * EXTENSION_LR_FACTOR
            else:
                run_epochs, run_lr = left, lr
            own = replace(
                config, budget_epochs=max(run_epochs, 0), lr=run_lr, seed=config.seed + len(runs)
            )
            end = End(target_mse, start_mse, round(left / step_epochs))
            result = _run(best.params if kind == "extension" else params, image, own, kind, end)
            visited = result.curve[-1].epochs
            if visited == 0:  # less than a step is left
                break
            epochs += visited
            runs.append(Run(kind, visited, result.mse, run_lr))
            helped = result.kept.mse < best.kept.mse
            if kind == "fit" and not result.kept.mse * HOPE_GAIN < start_mse:
                lr /= 2
            elif helped:
                best_epochs = visited + (best_epochs if kind == "extension" else 0)
            can_extend = helped or kind == "fit"
            best = result if helped else best
    return TargetResult(
        params=best.params,
        mse=best.kept.mse,
        psnr=best.kept.psnr,
        reached=best.kept.mse <= target_mse,
        epochs=epochs,
        sec=spent_sec + clock.sec,
        runs=tuple(runs),
    )


@dataclass(frozen=True)
class End:
    """Where a fit from the start has to end; called as `descend` calls a `Replan`.

    Attributes:
        target_mse: Wanted.
        start_mse: Before the first step.
        max_steps: Of the whole fit.
    """

    target_mse: float
    start_mse: float
    max_steps: int

    def __call__(self, step: int, train_mse: float) -> int:
        """Steps of the whole fit; no more than those taken, where it is done or hopeless."""
        hopeless = step >= HOPE_STEPS and not train_mse * HOPE_GAIN < self.start_mse
        if hopeless or not train_mse < DIVERGED_MSE:
            return step
        above = log(max(MARGIN * train_mse / self.target_mse, 1))
        part = 1 - min(above / DECAY_GAIN, 1) ** (1 / DECAY_POWER)
        return self.max_steps if part <= 0 else min(round(step / part), self.max_steps)


def extension_epochs(epochs: float, ratio: float) -> float:
    """Epochs that should take a fit of so many to 1 / `ratio` of its error."""
    return epochs * (EXTENSION_MARGIN * float(ratio ** (1 / EXTENSION_EXPONENT)) - 1)


def _run(start: Params, image: Tensor, config: FitConfig, kind: Kind, end: End) -> FitResult:
    spent = CurvePoint(0.0, 0, 0.0, inf, -inf, nan)
    replan = end if kind == "fit" else None
    (result,) = descend(start, image, config, spent=spent, replan=replan)
    return result
