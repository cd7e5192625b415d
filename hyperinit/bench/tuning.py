"""The choices for an init and a rung on tuning images: its rate, and other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import log
from typing import Any

from hyperinit.bench.plan import Entry, Plan
from hyperinit.fitting.suits import batch_lr_factor
from hyperinit.record.protocol import Protocol
from hyperinit.record.records import Record
from hyperinit.score.groups import Choice, select_choices

# (rate, other settings) -> the fits of all tuning images with these.
Fits = Callable[[float, Mapping[str, Any]], list[Record]]


def tune(plan: Plan, entry: Entry, before: Choice | None, fits: Fits) -> Iterator[Record]:
    """Fits the tuning images with the settings that may be best on a rung.

    The best rate changes little from one budget to the next, so only the best one of the previous
    rung and its neighbours in the grid are tried, and none above one that diverged. Then, for one
    setting after the other, its other values are tried at the best rate so far. If one of them is
    better, the neighbours of its rate are tried too.
    """
    tried = plan.alternatives(entry)
    settings = {name: values[0] for name, values in tried.items()}
    if before is not None:
        settings |= {name: value for name, value in before.others if name in tried}
    found: list[Record] = []
    grid = rates(plan.protocol, settings)
    for lr in grid if before is None else _near(grid, before.lr):
        found += (made := fits(lr, settings))
        yield from made
        if any(record.diverged for record in made):
            break
    best, best_lr = settings, _best(found).lr
    for name, values in tried.items():
        place = _index(rates(plan.protocol, best), best_lr)
        for other in ({**best, name: value} for value in values if value != settings[name]):
            lr = rates(plan.protocol, other)[place]
            found += (made := fits(lr, other))
            yield from made
            if Choice.of(made[0]) == _best(found):
                best, best_lr = other, lr
    if best != settings:
        for lr in _near(rates(plan.protocol, best), best_lr):
            if lr != best_lr:
                yield from fits(lr, best)


def rates(protocol: Protocol, settings: Mapping[str, Any]) -> list[float]:
    """The ascending grid of rates for given settings: larger batches have higher rates."""
    batch_pixels = settings.get("batch_pixels", protocol.batch_pixels)
    if batch_pixels == protocol.batch_pixels:
        return sorted(protocol.lrs)
    factor = batch_lr_factor(batch_pixels, protocol.batch_pixels)
    return [float(f"{lr * factor:.3g}") for lr in sorted(protocol.lrs)]


def _best(records: Sequence[Record]) -> Choice:
    (choice,) = select_choices(records).values()  # of one init and one budget
    return choice


def _index(grid: Sequence[float], lr: float) -> int:
    return min(range(len(grid)), key=lambda i: abs(log(grid[i] / lr)))


def _near(grid: Sequence[float], lr: float) -> Sequence[float]:
    at = _index(grid, lr)
    return grid[max(at - 1, 0) : at + 2]
