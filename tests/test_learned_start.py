"""What a head start is worth: the fits that measure it, and the page that says so."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from conftest import smooth_image

from benchmarks import oracle
from benchmarks.oracle import Row
from hyperinit.base.errors import InputError
from hyperinit.images.save import save_image
from hyperinit.record.protocol import TARGETS
from scripts import learned_start

TINY = ["--size", "16", "--width", "8", "--depth", "1", "--heads", "0.5", "--most-epochs", "1"]


@pytest.fixture
def command(tmp_path) -> list[str]:
    save_image(smooth_image(16), tmp_path / "a.png")
    return ["--images", str(tmp_path / "a.png"), *TINY, "--out", str(tmp_path / "oracle.csv")]


def test_fits_go_into_a_file_and_are_not_made_again(command, tmp_path, capsys):
    assert oracle.main(command) == 0
    out = tmp_path / "oracle.csv"
    rows, text = oracle.read_rows(out), out.read_text()
    budgets = {
        start: [row.budget_epochs for row in rows if row.start == start]
        for start in (oracle.CONTROL, oracle.ORACLE)
    }
    # The control's own steps cost half an epoch here, so that no smaller budget is possible.
    assert budgets == {oracle.CONTROL: [0, 1], oracle.ORACLE: [0, 0.25, 0.5, 1]}
    assert rows[0].epochs == 0.5
    assert all(row.epochs == row.budget_epochs for row in rows[1:])  # a head start is free
    assert {row.image for row in rows} == {"a.png"} and len({row.sha256 for row in rows}) == 1
    capsys.readouterr()
    assert oracle.main(command) == 0  # what is there is not made again
    assert out.read_text() == text and capsys.readouterr().err == ""
    out.write_text("".join(text.splitlines(keepends=True)[:-2]))  # interrupted
    assert oracle.main(command) == 0
    assert out.read_text() == text


def test_the_longer_the_head_start_the_better_it_is():
    image = smooth_image(16)
    starts = [oracle.head_start(image, 2, 16, epochs) for epochs in (0.5, 8.0)]
    errors = [next(oracle.ladder(start, image, 1.0, [], 0.0))[2] for start in starts]
    assert errors[1] < 0.7 * errors[0]


def test_budgets_rise_until_the_hardest_target():
    image = smooth_image(16)
    start = oracle.head_start(image, 1, 8, 0.5)
    solved = [1.0, min(TARGETS)]  # of the start, and of the smallest budget
    assert list(oracle.ladder(start, image, 1.0, solved, 1.0)) == []
    assert [budget for budget, _, _ in oracle.ladder(start, image, 1.0, [1.0], 0.5)] == [0.25, 0.5]


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("image,mse\na,b\n")
    with pytest.raises(InputError, match=r"a\.csv: not a file of benchmarks/oracle\.py"):
        oracle.read_rows(tmp_path / "a.csv")


# The page

CONTROL = [
    Row("a", "a", 96, 4, 128, oracle.CONTROL, 0.0, 1.0, budget, budget or 0.44, mse)
    for budget, mse in ((0.0, 0.2), (1.0, 0.08), (2.0, 0.02), (8.0, 8e-4))
]
HEAD = [
    replace(row, start=oracle.ORACLE, head_epochs=1.0, epochs=row.budget_epochs, mse=mse)
    for row, mse in zip(CONTROL, (0.07, 0.09, 0.01, 2e-3), strict=True)
]


def test_what_is_saved_is_the_difference_to_the_control():
    (control, head), photographs = learned_start.worths([*CONTROL, *HEAD])
    assert photographs == 1 and control.epochs == pytest.approx({0.08: 1, 0.02: 2, 8e-4: 8})
    assert head.epochs[0.08] == 0  # it starts there
    assert 1 < head.epochs[0.02] < 2 and head.epochs[8e-4] == float("inf")
    slow = [replace(row, lr_factor=0.4) for row in [*CONTROL, *HEAD]]
    better = [*CONTROL, *HEAD, *slow[:-1], replace(slow[-1], mse=8e-4)]  # of two rates counts
    head = learned_start.worths(better)[0][1]
    assert head.epochs[8e-4] == pytest.approx(8)
    block = learned_start.oracle_block(better)
    assert "| 1 epochs of a fit | 0.07 | 0 (saves 1) |" in block


def test_photographs_without_all_starts_are_left_out():
    other = [replace(row, sha256="b", mse=row.mse / 10) for row in CONTROL]
    assert learned_start.worths([*CONTROL, *HEAD, *other]) == learned_start.worths(
        [*CONTROL, *HEAD]
    )
    with pytest.raises(InputError, match=r"run benchmarks/oracle\.py"):
        learned_start.worths(HEAD)


def test_the_page_is_that_of_the_committed_records():
    text, names = learned_start.PAGE.read_text(encoding="utf-8"), learned_start.ladder_names()
    rows, lines = oracle.read_rows(learned_start.ORACLE), learned_start.read_training()
    blocks = {
        "ladders": learned_start.ladders_block(names),
        "head-starts": learned_start.oracle_block(rows),
        "training": learned_start.training_block(lines),
        "domains": learned_start.domains_block(lines),
    }
    for name, body in blocks.items():
        assert f"<!-- {name} -->\n{body}<!-- /{name} -->\n" in text, (
            f"{name}: run scripts/learned_start.py"
        )
    assert "learned-96" in names
    for picture in re.findall(r"\]\(([\w-]+\.png)\)", "".join(blocks.values())):
        assert (learned_start.PAGE.parent / picture).read_bytes().startswith(b"\x89PNG")


def test_every_gain_says_where_it_is_from():
    log = (learned_start.ROOT / "docs" / "research-log.md").read_text(encoding="utf-8")
    for line in learned_start.read_training():
        assert line["source"] and (line["fits"] or learned_start.gain(line, 1))
        for entry in re.findall(r"^log (\d+)", line["source"]):
            assert f"\n## {entry}. " in log


@pytest.mark.slow
def test_charts_are_drawn_and_any_records_file_can_be_named(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    kinds = ("ladders", "head-starts", "training", "domains")
    page.write_text("".join(f"<!-- {kind} -->\n<!-- /{kind} -->\n" for kind in kinds))
    for row in [*CONTROL, *HEAD]:
        oracle.write_row(tmp_path / "oracle.csv", row)
    monkeypatch.setattr(learned_start, "PAGE", page)
    monkeypatch.setattr(learned_start, "ORACLE", tmp_path / "oracle.csv")
    assert learned_start.main(["first-screen"]) == 0
    made = {path.name for path in tmp_path.glob("*.png")}
    assert made == {"first-screen.png", "head-starts.png", "learned-training.png"}
    assert "(first-screen.png)" in page.read_text()
    with pytest.raises(SystemExit):
        learned_start.main(["learned-12345"])
    assert "learned-12345" in capsys.readouterr().err
