"""A start + an image -> a fitted SIREN and its learning curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isfinite, isnan
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.results import count
from hyperinit.fitting.config import FitConfig, rate_of, with_options
from hyperinit.fitting.descent import FitResult, OnProgress, descend
from hyperinit.fitting.suits import GOOD_PSNR
from hyperinit.images.coords import image_to_rgb
from hyperinit.images.decode import ImageSource
from hyperinit.inits.start import Start
from hyperinit.record.records import CurvePoint
from hyperinit.siren.ambient import plain, with_own_settings
from hyperinit.siren.network import Params, Siren, check_params
from hyperinit.siren.signals import to_samples
from hyperinit.stepping.watch import DEAD_VARIANCE

# Factor on the learning rate when restarting a fit that collapsed early, diverged, or ended worse
# than it began: its rate was at least three times the suitable one, docs/research-log.md 39.
RESTART_LR_FACTOR = 1 / 3
STALLED_LR_FACTOR = 1 / 2  # after a fit that only stalled
UNMOVED = 1e-3  # a rate that changes the error by a smaller share is too low, not too high
USUAL_LR_FACTOR = 3 / 4  # if the suitable rate is below this share of the failed one, use it

UNTRAINED = "no layer is trained: leave one out of frozen_layers, with a rate that is not 0"


@with_own_settings
def fit(
    siren: Siren | Params | Start,
    image: ImageSource,
    config: FitConfig | None = None,
    *,
    on_eval: Callable[[CurvePoint], None] = lambda point: None,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> FitResult:
    """Fits one SIREN to one image, or to another signal that the SIREN is for.

    Args:
        siren: A module, which is fitted in place; Params, which are not modified; or a Start, whose
            cost is part of the budget and of the curve.
        image: (3, H, W) in [0, 1], or anything else that `to_image` accepts, for a SIREN from 2
            coordinates to 3 colours. For every other SIREN a signal in [-1, 1], see `to_signal`:
            (C, N), (C, H, W) or (C, D, H, W) with 1, 2 or 3 coordinates and C values.
        config: See FitConfig.
        on_eval: Called with each point of the curve, off the clock.
        on_progress: Called every few steps with the epochs so far and the smoothed training loss;
            it is on the clock, so it should be quick.
        **options: Fields of FitConfig to set, for example `budget_epochs=8`.

    Raises:
        InputError: an option or the image is unusable.
    """
    config = with_options(config, options)
    start = as_start(siren.params if isinstance(siren, Siren) else siren)
    params = check_params(start.params, "fit")
    image = plain(to_samples(image, params.config)).to(params.device)
    told: dict[str, Any] = {"on_eval": on_eval, "on_progress": on_progress}
    (result,) = descend(start, image, config, **told)
    result = restart_failed(result, start, image, config, **told)
    if isinstance(siren, Siren):
        for name, value in siren.params.items():
            # One that was made in inference mode can only be changed in inference mode.
            with torch.inference_mode() if value.is_inference() else torch.no_grad():
                value.copy_(result.params[name])
    return result


def as_start(start: Params | Start) -> Start:
    """Parameters as a start that costs nothing, or a given start; detached from any graph.

    Raises:
        InputError: it is neither.
    """
    start = start if isinstance(start, Start) else Start(start)
    if not isinstance(start.params, Params):
        raise InputError(
            f"a fit starts from Params or a Start, not from {type(start.params).__name__}: inits"
            " and hypernetworks give one by their start(...)"
        )
    # Copied if made in inference mode, because a fit could not differentiate through it.
    return replace(start, params=start.params.map(plain))


def restart_failed(
    result: FitResult,
    start: Start,
    image: Tensor,
    config: FitConfig,
    **told: Any,
) -> FitResult:
    """Restarts a failed fit of one image at a lower learning rate, at most `max_restarts` times.

    Args:
        result: The first attempt's result.
        start, image, config, told: The first attempt's arguments, see `descend`.
    """
    suits = rate_of(replace(config, lr=None), start, image[0].numel())
    flat = DEAD_VARIANCE * flat_mse(image, start.params.config.in_features)
    looked_dead = True
    for restarts in range(1, config.max_restarts + 1):
        begin, end, kept = result.curve[0], result.curve[-1], result.kept
        # At a rate far too high, the loss may fall from a peak all the time, and so not look dead.
        dead = kept.mse > flat and kept.psnr < GOOD_PSNR and _is_too_high(result.lr, suits)
        failed = result.diverged or dead or end.mse > begin.mse
        # A start that is not finite, or was not fitted at all, would only fail again.
        if begin.steps == end.steps or not failed:
            break
        looked_dead &= (result.diverged or dead) and isfinite(end.mse)
        if looked_dead and restarts == config.max_restarts > 1:
            # It looked dead at every rate. Small networks and rough starts may show little for
            # long, so the last attempt runs to its end.
            again = replace(config, lr=suits, max_restarts=0)
        else:
            again = replace(config, lr=_lower_rate(result, suits))
        (attempt,) = descend(start, image, again, failed=end, **told)
        if result.kept.mse < attempt.kept.mse:
            attempt = replace(attempt, params=result.params, kept=result.kept)
        collapses = (*result.collapses, *attempt.collapses)
        result = replace(attempt, restarts=restarts, collapses=collapses)
    return result


def _lower_rate(failed: FitResult, suits: float) -> float:
    """The learning rate for restarting a failed fit; `suits` is the suitable rate.

    A rate given by hand may be far or slightly above the suitable one. A third of it could be too
    low, and a slow fit looks as dead as one at too high a rate.
    """
    if _is_too_high(failed.lr, suits):
        return suits
    return failed.lr * (STALLED_LR_FACTOR if failed.stalled else RESTART_LR_FACTOR)


def _is_too_high(lr: float, suits: float) -> bool:
    return suits < USUAL_LR_FACTOR * lr


def flat_mse(image: Tensor, dims: int) -> float:
    """Error of the best single colour for an image, or of the best constant for a signal."""
    return float(image_to_rgb(image, dims).var(dim=0, correction=0).mean())


def failure(result: FitResult) -> str:
    """Why a fit failed and what may help, in one line; "" if it did not fail."""
    first, last, kept = result.curve[0], result.curve[-1], result.kept
    if not isfinite(first.mse):
        return f"the start is not a usable SIREN: its error is {first.mse}"
    # The error hardly fell at any rate.
    if result.diverged and result.restarts and isfinite(last.mse):
        return (
            f"the fit was given up after {count(result.restarts, 'restart')}, as its error hardly"
            f" falls (MSE {first.mse:.3g} -> {kept.mse:.3g}): max_restarts=0 fits without giving up"
        )
    if result.diverged:
        return f"the fit diverged: try lr below {result.lr:g}"
    if first.steps == last.steps:
        cost = f" (making the start costs {first.epochs:.3g} epochs)" if first.epochs else ""
        return f"the budget leaves nothing to fit with{cost}: raise budget_epochs"
    if isnan(last.train_mse):  # steps were counted, but none was taken
        return UNTRAINED
    if not kept.mse < first.mse:
        moved = abs(last.mse - first.mse) > UNMOVED * first.mse
        return (
            f"after {last.epochs:.2f} epochs no better than its start (MSE {first.mse:.3g}): try lr"
            f" {'below' if moved else 'above'} {result.lr:g}"
        )
    return ""


def too_small(result: FitResult) -> str:
    """The warning about a network that is too small, in one line; "" if it is not."""
    if result.enough_width is None:
        return ""
    siren = result.params.config
    return (
        f"the network of {siren.depth} x {siren.width} is too small for this image"
        f" ({result.kept.psnr:.2f} dB): about {GOOD_PSNR:g} dB in as many epochs need a width of"
        f" {result.enough_width}"
    )
