"""A plan (track, inits, images, seeds, protocol) -> its records, in one file.

Every trial is recorded as soon as it is over, and a trial that is on record is never run again, so
a plan that was interrupted goes on where it stopped. Rungs are worked off from the smallest budget
up: what is there can always be scored. A pair of an image and a seed that is below the last target
needs no larger budget: its cost is known. Fits that need nothing of each other can run at once.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import torch

from hyperinit.errors import InputError, unknown_name
from hyperinit.fit import CurvePoint, FitResult, fit, preview
from hyperinit.lr_range import lr_range_test
from hyperinit.protocol import TARGETS, Protocol, Record, append_record, read_records
from hyperinit.score import TUNING, lr_at, select_lrs
from hyperinit.store import exclusive
from hyperinit.thumbnails import Thumbnails
from hyperinit.trial import Init, NamedImage, Trial

# Track -> whether an init may change the fit.
TRACKS = {"tuned": False, "seed": True, "open": True, "frozen": True}

TUNING_SEED = 1_000_000  # no test seed

SEED_EVAL_EPOCHS = 10  # seed epochs between evaluations

OnEval = Callable[[Trial, CurvePoint], None]


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        track: One of TRACKS.
        inits: Compared with each other; names differ.
        images: Test images, at the protocol's size.
        tuning_images: For the choice of learning rates; none in the seed track.
        seeds: Test seeds 0 to seeds - 1.
        protocol: Everything the trials share.
        stop_mse: Seed track only, see FitConfig.
        seed_lr: Seed track only: the learning rate; None: an LR range test's for each init.

    Raises:
        InputError: the plan would measure something else than it says: a test image an init was
            made from, or that rates are tuned on; the tuned track with an init's own fit; ...
    """

    track: str
    inits: tuple[Init, ...]
    images: tuple[NamedImage, ...]
    tuning_images: tuple[NamedImage, ...]
    seeds: int
    protocol: Protocol
    stop_mse: float | None = None
    seed_lr: float | None = None

    def __post_init__(self) -> None:
        if self.track not in TRACKS:
            raise unknown_name("track", self.track, TRACKS)
        if self.seeds < 1:
            raise InputError(f"seeds must be at least 1, not {self.seeds}")
        _check_distinct("inits", [init.name for init in self.inits])
        _check_distinct("images", [image.hash for image in self.images])
        for init in self.inits:
            if init.fit and not TRACKS[self.track]:
                raise InputError(
                    f"the {self.track} track fits every init alike, {init.name} has"
                    f" {_shown(init.fit)}: use the open track"
                )
            for image in self.images:
                if {image.hash, image.source_hash} & init.train_hashes:
                    raise InputError(
                        f"init {init.name} was trained on the test image {image.name}:"
                        " leave one of them out"
                    )
        wanted = 0 if self.track == "seed" else self.protocol.lr_images
        if len(self.tuning_images) != wanted:
            raise InputError(
                f"learning rates are tuned on {wanted} images (lr_images), not"
                f" {len(self.tuning_images)}"
            )
        tested = {h: i.name for i in self.images for h in (i.hash, i.source_hash) if h}
        for image in self.tuning_images:
            same = tested.get(image.hash) or tested.get(image.source_hash)
            if same:
                raise InputError(f"tuning image {image.name} is the test image {same}")

    @property
    def total_epochs(self) -> float:
        """Pixel visits / pixels of all trials, at most."""
        tests = len(self.images) * self.seeds * sum(self.protocol.budgets_epochs)
        if self.track == "seed":
            return len(self.inits) * tests
        first, *rest = self.protocol.tuned_budgets
        rates = len(self.protocol.lrs)
        tuning = len(self.tuning_images) * (rates * first + min(rates, 3) * sum(rest))
        return len(self.inits) * (tests + tuning)

    def trial(
        self, init: Init, image: NamedImage, budget: float, lr: float | None, seed: int, track: str
    ) -> Trial:
        """One of the plan's trials."""
        if self.track == "seed":
            init = self._seed_init(init)
        return Trial(init, image, self.protocol, budget, lr, seed, track)

    def _seed_init(self, init: Init) -> Init:
        pixels = self.protocol.image_size**2
        batch_pixels = min(self.protocol.batch_pixels, pixels)
        every = SEED_EVAL_EPOCHS * ceil(pixels / batch_pixels) * batch_pixels / pixels
        count = int(max(self.protocol.budgets_epochs) / every)
        evals = tuple(every * (k + 1) for k in range(count))
        return replace(init, fit={**init.fit, "eval_epochs": evals, "stop_mse": self.stop_mse})


def _shown(options: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


def _check_distinct(what: str, names: Sequence[str]) -> None:
    if not names:
        raise InputError(f"no {what} to measure")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two {what} are the same: {name}")


def with_fit(init: Init, options: Mapping[str, Any]) -> Init:
    """The same start with another fit, and a name that says so."""
    if not options:
        return init
    return replace(init, name=f"{init.name} {_shown(options)}", fit={**init.fit, **options})


def frozen_variants(init: Init, depth: int) -> list[Init]:
    """An init with no layer frozen, each alone, the first two, and all but the output layer."""
    sets = [(), *((layer,) for layer in range(depth + 1)), (0, 1), tuple(range(depth))]
    variants = []
    for layers in dict.fromkeys(sets):
        name = f"{init.name} frozen {','.join(map(str, layers))}" if layers else init.name
        variants.append(replace(init, name=name, fit={**init.fit, "frozen_layers": layers}))
    return variants


class RecordFile:
    """The records of a file, to which `run` adds what it does not find there.

    Args:
        path: Of the file.
        thumbnails: Where pictures of the fits go; a trial whose picture is missing there is fitted
            again for it, its record is left alone.
        workers: Fits at a time. Each is one thread of this process and computes with as many
            threads as this one, so that results do not depend on it; seconds do.

    Raises:
        InputError: the file is there but is not one of records of this protocol's version.
    """

    def __init__(
        self, path: str | Path, thumbnails: Thumbnails | None = None, workers: int = 1
    ) -> None:
        self.path = Path(path)
        self.thumbnails = thumbnails
        self.workers = workers
        found = read_records(path) if self.path.exists() else []
        self._records = {record.trial: record for record in found}

    @property
    def records(self) -> list[Record]:
        """All of them, in order."""
        return list(self._records.values())

    def find(self, trial: Trial) -> Record | None:
        """The record of a trial; with any rate if the trial leaves it open."""
        key = trial.key
        if trial.lr is not None:
            return self._records.get(key)
        return next((r for k, r in self._records.items() if k[:-1] == key[:-1]), None)

    def run(self, trials: Iterable[Trial], on_eval: OnEval) -> Iterator[Record]:
        """The records of trials that need nothing of each other.

        Those that are there come first; what is missing is run, and appended as it ends.
        """
        missing = []
        for trial in trials:
            record = self.find(trial)
            if record is None:
                missing.append(trial)
            elif self._lacks_picture(trial, record):
                missing.append(replace(trial, lr=record.lr))
            else:
                yield record
        with _side_by_side(self.workers) as apply:
            for trial, made, result in apply(lambda trial: _fit(trial, on_eval), missing):
                if self.workers > 1:  # seconds depend on it
                    made = replace(made, environment={**made.environment, "workers": self.workers})
                record = self.find(trial) or made
                if self.thumbnails is not None and self._lacks_picture(trial, record):
                    # First: where a trial is on record, nothing of it is missing.
                    image = trial.image.image
                    start = preview(trial.start()[0], image)
                    self.thumbnails.add(record, image, start, preview(result.params, image))
                if record is made:
                    append_record(self.path, record)
                    self._records[record.trial] = record
                yield record

    def _lacks_picture(self, trial: Trial, record: Record) -> bool:
        pictures = self.thumbnails
        return pictures is not None and pictures.wanted(trial) and not pictures.end(record)


def _fit(trial: Trial, on_eval: OnEval) -> tuple[Trial, Record, FitResult]:
    """Runs a trial; a rate that it leaves open is first found by an LR range test."""
    if trial.lr is None:
        params, _ = trial.start()
        lr = lr_range_test(params, trial.image.image, trial.fit_config).suggestion
        trial = replace(trial, lr=lr)
    return (trial, *trial.run(lambda point: on_eval(trial, point)))


@contextlib.contextmanager
def _side_by_side(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """A map that calls a function for several values at a time and gives results as they come."""
    if workers == 1:
        yield map
        return
    threads = torch.get_num_threads()
    # Threads, as nothing of an init needs to be picklable then; those of ThreadPool end with the
    # process, so that Ctrl-C does not wait for fits.
    with ThreadPool(workers, torch.set_num_threads, (threads,)) as pool:
        yield pool.imap_unordered


@contextlib.contextmanager
def open_records(
    path: str | Path, thumbnails: Thumbnails | None = None, workers: int = 1
) -> Iterator[RecordFile]:
    """A RecordFile that no other process writes to in the meantime.

    Raises:
        InputError: another process does, or see RecordFile, or the directory is not there.
    """
    with exclusive(f"{path}.lock"):
        yield RecordFile(path, thumbnails, workers)


def run(
    plan: Plan, file: RecordFile, on_eval: OnEval = lambda trial, point: None
) -> Iterator[Record]:
    """Yields the record of every trial of a plan, running those that are not in the file yet."""
    yield from (_run_seed if plan.track == "seed" else _run_ladder)(plan, file, on_eval)


def _run_ladder(plan: Plan, file: RecordFile, on_eval: OnEval) -> Iterator[Record]:
    tuning: list[Record] = []
    solved: set[tuple[str, str, int]] = set()
    for budget in sorted(plan.protocol.budgets_epochs):
        if budget in plan.protocol.tuned_budgets:
            chosen = select_lrs(tuning)
            for init in plan.inits:
                before = lr_at(chosen, init.name, budget)
                for record in _tune(plan, file, on_eval, init, budget, before):
                    tuning.append(record)
                    yield record
        chosen = select_lrs(tuning)
        lrs = {init.name: lr_at(chosen, init.name, budget) for init in plan.inits}
        trials = [
            plan.trial(init, image, budget, lrs[init.name], seed, plan.track)
            for init, image, seed in itertools.product(plan.inits, plan.images, range(plan.seeds))
            if (init.name, image.hash, seed) not in solved
        ]
        for record in file.run(trials, on_eval):
            if record.mse <= min(TARGETS):
                solved.add((record.init, record.image_hash, record.seed))
            yield record


def _tune(
    plan: Plan, file: RecordFile, on_eval: OnEval, init: Init, budget: float, before: float | None
) -> Iterator[Record]:
    """Fits of the tuning images at the rates that may be best on this rung.

    The best rate changes little from one budget to the next, so only the one that was best on the
    rung before and its neighbours in the grid are tried; and none above one that diverged.
    """
    lrs = sorted(plan.protocol.lrs)
    if before is not None:
        at = lrs.index(before)
        lrs = lrs[max(at - 1, 0) : at + 2]
    for lr in lrs:
        track = plan.track + TUNING
        trials = [
            plan.trial(init, image, budget, lr, TUNING_SEED, track) for image in plan.tuning_images
        ]
        records = list(file.run(trials, on_eval))
        yield from records
        if any(record.diverged for record in records):
            return


def _run_seed(plan: Plan, file: RecordFile, on_eval: OnEval) -> Iterator[Record]:
    budget = max(plan.protocol.budgets_epochs)
    yield from file.run(
        [
            plan.trial(init, image, budget, plan.seed_lr, seed, plan.track)
            for image, seed, init in itertools.product(plan.images, range(plan.seeds), plan.inits)
        ],
        on_eval,
    )


def epoch_sec(plan: Plan, workers: int = 1) -> float:
    """Seconds that one epoch of the plan's fit takes here, from a few steps on its first image.

    With several workers, what an epoch adds to the time until all are done.
    """
    pixels = plan.protocol.image_size**2
    budget = 4 * min(plan.protocol.batch_pixels, pixels) / pixels
    trial = plan.trial(plan.inits[0], plan.images[0], budget, 1e-6, 0, plan.track)
    params, _ = trial.start()

    def sec(_: int) -> float:
        return fit(params, plan.images[0].image, trial.fit_config).curve[-1].sec

    sec(0)  # warms up
    with _side_by_side(workers) as apply:
        secs: list[float] = list(apply(sec, range(workers)))
    return sum(secs) / workers / workers / budget


@dataclass(frozen=True)
class Check:
    """A stored trial that was run again."""

    record: Record
    again: Record

    @property
    def difference(self) -> float:
        """Of the final errors, relative to the stored one; 0 if both diverged."""
        old, new = self.record.mse, self.again.mse
        return 0.0 if old == new else abs(new - old) / old


def verify(plan: Plan, file: RecordFile, count: int) -> Iterator[Check]:
    """Runs `count` stored trials again, spread evenly over the file; nothing is written.

    Raises:
        InputError: none of the file's trials is one of this plan's.
    """
    inits = {init.name: init for init in plan.inits}
    images = {image.hash: image for image in (*plan.images, *plan.tuning_images)}
    known = []
    for record in file.records:
        init, image = inits.get(record.init), images.get(record.image_hash)
        if init is None or image is None:
            continue
        trial = plan.trial(init, image, record.budget_epochs, record.lr, record.seed, record.track)
        if trial.key == record.trial:
            known.append((record, trial))
    if not known:
        raise InputError(f"{file.path}: has no trial of these inits, images and settings")
    count = min(count, len(known))
    for i in range(count):
        record, trial = known[i * len(known) // count]
        yield Check(record, trial.run()[0])
