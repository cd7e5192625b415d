"""Rates over time and depth."""

from __future__ import annotations

import pytest

from hyperinit.stepping.schedule import DECAY_POWERS, decay, layer_factors


def test_decay_falls_from_one_to_nothing():
    assert decay(0.0, 0.7) == 1 and decay(1.0, 0.7) == 0
    assert decay(0.75, 0.5) == pytest.approx(0.5)
    assert decay(0.3, 1.0) == pytest.approx(0.7)
    values = [decay(step / 10, DECAY_POWERS["power"]) for step in range(11)]
    assert values == sorted(values, reverse=True) and DECAY_POWERS["power"] < 1
    assert decay(0.9, 0.0) == decay(1.0, 0.0) == 1
    assert decay(1.0000001, 0.7) == 0 and decay(-0.1, 0.7) == 1


def test_layer_factors_are_those_that_were_measured():
    assert layer_factors(5) == pytest.approx((0.5, 0.6, 0.9, 1.2, 1.5, 5), rel=0.11)
    assert layer_factors(4) == pytest.approx((0.5, 0.6, 1.0, 1.5, 5), rel=0.21)


@pytest.mark.parametrize("depth", range(1, 12))
def test_layer_factors_suit_any_depth(depth):
    *sines, output = layer_factors(depth)
    assert len(sines) == depth and output == 5
    assert sines == sorted(sines)
    if depth > 1:
        assert (sines[0], sines[-1]) == pytest.approx((0.5, 1.5))
    assert 0.5 <= sines[0] <= sines[-1] <= 1.5 + 1e-9
