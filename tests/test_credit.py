"""Credit sampling: what it promises of the visits of every pixel, whatever the image."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.images.coords import image_to_rgb
from hyperinit.stepping.credit import FLOOR, CreditSampler, cell_grid, local_std

SHAPES = [(1, 1), (1, 7), (3, 2), (17, 31), (33, 32), (100, 7), (24, 40)]


def sampler_of(image: Tensor, cell: int = 8, seed: int = 0, batch: int | None = None):
    return CreditSampler(image, cell, torch.Generator().manual_seed(seed), batch)


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def visits_of(sampler: CreditSampler, residuals: Tensor, passes: int) -> list[list[int]]:
    """For each pixel the passes that visited it, with residuals that never change.

    Batches of one pixel: which pass each is from is then known.
    """
    visits: list[list[int]] = [[] for _ in range(sampler.pixels)]
    sampler.report(torch.arange(sampler.pixels), residuals)
    while True:
        indices = sampler.next_batch()
        if sampler.passes[0] > passes:
            return visits
        sampler.report(indices, residuals[indices])
        visits[int(indices)].append(sampler.passes[0])


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", [1, 3, 8])
def test_every_pixel_comes_at_least_every_tenth_pass(shape, cell):
    sampler = sampler_of(photo(*shape), cell, batch=1)
    residuals = torch.rand(sampler.pixels, generator=torch.Generator().manual_seed(1)) ** 4
    for passes in visits_of(sampler, residuals, 45):
        gaps = [b - a for a, b in zip([0, *passes], [*passes, 46], strict=True)]
        assert max(gaps) <= round(1 / FLOOR)


def test_visits_are_in_proportion_to_residuals_and_evenly_spaced():
    sampler = sampler_of(photo(16, 16), batch=1)
    residuals = torch.linspace(0.01, 2.0, 256)
    weights = (residuals / 2).clamp(FLOOR, 1).tolist()
    for passes, weight in zip(visits_of(sampler, residuals, 60), weights, strict=True):
        gaps = [b - a for a, b in pairwise(passes)]
        assert abs(len(passes) - 60 * weight) <= 1.1
        # Steps of 1 / weight, to the next whole pass either way
        assert 1 / weight - 1.01 < min(gaps) and max(gaps) < 1 / weight + 1.01


def test_a_batch_takes_one_pixel_of_every_cell_where_all_are_visited():
    sampler = sampler_of(photo(24, 40))
    for _ in range(10):  # the first pass weighs by the image
        sampler.report(torch.arange(960), torch.ones(960))
        sampler.next_batch()
    while sampler.passes[0] < 3 or sampler._ends[0] - sampler._at != 0:
        indices = sampler.next_batch()
        sampler.report(torch.arange(960), torch.ones(960))
    for _ in range(64):
        indices = sampler.next_batch()
        cells = indices // 40 // 8 * 5 + indices % 40 // 8
        assert sorted(cells.tolist()) == list(range(15))


def test_a_cells_order_is_spread_over_it_and_never_the_same():
    """Of each four turns one is in each quarter of the cell, of each 16 one in each sixteenth."""
    sampler = sampler_of(photo(8, 8))
    orders = []
    for _ in range(5):
        (order,) = sampler._order([0])
        sampler._passes[0] += 1
        y, x = order // 8, order % 8
        quarters, sixteenths = y // 4 * 2 + x // 4, y // 2 * 4 + x // 2
        assert all(sorted(four) == list(range(4)) for four in quarters.view(-1, 4).tolist())
        assert all(sorted(some) == list(range(16)) for some in sixteenths.view(-1, 16).tolist())
        orders.append(tuple(order.tolist()))
    assert len(set(orders)) > 1


@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_are_in_a_batch_at_most_once_for_each_pass(shape):
    sampler = sampler_of(photo(*shape))
    generator = torch.Generator().manual_seed(3)
    before = 0
    for _ in range(60):
        left = sampler._ends[0] - sampler._at
        indices = sampler.next_batch()
        spanned = sampler.passes[0] - before + (left > 0)
        before = sampler.passes[0]
        assert int(indices.bincount().max()) <= max(1, spanned)
        assert set(indices.tolist()) <= set(range(sampler.pixels))
        sampler.report(indices, torch.rand(len(indices), generator=generator))


@pytest.mark.parametrize("shape", SHAPES)
def test_batches_are_of_one_size_and_each_cell_counts(shape):
    sampler = sampler_of(photo(*shape))
    rows, columns = cell_grid(shape, 8)
    assert sampler.batch_pixels == rows * columns
    assert {len(sampler.next_batch()) for _ in range(50)} == {rows * columns}
    assert sampler_of(photo(*shape), batch=10**6).batch_pixels == shape[0] * shape[1]


@pytest.mark.parametrize("shape", [(1, 7), (17, 31), (33, 32)])
def test_images_together_get_the_batches_that_each_gets_alone(shape):
    images = torch.stack([photo(*shape, seed=seed) ** (1 + seed) for seed in range(4)])
    together = sampler_of(images)
    alone = [sampler_of(image) for image in images]
    truth = torch.rand(4, together.pixels, generator=torch.Generator().manual_seed(5)) ** 3
    for _ in range(120):
        indices = together.next_batch().clone()
        for row, sampler in zip(indices, alone, strict=True):
            single = sampler.next_batch()
            assert torch.equal(row, single)
            sampler.report(single, truth[alone.index(sampler)][single])
        together.report(indices, truth.gather(1, indices))
    assert len(set(together.passes)) > 1  # they are not in step with each other


@pytest.mark.parametrize("batch", [(), (3,)])
def test_resuming_continues_exactly(batch):
    image = torch.rand(*batch, 3, 17, 31, generator=torch.Generator().manual_seed(0))
    whole = sampler_of(image)

    def advance(sampler: CreditSampler, generator: torch.Generator, steps: int) -> list[Tensor]:
        drawn = []
        for _ in range(steps):
            drawn.append(sampler.next_batch().clone())
            sampler.report(drawn[-1], torch.rand(drawn[-1].shape, generator=generator))
        return drawn

    advance(whole, torch.Generator().manual_seed(1), 37)
    state = whole.state()
    expected = advance(whole, torch.Generator().manual_seed(2), 90)
    resumed = sampler_of(image, seed=9)
    advance(resumed, torch.Generator().manual_seed(4), 5)
    resumed.load_state(state)
    found = advance(resumed, torch.Generator().manual_seed(2), 90)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    with pytest.raises(InputError, match="sampler state"):
        sampler_of(photo(4, 4)).load_state(state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_residuals_that_are_no_numbers_do_no_lasting_harm(bad):
    sampler = sampler_of(photo(16, 16))
    for step in range(300):
        indices = sampler.next_batch()
        sampler.report(indices, torch.full((4,), bad if step < 100 else 0.5))
    seen = set()
    for _ in range(256):
        seen |= set(sampler.next_batch().tolist())
        sampler.report(torch.arange(256), torch.full((256,), 0.5))
    assert len(seen) == 256


def test_a_perfect_fit_still_visits_everything():
    sampler = sampler_of(photo(16, 16), batch=1)
    assert all(len(passes) >= 3 for passes in visits_of(sampler, torch.zeros(256), 35))


def test_the_first_pass_prefers_detail():
    image = torch.full((3, 32, 32), 0.5)
    image[:, :, 16:] = torch.rand(3, 32, 16, generator=torch.Generator().manual_seed(0))
    sampler = sampler_of(image)
    drawn = torch.cat([sampler.next_batch().clone() for _ in range(12)])
    assert float((drawn % 32 >= 15).float().mean()) > 0.8


def test_local_std_is_that_of_the_neighbourhood():
    image = photo(5, 6)
    found = local_std(image).view(5, 6)
    rgb = image_to_rgb(image).view(5, 6, 3)
    patch = rgb[1:4, 2:5].reshape(9, 3)
    assert float(found[2, 3]) == pytest.approx(
        float(patch.var(0, unbiased=False).mean().sqrt()), rel=1e-5
    )
    corner = rgb[[0, 0, 1]][:, [0, 0, 1]].reshape(9, 3)
    assert float(found[0, 0]) == pytest.approx(
        float(corner.var(0, unbiased=False).mean().sqrt()), rel=1e-5
    )
    assert torch.equal(local_std(torch.stack([image, image / 2]))[0], local_std(image))


def test_a_step_allocates_nothing_of_the_images_size():
    """All but the steps that plan a pass: a batch is a view of the queue."""
    sampler = sampler_of(photo(64, 64))
    sampler.next_batch()
    storage = sampler._queue.untyped_storage().data_ptr()
    planned = sampler.passes
    for _ in range(200):
        indices = sampler.next_batch()
        assert indices.untyped_storage().data_ptr() == storage
        sampler.report(indices, torch.rand(len(indices)))
    assert 0 < sampler.passes[0] - planned[0] < 60


def test_arguments_are_checked():
    with pytest.raises(InputError, match="cell"):
        sampler_of(photo(4, 4), cell=0)
    with pytest.raises(InputError, match="batch_pixels"):
        sampler_of(photo(4, 4), batch=-1)
