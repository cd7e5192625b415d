"""Our inits in other programs' networks: they start where a SIREN of ours would."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import smooth_image, tiny_hyper
from test_exchange_read import HEIGHT, THEIRS, WIDTH, shown
from torch import nn

import hyperinit
from hyperinit.base.errors import InputError

SIZE = (HEIGHT, WIDTH)


@pytest.mark.parametrize("layout", THEIRS)
def test_their_network_shows_what_ours_would(layout):
    make, coords, signed = THEIRS[layout]
    net = make()
    assert hyperinit.init_(net, init="33", seed=3, size=SIZE) is net
    spec = hyperinit.named_init("33")
    ours = hyperinit.sample_params(
        spec, spec.siren_config(16, 2), generator=torch.Generator().manual_seed(3)
    )
    want = hyperinit.render(ours, *SIZE)
    torch.testing.assert_close(shown(net, coords(), signed), want, atol=3e-5, rtol=0)


def test_the_installed_siren_pytorch_starts_from_a_hypernetwork():
    siren_pytorch = pytest.importorskip("siren_pytorch")
    hyper, image = tiny_hyper(), smooth_image(16)
    # omega_0 of the hidden layers is 1 by default, and is read off the modules where it is not.
    for w0 in (1.0, 7.0):
        net = siren_pytorch.SirenNet(2, 16, 3, num_layers=2, w0=w0)
        wrapper = siren_pytorch.SirenWrapper(net, image_width=16, image_height=16)
        hyperinit.init_(wrapper, image, hyper)
        want = hyperinit.render(hyper.generate(image), 16, 16)
        got = wrapper()[0].detach().clamp(0, 1)
        torch.testing.assert_close(got, want, atol=3e-5, rtol=0)


def test_the_example_of_siren_pytorch_runs_with_another_import():
    torch.manual_seed(0)
    arguments = {"dim_in": 2, "dim_hidden": 256, "dim_out": 3, "num_layers": 5}
    net = hyperinit.SirenNet(**arguments, final_activation=nn.Sigmoid(), w0_initial=30.0)
    rgb = net(torch.randn(1, 2))
    assert rgb.shape == (1, 3) and bool(((rgb > 0) & (rgb < 1)).all())
    assert not torch.equal(net.layers[0].weight, hyperinit.SirenNet(**arguments).layers[0].weight)
    siren_pytorch = pytest.importorskip("siren_pytorch")
    theirs = siren_pytorch.SirenNet(**arguments, final_activation=nn.Sigmoid(), w0_initial=30.0)
    theirs.load_state_dict(net.state_dict())
    coords = torch.rand(7, 2) * 2 - 1
    torch.testing.assert_close(theirs(coords), net(coords))


@pytest.mark.parametrize(("dim_in", "dim_out"), [(1, 1), (3, 1), (2, 4), (2, 1), (6, 4)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_other_signals_than_images_are_initialised(dim_in, dim_out, use_bias):
    net = hyperinit.SirenNet(dim_in, 16, dim_out, 3, use_bias=use_bias, seed=0)
    out = net(torch.rand(50, dim_in) * 2 - 1)
    assert out.shape == (50, dim_out) and 0.01 < float(out.detach().std()) < 3


def drawn():
    """Init 33 for a SIREN 2 x 8."""
    spec = hyperinit.named_init("33")
    generator = torch.Generator().manual_seed(0)
    return hyperinit.sample_params(spec, spec.siren_config(8, 2), generator=generator)


def test_what_does_not_fit_changes_nothing():
    net = hyperinit.SirenNet(2, 16, 3, 2, seed=0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    other = drawn()
    for arguments, text in (
        ({"init": "identty"}, "unknown init 'identty'"),
        ({"init": other, "size": SIZE}, "2 x 8 units"),
        ({"init": tiny_hyper()}, "looks at the image"),
        ({"init": "33", "grid": "middle"}, "unknown grid"),
    ):
        with pytest.raises(InputError, match=text):
            hyperinit.init_(net, **arguments)
    with pytest.raises(InputError, match=r"0\.weight"):
        hyperinit.init_(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("other", [nn.ReLU(), nn.GELU(), nn.Tanh()], ids=str)
def test_a_network_with_other_activations_is_no_siren(other):
    net = nn.Sequential(nn.Linear(2, 8), other, nn.Linear(8, 8), other, nn.Linear(8, 3))
    before = net[0].weight.clone()
    with pytest.raises(InputError, match=f"0 has a {type(other).__name__}, so this is not a SIREN"):
        hyperinit.init_(net, size=SIZE)
    assert torch.equal(net[0].weight, before)


@pytest.mark.parametrize("init", [3, None, [], hyperinit.InitSpec, torch.zeros(3)], ids=str)
def test_what_is_no_init_is_refused(init):
    net = hyperinit.SirenNet(2, 16, 3, 2, seed=0)
    for image in (None, smooth_image(8)):
        with pytest.raises(InputError, match="init must be a name, an InitSpec, an Init or Params"):
            hyperinit.init_(net, image, init)


@pytest.mark.parametrize("seed", [1.5, "a", True, 2**63, -(2**63) - 1, None], ids=str)
def test_a_seed_that_is_none_is_refused(seed):
    net, wave = hyperinit.SirenNet(2, 16, 3, 2, seed=0), torch.zeros(1, 50)
    hyper = tiny_hyper()
    for call in (
        lambda: hyperinit.init_(net, seed=seed),
        lambda: hyperinit.signal_start(wave, seed=seed),
        lambda: hyper.start(smooth_image(16), seed),
        lambda: hyper.generate(smooth_image(16), seed=seed),
    ):
        with pytest.raises(InputError, match="seed must be a whole number of 64 bits"):
            call()


def test_numbers_of_numpy_are_seeds():
    for seed in np.arange(2):
        a, b = (hyperinit.SirenNet(2, 16, 3, 2, seed=own) for own in (seed, int(seed)))
        assert torch.equal(a.last_layer.weight, b.last_layer.weight)
        hyperinit.signal_start(torch.zeros(1, 50), seed=seed)
    hyperinit.SirenNet(*np.array([2, 16, 3, 2]))  # and numbers of units and layers
    size = tuple(np.array([9, 12]))  # and sides
    assert hyperinit.init_(hyperinit.SirenNet(2, 16, 3, 2), size=size) is not None


def test_a_siren_of_ours_is_not_taken_for_another_program_s():
    net = hyperinit.Siren(drawn())
    with pytest.raises(InputError, match=r"make it from Params, Siren\(params\)"):
        hyperinit.init_(net, init=drawn(), size=SIZE)


def test_numbers_that_are_none_stay_out_of_a_network():
    net = hyperinit.SirenNet(2, 8, 3, 2, seed=0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(InputError, match=r"layers\.0 has values that are not finite"):
        hyperinit.init_(net, init=drawn().with_layer_scaled(0, float("nan")), size=SIZE)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_siren_of_something_else_is_neither_drawn_nor_fitted(tmp_path):
    spec = hyperinit.named_init("33")
    sound = hyperinit.sample_params(
        spec, spec.siren_config(8, 2, 1, 1), generator=torch.Generator().manual_seed(0)
    )
    hyperinit.save_params(tmp_path / "sound.safetensors", sound)
    assert hyperinit.load_params(tmp_path / "sound.safetensors")[0].config == sound.config
    for use in (
        lambda: hyperinit.render(sound, 4, 4),
        lambda: hyperinit.fit(sound, smooth_image(8)),
    ):
        with pytest.raises(InputError, match="from 2 coordinates to 3 colours, not from 1 to 1"):
            use()
