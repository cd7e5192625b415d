"""The comparison at the end of meta-training: fair choice of rates, honest dashes."""

from __future__ import annotations

import pytest
from conftest import smooth_image, tiny_hyper

from hyperinit.app.compare import (
    comparison_figure,
    comparison_size,
    run_comparison,
    write_comparison,
)
from hyperinit.images.decode import load_image
from hyperinit.inits.rules import named_init
from hyperinit.inits.start import model_init, spec_init
from hyperinit.photos.workload import NamedImage
from hyperinit.record.protocol import Protocol
from hyperinit.record.records import CurvePoint, Record, read_records
from hyperinit.report.tables import at_best_lr, comparison_table


def record(init, image, lr, budget, mse, start=1.0, diverged=False) -> Record:
    """A record with a curve of just a start and an end; a second an epoch."""
    begin = CurvePoint(0.0, 0, 0.0, start, 10.0, 0.0)
    curve = (begin, CurvePoint(budget, 10, 2 * budget, mse, 20.0, mse))
    return Record(
        track="tuned",
        init=init,
        init_facts={},
        image=image,
        image_hash=image,
        seed=0,
        lr=lr,
        budget_epochs=budget,
        curve=curve,
        init_epochs=0.0,
        init_sec=0.0,
        params_hash="",
        diverged=diverged,
    )


def by_column(table: str) -> dict[str, str]:
    """The only row of a table, by column."""
    header, _, row = (line.strip("| ").split(" | ") for line in table.splitlines())
    return dict(zip(header, row, strict=True))


def test_each_init_gets_its_own_best_rate_per_budget_over_all_images():
    records = [
        # On image a alone 1e-3 is best; over both images it is 1e-4.
        *(record("33", "a", 1e-3, 2, 0.1), record("33", "b", 1e-3, 2, 0.9)),
        *(record("33", "a", 1e-4, 2, 0.2), record("33", "b", 1e-4, 2, 0.2)),
        *(record("paper", "a", 1e-3, 2, 0.1), record("paper", "b", 1e-3, 2, 0.1)),
        record("paper", "a", 1e-4, 2, 0.05, diverged=True),
        record("paper", "b", 1e-4, 2, 0.05),
    ]
    assert {(r.init, r.lr) for r in at_best_lr(records)} == {("33", 1e-4), ("paper", 1e-3)}


def test_the_table_interpolates_between_budgets_and_shows_what_is_not_reached():
    ladder = [record("33", "a", 1e-3, b, e) for b, e in ((2, 0.4), (8, 0.016), (32, 0.00064))]
    cells = by_column(comparison_table(ladder))
    # log-log: 0.08 is half-way between 0.4 and 0.016, so the geometric mean of 2 and 8 epochs
    assert cells["epochs to 0.08"] == "4 (1/1)" and cells["seconds to 0.08"] == "8 (1/1)"
    assert 8 < float(cells["epochs to 0.0008"].split()[0]) < 32
    assert by_column(comparison_table(ladder[:2]))["epochs to 0.0008"] == "- (0/1)"


def test_a_target_met_at_step_0_costs_only_the_start():
    solved = [record("hyper", "a", 1e-3, 2, 0.01, start=0.05)]
    assert by_column(comparison_table(solved))["epochs to 0.08"] == "0 (1/1)"


def test_budgets_that_some_images_were_not_fitted_for_say_how_many_were():
    solved = [record("33", "a", 1e-3, 2, 0.0004)]
    hard = [record("33", "b", 1e-3, b, e) for b, e in ((2, 0.4), (8, 0.016))]
    cells = by_column(comparison_table([*solved, *hard]))
    assert cells["MSE after 2 epochs (LR)"] == "0.2 (0.001)"
    assert cells["MSE after 8 epochs (LR)"] == "0.016 (0.001, n=1)"
    table = comparison_table([*hard, record("paper", "b", 1e-3, 2, 0.4)])
    assert table.splitlines()[-1].split(" | ")[3] == "-"


@pytest.fixture
def fits():
    protocol = Protocol(
        image_size=16,
        width=16,
        depth=2,
        budgets_epochs=(4, 1, 2),
        lrs=(1e-3, 1e-2),
        lr_budget_epochs=2,
        batch_pixels=64,
    )
    images = [NamedImage.cropped(str(seed), smooth_image(seed=seed), 16) for seed in (1, 2)]
    inits = [spec_init("33", named_init("33"), 16, 2), model_init("hyper", tiny_hyper())]
    fits = list(run_comparison(inits, images, protocol))
    assert len(fits) == comparison_size(len(inits), len(images), protocol)
    return fits, images


def test_every_init_is_run_on_every_image_at_every_budget_and_rate(fits):
    records = [fit.record for fit in fits[0]]
    assert len({record.trial for record in records}) == 2 * 2 * (2 * 2 + 1)
    for init in ("33", "hyper"):
        by_budget = {
            b: {r.lr for r in records if r.init == init and r.budget_epochs == b} for b in (1, 2, 4)
        }
        # the largest budget takes the rate that was best before
        best = {r.lr for r in at_best_lr(records) if r.init == init and r.budget_epochs == 2}
        assert by_budget == {1: {1e-3, 1e-2}, 2: {1e-3, 1e-2}, 4: best}
    hyper = [record for record in records if record.init == "hyper"]
    # its inner steps are part of the declared budget
    assert all(r.epochs == pytest.approx(r.budget_epochs) for r in hyper)
    assert all(r.init_epochs == pytest.approx(2 * 32 / 256) for r in hyper)


@pytest.mark.slow
def test_the_files_hold_what_was_measured(fits, tmp_path):
    table = write_comparison(*fits, tmp_path)
    assert (tmp_path / "comparison.md").read_text() == table
    stored = read_records(tmp_path / "comparison.jsonl")
    assert [r.mse for r in stored] == [fit.record.mse for fit in fits[0]]
    assert comparison_table(stored) == table
    titles = [axis.get_title() for axis in comparison_figure(*fits).axes[:9]]
    assert titles[:3] == ["image", "33\nstep 0", "33\n1 epochs"] and titles[-1].startswith("hyper")
    _, height, width = load_image(tmp_path / "comparison.png").shape
    assert width > height > 100


def test_records_say_which_photograph_an_image_is_a_crop_of():
    sizes = {"image_size": 16, "width": 16, "depth": 2, "batch_pixels": 64}
    protocol = Protocol(**sizes, budgets_epochs=(1,), lrs=(1e-3,))
    image = NamedImage.cropped("wide", smooth_image(24, seed=1)[:, :20], 16)
    inits = [spec_init("33", named_init("33"), 16, 2)]
    (fit,) = run_comparison(inits, [image], protocol)
    assert fit.record.source_hash == image.source_hash != fit.record.image_hash
