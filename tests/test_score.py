"""Scores of made-up records whose right answers can be worked out by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from math import inf, nan, sqrt
from typing import Any

import pytest
from records import SETTINGS, ladder, record

from hyperinit.base.errors import InputError
from hyperinit.record.records import CurvePoint, Record
from hyperinit.report.charts import seed_curves
from hyperinit.report.tables import markdown
from hyperinit.score.costs import Cost, mean, performance_profile, ratio, solved_share
from hyperinit.score.groups import groups, select_choices
from hyperinit.score.score import GroupScore, InitScore, score, score_groups

TARGET = 0.08  # an easy one, so that errors are easy to read


def cost(values: dict[Any, float], limit: float = 64.0, **fields: Any) -> Cost:
    """Image -> cost, of one seed each; or (image, seed) -> cost."""
    pairs = {key if isinstance(key, tuple) else (key, 0): v for key, v in values.items()}
    return Cost("epochs", pairs, dict.fromkeys(pairs, limit), **fields)


def by_name(scores: list[InitScore]) -> dict[str, InitScore]:
    return {found.init: found for found in scores}


def tuning(init: str, lr: float, errors: list[float], budget: float = 1.0) -> list[Record]:
    return [
        record(init, f"tuning {i}", mse=error, lr=lr, budget=budget, track="tuned-lr")
        for i, error in enumerate(errors)
    ]


# Learning rates


def select_lrs(records: list[Record]) -> dict[tuple[str, float], float]:
    return {key: choice.lr for key, choice in select_choices(records).items()}


def test_a_rate_is_chosen_by_the_geometric_mean():
    low, high = tuning("33", 1e-4, [0.1, 0.1]), tuning("33", 1e-3, [0.001, 1.0])
    assert select_lrs([*low, *high]) == {("33", 1.0): 1e-3}


def test_a_rate_that_diverged_once_is_not_chosen():
    low, high = tuning("33", 1e-4, [0.5, 0.5]), tuning("33", 1e-3, [1e-6, inf])
    assert select_lrs([*high, *low]) == {("33", 1.0): 1e-4}


def test_a_rate_that_was_not_tried_on_every_image_is_not_chosen():
    low, high = tuning("33", 1e-4, [0.5, 0.5]), tuning("33", 1e-3, [1e-6])
    assert select_lrs([*high, *low]) == {("33", 1.0): 1e-4}


def test_where_every_rate_diverges_the_one_that_does_so_least_is_chosen():
    low, high = tuning("33", 1e-4, [0.5, inf, inf]), tuning("33", 1e-3, [0.9, 0.9, inf])
    assert select_lrs([*low, *high]) == {("33", 1.0): 1e-3}


def test_rates_are_chosen_per_init_and_budget():
    records = [
        *tuning("33", 1e-4, [0.1]),
        *tuning("33", 1e-3, [0.2]),
        *tuning("33", 1e-4, [0.2], budget=2.0),
        *tuning("33", 1e-3, [0.1], budget=2.0),
        *tuning("22", 1e-3, [0.1]),
    ]
    chosen = {("33", 1.0): 1e-4, ("33", 2.0): 1e-3, ("22", 1.0): 1e-3}
    assert select_lrs(records) == chosen


def test_a_pair_with_several_rates_is_scored_at_the_tuned_one():
    runs = [record(mse=0.5, lr=1e-4), record(mse=0.01, lr=1e-3)]
    tuned = [*tuning("33", 1e-4, [0.1]), *tuning("33", 1e-3, [0.2])]
    assert score([*runs, *tuned])[0].rungs[1.0].mse == pytest.approx(0.5)


def test_a_pair_that_was_run_at_other_rates_than_the_best_counts_at_the_best_of_these():
    """Two runs of a benchmark with other tuning images chose otherwise than both sets together."""
    runs = [record(mse=0.5, lr=1e-4), record(mse=0.01, lr=1e-2)]
    tuned = [
        *tuning("33", 1e-4, [0.1, 0.9]),
        *tuning("33", 1e-3, [0.2, 0.2]),
        *tuning("33", 1e-2, [0.8, 0.1]),
    ]
    (found,) = score_groups([*runs, *tuned])
    assert found.inits[0].rungs[1.0].choices == "0.01"
    assert any("33 are on record at several learning rates" in note for note in found.notes)
    assert not score_groups([*runs, *tuning("33", 1e-2, [0.1])])[0].notes


def test_budgets_that_were_not_tuned_take_the_rate_of_the_largest_that_was():
    runs = [record(mse=0.3, lr=1e-4, budget=64.0), record(mse=0.2, lr=1e-3, budget=64.0)]
    tuned = [
        *tuning("33", 1e-3, [0.1], budget=4.0),
        *tuning("33", 1e-3, [0.2], budget=16.0),
        *tuning("33", 1e-4, [0.1], budget=16.0),
    ]
    assert score([*runs, *tuned])[0].rungs[64.0].mse == pytest.approx(0.3)


def test_without_tuning_runs_several_rates_are_refused_unless_asked_for():
    runs = [record(mse=0.5, lr=1e-4), record(mse=0.01, lr=1e-3)]
    with pytest.raises(InputError, match="several learning rates"):
        score(runs)
    assert score(runs, tune_on_test=True)[0].rungs[1.0].choices == "0.001"


def test_rates_chosen_on_test_images_are_one_per_budget_not_one_per_image():
    runs = [
        *(record(image=i, mse=m, lr=1e-4) for i, m in (("a", 0.1), ("b", 0.4))),
        *(record(image=i, mse=m, lr=1e-3) for i, m in (("a", 0.4), ("b", 0.2))),
    ]
    assert score(runs, tune_on_test=True)[0].rungs[1.0].mse == pytest.approx(sqrt(0.1 * 0.4))


# Costs


def test_a_cost_always_says_how_many_pairs_it_is_from():
    assert str(cost({"a": 12.345, "b": 12.345})) == "12.3 epochs (n=2, 2/2 hit)"
    assert str(cost({"a": 1250.0})) == "1250 epochs (n=1, 1/1 hit)"


def test_censored_pairs_are_infinite_in_the_median():
    assert str(cost({"a": 1, "b": 3, "c": inf})) == "3 epochs (n=3, 2/3 hit)"
    assert str(cost({"a": 1, "b": inf, "c": inf})) == "> 64 epochs (n=3, 1/3 hit)"
    assert cost({"a": 1, "b": inf}).median == inf


def test_a_ladder_gives_the_interpolated_cost_in_epochs_and_seconds():
    runs = ladder("33", {1.0: 0.8, 4.0: 0.008})
    found = score(runs)[0].targets[TARGET]
    assert found.epochs.median == pytest.approx(2)
    assert found.seconds.median == pytest.approx(2)


def test_the_start_counts_with_what_making_it_cost():
    runs = ladder("33", {1.0: 0.01}, start_mse=0.05, start_epochs=0.25)
    assert score(runs)[0].targets[TARGET].epochs.median == 0.25


def test_a_first_rung_that_is_good_enough_gives_an_upper_bound():
    found = score(ladder("33", {0.5: 0.01, 1.0: 0.001}))[0].targets[TARGET]
    assert str(found.epochs) == "<= 0.5 epochs (n=1, 1/1 hit)"


def test_a_rung_after_one_that_diverged_gives_an_upper_bound():
    """Its cost was shown, and related to others, as if it were exact."""
    runs = [*ladder("33", {1.0: inf, 4.0: 0.01}), *ladder("22", {1.0: 0.5, 4.0: TARGET})]
    found = by_name(score(runs))
    assert str(found["33"].targets[TARGET].epochs).startswith("<= 4 epochs")
    to_33 = found["22"].targets[TARGET].to_reference
    assert to_33.mean is None and to_33.at_least == pytest.approx(1) and to_33.at_most is None


def test_a_partial_ladder_can_be_scored():
    runs = [*ladder("33", {1.0: 0.5, 2.0: 0.05}), *ladder("22", {1.0: 0.5})]
    found = by_name(score(runs))
    assert str(found["22"].targets[TARGET].epochs) == "> 1 epochs (n=1, 0/1 hit)"


def test_a_diverged_rung_is_a_miss_not_a_failure():
    runs = ladder("33", {1.0: 0.5, 2.0: inf, 4.0: 0.01})
    found = score(runs)[0]
    assert found.targets[TARGET].epochs.median == 4
    assert found.rungs[2.0].mse == inf


# Ratios


def test_the_ratio_is_the_geometric_mean_over_images():
    found = ratio("33", cost({"a": 2, "b": 8}), cost({"a": 1, "b": 2}))
    assert found.mean == pytest.approx(sqrt(2 * 4))
    assert found.low is not None and found.high is not None
    assert 2 <= found.low < found.mean < found.high <= 4
    assert (found.n, found.pairs, found.at_least, found.at_most) == (2, 2, None, None)


def test_seeds_of_one_image_are_no_independent_evidence():
    own = {("a", 0): 2, ("a", 1): 2, ("a", 2): 2, ("b", 0): 8}
    found = ratio("33", cost(own), cost(dict.fromkeys(own, 1)))
    assert found.mean == pytest.approx(4)  # the image with three seeds weighs no more
    alone = {("a", 0): 2, ("a", 1): 3}
    assert ratio("33", cost(alone), cost(dict.fromkeys(alone, 1))).low is None


def test_what_only_the_other_solves_gives_a_lower_bound():
    found = ratio("33", cost({"a": 2, "b": inf}), cost({"a": 1, "b": 4}))
    assert found.mean == pytest.approx(2)
    assert found.at_least == pytest.approx(sqrt(2 * 64 / 4))
    assert str(found) == "2 (n=1/2), at least 5.66"


def test_what_only_this_one_solves_gives_an_upper_bound():
    found = ratio("33", cost({"a": 2, "b": 4}), cost({"a": 1, "b": inf}))
    assert found.at_most == pytest.approx(sqrt(2 * 4 / 64)) and found.at_least is None


def test_censoring_on_both_sides_leaves_no_bound():
    found = ratio("33", cost({"a": 2, "b": inf, "c": 4}), cost({"a": 1, "b": 4, "c": inf}))
    assert found.mean == pytest.approx(2)
    assert (found.at_least, found.at_most) == (None, None)


def test_pairs_neither_solves_say_nothing():
    found = ratio("33", cost({"a": 2, "b": inf}), cost({"a": 1, "b": inf}))
    assert (found.mean, found.n, found.at_least, found.at_most) == (2, 1, None, None)


def test_a_cost_that_is_only_bounded_gives_no_exact_ratio():
    bounded = cost({"a": 0.5, "b": 2}, at_most=frozenset({("a", 0)}))
    found = ratio("33", bounded, cost({"a": 1, "b": 1}))
    assert (found.mean, found.n) == (2, 1)
    assert found.at_most == pytest.approx(1) and found.at_least is None


def test_no_common_solved_pair_gives_a_bound_only():
    found = ratio("33", cost({"a": inf}), cost({"a": 4}))
    assert found.mean is None and found.at_least == pytest.approx(16)
    assert str(found) == "- (n=0/1), at least 16"


def test_ratios_are_to_the_reference_and_to_the_best_hand_designed_init():
    runs = []
    for image in ("a", "b"):
        runs += ladder("33", {1.0: 0.8, 4.0: 0.008}, image)
        runs += ladder("22", {1.0: 0.08, 4.0: 0.008}, image)
        runs += ladder("hyper", {0.5: 0.08, 4.0: 0.001}, image, init_facts={"sha256": "h"})
    found = by_name(score(runs, reference="33"))
    best = found["hyper"].targets[TARGET].to_best
    reference = found["hyper"].targets[TARGET].to_reference
    assert best is not None and best.to == "22"  # not itself, although it is cheaper
    assert reference is not None and reference.to == "33"
    assert found["22"].targets[TARGET].to_best is None
    assert score(runs)[0].init == "hyper"


def test_an_absent_reference_gives_no_ratio():
    found = score(ladder("22", {1.0: 0.01}), reference="33")[0].targets[TARGET]
    assert found.to_reference is None


def test_intervals_are_the_same_every_time():
    own = cost({str(i): 1.0 + i for i in range(8)})
    other = cost(dict.fromkeys(map(str, range(8)), 1.0))
    assert ratio("33", own, other) == ratio("33", own, other)


# Shares


def test_kaplan_meier_counts_censored_pairs_in_the_share():
    costs, shares = solved_share(cost({"a": 1, "b": 2, "c": inf, "d": inf}))
    solved = dict(zip(costs, shares, strict=True))
    assert solved[1] == pytest.approx(0.25) and solved[2] == pytest.approx(0.5)
    assert max(shares) == pytest.approx(0.5)


def test_kaplan_meier_learns_nothing_from_pairs_that_were_stopped_earlier():
    early = Cost("epochs", {("a", 0): 2.0, ("b", 0): inf}, {("a", 0): 64.0, ("b", 0): 1.0})
    costs, shares = solved_share(early)
    assert dict(zip(costs, shares, strict=True))[2] == pytest.approx(1.0)


def test_no_pair_solved_is_an_empty_curve():
    assert solved_share(cost({"a": inf})) == ([], [])


def test_the_performance_profile_is_relative_to_the_cheapest_of_each_pair():
    costs = {"33": cost({"a": 1, "b": 4, "c": inf}), "22": cost({"a": 2, "b": 2, "c": inf})}
    profiles = performance_profile(costs)
    assert profiles["33"] == ([1.0, 2.0], [pytest.approx(1 / 3), pytest.approx(2 / 3)])
    assert profiles["22"] == ([1.0, 2.0], [pytest.approx(1 / 3), pytest.approx(2 / 3)])


# What may be compared


def test_workloads_are_kept_apart():
    small = record(settings={**SETTINGS, "image_size": 96})
    assert len(groups([record(), small, record(track="open")])) == 3
    with pytest.raises(InputError, match="different workloads"):
        score([record(), small])


def test_in_the_tuned_track_every_init_is_fitted_alike():
    other = record("22", settings={**SETTINGS, "weight_decay": 0.01})
    assert len(groups([record(), other])) == 2
    opened = [record(track="open"), record("22", track="open", settings=other.settings)]
    assert len(groups(opened)) == 1


def test_tuning_runs_belong_to_the_track_they_serve():
    assert len(groups([record(), *tuning("33", 1e-3, [0.1])])) == 1


def test_two_checkpoints_of_one_name_are_not_mixed():
    runs = [record("hyper", init_facts={"sha256": h}, image=h) for h in ("a", "b")]
    with pytest.raises(InputError, match="hyper"):
        score(runs)


def test_tuning_runs_alone_cannot_be_scored():
    with pytest.raises(InputError, match="no test runs"):
        score(tuning("33", 1e-3, [0.1]))


# The seed track


def seed_record(init: str, rows: list[tuple[int, float, float]]) -> Record:
    """Rows of (step, grid MSE, training loss)."""
    curve = tuple(CurvePoint(0.1 * step, step, 0.0, mse, 30.0, train) for step, mse, train in rows)
    settings = {**SETTINGS, "batch_pixels": 8192}
    return record(init, track="seed", curve=curve, settings=settings)


def test_the_seed_track_reads_both_errors_off_the_curve():
    rows = [(0, 1.0, nan), (70, 0.09, 0.07), (140, 0.07, 0.019), (700, 1e-3, 7e-4)]
    (found,) = score([seed_record("33", rows)])
    assert str(found.targets[0.08].train) == "10 seed epochs (n=1, 1/1 hit)"
    assert str(found.targets[0.08].epochs) == "20 seed epochs (n=1, 1/1 hit)"
    assert found.targets[8e-4].train.median == 100
    assert str(found.targets[8e-4].epochs) == "> 100 seed epochs (n=1, 0/1 hit)"


def test_the_seed_track_counts_what_making_a_start_took():
    """Sixteen steps on the image were free there, in the tables and in the chart."""
    visited = 7 * 8192 / 224**2  # a seed epoch, in visits to each pixel
    ends = [CurvePoint(e * visited, s, 0, m, 30, m) for e, s, m in ((3, 0, 1.0), (13, 70, 0.07))]
    run = replace(seed_record("steps", [(0, 1.0, nan)]), curve=tuple(ends))
    (found,) = score([run])
    cost = found.targets[0.08].epochs
    assert cost.median == cost.limits["cat", 0] == pytest.approx(13)
    assert found.targets[0.02].train.limits["cat", 0] == pytest.approx(13)
    (axes,) = seed_curves([found], "title").axes
    assert [line.get_xdata()[-1] for line in axes.get_lines()[:2]] == pytest.approx([13, 13])


def test_of_two_curves_of_a_pair_the_longer_one_counts_alone():
    """A benchmark that was run again with a larger budget: its chart ended where the first did."""
    rows = [(0, 1.0, nan), (70, 0.5, 0.5), (140, 0.25, 0.25)]
    long, short = seed_record("33", rows), seed_record("33", rows[:2])
    (found,) = score([replace(long, budget_epochs=14.0), replace(short, budget_epochs=7.0)])
    assert [run.budget_epochs for run in found.runs] == [14.0]
    assert found.mse_curve("epochs")[-1] == (14.0, 0.25)


def test_the_seed_track_lists_the_fastest_init_first():
    slow = seed_record("paper", [(0, 1.0, nan), (1400, 1e-4, 1e-4)])
    fast = seed_record("33", [(0, 1.0, nan), (700, 1e-4, 1e-4)])
    assert [found.init for found in score([slow, fast])] == ["33", "paper"]


# Reports over everything there is


def only(records: list[Record], **options: Any) -> GroupScore:
    (found,) = score_groups(records, strict=False, **options)
    return found


def test_several_rates_without_tuning_runs_are_chosen_and_that_is_said():
    untuned = [record("a", mse=0.5, lr=1e-4), record("a", mse=0.01, lr=1e-3)]
    tuned = [record("b", mse=0.2, lr=1e-4), record("b", mse=0.1, lr=1e-3)]
    records = [*untuned, *tuned, *tuning("b", 1e-4, [0.1]), *tuning("b", 1e-3, [0.2])]
    found = only(records)
    rates = {s.init: s.rungs[1.0].chosen[0].lr for s in found.inits}
    assert rates == {"a": 1e-3, "b": 1e-4}  # b's are not chosen on its test runs
    (note,) = found.notes
    assert "no tuning runs of a:" in note and "favours" in note
    assert rates == {s.init: s.rungs[1.0].chosen[0].lr for s in only(records[::-1]).inits}


def test_two_makes_of_one_name_are_kept_apart_and_the_reference_keeps_its_name():
    usual = [one for image in ("a", "b") for one in ladder("33", {1.0: 0.5, 4.0: 0.01}, image)]
    other = ladder("33", {1.0: 0.9, 4.0: 0.05}, "a", init_facts={"sha256": "x"})
    found = only([*other, *usual])
    names = sorted(s.init for s in found.inits)
    assert names[0] == "33" and re.fullmatch(r"33 \([0-9a-f]{6}\)", names[1])
    assert by_name(list(found.inits))["33"].runs == usual
    ratio = by_name(list(found.inits))[names[1]].targets[TARGET].to_reference
    assert ratio is not None and ratio.to == "33"
    assert any(f"{names[1]} is not 33" in note for note in found.notes)
    assert any("own pairs" in note for note in found.notes)  # they have run on different images


def test_tuning_runs_of_one_make_choose_for_that_make_alone():
    facts = {"init_facts": {"sha256": "x"}}
    lows = [record("a", mse=0.3, lr=1e-4, **facts), record("a", mse=0.2, lr=1e-3, **facts)]
    mine = [record("a", mse=0.3, lr=1e-4, image="b"), record("a", mse=0.2, lr=1e-3, image="b")]
    tuned = [
        record("a", "t", mse=mse, lr=lr, track="tuned-lr", **more)
        for more, errors in ((facts, (0.1, 0.2)), ({}, (0.2, 0.1)))
        for lr, mse in zip((1e-4, 1e-3), errors, strict=True)
    ]
    found = only([*lows, *mine, *tuned])
    assert {s.runs[0].image_hash: s.rungs[1.0].chosen[0].lr for s in found.inits} == {
        "cat": 1e-4,
        "b": 1e-3,
    }


def test_versions_of_the_protocol_never_mix():
    old = [*ladder("33", {1.0: 0.5}), *ladder("22", {1.0: 0.4})]
    new = [*ladder("33", {1.0: 0.1}, version=2), *ladder("22", {1.0: 0.3}, version=2)]
    first, second = score_groups([*old, *new])
    assert (first.group.workload.version, second.group.workload.version) == (1, 2)
    assert all(run.version == 2 for s in second.inits for run in s.runs)
    with pytest.raises(InputError, match="different workloads"):
        score([*old, *new])


def test_version_2_chooses_the_batch_too_and_compares_across_batches():
    def at(image: str, batch: int, mse: float, **more: Any) -> Record:
        settings = {**SETTINGS, "batch_pixels": batch, "rising_rates": True}
        return record("33", image, mse=mse, settings=settings, version=2, **more)

    records = [
        *(at("t", 2048, 0.2, track="tuned-lr"), at("t", 256, 0.1, track="tuned-lr")),
        *(at("cat", 2048, 0.01), at("cat", 256, 0.02)),
        record("22", mse=0.3, settings={**SETTINGS, "batch_pixels": 1024}, version=2),
    ]
    (found,) = score_groups(records)
    rungs = {s.init: s.rungs[1.0] for s in found.inits}
    assert rungs["33"].mse == pytest.approx(0.02)  # as was best on the tuning image
    assert rungs["33"].choices == "0.0005, batch_pixels 256"
    assert set(rungs) == {"22", "33"}


def test_a_record_of_version_2_that_says_nothing_of_its_rates_has_one_for_all_layers():
    tuned = [
        record("33", "t", mse=mse, track="tuned-lr", settings={**SETTINGS, **more}, version=2)
        for mse, more in ((0.2, {"rising_rates": True}), (0.1, {}))
    ]
    tests = [replace(one, track="tuned", is_tuning=False, image_hash="cat") for one in tuned]
    (found,) = score_groups([*tuned, *tests])
    (one,) = found.inits
    assert one.rungs[1.0].mse == pytest.approx(0.1)
    assert one.rungs[1.0].choices.endswith("rising_rates False")


def test_sections_are_by_track_size_and_version():
    small = {**SETTINGS, "image_size": 96}
    records = [
        *(record(track="open"), record(settings=small), record(), record(version=2)),
        record(track="of my own"),
    ]
    order = [found.workload for found in sorted(groups(records), key=lambda g: g.workload.order)]
    assert [(w.track.name, w.image_size, w.version) for w in order] == [
        *(("tuned", 224, 2), ("tuned", 224, 1), ("tuned", 96, 1), ("open", 224, 1)),
        ("of my own", 224, 1),
    ]


def test_crops_of_one_photograph_are_no_independent_images():
    # On photograph "a" ours is cheaper by far, on "b" dearer: four crops of each tell no more.
    crops = [(f"{photo} {k}", photo) for photo in "ab" for k in range(4)]
    records = [
        one
        for crop, photo in crops
        for init, error in (("33", 1e-3), ("hyper", 1e-5 if photo == "a" else 6e-2))
        for one in ladder(init, {1.0: 1.0, 64.0: error}, crop, source_hash=photo)
    ]
    found = by_name(score(records))["hyper"].targets[TARGET].to_reference
    alone = [one for one in records if one.image_hash.endswith("0")]
    wanted = by_name(score(alone))["hyper"].targets[TARGET].to_reference
    assert found.mean == pytest.approx(wanted.mean) and found.pairs == 8
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    # A record that does not say so is of the same image as one that does.
    unsaid = [replace(one, source_hash="") if one.init == "33" else one for one in records]
    assert by_name(score(unsaid))["hyper"].targets[TARGET].to_reference == found
    assert "test images 8 of 2 photographs" in markdown(score_groups(records))


def test_a_mean_psnr_has_its_interval_over_photographs_too():
    psnr = {("a", 0): 20.0, ("a quarter", 0): 22.0, ("b", 0): 30.0}
    found = mean(psnr, {"a": "a", "a quarter": "a"})
    assert (found.value, found.low, found.high, found.n) == (25.5, 21.0, 30.0, 3)
