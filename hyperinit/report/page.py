"""Scores and thumbnails -> one HTML file that needs neither a network nor any other file.

Its Content-Security-Policy forbids every request, and every script but its own, so even a name that
slipped through unescaped could do neither. The same records give the same page, byte for byte.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hyperinit.base.errors import InputError
from hyperinit.record.protocol import CHOSEN_SETTINGS, TARGETS, Protocol
from hyperinit.record.records import Record
from hyperinit.record.thumbnails import Thumbnails
from hyperinit.report.headline import MEANINGS, shown_workload
from hyperinit.report.names import shown, templates
from hyperinit.report.sections import Pictures, View, section
from hyperinit.report.svg import DARK, LIGHT, STYLE, STYLES
from hyperinit.score.places import places
from hyperinit.score.score import GroupScore

FACTS_CHARS = 600  # most characters of an init's facts
LISTED = 20  # most listed values of a setting
ENTRANTS_HEADER = ("file", "by", "inits", "measured on", "test images", "test fits")


def with_tests(scores: Iterable[GroupScore]) -> list[GroupScore]:
    """The groups that a report shows, in the order of its sections.

    Raises:
        InputError: no group has test runs.
    """
    found = sorted((s for s in scores if s.inits), key=lambda s: s.group.workload.order)
    if not found:
        raise InputError("no records of test runs")
    return found


def page(
    scores: Iterable[GroupScore],
    *,
    thumbnails: Thumbnails | None = None,
    sources: Sequence[Path] = (),
    rules: Mapping[str, str] = MappingProxyType({}),
    entrants: Sequence[Sequence[str]] = (),
) -> str:
    """The page, as the text of a file index.html.

    Args:
        scores: Scores of all groups.
        thumbnails: Pictures of the fits; missing ones are left out.
        sources: The record files, which the page names with their digests.
        rules: Title -> text, for a leaderboard.
        entrants: Rows under ENTRANTS_HEADER: the entries of a leaderboard.

    Raises:
        InputError: there are no test runs.
    """
    scores = list(scores)
    found = with_tests(scores)
    names = sorted({s.init for group in found for s in group.inits})
    # An init has the same style on the whole page.
    styles = {init: i for i, init in enumerate(names)}
    pictures = Pictures(thumbnails or Thumbnails([]))
    environment = templates("hyperinit.report")
    assert environment.loader is not None
    script = environment.loader.get_source(environment, "page.js")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    policy += f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    html = environment.get_template("page.html.j2").render(
        policy=policy,
        script=script,
        light=LIGHT,
        dark=DARK,
        charts=STYLE,
        styles=STYLES,
        sections=[section(group, styles, pictures, found) for group in found],
        targets=[f"{target:g}: {MEANINGS[target]}" for target in TARGETS],
        settings=[_settings(group) for group in found],
        rules=rules,
        entrants_header=ENTRANTS_HEADER,
        entrants=[list(map(shown, row)) for row in entrants],
        provenance=_provenance([r for group in scores for r in group.group.records], sources),
    )
    return html.encode(errors="replace").decode()


def _settings(found: GroupScore) -> View:
    """Every setting of a group with its values."""
    helps = {f.name: f.metadata.get("help", "") for f in dataclasses.fields(Protocol)}
    tests, unsaid = found.group.tests, CHOSEN_SETTINGS[found.group.workload.version]
    values: dict[str, set[str]] = {}
    for name in {name for record in tests for name in record.settings}:
        for record in tests:
            value = record.settings.get(name, unsaid.get(name, "not said"))
            text = f"{value:g}" if isinstance(value, float) else json.dumps(value)
            values.setdefault(name, set()).add(text)
    values["budgets_epochs"] = {f"{record.budget_epochs:g}" for record in tests}
    values["lrs"] = {f"{record.lr:g}" for record in tests}
    rows = [
        (shown(name), _listed(own), helps.get(name, "")) for name, own in sorted(values.items())
    ]
    title = f"{shown(found.track.name)} track, {shown_workload(found)}"
    return {"title": title, "rows": rows}


def _listed(values: set[str]) -> str:
    def key(text: str) -> tuple[int, float, str]:
        try:
            return 0, float(text), text
        except ValueError:
            return 1, 0.0, text

    texts = [shown(text.strip('"')) for text in sorted(values, key=key)]
    return ", ".join(texts[:LISTED]) + (", …" if len(texts) > LISTED else "")


def _provenance(records: Sequence[Record], sources: Sequence[Path]) -> dict[str, Any]:
    """Where the numbers come from: files, commits, versions."""
    values: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.environment.items():
            values.setdefault(name, set()).add(str(value))
    inits = dict.fromkeys(
        (record.init, json.dumps(record.init_facts, sort_keys=True)) for record in records
    )
    return {
        # Not from `values`: a record without "workers" differs from one with it.
        "mixed": len(places(records)) > 1,
        "environment": [(shown(name), _listed(own)) for name, own in sorted(values.items())],
        "inits": [(shown(init), facts[:FACTS_CHARS]) for init, facts in inits],
        "files": [
            (shown(path.name), hashlib.sha256(path.read_bytes()).hexdigest()) for path in sources
        ],
        "records": len(records),
    }
