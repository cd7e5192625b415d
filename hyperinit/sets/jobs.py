"""Batches of images that are fitted together, and their fits, wherever these run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hyperinit.base.errors import InputError, MemoryShort
from hyperinit.fitting.config import FitConfig
from hyperinit.fitting.descent import FitResult
from hyperinit.fitting.many import fit_many
from hyperinit.fitting.target import fit_to_target
from hyperinit.inits.start import Init, Start
from hyperinit.sets.results import Fitted, Outcome, Unfitted
from hyperinit.siren.network import Params


@dataclass(frozen=True, eq=False)
class Job:
    """An image that is to be fitted, and the file for its SIREN."""

    name: str
    image: Tensor
    path: Path
    source_sha256: str
    photo_sha256: str
    finished: Params | None = None  # an earlier run's result, from which an init may learn

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.image.shape[-2:]
        return height, width


Batch = tuple[FitConfig, list[Job]]  # images that are fitted together, and their config


def fits_of(
    init: Init, device: torch.device, planned_images: int, target_mse: float | None, batch: Batch
) -> Iterator[Outcome]:
    """The fits of images of one size: together, or one by one to a target, where lengths differ.

    An image that has no start, or whose fit does not fit in memory, does not affect the others.
    Results are in the CPU's memory.
    """
    config, jobs = batch
    images = [job.image.to(device) for job in jobs if job.finished is None]
    starts = [_start_of(init, image, config.seed) for image in images]
    pairs = [
        (start, image)
        for start, image in zip(starts, images, strict=True)
        if not isinstance(start, Unfitted)
    ]
    if target_mse is None:
        found = _fit_together(pairs, config, planned_images)
    else:
        fits = (partial(fit_to_target, *pair, target_mse, config) for pair in pairs)
        found = map(_held, fits)
    for start in starts:
        result = start if isinstance(start, Unfitted) else next(found)
        if isinstance(result, Unfitted):
            yield result
        else:
            yield replace(result, params=result.params.map(lambda value: value.cpu()))


def _start_of(init: Init, image: Tensor, seed: int) -> Start | Unfitted:
    try:
        return init.start(image, seed)
    except InputError as error:
        return Unfitted(str(error))


def _held(fit: Callable[[], Fitted]) -> Outcome:
    """The result of a fit, or `Unfitted` if it does not fit in memory."""
    try:
        return fit()
    except MemoryShort as error:
        return Unfitted(str(error))


def _fit_together(
    pairs: Sequence[tuple[Start, Tensor]], config: FitConfig, planned_images: int
) -> Iterator[Outcome]:
    """Starts and images -> fits in one batch; one by one if that does not fit in memory."""
    if not pairs:
        return

    def fits(some: Sequence[tuple[Start, Tensor]]) -> list[FitResult]:
        starts, images = zip(*some, strict=True)
        return fit_many(starts, images, config, planned_images=planned_images)

    try:
        together = fits(pairs)
    except MemoryShort:
        yield from (_held(lambda pair=pair: fits([pair])[0]) for pair in pairs)  # type: ignore[misc]
    else:
        yield from together


def all_fits(fits: Callable[[Batch], Iterator[Outcome]], batch: Batch) -> list[Outcome]:
    """All fits of a batch as a list, to be sent back by a worker."""
    return list(fits(batch))
