"""Reptile through the real fit: its step, exact resume, use as an init, and that it helps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import assert_same, smooth_image

from hyperinit.app.meta_train import main
from hyperinit.base.errors import InputError
from hyperinit.base.settings import from_dict
from hyperinit.bench.sources import BY_NAME, load_init
from hyperinit.fitting.fit import fit
from hyperinit.hypernet.learned import LearnedConfig, load_learned
from hyperinit.hypernet.untrained import STEPPED
from hyperinit.inits.start import Start
from hyperinit.learn import loop
from hyperinit.learn.loop import Stop, train, train_step
from hyperinit.learn.reptile import PRESETS, REPTILE, ReptileConfig
from hyperinit.learn.state import load_state, new_state
from hyperinit.learn.tracking import open_tracker, read_log
from hyperinit.siren.store import CHECKPOINT_NAME

TINY = from_dict(ReptileConfig, {**PRESETS["tiny"], "wandb": "disabled"}, source="test")
FLAGS = ["--method", "reptile", "--preset", "tiny", "--data", "synthetic", "--wandb", "disabled"]


def neighbours(count: int, seed: int) -> torch.Tensor:
    """Images (count, 3, 16, 16) that differ little from each other."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 0.15 * torch.randn(count, 3, 4, 4, generator=generator)
    return (smooth_image() + torch.nn.functional.interpolate(coarse, 16, mode="bilinear")).clamp(
        0, 1
    )


class Neighbours:
    """A pure function of the step."""

    def batch(self, step: int, batch_size: int) -> torch.Tensor:
        return neighbours(batch_size, seed=step)


def run(run_dir, config, state=None, stop_at=None):
    """Trains in a directory; the state, and the logged losses by step."""
    resume_step = None if state is None else state.step
    tracker = open_tracker(run_dir, {}, "disabled", resume_step=resume_step)
    state, stop = state or new_state(REPTILE, config), Stop()

    def on_step(step, metrics):
        stop.signal = 15 if step == stop_at else None

    held_out = neighbours(2, seed=1000)
    where = (state, config, Neighbours(), held_out, run_dir, tracker)
    train(*where, info={"train_hashes": ["abc"]}, stop=stop, on_step=on_step)
    tracker.finish()
    rows = [row for row in read_log(tracker.path) if row["kind"] == "metrics"]
    losses = {r["step"]: r["values"]["train/loss"] for r in rows if "train/loss" in r["values"]}
    return state, losses


def test_theta_0_begins_as_the_sized_draw_and_moves_towards_the_mean_of_the_fits():
    config = replace(TINY, batch_images=3, eps=0.2)
    state, images = new_state(REPTILE, config), neighbours(3, seed=0)
    before = state.model.draw(0)
    sized = load_init("identity-sized", BY_NAME, 16, 2)
    assert_same(before, sized.start(images[0], config.seed).params)
    generator = torch.Generator().manual_seed(loop._step_seed(config.seed, 0))
    seed = int(torch.randint(2**31, (1,), generator=generator))
    start = Start(before, lr_factor=sized.lr_factor, prefers=sized.prefers)
    ends = [
        fit(start, image, budget_epochs=config.horizon_epochs, eval_epochs=(), seed=seed).params
        for image in images
    ]
    metrics = train_step(state, config, images)
    for name, value in state.model.draw(0).items():
        mean = torch.stack([end[name] for end in ends]).mean(dim=0)
        torch.testing.assert_close(
            value - before[name], 0.2 * (mean - before[name]), rtol=1e-3, atol=1e-6
        )
        assert not torch.equal(value, before[name])
    assert metrics["train/mse_after"] < metrics["train/mse_before"]


def test_with_gradient_steps_it_begins_as_the_start_whose_steps_it_takes():
    image = smooth_image()
    for name, make in STEPPED.items():
        model = new_state(REPTILE, replace(TINY, gradient_steps=name)).model
        own, like = model.start(image), make("like", 16, 2).start(image, 0)
        assert_same(own.params, like.params)
        assert (own.epochs, own.lr_factor) == (like.epochs, like.lr_factor)


def test_an_output_layer_that_is_not_to_be_learned_stays_as_drawn():
    config = replace(TINY, gradient_steps="waves-few-steps", learn_output=False)
    state = new_state(REPTILE, config)
    before = state.model.draw(0)
    for step in range(2):
        train_step(state, config, neighbours(1, seed=step))
    same = {name: torch.equal(value, before[name]) for name, value in state.model.draw(0).items()}
    assert [name for name, kept in same.items() if kept] == ["layers.2.weight", "layers.2.bias"]


def test_where_gradient_steps_begin_moves_by_what_fits_add_to_them():
    steps = {"gradient_steps": "waves-few-steps", "fit_lr": 1e-3}
    config = replace(TINY, batch_images=2, eps=0.2, **steps)
    state, images = new_state(REPTILE, config), neighbours(2, seed=0)
    before = state.model.draw(0)
    generator = torch.Generator().manual_seed(loop._step_seed(config.seed, 0))
    seed = int(torch.randint(2**31, (1,), generator=generator))
    starts = [state.model.start(image, seed + i) for i, image in enumerate(images)]
    how = {"budget_epochs": config.horizon_epochs, "lr": 1e-3, "eval_epochs": (), "seed": seed}
    free = [replace(start, epochs=0.0) for start in starts]  # of a fit's horizon
    ends = [fit(start, image, **how).params for start, image in zip(free, images, strict=True)]
    train_step(state, config, images)
    for name, value in state.model.draw(0).items():
        moved = [end[name] - start.params[name] for end, start in zip(ends, starts, strict=True)]
        mean = torch.stack(moved).mean(dim=0)
        torch.testing.assert_close(value - before[name], 0.2 * mean, rtol=1e-2, atol=1e-5)


def test_eps_falls_linearly_to_a_tenth():
    config = replace(TINY, max_steps=100)
    rates = [loop.rate(step, config) for step in (0, 50, 100)]
    assert rates == pytest.approx([1.0, 0.55, 0.1])


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path):
    whole, losses = run(tmp_path / "whole", TINY)
    run(tmp_path / "cut", TINY, stop_at=3)
    state, config, info = load_state(tmp_path / "cut" / CHECKPOINT_NAME, REPTILE)
    assert (state.step, config, info["train_hashes"]) == (3, TINY, ["abc"])
    resumed, resumed_losses = run(tmp_path / "cut", config, state)
    assert resumed_losses == losses and set(losses) == set(range(1, 7))
    assert_same(whole.model.draw(0), resumed.model.draw(0))


@pytest.mark.slow
def test_it_lowers_the_error_of_fits_of_images_like_those_it_saw(tmp_path):
    config = replace(TINY, max_steps=40, horizon_epochs=1.0, eval_steps=40, eps=0.2)
    state, _ = run(tmp_path / "run", config)
    identity = load_init("identity-sized", BY_NAME, 16, 2)
    ratios = [1.0, 1.0]  # at the horizon, and beyond it
    for seed, image in enumerate(neighbours(3, seed=999)):  # not among those it saw
        for at, budget in enumerate((1.0, 4.0)):
            learned, drawn = (
                fit(start, image, budget_epochs=budget, seed=seed).mse
                for start in (state.model.start(image), identity.start(image, seed))
            )
            ratios[at] *= (learned / drawn) ** (1 / 3)
    assert ratios[0] < 0.6 and ratios[1] < 1


def test_the_log_has_the_error_of_real_fits_of_held_out_images(tmp_path):
    state, _ = run(tmp_path / "run", TINY)
    rows = [r["values"] for r in read_log(tmp_path / "run" / "metrics.jsonl") if "values" in r]
    held_out = [values["held_out/mse_after"] for values in rows if "held_out/mse_after" in values]
    theta = state.model.start(smooth_image(16))  # the same for all images
    fits = [
        fit(theta, image, budget_epochs=TINY.horizon_epochs, eval_epochs=())
        for image in neighbours(2, seed=1000)
    ]
    assert len(held_out) == 3  # before, in the middle, at the end
    assert held_out[-1] == pytest.approx(sum(f.kept.mse for f in fits) / 2, rel=1e-5)


@pytest.mark.slow
def test_the_command_trains_resumes_and_compares_it_and_a_benchmark_takes_it(tmp_path, capsys):
    out = tmp_path / "run"
    main([*FLAGS, "--out", str(out), "--time-limit", "1e-9"])
    assert load_learned(out)[1]["step"] == 1
    assert main(["--resume", str(out), "--time-limit", "none"]) == 0
    assert "| reptile |" in capsys.readouterr().out
    main([*FLAGS, "--compare-images", "0", "--out", str(tmp_path / "whole")])
    (resumed, info), (whole, _) = load_learned(out), load_learned(tmp_path / "whole")
    assert info["step"] == 6
    assert_same(resumed.draw(0), whole.draw(0))
    init = load_init(str(out), BY_NAME, 16, 2)
    image = smooth_image()
    assert_same(init.start(image, 3).params, resumed.generate(image))
    assert init.epochs(image) == 0 and init.lr_factor == 0.5
    assert init.train_hashes == set(info["train_hashes"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": 0.0}, "eps"),
        ({"horizon_epochs": -1.0}, "horizon_epochs"),
        ({"fit_lr": 0.0}, "fit_lr"),
        ({"base_init": "identity-size"}, "unknown init"),
        ({"base_init": "identity-sized@x"}, "number"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(TINY, **changes)


def test_gradient_steps_that_no_start_takes_are_refused():
    config = new_state(REPTILE, TINY).model.config
    with pytest.raises(InputError, match="unknown gradient_steps 'few'"):
        replace(config, gradient_steps="few")
    with pytest.raises(InputError, match="cannot be combined"):
        LearnedConfig(config.siren, inner_steps=1, adapts=True, gradient_steps="untrained")


def test_an_unknown_method_is_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--method", "reptil"])
    assert stopped.value.code == 2
    assert "did you mean 'reptile'" in capsys.readouterr().err
