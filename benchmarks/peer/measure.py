"""A fit -> points: of a curve that is watched, or of several fits with a declared end."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from hyperinit.base.clock import Clock
from hyperinit.siren.network import SirenConfig, param_shapes

LEVELS = (30.0, 35.0, 40.0, 44.0)  # PSNR in dB on [0, 1]
STEP_MARKS = (500, 1000, 2000, 5000)  # steps after which the literature prints PSNRs
LADDER = (30, 60, 125, 250, *STEP_MARKS)  # steps of fits with a declared end
# Short fits with a declared end are repeated this often; the median of their seconds counts.
REPEATS, REPEAT_BELOW_SEC = 3, 1.0
TUNE_STEPS = 500  # steps of the fits that choose a rate for fits with a declared end; or fewer,
TUNE_SHARE = 0.1  # so that none takes more than this share of the limit
LOST_PSNR = -99.0  # of a fit that has diverged, because JSON has no infinity
LOOK_SHARE, LEAST_LOOK_SEC = 0.04, 0.02  # seconds between two looks, relative to those so far


@dataclass(frozen=True)
class Task:
    """What is fitted, and for how long at most.

    Attributes:
        image: (3, H, W) in [0, 1].
        width, depth: Width and depth of SIRENs.
        limit_sec: Time limit of a fit, on its own clock.
        most_steps: Steps that schedules run over. A fit that has reached all LEVELS ends there; any
            other may continue to its time limit.
        seed: Seed of starts and pixels.
    """

    image: Tensor
    width: int
    depth: int
    limit_sec: float
    most_steps: int = STEP_MARKS[-1]
    seed: int = 0

    @property
    def siren_weights(self) -> int:
        """Numbers in a SIREN of this size."""
        shapes = param_shapes(SirenConfig(self.width, self.depth)).values()
        return sum(math.prod(shape) for shape in shapes)


@dataclass(frozen=True)
class Point:
    """The state of a running or finished fit.

    Attributes:
        steps: Steps taken.
        epochs: Pixel visits / pixels.
        sec: Seconds on the fit's clock, without evaluations.
        psnr: PSNR over all pixels, in dB on [0, 1].
        bytes: Size of a coded file.
    """

    steps: int
    epochs: float
    sec: float
    psnr: float
    bytes: int | None = None


class Fit(Protocol):
    """The interface of fits that are watched step by step."""

    steps: int
    weights: int
    batch_pixels: int
    lr: float
    muon_lr: float | None

    @property
    def over(self) -> bool:
        """Whether its learning rate has decayed to 0."""

    @property
    def epochs(self) -> float:
        """Pixel visits / pixels."""

    def take(self) -> None:
        """One step."""

    def shown(self) -> Tensor:
        """Colours of all pixels on [0, 1]: (P, 3)."""


# A row's points as they come, after facts about the fit; None if there is nothing new yet.
Points = Iterator["Point | dict[str, Any] | None"]


def psnr_of(shown: Tensor, image: Tensor) -> float:
    """PSNR of colours (P, 3) on [0, 1], unclipped, in dB; LOST_PSNR if they are not finite."""
    mse = float((shown - image.flatten(1).T).square().mean())
    return -10 * math.log10(max(mse, 1e-12)) if math.isfinite(mse) else LOST_PSNR


def facts_of(made: Fit) -> dict[str, Any]:
    rates = {"lr": made.lr, **({"muon_lr": made.muon_lr} if made.muon_lr else {})}
    return {"weights": made.weights, "batch_pixels": made.batch_pixels, **rates}


def curve(makers: Sequence[Callable[[Task, int], Fit]], task: Task) -> Points:
    """One fit watched step by step, from the maker whose fit is best after a share of the limit.

    Args:
        makers: (task, planned steps) -> a fit at its start; more than one for a choice of rates.
    """
    chosen, best = makers[0], -math.inf
    for make in makers if len(makers) > 1 else ():
        short = replace(task, limit_sec=TUNE_SHARE * task.limit_sec)
        found = LOST_PSNR
        for point in _watch(make, short):
            found = point.psnr if isinstance(point, Point) else found
            yield None
        if found > best:
            chosen, best = make, found
    yield from _watch(chosen, task)


def _watch(make: Callable[[Task, int], Fit], task: Task) -> Points:
    make(task, task.most_steps).take()  # what happens once in a process is off the clock
    clock = Clock()
    with clock.running():
        fitted = make(task, task.most_steps)
    yield facts_of(fitted)
    highest = LOST_PSNR
    while True:
        psnr = psnr_of(fitted.shown(), task.image)
        highest = max(highest, psnr)
        yield Point(fitted.steps, fitted.epochs, clock.sec, psnr)
        done = fitted.steps >= task.most_steps and highest >= LEVELS[-1]
        if done or fitted.over or clock.sec >= task.limit_sec or psnr == LOST_PSNR:
            return
        mark = min((m for m in (*STEP_MARKS, task.most_steps) if m > fitted.steps), default=2**31)
        look_sec = max(LOOK_SHARE * clock.sec, LEAST_LOOK_SEC)
        with clock.running():
            end = time.perf_counter() + look_sec
            while fitted.steps < mark:
                fitted.take()
                if time.perf_counter() >= end:
                    break


def ladder(one: Callable[[Task, int], tuple[Point, dict[str, Any]]], task: Task) -> Points:
    """Fits with a declared end, each from the start, of more and more steps."""
    one(task, 3)  # what happens once in a process is off the clock
    last: Point | None = None
    for steps in LADDER:
        if steps > task.most_steps:
            return
        if last is not None and last.sec * steps / max(last.steps, 1) > task.limit_sec:
            return
        last, facts = one(task, steps)
        seconds = [last.sec]
        while last.sec < REPEAT_BELOW_SEC and len(seconds) < REPEATS:
            yield None
            seconds.append(one(task, steps)[0].sec)
        last = replace(last, sec=statistics.median(seconds))
        yield facts
        yield last
