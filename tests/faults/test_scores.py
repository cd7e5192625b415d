"""What scores say of odd records: starts that are no number, starts that are perfect, conflicts."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isnan, nan

import pytest
from records import ladder

from hyperinit.app.cli import main
from hyperinit.record.records import CurvePoint, Record, append_record, read_records
from hyperinit.report.page import page
from hyperinit.report.tables import comparison_table, markdown, score_rows
from hyperinit.score.score import score_groups


def with_start(records: list[Record], mse: float, psnr: float) -> list[Record]:
    """The same, from another start."""
    start = CurvePoint(0.0, 0, 0.0, mse, psnr, nan)
    return [replace(one, curve=(start, *one.curve[1:])) for one in records]


@pytest.mark.parametrize(("mse", "shown"), [(inf, "-"), (nan, "-"), (0.0, "inf")])
def test_a_start_that_is_no_number_is_not_perfect(tmp_path, capsys, mse, shown):
    kept = ladder("33", {1.0: 0.3, 2.0: 0.01})
    odd = with_start(ladder("odd", {1.0: 0.3, 2.0: 0.01}), mse, inf if mse == 0 else nan)
    for one in [*kept, *odd, *ladder("odd", {1.0: 0.3}, "dog")]:
        append_record(tmp_path / "r.jsonl", one)
    records = read_records(tmp_path / "r.jsonl")
    (found,) = score_groups(records, strict=False)
    own = next(s for s in found.inits if s.init == "odd")
    assert isnan(own.start_psnr) == (shown == "-")
    assert f"| odd | {shown} | " in markdown([found])
    assert f"| odd | {shown} | " in comparison_table(records[:4])
    assert "nan dB" not in page([found])
    assert main(["score", str(tmp_path / "r.jsonl"), "--json"]) == 0
    assert '"init": "odd", "psnr_start": null' in capsys.readouterr().out
    assert len(score_rows([found])) == 6


@pytest.mark.parametrize("strict", [True, False])
def test_inits_that_ran_on_different_images_are_not_compared_without_a_word(strict):
    apart = [*ladder("33", {1.0: 0.01}, "cat"), *ladder("22", {1.0: 0.02}, "dog")]
    (found,) = score_groups(apart, strict=strict)
    assert "Not every init was run on the same images" in markdown([found])
    alike = [*ladder("33", {1.0: 0.01}, "cat"), *ladder("22", {1.0: 0.02}, "cat")]
    (found,) = score_groups(alike, strict=strict)
    assert "Not every init was run on the same images" not in markdown([found])


def test_records_of_one_trial_that_disagree_are_not_taken_without_a_word(tmp_path, caplog):
    one = ladder("33", {1.0: 0.3, 2.0: 0.01})
    other = [replace(r, curve=(*r.curve[:-1], replace(r.curve[-1], mse=1e-5))) for r in one]
    for name, records in (("a", one), ("again", one), ("b", other)):
        for record in records:
            append_record(tmp_path / f"{name}.jsonl", record)
    read_records([tmp_path / "a.jsonl", tmp_path / "again.jsonl"])
    assert not caplog.records
    found = read_records([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert [r.curve[-1].mse for r in found] == [0.3, 0.01]
    assert "2 trials have several records" in caplog.text


def test_a_curve_is_of_the_same_images_from_end_to_end():
    easy = ladder("33", {1.0: 1e-4}, "easy")
    hard = ladder("33", {1.0: 0.3, 2.0: 0.25, 4.0: 0.2}, "hard")
    (found,) = score_groups([*easy, *hard], strict=False)
    (own,) = found.inits
    assert list(own.rungs) == [1.0, 2.0, 4.0] and list(own.whole_rungs) == [1.0]
    assert len(own.mse_curve("epochs")) == 2  # the start, and the one budget that both took
    (alone,) = score_groups(hard, strict=False)
    assert len(alone.inits[0].mse_curve("epochs")) == 4
