"""InitSpec -> Params: the named inits, the rules and their randomness."""

from __future__ import annotations

from dataclasses import replace
from math import exp, pi, sqrt
from typing import Any

import pytest
import torch

from hyperinit.base.errors import InputError
from hyperinit.inits.rules import (
    NAMED_INITS,
    PAPER_INIT,
    BiasRule,
    InitSpec,
    WeightRule,
    named_init,
    sample_params,
)
from hyperinit.siren.network import Params, param_shapes


def draw(spec: InitSpec, seed: int = 0, width: int = 32, depth: int = 3) -> Params:
    config = spec.siren_config(width, depth)
    return sample_params(spec, config, generator=torch.Generator().manual_seed(seed))


def largest(params: Params, name: str) -> float:
    return float(params[name].abs().max())


@pytest.mark.parametrize("name", NAMED_INITS)
def test_named_inits_draw_finite_float32_params_of_the_right_shapes(name: str) -> None:
    spec = named_init(name)
    params = draw(spec)
    assert params.config == spec.siren_config(32, 3)
    assert list(params) == list(param_shapes(params.config))
    for value in params.values():
        assert value.dtype == torch.float32 and not value.requires_grad
        assert bool(torch.isfinite(value).all())


def test_paper_init_has_the_bounds_of_the_paper() -> None:
    params = draw(named_init("paper"), width=256)
    bound = sqrt(6 / 256) / 30
    assert 0.99 * bound < largest(params, "layers.1.weight") <= bound
    assert 0.99 / 2 < largest(params, "layers.0.weight") <= 1 / 2
    assert largest(params, "layers.1.bias") <= 1 / 16
    assert largest(params, "layers.3.weight") <= 1 / 16


def test_biases_of_22_span_half_a_turn_each_way_and_those_of_33_little() -> None:
    phase_22 = 30 * largest(draw(named_init("22"), width=256), "layers.1.bias")
    phase_33 = 30 * largest(draw(named_init("33"), width=256), "layers.1.bias")
    assert 0.95 * pi < phase_22 <= pi
    assert 0.95 * 2 / 16 < phase_33 <= 2 / 16


@pytest.mark.parametrize(("typed", "meant"), [("papre", "paper"), ("Paper", "paper"), ("3", "33")])
def test_an_unknown_init_suggests_the_nearest_and_lists_the_known(typed: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"did you mean '{meant}'.*known: paper, 22, 33"):
        named_init(typed)


def test_same_generator_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    first, same, other = draw(PAPER_INIT, 1), draw(PAPER_INIT, 1), draw(PAPER_INIT, 2)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_drawing_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    draw(PAPER_INIT)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_networks_omega_0_sets_the_hidden_scale() -> None:
    params, doubled = draw(PAPER_INIT), draw(replace(PAPER_INIT, omega_0=60.0))
    assert torch.allclose(params["layers.1.weight"], doubled["layers.1.weight"] * 2)
    for name in ("layers.0.weight", "layers.1.bias", "layers.3.weight"):
        assert torch.equal(params[name], doubled[name])


def test_a_hidden_gain_changes_no_other_layer() -> None:
    params = draw(PAPER_INIT)
    scaled = draw(replace(PAPER_INIT, hidden=WeightRule("uniform", 2 * sqrt(6))))
    for name in params:
        layer = name in ("layers.1.weight", "layers.2.weight")
        assert torch.allclose(scaled[name], params[name] * (2 if layer else 1))


@pytest.mark.parametrize(
    ("rule", "bound"),
    [
        (BiasRule("torch"), 1 / sqrt(32)),
        (BiasRule("torch", 4), 1 / sqrt(32) / 4),
        (BiasRule("uniform", 0.3), 0.3),
        (BiasRule("even", 0.3), 0.3),
        (BiasRule("zero"), 0.0),
    ],
)
def test_biases_stay_within_the_bound_of_their_rule(rule: BiasRule, bound: float) -> None:
    assert rule.bound(32) == pytest.approx(bound)
    params = draw(replace(PAPER_INIT, bias=rule))
    assert 0.8 * bound <= largest(params, "layers.1.bias") <= bound * (1 + 1e-6)


def test_even_biases_are_evenly_spaced_and_not_random() -> None:
    spec = replace(PAPER_INIT, bias=BiasRule("even", 0.5))
    bias = draw(spec, 1)["layers.1.bias"]
    assert torch.equal(bias, draw(spec, 2)["layers.1.bias"])
    assert torch.allclose(bias.diff(), torch.full((31,), 1 / 31), atol=1e-6)


def test_the_first_layer_can_have_a_bias_rule_of_its_own() -> None:
    params = draw(replace(PAPER_INIT, first_bias=BiasRule("zero")))
    assert not params["layers.0.bias"].any()
    assert bool(params["layers.1.bias"].all())


def test_without_biases_only_the_output_layer_has_one() -> None:
    params = draw(replace(PAPER_INIT, bias=None))
    assert [name for name in params if name.endswith("bias")] == ["layers.3.bias"]


def test_output_layer_is_the_default_of_linear() -> None:
    """Same bounds as torch.nn.Linear's, whatever omega_0 and the other layers' rules are."""
    spec = replace(PAPER_INIT, omega_0=5.0, hidden=WeightRule("normal", 9.0))
    params = draw(spec, width=4096, depth=1)
    for values in (params["layers.1.weight"], torch.nn.Linear(4096, 3).weight.detach()):
        assert float(values.abs().max()) == pytest.approx(1 / 64, rel=1e-2)
        assert float(values.std()) == pytest.approx(1 / 64 / sqrt(3), rel=3e-2)


def test_identity_passes_single_waves_on_and_lets_the_gains_fall() -> None:
    spec = NAMED_INITS["identity"]
    params = draw(spec)
    depth, width = params.config.depth, params.config.width
    gains = []
    for layer in range(1, depth):
        weight = params[f"layers.{layer}.weight"]
        gains.append(float(weight[0, 0]) * params.config.omega_0)
        assert torch.equal(weight, torch.eye(width) * weight[0, 0])
    assert gains == sorted(gains, reverse=True)
    assert gains[0] / gains[-1] == pytest.approx(exp(spec.taper))
    assert gains[0] * gains[-1] == pytest.approx(spec.hidden.gain**2)
    assert spec.output is not None
    bound = spec.output.gain / sqrt(width)
    assert 0.9 * bound < float(params[f"layers.{depth}.weight"].abs().max()) <= bound


def test_a_number_behind_a_name_scales_its_first_layer() -> None:
    whole, half = draw(named_init("identity")), draw(named_init("identity@0.5"))
    assert torch.allclose(half["layers.0.weight"], whole["layers.0.weight"] / 2)
    assert all(torch.equal(half[name], whole[name]) for name in list(whole)[1:])
    with pytest.raises(InputError, match="what follows @ must be a number"):
        named_init("33@half")


def test_rules_that_came_later_leave_the_facts_of_older_inits_as_they_were() -> None:
    assert set(NAMED_INITS["33"].facts) == {
        *("first", "hidden", "bias", "first_bias", "omega_0", "unit_std_coords")
    }
    assert {"output", "taper"} <= set(NAMED_INITS["identity"].facts)


@pytest.mark.parametrize(
    ("rule", "wrong", "said"),
    [
        (WeightRule, ("gaussian", 1.0), "dist must be one of uniform, normal, identity, waves"),
        (WeightRule, ("normal", float("nan")), "gain must be a finite number"),
        (BiasRule, ("zeros",), r"kind must be one of .*did you mean 'zero'"),
        (BiasRule, ("torch", 0), "scale must be above 0"),
    ],
)
def test_a_misspelt_rule_does_not_draw_something_else(rule: Any, wrong: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        rule(*wrong)
