"""Linear hypernetworks: what they read of an image, and how a fit's displacement teaches them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from skimage import data

from hyperinit import InputError, Params, to_image
from hyperinit.bench.sources import BY_NAME, load_init
from hyperinit.hypernet.learned import LearnedConfig, LearnedInit, load_learned
from hyperinit.images.cosines import MOST_COSINES, lowest_cosines
from hyperinit.images.pixels import square_crop
from hyperinit.inits.linear import with_one
from hyperinit.learn.loop import Stop, train, train_step
from hyperinit.learn.reptile import PRESETS, REPTILE, ReptileConfig, correction_loss
from hyperinit.learn.state import load_state, new_state, save_state
from hyperinit.learn.tracking import silent_tracker
from hyperinit.siren.store import CHECKPOINT_NAME
from hyperinit.siren.vectors import from_vector, stack_params, to_vector
from hyperinit.spread.processes import Processes, ProcessLost

PHOTO = square_crop(to_image(data.astronaut()), 48)
TINY = ReptileConfig(**{**PRESETS["tiny"], "read_numbers": 6})


def base() -> Params:
    params: Params = new_state(REPTILE, TINY).model.base.params
    return params.map(lambda value: value.detach())


def test_a_plain_colour_has_no_waves():
    plain = torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand(3, 40, 24)
    numbers = lowest_cosines(plain[None], 60)[0]
    assert int((numbers.abs() > 1e-4).sum()) == 3  # brightness and two colour differences


def test_coefficients_are_of_about_unit_size_and_the_first_are_of_low_frequency():
    numbers = lowest_cosines(PHOTO[None], 300)[0]
    assert 0.3 < float(numbers.square().mean().sqrt()) < 2
    blurred = torch.nn.functional.avg_pool2d(PHOTO[None], 3, 1, 1, count_include_pad=False)
    moved = (lowest_cosines(blurred, 300)[0] - numbers).abs()
    assert moved[:16].mean() < 0.5 * moved[100:].mean()


def test_size_and_shape_of_the_image_hardly_matter():
    large = torch.nn.functional.interpolate(PHOTO[None], size=(96, 144), mode="bilinear")
    one, other = lowest_cosines(PHOTO[None], 64), lowest_cosines(large.clamp(0, 1), 64)
    assert float((one - other).norm()) < 0.1 * float(one.norm())


def test_each_image_gets_a_start_of_its_own_and_files_keep_it(tmp_path):
    state = new_state(REPTILE, TINY)
    with torch.no_grad():
        state.model.reader.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.01)
    save_state(tmp_path / "checkpoint.safetensors", state, TINY, train_hashes=["abc"])
    loaded, info = load_learned(tmp_path)
    assert info["train_hashes"] == ["abc"]
    one, other = loaded.generate(PHOTO), loaded.generate(PHOTO.flip(-1))
    assert not torch.equal(to_vector(one), to_vector(other))
    assert torch.equal(to_vector(one), to_vector(state.model.generate(PHOTO)))
    start = load_init(str(tmp_path), BY_NAME, 16, 2).start(PHOTO, 0)
    assert torch.equal(to_vector(start.params), to_vector(one))
    assert start.epochs == 0


def test_outer_steps_find_where_fits_end_if_that_depends_linearly_on_the_image():
    config = replace(TINY, eps=1.0, schedule="constant", memory_images=1000)
    state = new_state(REPTILE, config)
    model = state.model
    before = to_vector(model.base.params).detach()
    truth = torch.randn(7, len(before), generator=torch.Generator().manual_seed(1)) * 0.1
    photos = torch.rand(60, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    photos = torch.nn.functional.interpolate(photos, size=(16, 16), mode="bilinear")

    def ends(images):
        return before + with_one(model.read(images)) @ truth

    def missed():
        with torch.no_grad():
            return float((to_vector(model(photos[50:])) - ends(photos[50:])).norm())

    first = missed()
    for images in photos[:50].split(2):
        fitted = from_vector(ends(images), model.config.siren)
        state.optimizer.zero_grad()
        model.remember(images)
        correction_loss(model, images, model(images), fitted).backward()
        state.optimizer.step()
    assert missed() < 0.2 * first


def test_training_that_was_interrupted_is_the_same(tmp_path):
    photos, rng = torch.rand(6, 3, 16, 16), torch.Generator
    whole, parts = new_state(REPTILE, TINY), new_state(REPTILE, TINY)
    for step in range(6):
        if step == 3:
            save_state(tmp_path / "checkpoint.safetensors", parts, TINY)
            parts, _, _ = load_state(tmp_path / "checkpoint.safetensors", REPTILE)
        for state in (whole, parts):
            state.optimizer.zero_grad()
            generator = rng().manual_seed(step)
            REPTILE.see(state.model, photos[step : step + 1])
            REPTILE.loss(state.model, TINY, photos[step : step + 1], generator).loss.backward()
            state.optimizer.step()
    assert all(map(torch.equal, *(s.model.state_dict().values() for s in (whole, parts))))
    assert torch.equal(whole.model.moments, parts.model.moments)


class LostAtStep3(Processes):
    """Another process of the run ends in the middle of the third step."""

    def weighted_sum(self, weight, parameters, numbers):
        self.__dict__["step"] = self.__dict__.get("step", 0) + 1
        if self.__dict__["step"] == 3:
            raise ProcessLost("lost")
        return list(numbers)


def test_no_image_counts_twice_where_a_process_was_lost_in_its_step(tmp_path):
    class Images:
        def batch(self, step, count):
            generator = torch.Generator().manual_seed(step)
            return torch.rand(count, 3, 16, 16, generator=generator)

    config, whole = replace(TINY, max_steps=4), new_state(REPTILE, replace(TINY, max_steps=4))
    held_out, how = torch.empty(0), {"info": {}, "stop": Stop()}
    while whole.step < 4:
        train_step(whole, config, Images().batch(whole.step, config.batch_images))
    state, run = new_state(REPTILE, config), tmp_path
    tracker = silent_tracker()
    where = (config, Images(), held_out, run, tracker)
    with pytest.raises(ProcessLost):
        train(state, *where, **how, processes=LostAtStep3())
    state, _, _ = load_state(run / CHECKPOINT_NAME, REPTILE)
    assert state.step == 2
    train(state, *where, **how)
    tracker.finish()
    assert state.model.moments_images == whole.model.moments_images
    assert all(map(torch.equal, *(s.model.state_dict().values() for s in (whole, state))))


def test_finished_one_cannot_be_trained_further():
    model = LearnedInit(LearnedConfig(siren=base().config, read_numbers=4), base())
    with pytest.raises(InputError, match="cannot continue"):
        correction_loss(model, PHOTO[None], model(PHOTO[None]), stack_params([base()]))


def test_one_that_reads_nothing_is_as_before():
    learned = LearnedInit(LearnedConfig(siren=base().config), base())
    assert torch.equal(to_vector(learned.generate(PHOTO)), to_vector(base()))
    assert "read_numbers" not in learned.facts["learned"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"read_numbers": -1}, "read_numbers must be at least 0"),
        ({"read_numbers": MOST_COSINES + 1}, f"at most {MOST_COSINES}"),
        ({"read_numbers": 4, "heads": 2}, "heads"),
    ],
)
def test_what_cannot_be_read_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        LearnedConfig(siren=base().config, **options)
