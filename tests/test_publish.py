"""The benchmark that others join: from a function in a file to a submission and the leaderboard."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import smooth_image
from records import SETTINGS, ladder, record

from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.bench.declared import plans_path
from hyperinit.images.pixels import image_hash
from hyperinit.images.save import save_image
from hyperinit.publish.latex import latex
from hyperinit.publish.leaderboard import merged_scores, read_entrants
from hyperinit.publish.rules import RULES
from hyperinit.publish.submission import read_submission, submission_of
from hyperinit.record.records import Record, append_record, read_records
from hyperinit.report.names import latex_cell
from hyperinit.report.tables import csv_text, markdown
from hyperinit.score.score import score_groups

GUIDE = Path(__file__).parent.parent / "docs" / "guides" / "own-init.md"
SIZES = ("--image-size", "16", "--width", "8", "--depth", "2", "--seeds", "1", "--workers", "1")
SMALL = (
    *(*SIZES, "--budgets-epochs", "1,2", "--lrs", "1e-3,3e-3", "--lr-images", "1"),
    *("--batch-pixels", "64", "--no-level-rates", "--batch-factors", ""),
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide's init beside init 33, measured on two images; the directory of the records."""
    folder = tmp_path_factory.mktemp("measured")
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "my_init.py").write_text(code)
    for k in range(3):
        save_image(smooth_image(20, k), folder / f"{k}.png")
    images = ["--images", str(folder / "0.png"), str(folder / "1.png")]
    images += ["--tuning-images", str(folder / "2.png")]
    own = f"{folder / 'my_init.py'}:mean_colour"
    assert main(["benchmark", own, *images, *SMALL, "--out", str(folder / "r.jsonl")]) == 0
    return folder


@pytest.fixture
def records(measured: Path, tmp_path: Path) -> Path:
    """A copy of its records and plans."""
    for name in ("r.jsonl", "r.plans.json"):
        shutil.copy(measured / name, tmp_path)
    return tmp_path / "r.jsonl"


def rewrite(path: Path, change: Callable[[Record], Record | None]) -> None:
    """Changes every record of a file, or leaves it out."""
    found = read_records(path)
    path.unlink()
    for one in map(change, found):
        if one is not None:
            append_record(path, one)


def error_of(arguments: list[str], capsys: Any) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(lines) == 1
    return str(lines[0])


def test_an_init_of_ones_own_is_measured_submitted_and_on_the_leaderboard(records, capsys):
    folder = records.parent
    assert main(["submit", str(records), "--by", "Ada <b>Lovelace</b>"]) == 0
    assert "r.submission.jsonl is complete" in capsys.readouterr().err
    packed = folder / "r.submission.jsonl"
    about = json.loads(packed.read_bytes().split(b"\n")[0])
    assert set(about["inits"]) == {"33", "mean_colour"} and len(about["images"]) == 2
    assert re.fullmatch(r"[0-9a-f]{64}", about["inits"]["mean_colour"][0])
    assert main(["leaderboard", str(packed), "-o", str(folder / "board")]) == 0
    page = (folder / "board" / "index.html").read_text()
    document = (folder / "board" / "leaderboard.md").read_text()
    for text in (page, document):
        assert "mean_colour" in text and all(title in text for title in RULES)
        assert "<b>Lovelace" not in text and "Lovelace" in text
    assert "| mean_colour | " in document
    # A submission is a file of records too.
    assert main(["score", str(packed)]) == 0


def test_a_submission_from_before_records_said_their_photograph_is_taken(records, tmp_path):
    rewrite(records, lambda one: replace(one, source_hash=""))
    assert b"source_hash" not in records.read_bytes()
    out = tmp_path / "old.jsonl"
    assert main(["submit", str(records), "--by", "Ada", "-o", str(out)]) == 0
    assert b"source_hash" not in out.read_bytes().split(b"\n", 1)[1]
    (entrant,) = read_entrants([out])
    assert entrant.by == "Ada" and not any(one.source_hash for one in entrant.records)


def test_a_submission_depends_on_what_is_in_the_records_alone(records, tmp_path):
    once = submission_of([records], "me").content
    found = read_records(records)
    records.unlink()
    for one in reversed(found):
        append_record(records, replace(one, environment=dict(reversed(one.environment.items()))))
    append_record(records, replace(found[0], init="undeclared"))
    assert submission_of([records], "me").content == once
    (tmp_path / "s.jsonl").write_bytes(once)
    back = read_submission(tmp_path / "s.jsonl")
    assert back is not None and back.content == once and back.by == "me"
    assert read_submission(records) is None


def _without(is_tuning: bool) -> Callable[[Record], Record | None]:
    def change(one: Record) -> Record | None:
        return None if one.is_tuning == is_tuning and one.init == "mean_colour" else one

    return change


def _on_another_machine(one: Record) -> Record:
    name = "another" if one.image == "1.png" else "this"
    return replace(one, environment={**one.environment, "machine": name})


def _without_machine(one: Record) -> Record:
    return replace(one, environment={**one.environment, "machine": None})


def _without_number(one: Record) -> Record:
    end = replace(one.curve[-1], mse=float("inf"))
    return replace(one, curve=(*one.curve[:-1], end)) if one.image == "1.png" else one


def _of_another_photograph(one: Record) -> Record:
    return replace(one, source_hash="0" * 64) if one.image == "1.png" else one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_of_another_photograph, "1.png is another photograph in the plan than in the records"),
        (_without(False), "init mean_colour, image 0.png, seed 0, 1 epochs was declared"),
        (_without(True), "init mean_colour, tuning image 2.png, seed 1000000, 1 epochs was decl"),
        (_on_another_machine, "seconds of 2 places are not comparable (another, "),
        (_without_machine, "do not state the machine"),
        (_without_number, "has no finite error after"),
    ],
)
def test_what_is_not_right_is_refused_in_one_line(records, change, message, capsys):
    rewrite(records, change)
    error = error_of(["submit", str(records), "--by", "me"], capsys)
    assert message in error and "r.jsonl" in error
    assert not list(records.parent.glob("*.submission.jsonl"))


def test_a_submission_takes_the_place_of_no_other_file(records, tmp_path, capsys):
    other = tmp_path / "other.jsonl"
    shutil.copy(records, other)
    error = error_of(["submit", str(records), "--by", "me", "-o", str(other)], capsys)
    assert "other.jsonl: is there already and is no submission" in error
    assert other.read_bytes() == records.read_bytes()
    for _ in range(2):  # one of before is replaced
        assert main(["submit", str(records), "--by", "me"]) == 0


def test_nothing_is_added_to_a_submission(records, capsys):
    packed = records.with_name("s.jsonl")
    packed.write_bytes(submission_of([records], "me").content)
    before, files = packed.read_bytes(), set(records.parent.iterdir())
    error = error_of(["benchmark", "--quick", "--out", str(packed)], capsys)
    assert "s.jsonl: is a submission, which nothing may be added to" in error
    error = error_of(["benchmark", "--verify", "1", "--out", str(packed.with_name("no"))], capsys)
    assert "no: no such record file: nothing to verify" in error
    assert packed.read_bytes() == before and set(records.parent.iterdir()) == files


@pytest.mark.parametrize("by", ["", "two\nlines", "x" * 81])
def test_who_submits_is_one_line(records, by, capsys):
    assert "--by" in error_of(["submit", str(records), "--by", by], capsys)


def test_an_init_is_not_tested_on_what_it_was_trained_on(records, capsys):
    path = plans_path(records)
    plans = json.loads(path.read_text())
    plans[0]["entries"][1]["train_hashes"] = [image_hash(smooth_image(20, 1))[:12], "0" * 12]
    path.write_text(json.dumps(plans))
    error = error_of(["submit", str(records), "--by", "me"], capsys)
    assert "init mean_colour was trained on the test image 1.png" in error


def test_records_without_a_plan_say_how_to_get_one(records, capsys):
    plans_path(records).unlink()
    error = error_of(["submit", str(records), "--by", "me"], capsys)
    assert "r.plans.json is missing; the command that made the records writes it" in error


@pytest.mark.slow
def test_the_command_that_made_records_adds_a_plan_and_runs_nothing(measured, records, capsys):
    kept = plans_path(records).read_text()
    plans_path(records).unlink()
    before = records.read_bytes()
    images = ["--images", str(measured / "0.png"), str(measured / "1.png")]
    images += ["--tuning-images", str(measured / "2.png")]
    own = f"{measured / 'my_init.py'}:mean_colour"
    for _ in range(2):  # the second time it is there
        assert main(["benchmark", own, *images, *SMALL, "--out", str(records)]) == 0
    assert records.read_bytes() == before and plans_path(records).read_text() == kept


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace('"0.png"', '"9"', 1), "was changed"),
        (lambda text: text.replace('"records": ', '"records": 1', 1), "was changed"),
        (lambda text: text.replace('"diverged": false', '"diverged": true', 1), "was changed"),
        (lambda text: text[: text.rstrip("\n").rfind("\n") + 1], "was declared and is missing"),
        (lambda text: text.replace('"plans": [', '"plans": 3, "x": [', 1), "no plans"),
        (lambda text: text.replace('"seeds": 1', '"seeds": 1000000000000', 1), "fits are declared"),
        (lambda text: text.replace('"track": "tuned"', '"track": []', 1), "not the plan"),
        (lambda text: text.replace('"submission": 1', '"submission": 2', 1), "of format 2"),
        (lambda text: text.replace('"by"', '"by', 1), "first line is damaged"),
    ],
)
def test_a_submission_that_was_changed_is_refused(records, tmp_path, damage, message):
    text = submission_of([records], "me").content.decode()
    changed = damage(text)
    assert changed != text
    (tmp_path / "s.jsonl").write_text(changed)
    with pytest.raises(InputError, match=message) as caught:
        read_submission(tmp_path / "s.jsonl")
    assert "\n" not in str(caught.value) and "s.jsonl" in str(caught.value)


def test_seconds_of_two_machines_are_left_out_and_of_one_are_not(records, tmp_path):
    def elsewhere(one: Record) -> Record:
        return replace(one, environment={**one.environment, "machine": "another"})

    (tmp_path / "a.jsonl").write_bytes(submission_of([records], "a").content)
    other = tmp_path / "other.jsonl"
    shutil.copy(records, other)
    shutil.copy(plans_path(records), plans_path(other))
    rewrite(other, lambda one: elsewhere(replace(one, init=f"{one.init} b")))
    alone = merged_scores(read_entrants([tmp_path / "a.jsonl"]))
    assert alone[0].has_seconds and "seconds" in markdown(alone)
    both = merged_scores(read_entrants([tmp_path / "a.jsonl", other]))
    assert len(both[0].inits) == 4 and not both[0].has_seconds
    assert "Measured in 2 places" in markdown(both)
    assert "| seconds to" not in markdown(both) and ",seconds," not in csv_text(both)
    assert "seconds to" not in latex(both) and "seconds to" in latex(alone)
    assert main(["leaderboard", str(other), str(tmp_path / "a.jsonl"), "-o", str(tmp_path)]) == 0
    assert "MSE against seconds" not in (tmp_path / "index.html").read_text()


def test_files_that_contradict_each_other_are_named(tmp_path, caplog):
    one = ladder("33", {1.0: 0.3, 4.0: 1e-3}, "cat")
    for name, records in (("a", one), ("b", [replace(one[0], curve=one[1].curve), one[1]])):
        for own in records:
            append_record(tmp_path / f"{name}.jsonl", own)
    entrants = read_entrants([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert not caplog.records
    (found,) = merged_scores(entrants)
    assert "1 trials have several records that end with different errors" in caplog.text
    assert [run.mse for run in found.inits[0].runs] == [0.3, 1e-3]


# What papers print


@pytest.mark.slow
def test_the_published_track_has_the_psnr_after_steps_beside_our_costs(measured, tmp_path, capsys):
    images = ["--images", str(measured / "0.png"), str(measured / "1.png")]
    published = tmp_path / "p.jsonl"
    flags = [*SIZES, "--track", "published", "--budgets-epochs", "1000", "--out", str(published)]
    assert main(["benchmark", f"{measured / 'my_init.py'}:mean_colour", *images, *flags]) == 0
    found = read_records(published)
    assert {one.settings["batch_pixels"] for one in found} == {256}
    assert {one.lr for one in found} == {1e-4} and {one.end.epochs for one in found} == {1000}
    assert {one.end.steps for one in found if one.init == "mean_colour"} == {999}  # it looked once
    capsys.readouterr()
    assert main(["score", str(measured / "r.jsonl"), str(published)]) == 0
    text = capsys.readouterr().out
    assert text.count("| init | PSNR after 500 steps, dB | PSNR after 1,000 steps, dB | ") == 2
    (tuned,) = (s for s in score_groups(found) if s.track.name == "published")
    of_33 = next(s for s in tuned.inits if s.init == "33")
    by_hand = [p.psnr for one in of_33.runs for p in one.curve if p.steps == 500]
    assert of_33.psnr_after[500].value == pytest.approx(sum(by_hand) / 2)
    assert of_33.psnr_after[500].low == pytest.approx(min(by_hand))
    assert of_33.psnr_after[5000] is None  # nobody went so far
    assert main(["score", str(published), "--format", "csv"]) == 0
    assert "PSNR after 500 steps, dB" in capsys.readouterr().out
    assert main(["report", str(measured / "r.jsonl"), str(published), "-o", str(tmp_path)]) == 0
    assert (tmp_path / "index.html").read_text().count("PSNR after 500 steps, dB") == 2
    assert "PSNR after 500 steps, dB" in (tmp_path / "report.tex").read_text()
    assert main(["submit", str(published), "--by", "me"]) == 0


# LaTeX


def test_a_latex_table_says_what_a_reader_must_know():
    budgets = {1.0: 0.3, 4.0: 1e-3}
    one = [*ladder("33", budgets, "cat"), *ladder("33", budgets, "dog")]
    assert "Not every init" not in latex(score_groups(one))
    (caption,) = [
        line
        for line in latex(score_groups([*one, *ladder("a_b", budgets, "cat")])).splitlines()
        if "caption" in line
    ]
    assert "protocol 1. Not every init was run on the same images and seeds" in caption


def test_a_latex_caption_has_the_whole_workload():
    """It was cut to the length of a name, in the middle of the settings."""
    settings = {**SETTINGS, "batch_pixels": 100, "output_lr_factor": 2.0, "weight_decay": 0.5}
    text = latex(score_groups([record("x" * 99, settings=settings)]))
    assert "batch\\_pixels 100, output\\_lr\\_factor 2.0, weight\\_decay 0.5; protocol 1}" in text
    assert r"xxx\ldots{}}" in text


def test_a_latex_table_has_costs_and_ratios_with_intervals():
    errors = {1.0: 0.5, 2.0: 0.05, 4.0: 0.01}
    better = {1.0: 0.3, 2.0: 0.04, 4.0: 0.005}
    made = [
        one
        for image in ("cat", "dog")
        for init, own in (("33", errors), ("mine & yours", better))
        for one in ladder(init, own, image)
    ]
    text = latex(score_groups(made))
    (row,) = (line for line in text.splitlines() if line.startswith(r"{mine \& yours}"))
    assert row.count("&") == 6 and re.search(r"0\.\d+ \[0\.\d+, 0\.\d+\]", row)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    with pytest.raises(InputError, match="no records"):
        latex([])


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        (r"\input{/etc/passwd}", r"{\textbackslash{}input\{/etc/passwd\}}"),
        (
            "50% & more_$x^2$ #1 ~",
            r"{50\% \& more\_\$x\textasciicircum{}2\$ \#1 \textasciitilde{}}",
        ),
        ("[2cm] a\n\\\\b", r"{[2cm] a \textbackslash{}\textbackslash{}b}"),
        ("猫 é <|>", r"{U+732B é \textless{}\textbar{}\textgreater{}}"),
        ('"a', r"{\char34{}a}"),
    ],
)
def test_no_name_is_a_command_in_latex(name, cell):
    assert latex_cell(name) == cell


def test_the_published_track_takes_its_own_size_and_refuses_to_enlarge(tmp_path, capsys):
    for name, side in (("small", 100), ("large", 230)):
        save_image(smooth_image(side), tmp_path / f"{name}.png")
    how = ["benchmark", "--inits", "33", "--track", "published", "--seeds", "1", "--width", "8"]
    how += ["--depth", "2", "--budgets-epochs", "500", "--workers", "1"]
    with pytest.raises(SystemExit) as stopped:
        main([*how, "--images", str(tmp_path / "small.png"), "--out", str(tmp_path / "s.jsonl")])
    assert stopped.value.code == 2 and not (tmp_path / "s.jsonl").exists()
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "small.png: 100 pixels on its short side, fewer than the 224" in line
    assert "--image-size 100" in line


@pytest.mark.long
def test_the_published_track_runs_at_224(tmp_path):
    save_image(smooth_image(230), tmp_path / "large.png")
    how = ["benchmark", "--inits", "33", "--track", "published", "--seeds", "1", "--width", "8"]
    how += ["--depth", "2", "--budgets-epochs", "500", "--workers", "1"]
    out = tmp_path / "l.jsonl"
    assert main([*how, "--images", str(tmp_path / "large.png"), "--out", str(out)]) == 0
    (record,) = read_records(out)
    assert record.settings["image_size"] == 224 and record.settings["batch_pixels"] == 224**2
    (found,) = score_groups([record])
    assert found.inits[0].psnr_after[500] is not None
