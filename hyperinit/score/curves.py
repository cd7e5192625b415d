"""Fits that are read along their curve: what a point of it has cost, and the curve of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from statistics import median

from hyperinit.base.errors import InputError
from hyperinit.record.records import CurvePoint, Record
from hyperinit.record.tracks import track_of

MAX_CURVE_POINTS = 150  # of a drawn curve


def curve_cost(run: Record, point: CurvePoint) -> float:
    """The cost of a fit up to a point of its curve, in its track's unit, including the start.

    A seed epoch is the number of steps that visit as many points as the image has pixels.

    Raises:
        InputError: the record does not state its batch size.
    """
    if track_of(run.track).full_batch:
        return point.epochs
    settings = run.settings
    if "batch_pixels" not in settings:
        raise InputError(f"a record of init {run.init} has no 'batch_pixels' in its settings")
    pixels = int(settings["image_size"]) ** 2
    batch_pixels = min(int(settings["batch_pixels"]), pixels)
    steps = ceil(pixels / batch_pixels)
    return run.start.epochs * pixels / (steps * batch_pixels) + point.steps / steps


def median_curve(
    runs: Sequence[Record], cost: Callable[[CurvePoint], float]
) -> list[tuple[float, float]]:
    """Medians over the runs at every evaluation that all runs have: (cost, error)."""
    by_step: dict[float, list[CurvePoint]] = {}
    for point in (point for run in runs for point in run.curve):
        by_step.setdefault(point.steps, []).append(point)
    full = [points for _, points in sorted(by_step.items()) if len(points) == len(runs)]
    every = max(1, len(full) // MAX_CURVE_POINTS)
    return [
        (median(map(cost, points)), median(point.mse for point in points))
        for points in [*full[::every], *full[-1:]]
    ]
