"""The peers, one row each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.peer.measure import (
    LADDER,
    LEVELS,
    LOST_PSNR,
    TUNE_SHARE,
    TUNE_STEPS,
    Fit,
    Point,
    Points,
    Task,
    curve,
    facts_of,
    ladder,
    psnr_of,
)
from benchmarks.peer.others import CODECS, GridFit, SirenPytorchFit, fewest_bytes
from benchmarks.peer.siren_fit import OUR_START, Recipe, SirenFit
from hyperinit.base.clock import Clock
from hyperinit.bench.catalogue import inits_for_fit
from hyperinit.bench.sources import load_init
from hyperinit.fitting.config import FitConfig
from hyperinit.fitting.fit import fit

# How a point is measured, and so what its seconds are of.
CURVE, LADDERED, CODED = "curve", "ladder", "codec"


@dataclass(frozen=True)
class Peer:
    """One row.

    Attributes:
        what: One line for the table.
        kind: CURVE, LADDERED or CODED.
        points: Task -> facts, and points.
        patience: On the limit, where a lower bound is to be worth something.
        needs: A module of the extra `peers`.
    """

    what: str
    kind: str
    points: Callable[[Task], Points]
    patience: float = 1.0
    needs: str | None = None


def tuned_ladder(recipes: Sequence[Recipe], task: Task) -> Points:
    """`ladder` of the recipe whose fit is best after TUNE_STEPS."""
    _told(recipes[0], task, 1)
    first, _ = _told(recipes[0], task, LADDER[0])
    affordable = int(TUNE_SHARE * task.limit_sec * LADDER[0] / first.sec)
    steps = min(max(affordable, LADDER[0]), TUNE_STEPS, task.most_steps)
    found = []
    for recipe in recipes:
        point, _ = _told(recipe, task, steps)
        found.append(point.psnr)
        yield None
    best = recipes[max(range(len(recipes)), key=found.__getitem__)]
    yield from ladder(lambda task, steps: _told(best, task, steps), task)


def _told(recipe: Recipe, task: Task, steps: int) -> tuple[Point, dict[str, Any]]:
    """A whole fit by a recipe."""
    clock = Clock()
    with clock.running():
        fitted = SirenFit(task.image, recipe, task.width, task.depth, steps, task.seed)
        for _ in range(steps):
            fitted.take()
    psnr = psnr_of(fitted.shown(), task.image)
    return Point(steps, fitted.epochs, clock.sec, psnr), facts_of(fitted)


def _command(init: str, task: Task, steps: int) -> tuple[Point, dict[str, Any]]:
    """A whole fit as `hyperinit fit` makes it, but for the network's size."""
    maker = load_init(init, inits_for_fit(init), task.width, task.depth)
    start = maker.start(task.image, task.seed)
    pixels = task.image[0].numel()
    batch_pixels = FitConfig().step_pixels(pixels)
    budget_epochs = start.epochs + steps * batch_pixels / pixels
    result = fit(start, task.image, budget_epochs=budget_epochs, eval_epochs=(), seed=task.seed)
    end = result.curve[-1]
    psnr = result.kept.psnr if math.isfinite(result.kept.psnr) else LOST_PSNR
    facts = {"weights": task.siren_weights, "batch_pixels": batch_pixels, "lr": result.lr}
    return Point(steps, end.epochs, end.sec, psnr), facts


def coded(codec: str, task: Task) -> Points:
    """The smallest file for each of LEVELS."""
    for level in LEVELS:
        found = fewest_bytes(task.image, codec, level)
        if found is not None:
            size, psnr, sec = found
            yield Point(0, 0.0, sec, psnr, size)


def _command_row(what: str, init: str) -> Peer:
    return Peer(
        what, LADDERED, lambda task: ladder(lambda task, steps: _command(init, task, steps), task)
    )


def _siren(recipe: Recipe) -> Callable[[Task, int], Fit]:
    return lambda task, steps: SirenFit(
        task.image, recipe, task.width, task.depth, steps, task.seed
    )


def _published(what: str, *recipes: Recipe, patience: float = 1.0) -> Peer:
    makers = [_siren(recipe) for recipe in recipes]
    return Peer(what, CURVE, lambda task: curve(makers, task), patience)


def _siren_pytorch(lr: float) -> Callable[[Task, int], Fit]:
    return lambda task, steps: SirenPytorchFit(task.image, task.width, task.depth, lr, task.seed)


# Our fit with its pixels chosen another way, at the best of a grid of rates.
_OURS = Recipe(
    init=OUR_START,
    colours="normalised",
    chooser="credit",
    batch=None,
    lr=None,
    optimizer="nadam",
    betas=(0.8, 0.9999),
    schedule="power",
    our_layer_rates=True,
)
_RATE_FACTORS = (0.35, 0.7, 1.4)
_MUON_LRS = (5e-4, 1e-3, 2e-3, 4e-3)


def _chosen_in_ours(what: str, chooser: str) -> Peer:
    recipes = [replace(_OURS, chooser=chooser, lr_factor=factor) for factor in _RATE_FACTORS]
    return Peer(what, LADDERED, lambda task: tuned_ladder(recipes, task))


_PAPER = Recipe()  # arXiv 2006.09661 and its train_img.py
_SEED = Recipe(
    init="33",
    colours="normalised",
    chooser="points",
    batch=8192,
    weight_decay=0.01,
)
_MUON = Recipe(omega_0=40.0, lr=1e-3, schedule="cosine", muon_lr=0.1)
_MUON_IN_OURS = [replace(_OURS, muon_lr=lr) for lr in _MUON_LRS]

PEERS: dict[str, Peer] = {
    "ours": _command_row("`hyperinit fit`, all defaults", OUR_START),
    "identity": _command_row("`hyperinit fit --init identity`", "identity"),
    "33": _command_row("`hyperinit fit --init 33`", "33"),
    "paper": _published(
        "SIREN paper: all pixels, Adam 1e-4, colours in [-1, 1]", _PAPER, patience=4.0
    ),
    "paper-tuned": _published(
        "the same at the best rate of 1e-4, 3e-4, 1e-3",
        *(replace(_PAPER, lr=lr) for lr in (1e-4, 3e-4, 1e-3)),
    ),
    "siren-pytorch": Peer(
        "siren-pytorch's wrapper, Adam at torch's default of 1e-3",
        CURVE,
        lambda task: curve([_siren_pytorch(1e-3)], task),
        needs="siren_pytorch",
    ),
    "seed": _published("seed experiment: init 33, 8,192 random points, AdamW 1e-4", _SEED),
    "strainer": _published(
        "as STRAINER fits: all pixels, Adam 1e-4, colours in [0, 1], nothing learned",
        replace(_PAPER, colours="unit"),
    ),
    "evos": _published(
        "EVOS as published: half the pixels, Adam 1e-4", replace(_PAPER, chooser="evos", batch=0.5)
    ),
    "nint": _published(
        "NINT as published: a fifth of the pixels, Adam 1e-4",
        replace(_PAPER, chooser="nint", batch=0.2, colours="unit"),
    ),
    "soft-mining": _published(
        "soft mining as EVOS runs it: half the pixels, Adam 1e-4",
        replace(_PAPER, chooser="soft-mining", batch=0.5),
    ),
    "expansive": _published(
        "expansive supervision as EVOS runs it: half the pixels, Adam 1e-4",
        replace(_PAPER, chooser="expansive", batch=0.5),
    ),
    "muon": _published(
        "Muon as published: 0.1 on hidden matrices, Adam 1e-3, cosine, omega_0 40", _MUON
    ),
    "muon-tuned": _published(
        "the same at the best rate of 0.1, 0.03, 0.01, 0.003",
        *(replace(_MUON, muon_lr=lr) for lr in (0.1, 0.03, 0.01, 0.003)),
    ),
    "evos-in-ours": _chosen_in_ours("our fit, pixels by EVOS, best rate", "evos"),
    "nint-in-ours": _chosen_in_ours("our fit, pixels by NINT, best rate", "nint"),
    "soft-mining-in-ours": _chosen_in_ours(
        "our fit, pixels by soft mining, best rate", "soft-mining"
    ),
    "expansive-in-ours": _chosen_in_ours(
        "our fit, pixels by expansive supervision, best rate", "expansive"
    ),
    "muon-in-ours": Peer(
        "our fit, Muon on the hidden matrices, best rate",
        LADDERED,
        lambda task: tuned_ladder(_MUON_IN_OURS, task),
    ),
    "grid": Peer(
        "no SIREN: a hashed grid in the manner of Instant-NGP, as many weights",
        CURVE,
        lambda task: curve(
            [lambda task, steps: GridFit(task.image, task.siren_weights, seed=task.seed)], task
        ),
    ),
    **{name: Peer(f"no network: {name.upper()}", CODED, partial(coded, name)) for name in CODECS},
}
