"""Records -> groups that may be compared, the choice of rates, and the ladders of runs.

A group has one track, one protocol version and one workload. Within it, every entry has one name
and one make, and every pair of an image and a seed has one ladder of runs at the rates chosen for
it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, NamedTuple, TypeVar

from hyperinit.base.errors import InputError
from hyperinit.record.protocol import CHOSEN_SETTINGS, usual_settings
from hyperinit.record.records import Record
from hyperinit.record.tracks import TRACKS, Track, track_of
from hyperinit.score.costs import Pair, geometric_mean

Ladder = dict[float, Record]  # budget -> record, ascending
Name = Callable[[Record], str]


@dataclass(frozen=True)
class Workload:
    """What all records of a group have in common.

    Attributes:
        track: The track's row in the table.
        version: The protocol's version.
        image_size: Side in pixels.
        depth, width: Depth and width of the SIREN.
        text: All that in words; in the tuned track, where every init is fitted alike, also the
            settings that are not the usual ones.
    """

    track: Track
    version: int
    image_size: int
    depth: int
    width: int
    text: str

    def __str__(self) -> str:
        return f"{self.track.name} track, {self.text}"

    @property
    def order(self) -> tuple[Any, ...]:
        """The sort key of its section in a report."""
        names = list(TRACKS)
        place = names.index(self.track.name) if self.track.name in names else len(names)
        sizes = (-self.image_size, -self.width, -self.depth)
        return place, self.track.name, *sizes, -self.version, self.text


@dataclass(frozen=True, eq=False)
class Group:
    """Records that may be compared.

    Attributes:
        workload: What they have in common.
        records: All records.
    """

    workload: Workload
    records: list[Record] = field(default_factory=list)

    @property
    def tests(self) -> list[Record]:
        """The records without those that only serve to choose a rate."""
        return [record for record in self.records if not record.is_tuning]

    @property
    def tuning(self) -> list[Record]:
        """The records that only serve to choose a rate."""
        return [record for record in self.records if record.is_tuning]

    @property
    def images(self) -> int:
        """Number of test images."""
        return len({record.image_hash for record in self.tests})

    @property
    def photographs(self) -> int:
        """Number of photographs that these show, as far as records say."""
        known = {run.image_hash: run.source_hash for run in self.tests if run.source_hash}
        return len({known.get(run.image_hash, run.image_hash) for run in self.tests})

    @property
    def tuned_on(self) -> int:
        """Number of images on which rates were chosen, other than test images."""
        tests = {record.image_hash for record in self.tests}
        return len({record.image_hash for record in self.records} - tests)


def groups(records: Iterable[Record]) -> list[Group]:
    """Splits records into groups, in the order of their first records.

    Raises:
        InputError: a record does not say the size of its image or its SIREN.
    """
    found: dict[Workload, Group] = {}
    for record in records:
        workload = _workload(record)
        found.setdefault(workload, Group(workload)).records.append(record)
    return list(found.values())


def _workload(record: Record) -> Workload:
    settings = dict(record.settings)
    try:
        size, width, depth = (settings.pop(k) for k in ("image_size", "width", "depth"))
    except KeyError as error:
        raise InputError(f"a record of init {record.init} has no {error} in its settings") from None
    track = track_of(record.track)
    text = f"{size} x {size} pixels, SIREN {depth} x {width}"
    usual = usual_settings(record.version)
    chosen = CHOSEN_SETTINGS[record.version]
    for name, value in sorted(settings.items()) if track.whole_settings else ():
        if value not in (None, [], ()) and value != usual.get(name) and name not in chosen:
            text += f", {name} {value}"
    return Workload(track, record.version, size, depth, width, text)


# Names


def name_entries(records: Iterable[Record], *, strict: bool) -> tuple[Name, list[str]]:
    """The name of every record's entry, and notes on names that had to be told apart.

    Args:
        records: The records of one group.
        strict: Refuse test runs of several makes under one label. Otherwise the make with the most
            test runs keeps the label, and the others get a digest after it.

    Raises:
        InputError: see `strict`.
    """
    counts: dict[str, Counter[str]] = {}
    for record in records:
        counts.setdefault(record.label, Counter())[_make(record)] += not record.is_tuning
    names, notes = {}, []
    for label, makes in counts.items():
        tested = [make for make in makes if makes[make]]
        if len(tested) > 1 and strict:
            raise InputError(
                f"init {label}: the records are of different inits or settings with that name;"
                " score them apart, name them apart, or let `hyperinit report` tell them apart"
            )
        first = min(makes, key=lambda make: (-makes[make], make))
        for make in makes:
            names[label, make] = label
            if make != first and not strict:
                digest = hashlib.sha256(make.encode()).hexdigest()[:6]
                names[label, make] = f"{label} ({digest})"
        others = [names[label, make] for make in tested if make != first]
        if others:
            notes.append(
                f"The name {label} stands for {len(tested)} different inits or settings here;"
                f" {', '.join(sorted(others))} {'is' if len(others) == 1 else 'are'} not {label}."
            )
    return lambda record: names[record.label, _make(record)], notes


def _make(record: Record) -> str:
    """What a label stands for, without the settings that are chosen for every budget."""
    chosen = CHOSEN_SETTINGS[record.version]
    if not chosen:
        return record.make
    settings = {name: value for name, value in record.settings.items() if name not in chosen}
    return json.dumps([record.init_facts, settings], sort_keys=True)


def _label(record: Record) -> str:
    return record.label


# Rates


# Values that need not be mentioned.
_USUAL = {"rising_rates": True, "warmup_steps": 0, "rising_units": False}


class Choice(NamedTuple):
    """The choice for an init and a budget: the rate, and other settings that the protocol tunes."""

    lr: float
    others: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, record: Record) -> Choice:
        """The choice that a record declared."""
        unsaid = CHOSEN_SETTINGS[record.version]
        return cls(
            record.lr,
            tuple((name, record.settings.get(name, value)) for name, value in unsaid.items()),
        )

    def __str__(self) -> str:
        others = (f"{name} {value}" for name, value in self.others if value != _USUAL.get(name))
        return ", ".join([f"{self.lr:g}", *others])


TUNING, THESE = "tuning images", "these very images"  # where rates are chosen

T = TypeVar("T")  # what is known about a rung


def select_choices(
    records: Iterable[Record],
    average: Callable[[Iterable[float]], float] = geometric_mean,
    name: Name = _label,
) -> dict[tuple[str, float], Choice]:
    """(name, budget) -> the choice with the lowest average final error; see `rank_choices`."""
    ranked = rank_choices(records, average, name)
    return {key: best for key, (best, *_) in ranked.items()}


def rank_choices(
    records: Iterable[Record],
    average: Callable[[Iterable[float]], float] = geometric_mean,
    name: Name = _label,
) -> dict[tuple[str, float], list[Choice]]:
    """(name, budget) -> the choices that were tried, by average final error, lowest first.

    The average, by default a geometric mean, is over all pairs on which any choice was tried. A run
    that diverged or was not made counts as infinite. If every choice has such runs, the one with
    the fewest comes first.
    """
    errors: dict[tuple[str, float], dict[Choice, dict[Pair, float]]] = {}
    for record in records:
        by_choice = errors.setdefault((name(record), record.budget_epochs), {})
        by_choice.setdefault(Choice.of(record), {})[record.pair] = record.mse
    ranked = {}
    for key, by_choice in errors.items():
        pairs = {pair for found in by_choice.values() for pair in found}

        def rank(choice: Choice, by_choice: Any = by_choice, n: int = len(pairs)) -> Any:
            finite = [error for error in by_choice[choice].values() if isfinite(error)]
            return n - len(finite), average(finite) if finite else inf, choice

        ranked[key] = sorted(by_choice, key=rank)
    return ranked


def choice_at(choices: Mapping[tuple[str, float], T], name: str, budget: float) -> T | None:
    """The choice, or the ranking, for a rung: that of the largest tuned rung not above it."""
    tuned = [rung for known, rung in choices if known == name and rung <= budget]
    return choices[name, max(tuned)] if tuned else None


def choose_ladders(
    group: Group, name: Name, *, tune_on_test: bool, strict: bool
) -> tuple[dict[str, dict[Pair, Ladder]], dict[str, str], list[str]]:
    """Name -> pair -> its runs at the chosen settings; name -> where they were chosen; and notes.

    They were chosen on `TUNING` images, on `THESE` very ones, or "" if there was nothing to choose:
    every pair has one run per rung, and there are no tuning runs.

    Args:
        name: See `name_entries`.
        tune_on_test: Choose on the test runs themselves if there are no tuning runs.
        strict: Refuse runs of one pair at several rates without tuning runs to choose by, unless
            `tune_on_test`. Otherwise choose on the test runs of such entries, with a note.

    Raises:
        InputError: see `strict`.
    """
    ranked = rank_choices(group.tuning, name=name)
    tuned = {known for known, _ in ranked}
    found: dict[str, dict[Pair, dict[float, list[Record]]]] = {}
    for record in group.tests:
        rungs = found.setdefault(name(record), {}).setdefault(record.pair, {})
        rungs.setdefault(record.budget_epochs, []).append(record)
    several = {
        entry: runs
        for entry, pairs in found.items()
        if entry not in tuned
        for runs in (runs for rungs in pairs.values() for runs in rungs.values())
        if len(runs) > 1
    }
    if several and strict and not tune_on_test:
        entry, runs = next(iter(several.items()))
        raise InputError(
            f"init {entry} has runs at several learning rates on {runs[0].image} and no"
            " tuning runs to choose by; --tune-on-test chooses on these very images"
        )
    notes = []
    own = [record for record in group.tests if name(record) in several]
    ranked |= rank_choices(own, name=name)
    if several and not tune_on_test:
        notes.append(
            "There are no tuning runs of "
            + ", ".join(several)
            + ": each budget has the learning rate that is best on these very images, which"
            " favours these inits."
        )
    ladders, more = _ladders(found, ranked)
    on = {entry: TUNING if entry in tuned else THESE if entry in several else "" for entry in found}
    return ladders, on, [*notes, *more]


def _ladders(
    found: Mapping[str, Mapping[Pair, Mapping[float, list[Record]]]],
    ranked: Mapping[tuple[str, float], Sequence[Choice]],
) -> tuple[dict[str, dict[Pair, Ladder]], list[str]]:
    """Name -> pair -> its runs at the chosen settings; and a note if those were not run."""
    ladders: dict[str, dict[Pair, Ladder]] = {}
    second_best = set()
    for entry, pairs in found.items():
        for pair, rungs in pairs.items():
            for budget in sorted(rungs):
                best_first = choice_at(ranked, entry, budget) or []
                run = _as_chosen(rungs[budget], best_first)
                ladders.setdefault(entry, {}).setdefault(pair, {})[budget] = run
                if len(rungs[budget]) > 1 and Choice.of(run) not in best_first[:1]:
                    second_best.add(entry)
    notes = [
        f"Fits of {', '.join(sorted(second_best))} are on record at several learning rates, none of"
        " which is the best on all tuning images together. The best of them counts."
    ]
    return ladders, notes if second_best else []


def _as_chosen(runs: list[Record], best_first: Sequence[Choice]) -> Record:
    """The run that counts: a single run, or of several the one whose choice ranks first.

    If rates were chosen at several times on different images, all of them may differ from the one
    that is best on all images together; the pair was run nevertheless.
    """
    place = {choice: i for i, choice in enumerate(best_first)}
    return min(runs, key=lambda run: (place.get(Choice.of(run), len(place)), Choice.of(run)))
