"""Hand-designed rivals: the property that defines each, and how they come into a benchmark."""

from __future__ import annotations

from math import exp, sqrt

import pytest
import torch
from conftest import smooth_image
from torch import Tensor

from baselines import RULES
from baselines.rules import (
    FRESH_BINS,
    FRESH_OMEGAS,
    choose_omega,
    fresh_draw,
    noise_scales,
    spectral_centroid,
    spectrum,
    wasserstein,
)
from hyperinit.base.errors import InputError
from hyperinit.bench.sources import load_init
from hyperinit.hypernet.untrained import LONG_DRAW, WAVES_STEPS
from hyperinit.images.coords import image_coords, image_to_rgb, pixel_coords
from hyperinit.inits.rules import NAMED_INITS, named_init
from hyperinit.inits.start import SIZED_POWER, sized_init, spec_init
from hyperinit.siren.network import Params, SirenConfig, predict
from scripts import benchmark as script
from scripts.catalogue import CATALOGUE

WIDTH, DEPTH = 64, 3


def start(name: str, image: Tensor | None = None, seed: int = 0, width: int = WIDTH) -> Params:
    init = load_init(name, CATALOGUE.rules, width, DEPTH)
    return init.start(smooth_image() if image is None else image, seed).params


def grating(cycles: int, side: int = 32) -> Tensor:
    """A grey picture of so many cycles along x, (3, side, side) in [0, 1]."""
    x = torch.arange(side) / side
    return (0.5 + 0.4 * torch.sin(2 * torch.pi * cycles * x)).expand(3, side, side)


def noise_image(seed: int = 0, side: int = 32) -> Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))


def pre_activations(params: Params, coords: Tensor) -> list[Tensor]:
    """omega_0 (W x + b) of every sine layer, then the output, each (N, units)."""
    found, hidden = [], coords
    for i in range(params.config.depth + 1):
        omega_0 = params.config.omega_0 if i < params.config.depth else 1.0
        weight, bias = params[f"layers.{i}.weight"], params[f"layers.{i}.bias"]
        found.append(omega_0 * (hidden @ weight.T + bias))
        hidden = torch.sin(found[-1])
    return found


# All of them

SIZED = ("33-sized", "identity-sized")
NUMBERS = {name: rule.number for name, rule in RULES.items()} | dict.fromkeys(SIZED, SIZED_POWER)


@pytest.mark.parametrize("name", NUMBERS)
def test_the_seed_decides_every_bit_and_the_network_is_the_one_asked_for(name):
    first, same, other = start(name, seed=3), start(name, seed=3), start(name, seed=4)
    assert (first.config.width, first.config.depth) == (WIDTH, DEPTH)
    assert all(torch.equal(first[n], same[n]) for n in first)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])
    assert all(value.isfinite().all() for value in first.values())


@pytest.mark.parametrize("name", NUMBERS)
def test_records_know_rules_as_hand_designed_and_by_their_number(name):
    plain, tuned = (load_init(n, CATALOGUE.rules, WIDTH, DEPTH) for n in (name, f"{name}@0.5"))
    assert "hidden" in plain.facts  # what the score takes for hand-designed
    assert plain.facts["number"] == NUMBERS[name] and tuned.facts["number"] == 0.5
    assert (plain.facts["rule"], tuned.facts["rule"], tuned.name) == (name, name, f"{name}@0.5")


def test_looking_at_the_image_is_counted():
    looks = {
        name: load_init(name, CATALOGUE.rules, 8, 2).epochs(smooth_image()) for name in NUMBERS
    }
    own = dict.fromkeys(SIZED, 0)
    assert looks == {"weight-scaling": 0, "winner": 1, "vi3nr": 0, "fresh": 1, **own}


@pytest.mark.parametrize("number", ["", "x", "-1", "nan", "inf"])
def test_a_number_that_is_none_is_one_clear_line(number):
    with pytest.raises(InputError, match=f"init vi3nr@{number}: .* number >= 0"):
        load_init(f"vi3nr@{number}", CATALOGUE.rules, WIDTH, DEPTH)


@pytest.mark.slow
def test_the_benchmark_lists_and_runs_them(tmp_path, capsys):
    assert script.main(["--list"]) == 0
    assert "rules: weight-scaling winner vi3nr fresh 33-sized" in capsys.readouterr().out
    sizes = {"image-size": 16, "width": 8, "depth": 2, "budgets-epochs": 1, "lrs": "1e-3"}
    more = {"lr-images": 1, "lr-budget-epochs": 1, "limit": 1, "seeds": 1, "out": tmp_path / "r"}
    flags = [text for k, v in {**sizes, **more}.items() for text in (f"--{k}", str(v))]
    names = ["winner", "vi3nr@0.1", "33@0.25", "33-sized@0.5", "mine=weight-scaling"]
    data = ["--images", "synthetic", "--tuning-images", "synthetic"]
    assert script.main(["--inits", *names, *data, *flags]) == 0
    table = capsys.readouterr().out
    assert all(f"| {name.partition('=')[0]} |" in table for name in names)


# Each one


def test_weight_scaling_is_the_paper_init_times_alpha_but_for_the_output_layer():
    paper = spec_init("paper", named_init("paper"), WIDTH, DEPTH).start(smooth_image(), 0).params
    for name, alpha in (("weight-scaling", 2.5), ("weight-scaling@1.2", 1.2)):
        params = start(name)
        for layer in range(DEPTH):
            weight = f"layers.{layer}.weight"
            torch.testing.assert_close(params[weight], alpha * paper[weight])
        output = f"layers.{DEPTH}.weight"
        torch.testing.assert_close(params[output], paper[output] * sqrt(6) / 30)
        for layer in range(DEPTH + 1):
            assert torch.equal(params[f"layers.{layer}.bias"], paper[f"layers.{layer}.bias"])


def test_the_spectral_centroid_is_that_of_a_row_of_pixels():
    assert spectral_centroid(torch.full((3, 8, 8), 0.3)) == pytest.approx(0, abs=1e-9)
    assert spectral_centroid(torch.full((3, 8, 8), 0.5)) == 0  # all zeros in [-1, 1]
    # A grating around mid grey has one line, at cycles / side; as SC twice that by 3 channels.
    assert spectral_centroid(grating(8)) == pytest.approx(2 * (8 / 32) / 3, rel=1e-5)
    assert spectral_centroid(smooth_image(32)) < spectral_centroid(noise_image())


def test_winner_adds_noise_by_the_centroid_formula_to_the_first_two_layers():
    image, width = noise_image(), 256
    plain = start("winner", torch.full((3, 32, 32), 0.3), width=width)
    noisy, double = (start(name, image, width=width) for name in ("winner", "winner@2"))
    relative = spectral_centroid(image) / 3
    expected = [50 * (1 - exp(-5 * relative)) / 30, 0.4 * relative / 30]
    for layer, std in enumerate(expected):
        name = f"layers.{layer}.weight"
        noise = noisy[name] - plain[name]
        assert float(noise.std()) == pytest.approx(std, rel=0.1)
        torch.testing.assert_close(double[name] - plain[name], 2 * noise, rtol=1e-3, atol=1e-5)
    for name in list(plain)[4:]:
        assert torch.equal(noisy[name], plain[name])
    assert noise_scales(0.0) == (0.0, 0.0)


def test_winner_leaves_the_paper_init_alone_for_a_constant_image():
    plain = start("winner", torch.full((3, 16, 16), 0.7))
    paper = spec_init("paper", named_init("paper"), WIDTH, DEPTH).start(smooth_image(), 0).params
    for layer in range(DEPTH):
        weight = f"layers.{layer}.weight"
        torch.testing.assert_close(plain[weight], paper[weight], rtol=0, atol=1e-7)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 1.0])
def test_vi3nr_keeps_the_pre_activations_std_in_depth_to_the_output(sigma):
    init = load_init(f"vi3nr@{sigma}", CATALOGUE.rules, 512, 6)
    start = init.start(smooth_image(), 0).params
    # Without the biases, whose scale does not follow sigma.
    bare = start.map(torch.clone)
    for name, value in bare.items():
        if name.endswith("bias"):
            value.zero_()
    first, *hidden, output = pre_activations(bare, pixel_coords(32, 32))
    assert float(first.std()) == pytest.approx(30 * sigma, rel=0.1)
    for layer in hidden:
        assert float(layer.std()) == pytest.approx(30 * sigma, rel=0.2)
    assert float(output.std()) == pytest.approx(sigma, rel=0.4)  # of three units alone
    assert float(start["layers.2.bias"].abs().max()) == pytest.approx(1 / sqrt(512), rel=0.05)


def test_the_spectrum_sits_where_the_frequency_is():
    for cycles in (3, 10):
        bins = spectrum(image_to_rgb(grating(cycles)), 32)
        assert bins.shape == (FRESH_BINS,) and float(bins.sum()) == pytest.approx(1)
        assert int(bins.argmax()) == cycles - 1  # the mean is left out
        assert float(bins.max()) > 0.99


def test_the_spectrum_counts_every_conjugate_pair_once():
    # White noise has the same amplitude everywhere, so bins are as long as their diagonals.
    side = 8
    rgb = torch.zeros(side * side, 3)
    rgb[0] = 1.0  # one bright pixel: a flat spectrum
    bins = spectrum(rgb, side)
    counts = torch.tensor([2, 3, 4, 5, 4, 5, 6, 4.0])  # independent frequencies with i + j = 1...
    torch.testing.assert_close(bins[:8] * counts.sum(), counts.double())
    assert float(counts.sum()) == side * side / 2 + 1 and not bins[8:].any()


def test_the_distance_of_spectra_is_how_far_mass_moves():
    a, b = torch.zeros(64), torch.zeros(64)
    a[3], b[10] = 1.0, 1.0
    assert float(wasserstein(a, b)) == 7 and float(wasserstein(a, a)) == 0


def test_fresh_takes_a_larger_omega_for_a_finer_image():
    config = fresh_draw(0).spec.siren_config(WIDTH, DEPTH)
    omegas = [choose_omega(config, image) for image in (grating(1), grating(6), grating(14))]
    assert omegas == sorted(omegas) and omegas[0] < omegas[-1]
    assert set(omegas) <= set(FRESH_OMEGAS)
    assert choose_omega(config, smooth_image(32)) < choose_omega(config, noise_image())


def test_fresh_has_the_chosen_omega_in_the_first_layer_alone():
    config = SirenConfig(WIDTH, DEPTH)
    coarse, fine = smooth_image(32), noise_image()
    ratio = choose_omega(config, fine) / choose_omega(config, coarse)
    a, b = start("fresh", coarse), start("fresh", fine)
    torch.testing.assert_close(b["layers.0.weight"], ratio * a["layers.0.weight"])
    assert all(torch.equal(a[name], b[name]) for name in list(a)[1:])
    # Output layer: W (30 x) with W uniform within sqrt(6/n)/30.
    assert float(a[f"layers.{DEPTH}.weight"].abs().max()) <= sqrt(6 / WIDTH)


@pytest.mark.parametrize("name", ["33", "identity"])
def test_a_sized_init_is_itself_at_224_and_has_fewer_cycles_on_a_smaller_image(name):
    row = spec_init(name, named_init(name), WIDTH, DEPTH).start(smooth_image(), 0).params
    same, root, half = (
        start(f"{name}-sized", smooth_image(224)),
        start(f"{name}-sized", smooth_image(56)),
        start(f"{name}-sized@1", smooth_image(112)),
    )
    assert all(torch.equal(same[key], row[key]) for key in same)
    for params in (root, half):  # (1/4)^(1/2) and (1/2)^1
        torch.testing.assert_close(params["layers.0.weight"], row["layers.0.weight"] / 2)
        assert all(torch.equal(params[key], row[key]) for key in list(params)[1:])


def test_a_row_can_have_its_first_layer_scaled():
    plain, scaled = (load_init(n, NAMED_INITS, WIDTH, DEPTH) for n in ("33", "33@0.25"))
    a, b = plain.start(smooth_image(), 0).params, scaled.start(smooth_image(), 0).params
    torch.testing.assert_close(b["layers.0.weight"], 0.25 * a["layers.0.weight"])
    assert all(torch.equal(a[name], b[name]) for name in list(a)[1:])
    assert scaled.facts["first"]["gain"] == 0.25 and scaled.name == "33@0.25"


def test_untrained_descends_the_image_from_identity_sized_and_pays_for_it():
    image = grating(3, side=64)
    init = load_init("untrained", CATALOGUE.rules, 64, 4)
    drawn = load_init("identity-sized", CATALOGUE.rules, 64, 4).start(image, 0).params
    params = init.start(image, 0).params
    coords, rgb = image_coords(image), image_to_rgb(image)

    def error(siren):
        return float((predict(siren, coords) - rgb).square().mean())

    assert error(params) < 0.5 * error(drawn)
    assert torch.equal(params["layers.0.weight"], drawn["layers.0.weight"])
    assert init.epochs(image) == 16 * 114 / 64**2
    assert init.epochs(torch.zeros(3, 224, 224)) == 16 * 256 / 224**2
    assert "hidden" not in init.facts  # scores do not take it for hand-designed
    still = load_init("untrained@0", CATALOGUE.rules, 64, 4).start(image, 0).params
    assert all(torch.equal(still[name], drawn[name]) for name in drawn)


def test_waves_of_long_fits_are_finer_the_larger_the_network_is_for_its_image():
    """5 x 256 has 1, 5.3 and 16 weights a pixel here; on the last its waves are the finest."""

    def fineness(side: int, width: int = 256) -> float:
        draw = WAVES_STEPS.draw_for(width, 5, side * side)
        return draw.first.gain / WAVES_STEPS.draw.first.gain

    assert fineness(512) < fineness(224) < fineness(128) == WAVES_STEPS.finest
    assert fineness(224) == pytest.approx(1, abs=0.01)
    assert fineness(224, 128) < fineness(224)
    assert fineness(32) == fineness(64) / 2  # too few pixels for them
    assert fineness(1000) == fineness(4000) == 0.7
    image = smooth_image(64)
    params = load_init("waves-steps@0", CATALOGUE.rules, 256, 5).start(image, 0).params
    drawn = sized_init("x", WAVES_STEPS.draw, 256, 5, SIZED_POWER).start(image, 0).params
    finer = fineness(64) * drawn["layers.0.weight"]
    torch.testing.assert_close(params["layers.0.weight"], finer)


def test_gains_of_long_fits_rise_for_a_wide_network_that_is_large_for_its_image():
    """... and their rate falls; a narrow one has the gains that the draw was found with."""

    def gains(side: int, width: int) -> tuple[float, float]:
        draw, own = WAVES_STEPS.draw_for(width, 5, side * side), WAVES_STEPS.draw
        return draw.hidden.gain / own.hidden.gain, draw.output.gain / own.output.gain

    assert gains(96, 128) == gains(48, 64) == (1, 1)
    assert gains(1000, 256) == pytest.approx((1, 1))
    (hidden, output), (more, most_output) = gains(224, 256), gains(128, 256)
    assert 1 < hidden < more and 1 < output < most_output == pytest.approx(1.5)
    assert gains(64, 256) == pytest.approx((1.3, 1.5))  # no more than that
    init = load_init("waves-steps", CATALOGUE.rules, 256, 5)
    rates = [init.start(smooth_image(side), 0).lr_factor for side in (64, 300)]
    assert rates[0] == pytest.approx(init.lr_factor * 1.3**-1.7) and rates[1] == init.lr_factor


def test_many_steps_see_more_pixels_of_a_large_image():
    init = load_init("waves-steps", CATALOGUE.rules, 256, 5)
    assert init.epochs(torch.zeros(3, 96, 96)) == 16 * 256 / 96**2
    assert init.epochs(torch.zeros(3, 224, 224)) == 16 * 512 / 224**2
    assert init.epochs(torch.zeros(3, 448, 448)) == 16 * 512 / 448**2


@pytest.mark.parametrize(("width", "is_large"), [(64, False), (128, True)])
def test_few_steps_begin_from_the_draw_that_suits_the_network_and_the_image(width, is_large):
    """8 weights a pixel is large: 64 x 64 pixels and 4 x 128 have 12, 4 x 64 has 3."""
    image = grating(3, side=64)
    init = load_init("waves-few-steps", CATALOGUE.rules, width, 4)
    drawn = {
        False: load_init("waves-mid-sized", CATALOGUE.rules, width, 4),
        True: sized_init("long", LONG_DRAW, width, 4, SIZED_POWER),
    }[is_large].start(image, 0)
    params = init.start(image, 0).params
    coords, rgb = image_coords(image), image_to_rgb(image)
    before, after = (
        float((predict(siren, coords) - rgb).square().mean()) for siren in (drawn.params, params)
    )
    assert after < 0.95 * before
    still = load_init("waves-few-steps@0", CATALOGUE.rules, width, 4).start(image, 0).params
    assert all(torch.equal(still[name], drawn.params[name]) for name in still)
    assert init.epochs(image) == 6 * 57 / 64**2
    assert init.epochs(torch.zeros(3, 224, 224)) == 6 * 256 / 224**2
