"""A start + an image -> one attempt at a fit: the loop inside every fit."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from hyperinit.base.clock import Clock
from hyperinit.fitting.config import FitConfig, rate_of, suited
from hyperinit.fitting.steps import make_steps, rate_factors, settled_options
from hyperinit.fitting.suits import check_fit_memory, enough_width
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb, is_image
from hyperinit.inits.start import Start
from hyperinit.record.records import CurvePoint
from hyperinit.siren.network import Params, predict
from hyperinit.siren.vectors import choose_params
from hyperinit.stepping.schedule import DECAY_POWERS, rate_factor
from hyperinit.stepping.watch import LOOKS_A_GAP, STALL_WEIGHTS_RATIO, CollapseWatch, detail

# Per step: averages over about the last 50 steps, like the smoothing of a chart.
TRAIN_MSE_SMOOTHING = 0.98
REPLAN_STEPS, PROGRESS_STEPS = 20, 16
OnProgress: TypeAlias = Callable[[float, float], None]  # epochs, smoothed training loss

# A fit that is this far from an image (whose variance is about 1) will not recover.
DIVERGED_MSE = 1e3

# A collapse within this share of the budget began at the start and leaves nothing of use: the fit
# is given up (and restarted, see `fit`). After a later one, the fit returns to an earlier state and
# continues at COLLAPSE_LR_FACTOR times its rate. A stall always began at the start, but is ignored
# if little of the budget is left, and from inits that take a higher rate: on small images most of
# their first layer is too fine, and good fits begin as slowly.
EARLY_SHARE = 0.25
STALL_SHARE = 0.5
STALL_LR_FACTOR = 0.5
COLLAPSE_LR_FACTOR = 1 / 3

# A network's capacity is judged only by a fit of at least this many steps, at a rate within this
# factor of the suitable one, whose error fell to less than this share of the start's.
LEAST_STEPS, USUAL_LR, MOVED = 100, 2.0, 0.5

NOTHING_SPENT = CurvePoint(0.0, 0, 0.0, math.inf, -math.inf, math.nan)


class Replan(Protocol):
    """Moves the end of a fit while it runs, and with it the decay of its learning rate.

    Attributes:
        lr_factor: A factor on the learning rate, from the next step on.
    """

    lr_factor: float

    def running(self, step: int, train_mse: float, glimpse: Callable[[], float]) -> int:
        """(steps taken, recent mean loss, MSE over `eval_pixels`) -> the new length of the fit."""
        ...

    def looked(self, step: int, mse: float) -> int:
        """The same after an evaluation: MSE over all pixels (over some, if a start is `far`).

        Returning the steps already taken ends the fit.
        """
        ...

    def far(self, mse: float) -> bool:
        """Whether a start with about this error is surely not good enough."""
        ...


@dataclass(frozen=True, eq=False)
class FitResult:
    """The result of a fit.

    Attributes:
        params: The fitted SIREN, detached from any graph.
        kept: The full evaluation that `params` come from: the last of the curve, unless the fit
            diverged or may be restarted (see FitConfig.max_restarts).
        curve: Evaluations from the start to the end; after a restart those of the last attempt,
            beginning with the cost of the failed ones.
        lr: The learning rate at the start, as lowered since where a collapse was taken back.
        diverged: Whether the error blew up (non-finite, or above DIVERGED_MSE); `params` are then
            those of the last evaluation before, and the curve ends with an infinite error.
        restarts: Failed attempts before the one that `curve`, `lr` and `diverged` describe.
        became: The values used for settings that the config left open: batch_pixels, optimizer,
            engine, hidden_dtype and backward_dtype.
        enough_width: If the network, and not the budget, limited the fit: the width with which it
            would have reached about 40 dB. Never set by a fit to a target.
        collapses: Epochs, on the curve's scale, at which a collapse was noticed (see watch.py).
        stalled: Whether `diverged` means only a stall: the rate was not far too high.
    """

    params: Params
    kept: CurvePoint
    curve: tuple[CurvePoint, ...]
    lr: float
    diverged: bool = False
    restarts: int = 0
    collapses: tuple[float, ...] = ()
    stalled: bool = False
    became: Mapping[str, Any] = field(default_factory=dict)
    enough_width: int | None = None

    @property
    def mse(self) -> float:
        """Final MSE over all pixels, in ImageNet-normalised units (for a signal, in its own)."""
        return self.curve[-1].mse

    @property
    def psnr(self) -> float:
        """Final PSNR in dB on [0, 1]; for a signal, on [-1, 1]."""
        return self.curve[-1].psnr


def descend(start: Start, image: Tensor, config: FitConfig, **options: Any) -> list[FitResult]:
    """Runs one attempt at fitting one SIREN, or B SIRENs together, to its end: see `descent`."""
    (results,) = deque(descent(start, image, config, **options), maxlen=1)
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
    on_progress: OnProgress | None = None,
) -> Iterator[list[FitResult]]:
    """One attempt at fitting one SIREN, or B SIRENs together.

    B stacked SIRENs are B independent fits that share matrix products and optimiser calls: each
    sees the pixels it would see alone, and updates are element by element.

    Args:
        start: One SIREN, or B stacked ones, not modified; its epochs are part of the budget.
        image: (3, H, W), or (B, 3, H, W), in [0, 1], on the device of the SIREN; or signals
            (C, *sides), or (B, C, *sides), in [-1, 1].
        config: `max_restarts` only decides whether to look for collapses, and what is kept.
        failed: Where an earlier attempt ended; its cost is added to the curve, not to the budget.
        planned_fits: Number of fits like this one that are planned in all; decides whether work
            that pays only in the long run is worth it.
        replan: Only for the fit of one SIREN.
        on_eval: Called with each new point of a curve, off the clock.
        on_progress: Only for the fit of one SIREN: called every PROGRESS_STEPS steps, on the clock.

    Yields:
        After each evaluation one result for each SIREN, as if the fit ended there. The clock stands
        still while the caller has control. Seconds are those of the whole attempt.
    """
    run = _Descent(start, image, config, failed, planned_fits, replan, on_eval, on_progress)
    due = deque(step for step in run.eval_steps if step < run.steps)
    while True:
        next_eval = due.popleft() if due else None  # None: the end, which may still move
        while run.step < (run.steps if next_eval is None else min(next_eval, run.steps)):
            run.advance(run.steps if next_eval is None else min(next_eval, run.steps))
        yield run.evaluate()
        if run.over:
            break


class _Descent:
    """The state of one attempt."""

    def __init__(
        self,
        start: Start,
        image: Tensor,
        config: FitConfig,
        failed: CurvePoint | None,
        planned_fits: int,
        replan: Replan | None,
        on_eval: Callable[[CurvePoint], None],
        on_progress: OnProgress | None,
    ) -> None:
        config = suited(config, start)
        self.config, self.replan = config, replan
        self.on_eval, self.on_progress = on_eval, on_progress
        self.start, self.batch = start, start.params.batch_shape
        self.dims = start.params.config.in_features
        self.coords, self.rgb = image_coords(image, self.dims), image_to_rgb(image, self.dims)
        self.pixels = len(self.coords)
        self.eval_at = config.eval_at(self.pixels, image.device)
        self.batch_pixels = config.step_pixels(self.pixels)
        if start.params.device.type == "cpu":
            fits = math.prod(self.batch)
            sizes = start.params.config, self.pixels, self.batch_pixels, fits
            check_fit_memory(*sizes, optimizer=config.optimizer)
        self.spent_epochs = start.epochs
        self.steps = self._steps_after(config.budget_epochs)
        self.eval_steps = sorted({0, *map(self._steps_after, config.eval_epochs)})
        weights = sum(value.numel() for value in start.params.values())  # of all SIRENs
        self.work = float(weights * self.steps * self.batch_pixels * planned_fits)
        self.taker = make_steps(start.params, image, config, work=self.work)
        self.trains = any(rate_factors(config, start.params.config.depth))
        self.lr = rate_of(config, start, self.pixels)
        self.power, self.lr_factor = DECAY_POWERS[config.schedule], 1.0
        self.train_mse = torch.full(self.batch, math.nan, device=image.device)
        self.losses_since = torch.zeros(self.batch, device=image.device)  # since the last plan
        self.before = failed or replace(NOTHING_SPENT, epochs=start.epochs, sec=start.sec)
        self.clock = Clock(image.device)
        self.fits = [_Progress() for _ in range(math.prod(self.batch))]
        self.kept = start.params.map(lambda value: value.detach().clone())
        self.step = 0
        # Protocol 1 restarts fits that diverged, and watches for nothing on the way.
        self.watch: CollapseWatch | None = None
        if config.max_restarts and config.optimizer != "adamw":
            self.watch = self._watch(image, start)
        self.snapshots: deque[tuple[int, Any]] = deque(maxlen=2)

    def _watch(self, image: Tensor, start: Start) -> CollapseWatch:
        variances = self.rgb.var(dim=-2, correction=0).mean(-1).reshape(-1).tolist()
        details: list[float] = []
        weights = sum(value.numel() for value in start.params.values()) / len(self.fits)
        enough = weights >= STALL_WEIGHTS_RATIO * 3 * self.pixels
        # For a signal that is not an image, the error of a blur says nothing about its fit.
        shown = is_image(self.dims, self.rgb.shape[-1])
        if shown and enough and start.lr_factor <= STALL_LR_FACTOR:
            details = detail(self.rgb.mT.reshape(image.shape)).reshape(-1).tolist()
        epoch_steps, own = self.pixels / self.batch_pixels, self.batch_pixels
        return CollapseWatch(epoch_steps, variances, image.device, details, own)

    def _steps_after(self, epochs: float) -> int:
        return round(max(epochs - self.spent_epochs, 0) * self.pixels / self.batch_pixels)

    def _epochs(self, steps: int) -> float:
        """Epochs after this many steps, on the curve's scale."""
        return self.before.epochs + steps * self.batch_pixels / self.pixels

    def advance(self, until: int) -> None:
        """Takes steps, on the clock, until step `until`, the next plan, or a collapse."""
        left = until - self.step
        taken = left if self.replan is None else min(left, REPLAN_STEPS)
        with self.clock.running():
            for _ in range(taken):
                self._take_step()
                self.step += 1
                if self.on_progress is not None and self.step % PROGRESS_STEPS == 0:
                    self.on_progress(self._epochs(self.step), float(self.train_mse))
                if self.watch is not None and self._gave_up():
                    return
            if self.replan is not None:
                loss = float(self.losses_since) / taken
                self.steps = max(self.replan.running(self.step, loss, self._glimpse), self.step)
                self.losses_since.zero_()

    def _take_step(self) -> None:
        if not self.trains:  # all layers are frozen
            return
        rising = self.config.warmup_steps or 0
        factor = rate_factor(self.step, self.steps, self.power, rising) * self.lr_factor
        if self.replan is not None:
            factor *= self.replan.lr_factor
        losses = self.taker.take(self.lr, factor, self.step / self.steps)
        smoothing = 1 - TRAIN_MSE_SMOOTHING if self.step else 1.0
        self.train_mse = losses if smoothing == 1 else self.train_mse.lerp(losses, smoothing)
        self.losses_since += losses
        if self.watch is not None and self.watch.feed(losses):
            self._look_for_collapses()

    def _look_for_collapses(self) -> None:
        assert self.watch is not None
        epochs = self._epochs(self.step + 1)
        alone = len(self.fits) == 1
        early = self.step < EARLY_SHARE * self.steps
        watched = zip(self.fits, self.watch.collapsed, self.watch.stalled, strict=True)
        for progress, collapsed, stalled in watched:
            # A `replan` handles stalls itself: it lowers the rate, or ends a hopeless fit.
            stalled &= self.replan is None and self.step < STALL_SHARE * self.steps
            if not (collapsed or stalled) or progress.gave_up:
                continue
            progress.collapses.append(epochs)
            progress.stalled = not collapsed
            if collapsed and alone and not early and self.snapshots and self.replan is None:
                self.snapshots = deque([self.snapshots[0]], maxlen=2)  # a later one may be damaged
                self.taker.load_state(self.snapshots[0][1])
                self.watch.restored()
                self.lr_factor *= COLLAPSE_LR_FACTOR
                return
            progress.gave_up = True
        if alone and self.watch.good[0]:
            apart = self.watch.look_steps * LOOKS_A_GAP  # the time until a collapse is noticed
            if not self.snapshots or self.step - self.snapshots[-1][0] >= apart:
                self.snapshots.append((self.step, self.taker.state()))

    def _gave_up(self) -> bool:
        """Whether all fits were given up; the attempt then ends here."""
        gave_up = all(progress.gave_up for progress in self.fits)
        self.steps = self.step if gave_up else self.steps
        return gave_up

    def evaluate(self) -> list[FitResult]:
        """Evaluates all pixels, or a sample on the way; returns one result for each fit."""
        at = None if self._must_be_whole() else self.eval_at
        mse, psnr = self._look(at)
        if at is not None and self.replan is not None and not self.replan.far(mse[0]):
            at, (mse, psnr) = None, self._look(None)
        train = self.train_mse.reshape(-1).tolist()
        epochs, sec = self._epochs(self.step), self.before.sec + self.clock.sec
        steps = self.before.steps + self.step
        keep = [False] * len(self.fits)
        for i, progress in enumerate(self.fits):
            if not progress.over:
                point = CurvePoint(epochs, steps, sec, mse[i], psnr[i], train[i])
                may_keep = at is None or not self.config.whole_ends or self.step == 0
                keep[i] = progress.add(point, self.config, may_keep=may_keep)
                self.on_eval(progress.curve[-1])
                if self.replan is not None and at is not None:  # a sample's error is no result
                    progress.kept = replace(progress.kept, mse=math.inf)
        chosen = torch.tensor(keep, device=self.rgb.device).reshape(self.batch)
        self.kept = choose_params(chosen, self.taker.params, self.kept)
        if self.replan is not None and not all(progress.gave_up for progress in self.fits):
            self.steps = max(self.replan.looked(self.step, mse[0]), self.step)
        self.over = self.step >= self.steps or all(progress.over for progress in self.fits)
        singles = self.kept.unbatch() if self.batch else [self.kept]
        return [self._result(own, fit) for own, fit in zip(singles, self.fits, strict=True)]

    def _look(self, at: Tensor | None) -> tuple[list[float], list[float]]:
        """MSE and PSNR of every SIREN over pixels `at`, or all."""
        coords, rgb = self.coords, self.rgb
        if at is not None:
            coords, rgb = coords[at], rgb.index_select(-2, at)
        mse, psnr = grid_errors(predict(self.taker.params, coords), rgb, self.dims)
        return mse.reshape(-1).tolist(), psnr.reshape(-1).tolist()

    def _glimpse(self) -> float:
        return self._look(self.eval_at)[0][0]

    def _must_be_whole(self) -> bool:
        """Whether the evaluation now must cover all pixels: its error may be the result."""
        if self.replan is not None:
            return self.step > 0
        ends = self.step == 0 or self.step >= self.steps
        return self.config.stop_mse is not None or (ends and self.config.whole_ends)

    def _result(self, params: Params, progress: _Progress) -> FitResult:
        return FitResult(
            params,
            progress.kept,
            tuple(progress.curve),
            self.lr * self.lr_factor,
            progress.diverged or progress.gave_up,
            collapses=tuple(progress.collapses),
            stalled=progress.stalled and progress.gave_up,
            enough_width=self._enough_width(progress),
            became=settled_options(self.config, params, self.batch_pixels, work=self.work),
        )

    def _enough_width(self, progress: _Progress) -> int | None:
        """See FitResult; None unless the fit went well, with settings like those it is known for.

        From a start that cannot be fitted (all weights zero), no width would be enough.
        """
        config, mse = self.config, progress.kept.mse
        if not self.over or self.step < LEAST_STEPS or self.replan is not None:
            return None
        image = is_image(self.dims, self.rgb.shape[-1])
        if config.optimizer == "adamw" or config.frozen_layers or not image:
            return None
        suits = rate_of(replace(config, lr=None), self.start, self.pixels)
        if not 1 / USUAL_LR < self.lr / suits < USUAL_LR or mse > MOVED * progress.curve[0].mse:
            return None
        epochs = self.step * self.batch_pixels / self.pixels
        return enough_width(self.kept.config, self.pixels, epochs, mse)


class _Progress:
    """The evaluations of one of the fits that run together, and the one that is kept."""

    def __init__(self) -> None:
        self.curve: list[CurvePoint] = []
        self.collapses: list[float] = []
        self.kept: CurvePoint
        self.over = self.diverged = False
        self.gave_up = self.stalled = False  # given up after a collapse or stall; only a stall

    def add(self, point: CurvePoint, config: FitConfig, *, may_keep: bool = True) -> bool:
        """Adds an evaluation; returns whether it is now the one to keep, if it `may_keep`."""
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
        keep &= may_keep
        if keep:
            self.kept = point
        return keep
