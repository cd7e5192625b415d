"""A first layer of evenly spread waves: what is spread, what a seed changes, what it is for."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import smooth_image

from hyperinit import fit
from hyperinit.bench.catalogue import PACKAGE
from hyperinit.bench.sources import load_init
from hyperinit.inits.rules import NAMED_INITS, sample_params
from hyperinit.inits.waves import even_phases, even_waves


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_lengths_do_not_depend_on_the_seed_and_are_those_of_normal_numbers_for_a_power_of_1():
    lengths = even_waves(2000, 2, 1.0, seeded(0)).norm(dim=1)
    torch.testing.assert_close(lengths, even_waves(2000, 2, 1.0, seeded(1)).norm(dim=1))
    assert float(lengths.square().mean()) == pytest.approx(2, rel=0.01)
    longer = even_waves(2000, 2, 1.7, seeded(0)).norm(dim=1)
    assert float(longer.median()) < 0.7 * float(lengths.median())  # a short vector is a long wave
    assert float(longer.quantile(0.98)) == pytest.approx(float(lengths.quantile(0.98)), rel=0.02)


@pytest.mark.parametrize("first", [0, 40, 180])
def test_directions_of_waves_of_like_length_cover_the_half_circle(first):
    x, y = even_waves(256, 2, 1.7, seeded(3))[first : first + 24].T
    turns = (torch.atan2(y, x) % math.pi).sort().values / math.pi
    gaps = torch.cat([turns.diff(), 1 + turns[:1] - turns[-1:]])
    assert float(gaps.max()) < 2.7 / 24  # of independent draws it is 4 / 24 on average


def test_phases_cover_their_range_evenly():
    phases = even_phases(64, 0.2, seeded(0)).sort().values
    assert float(phases.abs().max()) <= 0.2 and float(phases.diff().max()) < 2 * 0.4 / 64


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_seed_turns_the_whole_and_waves_of_signals_have_their_dimensions(dims):
    one, other = (even_waves(32, dims, 1.5, seeded(seed)) for seed in (0, 1))
    assert one.shape == (32, dims) and torch.equal(one, even_waves(32, dims, 1.5, seeded(0)))
    assert torch.equal(one, other) == (dims == 1)  # one coordinate has no directions


def test_waves_of_more_coordinates_have_the_same_lengths():
    lengths, others = (even_waves(32, dims, 1.5, seeded(0)).norm(dim=1) for dims in (2, 6))
    torch.testing.assert_close(lengths, others)


def test_the_init_is_identity_with_such_a_first_layer():
    spec = NAMED_INITS["waves"]
    params = sample_params(spec, spec.siren_config(16, 3), generator=seeded(0))
    hidden = params["layers.1.weight"]
    assert torch.equal(hidden, hidden.diagonal().diag())
    assert spec.facts["first"] == {"dist": "waves", "gain": 1.65, "power": 1.7}
    assert "power" not in NAMED_INITS["identity"].facts["first"]  # as records have it


def test_sized_gains_fall_with_the_side():
    init = load_init("waves-sized", PACKAGE.inits, 16, 3)
    small, whole = (init.start(smooth_image(side), 0).params for side in (56, 224))
    for layer, power in ((0, 0.5), (1, 0.2), (2, 0.2), (3, 0.25)):
        ratio = small[f"layers.{layer}.weight"] / whole[f"layers.{layer}.weight"]
        assert float(ratio.nanmedian()) == pytest.approx(0.25**power, rel=1e-4)


@pytest.mark.slow
def test_fits_from_there_end_better_than_from_identity_and_do_not_depend_on_luck():
    image = smooth_image(32)
    noise = torch.rand(3, 16, 16, generator=seeded(5))
    image = (image + 0.3 * torch.nn.functional.interpolate(noise[None], 32)[0]).clamp(0, 1)
    ends = {}
    for name in ("identity-sized", "waves-sized"):
        init = load_init(name, PACKAGE.inits, 32, 3)
        starts = [init.start(image, seed) for seed in range(5)]
        ends[name] = [math.log(fit(s, image, budget_epochs=4, eval_epochs=()).mse) for s in starts]
    means = {name: sum(values) / 5 for name, values in ends.items()}
    spreads = {name: max(values) - min(values) for name, values in ends.items()}
    assert means["waves-sized"] < means["identity-sized"] - 0.1
    assert spreads["waves-sized"] < spreads["identity-sized"]
