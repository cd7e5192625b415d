"""The hypernetworks that come with the package."""

from __future__ import annotations

import json
from math import inf, nan
from pathlib import Path

import pytest
import torch
from conftest import smooth_image
from skimage import data

from hyperinit import InputError, load_params, load_pretrained, save_image, to_image
from hyperinit.app.cli import main
from hyperinit.base.settings import from_dict, read_config_file
from hyperinit.bench.sources import BY_NAME, load_init
from hyperinit.hypernet.checkpoint import CHECKPOINT_KIND, load
from hyperinit.hypernet.learned import LEARNED_KIND, LearnedInit, load_learned
from hyperinit.hypernet.pretrained import (
    CHECKPOINTS_DIR,
    PRETRAINED,
    hyper_for,
    pretrained_path,
)
from hyperinit.hypernet.untrained import waves_steps
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.images.pixels import square_crop
from hyperinit.inits.rules import NAMED_INITS
from hyperinit.inits.start import spec_init
from hyperinit.learn.config import ReptileConfig
from hyperinit.learn.reptile import REPTILE
from hyperinit.learn.state import TrainState, save_state
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.siren.network import predict
from hyperinit.siren.store import file_kind, load_tensors, read_info
from hyperinit.siren.vectors import to_vector
from scripts import ship_checkpoint
from scripts.ship_checkpoint import CONFIGS_DIR


def start_mse(params, image) -> float:
    with torch.no_grad():
        return float(grid_errors(predict(params, image_coords(image)), image_to_rgb(image))[0])


# Those for clothing are no picture before a fit of anything else.
@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in PRETRAINED if not n.startswith("clothing")])
def test_each_starts_an_unseen_photograph_far_below_a_hand_designed_init(name):
    depth, width, size = PRETRAINED[name]
    hyper = load_pretrained(name)
    assert (hyper.config.siren.depth, hyper.config.siren.width) == (depth, width)
    image = square_crop(to_image(data.astronaut()), size)
    blind = spec_init("33", NAMED_INITS["33"], width, depth).start(image, 0).params
    assert start_mse(hyper.generate(image), image) < 0.5 * start_mse(blind, image)


@pytest.mark.parametrize("name", PRETRAINED)
def test_each_has_its_card_its_config_and_the_hashes_of_what_it_was_trained_on(name):
    path = pretrained_path(name)
    info = read_info(path, file_kind(path))
    assert len(info["train_hashes"]) > 900
    assert "/" not in json.dumps({k: v for k, v in info.items() if k != "train_hashes"})
    assert (CHECKPOINTS_DIR / f"{name}.md").read_text(encoding="utf-8").startswith(f"# {name}\n")
    path = CONFIGS_DIR / f"{name}.toml"
    kind = TrainConfig if name.startswith("photo") else ReptileConfig
    config = from_dict(kind, read_config_file(path), source=str(path))
    assert (config.depth, config.width, config.size) == PRETRAINED[name]


def test_together_they_stay_small():
    sizes = [path.stat().st_size for path in CHECKPOINTS_DIR.glob("*.safetensors")]
    assert len(sizes) == len(PRETRAINED) and max(sizes) <= 16e6 and sum(sizes) <= 50e6


@pytest.mark.slow
def test_generate_needs_no_checkpoint_and_hyper_is_the_best_for_the_network(tmp_path, caplog):
    image = square_crop(to_image(data.chelsea()), 64)
    save_image(image, tmp_path / "photo.png")
    main(["generate", f"{tmp_path}/photo.png", "-o", f"{tmp_path}/o.safetensors"])
    params, _ = load_params(tmp_path / "o.safetensors")
    expected = waves_steps("waves-steps", 256, 5).start(image, 0).params
    assert torch.allclose(to_vector(params), to_vector(expected), atol=1e-2)  # 8 bits of the photo
    assert 'no learned start is known to be ahead of "waves-' in caplog.text  # and says so
    caplog.clear()
    with caplog.at_level("WARNING", "hyperinit"):
        init = load_init("hyper", BY_NAME, 256, 5)  # for a fit of the usual length
    assert init.name == "waves-steps" and "to use steps-224, give its name" in caplog.text
    assert load_init("hyper", BY_NAME, 64, 3).name == "waves-steps"  # not one for clothing
    caplog.clear()
    with caplog.at_level("WARNING", "hyperinit"):
        assert load_init("hyper", BY_NAME, 65, 3).name == "waves-steps"
    assert "no learned start comes with the package" in caplog.text and "3 x 65" in caplog.text
    with pytest.raises(InputError, match="photo-224"):
        load_pretrained("photo-225")


def test_generate_says_which_init_hyper_was(tmp_path, capsys):
    save_image(square_crop(to_image(data.chelsea()), 48), tmp_path / "photo.png")
    made = ["-o", f"{tmp_path}/o.safetensors", "--width", "128", "--depth", "4", "--json"]
    assert main(["generate", f"{tmp_path}/photo.png", *made]) == 0
    assert json.loads(capsys.readouterr().out)["init"] == "waves-steps"
    assert load_params(tmp_path / "o.safetensors")[1]["init"] == "waves-steps"


@pytest.mark.parametrize(
    ("side", "network", "length", "init"),
    [
        (48, (128, 4), (2.0,), "linear-96"),
        (48, (128, 4), (8.0,), "waves-steps"),  # which is ahead in long fits
        (48, (128, 4), (50.0, 0.05), "linear-96"),
        (40, (128, 4), (2.0,), "waves-few-steps"),  # not measured at this size
        (224, (256, 5), (2.0,), "steps-224"),
        (224, (256, 5), (50.0, 0.02), "steps-224"),
        (224, (256, 5), (3.1,), "steps-224"),
        (224, (256, 5), (3.2,), "waves-steps"),
        (160, (256, 5), (4.0,), "steps-224"),  # where waves-steps is ahead later than of others
        (208, (256, 5), (3.3,), "steps-224"),  # between two sides
        (208, (256, 5), (3.4,), "waves-steps"),
        (64, (256, 5), (2.0,), "waves-few-steps"),  # where what was learned is far behind
        (None, (256, 5), (2.0,), "waves-few-steps"),
        (64, (64, 3), (2.0,), "waves-few-steps"),  # the learned one is for clothing
    ],
)
def test_hyper_is_what_suits_network_image_and_length_of_a_fit(side, network, length, init):
    pixels = None if side is None else side**2
    assert hyper_for(*network, length[0], *length[1:] or (None,), pixels) == init


def test_a_fit_from_hyper_says_what_it_began_from(tmp_path, capsys):
    save_image(square_crop(to_image(data.chelsea()), 48), tmp_path / "photo.png")
    network = ["--width", "128", "--depth", "4", "--init", "hyper", "--json"]
    assert main(["fit", f"{tmp_path}/photo.png", *network, "--budget-epochs", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["init"] == "linear-96"


def test_shipping_a_run_keeps_the_network_and_leaves_the_optimiser_and_paths_out(
    tmp_path, monkeypatch
):
    config = TrainConfig(size=16, width=16, depth=2, data=str(tmp_path), encoder_size=8)
    model = HYPERNETWORK.build(config)
    optimizer = HYPERNETWORK.optimizer(model, config)
    sum(value.sum() for value in model.parameters()).backward()
    optimizer.step()
    state = TrainState(HYPERNETWORK, model, optimizer)
    save_state(tmp_path / "checkpoint.safetensors", state, config, train_hashes=["abc"])
    monkeypatch.setitem(PRETRAINED, "tiny", (2, 16, 16))
    shipped = ship_checkpoint.ship(tmp_path, "tiny", tmp_path, tmp_path)
    assert file_kind(shipped) == CHECKPOINT_KIND
    assert str(tmp_path) not in json.dumps(read_info(shipped, CHECKPOINT_KIND))
    assert str(tmp_path) not in (tmp_path / "tiny.toml").read_text(encoding="utf-8")
    own = load(shipped).state_dict()
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert load(shipped).config.lr_factor == model.config.lr_factor
    assert (
        load(ship_checkpoint.ship(tmp_path, "tiny", tmp_path, tmp_path, 0.7)).config.lr_factor
        == 0.7
    )
    with pytest.raises(InputError, match="--read-numbers is for a linear start"):
        ship_checkpoint.ship(tmp_path, "tiny", tmp_path, tmp_path, read_numbers=3)
    monkeypatch.setitem(PRETRAINED, "tiny", (2, 16, 32))
    with pytest.raises(InputError, match="32 pixels a side"):
        ship_checkpoint.ship(tmp_path, "tiny", tmp_path, tmp_path)


def test_what_nobody_could_load_does_not_replace_what_ships(tmp_path, monkeypatch):
    linear_run(tmp_path, monkeypatch)
    shipped = ship_checkpoint.ship(tmp_path, "tiny", tmp_path, tmp_path)
    before = shipped.read_bytes()
    for lr_factor in (nan, inf, -1.0, 0.0):
        with pytest.raises(InputError, match="--lr-factor must be a positive number"):
            ship_checkpoint.ship(tmp_path, "tiny", tmp_path, tmp_path, lr_factor)
    assert shipped.read_bytes() == before
    shipped.replace(tmp_path / "checkpoint.safetensors")  # has been shipped: no run's any more
    with pytest.raises(InputError, match="has no training settings; give a run directory"):
        ship_checkpoint.ship(tmp_path, "tiny", tmp_path, tmp_path)


def linear_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LearnedInit:
    """A run of a linear reader of twelve numbers, for a pretrained name of its size, "tiny"."""
    config = ReptileConfig(size=16, width=16, depth=1, data=str(tmp_path), read_numbers=12)
    model = REPTILE.build(config)
    with torch.no_grad():
        model.reader.normal_(std=1e-2)
    state = TrainState(REPTILE, model, REPTILE.optimizer(model, config))
    save_state(tmp_path / "checkpoint.safetensors", state, config, train_hashes=[])
    monkeypatch.setitem(PRETRAINED, "tiny", (1, 16, 16))
    return model


@pytest.mark.parametrize(("most_bytes", "bits"), [(8_000_000, 16), (2_000, 8)])
def test_a_linear_reader_is_shipped_without_what_its_training_needs_and_small(
    tmp_path, monkeypatch, most_bytes, bits
):
    model = linear_run(tmp_path, monkeypatch)
    monkeypatch.setattr(ship_checkpoint, "MOST_BYTES", most_bytes)
    shipped = ship_checkpoint.ship(tmp_path, "tiny", tmp_path, tmp_path)
    tensors, _ = load_tensors(shipped, LEARNED_KIND)
    assert tensors["model/reader"].itemsize == bits // 8
    loaded, _ = load_learned(shipped)
    image = smooth_image(16)
    before, after = (to_vector(m.generate(image)) for m in (model, loaded))
    moved = (before - to_vector(model.base.params)).norm()
    # Half of the last of 10 or 2 bits of a fraction.
    assert 0 < (after - before).norm() <= (2**-11 if bits == 16 else 2**-3) * moved
    with pytest.raises(InputError, match="was finished"):
        loaded.gains(image[None])


def test_one_start_for_all_images_is_shipped_in_half_precision(tmp_path, monkeypatch):
    config = ReptileConfig(size=16, width=16, depth=1, gradient_steps="waves-few-steps")
    model = REPTILE.build(config)
    state = TrainState(REPTILE, model, REPTILE.optimizer(model, config))
    save_state(tmp_path / "checkpoint.safetensors", state, config, train_hashes=[])
    monkeypatch.setitem(PRETRAINED, "tiny", (1, 16, 16))
    shipped = ship_checkpoint.ship(tmp_path, "tiny", tmp_path, tmp_path)
    tensors, _ = load_tensors(shipped, LEARNED_KIND)
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    own, params = load_learned(shipped)[0].start(smooth_image(16)), model.start(smooth_image(16))
    assert own.epochs == params.epochs > 0 and own.lr_factor == params.lr_factor
    before, after = to_vector(params.params), to_vector(own.params)
    assert after.dtype == torch.float32 and (after - before).norm() < 1e-3 * before.norm()


def test_a_linear_reader_of_the_first_numbers_moves_the_weights_by_these_alone(
    tmp_path, monkeypatch
):
    model = linear_run(tmp_path, monkeypatch)
    shipped = ship_checkpoint.ship(tmp_path, "tiny", tmp_path, tmp_path, read_numbers=5)
    loaded, _ = load_learned(shipped)
    with torch.no_grad():
        model.reader[5:] = 0
    image = smooth_image(16)
    wanted = to_vector(model.generate(image))
    assert torch.allclose(to_vector(loaded.generate(image)), wanted, atol=1e-4)
    assert not torch.allclose(to_vector(model.base.params), wanted, atol=1e-3)
    for count in (0, 13):
        with pytest.raises(InputError, match=f"1 to 12, which .* reads, not {count}"):
            ship_checkpoint.ship(tmp_path, "tiny", tmp_path, tmp_path, read_numbers=count)
