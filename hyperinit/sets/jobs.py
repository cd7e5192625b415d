"""Images that are fitted together, and their fits, wherever these are done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hyperinit.fitting.config import FitConfig
from hyperinit.fitting.many import fit_many
from hyperinit.fitting.target import fit_to_target
from hyperinit.inits.start import Init
from hyperinit.sets.results import Fitted
from hyperinit.siren.network import Params


@dataclass(frozen=True, eq=False)
class Job:
    """An image that is to be fitted, and the file its SIREN goes into."""

    name: str
    image: Tensor
    path: Path
    source_sha256: str
    photo_sha256: str
    finished: Params | None = None  # an earlier run's result, for an init that learns from it

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.image.shape[-2:]
        return height, width


Batch = tuple[FitConfig, list[Job]]  # images that are fitted together, and how


def fits_of(
    init: Init, device: torch.device, planned_images: int, target_mse: float | None, batch: Batch
) -> Iterator[Fitted]:
    """The fits of images of one size: together, or to a target one by one, as each ends by itself.

    Results are in the CPU's memory.
    """
    config, jobs = batch
    images = [job.image.to(device) for job in jobs if job.finished is None]
    starts = [init.start(image, config.seed) for image in images]
    found: Iterable[Fitted] = []
    if target_mse is not None:
        pairs = zip(starts, images, strict=True)
        found = (fit_to_target(*pair, target_mse, config) for pair in pairs)
    elif images:
        found = fit_many(starts, images, config, planned_images=planned_images)
    for result in found:
        yield replace(result, params=result.params.map(lambda value: value.cpu()))


def all_fits(fits: Callable[[Batch], Iterator[Fitted]], batch: Batch) -> list[Fitted]:
    """All at once, where results have to travel."""
    return list(fits(batch))
