"""Meta-training runs: exact resume, checkpoints that survive, honest failure."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import smooth_image

from hyperinit.base.errors import InputError
from hyperinit.hypernet.checkpoint import CHECKPOINT_KIND, load_hypernetwork
from hyperinit.learn import loop as outer
from hyperinit.learn.loop import Stop, train, train_step
from hyperinit.learn.state import load_state, new_state, save_state
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.learn.tracking import open_tracker, read_log
from hyperinit.siren.store import CHECKPOINT_NAME, load_tensors, save_tensors

TINY = TrainConfig(
    size=16,
    width=16,
    depth=2,
    encoder_size=8,
    channels=4,
    code_size=16,
    rank=2,
    inner_steps=2,
    inner_pixels=32,
    query_pixels=32,
    batch_images=2,
    max_steps=8,
    warmup_steps=2,
    eval_steps=4,
    wandb="disabled",
)


class Images:
    """A pure function of the step, as datasets.CropSampler is."""

    def batch(self, step: int, batch_size: int) -> torch.Tensor:
        return torch.stack([smooth_image(seed=100 * step + b) for b in range(batch_size)])


def run(run_dir, config, state=None, stop=None, on_step=lambda step, metrics: None):
    """Trains in a directory and returns the logged training losses by step."""
    resume_step = None if state is None else state.step
    tracker = open_tracker(run_dir, {}, config.wandb, resume_step=resume_step)
    state = state or new_state(HYPERNETWORK, config)
    held_out = torch.stack([smooth_image(seed=7)])
    try:
        train(
            state,
            config,
            Images(),
            held_out,
            run_dir,
            tracker,
            info={"train_hashes": ["abc"]},
            stop=stop or Stop(),
            on_step=on_step,
        )
    finally:
        tracker.finish()
    rows = [row for row in read_log(tracker.path) if row["kind"] == "metrics"]
    return state, {
        r["step"]: r["values"]["train/loss"] for r in rows if "train/loss" in r["values"]
    }


def interrupted(run_dir, config, at_step):
    """A run that a signal stops after some steps."""
    stop = Stop()

    def on_step(step, metrics):
        if step == at_step:
            stop.signal = 15

    return run(run_dir, config, stop=stop, on_step=on_step)


@pytest.mark.slow
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path):
    whole, losses = run(tmp_path / "whole", TINY)
    interrupted(tmp_path / "cut", TINY, at_step=3)
    state, config, info = load_state(tmp_path / "cut" / CHECKPOINT_NAME, HYPERNETWORK)
    assert (state.step, config, info["train_hashes"]) == (3, TINY, ["abc"])
    resumed, resumed_losses = run(tmp_path / "cut", config, state)
    assert resumed_losses == losses and set(losses) == set(range(1, 9))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.slow
def test_losses_logged_after_the_checkpoint_are_not_doubled(tmp_path):
    # As after kill -9: the log is ahead of the last checkpoint.
    _, losses = run(tmp_path / "whole", TINY)
    interrupted(tmp_path / "cut", TINY, at_step=3)
    old = (tmp_path / "cut" / CHECKPOINT_NAME).read_bytes()
    state, config, _ = load_state(tmp_path / "cut" / CHECKPOINT_NAME, HYPERNETWORK)
    run(tmp_path / "cut", config, state)
    (tmp_path / "cut" / CHECKPOINT_NAME).write_bytes(old)
    with open(tmp_path / "cut" / "metrics.jsonl", "ab") as log:
        log.write(b'{"kind": "metrics", "step": 9, "val')
    state, config, _ = load_state(tmp_path / "cut" / CHECKPOINT_NAME, HYPERNETWORK)
    assert run(tmp_path / "cut", config, state)[1] == losses
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    steps = [line.split('"step": ')[1].split(",")[0] for line in lines if "train/loss" in line]
    assert len(steps) == len(set(steps)) == 8


@pytest.mark.slow
def test_training_lowers_the_loss():
    config = replace(TINY, max_steps=200, lr=5e-3, base_lr=1e-3, step_size_lr=0.1, warmup_steps=5)
    state = new_state(HYPERNETWORK, config)
    images = torch.stack([smooth_image(seed=0), smooth_image(seed=1)])
    losses = [train_step(state, config, images)["train/loss"] for _ in range(200)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_a_step_whose_gradient_explodes_changes_nothing_and_the_next_one_does():
    config = replace(TINY, skip_norm=5.0, warmup_steps=0)
    state, images = new_state(HYPERNETWORK, config), Images().batch(0, 2)

    def weights():
        return [value.detach().clone() for value in state.model.parameters()]

    train_step(state, config, images)
    usual, before, loss = state.usual_norm, weights(), state.task.loss

    def exploding(*arguments):
        result = loss(*arguments)
        return replace(result, loss=1000 * result.loss)

    state.task = replace(state.task, loss=exploding)
    metrics = train_step(state, config, images)
    assert metrics["train/skipped_in_a_row"] == 1 and state.step == 2
    assert state.usual_norm == usual and all(map(torch.equal, weights(), before))
    state.task = replace(state.task, loss=loss)
    assert train_step(state, config, images)["train/skipped_in_a_row"] == 0
    assert not all(map(torch.equal, weights(), before))
    # Without the rule the same step is taken.
    state.task = replace(state.task, loss=exploding)
    before = weights()
    train_step(state, replace(config, skip_norm=None), images)
    assert not all(map(torch.equal, weights(), before))


def test_the_checkpoint_gives_the_trained_hypernetwork_and_its_manifest(tmp_path):
    state, _ = run(tmp_path / "run", TINY)
    for path in (tmp_path / "run", tmp_path / "run" / CHECKPOINT_NAME):
        hyper, info = load_hypernetwork(path)
        image = smooth_image(seed=9)
        for name, value in hyper.generate(image).items():
            assert torch.equal(value, state.model.generate(image)[name])
        assert info["step"] == 8 and info["train_hashes"] == ["abc"]


def test_a_diverging_run_stops_with_its_last_checkpoint_intact(tmp_path):
    huge = {"lr": 1e30, "base_lr": 1e30, "clip_norm": 1e30}
    config = replace(TINY, **huge, max_steps=100, checkpoint_sec=1e-9)
    with pytest.raises(InputError, match="diverged at step"):
        run(tmp_path / "run", config)
    hyper, _ = load_hypernetwork(tmp_path / "run")
    assert all(value.isfinite().all() for value in hyper.state_dict().values())


def test_the_time_limit_ends_a_run_with_a_checkpoint(tmp_path):
    state, losses = run(tmp_path / "run", replace(TINY, time_limit_min=1e-9))
    assert state.step == len(losses) == 1
    assert load_state(tmp_path / "run" / CHECKPOINT_NAME, HYPERNETWORK)[0].step == 1


def test_a_checkpoint_of_other_sizes_is_refused_by_name(tmp_path):
    state = new_state(HYPERNETWORK, TINY)
    path = tmp_path / "mixed.safetensors"
    save_state(path, state, TINY)
    tensors, info = load_tensors(path, CHECKPOINT_KIND)
    info["hypernetwork"]["siren"]["width"] = 32
    save_tensors(path, tensors, CHECKPOINT_KIND, info)
    with pytest.raises(InputError, match=r"mixed\.safetensors"):
        load_hypernetwork(path)


def test_a_checkpoint_without_its_progress_cannot_be_resumed(tmp_path):
    path = tmp_path / "stripped.safetensors"
    save_state(path, new_state(HYPERNETWORK, TINY), TINY)
    tensors, info = load_tensors(path, CHECKPOINT_KIND)
    del info["step"]
    save_tensors(path, tensors, CHECKPOINT_KIND, info)
    assert load_hypernetwork(path)[0] is not None  # it can still be used
    with pytest.raises(InputError, match=r"stripped\.safetensors.*no step"):
        load_state(path, HYPERNETWORK)


def test_the_rates_rise_and_then_fall_to_nothing():
    config = replace(TINY, max_steps=100, warmup_steps=10)
    rates = [outer.rate(step, config) for step in range(101)]
    assert rates[0] < 0.1 and max(rates) > 0.95 and rates[100] == pytest.approx(0, abs=1e-9)
    assert rates[:10] == sorted(rates[:10]) and rates[12:] == sorted(rates[12:], reverse=True)


@pytest.mark.parametrize(
    "field",
    [
        {"max_steps": 0},
        {"lr": 0.0},
        {"rank": 0},
        {"skip_norm": 0.99},  # every step was skipped: "outer loss diverged"
        {"weight_before": 0.0, "weight_after": 0.0},  # nothing was learned, and nothing said so
        {"base_init": "34"},
        {"data_weights": ("clothing",)},
        {"data_weights": ("clothing=-1",)},
        {"data_weights": ("clothing=1", "clothing=2")},
        {"data_weights": ("clothing=1", "clothing/=2")},
    ],
)
def test_impossible_settings_are_refused(field):
    with pytest.raises(InputError):
        replace(TINY, **field)
