"""Params + image + a wanted error -> fitted Params, at a budget that is found on the way.

A short pilot fit, then what the law of the budget asks for: the final error of a fit whose rate
decays over its budget falls about as budget ^ -1.55, and a fit that just missed is taken further
at a lower rate, which falls more slowly but has a head start. Each guess starts from what the last
one really reached on all pixels, and none may spend more than is left of the cap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal

from hyperinit.clock import Clock
from hyperinit.errors import InputError
from hyperinit.fit import FitConfig, default_lr, fit
from hyperinit.fit_config import with_options
from hyperinit.images import ImageSource, to_image
from hyperinit.siren import Params

# Readings on one photograph (224 x 224, SIREN 5 x 256, init 33): guesses, from which only the cost
# depends and never whether a result counts as reached.
BUDGET_EXPONENT = 1.55  # of a new fit: final error ~ budget ^ -1.55
EXTENSION_EXPONENT = 1.2  # of a fit taken further: error ~ (all its epochs) ^ -1.2
EXTENSION_LR_FACTOR = 0.3  # of the rate of the fit that is taken further
MARGIN = 1.1  # on every guess

PILOT_STEPS = 100  # below about so many, errors say little about larger budgets
PILOT_GAIN = 4.0  # that a pilot at a good rate surely brings
MIN_GROWTH, MAX_GROWTH = 1.5, 6.0  # of a new fit, relative to the one it is guessed from
MIN_RUN = 0.1  # of all epochs so far: bounds how many guesses there can be
CHECKS = (0.6, 0.7, 0.8, 0.9)  # of a run's epochs: where it is looked at, to stop early


Kind = Literal["pilot", "fit", "extension"]


@dataclass(frozen=True)
class Run:
    """One fit on the way to a target.

    Attributes:
        kind: "pilot", "fit" from the start, or "extension" of the best so far.
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
            to the nearest step. `eval_epochs` and `stop_mse` are set here, and a run that brings
            much less than was expected is followed by runs at half the rate, whatever
            `max_restarts` says.
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
    pilot_epochs = PILOT_STEPS * config.step_pixels(pixels) / pixels
    base = replace(config, max_restarts=0, stop_mse=target_mse)
    lr = config.lr or default_lr(params.config)
    runs: list[Run] = []
    epochs = spent_epochs
    clock = Clock(image.device)
    with clock.running():
        best = fit(params, image, base, budget_epochs=0)
        can_extend = True
        best_epochs = 0.0  # that `best` has been fitted for, without runs that led elsewhere
        while best.kept.mse > target_mse or not isfinite(best.kept.mse):
            left = config.budget_epochs - epochs
            ratio = best.kept.mse / target_mse
            kind, wanted = plan_run(ratio, best_epochs, pilot_epochs, left, can_extend)
            run_epochs = min(max(wanted, MIN_RUN * epochs), left)
            result = fit(
                best.params if kind == "extension" else params,
                image,
                base,
                budget_epochs=max(run_epochs, 0),
                lr=lr * (EXTENSION_LR_FACTOR if kind == "extension" else 1),
                eval_epochs=tuple(part * run_epochs for part in CHECKS),
                seed=config.seed + len(runs),
            )
            visited = result.curve[-1].epochs
            if visited == 0:  # less than a step is left, or the start is no number
                break
            epochs += visited
            runs.append(Run(kind, visited, result.mse, result.lr))
            promised = _gain(kind, visited, best_epochs)
            helped = result.kept.mse < best.kept.mse
            kept_promise = result.kept.mse * promised**0.5 <= best.kept.mse
            can_extend = kept_promise or kind != "extension"
            if not kept_promise and kind != "extension":
                lr /= 2
            # After a pilot at a bad rate comes another pilot, not a fit six times as long.
            if helped and (kept_promise or kind != "pilot"):
                best_epochs = visited + (best_epochs if kind == "extension" else 0)
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


def _gain(kind: Kind, epochs: float, best_epochs: float) -> float:
    """By what factor a run of so many epochs should lower the error of the best so far."""
    if kind == "pilot":
        return PILOT_GAIN
    if kind == "extension":
        return float((1 + epochs / best_epochs) ** EXTENSION_EXPONENT)
    return float(max(epochs / best_epochs, 1) ** BUDGET_EXPONENT)


def plan_run(
    ratio: float,
    best_epochs: float,
    pilot_epochs: float,
    left_epochs: float,
    can_extend: bool = True,
) -> tuple[Kind, float]:
    """What to run next, and for how many epochs: whatever the law says gets there sooner.

    Args:
        ratio: Error of the best so far / target, above 1.
        best_epochs: What the best so far was fitted for; 0 before the first fit that helped.
        pilot_epochs: Of the first fit.
        left_epochs: Of the cap.
        can_extend: False after an extension that brought too little.
    """
    if best_epochs == 0:
        return "pilot", pilot_epochs
    again = best_epochs * min(MARGIN * ratio ** (1 / BUDGET_EXPONENT), MAX_GROWTH)
    further = best_epochs * (MARGIN * ratio ** (1 / EXTENSION_EXPONENT) - 1)
    # A new fit that can afford no more than the best one had would only come to the same.
    if left_epochs <= best_epochs or (can_extend and further < again):
        return "extension", further
    return "fit", max(again, MIN_GROWTH * best_epochs)
