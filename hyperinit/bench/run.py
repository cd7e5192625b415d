"""A plan (track, inits, images, seeds, protocol) -> its records, in one file.

Every trial is recorded as soon as it ends, and a recorded trial is never run again, so an
interrupted plan continues where it stopped. Rungs run from the smallest budget up, so the records
can be scored at any time. A pair of an image and a seed that is below the last target needs no
larger budget, because its cost is known. Independent fits can run at the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import torch

from hyperinit.base.errors import InputError
from hyperinit.base.files import exclusive, shown_path, written_place
from hyperinit.bench.plan import Entry, Plan
from hyperinit.bench.trial import Trial
from hyperinit.bench.tuning import tune
from hyperinit.fitting.descent import FitResult
from hyperinit.fitting.fit import fit
from hyperinit.fitting.lr_range import lr_range_test
from hyperinit.images.save import webp
from hyperinit.record.protocol import TARGETS
from hyperinit.record.records import CurvePoint, Record, append_record, read_records
from hyperinit.record.thumbnails import SHOWN_EPOCHS, Thumbnails
from hyperinit.record.tracks import track_of
from hyperinit.score.groups import Choice, choice_at, select_choices
from hyperinit.siren.signals import preview
from hyperinit.spread.engines import Engine, WorkLost

TUNING_SEED = 1_000_000  # never a test seed

_logger = logging.getLogger("hyperinit")

OnEval = Callable[[Trial, CurvePoint], None]
_Fitted = tuple[Trial, Record, FitResult]


class RecordFile:
    """The records of a file; `run` adds those that are missing.

    Args:
        path: The file.
        thumbnails: Where pictures of the fits go. A trial whose picture is missing is fitted again
            for it; its record does not change.
        workers: Number of fits at a time. Each runs in a thread of this process, with as many torch
            threads as this one, so results do not depend on this number; seconds do.
        cluster: Runs the trials elsewhere, see `Engine`; `workers` is then how many it takes.

    Raises:
        InputError: the file exists but does not hold records of this protocol's version.
    """

    def __init__(
        self,
        path: str | Path,
        thumbnails: Thumbnails | None = None,
        workers: int = 1,
        cluster: Engine | None = None,
    ) -> None:
        self.path = Path(path)
        self.thumbnails = thumbnails
        self.workers = workers
        self.cluster = cluster
        found = read_records(path) if self.path.exists() else []
        self._records = {record.trial: record for record in found}

    @property
    def records(self) -> list[Record]:
        """All records, in order."""
        return list(self._records.values())

    def find(self, trial: Trial) -> Record | None:
        """The record of a trial; with any learning rate if the trial leaves it open."""
        key = trial.key
        if trial.lr is not None:
            return self._records.get(key)
        return next((r for k, r in self._records.items() if k[:-1] == key[:-1]), None)

    def run(self, trials: Iterable[Trial], on_eval: OnEval) -> Iterator[Record]:
        """The records of independent trials.

        Existing records come first; missing trials are run, and appended as they end.
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
        with self._fits(missing, on_eval) as fits:
            for trial, made, result in fits:
                if self.workers > 1:  # stated because seconds depend on it
                    made = replace(made, environment={**made.environment, "workers": self.workers})
                record = self.find(trial) or made
                if self.thumbnails is not None and self._lacks_picture(trial, record):
                    # Pictures first: a trial on record must have everything.
                    image = trial.image.image
                    start = preview(trial.start().params, image)
                    end = preview(result.params, image)
                    self._keep_pictures(record, webp(image), webp(start), webp(end))
                if record is made:
                    append_record(self.path, record)
                    self._records[record.trial] = record
                yield record

    @contextlib.contextmanager
    def _fits(self, trials: Sequence[Trial], on_eval: OnEval) -> Iterator[Iterator[_Fitted]]:
        """Runs trials: yields the trial with its rate, the record and the fit."""
        if self.cluster is not None:
            yield _fits_elsewhere(self.cluster, trials)
            return
        with _side_by_side(self.workers) as apply:
            yield apply(lambda trial: _fit(trial, on_eval), trials)

    def _keep_pictures(self, record: Record, *pictures: bytes) -> None:
        """Stores a fit's pictures. A record is complete without them: if they cannot be written,
        one warning says so, and no more are kept."""
        assert self.thumbnails is not None
        try:
            self.thumbnails.add(record, *pictures)
        except InputError as error:
            _logger.warning("no more pictures are kept: %s", error)
            self.thumbnails = None

    def _lacks_picture(self, trial: Trial, record: Record) -> bool:
        pictures = self.thumbnails
        return pictures is not None and _shown(trial) and not pictures.end(record)


def _shown(trial: Trial) -> bool:
    """Whether pictures of a trial are kept: one seed, few budgets."""
    shown = track_of(trial.track).along_curve or trial.budget_epochs in SHOWN_EPOCHS
    return shown and trial.seed == 0 and not trial.is_tuning


def _fits_elsewhere(cluster: Engine, trials: Sequence[Trial]) -> Iterator[_Fitted]:
    """Runs trials on a cluster, which gets all of them once, and then their indices.

    Raises:
        WorkLost: the workers of a trial died every time; existing records are kept.
    """
    work = partial(_fit_there, trials, cluster.device)
    for i, found in cluster.map(work, range(len(trials))):
        if isinstance(found, WorkLost):
            raise found
        record, result = found
        yield replace(trials[i], lr=record.lr), record, result


def _fit_there(trials: Sequence[Trial], device: str, i: int) -> tuple[Record, FitResult]:
    """Runs one of the trials; its record identifies the machine."""
    image = trials[i].image
    there = replace(trials[i], image=replace(image, image=image.image.to(device)))
    _, record, result = _fit(there, lambda trial, point: None)
    result = replace(result, params=result.params.map(lambda value: value.cpu()))
    # Tells machines apart without giving away their names.
    node = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
    machine = f"{record.environment['machine']}, node {node}"
    return replace(record, environment={**record.environment, "machine": machine}), result


def _fit(trial: Trial, on_eval: OnEval) -> _Fitted:
    """Runs a trial; if it leaves the rate open, an LR range test finds it first."""
    if trial.lr is None:
        params = trial.start().params
        lr = lr_range_test(params, trial.image.image, trial.fit_config).suggestion
        trial = replace(trial, lr=lr)
    return (trial, *trial.run(lambda point: on_eval(trial, point)))


@contextlib.contextmanager
def _side_by_side(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """A map that calls a function for several values at a time and yields results as they come."""
    if workers == 1:
        yield map
        return
    threads = torch.get_num_threads()
    # Threads, because then inits need not be picklable. Those of ThreadPool end with the process,
    # so Ctrl-C does not wait for fits.
    with ThreadPool(workers, torch.set_num_threads, (threads,)) as pool:
        yield pool.imap_unordered


@contextlib.contextmanager
def open_records(
    path: str | Path,
    thumbnails: Thumbnails | None = None,
    workers: int = 1,
    cluster: Engine | None = None,
) -> Iterator[RecordFile]:
    """A RecordFile that is locked against other processes.

    Raises:
        InputError: another process has locked it, the directory is missing, or see RecordFile.
    """
    try:
        place = written_place(path)  # for a link, the lock is that of its target
    except OSError as error:
        raise InputError(f"cannot write {shown_path(path)}: {error.strerror}") from error
    with exclusive(f"{place}.lock"):
        yield RecordFile(path, thumbnails, workers, cluster)


def run(
    plan: Plan, file: RecordFile, on_eval: OnEval = lambda trial, point: None
) -> Iterator[Record]:
    """Yields the record of every trial of a plan; runs those that are not in the file yet."""
    yield from (_run_curves if plan.row.along_curve else _run_ladder)(plan, file, on_eval)


def _run_ladder(plan: Plan, file: RecordFile, on_eval: OnEval) -> Iterator[Record]:
    tuning: list[Record] = []
    solved: set[tuple[str, tuple[str, int]]] = set()
    for budget in sorted(plan.protocol.budgets_epochs):
        if budget in plan.protocol.tuned_budgets:
            chosen = select_choices(tuning)
            for entry in plan.entries:
                before = choice_at(chosen, entry.label, budget)
                for record in _tune(plan, file, on_eval, entry, budget, before):
                    tuning.append(record)
                    yield record
        chosen = select_choices(tuning)
        trials = [
            plan.trial(
                entry,
                image,
                budget,
                choice and choice.lr,
                seed,
                chosen=dict(choice.others if choice else ()),
            )
            for entry, image, seed in itertools.product(
                plan.entries, plan.images, range(plan.seeds)
            )
            if (entry.label, (image.hash, seed)) not in solved
            for choice in [choice_at(chosen, entry.label, budget)]
        ]
        for record in file.run(trials, on_eval):
            if record.mse <= min(TARGETS):
                solved.add((record.label, record.pair))
            yield record


def _tune(
    plan: Plan,
    file: RecordFile,
    on_eval: OnEval,
    entry: Entry,
    budget: float,
    before: Choice | None,
) -> Iterator[Record]:
    def fits(lr: float, settings: Mapping[str, Any]) -> list[Record]:
        trials = [
            plan.trial(entry, image, budget, lr, TUNING_SEED, chosen=settings, is_tuning=True)
            for image in plan.tuning_images
        ]
        return list(file.run(trials, on_eval))

    yield from tune(plan, entry, before, fits)


def _run_curves(plan: Plan, file: RecordFile, on_eval: OnEval) -> Iterator[Record]:
    budget = max(plan.protocol.budgets_epochs)
    yield from file.run(
        [
            plan.trial(entry, image, budget, entry.lr or plan.row.lr, seed)
            for image, seed, entry in itertools.product(
                plan.images, range(plan.seeds), plan.entries
            )
        ],
        on_eval,
    )


def epoch_sec(plan: Plan, workers: int = 1) -> float:
    """Seconds per epoch of the plan's fit on this machine, from a few steps on its first image.

    With several workers, it is the time that an epoch adds to the whole.
    """
    pixels = plan.protocol.image_size**2
    whole = plan.trial(plan.entries[0], plan.images[0], plan.protocol.budgets_epochs[0], 1e-6, 0)
    budget = 4 * whole.fit_config.step_pixels(pixels) / pixels
    trial = replace(whole, budget_epochs=budget)
    params = trial.start().params

    def sec(_: int) -> float:
        return fit(params, plan.images[0].image, trial.fit_config).curve[-1].sec

    sec(0)  # warms up
    with _side_by_side(workers) as apply:
        secs: list[float] = list(apply(sec, range(workers)))
    return sum(secs) / workers / workers / budget


@dataclass(frozen=True)
class Check:
    """A stored trial and its repetition."""

    record: Record
    again: Record

    @property
    def difference(self) -> float:
        """The largest difference of an error or a cost on the curve, relative to the stored one.

        Infinite if one diverged where the other did not, if a stored number is 0 and the other is
        not, or if one curve has more points.
        """
        runs = self.record, self.again
        old, new = ([n for p in run.curve for n in (p.epochs, p.mse)] for run in runs)
        if len(old) != len(new):
            return inf
        return max(_apart(*numbers) for numbers in zip(old, new, strict=True))


def _apart(old: float, new: float) -> float:
    """The relative difference of two numbers."""
    if old == new:
        return 0.0
    return abs(new - old) / old if 0 < old < inf else inf


def verify(plan: Plan, file: RecordFile, count: int) -> Iterator[Check]:
    """Runs `count` stored trials again, spread evenly over the file; writes nothing.

    Raises:
        InputError: none of the file's trials belongs to this plan.
    """
    entries = {entry.label: entry for entry in plan.entries}
    images = {image.hash: image for image in (*plan.images, *plan.tuning_images)}
    known = []
    for record in file.records:
        entry, image = entries.get(record.label), images.get(record.image_hash)
        if entry is None or image is None:
            continue
        budget, lr, seed = record.budget_epochs, record.lr, record.seed
        chosen = dict(Choice.of(record).others)
        trial = plan.trial(
            entry, image, budget, lr, seed, chosen=chosen, is_tuning=record.is_tuning
        )
        if trial.key == record.trial:
            known.append((record, trial))
    if not known:
        raise InputError(f"{file.path}: has no trial of these inits, images and settings")
    count = min(count, len(known))
    for i in range(count):
        record, trial = known[i * len(known) // count]
        yield Check(record, trial.run()[0])
