"""Params + image -> fitted Params and the curve of how they got there: the only SIREN fit loop."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from hyperinit.base.clock import Clock
from hyperinit.base.errors import InputError
from hyperinit.fitting.config import FitConfig, with_options
from hyperinit.fitting.engine import loss_of
from hyperinit.fitting.samplers import SAMPLERS
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.images.decode import ImageSource, to_image
from hyperinit.inits.start import Start
from hyperinit.record.records import CurvePoint
from hyperinit.siren.network import Params, Siren, default_lr, layer_of, predict

# Per step; about the last 50 steps, as a chart's smoothing would show the training loss.
TRAIN_MSE_SMOOTHING = 0.98

REPLAN_STEPS = 20

# A fit that has come so far from an image (whose variance is about 1) will not come back.
DIVERGED_MSE = 1e3


NOTHING_SPENT = CurvePoint(0.0, 0, 0.0, math.inf, -math.inf, math.nan)


class Replan(Protocol):
    """Moves the end of a fit while it runs, and with it the decay of its rate.

    Attributes:
        lr_factor: On the rate, from the next step on.
    """

    lr_factor: float

    def running(self, step: int, train_mse: float) -> int:
        """(steps taken, mean training loss of the last few) -> steps of the whole fit."""
        ...

    def looked(self, step: int, mse: float) -> int:
        """(steps taken, MSE over all pixels) -> the same; those taken end the fit."""
        ...


@dataclass(frozen=True)
class FitResult:
    """What a fit ends with.

    Attributes:
        params: The fitted SIREN, detached from any graph.
        kept: The evaluation of all pixels that `params` are from: the last of the curve, unless
            the fit diverged or was restarted (see FitConfig.max_restarts).
        curve: Evaluations from the start to the end; after a restart those of the last attempt,
            which begins with what the failed ones have cost.
        lr: The learning rate used.
        diverged: Whether the error blew up (non-finite, or above DIVERGED_MSE); `params` are then
            those of the last evaluation before, and the curve ends with an infinite error.
        restarts: Failed attempts before the one that `curve`, `lr` and `diverged` are of.
    """

    params: Params
    kept: CurvePoint
    curve: tuple[CurvePoint, ...]
    lr: float
    diverged: bool = False
    restarts: int = 0

    @property
    def mse(self) -> float:
        """Final MSE over all pixels, in ImageNet-normalised units."""
        return self.curve[-1].mse

    @property
    def psnr(self) -> float:
        """Final PSNR in dB on [0, 1]."""
        return self.curve[-1].psnr


def fit(
    siren: Siren | Params | Start,
    image: ImageSource,
    config: FitConfig | None = None,
    *,
    on_eval: Callable[[CurvePoint], None] = lambda point: None,
    **options: Any,
) -> FitResult:
    """Fits one SIREN to one image.

    Args:
        siren: A module, which ends up fitted in place; or Params, which are left as they were; or
            a Start, whose cost is part of the budget and of the curve.
        image: (3, H, W) in [0, 1], or anything else that `to_image` takes.
        config: See FitConfig.
        on_eval: Called with each point of the curve, off the clock.
        **options: Fields of FitConfig to set, for example `budget_epochs=8`.

    Raises:
        InputError: an option or the image is unusable.
    """
    config = with_options(config, options)
    start = as_start(siren.params if isinstance(siren, Siren) else siren)
    params = start.params
    if params.batch_shape:
        raise InputError(f"fit takes one SIREN, not {params.batch_shape[0]} (see fit_many)")
    image = to_image(image).to(params.device)
    (result,) = descend(start, image, config, on_eval=on_eval)
    result = restart_failed(result, start, image, config, on_eval=on_eval)
    if isinstance(siren, Siren):
        with torch.no_grad():
            for name, value in siren.params.items():
                value.copy_(result.params[name])
    return result


def as_start(start: Params | Start) -> Start:
    """Parameters that cost nothing, or a start as it is; detached from any graph."""
    start = start if isinstance(start, Start) else Start(start)
    return replace(start, params=start.params.map(Tensor.detach))


def restart_failed(
    result: FitResult,
    start: Start,
    image: Tensor,
    config: FitConfig,
    *,
    on_eval: Callable[[CurvePoint], None] = lambda point: None,
) -> FitResult:
    """Begins a failed fit of one image again at half the rate, `max_restarts` times at most.

    Args:
        result: Of the first attempt.
        start, image, config, on_eval: What it was made with, see `descend`.
    """
    for restarts in range(1, config.max_restarts + 1):
        begin, end = result.curve[0], result.curve[-1]
        # A start that is no number, or was not fitted at all, would only fail again.
        if begin.steps == end.steps or end.mse <= begin.mse:
            break
        (attempt,) = descend(
            start,
            image,
            replace(config, lr=result.lr / 2),
            failed=end,
            on_eval=on_eval,
        )
        if result.kept.mse < attempt.kept.mse:
            attempt = replace(attempt, params=result.params, kept=result.kept)
        result = replace(attempt, restarts=restarts)
    return result


def descend(
    start: Start,
    image: Tensor,
    config: FitConfig,
    *,
    failed: CurvePoint | None = None,
    planned_fits: int = 1,
    replan: Replan | None = None,
    on_eval: Callable[[CurvePoint], None] = lambda point: None,
) -> list[FitResult]:
    """One attempt at fitting one SIREN, or B SIRENs together, to its end: see `descent`."""
    run = descent(
        start,
        image,
        config,
        failed=failed,
        planned_fits=planned_fits,
        replan=replan,
        on_eval=on_eval,
    )
    (results,) = deque(run, maxlen=1)
    return results


def descent(
    start: Start,
    image: Tensor,
    config: FitConfig,
    *,
    failed: CurvePoint | None = None,
    planned_fits: int = 1,
    replan: Replan | None = None,
    on_eval: Callable[[CurvePoint], None] = lambda point: None,
) -> Iterator[list[FitResult]]:
    """One attempt at fitting one SIREN, or B SIRENs together: the loop under every fit.

    B stacked SIRENs are B independent fits that share their products and the calls of their
    optimiser: each sees the pixels it would see alone, and AdamW is element by element.

    Args:
        start: One SIREN, or B stacked ones, left as they are; its epochs are part of the budget.
        image: (3, H, W), or (B, 3, H, W), in [0, 1], on the device of the SIREN.
        config: `max_restarts` is not used, other than to choose what is returned.
        failed: Where an earlier attempt ended; its cost is added to the curve, not to the budget.
        planned_fits: How many like this one are planned in all: what pays only in the long run is
            decided by it.
        replan: Of the fit of one SIREN.
        on_eval: Called with each new point of a curve, off the clock.

    Yields:
        After each evaluation one result for each SIREN, as if the fit ended there. Between two of
        them the clock stands still. Seconds are those of the whole attempt.
    """
    batch = start.params.batch_shape
    frozen = _layer_names(start.params, config.frozen_layers)
    coords, rgb = image_coords(image), image_to_rgb(image)
    pixels, batch_pixels = len(coords), config.step_pixels(len(coords))

    def steps_after(epochs: float) -> int:
        return round(max(epochs - start.epochs, 0) * pixels / batch_pixels)

    steps = steps_after(config.budget_epochs)
    evals = {0, *(steps_after(epochs) for epochs in config.eval_epochs)}
    generator = torch.Generator().manual_seed(config.seed)
    next_batch = SAMPLERS[config.sampler](image, batch_pixels, generator)
    weights = sum(value.numel() for value in start.params.values())  # of all SIRENs
    work = float(weights * steps * batch_pixels * planned_fits)
    squared_errors = loss_of(config, work=work, device=image.device)

    params = start.params.map(lambda value: value.detach().clone())
    trained = [value.requires_grad_() for name, value in params.items() if name not in frozen]
    lr = config.lr or default_lr(params.config) * start.lr_factor
    optimizer = adamw(params, lr, config) if trained else None
    base_lrs = [group["lr"] for group in optimizer.param_groups] if optimizer else []
    train_mse = torch.full(batch, math.nan, device=image.device)
    losses_since = torch.zeros(batch, device=image.device)  # the last plan

    def take_step(step: int) -> None:
        nonlocal train_mse, losses_since
        if optimizer is None:  # all layers are frozen
            return
        decay = 1 - step / steps if config.schedule == "linear" else 1.0
        if replan is not None:
            decay *= replan.lr_factor
        for group, base_lr in zip(optimizer.param_groups, base_lrs, strict=True):
            group["lr"] = base_lr * decay
        errors = squared_errors(params, *next_batch())
        losses = errors.mean(dim=(-1, -2)) if batch else errors.mean()
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimizer.step()
        next_batch.observe(errors.detach())
        losses = losses.detach()
        train_mse = losses if step == 0 else train_mse.lerp(losses, 1 - TRAIN_MSE_SMOOTHING)
        losses_since = losses_since + losses

    before = failed or replace(NOTHING_SPENT, epochs=start.epochs, sec=start.sec)
    clock = Clock(image.device)
    fits = [_Progress() for _ in range(math.prod(batch))]
    kept = start.params.map(lambda value: value.detach().clone())
    step = 0
    due = sorted(step for step in evals if step < steps)
    while True:
        next_eval = due.pop(0) if due else None  # None: the end, wherever that will be
        while step < (end := steps if next_eval is None else min(next_eval, steps)):
            taken = min(end - step, REPLAN_STEPS)
            with clock.running():
                for _ in range(taken):
                    take_step(step)
                    step += 1
                if replan is not None:
                    steps = max(replan.running(step, float(losses_since) / taken), step)
                    losses_since = torch.zeros_like(losses_since)
        shown = predict(params, coords)
        mse, psnr = (value.reshape(-1).tolist() for value in grid_errors(shown, rgb))
        train = train_mse.reshape(-1).tolist()
        epochs, sec = before.epochs + step * batch_pixels / pixels, before.sec + clock.sec
        keep = [False] * len(fits)
        for i, progress in enumerate(fits):
            if not progress.over:
                point = CurvePoint(epochs, before.steps + step, sec, mse[i], psnr[i], train[i])
                keep[i] = progress.add(point, config)
                on_eval(progress.curve[-1])
        chosen = torch.tensor(keep, device=image.device).reshape(batch)
        kept = Params(kept.config, {n: _choose(chosen, params[n], kept[n]) for n in kept})
        yield [
            FitResult(params, progress.kept, tuple(progress.curve), lr, progress.diverged)
            for params, progress in zip(kept.unbatch() if batch else [kept], fits, strict=True)
        ]
        if replan is not None:
            steps = max(replan.looked(step, mse[0]), step)
        if step >= steps or all(progress.over for progress in fits):
            break


class _Progress:
    """The evaluations of one of the fits that run together, and what is kept of them."""

    def __init__(self) -> None:
        self.curve: list[CurvePoint] = []
        self.kept: CurvePoint
        self.over = self.diverged = False

    def add(self, point: CurvePoint, config: FitConfig) -> bool:
        """Adds an evaluation; returns whether it is now the one to keep."""
        first = not self.curve
        self.diverged = not point.mse < (math.inf if first else DIVERGED_MSE)
        point = replace(point, mse=math.inf) if self.diverged else point
        self.curve.append(point)
        stop = config.stop_mse
        reached = stop is not None and point.mse <= stop and point.train_mse <= stop
        self.over = self.diverged or reached
        if config.max_restarts and not first:
            keep = point.mse < self.kept.mse
        else:
            keep = first or not self.diverged
        if keep:
            self.kept = point
        return keep


def _choose(which: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """A new tensor with the entries of `yes` where `which` (B,) or () is true, else of `no`."""
    return torch.where(
        which.reshape(*which.shape, *[1] * (yes.ndim - which.ndim)), yes.detach(), no
    )


def _layer_names(params: Params, layers: tuple[int, ...]) -> set[str]:
    """Names of all parameters of some layers."""
    for layer in layers:
        if not 0 <= layer <= params.config.depth:
            raise InputError(
                f"frozen_layers: no layer {layer}; this SIREN has 0 to {params.config.depth}"
            )
    return {name for name in params if layer_of(name) in layers}


def adamw(params: Params, lr: float, config: FitConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that are trained, one group for each rate."""
    layers = params.config.depth + 1
    factors = config.layer_lr_factors or (1.0,) * layers
    if len(factors) != layers:
        raise InputError(
            f"layer_lr_factors: {len(factors)} factors for {layers} layers, the output's included"
        )
    groups: dict[tuple[bool, float], list[Tensor]] = {}
    for name, value in params.items():
        layer = layer_of(name)
        if value.requires_grad:
            groups.setdefault((layer == layers - 1, factors[layer]), []).append(value)
    return torch.optim.AdamW(
        [
            {"params": values, "lr": lr * factor * (config.output_lr_factor if output else 1.0)}
            for (output, factor), values in groups.items()
        ],
        betas=(0.9, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
