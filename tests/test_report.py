"""Reports of made-up records, and the blocks of documents that are generated from records."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
from records import HAND_DESIGNED, SETTINGS, ladder, record

from hyperinit.app import cli
from hyperinit.app.cli import main as hyperinit_main
from hyperinit.app.report import main
from hyperinit.base.errors import InputError
from hyperinit.inits.markdown import inits_markdown
from hyperinit.record.records import CurvePoint, Record, append_record
from hyperinit.report import charts, tables
from hyperinit.report.blocks import update_blocks
from hyperinit.report.charts import png
from hyperinit.report.headline import headline
from hyperinit.report.tables import protocol_markdown
from hyperinit.score.beside import psnr_beside
from hyperinit.score.score import score_groups

ROOT = Path(__file__).parent.parent

ERRORS = {
    "paper": {1.0: 0.8, 4.0: 0.08, 16.0: 0.008},
    "33": {1.0: 0.4, 4.0: 0.02, 16.0: 8e-4},
    "never": {1.0: 0.9, 4.0: 0.5, 16.0: inf},
}


@pytest.fixture
def records() -> list[Record]:
    found = []
    for image in ("cat", "patio"):
        for init, errors in ERRORS.items():
            found += ladder(init, errors, image)
            found += ladder(init, errors, f"tuning {image}", track="tuned-lr")
    seed = {"settings": {**SETTINGS, "batch_pixels": 8192}, "track": "seed"}
    return [*found, record("33", mse=1e-3, **seed), record("paper", mse=1e-2, **seed)]


def markdown(records: list[Record], *options: str) -> str:
    return tables.markdown(score_groups(records, *options))


def csv_text(records: list[Record]) -> str:
    return tables.csv_text(score_groups(records))


def figures(records: list[Record]) -> dict[str, Any]:
    return charts.figures(score_groups(records))


def write(path: Path, records: list[Record]) -> Path:
    path.parent.mkdir(exist_ok=True)
    for one in records:
        append_record(path, one)
    return path


def test_the_report_has_costs_with_counts_ratios_and_errors(records):
    text = markdown(records)
    assert "16 epochs (n=2, 2/2 hit)" in text  # 33 to 8e-4
    assert "> 16 epochs (n=2, 0/2 hit)" in text  # paper, censored
    assert "| 33 | " in text and "0.0008 (0.0005, n=2)" in text
    assert "2 tuning images" in text.replace("rates from ", "")
    assert "**seed track**" in text and "seed epochs" in text


def test_inits_are_listed_from_the_fastest_to_the_slowest(records):
    lines = [line.split(" | ")[0] for line in markdown(records).splitlines()]
    assert lines.index("| 33") < lines.index("| paper") < lines.index("| never")


def test_seconds_from_different_machines_are_not_compared(records):
    other = [record("22", environment={"processor": "y", "threads": 8})]
    assert "seconds are not comparable" not in markdown(records)
    assert "seconds are not comparable" in markdown([*records, *other])


@pytest.mark.parametrize("command", [["report", "-o", "o"], ["score"], ["submit", "--by", "x"]])
def test_record_files_without_use_are_named(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").touch()
    for path, said in (("a.jsonl", "a.jsonl: "), (".", ".: no such record file")):
        with pytest.raises(SystemExit):
            hyperinit_main([*command, path])
        assert f"error: {said}" in capsys.readouterr().err


def test_no_records_are_no_report():
    with pytest.raises(InputError, match="no records"):
        markdown([])


def test_a_run_interrupted_while_tuning_has_a_report_all_the_same(records):
    tuning = [one for one in records if one.is_tuning]
    assert "no test run yet" in markdown(tuning)
    assert figures(tuning) == {} and len(csv_text(tuning).splitlines()) == 1


def test_the_csv_has_a_line_per_init_measure_and_target(records):
    rows = list(csv.DictReader(io.StringIO(csv_text(records))))
    (found,) = (
        row
        for row in rows
        if (row["init"], row["measure"], row["target"]) == ("paper", "epochs", "0.02")
    )
    assert (found["n"], found["hits"], found["reference_init"]) == ("2", "2", "33")
    assert float(found["reference_ratio"]) == pytest.approx(float(found["median"]) / 4)
    counts = [found[f"reference_{what}"] for what in ("n", "pairs", "free")]
    assert counts == ["2", "2", "0"]
    censored = [row for row in rows if row["init"] == "never" and row["measure"] == "epochs"]
    assert {row["median"] for row in censored} == {"inf"}


@pytest.mark.slow
def test_every_group_of_records_has_its_charts(records):
    found = figures(records)
    assert [name.rpartition("-")[2] for name in found] == ["errors", "solved", "profile", "curves"]
    for figure in found.values():
        assert png(figure).startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_report_of_files_is_a_directory_that_needs_nothing_else(records, tmp_path):
    path = write(tmp_path / "r.jsonl", records)
    assert main([str(path), "-o", str(tmp_path / "out")]) == 0
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"report.md", "report.csv"} < names
    text = (tmp_path / "out" / "report.md").read_text()
    assert all(f"({name})" in text for name in names if name.endswith(".png"))


@pytest.mark.slow
def test_a_report_is_made_without_torch(records, tmp_path):
    path = write(tmp_path / "r.jsonl", records)
    code = f"""
import sys
import hyperinit.app.report
assert not {{"matplotlib", "scipy", "numpy", "jinja2"}} & set(sys.modules)
code = hyperinit.app.report.main([{str(path)!r}, "-o", {str(tmp_path / "out")!r}])
sys.exit(code or ", ".join({{"torch", "torchvision", "wandb", "gradio"}} & set(sys.modules)) or 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
    assert (tmp_path / "out" / "index.html").stat().st_size > 10_000


DOCUMENT = """\
# Title
<!-- records: a b -->
old
<!-- /records -->
between
<!-- protocol -->
<!-- /protocol -->
end
"""


def test_blocks_are_made_anew_and_the_rest_is_left_alone(records, tmp_path):
    write(tmp_path / "a.jsonl", records[:6])
    write(tmp_path / "b.jsonl", records[6:])
    new = update_blocks(DOCUMENT, tmp_path, "doc.md")
    assert markdown(records) in new and protocol_markdown() in new and "old" not in new
    outside = [line for line in DOCUMENT.splitlines() if line != "old"]
    assert [line for line in new.splitlines() if line in outside] == outside
    assert update_blocks(new, tmp_path, "doc.md") == new


def test_a_block_says_what_ratios_are_to(records, tmp_path):
    write(tmp_path / "a.jsonl", records)
    document = "<!-- records: a, ratios to paper -->\n<!-- /records -->\n"
    assert markdown(records, "paper") in update_blocks(document, tmp_path, "doc.md")


RIVALS = "<!-- rivals: a | b | t, ratios to paper -->\n<!-- /rivals -->\n"


def test_a_table_for_a_first_look_has_errors_and_no_settings(records, tmp_path):
    write(tmp_path / "a.jsonl", records)
    table = update_blocks("<!-- errors: a -->\n<!-- /errors -->\n", tmp_path, "doc.md")
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    rows = [line.strip("| ").split(" | ") for line in lines if "init" not in line]
    rows = [row for row in rows if set(row[0]) != {"-"}]
    assert {row[0] for row in rows} == {record.label for record in records}
    assert all(float(cell) > 0 for row in rows for cell in row[1:] if cell != "-")


def test_an_error_over_fewer_pairs_says_over_how_many(tmp_path):
    """A pair that has reached every target is not run further: the others are no mean of all."""
    easy, hard = ladder("33", {1.0: 5e-4}, "easy"), ladder("33", {1.0: 0.5, 2.0: 0.4}, "hard")
    write(tmp_path / "a.jsonl", [*easy, *hard])
    table = update_blocks("<!-- errors: a -->\n<!-- /errors -->\n", tmp_path, "doc.md")
    assert "| 33 | 10.0 | 0.0158 | 0.4 (n=1) |" in table


def test_rates_that_differ_from_image_to_image_are_all_in_the_table():
    at = [*ladder("33", {1.0: 0.5}, "cat", lr=1e-3), *ladder("33", {1.0: 0.5}, "patio", lr=2e-3)]
    assert "| 0.5 (0.001 or 0.002, n=2) |" in markdown(at)
    assert "| 0.5 (0.001, n=1) |" in markdown(at[:1])


def test_what_a_reader_must_know_is_not_cut(records):
    many = [f"an-init-of-a-long-name-{k}" for k in range(9)]
    several = [record(name, mse=0.1, lr=lr) for name in many for lr in (1e-3, 2e-3)]
    text = tables.markdown(score_groups(several, strict=False))
    assert "which favours these inits." in text and many[-1] + ":" in text
    settings = {**SETTINGS, **{f"setting_{k}_of_some_length": k for k in range(1, 9)}}
    assert "setting_8_of_some_length 8; protocol" in markdown([record(settings=settings)])


def test_a_short_table_says_which_medians_are_bounds():
    runs = [*ladder("33", {1.0: 0.01}), *ladder("22", {1.0: 0.5, 2.0: 0.01})]
    first, second = tables.comparison_table(runs).splitlines()[2:]
    assert "| <= 1 (1/1) |" in first and "<=" not in second


def test_two_protocols_and_the_training_stand_side_by_side(tmp_path):
    tuned = [*ladder("paper", {8: 0.01, 16: 4e-4}), *ladder("maml", {8: 0.002, 16: 1e-4})]
    published = ladder(
        "maml", {500: 0.01, 1000: 4e-4}, track="open", changes={"engine": "compiled"}
    )
    write(tmp_path / "a.jsonl", tuned)
    write(tmp_path / "b.jsonl", published)
    columns = "init,outer_steps,published_steps,minutes\n"
    (tmp_path / "t.csv").write_text(columns + 'maml,269,"150,000",10\n')
    table = update_blocks(RIVALS, tmp_path, "doc.md")
    (maml,) = (line for line in table.splitlines() if line.startswith("| maml |"))
    assert maml.startswith("| maml | 269 (150,000) | 10 |")
    assert "1/1 hit" in maml and maml.count("epochs (n=1") == 4
    assert maml.count(" seconds (n=1") == 4
    (paper,) = (line for line in table.splitlines() if line.startswith("| paper |"))
    assert paper.startswith("| paper | - | - |") and paper.endswith("| - | - | - |")


def test_a_table_of_training_costs_with_other_columns_is_refused(tmp_path):
    write(tmp_path / "a.jsonl", ladder("paper", {8: 0.01}))
    write(tmp_path / "b.jsonl", ladder("paper", {8: 0.01}))
    (tmp_path / "t.csv").write_text("init,hours\npaper,1\n")
    with pytest.raises(InputError, match="not a table with the columns init, outer_steps"):
        update_blocks(RIVALS, tmp_path, "doc.md")
    for cells in ("269,150,000,10", "269,10"):  # a number without quotes, a cell left out
        columns = "init,outer_steps,published_steps,minutes\n"
        (tmp_path / "t.csv").write_text(f"{columns}paper,{cells}\n")
        with pytest.raises(InputError, match="the row of paper has too many or too few cells"):
            update_blocks(RIVALS, tmp_path, "doc.md")


def test_an_outdated_document_fails_the_check_until_it_is_updated(records, tmp_path, capsys):
    write(tmp_path / "a.jsonl", records[:6])
    path = write(tmp_path / "b.jsonl", records[6:])
    document = tmp_path / "doc.md"
    document.write_text(DOCUMENT)
    arguments = [str(document), "--records-dir", str(tmp_path)]
    assert main(["--check", *arguments]) == 1
    assert document.read_text() == DOCUMENT and "outdated" in capsys.readouterr().err
    assert main(["--update", *arguments]) == 0
    assert main(["--check", *arguments]) == 0
    write(path, [record("22", mse=0.5)])
    assert main(["--check", *arguments]) == 1


def test_the_name_of_an_outdated_document_steers_no_terminal(tmp_path, capsys):
    document = tmp_path / "\x1b[31m.md"
    document.write_text("<!-- inits -->\n<!-- /inits -->\n")
    for how, code in (("--check", 1), ("--update", 0)):
        assert main([how, str(document)]) == code
        told = capsys.readouterr().err
        assert "\\x1b[31m.md" in told and "\x1b" not in told


def test_a_document_gets_the_table_of_inits_and_keeps_the_rest(tmp_path):
    document = tmp_path / "doc.md"
    document.write_text("before\n<!-- inits -->\nold\n<!-- /inits -->\nafter\n")
    assert main(["--check", str(document)]) == 1
    assert main(["--update", str(document)]) == 0
    table = inits_markdown()
    assert document.read_text() == f"before\n<!-- inits -->\n{table}<!-- /inits -->\nafter\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no block", "0 generated blocks"),
        ("<!-- records: a -->\nnever ends", "1 generated blocks begin, but only 0 end"),
        ("<!-- records: missing -->\n<!-- /records -->", "missing.jsonl: no such record file"),
        ("<!-- records -->\n<!-- /records -->", "names no record file"),
        ("<!-- rivals: a | b -->\n<!-- /rivals -->", "is NAME ... | NAME ... | TABLE"),
    ],
)
def test_broken_documents_are_refused_and_left_as_they_were(text, message, tmp_path, capsys):
    document = tmp_path / "doc.md"
    document.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["--update", str(document), "--records-dir", str(tmp_path)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1
    assert document.read_text() == text


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["--check", "a", "--update", "b"], ["missing.jsonl"], ["r", "--publish"]),
        # What would change nothing is not passed over.
        *(["--check", "a", *of_a_report] for of_a_report in (["-o", "b"], ["--tune-on-test"])),
        *(["--update", "a", "--reference", "33"], ["r.jsonl", "--records-dir", "b"]),
    ],
)
def test_bad_command_lines_are_one_line_and_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_committed_documents_agree_with_the_committed_records_and_the_protocol():
    cards = sorted((ROOT / "hyperinit" / "checkpoints").glob("*.md"))
    documents = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *cards,
    ]
    # The page of the peers has blocks of its own: benchmarks/peers.py --report.
    documents = [document for document in documents if document.name != "peers.md"]
    generated = [d for d in documents if "<!-- /" in d.read_text(encoding="utf-8")]
    assert generated, "docs/reference/protocol.md has the protocol in it"
    assert main(["--check", *map(str, generated)]) == 0


def test_what_papers_print_stands_beside_the_very_same_init_alone(records):
    after = [CurvePoint(float(n), n, 1.0, 0.01, 20.0 + n / 1000, 0.01) for n in (0, 500, 1000)]
    changed = {**HAND_DESIGNED, "function": "another"}
    published = [
        record(init, track="published", curve=tuple(after), init_facts=facts)
        for init, facts in (("33", HAND_DESIGNED), ("paper", changed))
    ]
    tuned, other = score_groups([*[one for one in records if one.track == "tuned"], *published])
    assert set(psnr_beside(tuned, [tuned, other])) == {"33"}
    assert set(psnr_beside(other, [tuned, other])) == {"33", "paper"}


@pytest.mark.parametrize("command", [["score"], ["report", "-o", "out"], ["leaderboard"]], ids=str)
def test_ratios_to_an_init_that_is_not_there_are_refused(
    records, command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    path = str(write(tmp_path / "a.jsonl", records))
    with pytest.raises(SystemExit, match="2"):
        cli.main([command[0], path, *command[1:], "--reference", "papr"])
    told = capsys.readouterr().err
    assert "unknown init to relate others to 'papr' (did you mean 'paper'?)" in told
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    # 33 is nobody's wish: files without it are scored without ratios to it.
    (tmp_path / "a.jsonl").unlink()
    write(tmp_path / "a.jsonl", [one for one in records if one.init != "33"])
    assert cli.main([command[0], path, *command[1:]]) == 0


def test_a_table_says_on_what_rates_were_chosen(records):
    records = [one for one in records if one.track == "tuned"]
    alone = [one for one in records if not one.is_tuning]
    several = [replace(one, lr=2 * one.lr) for one in alone]

    def rates(records: list[Record], **options: Any) -> str:
        text = tables.markdown(score_groups(records, **options)).splitlines()[-1]
        return text.removeprefix("means over pairs. ")

    best = "has the learning rate that was best for it on"
    for options in ({}, {"tune_on_test": True}):  # which is for records without tuning runs
        assert rates(records, **options).endswith(f"{best} tuning images.")
        assert (
            rates(alone, **options)
            == "Every init has the learning rate of its runs; there was no choice."
        )
    for made, said in (
        (records, "learning rates chosen on 2 other images."),
        (alone, "learning rates as the records have them."),
        ([*alone, *several], "learning rates chosen on these very images."),
    ):
        (group,) = score_groups(made, strict=False)
        assert headline(group)[-1].endswith(said)
    assert rates([*alone, *several], tune_on_test=True) == f"Every init {best} these very images."
    mixed = [*alone, *(one for one in several if one.init == "paper")]
    told = rates(mixed, tune_on_test=True)
    assert f"With paper: each {best} these very images." in told
    assert "With 33, never: each has the learning rate of its runs; there was no choice." in told
