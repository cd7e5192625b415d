"""The first steps of a fit from a start that shows its image already: they must not lose it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import fit_init, smooth_image

from hyperinit.bench.trial import Trial
from hyperinit.fitting.config import FitConfig, suited
from hyperinit.fitting.fit import fit
from hyperinit.fitting.many import fit_many, fit_unseen
from hyperinit.hypernet.learned import LearnedConfig, LearnedInit
from hyperinit.inits.rules import named_init
from hyperinit.inits.start import Init, Start, params_init
from hyperinit.photos.workload import NamedImage
from hyperinit.record.protocol import Protocol
from hyperinit.score.groups import Choice
from hyperinit.siren.network import Params
from hyperinit.siren.vectors import stack_params, to_vector
from hyperinit.stepping.schedule import warmup

WIDTH, DEPTH, SIDE = 32, 3, 48
PROTOCOL = Protocol(image_size=SIDE, width=WIDTH, depth=DEPTH, batch_pixels=64)


def init_of(name: str) -> Init:
    return fit_init(name, WIDTH, DEPTH)


def start(name: str) -> Start:
    return init_of(name).start(smooth_image(SIDE), 0)


def moved(result: Params, begun: Params) -> float:
    """The largest change of a weight of a hidden layer."""
    return float((result.layer(1)[0] - begun.layer(1)[0]).abs().max())


def one_step(params: Params, **options: Any) -> Params:
    one = {"budget_epochs": 64 / SIDE**2, "batch_pixels": 64, "max_restarts": 0, "lr": 1e-4}
    return fit(params, smooth_image(SIDE), **one, **options).params


def test_the_rate_rises_over_the_first_steps_and_is_the_same_afterwards() -> None:
    params = start("identity-sized").params
    at_once, slowly = (moved(one_step(params, warmup_steps=n), params) for n in (0, 4))
    assert slowly == pytest.approx(at_once / 5, rel=1e-3)
    assert [warmup(step, 4) for step in (0, 3, 4, 9)] == pytest.approx([0.2, 0.8, 1, 1])


@pytest.mark.parametrize(
    ("name", "steps"),
    [("waves-steps", 4), ("untrained", 4), ("waves-sized", 0), ("identity-sized", 0), ("33", 0)],
)
def test_it_is_for_starts_that_show_the_image_unless_the_user_says_otherwise(
    name: str, steps: int
) -> None:
    begun = start(name)
    assert suited(FitConfig(), begun).warmup_steps == steps
    assert suited(FitConfig(warmup_steps=9), begun).warmup_steps == 9
    image = smooth_image(SIDE)
    ends = [fit(begun, image, budget_epochs=1, **o).mse for o in ({}, {"warmup_steps": steps})]
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({}, 0), ({"read_numbers": 4}, 4), ({"inner_steps": 2, "adapts": True}, 4)],
)
def test_of_learned_starts_it_is_for_those_that_look_at_the_image(
    settings: dict[str, Any], steps: int
) -> None:
    config = named_init("identity").siren_config(WIDTH, DEPTH)
    model = LearnedInit(LearnedConfig(config, **settings), start("identity-sized").params)
    assert model.start(smooth_image(SIDE)).prefers.warmup_steps == steps


def test_fits_together_and_fits_of_training_rise_as_one_alone() -> None:
    begun, image = start("waves-steps"), smooth_image(SIDE)
    config = FitConfig(budget_epochs=0.5, eval_epochs=(), max_restarts=0)
    bare = Start(begun.params, lr_factor=begun.lr_factor, prefers=begun.prefers)
    alone = to_vector(fit(bare, image, config).params)
    together = fit_many([bare] * 4, [image] * 4, config)[2].params
    torch.testing.assert_close(to_vector(together), alone, rtol=1e-3, atol=1e-5)
    stacked = Start(
        stack_params([begun.params] * 4), lr_factor=begun.lr_factor, prefers=begun.prefers
    )
    unseen = fit_unseen(stacked, torch.stack([image] * 4), config)
    torch.testing.assert_close(to_vector(unseen)[1], alone, rtol=1e-3, atol=1e-5)


def test_a_head_start_is_not_lost_in_the_first_steps() -> None:
    """As a fit of two epochs left it; a fit of a quarter of an epoch from there."""
    image = smooth_image(SIDE)
    params = fit(start("waves-sized"), image, budget_epochs=4).params
    short = {"budget_epochs": 0.25, "max_restarts": 0, "eval_epochs": ()}
    ends = [fit(params, image, **short, warmup_steps=n).mse for n in (0, 4)]
    assert ends[1] < 0.8 * ends[0]


def test_a_benchmark_declares_it_and_tables_name_it(tmp_path: Path) -> None:
    image = NamedImage("smooth", smooth_image(SIDE), "smooth")
    init, plain = (
        init_of("untrained"),
        params_init("p", start("33").params),
    )
    records = [Trial(one, image, PROTOCOL, 1.0, 1e-4, 0).run()[0] for one in (init, plain)]
    assert records[0].settings["warmup_steps"] == 4 and "warmup_steps" not in records[1].settings
    assert "warmup_steps 4" in str(Choice.of(records[0]))
    assert "warmup_steps" not in str(Choice.of(records[1]))
