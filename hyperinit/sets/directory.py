"""Many images -> many fitted SIRENs: B at a time, a whole directory, one file per image.

B small fits together need fewer and larger matrix products than one after the other. Every image is
fitted as `fit` would fit it alone: with its own pixels, and updates that are element by element.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from hyperinit.base.arguments import check_count, check_positive
from hyperinit.base.clock import Clock
from hyperinit.base.errors import InputError
from hyperinit.base.files import exclusive, make_directory, shown_path, write_or_spare
from hyperinit.data.source import Source
from hyperinit.fitting.config import AUTO, FitConfig, with_options
from hyperinit.fitting.descent import FitResult
from hyperinit.fitting.many import most_together
from hyperinit.fitting.target import TargetResult
from hyperinit.images.pixels import centre_crop, check_size, image_hash
from hyperinit.inits.start import Init, network_of
from hyperinit.photos.load import open_source
from hyperinit.sets.jobs import Batch, Job, all_fits, fits_of
from hyperinit.sets.results import (
    LOCK_NAME,
    Fitted,
    Outcome,
    Pending,
    Unfitted,
    UnusableResult,
    facts_of,
    result_name,
    save_result,
    stored_result,
    why_none,
)
from hyperinit.siren.network import Params, SirenConfig
from hyperinit.spread.engines import HERE, Engine, WorkLost

AUTOMATIC = ("engine", "hidden_dtype")  # options that a timing or the amount of work may decide

# Decoded images take 12 bytes per pixel. This bounds those that are fitted together, and those that
# wait for a batch of their size to fill, whatever the sizes are.
MAX_BATCH_PIXELS = 2**22
MAX_WAITING_PIXELS = 2**24
GPU_PIXELS_FACTOR = 4  # factor on both for a GPU, which takes more images at a time

BATCH_IMAGES = 16
MAX_BATCH_WEIGHTS = 2**26  # of all SIRENs of a batch: their starts are 256 MiB


@dataclass(frozen=True)
class DirectoryReport:
    """The outcome of `fit_directory`.

    Attributes:
        fitted: Number of images fitted now.
        finished: Number of images that were finished before; their files are not changed.
        failed: (name of the image below the directory, why it has no result).
        missed: (name, final error) of images whose result missed the target.
        sec: Seconds from the first image to the last file, decoding and writing included.
    """

    fitted: int
    finished: int
    failed: tuple[tuple[str, str], ...]
    sec: float
    missed: tuple[tuple[str, str], ...] = ()

    @property
    def images_per_hour(self) -> float:
        """Images fitted per hour in this run; 0 if there were none."""
        return 3600 * self.fitted / self.sec if self.sec > 0 else 0.0


def fit_directory(  # more than 60 lines: half is its docstring, because users call it
    directory: str | os.PathLike[str] | Source,
    out: str | os.PathLike[str],
    init: Init,
    config: FitConfig | None = None,
    *,
    target_mse: float | None = None,
    size: int | tuple[int, int] | None = None,
    batch_images: int | None = BATCH_IMAGES,
    most_images: int | None = None,
    device: torch.device | str = "cpu",
    spread: Engine = HERE,
    on_fitted: Callable[[str, Fitted], None] = lambda name, result: None,
    on_failed: Callable[[str, str], None] = lambda name, reason: None,
    on_finished: Callable[[str], None] = lambda name: None,
    **options: Any,
) -> DirectoryReport:
    """Fits a SIREN to every image of a set and writes one file for each.

    Images are streamed, so memory is bounded however many there are. An image whose file is there,
    undamaged and made in the same way from the same image, is skipped, so an interrupted run
    continues where it stopped. A damaged or outdated file is made again.

    Args:
        directory: The top of a tree of images; hidden files are skipped, links to directories are
            followed, each directory once. Or other data, see `open_source`.
        out: Where NAME-HASH.safetensors are written, one for each image; see `result_name`. Their
            metadata: images (name, height, width, sha256, and photo_sha256, the hash before
            cropping), source_sha256, mse, psnr, init, init_facts, fit, size, lr, restarts,
            became (what "auto" became: the first result decides for the whole directory); with a
            target, reached and runs instead of the last three.
        init: The init of each fit, with the config's seed. If it has `learn`, that is called with
            the fits of each batch, in the order of the names, including those of an earlier run:
            an interrupted run continues with the same starts as without the interruption.
        target_mse: Fit each image until its error is this (see `fit_to_target`), one by one; the
            config's budget is the cap for each. None: fit over the budget.
        size: Crop to the centre square and resize to this many pixels a side, or crop to the shape
            of (height, width) and resize to that; None leaves images as they are. Images of
            different sizes are fitted in separate batches.
        batch_images: The most images fitted together. None: BATCH_IMAGES, or on a CUDA device as
            many as its memory holds. The other images of a batch change a result only by rounding,
            which is up to about a tenth of a dB: docs/reliability.md.
        most_images: Use only this many images, the first by name; None: all.
        device: Where images are fitted.
        spread: The engine that fits batches of images; files are read and written here.
        on_fitted: Called with (name, result) after a file has been written.
        on_failed: Called at once with (name, reason) if an image has no result, or one that misses
            the target.
        on_finished: Called with the name of an image that was finished before.
        **options: Fields of FitConfig to set.

    Raises:
        InputError: the data do not exist or hold no image, an option is unusable, or `out` cannot
            be written to, is in use by another process, or holds a result that was made
            differently. Finished results are never changed.
    """
    config = with_options(config, options)
    if not isinstance(init, Init):
        raise InputError(f"init must be an Init, not {type(init).__name__}")
    for what, value in (("batch_images", batch_images), ("most_images", most_images)):
        if value is not None:
            check_count(what, value)
    size = _own_size(size)
    target_mse = None if target_mse is None else check_positive("target_mse", target_mse)
    source = directory
    if not isinstance(source, Source):
        source = open_source(source, most_images)
    target, names = Path(out), source.names
    if not names:
        raise InputError(f"{shown_path(source.title)}: no image files there")
    make_directory(target)
    how: dict[str, Any] = {
        "init": init.name,
        "init_facts": init.facts,
        "fit": asdict(config),
        "size": size,
    }
    how |= {} if target_mse is None else {"target_mse": target_mse}
    how = json.loads(json.dumps(how))  # in the form in which it will be read back
    run = _Run(target, init, config, how, on_fitted, on_failed, on_finished, len(names))
    run.device, run.batch_images, run.target_mse = torch.device(device), batch_images, target_mse
    clock = Clock()
    with exclusive(target / LOCK_NAME), clock.running():
        for name, reason in source.skipped:
            run.fail(name, reason)
        count = len(names) if most_images is None else min(most_images, len(names))
        batches = run.batches(source, range(count), size)
        # The first batch decides what "auto" becomes for all.
        for some in (islice(batches, 1), batches):
            for (_, jobs), results in spread.map(run.fits(spread), some):
                run.keep(jobs, results)
    none, short = tuple(run.failed), tuple(run.missed)
    return DirectoryReport(run.fitted, run.finished, none, clock.sec, short)


def _own_size(size: Any) -> int | tuple[int, int] | None:
    """A side, or height and width if these differ, in the form that files store.

    Raises:
        InputError: they are not whole numbers, or not a valid size of an image.
    """
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, Integral) for side in sides):
        raise InputError(f"size must be a number of pixels, or height and width, not {size!r}")
    height, width = map(int, sides)
    check_size(height, width)
    return height if height == width else (height, width)


@dataclass
class _Run:
    """The state of `fit_directory`."""

    target: Path
    init: Init
    config: FitConfig
    how: dict[str, Any]
    on_fitted: Callable[[str, Fitted], None]
    on_failed: Callable[[str, str], None]
    on_finished: Callable[[str], None]
    images: int
    target_mse: float | None = None
    failed: list[tuple[str, str]] = field(default_factory=list)
    missed: list[tuple[str, str]] = field(default_factory=list)
    fitted: int = 0
    finished: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009  never changes
    batch_images: int | None = BATCH_IMAGES
    siren: SirenConfig | None = None  # the init's network, once it is known

    def pixels(self, on_cpu: int) -> int:
        """A bound on the pixels, or weights, in memory, adapted to the device."""
        return on_cpu * (GPU_PIXELS_FACTOR if self.device.type == "cuda" else 1)

    def together(self, job: Job) -> int:
        """How many images of a job's size are fitted together: fewer if they are large."""
        pixels = math.prod(job.shape)
        most = BATCH_IMAGES if self.batch_images is None else self.batch_images
        try:
            if self.batch_images is None and self.device.type == "cuda":
                batch_pixels = self.config.step_pixels(pixels)
                most = most_together(self._network(job), pixels, batch_pixels, self.device)
            if most > BATCH_IMAGES:
                held = self.pixels(MAX_BATCH_WEIGHTS) // self._network(job).weights
                most = max(BATCH_IMAGES, min(most, held))
        except InputError:  # it has no start, which is reported when it would be fitted
            most = min(most, BATCH_IMAGES)
        return min(most, max(1, self.pixels(MAX_BATCH_PIXELS) // pixels))

    def _network(self, job: Job) -> SirenConfig:
        """The network that is fitted; if not known yet, found by making an extra start."""
        if self.siren is None:
            start = self.init.start(job.image.to(self.device), self.config.seed)
            self.siren = start.params.config
        return self.siren

    def batches(
        self, source: Source, numbers: Iterable[int], size: int | tuple[int, int] | None
    ) -> Iterator[Batch]:
        """Batches of images of one size that are to be fitted together."""
        waiting: dict[tuple[int, int], list[Job]] = defaultdict(list)
        for index in numbers:
            job = self.prepare(source, index, size)
            if job is None:
                continue
            waiting[job.shape].append(job)
            if len(waiting[job.shape]) >= self.together(job):
                yield self.config, waiting.pop(job.shape)
            # Many sizes, none of which has filled a batch: the one with the most pixels goes first.
            elif sum(len(jobs) * h * w for (h, w), jobs in waiting.items()) > self.pixels(
                MAX_WAITING_PIXELS
            ):
                shape = max(waiting, key=lambda s: len(waiting[s]) * s[0] * s[1])
                yield self.config, waiting.pop(shape)
        for jobs in waiting.values():
            yield self.config, jobs

    def fits(self, spread: Engine) -> Callable[[Batch], Iterable[Outcome]]:
        """A function that fits images of one size; without an engine, one by one on demand."""
        fits = partial(fits_of, self.init, self.device, self.images, self.target_mse)
        return fits if spread is HERE else partial(all_fits, fits)

    def fail(self, name: str, reason: str) -> None:
        """Records and reports that an image has no result."""
        self.failed.append((name, reason))
        self.on_failed(name, reason)

    def miss(self, name: str, mse: float) -> None:
        """Records and reports that an image's fit did not reach the target."""
        reason = f"target_mse {self.target_mse:g} was not reached: MSE {mse:.3g}"
        self.missed.append((name, reason))
        self.on_failed(name, reason)

    def prepare(self, source: Source, index: int, size: int | tuple[int, int] | None) -> Job | None:
        """Decodes an image, unless it has a result or cannot be read."""
        name = source.names[index]
        path = self.target / result_name(name)
        try:
            pending = Pending(source, index)
            finished, info = self._finished(path, pending)
            if finished is not None:
                self.finished += 1
                self.on_finished(name)
                if info.get("reached") is False:
                    self.miss(name, info["mse"])
                if self.init.learn is None:
                    return None
            image = pending.image
        except UnusableResult:
            raise
        except InputError as error:
            self.fail(name, str(error))
            return None
        sides = (size, size) if isinstance(size, int) else size
        shown = image if sides is None else centre_crop(image, *sides)
        return Job(name, shown, path, pending.sha256, image_hash(image), finished)

    def _finished(self, path: Path, pending: Pending) -> tuple[Params | None, dict[str, Any]]:
        """The undamaged result of the same image, made in the same way, if there is one."""
        stored = stored_result(path, self.how)
        if stored is None:
            return None, {}
        params, info = stored
        if not self._is_alike(params.config, info.get("became")):
            raise UnusableResult.made_otherwise(path)
        # Otherwise the image has changed since.
        return (params if info.get("source_sha256") == pending.sha256 else None), info

    def _is_alike(self, siren: SirenConfig, became: Any) -> bool:
        """Whether a result has this run's network, and this run's values for "auto".

        The first result that is found decides these values, if it states them.
        """
        if self.siren is None:  # a hand-designed init can have any size, which its facts do not say
            self.siren = network_of(self.init, seed=self.config.seed)
        if isinstance(became, dict):
            self._settle(became)
            named = {key: became.get(key) for key in AUTOMATIC}
            return siren == self.siren and named == {k: getattr(self.config, k) for k in AUTOMATIC}
        return siren == self.siren

    def _settle(self, became: Mapping[str, Any]) -> None:
        """Fixes what "auto" became once for the whole directory."""
        chosen = {
            key: became[key]
            for key in AUTOMATIC
            if getattr(self.config, key) == AUTO
            if isinstance(became.get(key), str)
        }
        if chosen:
            self.config = replace(self.config, **chosen)

    def keep(self, jobs: Sequence[Job], results: Iterable[Outcome] | WorkLost) -> None:
        """Writes the files of fitted images, and lets the init learn from them.

        Raises:
            InputError: a file could not be written; the message says where its SIREN is instead.
        """
        ended = {job.name: job.finished for job in jobs if job.finished is not None}
        due = [job for job in jobs if job.finished is None]
        if isinstance(results, WorkLost):
            for job in due:
                self.fail(job.name, str(results))
            due = []
        else:
            ended |= self._write(due, results)
        if self.init.learn is not None:
            learned = [job for job in jobs if job.name in ended]
            fitted = [ended[job.name] for job in learned]
            self.init.learn([job.image for job in learned], fitted, self.config.seed)

    def _write(self, jobs: Sequence[Job], results: Iterable[Outcome]) -> dict[str, Params]:
        """Writes the SIREN of each image that has one to its file; returns them by name."""
        fitted: dict[str, Params] = {}
        lost: list[InputError] = []
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Unfitted):
                self.fail(job.name, result.reason)
                continue
            if isinstance(result, FitResult):
                self._settle(result.became)
            reason = why_none(result)
            if reason:
                self.fail(job.name, reason)
                continue
            height, width = job.shape
            shown = {"name": job.name, "height": height, "width": width}
            photo = {"photo_sha256": job.photo_sha256}
            facts = {
                **self.how,
                "images": [{**shown, "sha256": image_hash(job.image), **photo}],
                "source_sha256": job.source_sha256,
                **facts_of(result),
            }
            write = partial(save_result, params=result.params, facts=facts)
            try:
                write_or_spare(job.path, write, f"the SIREN of {shown_path(job.name)}")
            except InputError as error:  # the rest of the batch has been computed too: keep it
                lost.append(error)
                continue
            self.fitted += 1
            # A copy, so that the init does not learn from what the callback does to its result.
            fitted[job.name] = result.params.map(torch.clone) if self.init.learn else result.params
            self.on_fitted(job.name, result)
            if isinstance(result, TargetResult) and not result.reached:
                self.miss(job.name, result.mse)
        if lost:
            more = f"; {len(lost) - 1} more, in directories beside it" if len(lost) > 1 else ""
            raise InputError(f"{lost[0]}{more}")
        return fitted
