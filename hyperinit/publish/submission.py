"""Records and their plans -> one checked file for a pull request, and back.

The file is a record file with a first line about the records: who measured them, with which code,
on what machine and images, and the plans. The same records give the same bytes, and a file is
accepted only if packing its content gives the same file again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from hyperinit.base.errors import InputError, check_memory
from hyperinit.base.files import shown_path
from hyperinit.bench.declared import Values, declared_records, read_plans
from hyperinit.record.check import no_constant, no_key_twice
from hyperinit.record.record import Record
from hyperinit.record.records import MAX_LINE_BYTES, is_submission, read_records, to_line
from hyperinit.score.places import SECONDS_DEPEND_ON, places, shown_place

FORMAT = 1
BY_CHARS = 80
_NO_CODE = hashlib.sha256(b"").hexdigest()  # for an init in a module that has no file


@dataclass(frozen=True)
class Submission:
    """A checked submission; see `checked`.

    Attributes:
        by: Who measured it.
        plans: The declared plans.
        records: Records of everything that was declared, sorted by trial.
    """

    by: str
    plans: Sequence[Values]
    records: Sequence[Record]

    @property
    def about(self) -> dict[str, Any]:
        """The first line of its file; everything except `by` and `plans` comes from the records."""
        tests = [record for record in self.records if not record.is_tuning]
        tuning = [record for record in self.records if record.is_tuning]
        return {
            "submission": FORMAT,
            "by": self.by,
            "records": len(self.records),
            "sha256": hashlib.sha256(self._lines).hexdigest(),
            "versions": sorted({record.version for record in self.records}),
            "tracks": sorted({record.track for record in self.records}),
            "places": list(map(shown_place, places(tests))),
            "inits": {
                label: sorted({_code(record) for record in tests if record.label == label})
                for label in sorted({record.label for record in tests})
            },
            "images": _images(tests),
            "tuning_images": _images(tuning),
            "plans": list(self.plans),
        }

    @property
    def _lines(self) -> bytes:
        """The records in a canonical form, whatever file they come from."""
        values = [json.loads(to_line(record)) for record in self.records]
        return "".join(f"{json.dumps(one, sort_keys=True)}\n" for one in values).encode()

    @property
    def content(self) -> bytes:
        """The content of its file."""
        return json.dumps(self.about).encode() + b"\n" + self._lines


def submission_of(paths: Sequence[Path], by: str) -> Submission:
    """Makes a submission from record files with plans beside them.

    Raises:
        InputError: see `checked`, or a file is missing or not a record file.
    """
    plans = [plan for path in paths for plan in read_plans(path)]
    distinct = list({json.dumps(plan, sort_keys=True): plan for plan in plans}.values())
    source = ", ".join(map(shown_path, paths))
    return checked(by, distinct, read_records(paths), source)


def read_submission(path: Path) -> Submission | None:
    """The submission in a file; None if it is a plain file of records.

    Raises:
        InputError: it is damaged, was changed, or is not valid; see `checked`.
    """
    source = shown_path(path)
    if not is_submission(path):
        return None
    try:
        with path.open("rb") as file:
            # The content, the records, and the content made from these again.
            check_memory(3.0 * os.fstat(file.fileno()).st_size, source, "split it into several")
            content = file.read()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error})") from error
    try:
        line = content[: content.index(b"\n", 0, MAX_LINE_BYTES)]
        about = json.loads(line, object_pairs_hook=no_key_twice, parse_constant=no_constant)
        by, plans, version = about["by"], about["plans"], about["submission"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{source}: its first line is damaged; pack it again") from error
    if version != FORMAT:
        raise InputError(f"{source}: a submission of format {version!r}; expected {FORMAT}")
    if not isinstance(plans, list) or not all(isinstance(plan, dict) for plan in plans):
        raise InputError(f"{source}: its first line has no plans; pack it again")
    found = checked(by, plans, read_records(path), source)
    if found.content != content:
        raise InputError(
            f"{source}: was changed after it was packed: its first line and its records disagree"
        )
    return found


def checked(by: Any, plans: Sequence[Values], records: Sequence[Record], source: str) -> Submission:
    """A submission of everything that the plans declare, after checks.

    Args:
        by: Who measured it.
        plans: What was declared.
        records: The existing records; those that no plan declares are left out.
        source: What error messages call it.

    Raises:
        InputError: a declared fit is missing, an init is tested on an image that it was made from
            or that rates were chosen on, a number is not finite, test runs are from several
            machines or do not state theirs, or an init has no code; the message says which.
    """
    if not isinstance(by, str) or not 0 < len(by) <= BY_CHARS or not by.isprintable():
        raise InputError(
            f"{source}: the submitter (--by) must be one line of 1 to {BY_CHARS} characters"
        )
    if not plans:
        raise InputError(f"{source}: declares nothing")
    declared = {
        record.trial: record for plan in plans for record in declared_records(plan, records, source)
    }
    found = [declared[trial] for trial in sorted(declared)]
    for record in found:
        _check_numbers(record, source)
        if _code(record) == _NO_CODE:
            raise InputError(
                f"{source}: init {record.label} has no code: its function must be in a file"
            )
    _check_one_place([record for record in found if not record.is_tuning], source)
    return Submission(by, tuple(plans), tuple(found))


def _check_numbers(record: Record, source: str) -> None:
    """Only a fit that diverged may have an infinite error, and only at its end."""
    curve = record.curve[:-1] if record.diverged else record.curve
    for point in curve:
        trained = point.steps == 0 or isfinite(point.train_mse)
        if not (isfinite(point.mse) and isfinite(point.psnr) and trained):
            raise InputError(
                f"{source}: init {record.label}, {record.image}, seed {record.seed},"
                f" {record.budget_epochs:g} epochs has no finite error after {point.steps} steps,"
                " and does not say that it diverged"
            )


def _check_one_place(tests: Iterable[Record], source: str) -> None:
    found = places(tests)
    if len(found) > 1:
        shown = "; ".join(map(shown_place, found[:3]))
        raise InputError(
            f"{source}: seconds of {len(found)} places are not comparable ({shown}): measure all of"
            " it again on one machine with the same settings, into another file"
        )
    if found[0][SECONDS_DEPEND_ON.index("machine")] == "None":
        raise InputError(
            f"{source}: the records do not state the machine they were measured on: measure them"
            " again with this version, into another file"
        )


def _code(record: Record) -> str:
    """The SHA-256 of an init's code or tensors; for one of the package's, its version."""
    sha256 = record.init_facts.get("sha256")
    if isinstance(sha256, str):
        return sha256
    commit, version = (record.environment.get(name) for name in ("commit", "hyperinit"))
    return f"hyperinit {version}, commit {commit}" if commit else f"hyperinit {version}"


def _images(records: Iterable[Record]) -> dict[str, str]:
    """Hash -> name."""
    return dict(sorted({record.image_hash: record.image for record in records}.items()))
