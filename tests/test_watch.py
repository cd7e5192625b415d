"""The collapse watch: what is noticed, how soon, and what is left alone."""

from __future__ import annotations

import math

import pytest
import torch

from hyperinit.stepping.watch import CollapseWatch, detail

EPOCHS = [64, 500, 3000]  # in steps


def losses_of(epoch_steps: int, epochs: float, noise: float = 0.2) -> list[float]:
    """A healthy fit's, from 1 down as time^-1.5, with noise from batch to batch."""
    generator = torch.Generator().manual_seed(0)
    steps = round(epochs * epoch_steps)
    bumps = (torch.randn(steps, generator=generator) * noise).exp().tolist()
    return [bump / (1 + 4 * step / epoch_steps) ** 1.5 for step, bump in enumerate(bumps)]


def noticed(watch: CollapseWatch, losses: list[float]) -> int | None:
    """The first step at which it says "collapsed"."""
    for step, loss in enumerate(losses):
        if watch.feed(torch.tensor(loss)) and watch.collapsed[0]:
            return step
    return None


@pytest.mark.parametrize("epoch_steps", [4, 16, *EPOCHS])
def test_a_healthy_fit_is_left_alone(epoch_steps):
    assert noticed(CollapseWatch(epoch_steps, [1.0]), losses_of(epoch_steps, 8)) is None


@pytest.mark.parametrize("epoch_steps", EPOCHS)
@pytest.mark.parametrize("to", [5.0, 100.0, math.nan, math.inf])
def test_a_rise_is_noticed_within_a_quarter_of_an_epoch(epoch_steps, to):
    losses = losses_of(epoch_steps, 4)
    begin = 2 * epoch_steps
    losses[begin:] = [0.037 * to] * len(losses[begin:])
    step = noticed(CollapseWatch(epoch_steps, [1.0]), losses)
    assert step is not None and begin <= step <= begin + math.ceil(epoch_steps / 4)


@pytest.mark.parametrize("epoch_steps", EPOCHS)
def test_a_fit_that_only_shows_the_mean_colour_is_noticed_within_its_first_epoch(epoch_steps):
    losses = [1.1 + 0.1 * (step % 2) for step in range(epoch_steps)]
    assert noticed(CollapseWatch(epoch_steps, [1.0]), losses) is not None
    # Slow, but on its way
    falling = [1.2 * 0.4 ** (step / epoch_steps) for step in range(4 * epoch_steps)]
    assert noticed(CollapseWatch(epoch_steps, [1.0]), falling) is None


@pytest.mark.parametrize("epoch_steps", EPOCHS)
def test_a_jump_from_which_the_loss_returns_at_once_is_none(epoch_steps):
    losses = losses_of(epoch_steps, 4)
    begin = 2 * epoch_steps
    losses[begin : begin + epoch_steps // 50] = [0.4] * (epoch_steps // 50)
    assert noticed(CollapseWatch(epoch_steps, [1.0]), losses) is None


@pytest.mark.slow
@pytest.mark.parametrize("epoch_steps", [4, *EPOCHS])
def test_a_stall_is_noticed_once_after_an_epoch_where_details_are_known(epoch_steps):
    stalls = [0.5 + 0.5 * 0.1 ** (10 * step / max(epoch_steps, 64)) for step in range(9000)]

    def noticed_at(losses, details):
        watch = CollapseWatch(epoch_steps, [1.0], details=details)
        fed = ((step, watch.feed(torch.tensor(loss))) for step, loss in enumerate(losses))
        return [step for step, looked in fed if looked and watch.stalled[0]]

    (step,) = noticed_at(stalls, [0.4])
    assert max(epoch_steps, 64) * 0.9 < step <= max(epoch_steps, 64)
    assert noticed_at(stalls, []) == []
    assert noticed_at(stalls, [0.6]) == []  # it shows what a blur does not
    assert noticed_at(losses_of(epoch_steps, 8), [0.01]) == []  # or is on its way


def test_detail_is_what_a_blur_takes_away():
    flat = torch.full((3, 40, 50), 0.3)
    edge = flat.clone()
    edge[:, 20:] = 0.8
    stripes = flat.clone()
    stripes[:, ::2] = 0.8
    found = detail(torch.stack([flat, edge, stripes]))
    assert found.shape == (3,) and found[0] == pytest.approx(0, abs=1e-10)
    assert 0 < found[1] < found[2] == pytest.approx(0.25**2, rel=0.2)
    assert detail(torch.rand(3, 2, 5)).shape == ()


def test_after_a_return_it_watches_afresh():
    watch = CollapseWatch(64, [1.0])
    losses = losses_of(64, 2)
    assert noticed(watch, [*losses, *[1.0] * 64]) is not None
    watch.restored()
    assert not watch.collapsed[0] and not watch.good[0]
    assert noticed(watch, losses[-64:]) is None and watch.good[0]
    assert noticed(watch, [1.0] * 64) is not None


def test_good_is_neither_what_rises_nor_what_has_hardly_begun():
    watch = CollapseWatch(64, [1.0])
    for loss in [0.9] * 20:
        watch.feed(torch.tensor(loss))
        assert watch.good == [False]
    for loss in losses_of(64, 2, noise=0.0):
        watch.feed(torch.tensor(loss))
    assert watch.good == [True]
    while not watch.collapsed[0]:
        looked = watch.feed(torch.tensor(5.0))
        assert not looked or watch.good == [False]


def test_images_are_watched_one_by_one():
    watch = CollapseWatch(64, [1.0, 1.0, 1.0])
    for step, loss in enumerate(losses_of(64, 2)):
        watch.feed(torch.tensor([loss, 1.0 if step > 100 else loss, math.nan]))
    assert watch.collapsed == [False, True, True]


def test_the_device_is_looked_at_only_now_and_then():
    watch = CollapseWatch(640, [1.0])
    assert [watch.feed(torch.tensor(1.0)) for _ in range(20)].count(True) == 2


def test_resuming_continues_exactly():
    losses = [*losses_of(100, 3), *[1.0] * 100]
    whole, resumed = CollapseWatch(100, [1.0]), CollapseWatch(100, [1.0])
    noticed(whole, losses[:151])
    resumed.load_state(whole.state())
    assert noticed(resumed, losses[151:]) == noticed(whole, losses[151:]) is not None
