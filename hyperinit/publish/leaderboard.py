"""Submissions and record files -> one page and one document, with the rules beside the results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperinit.base.errors import InputError
from hyperinit.base.files import make_directory, shown_path, write_atomically
from hyperinit.publish.rules import RULES, rules_markdown
from hyperinit.publish.submission import read_submission
from hyperinit.record.records import Record, first_of_each, read_records
from hyperinit.record.thumbnails import Thumbnails, folder_of
from hyperinit.report.names import markdown_cell
from hyperinit.report.page import ENTRANTS_HEADER, page
from hyperinit.report.tables import csv_text, markdown, markdown_table
from hyperinit.score.beside import related_scores
from hyperinit.score.places import places, shown_place
from hyperinit.score.score import GroupScore

NOT_SUBMITTED = "records without a plan: not checked"


@dataclass(frozen=True)
class Entrant:
    """A file on the leaderboard.

    Attributes:
        file: Its name.
        by: Who measured it.
        records: Its records.
    """

    file: str
    by: str
    records: Sequence[Record]

    @property
    def row(self) -> list[str]:
        """Cells for ENTRANTS_HEADER, as text."""
        tests = [record for record in self.records if not record.is_tuning]
        inits = sorted({record.label for record in tests})
        images = {record.image_hash for record in tests}
        where = "; ".join(map(shown_place, places(tests)))
        return [self.file, self.by, ", ".join(inits), where, str(len(images)), str(len(tests))]


def read_entrants(paths: Iterable[Path]) -> list[Entrant]:
    """Reads submissions, which are checked again, and plain record files.

    Raises:
        InputError: a file is neither, or a submission is not valid.
    """
    found = []
    for path in paths:
        if not path.is_file():
            raise InputError(f"{shown_path(path)}: no such file")
        submission = read_submission(path)
        if submission is None:
            found.append(Entrant(path.name, NOT_SUBMITTED, read_records(path)))
        else:
            found.append(Entrant(path.name, submission.by, submission.records))
    return found


def merged_scores(entrants: Iterable[Entrant], reference: str | None = None) -> list[GroupScore]:
    """The scores of all records together; if several files have a trial, the first one counts.

    Raises:
        InputError: the reference init does not exist.
    """
    records = first_of_each(record for one in entrants for record in one.records)
    return related_scores(records, reference, strict=False)


def leaderboard_markdown(scores: Sequence[GroupScore], entrants: Sequence[Entrant]) -> str:
    """The leaderboard as a Markdown document."""
    rows = [list(map(markdown_cell, one.row)) for one in entrants]
    submissions = markdown_table(ENTRANTS_HEADER, rows, numbers=False)
    rules = rules_markdown()
    return (
        f"# Leaderboard\n\n{markdown(scores)}\n## Rules\n\n{rules}\n## Submissions\n\n{submissions}"
    )


def write_leaderboard(paths: Sequence[Path], out: Path, reference: str | None = None) -> int:
    """Writes index.html, leaderboard.md and leaderboard.csv; returns the number of records.

    Raises:
        InputError: a file cannot be read or is not valid, there are no test runs, or the directory
            cannot be written; then nothing is written.
    """
    entrants = read_entrants(paths)
    scores = merged_scores(entrants, reference)
    html = page(
        scores,
        thumbnails=Thumbnails([folder_of(path) for path in paths]),
        sources=paths,
        rules=RULES,
        entrants=[one.row for one in entrants],
    )
    text = leaderboard_markdown(scores, entrants)
    make_directory(out)
    write_atomically(out / "index.html", html.encode())
    write_atomically(out / "leaderboard.md", text.encode(errors="replace"))
    write_atomically(out / "leaderboard.csv", csv_text(scores).encode(errors="replace"))
    return sum(len(found.group.records) for found in scores)
