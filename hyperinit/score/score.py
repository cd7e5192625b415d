"""Records -> scores of every init: cost to each target, ratios, final errors. Reads nothing else.

costs.py explains and computes how costs, censored ones included, become numbers. Every table,
chart, page and report uses the scores that are computed here, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, isfinite
from operator import attrgetter
from statistics import fmean, median
from typing import Literal

from hyperinit.base.errors import InputError
from hyperinit.record.protocol import TARGETS
from hyperinit.record.records import Record
from hyperinit.record.tracks import Track, track_of
from hyperinit.score.costs import (
    Cost,
    Mean,
    Pair,
    Ratio,
    cost_to_target,
    geometric_mean,
    is_upper_bound,
    mean,
    ratio,
)
from hyperinit.score.curves import curve_cost, median_curve
from hyperinit.score.groups import Choice, Group, Ladder, choose_ladders, groups, name_entries
from hyperinit.score.places import places, without_seconds

Unit = Literal["epochs", "seconds"]
PsnrAfter = dict[int, Mean | None]  # steps -> mean over pairs
COST_OF = {"epochs": attrgetter("epochs"), "seconds": attrgetter("sec")}

DIFFERENT_PAIRS = (
    "Not every init was run on the same images and seeds: a median is over an init's own pairs, a"
    " ratio over the pairs that both ran."
)


@dataclass(frozen=True)
class TargetScore:
    """One init and one target.

    Attributes:
        epochs: Its cost in the track's unit.
        seconds: On a ladder that was measured in one place; None along a curve, where evaluations
            are on the clock.
        train: Along a curve: the cost until the smoothed training loss reaches the target.
        to_reference, to_best: Ratios in epochs; None for that init itself, or if there is none.
    """

    epochs: Cost
    seconds: Cost | None
    train: Cost | None
    to_reference: Ratio | None
    to_best: Ratio | None

    @property
    def costs(self) -> tuple[Cost, ...]:
        """The costs in epochs, and in seconds if there are any."""
        return (self.epochs,) if self.seconds is None else (self.epochs, self.seconds)


@dataclass(frozen=True)
class Rung:
    """One init and one budget: the choices, the geometric mean of the final error, the pairs.

    Pairs have several choices if they were run at different times, after choices on other images.
    """

    chosen: tuple[Choice, ...]
    mse: float
    n: int

    @property
    def choices(self) -> str:
        """Such as "0.0005", or "0.0005 or 0.001"."""
        return " or ".join(map(str, self.chosen))


@dataclass(frozen=True, eq=False)
class InitScore:
    """Everything that a group of records says about one init.

    Attributes:
        init: Its name, including changes of the fit.
        track: The group's track.
        ladders: Pair -> its runs.
        rungs: Budget in epochs -> the result there.
        targets: Target -> the cost to reach it.
    """

    init: str
    track: Track
    ladders: Mapping[Pair, Ladder]
    rungs: Mapping[float, Rung]
    targets: Mapping[float, TargetScore]

    @property
    def runs(self) -> list[Record]:
        """All runs that count for the score."""
        return [run for ladder in self.ladders.values() for run in ladder.values()]

    @property
    def start_psnr(self) -> float:
        """Mean PSNR in dB before the first step; NaN if it is unknown for some start."""
        return fmean(next(iter(ladder.values())).start.psnr for ladder in self.ladders.values())

    @cached_property
    def psnr_after(self) -> dict[int, Mean | None]:
        """Steps -> mean PSNR in dB; None if some pair was not evaluated there, or diverged.

        An init's epochs count as steps, because it spent them on the image.
        """
        ends = {pair: ladder[max(ladder)] for pair, ladder in self.ladders.items()}
        found: dict[int, Mean | None] = {}
        for steps in self.track.psnr_steps:
            psnrs = {pair: _psnr_at(run, steps) for pair, run in ends.items()}
            whole = all(map(isfinite, psnrs.values()))
            found[steps] = mean(psnrs, _photographs(self.ladders)) if whole else None
        return found

    @property
    def final_mse(self) -> float:
        """Geometric mean over pairs of the error after the largest budget of each."""
        return geometric_mean(ladder[max(ladder)].mse for ladder in self.ladders.values())

    @property
    def whole_rungs(self) -> dict[float, Rung]:
        """The rungs below the first one with missing pairs.

        Pairs that have reached every target are not run at larger budgets. The errors of the
        remaining, hard pairs there do not continue the curve of all pairs.
        """
        whole: dict[float, Rung] = {}
        for budget, rung in self.rungs.items():
            if any(rung.n < before.n for before in whole.values()):
                break
            whole[budget] = rung
        return whole

    def mse_curve(self, unit: Unit) -> list[tuple[float, float]]:
        """(cost, error): the start and the end of whole rungs; along a curve, every evaluation."""
        cost = COST_OF[unit]
        if self.track.along_curve:
            return median_curve(self.runs, cost)
        starts = [next(iter(ladder.values())).start for ladder in self.ladders.values()]
        points = [(fmean(map(cost, starts)), geometric_mean(start.mse for start in starts))]
        for budget in self.whole_rungs:
            ends = [own[budget] for own in self.ladders.values() if budget in own]
            middle = median(cost(run.end) for run in ends)
            points.append((middle, geometric_mean(run.mse for run in ends)))
        return points


@dataclass(frozen=True, eq=False)
class GroupScore:
    """A group of records that may be compared, and the scores of its inits.

    Attributes:
        group: The records.
        reference: The reference init of ratios.
        inits: Best first: by the hardest target, then by the next.
        chosen_on: Init -> the images on which its rates were chosen, see `choose_ladders`.
        notes: Sentences that a reader must know about the scoring.
        has_seconds: False if seconds were left out, see places.py.
    """

    group: Group
    reference: str
    inits: Sequence[InitScore]
    chosen_on: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    has_seconds: bool = True

    @property
    def track(self) -> Track:
        """The group's track."""
        return self.group.workload.track

    @cached_property
    def target(self) -> float:
        """The hardest target that the median pair of some init reaches; else that any pair does."""
        costs = [(t, found.epochs) for s in self.inits for t, found in s.targets.items()]
        usual = [t for t, cost in costs if isfinite(cost.median)]
        return min(usual or [t for t, cost in costs if cost.hits], default=max(TARGETS))

    @cached_property
    def fastest_first(self) -> list[InitScore]:
        """The inits by the cost of `target`, then by the error after the largest budget."""
        return sorted(self.inits, key=lambda s: _rank(s.targets[self.target].epochs, s.final_mse))


def score_groups(
    records: Iterable[Record],
    reference: str = "33",
    *,
    tune_on_test: bool = False,
    strict: bool = True,
) -> list[GroupScore]:
    """Scores of all groups of records, in the order of their first records.

    Args:
        records: Records of any tracks, workloads and protocol versions, tuning runs included.
        reference: The reference init of ratios, besides the best hand-designed one. The latter is
            chosen per target, on the same records that it is then compared on, so its luck counts
            against the others.
        tune_on_test: Choose learning rates on the test runs themselves if there are no tuning
            runs. Only for quick comparisons: it favours inits that gain from a choice per budget.
        strict: Refuse entries that cannot be told apart or chosen, see `name_entries` and
            `choose_ladders`; otherwise tell them apart, choose, and say so in `notes`.

    Raises:
        InputError: see `strict`, or a record does not state its sizes.
    """
    return [
        _score_group(group, reference, tune_on_test=tune_on_test, strict=strict)
        for group in groups(records)
    ]


def score(
    records: Iterable[Record], reference: str = "33", *, tune_on_test: bool = False
) -> list[InitScore]:
    """Scores of all inits of one group, best first; see `score_groups`.

    Raises:
        InputError: there are no test runs, or the records cannot be compared.
    """
    found = score_groups(records, reference, tune_on_test=tune_on_test)
    if len(found) > 1:
        names = "; ".join(f"{s.group.workload}, protocol {s.group.workload.version}" for s in found)
        raise InputError(f"records of different workloads: {names}")
    if not found or not found[0].inits:
        raise InputError("no test runs among the records")
    return list(found[0].inits)


def hardest_solved(scores: Iterable[InitScore]) -> float:
    """The hardest target that any init reached on any pair; the easiest if none was reached."""
    hit = {t for s in scores for t, found in s.targets.items() if found.epochs.hits}
    return min(hit, default=max(TARGETS))


def _score_group(group: Group, reference: str, *, tune_on_test: bool, strict: bool) -> GroupScore:
    track = group.workload.track
    name, notes = name_entries(group.records, strict=strict)
    chosen_on: dict[str, str] = {}
    if track.along_curve:
        ladders: dict[str, dict[Pair, Ladder]] = {}
        for record in group.tests:
            pairs = ladders.setdefault(name(record), {})
            # Only the longest run of a pair: a shorter one repeats its beginning.
            if record.budget_epochs >= max(pairs.get(record.pair, ()), default=0):
                pairs[record.pair] = {record.budget_epochs: record}
    else:
        ladders, chosen_on, more = choose_ladders(
            group, name, tune_on_test=tune_on_test, strict=strict
        )
        notes = [*notes, *more]
    if len({frozenset(pairs) for pairs in ladders.values()}) > 1:
        notes = [*notes, DIFFERENT_PAIRS]
    rungs = {init: _rungs(pairs.values()) for init, pairs in ladders.items()}
    measure = _curve_costs if track.along_curve else _all_ladder_costs
    costs = {init: {t: measure(pairs, t) for t in TARGETS} for init, pairs in ladders.items()}
    measured_in = len(places(group.tests))
    has_seconds = measured_in <= 1
    if not has_seconds:  # seconds of different places do not compare
        notes = [*notes, without_seconds(measured_in)]
        for own in (own for by_target in costs.values() for own in by_target.values()):
            own.pop("seconds", None)
    facts = {name(record): record.init_facts for record in group.tests}
    hand_designed = [init for init in ladders if "hidden" in facts[init]]

    def rank(init: str, target: float) -> tuple[float, ...]:
        return _rank(costs[init][target]["epochs"], rungs[init][max(rungs[init])].mse)

    def along(init: str, target: float) -> tuple[float, ...]:
        return (costs[init][target]["train"].median,)

    found = []
    for init, pairs in ladders.items():
        targets = {}
        for target in TARGETS:
            best = min(hand_designed, key=lambda i: rank(i, target), default=None)
            own = costs[init][target]
            to = {
                other: ratio(other, own["epochs"], costs[other][target]["epochs"])
                for other in (reference, best)
                if other in ladders and other != init
            }
            targets[target] = TargetScore(
                own["epochs"],
                own.get("seconds"),
                own.get("train"),
                to.get(reference),
                to.get(best) if best else None,
            )
        found.append(InitScore(init, track, pairs, rungs[init], targets))
    order = along if track.along_curve else rank
    found.sort(key=lambda s: [order(s.init, target) for target in sorted(TARGETS)])
    return GroupScore(
        group, reference, tuple(found), chosen_on, tuple(notes), has_seconds=has_seconds
    )


def _rank(cost: Cost, final_mse: float) -> tuple[float, ...]:
    return cost.median, -cost.hits / cost.n, final_mse


def ladder_costs(ladders: Mapping[Pair, Ladder], unit: Unit, target: float) -> Cost:
    """Cost to a target over the start and the rungs of each pair."""
    cost = COST_OF[unit]
    values, limits, at_most = {}, {}, set()
    for pair, ladder in ladders.items():
        runs = list(ladder.values())
        start = runs[0].start
        costs = [cost(start), *(cost(run.end) for run in runs)]
        errors = [start.mse, *(run.mse for run in runs)]
        values[pair] = cost_to_target(costs, errors, target)
        limits[pair] = max(costs)  # not the last one: a run that diverged ends early
        if is_upper_bound(costs, errors, target):
            at_most.add(pair)
    return Cost(unit, values, limits, frozenset(at_most), _photographs(ladders))


def _photographs(ladders: Mapping[Pair, Ladder]) -> dict[str, str]:
    """Image -> the photograph that it is a crop of, if a record says so."""
    runs = (run for ladder in ladders.values() for run in ladder.values())
    return {run.image_hash: run.source_hash for run in runs if run.source_hash}


def _all_ladder_costs(ladders: Mapping[Pair, Ladder], target: float) -> dict[str, Cost]:
    units: tuple[Unit, ...] = ("epochs", "seconds")
    return {unit: ladder_costs(ladders, unit, target) for unit in units}


def _curve_costs(ladders: Mapping[Pair, Ladder], target: float) -> dict[str, Cost]:
    """The first cost along the curve at which the target is reached, in the track's unit."""
    found = {}
    for key, error in (("epochs", attrgetter("mse")), ("train", attrgetter("train_mse"))):
        values, limits, unit = {}, {}, "seed epochs"
        for pair, ladder in ladders.items():
            run = ladder[max(ladder)]
            unit = track_of(run.track).unit
            costs = [curve_cost(run, point) for point in run.curve]
            hit = (c for c, p in zip(costs, run.curve, strict=True) if error(p) <= target)
            values[pair] = next(hit, inf)
            limits[pair] = costs[-1]
        found[key] = Cost(unit, values, limits, photographs=_photographs(ladders))
    return found


def _psnr_at(run: Record, steps: int) -> float:
    """PSNR of the evaluation after `steps` steps (here epochs); infinite if there is none."""
    at = (p.psnr for p in run.curve if abs(p.epochs - steps) <= 0.5 and isfinite(p.mse))
    return next(at, inf)


def _rungs(ladders: Iterable[Ladder]) -> dict[float, Rung]:
    runs: dict[float, list[Record]] = {}
    for ladder in ladders:
        for budget, record in ladder.items():
            runs.setdefault(budget, []).append(record)
    return {
        budget: Rung(
            tuple(sorted(set(map(Choice.of, found)))),
            geometric_mean(r.mse for r in found),
            len(found),
        )
        for budget, found in sorted(runs.items())
    }
