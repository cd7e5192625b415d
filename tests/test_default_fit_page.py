"""The table of default rates: what it says of a record, and that the page has today's."""

from __future__ import annotations

import pytest

from benchmarks.default_fit import DOCUMENT, RECORD, table, update_document
from benchmarks.lines import read_lines
from hyperinit.base.errors import InputError


def line(size: str, factor: float, psnr: float, photo: str = "chelsea.png") -> dict:
    facts = {"photo": photo, "budget_epochs": 8.0, "init": "untrained", "width": 256}
    return {"size": size, "factor": factor, "psnr": psnr, "lr": 2e-4 * factor, **facts}


def test_a_row_says_how_far_the_default_is_behind_the_best():
    rows = table([line("32x32", 1.0, 40.0), line("32x32", 0.5, 41.25), line("96x96", 1.0, 30.0)])
    first, second = rows.splitlines()[2:]
    assert "| 32 x 32 |" in first and first.endswith("| 40.00 | 41.25 (0.5) | 1.25 |")
    assert second.endswith("| 30.00 | - | - |")


def test_photographs_of_a_size_are_averaged_before_the_best_rate_is_chosen():
    lucky = [line("32x32", 1.0, 40.0), line("32x32", 0.5, 44.0)]
    other = [line("32x32", 1.0, 50.0, "coffee.png"), line("32x32", 0.5, 47.0, "coffee.png")]
    row = table(lucky + other).splitlines()[2]
    assert "| chelsea.png, coffee.png |" in row and row.endswith("| 45.00 | 45.50 (0.5) | 0.50 |")


def test_a_fit_that_failed_is_never_the_best():
    failed = {"size": "32x32", "photo": "chelsea.png", "factor": 2.0, "error": "collapsed"}
    assert table([line("32x32", 1.0, 40.0), failed]).endswith("| 40.00 (1) | 0.00 |\n")


def test_the_page_has_the_committed_record():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert update_document(text, read_lines(RECORD)) == text


def test_a_page_without_its_block_is_one_line():
    with pytest.raises(InputError, match=r"fit-engine\.md: 0 generated blocks"):
        update_document("no block", [])
