"""Records -> scores of every init: cost to each target, ratios, final errors. Reads nothing else.

How costs, censored ones included, become numbers is said and done in costs.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite
from statistics import fmean
from typing import Any

from hyperinit.base.errors import InputError
from hyperinit.record.protocol import TARGETS, USUAL, Protocol
from hyperinit.record.records import TUNING, Record
from hyperinit.score.costs import Cost, Pair, Ratio, cost_to_target, geometric_mean, ratio


@dataclass(frozen=True)
class TargetScore:
    """One init and one target; a ratio is None for the init it would be to, or without one."""

    epochs: Cost
    seconds: Cost
    to_reference: Ratio | None
    to_best: Ratio | None


@dataclass(frozen=True)
class Rung:
    """One init and one budget: the learning rate, the geometric mean of the final error, pairs."""

    lr: float
    mse: float
    n: int


@dataclass(frozen=True)
class InitScore:
    """Everything the tuned track says about one init.

    Attributes:
        init: Its name.
        start_psnr: Mean PSNR in dB before the first step.
        rungs: Budget in epochs -> what it ends with.
        targets: Target -> what it costs.
    """

    init: str
    start_psnr: float
    rungs: Mapping[float, Rung]
    targets: Mapping[float, TargetScore]


@dataclass(frozen=True)
class SeedScore:
    """One init under the seed track: seed epochs to each target, by either reading of the source.

    Attributes:
        init: Its name.
        lrs: What the range tests found, one a pair.
        mse: Geometric mean of the final error.
        train: Target -> first time that the smoothed training loss is there.
        grid: Target -> first time that the error over all pixels is there.
    """

    init: str
    lrs: tuple[float, ...]
    mse: float
    train: Mapping[float, Cost]
    grid: Mapping[float, Cost]


def groups(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Splits records into what may be compared: (track, workload in words) -> records.

    A workload is the size of images and networks; in the tuned track, where every init is fitted
    alike, it is all settings.
    """
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        track = record.track.removesuffix(TUNING)
        found.setdefault((track, _workload(record, whole=track == "tuned")), []).append(record)
    return found


def _workload(record: Record, *, whole: bool) -> str:
    settings = dict(record.settings)
    try:
        size, width, depth = (settings.pop(k) for k in ("image_size", "width", "depth"))
    except KeyError as error:
        raise InputError(f"a record of init {record.init} has no {error} in its settings") from None
    text = f"{size} x {size} pixels, SIREN {depth} x {width}"
    usual = vars(Protocol(**USUAL[record.version]))
    for name, value in sorted(settings.items()) if whole else ():
        if value not in (None, [], ()) and value != usual.get(name):
            text += f", {name} {value}"
    return text


def select_lrs(
    records: Iterable[Record], average: Callable[[Iterable[float]], float] = geometric_mean
) -> dict[tuple[str, float], float]:
    """(init, budget) -> the learning rate with the lowest average final error.

    The average, by default a geometric mean, is over all pairs on which any rate was tried; a run
    that diverged or was not made counts as infinite. Where every rate has such runs, the one with
    the fewest is taken.
    """
    errors: dict[tuple[str, float], dict[float, dict[Pair, float]]] = {}
    for record in records:
        by_lr = errors.setdefault((record.init, record.budget_epochs), {})
        by_lr.setdefault(record.lr, {})[record.image_hash, record.seed] = record.mse
    chosen = {}
    for key, by_lr in errors.items():
        pairs = {pair for found in by_lr.values() for pair in found}

        def rank(lr: float, by_lr: Any = by_lr, pairs: set[Pair] = pairs) -> tuple[float, ...]:
            finite = [error for error in by_lr[lr].values() if isfinite(error)]
            return len(pairs) - len(finite), average(finite) if finite else inf, lr

        chosen[key] = min(by_lr, key=rank)
    return chosen


Ladder = dict[float, Record]  # budget -> record, ascending


def choose_ladders(
    records: Sequence[Record], *, tune_on_test: bool
) -> dict[str, dict[Pair, Ladder]]:
    """Init -> pair -> its runs, each at the rate that was chosen for it.

    Raises:
        InputError: runs of one pair at several rates and no tuning runs to choose by, or an init
            whose records are of different makes.
    """
    tuning = [record for record in records if record.track.endswith(TUNING)]
    tests = [record for record in records if not record.track.endswith(TUNING)]
    lrs = select_lrs(tests if tune_on_test else tuning)
    facts: dict[str, str] = {}
    found: dict[str, dict[Pair, dict[float, list[Record]]]] = {}
    for record in tests:
        own = json.dumps([record.init_facts, record.settings], sort_keys=True)
        if facts.setdefault(record.init, own) != own:
            raise InputError(
                f"init {record.init}: the records are of different inits or settings of that name;"
                " score them apart, or name them apart"
            )
        pairs = found.setdefault(record.init, {})
        rungs = pairs.setdefault((record.image_hash, record.seed), {})
        rungs.setdefault(record.budget_epochs, []).append(record)
    ladders: dict[str, dict[Pair, Ladder]] = {}
    for init, pairs in found.items():
        for pair, rungs in pairs.items():
            for budget in sorted(rungs):
                chosen = _at_chosen_lr(rungs[budget], lr_at(lrs, init, budget))
                if chosen is not None:
                    ladders.setdefault(init, {}).setdefault(pair, {})[budget] = chosen
    return ladders


def lr_at(lrs: Mapping[tuple[str, float], float], init: str, budget: float) -> float | None:
    """The rate of a rung: that of the largest tuned rung that is not above it."""
    tuned = [rung for name, rung in lrs if name == init and rung <= budget]
    return lrs[init, max(tuned)] if tuned else None


def _at_chosen_lr(runs: list[Record], lr: float | None) -> Record | None:
    """A run's own rate was the chosen one when it was made; several runs need a choice."""
    if len(runs) == 1:
        return runs[0]
    if lr is None:
        raise InputError(
            f"init {runs[0].init} has runs at several learning rates on {runs[0].image} and no"
            " tuning runs to choose by"
        )
    return next((run for run in runs if run.lr == lr), None)


def ladder_costs(ladders: Mapping[Pair, Ladder], column: int, unit: str, target: float) -> Cost:
    """Cost to a target over the start and the rungs of each pair; column of the curve."""
    values, limits, at_most = {}, {}, set()
    for pair, ladder in ladders.items():
        runs = list(ladder.values())
        start = runs[0].curve[0]
        costs = [start[column], *(r.curve[-1][column] for r in runs)]
        errors = [start[3], *(r.mse for r in runs)]
        values[pair] = cost_to_target(costs, errors, target)
        limits[pair] = max(costs)  # not the last: a run that diverged ends early
        if start[column] <= 0 and not errors[0] <= target and errors[1] <= target:
            at_most.add(pair)
    return Cost(unit, values, limits, frozenset(at_most))


def score(
    records: Iterable[Record], reference: str = "33", *, tune_on_test: bool = False
) -> list[InitScore]:
    """Scores of all inits on a ladder of budgets, best first.

    Args:
        records: Of one group (see `groups`), tuning runs included.
        reference: The init that ratios are to, besides the best hand-designed one. That one is
            chosen per target, with the same records it is then compared on: its luck counts
            against the others.
        tune_on_test: Choose learning rates on the test runs themselves, where there are no tuning
            runs: for a quick comparison, as it favours inits that gain from a choice per budget.

    Raises:
        InputError: no test runs, or see `groups`: the records cannot be compared.
    """
    records = list(records)
    if len(groups(records)) > 1:
        raise InputError(
            f"records of different workloads: {'; '.join(' '.join(g) for g in groups(records))}"
        )
    ladders = choose_ladders(records, tune_on_test=tune_on_test)
    if not ladders:
        raise InputError("no test runs among the records")
    facts = {record.init: record.init_facts for record in records}
    hand_designed = [init for init in ladders if "hidden" in facts[init]]
    epochs = {
        init: {target: ladder_costs(pairs, 0, "epochs", target) for target in TARGETS}
        for init, pairs in ladders.items()
    }
    rungs = {init: _rungs(pairs.values()) for init, pairs in ladders.items()}

    def rank(init: str, target: float) -> tuple[float, ...]:
        cost, top = epochs[init][target], max(rungs[init])
        return cost.median, -cost.hits / cost.n, rungs[init][top].mse

    scores = []
    for init, pairs in ladders.items():
        targets = {}
        for target in TARGETS:
            best = min(hand_designed, key=lambda i: rank(i, target), default=None)
            to = {
                other: ratio(other, epochs[init][target], epochs[other][target])
                for other in (reference, best)
                if other in ladders and other != init
            }
            targets[target] = TargetScore(
                epochs[init][target],
                ladder_costs(pairs, 2, "seconds", target),
                to.get(reference),
                to.get(best) if best else None,
            )
        starts = [next(iter(ladder.values())).start_psnr for ladder in pairs.values()]
        scores.append(InitScore(init, fmean(starts), rungs[init], targets))
    hardest_first = sorted(TARGETS)
    return sorted(scores, key=lambda s: [rank(s.init, target) for target in hardest_first])


def hardest_solved(scores: Iterable[InitScore]) -> float:
    """The hardest target that any init reached on any pair; the easiest if none was reached."""
    hit = {t for s in scores for t, found in s.targets.items() if found.epochs.hits}
    return min(hit, default=max(TARGETS))


def _rungs(ladders: Iterable[Ladder]) -> dict[float, Rung]:
    runs: dict[float, list[Record]] = {}
    for ladder in ladders:
        for budget, record in ladder.items():
            runs.setdefault(budget, []).append(record)
    return {
        budget: Rung(found[0].lr, geometric_mean(r.mse for r in found), len(found))
        for budget, found in sorted(runs.items())
    }


def score_seed(records: Iterable[Record]) -> list[SeedScore]:
    """Scores of all inits under the seed track, read off the curves, fastest first.

    A seed epoch is as many steps as it takes to visit as many points as the image has pixels.
    """
    runs: dict[str, list[Record]] = {}
    for record in records:
        runs.setdefault(record.init, []).append(record)

    def first(own: list[Record], column: int, target: float) -> Cost:
        values, limits = {}, {}
        for record in own:
            pixels, batch = record.settings["image_size"] ** 2, record.settings["batch_pixels"]
            epoch_steps = ceil(pixels / batch)
            pair = record.image_hash, record.seed
            hit = (row[1] / epoch_steps for row in record.curve if row[column] <= target)
            values[pair] = next(hit, inf)
            limits[pair] = record.curve[-1][1] / epoch_steps
        return Cost("seed epochs", values, limits)

    scores = [
        SeedScore(
            init,
            tuple(record.lr for record in own),
            geometric_mean(record.mse for record in own),
            *({target: first(own, column, target) for target in TARGETS} for column in (5, 3)),
        )
        for init, own in runs.items()
    ]
    return sorted(scores, key=lambda s: [s.train[target].median for target in sorted(TARGETS)])
