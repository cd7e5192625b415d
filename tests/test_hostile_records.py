"""Record files from anywhere: read, or refused in one line that names the file and the line."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import time
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import SETTINGS, ladder, record

from hyperinit.base.errors import InputError
from hyperinit.publish.latex import latex
from hyperinit.record.records import (
    MAX_LINE_BYTES,
    CurvePoint,
    Record,
    append_record,
    read_records,
    to_line,
)
from hyperinit.report.names import csv_cell, markdown_cell
from hyperinit.report.page import page
from hyperinit.report.tables import csv_text, markdown
from hyperinit.score.score import score_groups

FAST = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    print_blob=True,
)


def read(path: Path, content: bytes) -> list[Record] | str:
    """The records, or the one line that refuses them; anything else is a bug."""
    path.write_bytes(content)
    try:
        return read_records(path)
    except InputError as error:
        line = str(error)
        assert len(line.splitlines()) == 1 and len(line) < 500, line
        assert re.match(rf"{re.escape(str(path))}:\d+: ", line), line
        line.encode()
        return line


def changed(**fields: Any) -> bytes:
    """A record's line with other values in its JSON."""
    return json.dumps({**json.loads(to_line(record())), **fields}).encode() + b"\n"


def without(name: str) -> bytes:
    values = json.loads(to_line(record()))
    del values[name]
    return json.dumps(values).encode() + b"\n"


DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE = {
    "a seed of 23 digits": changed(seed=10**22),
    "a negative seed": changed(seed=-1),
    "a seed of 5,000 digits": to_line(record()).replace('"seed": 0', f'"seed": {"9" * 5000}'),
    "a fraction as a seed": changed(seed=0.5),
    "NaN": to_line(record()).replace('"lr": 0.0005', '"lr": NaN'),
    "a number beyond float64": to_line(record()).replace('"lr": 0.0005', '"lr": 1e999'),
    "an infinite setting": to_line(record()).replace('"depth": 5', '"depth": 5, "x": 1e999'),
    "a rate of 0": changed(lr=0),
    "a rate as text": changed(lr="1e-3"),
    "a negative cost": changed(init_epochs=-1.0),
    "a huge budget": changed(budget_epochs=1e300),
    "true as a number": changed(budget_epochs=True),
    "a track that is a list": changed(track=["tuned"]),
    "facts that are text": changed(init_facts="x"),
    "settings that are a list": changed(settings=[]),
    "an environment of null": changed(environment=None),
    "an image of 1e9 pixels a side": changed(settings={**SETTINGS, "image_size": 10**9}),
    "rates that rise in part": changed(settings={**SETTINGS, "rising_rates": [True]}),
    "a warm-up that is a list": changed(settings={**SETTINGS, "warmup_steps": [4]}),
    "no pixels in a batch": changed(settings={**SETTINGS, "batch_pixels": 0}),
    "frozen layers that are text": changed(settings={**SETTINGS, "frozen_layers": "0"}),
    "changes that are a list": changed(changes=[]),
    "a curve without points": changed(curve=[]),
    "a curve that is text": changed(curve="abc"),
    "a point of five numbers": changed(curve=[[0, 0, 0, 1, 1]]),
    "a point with text": changed(curve=[[0, 0, 0, "1", 1, 1]]),
    "a point without a cost": changed(curve=[[None, 0, 0, 1, 1, 1]]),
    "a negative error": changed(curve=[[0, 0, 0, -1, 1, 1]]),
    "an integer too large for a float": changed(curve=[[0, 0, 0, 10**400, 1, 1]]),
    "half a character": changed(init="\ud800"),
    "half a character in a key": changed(environment={"\udfff": 1}),
    "half a character far inside": changed(init_facts={"a": [{"b": "\ud800"}]}),
    "an unknown field": changed(**{"x" * 1000: 1}),
    "a version as text": changed(version="1"),
    "a version of 400 digits": changed(version=10**400),
    "a version that is true": changed(version=True),
    "a missing field": without("params_hash"),
    "a missing version": without("version"),
    "a key that is there twice": to_line(record()).replace("{", '{"seed": 1, ', 1),
    "a key twice far inside": to_line(record()).replace('{"dist"', '{"dist": 1, "dist"', 1),
    "deep JSON": DEEP,
    "deep facts": to_line(record()).replace('"init_facts": {', f'"init_facts": {{"a": {DEEP},'),
    "facts just too deep": changed(environment={"a": json.loads("[" * 40 + "]" * 40)}),
    "a list": "[1]",
    "bytes that are no text": b"\xff\xfe\x00\n",
    "a photograph": b"\x89PNG\r\n\x1a\n\x00\x00",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_line_is_refused_by_its_number(tmp_path, what):
    content = HOSTILE[what]
    content = content if isinstance(content, bytes) else f"{content}\n".encode()
    began = time.monotonic()
    found = read(tmp_path / "r.jsonl", f"{to_line(record())}\n".encode() + content)
    assert isinstance(found, str) and "r.jsonl:2: " in found
    assert time.monotonic() - began < 5


def test_a_line_without_end_is_not_read_into_memory(tmp_path):
    path = tmp_path / "r.jsonl"
    with open(path, "wb") as file:
        file.truncate(MAX_LINE_BYTES * 64)  # zeros, on no disk
    with pytest.raises(InputError, match=r"r\.jsonl:1: not a record"):
        read_records(path)


def test_a_file_of_another_kind_is_refused_even_without_a_complete_line(tmp_path):
    assert "not a record file" in str(read(tmp_path / "a.png", b"\x89PNG no line ends here"))
    assert read(tmp_path / "r.jsonl", b'{"track": "tu') == []  # a killed run's


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
COST = st.one_of(st.just(0.0), st.floats(1e-30, 1e6))
ERROR = st.one_of(COST, st.just(inf))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), COST, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)
FACTS = st.dictionaries(TEXT, JSON, max_size=4)
POINT = st.builds(CurvePoint, COST, st.integers(0, 10**9), COST, ERROR, st.integers(-99, 99), ERROR)
CHANGES = st.dictionaries(st.sampled_from(["engine", "beta2"]), TEXT, max_size=2)
RECORDS = st.builds(
    record,
    TEXT,
    TEXT,
    track=st.sampled_from(["tuned", "tuned-lr", "open", "seed", "frozen-lr", "of my own"]),
    seed=st.integers(0, 2**64 - 1),
    lr=st.floats(1e-9, 10),
    budget=st.floats(1e-3, 1e6),
    init_facts=FACTS,
    environment=FACTS,
    curve=st.lists(POINT, min_size=1, max_size=4).map(tuple),
    diverged=st.booleans(),
    changes=CHANGES,
    version=st.sampled_from([1, 2]),
)


@pytest.mark.slow
@FAST
@given(one=RECORDS)
def test_whatever_is_written_is_read_back(tmp_path, one):
    path = tmp_path / "r.jsonl"
    path.unlink(missing_ok=True)
    append_record(path, one)
    assert read_records(path) == [one]


@FAST
@given(content=st.binary(max_size=400))
def test_random_bytes_are_no_records(tmp_path, content):
    assert read(tmp_path / "r.jsonl", content) == [] or not content.isspace()
    refused = read(tmp_path / "r.jsonl", content + b"\n")
    assert isinstance(refused, str) == bool(content.strip())


def test_a_damaged_first_line_of_a_submission_is_refused(tmp_path):
    for content in (
        b'{"submission": ',
        b'{"submission": {"by": "a", "by": "b"}}',
        b'{"submission": \xff}',
    ):
        refused = read(tmp_path / "r.jsonl", content + b"\n")
        assert (
            isinstance(refused, str) and "r.jsonl:1: not the first line of a submission" in refused
        )


@FAST
@given(content=st.text(max_size=100), name=st.sampled_from(list(json.loads(to_line(record())))))
def test_random_values_in_a_record_are_checked(tmp_path, content, name):
    line = json.loads(to_line(record()))
    found = read(tmp_path / "r.jsonl", json.dumps({**line, name: content}).encode() + b"\n")
    if not isinstance(found, str):
        assert name in ("track", "init", "image", "image_hash", "source_hash", "params_hash")
        (one,) = found
        assert one.label == (content if name == "init" else "33")


@FAST
@given(data=st.data())
def test_a_valid_file_with_some_bytes_changed_is_read_or_refused(tmp_path, data):
    content = bytearray(f"{to_line(record())}\n{to_line(record(seed=1))}\n".encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    found = read(tmp_path / "r.jsonl", bytes(content))
    if not isinstance(found, str) and found:
        try:
            scores = score_groups(found, strict=False)
        except InputError as error:  # a size has lost its name
            assert "in its settings" in str(error)
            return
        assert markdown(scores) and csv_text(scores)


EXTREMES = st.sampled_from([0.0, 1e-30, 1e-3, 0.08, 8e-4, 1.0, 7.0, 1e15, 1e30])
STEPS = st.sampled_from([0, 1, 7, 10**15])
ENDS = st.builds(CurvePoint, EXTREMES, STEPS, EXTREMES, EXTREMES, st.just(-1e30), EXTREMES)
EXTREME_RECORDS = st.builds(
    record,
    st.sampled_from(["33", "a", "b"]),
    st.sampled_from(["cat", "patio"]),
    track=st.sampled_from(["tuned", "tuned-lr", "seed", "published", "frozen"]),
    seed=st.integers(0, 1),
    lr=st.sampled_from([1e-30, 1e-3, 1e30]),
    budget=st.sampled_from([1e-30, 1.0, 1e30]),
    init_facts=st.sampled_from([{}, {"hidden": 1}]),
    curve=st.lists(ENDS, min_size=1, max_size=3).map(tuple),
    diverged=st.booleans(),
    version=st.sampled_from([1, 2]),
)


@pytest.mark.slow
@settings(FAST, max_examples=25)
@given(records=st.lists(EXTREME_RECORDS, min_size=1, max_size=12))
def test_whatever_is_read_can_be_reported(tmp_path, records):
    path = tmp_path / "r.jsonl"
    path.write_text("".join(f"{to_line(one)}\n" for one in records))
    scores = score_groups(read_records(path), strict=False)
    assert markdown(scores) and csv_text(scores)
    if any(not one.is_tuning for one in records):
        assert page(scores).count("<h2>") >= 3
        assert latex(scores).count("\\end{table}") >= 1


# What is made of names

LINKS = (
    "[x](javascript:alert(1))",
    "![x](https://evil.example/a.png)",
    "<https://evil.example>",
    "https://evil.example/?q",
    "www.evil.example",
    "a@evil.example",
    "[x]: javascript:alert(1)",
    "`a` | b",
)
FORMULAS = ("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1+1", "\r=1+1", "\uff1d1+1")


@pytest.mark.parametrize("name", LINKS)
def test_no_name_is_a_link_in_markdown(name):
    cell = markdown_cell(name)
    assert not re.search(r"[\[\]<>|`]|https?:|javascript:|www\.|@", cell), cell
    runs = ladder(name, {1.0: 0.5, 4.0: 1e-4}, environment={"processor": name})
    text = markdown(score_groups(runs, name))
    assert cell in text and name not in text


def test_names_of_our_own_stay_as_they_are():
    for name in ("33@0.7", "photo-96", "33 hidden_dtype=bfloat16 layer_lr_factors=(0.3, 1.0)"):
        assert markdown_cell(name) == csv_cell(name) == name


@pytest.mark.parametrize("name", FORMULAS)
def test_no_name_is_a_formula_in_a_csv_file(name):
    runs = [*ladder(name, {1.0: 0.5, 4.0: 1e-4}), *ladder("33", {1.0: 0.5, 4.0: 1e-4})]
    rows = list(csv.DictReader(io.StringIO(csv_text(score_groups(runs, name)))))
    cells = [cell for row in rows for cell in row.values() if not _is_number(cell)]
    assert len(rows) == 12 and not [cell for cell in cells if cell[:1] in "=+-@\t\r\uff1d" and cell]
    assert {row["init"] for row in rows} == {"33", csv_cell(name)}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@settings(FAST, max_examples=15)
@given(name=TEXT)
def test_any_name_is_on_the_page_as_text_only(name):
    runs = [*ladder(name, {1.0: 0.5, 4.0: 1e-4}, name), *ladder("33", {1.0: 0.5}, name)]
    html = page(score_groups(runs, name, strict=False))
    assert html.count("<script>") == 1 and "javascript:" not in html.replace(name, "")


# Names of the first format


@pytest.mark.parametrize(
    ("track", "name", "fields", "init", "changes"),
    [
        ("frozen", "33 frozen 0,1", {"frozen_layers": [0, 1]}, "33", {"frozen_layers": [0, 1]}),
        ("frozen", "33 frozen 0,1", {}, "33 frozen 0,1", {}),  # the settings do not say so
        ("seed", "33 at 0.0005", {}, "33", {"lr": 5e-4}),
        ("seed", "33 at 3.3e-05", {}, "33 at 3.3e-05", {}),
        (
            *("open", "my init engine=compiled beta2=0.99", {"engine": "compiled", "beta2": 0.99}),
            *("my init", {"engine": "compiled", "beta2": 0.99}),
        ),
        (
            *("open", "a layer_lr_factors=(0.3, 1.0)", {"layer_lr_factors": [0.3, 1.0]}),
            *("a", {"layer_lr_factors": [0.3, 1.0]}),
        ),
        ("open", "a Beta=2", {}, "a Beta=2", {}),
    ],
)
def test_a_name_of_the_first_format_becomes_fields(tmp_path, track, name, fields, init, changes):
    values = json.loads(to_line(record(track=track, settings={**SETTINGS, **fields})))
    del values["changes"]
    (one,) = read(tmp_path / "r.jsonl", json.dumps({**values, "init": name}).encode() + b"\n")
    assert (one.init, one.changes, one.label) == (init, changes, name)
    assert one.trial == replace(one, init=name, changes={}).trial  # as it was


def test_a_new_record_says_its_changes_and_its_name_is_all_name(tmp_path):
    odd = record("33 at 0.0005")
    append_record(tmp_path / "r.jsonl", odd)
    (one,) = read_records(tmp_path / "r.jsonl")
    assert (one.init, one.changes) == ("33 at 0.0005", {})
    assert json.loads(to_line(record(track="tuned-lr")))["track"] == "tuned-lr"


def test_what_has_no_number_yet_is_null_in_the_file():
    row = json.loads(to_line(record()))["curve"][0]
    assert row == [0.0, 0, 0.0, 1.0, 10.0, None]
