"""The seed experiment's 38 rows: what each one draws, and the table users read."""

from __future__ import annotations

import runpy
from dataclasses import replace
from math import pi, sqrt
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baselines import ROWS, Row, row
from hyperinit.base.errors import InputError
from hyperinit.fitting.fit import fit
from hyperinit.images.coords import COORD_STD
from hyperinit.inits.rules import (
    NAMED_INITS,
    PAPER_INIT,
    USUAL,
    BiasRule,
    WeightRule,
    sample_params,
)
from hyperinit.siren.network import Params, apply, param_shapes

INITS_PAGE = Path(__file__).parent.parent / "docs" / "reference" / "inits.md"
OUTPUT = 5  # index of the linear layer of the 5 x 256 network

every_row = pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)


def draw(row: Row, seed: int = 0, width: int = 256, depth: int = 5) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return sample_params(row.init, row.init.siren_config(width, depth), generator=generator)


def random_coords(count: int = 64) -> Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(7)) * 2 - 1


def assert_drawn(values: Tensor, kind: str, scale: float) -> None:
    """`values` are what a uniform of bound `scale`, or a normal of std `scale`, would give."""
    std = scale if kind == "normal" else scale / sqrt(3)
    kurtosis = 3.0 if kind == "normal" else 1.8
    count = values.numel()
    # Standard errors of a sample's mean, and of its std about a known mean of 0
    mean_error, std_error = std / sqrt(count), std * sqrt((kurtosis - 1) / (4 * count))
    values = values.double()
    assert abs(float(values.mean())) <= 5 * mean_error
    assert abs(float(values.square().mean().sqrt()) - std) <= 5 * std_error
    if kind == "uniform":
        assert float(values.abs().max()) <= scale * (1 + 1e-6)


def assert_weight(values: Tensor, rule: WeightRule, omega_0: float, *, first: bool) -> None:
    fan_in = values.shape[1]
    natural = 1 / fan_in if first else 1 / (omega_0 * sqrt(fan_in))
    assert_drawn(values, rule.dist, rule.gain * natural)


def assert_bias(values: Tensor, rule: BiasRule, fan_in: int) -> None:
    if rule.kind == "zero":
        assert not values.any()
    elif rule.kind == "even":
        steps = values.diff()
        assert float(values[0]) == pytest.approx(-rule.scale)
        assert float(values[-1]) == pytest.approx(rule.scale)
        assert torch.allclose(steps, steps.mean().expand_as(steps), rtol=1e-3)
    else:
        bound = rule.scale if rule.kind == "uniform" else 1 / (rule.scale * sqrt(fan_in))
        assert_drawn(values, "uniform", bound)


# Resolution --------------------------------------------------------------------------------------


def test_ids_are_exactly_1_to_38() -> None:
    assert list(ROWS) == list(range(1, 39))
    assert [row.id for row in ROWS.values()] == list(ROWS)


def test_every_row_but_the_first_says_how_it_differs_from_an_earlier_one() -> None:
    assert ROWS[1].base is None
    for known in list(ROWS.values())[1:]:
        assert known.base is not None and known.base < known.id
        base = ROWS[known.base]
        assert (known.init, known.weight_decay, known.image) != (
            base.init,
            base.weight_decay,
            base.image,
        )


def test_the_named_inits_of_the_package_are_rows_of_the_table_or_ours() -> None:
    assert ROWS[1].init == PAPER_INIT
    ours = {"identity", "waves", "waves-mid"}
    assert set(NAMED_INITS) - ours == {"paper", "22", "33"}
    for name in NAMED_INITS.keys() - ours:
        assert row(name).init == replace(NAMED_INITS[name], prefers=USUAL)


def test_34_settings_are_distinct() -> None:
    assert len({known.init for known in ROWS.values()}) == 34
    for repeat, original in {24: 23, 25: 17, 26: 23, 34: 33}.items():
        assert ROWS[repeat].init == ROWS[original].init


def test_only_the_patio_rows_and_row_26_change_the_image_or_the_weight_decay() -> None:
    assert {id for id, known in ROWS.items() if known.image == "patio"} == {24, 25, 34}
    assert {known.image for known in ROWS.values()} == {"cat", "patio"}
    assert {id: known.weight_decay for id, known in ROWS.items() if known.weight_decay != 0.01} == {
        26: 0.0
    }


def test_coordinates_have_unit_variance_from_row_14_on() -> None:
    assert [id for id, known in ROWS.items() if known.init.unit_std_coords] == list(range(14, 39))


# The bounds and stds that the source spells out, not computed from the table: per row the first
# layer's weights, the hidden weights, the first bias and the hidden biases as (kind, scale).
SPELT_OUT = {
    1: (("uniform", 1 / 2), ("uniform", sqrt(6 / 256) / 30), 1 / sqrt(2), 1 / 16),
    3: (("normal", 1 / (3 * 2)), ("normal", sqrt(6 / 256) / 30 / 3), 1 / sqrt(2), 1 / 16),
    5: (("uniform", 3 / 2), ("uniform", sqrt(6 / 256) / 30), 1 / sqrt(2), 1 / 16),
    9: (("normal", 4.5 / 2), ("normal", sqrt(6 / 256) / 30 / 2), 1 / sqrt(2), 1 / 16),
    11: (("normal", pi / (2 * 2)), ("normal", sqrt(pi / 2 / 256) / 30), 1 / sqrt(2), 1 / 16),
    17: (("normal", 1 / 2), ("uniform", sqrt(6 / 256) / 30), 2.1213 / 30, 1 / 160),
    19: (("normal", 1 / 2), ("uniform", sqrt(6 / 256) / 30), 2.1213 / 30, 1 / 16),
    28: (("normal", 1 / 2), ("uniform", sqrt(6 / 256) / 30), 1.5708 / 30, pi * 30),
    31: (("normal", 1 / 2), ("uniform", sqrt(6 / 256) / 30), 2.3562 / 30, 2.3562 / 30),
    # "uniform random with bounds +-2/(frequency*sqrt(fan_in))", from its conclusions
    33: (("normal", 1 / 2), ("uniform", sqrt(6 / 256) / 30), 2 / (30 * sqrt(2)), 2 / (30 * 16)),
    36: (("normal", 1 / 2), ("uniform", sqrt(6 / 256) / 50), 1 / (15 * sqrt(2)), 1 / (15 * 16)),
    38: (("normal", 1 / 2), ("uniform", sqrt(6 / 256) / 40), 1 / (20 * sqrt(2)), 1 / (20 * 16)),
}


@pytest.mark.parametrize("id", SPELT_OUT)
def test_rows_draw_what_the_source_spells_out(id: int) -> None:
    first, hidden, first_bias, bias = SPELT_OUT[id]
    params = draw(ROWS[id])
    assert_drawn(params["layers.0.weight"], *first)
    assert_drawn(params["layers.1.weight"], *hidden)
    assert_drawn(params["layers.0.bias"], "uniform", first_bias * 1.0001)  # 4 decimals given
    assert_drawn(params["layers.1.bias"], "uniform", bias * 1.0001)


# Drawing -----------------------------------------------------------------------------------------


@every_row
def test_layers_are_drawn_by_their_rules(row: Row) -> None:
    params, init = draw(row), row.init
    for layer in range(OUTPUT):
        weight = params[f"layers.{layer}.weight"]
        rule = init.first if layer == 0 else init.hidden
        assert_weight(weight, rule, init.omega_0, first=layer == 0)
        bias_rule = init.first_bias if layer == 0 and init.first_bias is not None else init.bias
        if bias_rule is not None:
            assert_bias(params[f"layers.{layer}.bias"], bias_rule, weight.shape[1])
    for field in ("weight", "bias"):  # nn.Linear's default, in every row
        values = params[f"layers.{OUTPUT}.{field}"]
        assert float(values.abs().max()) <= 1 / 16
        assert float(values.abs().max()) > 0
    assert_drawn(params[f"layers.{OUTPUT}.weight"], "uniform", 1 / 16)


@every_row
def test_every_parameter_is_drawn_exactly_once(row: Row) -> None:
    params = draw(row)
    assert list(params) == list(param_shapes(row.init.siren_config()))
    weights = [params[f"layers.{layer}.weight"] for layer in range(1, OUTPUT)]
    for layer, weight in enumerate(weights):
        assert not any(torch.equal(weight, other) for other in weights[:layer])


@every_row
def test_the_generator_decides_every_bit(row: Row) -> None:
    first, same, other = (draw(row, seed=seed, width=16) for seed in (3, 3, 4))
    for name in first:
        assert torch.equal(first[name], same[name])
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


@every_row
def test_an_epoch_of_a_fit_is_finite(row: Row) -> None:
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    start = draw(row, width=16, depth=2)
    result = fit(start, image, budget_epochs=1, weight_decay=row.weight_decay, max_restarts=0)
    assert result.curve[-1].steps == 2
    assert not result.diverged
    assert all(bool(torch.isfinite(value).all()) for value in result.params.values())
    assert any(not torch.equal(start[name], result.params[name]) for name in start)


def test_row_20_is_odd_up_to_the_output_bias() -> None:
    params, coords = draw(ROWS[20]), random_coords()
    bias = params[f"layers.{OUTPUT}.bias"]
    opposite = apply(params, -coords) - bias
    assert torch.allclose(apply(params, coords) - bias, -opposite, atol=1e-5)
    assert float(opposite.abs().max()) > 0.01  # not trivially odd


def test_row_14_is_row_12_in_coordinates_of_unit_variance() -> None:
    row_12, row_14, coords = draw(ROWS[12]), draw(ROWS[14]), random_coords()
    # Row 12's gain, 1.73, is 1 / COORD_STD rounded to three digits; undo the rounding.
    rounding = (1 / COORD_STD) / 1.73
    assert rounding == pytest.approx(1, abs=2e-4)
    exact = {**row_12, "layers.0.weight": row_12["layers.0.weight"] * rounding}
    assert torch.allclose(
        apply(Params(row_12.config, exact), coords), apply(row_14, coords), atol=2e-5
    )


def test_rows_22_and_27_reach_every_phase_of_the_sine_equally() -> None:
    for id in (22, 27):
        phases = draw(ROWS[id])["layers.1.bias"].double() * 30
        turns = (phases + pi) / (2 * pi) % 1
        counts = torch.histc(turns.float(), bins=8, min=0, max=1)
        # 32 of 256 expected a bin; 5 standard deviations of a binomial count
        assert float((counts - 32).abs().max()) <= 5 * sqrt(32 * 7 / 8)


# Look-up and the printed table -------------------------------------------------------------------


def test_rows_are_found_by_number_text_and_name() -> None:
    assert row("paper") is row("1") is row(1) is ROWS[1]
    assert row(33) is row("33") is ROWS[33]
    assert ROWS[33].name == "33"


@pytest.mark.parametrize("name", ["papr", "0", "39", "-1", "", "1.0", "22 "])
def test_an_unknown_row_lists_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match=r"unknown baseline .*known: paper, 1, 2, .*, 38$"):
        row(name)


def test_a_mistyped_row_is_suggested() -> None:
    with pytest.raises(InputError, match="did you mean 'paper'"):
        row("papr")


def test_the_package_prints_the_table_that_the_page_of_inits_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After a change that is meant: `python scripts/report.py --update docs/reference/inits.md`."""
    runpy.run_module("baselines", run_name="__main__")
    table = capsys.readouterr().out
    assert "| 33 |" in table
    assert f"\n<!-- inits -->\n{table}<!-- /inits -->\n" in INITS_PAGE.read_text(encoding="utf-8")
