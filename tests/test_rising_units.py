"""In hidden layers the rates of units rise with the frequency of the wave that they carry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import assert_same, fit_init, smooth_image
from torch import Tensor

from hyperinit.bench.trial import Trial
from hyperinit.fitting.config import FitConfig, suited
from hyperinit.fitting.fit import fit
from hyperinit.fitting.many import fit_many
from hyperinit.fitting.steps import make_steps
from hyperinit.hypernet.learned import LearnedConfig, LearnedInit
from hyperinit.inits.rules import carries_waves
from hyperinit.inits.start import Init, Start
from hyperinit.photos.workload import NamedImage
from hyperinit.record.protocol import Protocol
from hyperinit.score.groups import Choice
from hyperinit.siren.network import Params
from hyperinit.siren.vectors import to_vector
from hyperinit.stepping.schedule import unit_factors

WIDTH, DEPTH, SIDE = 32, 3, 48
PROTOCOL = Protocol(image_size=SIDE, width=WIDTH, depth=DEPTH, batch_pixels=64)


def init_of(name: str) -> Init:
    return fit_init(name, WIDTH, DEPTH)


def start(name: str) -> Start:
    return init_of(name).start(smooth_image(SIDE), 0)


def first_step(params: Params, done: float, **options: Any) -> list[Tensor]:
    """The largest change of a weight of each unit, (units,), layer by layer."""
    config = suited(FitConfig(batch_pixels=64, **options), Start(params))
    steps = make_steps(params, smooth_image(SIDE), config, work=0)
    steps.take(1e-4, 1.0, done)
    layers = range(DEPTH + 1)
    return [(steps.params.layer(i)[0] - params.layer(i)[0]).abs().amax(-1) for i in layers]


def test_factors_rise_evenly_from_the_longest_wave_to_the_shortest() -> None:
    waves = torch.tensor(
        [[[3.0, 4.0], [0.0, 1.0], [2.0, 0.0]], [[0.1, 0.0], [0.2, 0.0], [0.3, 0.0]]]
    )
    assert unit_factors(waves).tolist() == [[1.5, 0.5, 1.0], [0.5, 1.0, 1.5]]
    assert unit_factors(torch.ones(1, 2)).tolist() == [0.5]


@pytest.mark.parametrize("optimizer", ["nadam", "soap"])
@pytest.mark.parametrize(("done", "share"), [(0.0, 0.0), (0.25, 0.5), (1.0, 1.0)])
def test_units_of_hidden_layers_come_to_their_factors_and_nothing_else_does(
    optimizer: Any, done: float, share: float
) -> None:
    params = start("waves-sized").params
    factors = 1 + share * (unit_factors(params.layer(0)[0]) - 1)
    level = first_step(params, done, rising_units=False, optimizer=optimizer)
    rising = first_step(params, done, rising_units=True, optimizer=optimizer)
    for layer, (one, other) in enumerate(zip(level, rising, strict=True)):
        wanted = one * factors if 0 < layer < DEPTH else one
        torch.testing.assert_close(other, wanted, rtol=2e-3, atol=1e-8)


def test_frozen_layers_stay_as_they_are() -> None:
    begun = start("waves-sized")
    end = fit(begun, smooth_image(SIDE), budget_epochs=1, frozen_layers=(1,)).params
    assert torch.equal(end.layer(1)[0], begun.params.layer(1)[0])


@pytest.mark.parametrize(
    ("name", "rises"),
    [
        *(("identity", True), ("waves-sized", True), ("waves-steps", True), ("untrained", True)),
        *(("33", False), ("33-sized", False), ("paper", False), ("22", False)),
    ],
)
def test_they_rise_where_hidden_layers_hand_waves_on(name: str, rises: bool) -> None:
    begun = start(name)
    assert suited(FitConfig(), begun).rising_units is rises
    assert carries_waves(begun.params) is rises
    assert suited(FitConfig(rising_units=not rises), begun).rising_units is not rises
    model = LearnedInit(LearnedConfig(begun.params.config), begun.params)
    assert model.prefers.rising_units is rises


def test_several_fits_together_end_as_each_alone() -> None:
    image = smooth_image(SIDE)
    starts = [init_of("waves-sized").start(image, seed) for seed in range(3)]
    config = FitConfig(budget_epochs=0.5, eval_epochs=(), max_restarts=0)
    together = fit_many(starts, [image] * 3, config)
    for begun, result in zip(starts, together, strict=True):
        alone = to_vector(fit(begun, image, config).params)
        torch.testing.assert_close(to_vector(result.params), alone, rtol=1e-3, atol=1e-5)


def test_fits_of_waves_end_lower_by_it() -> None:
    """Averaged over three photographs; measured at full size in the research log, 73."""
    ratio = 1.0
    for seed in range(3):
        image = smooth_image(SIDE, seed)
        image = (image + 0.2 * torch.rand(image.shape, generator=torch.Generator())).clamp(0, 1)
        begun = init_of("waves-mid-sized").start(image, 0)
        ends = [fit(begun, image, budget_epochs=4, rising_units=on).mse for on in (True, False)]
        ratio *= ends[0] / ends[1]
    assert ratio < 0.98


def test_a_benchmark_declares_it_and_tables_name_it() -> None:
    image = NamedImage("smooth", smooth_image(SIDE), "smooth")
    records = [
        Trial(init_of(name), image, PROTOCOL, 1.0, 1e-4, 0).run()[0] for name in ("waves", "33")
    ]
    assert records[0].settings["rising_units"] is True and "rising_units" not in records[1].settings
    assert "rising_units True" in str(Choice.of(records[0]))
    assert "rising_units" not in str(Choice.of(records[1]))
    again = [Trial(init_of("waves"), image, PROTOCOL, 1.0, 1e-4, 0).run()[1].params for _ in "ab"]
    assert_same(*again)
