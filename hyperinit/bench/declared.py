"""The plans that a benchmark declared before it ran, and the check that all their records exist.

A plan in a file has no pixels, only their hashes. That is enough to replay the benchmark on stored
records: `declared_records` runs the same code with stored records in place of fits, so there is
only one definition of a complete benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path, write_atomically
from hyperinit.base.settings import from_dict, to_dict
from hyperinit.bench.plan import Entry, Plan
from hyperinit.bench.run import OnEval, RecordFile, run
from hyperinit.bench.trial import Trial
from hyperinit.inits.rules import USUAL, Preference
from hyperinit.inits.start import Init
from hyperinit.photos.workload import NamedImage
from hyperinit.record.protocol import Protocol
from hyperinit.record.record import make_text, trial_key
from hyperinit.record.records import Record, beside

# Hashes of training images are cut to this length, because there may be a million. Even then, the
# chance that one of a hundred test images agrees with one by accident is below 1e-6.
HASH_CHARS = 12
MOST_EPOCHS = 1e6  # largest budget in a file, far beyond any use

Values = dict[str, Any]  # a plan as JSON-able data


def plans_path(records: str | Path) -> Path:
    """The path of the plans of a record file, beside it."""
    return beside(records, ".plans.json")


def declare(plan: Plan, records: str | Path) -> None:
    """Writes a plan beside the records that it will produce, unless it is there already.

    Raises:
        InputError: the file exists but is not a file of plans, or cannot be written.
    """
    path, values = plans_path(records), plan_values(plan)
    known = read_plans(records) if path.exists() else []
    if values not in known:
        text = json.dumps([*known, values], indent=1)
        write_atomically(path, text.encode() + b"\n")


def read_plans(records: str | Path) -> list[Values]:
    """The plans beside a record file.

    Raises:
        InputError: there are none, or the file is not a file of plans; the message says what to do.
    """
    path = plans_path(records)
    if not path.is_file():
        raise InputError(
            f"{shown_path(records)}: its plan {shown_path(path)} is missing; the command that made"
            " the records writes it again, without repeating any fit"
        )
    try:
        plans = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{shown_path(path)}: cannot be read ({error})") from error
    if not isinstance(plans, list) or not all(isinstance(one, dict) for one in plans):
        raise InputError(f"{shown_path(path)}: not a file of plans")
    return plans


def plan_values(plan: Plan) -> Values:
    """A plan as JSON-able data."""
    values = {
        "track": plan.track,
        "seeds": plan.seeds,
        "stop_mse": plan.stop_mse,
        "protocol": to_dict(plan.protocol),
        "entries": [
            {
                "init": entry.init.name,
                "facts": entry.init.facts,
                "prefers": asdict(entry.init.prefers),
                "changes": dict(entry.changes),
                "source_fit": dict(entry.source_fit),
                "train_hashes": sorted({h[:HASH_CHARS] for h in entry.init.train_hashes}),
            }
            for entry in plan.entries
        ],
        "images": list(map(_image_values, plan.images)),
        "tuning_images": list(map(_image_values, plan.tuning_images)),
    }
    plain: Values = json.loads(json.dumps(values))  # tuples become lists, as when it is read
    return plain


def declared_records(values: Values, records: Sequence[Record], source: str) -> list[Record]:
    """The records of everything that a plan declares, tuning runs included.

    Args:
        values: The plan.
        records: The records that exist; may include others.
        source: What error messages call the plan.

    Raises:
        InputError: the values are not a plan, a fit is missing, or an init is tested on an image
            that it was made from or that learning rates were chosen on.
    """
    plan = _plan(values, source)
    _check_unseen(plan, values, source)
    stored = _Stored(records, source, _unsaid(plan, values))
    fits = len(plan.entries) * len(plan.images) * plan.seeds
    if fits > len(records):  # checked before anything of that size is allocated
        raise InputError(f"{source}: {fits} fits are declared, only {len(records)} are there")
    return list(run(plan, stored))


class _Stored(RecordFile):
    """A record file that only finds stored records and runs no fits.

    Older plans do not state an init's preferences, which are among the settings of its records. For
    entries in `unsaid` that part of the settings is left open, as long as all records agree on it.
    """

    def __init__(self, records: Iterable[Record], source: str, unsaid: frozenset[str]) -> None:
        self.path, self.thumbnails, self.workers = Path(source), None, 1
        self._records = {record.trial: record for record in records}
        self._source, self._unsaid = source, unsaid
        self._open: dict[tuple[Any, ...], list[Record]] = {}
        for record in self._records.values() if unsaid else ():
            if record.label in unsaid:
                self._open.setdefault(_open_key(record), []).append(record)

    def find(self, trial: Trial) -> Record | None:
        """See RecordFile, and `unsaid`."""
        record = super().find(trial)
        if record is not None or trial.label not in self._unsaid:
            return record
        said = set(trial.fit_fields)
        own = [
            one
            for one in self._open.get(_open_key(trial), ())
            if trial.lr in (None, one.lr) and _preferred(one, said) == _preferred(trial, said)
        ]
        return own[0] if len({one.make for one in own}) == 1 else None

    def run(self, trials: Iterable[Trial], on_eval: OnEval) -> Iterator[Record]:
        """Like a RecordFile's, but refuses missing records."""
        for trial in trials:
            record = self.find(trial)
            if record is None:
                kind = "tuning image" if trial.is_tuning else "image"
                raise InputError(
                    f"{self._source}: init {trial.label}, {kind} {trial.image.name}, seed"
                    f" {trial.seed}, {trial.budget_epochs:g} epochs was declared and is missing;"
                    " run the same `hyperinit benchmark` command again"
                )
            if record.source_hash not in ("", trial.image.source_hash):  # "": an older record
                raise InputError(
                    f"{self._source}: {record.image} is another photograph in the plan than in"
                    " the records; give both files as the benchmark wrote them"
                )
            yield record


# The settings of records that come from an init's preferences.
_PREFERRED = frozenset(USUAL.fit_fields)


def _unsaid(plan: Plan, values: Values) -> frozenset[str]:
    """Labels of the entries whose preferences the plan does not state."""
    pairs = zip(plan.entries, values["entries"], strict=True)
    return frozenset(entry.label for entry, own in pairs if "prefers" not in own)


def _open_key(of: Record | Trial) -> tuple[Any, ...]:
    """The key of a trial without its rate and its init's preferences."""
    settings = {name: value for name, value in of.settings.items() if name not in _PREFERRED}
    version, track, label, _, *rest, _ = trial_key(of)
    return (version, track, label, make_text(of.init_facts, settings), *rest)


def _preferred(of: Record | Trial, said: Iterable[str]) -> list[Any]:
    """Settings that a preference may set, as far as the plan itself states them."""
    return [of.settings.get(name) for name in sorted(_PREFERRED.intersection(said))]


def _image_values(image: NamedImage) -> dict[str, str]:
    return {"name": image.name, "hash": image.hash, "source_hash": image.source_hash}


def _plan(values: Values, source: str) -> Plan:
    """A plan whose images have no pixels and whose inits cannot make a start."""
    try:
        protocol = from_dict(Protocol, values["protocol"], source="protocol")
        if max(protocol.budgets_epochs) > MOST_EPOCHS:
            raise ValueError(f"a budget above {MOST_EPOCHS:g} epochs")
        stop_mse = values["stop_mse"]
        return Plan(
            track=_text(values["track"]),
            entries=tuple(map(_entry, values["entries"])),
            images=tuple(map(_image, values["images"])),
            tuning_images=tuple(map(_image, values["tuning_images"])),
            seeds=int(values["seeds"]),
            protocol=protocol,
            stop_mse=None if stop_mse is None else float(stop_mse),
        )
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{source}: not the plan of a benchmark ({reason})") from error


def _entry(values: Values) -> Entry:
    prefers = Preference(**values.get("prefers", {}))
    facts = dict(values["facts"])
    init = Init(_text(values["init"]), _gives_nothing, facts=facts, prefers=prefers)
    return Entry(init, _fields(values["changes"]), _fields(values["source_fit"]))


def _gives_nothing(image: Any, seed: int) -> NoReturn:
    raise AssertionError("an init in a file has no code")


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of FitConfig, with lists turned back into tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _image(values: Mapping[str, Any]) -> NamedImage:
    name, own, photo = (_text(values[key]) for key in ("name", "hash", "source_hash"))
    return NamedImage(name, torch.empty(0), own, photo)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in the place of a text")
    return value


def _check_unseen(plan: Plan, values: Values, source: str) -> None:
    """The same check as in Plan, with hashes as they are in a file."""
    for entry, own in zip(plan.entries, values["entries"], strict=True):
        seen = own.get("train_hashes")
        if not isinstance(seen, list):
            raise InputError(f"{source}: init {entry.label} does not say its train_hashes")
        known = {str(one)[:HASH_CHARS] for one in seen}
        for image in plan.images:
            own_hashes = {image.hash[:HASH_CHARS], image.source_hash[:HASH_CHARS]} - {""}
            if own_hashes & known:
                raise InputError(
                    f"{source}: init {entry.label} was trained on the test image {image.name};"
                    " leave one of them out"
                )
