"""Numbers of scores: interpolation between rungs, censoring, how they are printed."""

from __future__ import annotations

from math import inf, nan

import pytest

from hyperinit.score.costs import (
    Cost,
    Ratio,
    cost_to_target,
    geometric_mean,
    number,
    performance_profile,
    ratio,
)

LIMITS = dict.fromkeys([("a", 0), ("b", 0), ("b", 1), ("c", 0)], 64.0)


def test_a_cost_is_interpolated_in_logarithms_between_the_rungs_around_the_target():
    # Errors fall by 100 from 3 to 12 epochs; the target is half-way in logarithms.
    assert cost_to_target([0.0, 3.0, 12.0], [2.0, 1.0, 0.01], 0.1) == pytest.approx(6.0)
    assert cost_to_target([3.0, 12.0, 48.0], [1.0, 0.1, 1e-3], 0.01) == pytest.approx(24.0)


def test_a_rung_that_is_exactly_at_the_target_has_reached_it():
    assert cost_to_target([2.0, 8.0], [0.5, 0.1], 0.1) == pytest.approx(8.0)
    assert cost_to_target([2.0, 8.0], [0.1, 0.05], 0.1) == 2.0


@pytest.mark.parametrize(
    ("costs", "errors", "cost"),
    [
        ([0.0, 4.0], [1.0, 0.05], 4.0),  # what came before cost nothing
        ([0.0, 4.0], [0.05, 0.01], 0.0),  # the start is enough
        ([1.0, 4.0], [inf, 0.05], 4.0),  # what came before diverged
        ([1.0, 4.0], [1.0, 0.0], 4.0),  # a perfect fit has no logarithm
        ([1.0, 4.0], [1.0, 0.5], inf),
        ([1.0, 4.0], [nan, nan], inf),
        ([], [], inf),
    ],
)
def test_where_there_is_nothing_to_interpolate(costs, errors, cost):
    assert cost_to_target(costs, errors, 0.1) == cost


def test_costs_and_errors_must_be_as_many():
    with pytest.raises(ValueError, match="shorter"):
        cost_to_target([1.0, 2.0], [1.0], 0.1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.123"),
        (999.0, "999"),
        (1000.0, "1000"),
        (1234.4, "1234"),
        (-1000.0, "-1000"),
        (999_999.0, "999999"),
        (1e6, "1e+06"),
    ],
)
def test_numbers_have_three_digits_and_thousands_no_exponent(value, text):
    assert number(value) == text


def test_the_geometric_mean_is_infinite_as_soon_as_one_value_is():
    assert geometric_mean([1.0, 4.0, 16.0]) == pytest.approx(4.0)
    assert geometric_mean([1.0, inf]) == inf and geometric_mean([0.0, 4.0]) == 0.0


def cost(values, limit=64.0, at_most=()):
    pairs = {(name, 0): value for name, value in values.items()}
    return Cost("epochs", pairs, dict.fromkeys(pairs, limit), frozenset((n, 0) for n in at_most))


def test_a_cost_says_its_median_and_how_many_hit():
    assert str(cost({"a": 2.0, "b": 4.0, "c": 9.0})) == "4 epochs (n=3, 3/3 hit)"
    assert str(cost({"a": 2.0, "b": inf, "c": inf})) == "> 64 epochs (n=3, 1/3 hit)"
    assert str(cost({"a": 2.0, "b": 4.0}, at_most="ab")) == "<= 3 epochs (n=2, 2/2 hit)"


def test_a_ratio_is_over_exact_pairs_and_bounds_are_over_all():
    ours = cost({"a": 2.0, "b": 8.0, "c": inf, "d": 1.0}, at_most="d")
    theirs = cost({"a": 4.0, "b": 4.0, "c": 16.0, "d": 4.0, "e": 1.0})
    found = ratio("theirs", ours, theirs)
    assert found.mean == pytest.approx(1.0) and (found.n, found.pairs) == (2, 4)
    assert found.low is not None and found.low < 1 < found.high
    # c is at least 64 / 16, d at most 1 / 4: censored on both sides, so there is no bound.
    assert found.at_least is None and found.at_most is None
    bounded = ratio("theirs", cost({"a": 2.0, "c": inf}), cost({"a": 4.0, "c": 16.0}))
    assert bounded.at_least == pytest.approx((0.5 * 4.0) ** 0.5) and bounded.at_most is None


def test_a_ratio_is_printed_with_its_interval_and_its_bounds():
    full = Ratio("33", 1.934, 1.712, 2.2, 44, 48, at_least=2.01, at_most=3.5)
    assert str(full) == "1.93 [1.71, 2.2] (n=44/48), at least 2.01, at most 3.5"
    assert str(Ratio("33", 1.934, None, None, 1, 1)) == "1.93 (n=1/1)"
    assert str(Ratio("33", None, None, None, 0, 3)) == "- (n=0/3)"


def test_pairs_without_a_range_are_passed_over_and_images_count_once():
    # The first pair is solved by neither; the seeds of image "b" are averaged before.
    ours = Cost("epochs", {("a", 0): inf, ("b", 0): 1.0, ("b", 1): 4.0, ("c", 0): 16.0}, LIMITS)
    theirs = Cost("epochs", {("a", 0): inf, ("b", 0): 1.0, ("b", 1): 1.0, ("c", 0): 4.0}, LIMITS)
    found = ratio("theirs", ours, theirs)
    assert (found.n, found.pairs) == (3, 4)
    assert found.mean == pytest.approx((2.0 * 4.0) ** 0.5)


def test_a_profile_is_of_the_pairs_that_all_ran_and_free_starts_are_one():
    shared = {("a", 0): 2.0, ("b", 0): 0.0}
    ours = Cost("epochs", {**shared, ("c", 0): 9.0}, {})
    theirs = Cost("epochs", {("a", 0): 4.0, ("b", 0): inf}, {})
    profile = performance_profile({"ours": ours, "theirs": theirs})
    assert profile == {"ours": ([1.0, 1.0], [0.5, 1.0]), "theirs": ([2.0], [0.5])}
    # What costs something is within no factor of what costs nothing.
    paid = Cost("epochs", {("a", 0): 4.0, ("b", 0): 8.0}, {})
    assert performance_profile({"ours": ours, "paid": paid})["paid"] == ([2.0], [0.5])


def test_pairs_that_are_free_are_left_out_of_a_ratio_and_counted():
    ours = cost({**dict.fromkeys("abcdefghi", 0.0), "j": 8.0, "k": 1.0, "l": 0.0})
    theirs = cost({**dict.fromkeys("abcdefghi", 4.0), "j": 4.0, "k": 0.0, "l": 0.0})
    found = ratio("theirs", ours, theirs)
    assert str(found) == "2 (n=1/12; free on 9, to the other on 1, to both on 1)"
    assert (found.free, found.other_free, found.both_free) == (9, 1, 1)
    back = ratio("ours", theirs, ours)
    assert (back.free, back.other_free, back.both_free) == (1, 9, 1)


def test_a_median_is_a_bound_if_a_pair_in_its_middle_is():
    assert str(cost({"a": 1.0, "b": 3.0}, at_most="a")) == "<= 2 epochs (n=2, 2/2 hit)"
    assert str(cost({"a": 1.0, "b": 3.0, "c": 3.0}, at_most="a")) == "3 epochs (n=3, 3/3 hit)"
    assert str(cost({"a": 1.0, "b": 3.0, "c": 3.0}, at_most="bc")) == "<= 3 epochs (n=3, 3/3 hit)"


def test_a_median_of_nothing_is_no_bound():
    assert str(cost({"a": 0.0, "b": 0.0, "c": 2.0})) == "0 epochs (n=3, 3/3 hit)"
    assert str(cost({"a": 0.0, "b": 0.0, "c": 2.0}, at_most="c")) == "0 epochs (n=3, 3/3 hit)"
