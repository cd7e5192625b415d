"""Costs of pairs -> medians, ratios with intervals, survival curves.

The unit of every count is a pair: one image and one seed. A pair whose runs never reach a target
is censored: its cost is only known to be above that of its largest budget. Censored pairs are
infinite in medians and stay in every count, curve and profile. A pair whose smallest budget is
already enough, or the first that did not diverge, costs at most that.

Neither kind gives a ratio of costs, only a range for it. The geometric mean of ratios is therefore
over the pairs for which both inits have an exact cost, and their number is stated. Leaving out
pairs that only one init solves flatters the other one, so a bound is given too: the mean of the
lower (upper) ends over every pair with a range, if none of these is 0 (infinite). A pair that
neither init solves has no range. If there are censored pairs on both sides, there is no bound.

A pair whose start is enough costs nothing. Its ratio to one that costs something is 0 or infinite,
which a geometric mean cannot include. Such pairs are left out of means and bounds, and counted.

Intervals are 95 % percentile bootstraps over photographs. Seeds of an image, and crops of one
photograph (if records say so), are averaged first, because they share what makes it hard.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, inf, isfinite, log
from statistics import fmean, median


def cost_to_target(costs: Sequence[float], errors: Sequence[float], target: float) -> float:
    """Cost at which a ladder of runs reaches a target error; infinite if none does.

    Args:
        costs: Epochs or seconds of the start and of each rung, ascending.
        errors: Final error of each.
        target: Reached if error <= target.

    Returns:
        The log-log interpolation between the first rung that reaches the target and the one before
        it; where there is none, as when the one before cost nothing or diverged, the rung's own
        cost (an upper bound).
    """
    i = _first_at(costs, errors, target)
    if i is None:
        return inf
    if i == 0 or not _can_interpolate(costs, errors, i):
        return costs[i]
    part = log(errors[i - 1] / target) / log(errors[i - 1] / errors[i])
    return exp(log(costs[i - 1]) + part * log(costs[i] / costs[i - 1]))


def is_upper_bound(costs: Sequence[float], errors: Sequence[float], target: float) -> bool:
    """Whether `cost_to_target` is only the most that the target costs: that of a whole rung."""
    i = _first_at(costs, errors, target)
    return bool(i) and not _can_interpolate(costs, errors, i or 0)


def _first_at(costs: Sequence[float], errors: Sequence[float], target: float) -> int | None:
    """The place of the first rung that reaches a target."""
    pairs = zip(costs, errors, strict=True)
    return next((i for i, (_, error) in enumerate(pairs) if error <= target), None)


def _can_interpolate(costs: Sequence[float], errors: Sequence[float], i: int) -> bool:
    """Whether a rung and the one before it have logarithms."""
    return min(costs[i - 1], costs[i], errors[i]) > 0 and isfinite(errors[i - 1])


Pair = tuple[str, int]  # image hash, seed

_RESAMPLES = 9999


def number(value: float) -> str:
    """A number with three significant digits, without an exponent for thousands."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def decibels(value: float) -> str:
    """A PSNR with one decimal; "-" if it is unknown, as for a start that is not finite."""
    return f"{value:.1f}" if value > -inf else "-"


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean of values >= 0; infinite if one is infinite, else 0 if one is 0."""
    values = list(values)
    if inf in values or 0 in values:
        return inf if inf in values else 0.0
    return exp(fmean(map(log, values)))


@dataclass(frozen=True)
class Cost:
    """The cost for one init to reach a target.

    Attributes:
        unit: "epochs", "seconds" or "seed epochs".
        values: Cost of every pair; infinite if censored.
        limits: Cost of every pair's largest budget.
        at_most: Pairs whose value is only an upper bound, see `is_upper_bound`.
        photographs: Image -> the photograph that it is a crop of, if known.
    """

    unit: str
    values: Mapping[Pair, float]
    limits: Mapping[Pair, float]
    at_most: frozenset[Pair] = frozenset()
    photographs: Mapping[str, str] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.values)

    @property
    def hits(self) -> int:
        """Number of pairs that reach the target."""
        return sum(isfinite(value) for value in self.values.values())

    @property
    def median(self) -> float:
        """Median over all pairs; censored ones are infinite."""
        return float(median(self.values.values()))

    def __str__(self) -> str:
        """Such as "12.3 epochs (n=48, 48/48 hit)"; "> 64" if the median pair is censored."""
        if not isfinite(self.median):
            least = min(self.limits[pair] for pair, cost in self.values.items() if cost == inf)
            shown = f"> {number(least)}"
        else:
            least = median(0 if pair in self.at_most else own for pair, own in self.values.items())
            shown = ("<= " if least < self.median else "") + number(self.median)
        return f"{shown} {self.unit} (n={self.n}, {self.hits}/{self.n} hit)"


@dataclass(frozen=True)
class Ratio:
    """Geometric mean of the paired ratios of an init's cost to another's; below 1 is cheaper.

    Attributes:
        to: The other init.
        mean: Mean over the pairs with an exact ratio; None if there are none.
        low, high: 95 % interval; None with fewer than two photographs.
        n: Number of pairs with an exact ratio.
        pairs: Number of pairs that both ran.
        at_least, at_most: Bounds over all pairs with a range, see above; None if there is no bound
            or every ratio is exact.
        free, other_free, both_free: Number of pairs left out of all these, because they cost
            nothing for this init, the other, or both.
    """

    to: str
    mean: float | None
    low: float | None
    high: float | None
    n: int
    pairs: int
    at_least: float | None = None
    at_most: float | None = None
    free: int = 0
    other_free: int = 0
    both_free: int = 0

    @property
    def left_out(self) -> str:
        """Such as "free on 9, to the other on 2, to both on 1"; empty if no pair is left out."""
        counts = [("", self.free), ("to the other ", self.other_free), ("to both ", self.both_free)]
        parts = [f"{whose}on {count}" for whose, count in counts if count]
        return f"free {', '.join(parts)}" if parts else ""

    def __str__(self) -> str:
        """Such as "1.93 [1.71, 2.2] (n=44/48; free on 2), at least 2.01"."""
        shown = "-" if self.mean is None else number(self.mean)
        if self.low is not None and self.high is not None:
            shown += f" [{number(self.low)}, {number(self.high)}]"
        shown += f" (n={self.n}/{self.pairs}{'; ' if self.left_out else ''}{self.left_out})"
        if self.at_least is not None:
            shown += f", at least {number(self.at_least)}"
        return shown if self.at_most is None else f"{shown}, at most {number(self.at_most)}"


def ratio(to: str, cost: Cost, other: Cost) -> Ratio:
    """Ratio of an init's cost to another's, named `to`; see the top of this file."""
    pairs = [pair for pair in cost.values if pair in other.values]
    photographs = {**other.photographs, **cost.photographs}
    exact: dict[str, list[float]] = {}
    informative: dict[str, list[tuple[float, float]]] = {}
    free = {(True, False): 0, (False, True): 0, (True, True): 0}
    for pair in pairs:
        nothing = cost.values[pair] == 0, other.values[pair] == 0
        if any(nothing):
            free[nothing] += 1
            continue
        low, high = _range(cost, pair)
        other_low, other_high = _range(other, pair)
        low, high = _divide(low, other_high), _divide(high, other_low)
        if low == 0 and high == inf:  # neither solves it
            continue
        photograph = photographs.get(pair[0], pair[0])
        informative.setdefault(photograph, []).append((low, high))
        if low == high:
            exact.setdefault(photograph, []).append(log(low))
    n = sum(map(len, exact.values()))
    mean, interval_low, interval_high = _mean_with_interval(tuple(map(fmean, exact.values())))
    at_least = at_most = None
    if n < sum(map(len, informative.values())):
        lows, highs = (
            geometric_mean(geometric_mean(r[i] for r in found) for found in informative.values())
            for i in (0, 1)
        )
        at_least, at_most = lows or None, highs if isfinite(highs) else None
    bounds = n, len(pairs), at_least, at_most
    return Ratio(to, mean, interval_low, interval_high, *bounds, *free.values())


def _range(cost: Cost, pair: Pair) -> tuple[float, float]:
    """The least and the most that a pair can cost."""
    value = cost.values[pair]
    if value == inf:
        return cost.limits[pair], inf
    return (0.0 if pair in cost.at_most else value), value


def _divide(cost: float, other: float) -> float:
    """cost / other where either may be 0 or infinite, but not both the same."""
    if other == inf:
        return 0.0
    return cost / other if other > 0 else inf


@dataclass(frozen=True)
class Mean:
    """An arithmetic mean over pairs; seeds and crops of one photograph are averaged first.

    Attributes:
        value: The mean.
        low, high: 95 % interval over photographs; None with fewer than two.
        n: Number of pairs.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        """Such as "31.2 [30.1, 32.4]"."""
        shown = f"{self.value:.2f}"
        if self.low is not None and self.high is not None:
            shown += f" [{self.low:.2f}, {self.high:.2f}]"
        return shown


def mean(values: Mapping[Pair, float], photographs: Mapping[str, str]) -> Mean:
    """The mean over at least one pair with finite values, and its interval.

    Args:
        photographs: See Cost.
    """
    found: dict[str, list[float]] = {}
    for (image, _), value in values.items():
        found.setdefault(photographs.get(image, image), []).append(value)
    return Mean(*_interval(tuple(map(fmean, found.values()))), len(values))


def _mean_with_interval(
    logs: tuple[float, ...],
) -> tuple[float | None, float | None, float | None]:
    """exp of the mean of logarithms, and of the ends of its 95 % bootstrap interval."""
    if not logs:
        return None, None, None
    middle, low, high = _interval(logs)
    return exp(middle), None if low is None else exp(low), None if high is None else exp(high)


@functools.lru_cache(maxsize=4096)  # tables, charts and the page of a report share them
def _interval(values: tuple[float, ...]) -> tuple[float, float | None, float | None]:
    """The mean of values, and the ends of its 95 % bootstrap interval."""
    if len(values) < 2:
        return fmean(values), None, None
    import numpy as np
    from scipy.stats import bootstrap

    interval = bootstrap(
        (np.array(values),),
        np.mean,
        n_resamples=_RESAMPLES,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return fmean(values), float(interval.low), float(interval.high)


def solved_share(cost: Cost) -> tuple[list[float], list[float]]:
    """Kaplan-Meier estimate: costs, ascending, and the share of pairs solved at each."""
    from scipy.stats import CensoredData, ecdf

    hits = [value for value in cost.values.values() if isfinite(value)]
    if not hits:
        return [], []
    censored = [cost.limits[pair] for pair, value in cost.values.items() if value == inf]
    share = ecdf(CensoredData(uncensored=hits, right=censored)).cdf
    return share.quantiles.tolist(), share.probabilities.tolist()


def performance_profile(
    costs: Mapping[str, Cost],
) -> dict[str, tuple[list[float], list[float]]]:
    """Init -> ratios to the cheapest init of a pair, ascending, and the share of pairs within each.

    Shares are of the pairs that every init ran, including unsolved ones. If a pair costs one init
    nothing, an init for which it costs something is within no factor of that.
    """
    shared = set.intersection(*(set(cost.values) for cost in costs.values()))
    cheapest = {pair: min(cost.values[pair] for cost in costs.values()) for pair in shared}
    profiles = {}
    for init, values in ((init, cost.values) for init, cost in costs.items()):
        ratios = sorted(
            values[pair] / cheapest[pair] if cheapest[pair] else 1.0
            for pair in shared
            if isfinite(values[pair]) and (cheapest[pair] or not values[pair])
        )
        profiles[init] = ratios, [(i + 1) / len(shared) for i in range(len(ratios))]
    return profiles
