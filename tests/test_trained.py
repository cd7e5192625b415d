"""Rivals that are trained: the property that defines each, exact resume, and use as an init."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import assert_same, smooth_image

import datasets
from baselines import RULES
from baselines.noise import NOISES
from baselines.trained import LEARNED, RIVALS, BaselineConfig
from hyperinit.base.errors import InputError
from hyperinit.base.settings import from_dict
from hyperinit.bench.sources import load_init
from hyperinit.fitting.config import PROTOCOL_1
from hyperinit.fitting.fit import fit
from hyperinit.hypernet.learned import LearnedInit, load_learned
from hyperinit.images.coords import RGB_MEAN, RGB_STD, image_to_rgb, pixel_coords
from hyperinit.images.save import save_image
from hyperinit.inits.rules import NAMED_INITS, sample_params
from hyperinit.learn.images import fixed_squares
from hyperinit.learn.loop import Stop, train, train_step
from hyperinit.learn.state import load_state, new_state, save_state
from hyperinit.learn.tracking import open_tracker, read_log
from hyperinit.siren.network import Params, apply
from hyperinit.siren.store import CHECKPOINT_NAME, load_tensors, save_tensors
from scripts import benchmark, meta_train, train_baseline

every_rival = pytest.mark.parametrize("name", RIVALS)
IMAGES = torch.stack([smooth_image(seed=s) for s in range(2)])
TINY_FLAGS = ["--preset", "tiny", "--data", "synthetic", "--wandb", "disabled"]


def config(name: str, **changes) -> BaselineConfig:
    settings = {**train_baseline.presets(name)["tiny"], "wandb": "disabled", **changes}
    return from_dict(BaselineConfig, settings, source="test")


def fresh(name: str, **changes) -> tuple[LearnedInit, BaselineConfig]:
    settings = config(name, **changes)
    return LEARNED.build(settings), settings


def step_loss(model, settings, seed=0, images=IMAGES):
    """The loss of one outer step, differentiated."""
    generator = torch.Generator().manual_seed(seed)
    result = LEARNED.loss(model, settings, images, generator)
    result.loss.backward()
    return result


# STRAINER and SNP


def test_strainers_heads_share_all_sine_layers():
    model, _ = fresh("strainer")
    coords, depth = pixel_coords(5, 7), model.config.siren.depth
    shown = model.show_heads(coords)
    for head in range(2):
        own = {
            f"layers.{depth}.weight": model.head_weight[head],
            f"layers.{depth}.bias": model.head_bias[head],
        }
        alone = apply(Params(model.config.siren, {**model.base.params, **own}), coords)
        torch.testing.assert_close(shown[head], alone)
    assert not torch.equal(model.head_weight[0], model.head_weight[1])


def test_strainers_loss_is_the_sum_of_the_images_errors_over_all_pixels():
    model, settings = fresh("strainer", query_pixels=10_000)
    result = step_loss(model, settings)
    errors = (model.show_heads(pixel_coords(16, 16)) - image_to_rgb(IMAGES)).square()
    torch.testing.assert_close(result.loss, errors.mean(dim=(1, 2)).sum())
    weights = dict(model.named_parameters())
    for head in range(2):  # a head learns from its own image alone, the trunk from both
        assert weights["head_weight"].grad[head].abs().sum() > 0
    assert weights["base.layers.0.weight"].grad.abs().sum() > 0
    assert weights[f"base.layers.{settings.depth}.weight"].grad is None


def test_a_trained_strainer_gives_its_trunk_and_a_fresh_head_for_every_seed():
    state, settings = new_state(LEARNED, config("strainer")), config("strainer")
    train_step(state, settings, IMAGES)
    first, same, other = (state.model.generate(IMAGES[0], seed=seed) for seed in (1, 1, 2))
    assert_same(first, same)
    output = f"layers.{settings.depth}"
    for name in first:
        assert torch.equal(first[name], other[name]) is not name.startswith(output), name
        if not name.startswith(output):
            assert torch.equal(first[name], state.model.base.params[name])
    bound = (6 / settings.width) ** 0.5 / 30  # as the source draws its heads
    assert 0.5 * bound < float(first[f"{output}.weight"].abs().max()) <= bound
    for head in state.model.head_weight:
        assert not torch.equal(first[f"{output}.weight"], head)
    assert state.model.generate_epochs(IMAGES[0]) == 0


def test_strainer_trains_on_so_many_squares_and_names_their_photographs():
    photos = datasets.load("synthetic", held_out_fraction=0.3)
    found = fixed_squares(photos, config("strainer", batch_images=3))
    batch = found.batches.batch(0, 3)
    assert batch.shape == (3, 3, 16, 16) and torch.equal(batch, found.batches.batch(9, 3))
    assert set(found.hashes) == {photo.hash for photo in photos.train[:3]}
    with pytest.raises(InputError, match="lower batch_images from 99"):
        fixed_squares(photos, config("strainer", batch_images=99))


@pytest.mark.slow
def test_snp_looks_at_no_photograph():
    photos = datasets.load("synthetic")
    for noise in NOISES:
        settings = config("snp", noise=noise)
        found = RIVALS["snp"].images(photos, settings)
        pictures = found.batches.batch(0, 2)
        assert found.hashes == [] and pictures.shape == (2, 3, 16, 16)
        assert torch.equal(pictures, RIVALS["snp"].images(photos, settings).batches.batch(1, 2))
        assert float(pictures.min()) >= 0 and float(pictures.max()) <= 1


def slope_of_spectrum(pictures) -> float:
    """Of log amplitude over log frequency, by least squares."""
    side = pictures.shape[-1]
    amplitude = torch.fft.rfft2(pictures.double()).abs().square().mean(dim=(0, 1)).sqrt()
    down, across = torch.fft.fftfreq(side), torch.fft.rfftfreq(side)
    radius = (down[:, None].square() + across.square()).sqrt()
    keep = (radius > 0) & (radius < 0.5)
    x, y = radius[keep].double().log(), amplitude[keep].log()
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_spectrum_noise_has_the_power_law_it_was_asked_for(power):
    pictures = NOISES["spectrum"](16, 32, torch.Generator().manual_seed(0), power)
    assert slope_of_spectrum(pictures[:1]) == pytest.approx(-power, abs=0.15)
    assert float(pictures.min()) == 0 and float(pictures.max()) == 1


def test_uniform_and_gaussian_noise_have_their_moments():
    generator = torch.Generator().manual_seed(0)
    uniform = NOISES["uniform"](4, 64, generator, 0.0)
    gaussian = NOISES["gaussian"](4, 64, generator, 0.0)
    assert float(uniform.std()) == pytest.approx(12**-0.5, rel=0.02)
    assert float(gaussian.std()) == pytest.approx(0.2, rel=0.03)
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(gaussian.mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.slow
def test_dead_leaves_are_flat_discs_that_cover_everything():
    picture = NOISES["dead-leaves"](1, 64, torch.Generator().manual_seed(0), 3.0)[0]
    colours = {tuple(pixel.tolist()) for pixel in picture.flatten(1).T}
    assert 20 < len(colours) < 64 * 64 / 4  # several pixels a leaf
    assert (0.0, 0.0, 0.0) not in colours  # nothing is bare
    large = NOISES["dead-leaves"](1, 64, torch.Generator().manual_seed(0), 1.0)[0]
    assert len({tuple(pixel.tolist()) for pixel in large.flatten(1).T}) < len(colours)


# MAML and Meta-SGD


def gradients(name: str, **changes):
    model, settings = fresh(name, inner_steps=2, **changes)
    model = model.double()
    loss = step_loss(model, settings, images=IMAGES.double()).loss
    return loss, {name: value.grad for name, value in model.named_parameters()}


@pytest.mark.parametrize("name", ["maml", "fomaml", "meta-sgd"])
def test_the_unrolled_gradient_equals_that_of_higher(name):
    changes = {"inner_lr": 1e-2, "omega_0": 30.0}  # at 200 the steps amplify every rounding
    (ours, own), (reference, theirs) = (
        gradients(name, inner_loop=loop, **changes) for loop in ("functional", "higher")
    )
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-14)
    assert own.keys() == theirs.keys()
    for parameter, gradient in own.items():
        torch.testing.assert_close(gradient, theirs[parameter], rtol=1e-9, atol=1e-12)


def test_first_order_maml_is_another_gradient_of_the_same_loss():
    (loss, second), (same, first) = (gradients(name, inner_lr=1e-2) for name in ("maml", "fomaml"))
    torch.testing.assert_close(loss, same)
    assert not torch.allclose(first["base.layers.1.weight"], second["base.layers.1.weight"])


def in_unit_colors(params: Params) -> Params:
    """The SIREN that shows the same as one for normalised colours, but in [0, 1]."""
    name, std = f"layers.{params.config.depth}", torch.tensor(RGB_STD)
    output = {
        f"{name}.weight": params[f"{name}.weight"] * std[:, None],
        f"{name}.bias": params[f"{name}.bias"] * std + torch.tensor(RGB_MEAN),
    }
    return Params(params.config, {**params, **output})


@pytest.mark.parametrize("unit_colors", [True, False])
def test_an_inner_step_is_one_of_gradient_descent_in_the_colours_of_the_source(unit_colors):
    changes = {"inner_steps": 1, "inner_pixels": 256, "inner_lr": 0.03, "omega_0": 30.0}
    model, _ = fresh("maml", unit_colors=unit_colors, **changes)
    image, before = IMAGES[0], model.draw(0)
    after = model.adapted(before, image, seed=5)
    target = image.flatten(1).T if unit_colors else image_to_rgb(image)
    if unit_colors:
        before, after = in_unit_colors(before), in_unit_colors(after)
    start = before.map(lambda value: value.clone().requires_grad_())
    (apply(start, pixel_coords(16, 16)) - target).square().mean().backward()
    for name, value in start.items():
        # Channels differ by 1 % in their std; one rate stands for the three.
        tolerance = {"rtol": 0.05, "atol": 1e-4} if unit_colors else {"rtol": 1e-3, "atol": 1e-6}
        torch.testing.assert_close(after[name] - before[name], -0.03 * value.grad, **tolerance)
        assert float(value.grad.abs().max()) * 0.03 > 1e-3


@pytest.mark.parametrize(("unit_colors", "factor"), [(True, 1 / 0.226), (False, 1.0)])
def test_adam_moves_the_output_layer_as_far_as_it_would_on_colours_in_0_to_1(unit_colors, factor):
    settings = config("maml", unit_colors=unit_colors)
    state = new_state(LEARNED, settings)
    before = state.model.draw(0)
    train_step(state, settings, IMAGES)
    after = state.model.draw(0)
    moved = {name: float((after[name] - value).abs().median()) for name, value in before.items()}
    assert moved["layers.0.weight"] == pytest.approx(settings.lr, rel=0.1)
    output = f"layers.{settings.depth}.weight"
    assert moved[output] == pytest.approx(settings.lr * factor, rel=0.1)


def test_maml_starts_from_theta_0_and_meta_sgd_from_after_its_steps():
    for name, epochs in (("maml", 0.0), ("meta-sgd", 3 * 64 / 256)):
        model, _ = fresh(name, inner_lr=0.01)
        moved = not torch.equal(
            model.generate(IMAGES[0])["layers.0.weight"], model.base.params["layers.0.weight"]
        )
        assert moved is (name == "meta-sgd")
        assert model.generate_epochs(IMAGES[0]) == epochs


def test_meta_sgd_learns_a_step_size_for_every_parameter_and_step():
    state, settings = new_state(LEARNED, config("meta-sgd")), config("meta-sgd")
    parameters = sum(value.numel() for value in state.model.base.parameters())
    assert state.model.rates.shape == (3, parameters)
    assert torch.equal(state.model.rates, torch.full_like(state.model.rates, 1e-5))
    train_step(state, settings, IMAGES)
    rates = state.model.rates.detach()
    assert float((rates - 1e-5).abs().max()) == pytest.approx(5e-5, rel=0.1)
    assert rates.std() > 0
    (first, *_) = state.model.step_sizes()
    assert first["layers.0.weight"].shape == (settings.width, 2)


def test_a_learned_inits_start_has_its_cost_and_rate():
    model, _ = fresh("meta-sgd", inner_lr=0.01)
    model.config = replace(model.config, lr_factor=2.0)
    start = model.start(IMAGES[0], seed=3)
    assert_same(start.params, model.generate(IMAGES[0], seed=3))
    assert (start.epochs, start.lr_factor) == (3 * 64 / 256, 2.0)


# Reptile


def test_reptiles_outer_step_is_the_mean_displacement():
    settings = config("reptile", inner_steps=3)
    state = new_state(LEARNED, settings)
    before = state.model.draw(0)
    generator = torch.Generator().manual_seed(4)
    seed = int(torch.randint(2**31, (1,), generator=torch.Generator().manual_seed(4)))
    LEARNED.loss(state.model, settings, IMAGES, generator).loss.backward()
    state.optimizer.step()
    options = {
        **PROTOCOL_1,
        **{"batch_pixels": 64, "lr": 1e-3, "schedule": "constant", "output_lr_factor": 1 / 0.226},
    }
    ends = [fit(before, i, budget_epochs=3 * 64 / 256, seed=seed, **options) for i in IMAGES]
    assert [end.curve[-1].steps for end in ends] == [3, 3]
    for name, value in before.items():
        displacement = torch.stack([end.params[name] - value for end in ends]).mean(dim=0)
        moved = state.model.base.params[name].detach() - value
        torch.testing.assert_close(moved, 0.1 * displacement, rtol=1e-2, atol=1e-6)
        assert float(moved.abs().max()) > 0


# TransINR and IPC


def singular_values(matrix):
    return torch.linalg.svdvals(matrix.detach().double())


@pytest.mark.parametrize("name", ["transinr", "ipc"])
def test_a_transformer_keeps_the_base_inits_scale_before_training(name):
    model, settings = fresh(name)
    for image in IMAGES:
        made = model.generate(image)
        for key, base in model.base.params.items():
            ours, theirs = made[key], base.detach()
            if key.endswith("weight"):  # the norm of the weights into each unit
                ours, theirs = ours.norm(dim=1), theirs.norm(dim=1)
            torch.testing.assert_close(ours, theirs)
    spec = NAMED_INITS[settings.base_init]
    own = sample_params(spec, model.config.siren, generator=torch.Generator().manual_seed(0))
    assert_same(own, model.draw(0))  # and the base is a draw of the init by that name


def test_transinr_gives_every_image_its_own_weights_and_all_the_same_biases():
    model, _ = fresh("transinr")
    one, other = model.generate(IMAGES[0]), model.generate(IMAGES[1])
    for key in one:
        assert torch.equal(one[key], other[key]) is key.endswith("bias"), key


def test_transinr_multiplies_groups_of_units_alike():
    model, settings = fresh("transinr", weight_tokens=4)
    made, base = model.generate(IMAGES[0]), model.draw(0)
    for layer in range(settings.depth):
        key = f"layers.{layer}.weight"
        factors = torch.nn.functional.normalize(made[key] / base[key], dim=1)
        for unit in range(4, settings.width):  # the same but for the norm, which is restored
            torch.testing.assert_close(factors[unit], factors[unit % 4], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(factors[0], factors[1], atol=0.1)


def test_ipc_changes_the_second_layers_weight_alone_and_by_a_low_rank():
    state, settings = new_state(LEARNED, config("ipc", depth=3)), config("ipc", depth=3)
    train_step(state, settings, IMAGES)
    one, other = (state.model.generate(image) for image in IMAGES)
    rank = settings.weight_tokens
    assert [key for key in one if not torch.equal(one[key], other[key])] == ["layers.1.weight"]
    for made in (one, other):
        values = singular_values(made["layers.1.weight"])
        assert values[rank - 1] > 1e-3 * values[0] and values[rank] < 1e-6 * values[0]
    # The left factor is shared and of the rank; rows of the difference have two such factors.
    values = singular_values(one["layers.1.weight"] - other["layers.1.weight"])
    assert values[0] > 1e-6 and values[2 * rank] < 1e-6 * values[0]


@pytest.mark.parametrize("name", ["transinr", "ipc"])
def test_a_transformer_reads_images_of_any_size_and_where_things_are(name):
    model, settings = fresh(name)
    key = "layers.1.weight"
    picture = IMAGES[0]
    (mirrored, blank) = (model.generate(i)[key] for i in (picture.flip(-1), torch.ones(3, 16, 16)))
    own = model.generate(picture)[key]
    for other in (mirrored, blank):
        assert float((own - other).abs().max()) > 1e-5
    enlarged = torch.nn.functional.interpolate(picture[None], (48, 32), mode="nearest")[0]
    torch.testing.assert_close(model.generate(enlarged)[key], own, rtol=1e-4, atol=1e-6)
    assert settings.size % settings.patch_size  # whole patches are padded


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transinr", "ipc"])
def test_a_trained_transformers_init_shows_its_own_image_and_not_another(name):
    settings = config(name, max_steps=100, lr=3e-3, query_pixels=256)
    state = new_state(LEARNED, settings)
    for _ in range(100):
        train_step(state, settings, IMAGES)
    rgb = image_to_rgb(IMAGES)
    for image, own, other in zip(IMAGES, rgb, rgb.flip(0), strict=True):
        shown = apply(state.model.generate(image), pixel_coords(16, 16))
        assert (shown - own).square().mean() < 0.5 * (shown - other).square().mean()


@pytest.mark.parametrize("name", ["transinr", "ipc"])
def test_a_generated_init_is_no_view_of_the_transformers_own_weights(name):
    model, _ = fresh(name)
    made, before = model.generate(IMAGES[0]), model.draw(0)
    for value in made.values():
        value.zero_()
    assert_same(model.draw(0), before)


@pytest.mark.parametrize("name", ["transinr", "ipc"])
def test_a_stack_is_what_its_images_get_one_by_one(name):
    model, _ = fresh(name)
    with torch.no_grad():
        stacked = model(IMAGES).unbatch()
    for image, params in zip(IMAGES, stacked, strict=True):
        assert_same(model.generate(image), params, tolerance=1e-5)


# The seed's hypernetwork


@pytest.mark.slow
def test_the_residual_network_predicts_every_weight_and_bias_from_the_image():
    model, settings = fresh("seed-hyper")
    state = new_state(LEARNED, settings)
    train_step(state, settings, IMAGES)
    one, other = (state.model.generate(image) for image in IMAGES)
    for key, base in model.base.params.items():
        assert one[key].shape == base.shape and not torch.equal(one[key], other[key]), key
    assert state.model.training  # generating goes by the statistics gathered, and leaves the mode
    assert_same(state.model.generate(IMAGES[0]), one)
    layers = [m for m in model.modulator.encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(layers) == 49 + 4  # ResNet-50's, and its four shortcuts


@pytest.mark.slow
def test_the_seeds_penalties_are_part_of_the_loss_and_bring_the_weights_to_size():
    silent = {"code_penalty": 0.0, "norm_penalty": 0.0}
    losses = {}
    for name, weights in {
        "none": {},
        "code": {"code_penalty": 3.0},
        "norm": {"norm_penalty": 3.0},
    }.items():
        model, settings = fresh("seed-hyper", **{**silent, **weights})
        result = step_loss(model, settings)
        losses[name] = result.loss.item() - result.mse_before
    code = model.train().modulator.code(IMAGES)
    params = model.modulator.predict(code, model.config.siren)
    wanted = [1 / 6, *(6**0.5 / (90 * 16**0.5) for _ in range(2))]  # of layers of 2, 16, 16 inputs
    weights = [params[f"layers.{layer}.weight"] for layer in range(3)]
    norm = sum((w.std() - s) ** 2 + w.mean() ** 2 for w, s in zip(weights, wanted, strict=True))
    assert losses["none"] == pytest.approx(0, abs=1e-6)
    assert losses["code"] == pytest.approx(3 * code.square().mean().item(), rel=1e-3)
    assert losses["norm"] == pytest.approx(3 * norm.item(), rel=1e-3)


def test_seed_hyper_needs_a_batch_to_normalise():
    with pytest.raises(InputError, match="batch_images of seed-hyper must be at least 2"):
        config("seed-hyper", batch_images=1)


# All of them


def run(run_dir, settings, state=None, stop_at=None):
    """Trains in a directory; the logged losses by step."""
    tracker = open_tracker(
        run_dir, {}, "disabled", resume_step=None if state is None else state.step
    )
    state, stop = state or new_state(LEARNED, settings), Stop()
    photos = datasets.load("synthetic", held_out_fraction=0.2)
    images = RIVALS[settings.rival].images(photos, settings)

    def on_step(step, metrics):
        stop.signal = 15 if step == stop_at else None

    info = {"train_hashes": images.hashes}
    train(
        *(state, settings, images.batches, IMAGES[:1], run_dir, tracker),
        info=info,
        stop=stop,
        on_step=on_step,
    )
    tracker.finish()
    rows = [row for row in read_log(tracker.path) if row["kind"] == "metrics"]
    losses = {r["step"]: r["values"]["train/loss"] for r in rows if "train/loss" in r["values"]}
    return state, losses


@pytest.mark.slow
@every_rival
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, name):
    settings = config(name, max_steps=2)
    whole, losses = run(tmp_path / "whole", settings)
    run(tmp_path / "cut", settings, stop_at=1)
    state, stored, _ = load_state(tmp_path / "cut" / CHECKPOINT_NAME, LEARNED)
    assert (state.step, stored) == (1, settings)
    resumed, resumed_losses = run(tmp_path / "cut", stored, state)
    assert resumed_losses == losses and set(losses) == {1, 2}
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    before = LEARNED.build(settings).generate(IMAGES[0])
    assert not torch.equal(
        before["layers.1.weight"], whole.model.generate(IMAGES[0])["layers.1.weight"]
    )


@pytest.mark.slow
@every_rival
def test_training_lowers_the_loss(name):
    faster = {"meta-sgd": {"inner_lr": 1e-3}, "maml": {"lr": 1e-3}, "fomaml": {"lr": 1e-3}}
    usual = {"lr": 1e-3} if RIVALS[name].heads else {}
    settings = config(name, max_steps=60, omega_0=30.0, **{**usual, **faster.get(name, {})})
    state = new_state(LEARNED, settings)
    errors = [train_step(state, settings, IMAGES)["train/mse_after"] for _ in range(60)]
    assert sum(errors[-5:]) < 0.95 * sum(errors[:5])


@pytest.mark.slow
@every_rival
def test_the_script_trains_it_and_a_benchmark_takes_it(tmp_path, name, capsys):
    out = tmp_path / name
    assert train_baseline.main([name, *TINY_FLAGS, "--max-steps", "2", "--out", str(out)]) == 0
    assert f"| {name} |" in capsys.readouterr().out
    assert {"config.toml", "metrics.jsonl", "comparison.md"} <= {p.name for p in out.iterdir()}
    init = load_init(str(out), NAMED_INITS, 256, 5)
    model, info = load_learned(out)
    assert init.name == name and init.train_hashes == set(info["train_hashes"])
    assert bool(init.train_hashes) is (name != "snp")
    image = smooth_image()
    assert_same(init.start(image, 3).params, model.generate(image, seed=3))
    assert init.epochs(image) == (3 * 64 / 256 if name == "meta-sgd" else 0)
    settings, config_file = config(name, max_steps=2, data="synthetic"), out / "config.toml"
    again = ["--config", str(config_file), "--out", str(tmp_path / "again")]
    assert train_baseline.main([*again, "--compare-images", "0"]) == 0
    assert_same(load_learned(tmp_path / "again")[0].draw(0), model.draw(0))
    assert info["learned"]["siren"]["width"] == settings.width


def test_a_name_and_other_settings_that_say_another_rival_are_refused(tmp_path, capsys):
    """They won without a word: strainer with maml's rates, ipc's run continued as if maml's."""
    run = tmp_path / "run"
    flags = [*TINY_FLAGS, "--max-steps", "1", "--compare-images", "0"]
    assert train_baseline.main(["strainer", *flags, "--out", str(run)]) == 0
    before = (run / "config.toml").read_bytes()
    for other in (
        [*flags, "--rival", "strainer"],
        ["--config", str(run / "config.toml")],
        ["--resume", str(run)],
    ):
        out = [] if "--resume" in other else ["--out", str(tmp_path / "other")]
        with pytest.raises(SystemExit) as stopped:
            train_baseline.main(["maml", *other, *out])
        line = capsys.readouterr().err.splitlines()[-1]
        assert stopped.value.code == 2 and "says strainer, but NAME is" in line
        assert not (tmp_path / "other").exists()
    assert (run / "config.toml").read_bytes() == before
    assert train_baseline.main(["strainer", "--resume", str(run)]) == 0


def test_a_run_is_not_resumed_by_a_program_that_lacks_its_settings(tmp_path, capsys):
    flags = [*TINY_FLAGS, "--max-steps", "1", "--compare-images", "0"]
    assert train_baseline.main(["strainer", *flags, "--out", str(tmp_path / "run")]) == 0
    with pytest.raises(SystemExit):
        meta_train.main(["--resume", str(tmp_path / "run")])
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("a run of another program or version, with setting code_penalty")


def test_the_script_goes_on_with_a_run_that_was_stopped(tmp_path, capsys):
    out, flags = tmp_path / "run", [*TINY_FLAGS, "--compare-images", "0"]
    train_baseline.main(["reptile", *flags, "--out", str(out), "--time-limit", "1e-9"])
    assert load_learned(out)[1]["step"] == 1
    assert train_baseline.main(["--resume", str(out), "--time-limit", "none"]) == 0
    train_baseline.main(["reptile", *flags, "--out", str(tmp_path / "whole")])
    (resumed, info), (whole, _) = load_learned(out), load_learned(tmp_path / "whole")
    assert info["step"] == 4 and info["train"]["time_limit_min"] is None
    assert_same(resumed.draw(0), whole.draw(0))
    with pytest.raises(SystemExit):
        train_baseline.main(["--resume", str(out), "--lr", "1"])
    assert "leave out --lr" in capsys.readouterr().err


@pytest.mark.slow
def test_an_init_is_not_tested_on_what_it_was_trained_on(tmp_path, capsys):
    out = tmp_path / "run"
    train_baseline.main(
        ["strainer", *TINY_FLAGS, "--out", str(out), "--compare-images", "0", "--data", "builtin"]
    )
    photos = datasets.load("builtin", keep_side=None)
    seen = load_init(str(out), NAMED_INITS, 16, 2).train_hashes
    assert seen == {photo.hash for photo in photos.train[:2]}
    flags = {"image-size": 16, "width": 16, "depth": 2, "lr-images": 2, "budgets-epochs": "1"}
    flags |= {"lr-budget-epochs": 1, "lrs": "1e-3", "out": tmp_path / "r.jsonl"}
    texts = [text for k, v in flags.items() for text in (f"--{k}", str(v))]
    save_image(photos.train[0].image, tmp_path / "seen.png")
    command = ["--inits", str(out), "--images", str(tmp_path / "seen.png"), *texts]
    with pytest.raises(SystemExit):
        benchmark.main(command)
    assert "was trained on the test image seen.png" in capsys.readouterr().err


@every_rival
@pytest.mark.parametrize("preset", ["default", "base", "published"])
def test_published_settings_are_what_a_preset_resolves_to(name, preset, capsys):
    with pytest.raises(SystemExit) as stopped:
        train_baseline.main([name, "--preset", preset, "--print-config"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f'rival = "{name}"' in text
    row = RIVALS[name]
    own = row.settings | (row.sizes if preset == "published" else row.scaled)
    for field in ("max_steps", "batch_images", "width", "size"):
        if field in own:
            assert f"{field} = {own[field]} " in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["strianer"], "did you mean 'strainer'"),
        ([], "unknown rival ''"),
        (["maml", "--inner-lr", "0"], "--inner-lr must be above 0"),
        (["reptile", "--inner-steps", "0"], "at least 1"),
        (["snp", "--noise", "pink"], "--noise must be one of uniform"),
        (["snp", "--base-init", "34"], "unknown init"),
        (
            ["transinr", "--token-size", "100", "--attention-heads", "3"],
            "multiple of attention_heads",
        ),
        (["transinr", "--weight-tokens", "0"], "weight_tokens must be at least 1"),
        (["ipc", "--patch-size", "97"], "patch_size 97 exceeds the images' 96"),
        (["strainer", "--data-weights", "a=0"], "data_weights does nothing for strainer"),
        (["snp", "--data-weights", "a=0"], "data_weights does nothing for snp"),
        (["ipc", "--depth", "1"], "second sine layer; depth 1 has none"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        train_baseline.main(arguments)
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert message in line


def test_a_checkpoint_of_other_sizes_is_refused_by_name(tmp_path):
    settings = config("maml")
    path = tmp_path / "mixed.safetensors"
    save_state(path, new_state(LEARNED, settings), settings)
    tensors, info = load_tensors(path, LEARNED.kind)
    info["learned"]["siren"]["width"] = 32
    save_tensors(path, tensors, LEARNED.kind, info)
    with pytest.raises(InputError, match=r"mixed\.safetensors"):
        load_learned(path)


def test_a_rival_can_start_from_another_init_at_another_frequency():
    settings = replace(config("maml"), base_init="33", omega_0=None)
    siren = settings.learned.siren
    assert siren.unit_std_coords and siren.omega_0 == 30
    assert config("maml").learned.siren.omega_0 == 200


def test_the_document_has_every_rival_and_its_source():
    text = (Path(__file__).parent.parent / "docs" / "reference" / "rivals.md").read_text(
        encoding="utf-8"
    )
    for name, row in {**RULES, **RIVALS}.items():
        assert f"`{name}`" in text
        for paper in re.findall(r"arXiv (\d{4}\.\d{5})", row.source):
            assert paper in text, (name, paper)
