"""Names that somebody else chose, in everything that is written: text, never more than text."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import unicodedata
from dataclasses import replace

import pytest
import torch
from conftest import smooth_image
from hypothesis import given
from hypothesis import strategies as st
from properties import SETTINGS
from records import ladder

from hyperinit.app.cli import main
from hyperinit.app.compare import ShownFit, write_comparison
from hyperinit.base.arguments import Parser
from hyperinit.base.terminal import say, visible
from hyperinit.demo.board import board, failure
from hyperinit.demo.race import race, race_config
from hyperinit.images.save import save_image
from hyperinit.inits.rules import NAMED_INITS
from hyperinit.inits.start import spec_init
from hyperinit.learn.tracking import open_tracker, read_log
from hyperinit.photos.workload import NamedImage
from hyperinit.report.charts import figures, png
from hyperinit.report.page import page
from hyperinit.report.tables import csv_text, markdown
from hyperinit.report.wandb_report import Destination, Story, spec
from hyperinit.score.score import score_groups

NAMES = (
    "[x](javascript:alert(1))",
    "![x](https://evil.example/a.png)",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</title></svg><svg onload=alert(1)>",
    '"onmouseover="alert(1)',
    "=cmd|' /C calc'!A0",
    "@SUM(A1)",
    "+1+1|",
    "a | b | c",
    "two\nlines\r\nand\u2028more\x85",
    "\u202egnp.exe\u2066\u200f",
    "\x1b[31mred\x1b[2J\x07\x00\x9b1m",
    "{{ 7*7 }} {% raw %}",
    "$\\frac{1}{0}$ ${x}$ \\",
    "half \ud800 and \udcff",
    "`code` **bold** <!-- /records -->",
    "x" * 5000,
    "",
    "\u0301\u0301 zalgo",
    "javascript:alert(1)",
    "www.evil.example https://evil.example",
)
# What steers a terminal or a page: control characters, directions, separators, half characters.
STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def steering(text: str, but: str = "\n") -> set[str]:
    return {c for c in text if unicodedata.category(c) in STEERING} - set(but)


def scored(name: str):
    errors = {1.0: 0.5, 4.0: 1e-4}
    odd = ladder(name, errors, name, environment={name: name, "processor": name})
    # The name stands for two inits, which a note says.
    other = (
        ladder(name, errors, "other", init_facts={"hidden": 1, "name": name.encode().hex()})
        if not steering(name)
        else []
    )
    return score_groups([*odd, *other, *ladder("33", errors, name)], name, strict=False)


def check_markdown(text: str) -> None:
    text = re.sub(r"\n!\[[\w.-]+\]\([\w.-]+\.png\)\n", "", text)  # our own charts
    assert not re.search(r"\]\(|<script|<img|<svg|<!--|(?<!\\)https?:|javascript:", text)
    assert not steering(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_every_writer_of_reports(name):
    scores = scored(name)
    text = markdown(scores)
    check_markdown(text)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    content = csv_text(scores)
    content.encode(errors="strict")
    rows = list(csv.reader(io.StringIO(content)))
    assert len({len(row) for row in rows}) == 1 and len(content.splitlines()) == len(rows)
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell[:1] in set("=+@\t\r")]
    assert not steering(content)
    shown = page(scores)
    shown.encode(errors="strict")
    assert not steering(shown)
    body = shown.partition("<body>")[2].partition("<script>")[0]
    tags = set(re.findall(r"<\s*([A-Za-z]+)", body))
    assert not tags & {"script", "img", "iframe", "object"}, tags
    assert not re.search(r"<[^>]*\son\w+\s*=", re.sub(r'"[^"]*"', '""', body))
    assert set(re.findall(r'(?:href|src)="([^"]*)"', body)) <= {
        "#group0",
        "#protocol",
        "#provenance",
    }
    for figure in figures(scores).values():
        assert png(figure).startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_the_specification_of_a_wandb_report(name):
    pytest.importorskip("wandb_workspaces", reason="the extra `report` is not installed")
    found = json.loads(spec(Story.of(scored(name)), Destination("me", "proj")))
    texts = list(strings(found))
    assert not [text for text in texts if re.search(r"javascript:|\]\(|<script", text)]
    assert not [text for text in texts if steering(text)]


def strings(value):
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, str):
        yield value


def test_tables_that_wandb_gets(tmp_path, monkeypatch):
    made = []

    class Table:
        def __init__(self, columns, data, **settings):
            made.append((columns, data))

    class Run:
        def log(self, values, step):
            pass

        def finish(self, code):
            pass

    wandb = pytest.importorskip("wandb")
    monkeypatch.setattr(wandb, "Table", Table)
    tracker = open_tracker(tmp_path, {}, "disabled")
    tracker.wandb_run = Run()
    for name in NAMES:
        tracker.log_table("t", [name, "n"], [[name, 0.5], [None, float("nan")]])
    tracker.log_table("t", ["-", "n"], [["-0.5 (1/2)", "33 at 1e-3"]])
    tracker.finish()
    assert made[-1] == (["-", "n"], [["-0.5 (1/2)", "33 at 1e-3"]])
    for (column, _), ((cell, number), nothing) in made[:-1]:
        assert column == cell and number == 0.5 and nothing == [None, None]
        assert not re.search(r"javascript:|https?:|\]\(|<", cell) and not steering(cell, "")
        assert cell[:1] not in set("=+@")
    names = [row["columns"][0] for row in read_log(tmp_path / "metrics.jsonl")[1:]]
    assert len(names) == len(NAMES) + 1  # whole lines


@pytest.fixture(scope="module")
def lanes():
    inits = [spec_init("33", NAMED_INITS["33"], 8, 1)]
    *_, last = race(smooth_image(8), inits, race_config(budget_epochs=1.0), target=0.0)
    return last


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_the_board_of_the_demo(lanes, name):
    named = [replace(lane, init=name) for lane in lanes]
    shown = board(smooth_image(8), named, race_config(budget_epochs=1.0), f"{name} was trained")
    for text in (shown, failure(name)):
        text.encode(errors="strict")
        assert not steering(text)
        assert not re.search(r"<script|<iframe|<[^>]*\son\w+\s*=", re.sub(r'"[^"]*"', '""', text))
    assert all(src.startswith("data:image/webp") for src in re.findall(r'src="([^"]*)"', shown))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_the_comparison_that_ends_a_training(tmp_path, name):
    image = NamedImage(name, smooth_image(8), name)
    fits = [
        ShownFit(one, smooth_image(8), smooth_image(8)) for one in ladder(name, {1.0: 0.5}, name)
    ]
    fits = [replace(fit, record=replace(fit.record, image=image.name)) for fit in fits]
    check_markdown(write_comparison(fits, [image], tmp_path))
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    for line in (tmp_path / "comparison.jsonl").read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_what_a_terminal_is_told(name, capsys):
    say(f"skipped {name}: unreadable")
    with pytest.raises(SystemExit):
        Parser(prog="p").error(f"{name}: no such file")
    with pytest.raises(SystemExit):
        main([f"a{name}"])
    assert not steering(capsys.readouterr().err)


def test_names_of_files_reach_the_terminal_as_text(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    save_image(torch.full((3, 8, 8), 0.5), tmp_path / "photos" / "a.png")
    for name in ("\x1b[31mred.png", "\u202egnp.png", "two\nlines.png"):
        (tmp_path / "photos" / name).write_bytes(b"no picture")
    training = ["meta-train", "--preset", "tiny", "--wandb", "disabled", "--data", "photos"]
    assert main([*training, "--compare-images", "0", "--max-steps", "1", "--out", "run"]) == 0
    said = capsys.readouterr().err
    assert said.count("skipped") >= 3
    assert not steering(re.sub(r"\x1b\[A", "", said), "\n\r")  # the progress bar's own


@SETTINGS
@given(name=st.text(max_size=40))
def test_any_name_is_visible_and_stays_what_it_is(name):
    assert not steering(visible(name))
    if name.isprintable():
        assert visible(name) == name
    scores = score_groups(ladder(name, {1.0: 0.5, 4.0: 1e-4}, "image"), name, strict=False)
    check_markdown(markdown(scores))
    assert not steering(csv_text(scores))
    text = html.unescape(re.sub(r"<[^>]*>", "", page(scores)))
    assert not steering(text)
