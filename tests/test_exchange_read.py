"""SIRENs of other programs: what they show is what their own code shows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_same, smooth_image
from safetensors.torch import save_file
from torch import Tensor, nn

import hyperinit
from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.exchange.conventions import Conventions, from_params, to_params
from hyperinit.exchange.layouts import LAYOUTS
from hyperinit.images.coords import grid_coords
from hyperinit.images.decode import load_image
from hyperinit.siren.network import predict

HEIGHT, WIDTH = 9, 12


class Sine(nn.Module):
    """sin(w0 x), as siren-pytorch and COIN have it."""

    def __init__(self, w0: float) -> None:
        super().__init__()
        self.w0 = w0

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.w0 * x)


class SineLayer(nn.Module):
    """As in the SIREN authors' notebook: `linear` inside, omega_0 beside it."""

    def __init__(self, fan_in: int, fan_out: int, omega_0: float) -> None:
        super().__init__()
        self.omega_0 = omega_0
        self.linear = nn.Linear(fan_in, fan_out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega_0 * self.linear(x))


class Holder(nn.Module):
    """Gives the names of a state dict a prefix, "net."."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Coin(nn.Module):
    """COIN: sine layers in `net`, the last one beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(SineLayer(2, 16, 30.0), SineLayer(16, 16, 30.0))
        self.last_layer = nn.Module()
        self.last_layer.linear = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer.linear(self.net(x))


def notebook() -> nn.Module:
    return Holder(nn.Sequential(SineLayer(2, 16, 30), SineLayer(16, 16, 30), nn.Linear(16, 3)))


def authors() -> nn.Module:
    layers = [nn.Sequential(nn.Linear(a, b), Sine(30)) for a, b in ((2, 16), (16, 16))]
    return Holder(Holder(nn.Sequential(*layers, nn.Sequential(nn.Linear(16, 3)))))


def sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16), Sine(30), nn.Linear(16, 16), Sine(30), nn.Linear(16, 3))


def corners() -> Tensor:
    """Their coordinates (H * W, 2): y, then x, from -1 to 1 inclusive."""
    axes = torch.linspace(-1, 1, HEIGHT), torch.linspace(-1, 1, WIDTH)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def coin() -> Tensor:
    """COIN's: both axes divided by the height."""
    rows = torch.ones(HEIGHT, WIDTH).nonzero().float()
    return (rows / (HEIGHT - 1) - 0.5) * 2


def shown(net: nn.Module, coords: Tensor, signed: bool = False) -> Tensor:
    with torch.no_grad():
        rgb = net(coords)
    rgb = (rgb + 1) / 2 if signed else rgb
    return rgb.reshape(HEIGHT, WIDTH, 3).permute(2, 0, 1).clamp(0, 1)


THEIRS = {
    "notebook": (notebook, corners, True),
    "siren": (authors, corners, True),
    "coin": (Coin, coin, False),
    "sequential": (sequential, corners, False),
}


def save(path: Path, tensors: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    elif path.suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in tensors.items()})
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
@pytest.mark.parametrize("layout", THEIRS)
def test_a_siren_of_another_program_shows_what_its_own_code_shows(tmp_path, layout, suffix):
    make, coords, signed = THEIRS[layout]
    torch.manual_seed(0)
    net = make()
    path = save(tmp_path / f"theirs{suffix}", net.state_dict())
    want = shown(net, coords(), signed)
    for name in ("auto", layout):
        params = hyperinit.read_siren(path, name, size=(HEIGHT, WIDTH))
        got = hyperinit.render(params, HEIGHT, WIDTH)
        torch.testing.assert_close(got, want, atol=3e-5, rtol=0)


def test_the_installed_siren_pytorch_is_read_with_its_size(tmp_path):
    siren_pytorch = pytest.importorskip("siren_pytorch")
    torch.manual_seed(0)
    net = siren_pytorch.SirenNet(dim_in=2, dim_hidden=16, dim_out=3, num_layers=3)
    wrapper = siren_pytorch.SirenWrapper(net, image_width=WIDTH, image_height=HEIGHT)
    torch.save({"epoch": 3, "model_state_dict": wrapper.state_dict()}, tmp_path / "a.pth")
    params = hyperinit.read_siren(tmp_path / "a.pth")  # its grid says the size
    want = wrapper()[0].detach().clamp(0, 1)
    torch.testing.assert_close(hyperinit.render(params, HEIGHT, WIDTH), want, atol=3e-5, rtol=0)
    torch.save(net.state_dict(), tmp_path / "b.pth")
    with pytest.raises(InputError, match=r"b\.pth.*'corners'.*size"):
        hyperinit.read_siren(tmp_path / "b.pth")
    assert_same(hyperinit.read_siren(tmp_path / "b.pth", size=(HEIGHT, WIDTH)), params)


def test_what_a_user_changed_is_said_in_words(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), Sine(20), nn.Linear(16, 16), Sine(5), nn.Linear(16, 3))
    path = save(tmp_path / "theirs.pt", net.state_dict())
    told = {"first_omega": 20.0, "hidden_omega": 5.0, "order": "xy", "grid": "centres01"}
    params = hyperinit.read_siren(path, colours="imagenet", **told)  # this grid needs no size
    y, x = (((torch.arange(n) * 2 + 1) / (2 * n)) for n in (HEIGHT, WIDTH))
    coords = torch.stack((x.repeat(HEIGHT), y.repeat_interleave(WIDTH)), -1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        want = (net(coords) * std + mean).reshape(HEIGHT, WIDTH, 3).permute(2, 0, 1).clamp(0, 1)
    torch.testing.assert_close(hyperinit.render(params, HEIGHT, WIDTH), want, atol=3e-5, rtol=0)
    assert params.config.omega_0 == 20.0


def test_a_grey_siren_without_biases_becomes_three_equal_colours(tmp_path):
    torch.manual_seed(0)
    layers = [nn.Linear(2, 16, bias=False), nn.Linear(16, 1, bias=False)]
    tensors = {f"net.{2 * i}.weight": layer.weight.detach() for i, layer in enumerate(layers)}
    path = save(tmp_path / "grey.pt", tensors)
    params = hyperinit.read_siren(path, size=(HEIGHT, WIDTH))
    assert not params.config.bias
    grey = layers[1](torch.sin(30 * layers[0](corners()))).detach()
    got = hyperinit.render(params, HEIGHT, WIDTH)
    for channel in got:
        want = grey.reshape(HEIGHT, WIDTH).clamp(0, 1)
        torch.testing.assert_close(channel, want, atol=3e-5, rtol=0)
    # A shift of the coordinates needs a bias, which the result then has.
    assert hyperinit.read_siren(path, grid="corners01", size=(9, 12)).config.bias


@pytest.mark.parametrize("grid", ["corners", "centres", "corners01", "centres01", "coin"])
@pytest.mark.parametrize("unit_std", [False, True])
def test_there_and_back_changes_nothing(grid, unit_std):
    spec = hyperinit.named_init("33" if unit_std else "paper")
    params = hyperinit.sample_params(
        spec, spec.siren_config(8, 3), generator=torch.Generator().manual_seed(0)
    )
    theirs = Conventions(17.0, 3.0, "yx", grid, "signed")
    back = to_params(from_params(params, theirs, (5, 7)), theirs, (5, 7))
    torch.testing.assert_close(
        hyperinit.render(back, 5, 7), hyperinit.render(params, 5, 7), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("layout", ["siren-pytorch", "siren", "notebook", "coin", "npz", "jax"])
@pytest.mark.parametrize(("dims", "values"), [(1, 1), (1, 2), (2, 1), (2, 4), (3, 1), (3, 3)])
def test_sirens_of_other_signals_come_in_and_go_out_unchanged(tmp_path, layout, dims, values):
    spec, draw = hyperinit.named_init("identity"), torch.Generator().manual_seed(0)
    config = spec.siren_config(12, 2, dims, values)
    params = hyperinit.sample_params(spec, config, generator=draw)
    suffix = ".npz" if layout in ("npz", "jax") else ".pt"
    path = tmp_path / f"theirs{suffix}"
    hyperinit.write_siren(path, params, layout, size=(HEIGHT, WIDTH))
    told = {"colours": "values"} if (dims, values) == (2, 1) else {}
    for name in ("auto", layout):
        again = hyperinit.read_siren(path, name, size=(HEIGHT, WIDTH), **told)
        assert (again.config.in_features, again.config.out_features) == (dims, values)
        coords = grid_coords((5,) * dims)
        expected = predict(params, coords)
        torch.testing.assert_close(predict(again, coords), expected, atol=1e-4, rtol=0)


def test_a_sound_of_another_program_has_the_values_that_its_own_code_gives(tmp_path):
    torch.manual_seed(0)
    net = Holder(nn.Sequential(SineLayer(1, 16, 300), SineLayer(16, 16, 30), nn.Linear(16, 1)))
    path = save(tmp_path / "sound.pt", net.state_dict())
    params = hyperinit.read_siren(path, first_omega=300)
    coords = torch.linspace(-1, 1, 50)[:, None]
    with torch.no_grad():
        torch.testing.assert_close(predict(params, coords), net(coords), atol=1e-3, rtol=0)
    out = tmp_path / "out.npy"
    theirs = ["--theirs", "first_omega=300"]
    assert main(["render", str(path), *theirs, "--size", "40", "-o", str(out)]) == 0
    assert np.load(out).shape == (1, 40)


def linear(*shape: int) -> Tensor:
    return torch.ones(*shape)


BAD = {
    "a sine at the end": (
        {"net.0.linear.weight": linear(8, 2), "net.1.linear.weight": linear(3, 8)},
        "net.1.linear.weight",
    ),
    "a layer of something else": (
        {"net.0.linear.weight": linear(8, 2), "net.1.conv.weight": linear(3, 8)},
        "net.1.conv.weight",
    ),
    "a layer that does not follow": (
        {"0.weight": linear(8, 2), "2.weight": linear(8, 9), "4.weight": linear(3, 8)},
        "2.weight has shape (8, 9)",
    ),
    "two widths": (
        {"0.weight": linear(8, 2), "2.weight": linear(9, 8), "4.weight": linear(3, 9)},
        "2.weight has shape (9, 8)",
    ),
    "four coordinates": (
        {"0.weight": linear(8, 4), "2.weight": linear(3, 8)},
        "0.weight has shape (8, 4): expected 1 to 3 coordinates as inputs",
    ),
    "a bias of another length": (
        {"0.weight": linear(8, 2), "0.bias": linear(9), "2.weight": linear(3, 8)},
        "0.bias has shape (9,)",
    ),
    "not finite": (
        {"0.weight": linear(8, 2) * math.nan, "2.weight": linear(3, 8)},
        "0.weight has values that are not finite",
    ),
    "whole numbers": (
        {"0.weight": linear(8, 2).int(), "2.weight": linear(3, 8)},
        "0.weight is torch.int32",
    ),
    "one layer": ({"0.weight": linear(3, 2)}, "0.weight"),
    "nothing": ({}, "no state dict"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_named(tmp_path, case):
    tensors, text = BAD[case]
    path = save(tmp_path / "theirs.pt", tensors)
    with pytest.raises(InputError) as caught:
        hyperinit.read_siren(path, size=(9, 12))
    line = str(caught.value)
    assert "theirs.pt" in line and text in line and "\n" not in line


def drawn(depth: int, dims: int = 2) -> hyperinit.Params:
    spec, draw = hyperinit.named_init("paper"), torch.Generator().manual_seed(0)
    return hyperinit.sample_params(spec, spec.siren_config(8, depth, dims, 3), generator=draw)


@pytest.mark.parametrize("layout", [name for name, row in LAYOUTS.items() if row.step == 1])
def test_a_layer_missing_between_others_is_named(tmp_path, layout):
    params, path = drawn(4), tmp_path / "a.npz"
    hyperinit.write_siren(path, params, layout, size=(8, 8))
    with np.load(path) as stored:
        whole = dict(stored)
    gone = LAYOUTS[layout].keys(4)[1]
    np.savez(path, **{key: value for key, value in whole.items() if key not in gone})
    name = LAYOUTS[layout].sine.format(i=1)
    with pytest.raises(InputError, match=f"'{name}' is missing"):
        hyperinit.read_siren(path, layout, size=(8, 8))


def test_a_whole_number_as_omega_0_counts(tmp_path):
    arrays = {f"layers.{i}.weight": np.ones(shape) for i, shape in enumerate([(4, 2), (3, 4)])}
    np.savez(tmp_path / "a.npz", omega_0=np.int64(20), **arrays)
    assert hyperinit.read_siren(tmp_path / "a.npz").config.omega_0 == 20


@pytest.mark.parametrize("dims", [1, 3])
def test_three_values_that_are_no_colours_go_out_unchanged(tmp_path, dims):
    params, path = drawn(2, dims), tmp_path / "a.pt"
    hyperinit.write_siren(path, params, "siren-pytorch", colours="unit")
    again = hyperinit.read_siren(path, "siren-pytorch", colours="unit")
    assert torch.equal(again.layer(2)[0], params.layer(2)[0])


def test_a_named_layout_says_what_it_expects(tmp_path):
    path = save(tmp_path / "theirs.pt", notebook().state_dict())
    with pytest.raises(InputError, match=r"net\.0\.linear\.weight.*siren-pytorch.*last_layer"):
        hyperinit.read_siren(path, "siren-pytorch", size=(9, 12))
    with pytest.raises(InputError, match=r"unknown layout 'notebok' \(did you mean 'notebook'"):
        hyperinit.read_siren(path, "notebok", size=(9, 12))
    with pytest.raises(InputError, match=r"unknown grid 'corner'.*corners"):
        hyperinit.read_siren(path, grid="corner", size=(9, 12))
    with pytest.raises(InputError, match="unknown convention 'omega'"):
        hyperinit.read_siren(path, omega=30, size=(9, 12))
    with pytest.raises(InputError, match="first_omega must be a positive number"):
        hyperinit.read_siren(path, first_omega=0, size=(9, 12))
    with pytest.raises(InputError, match="size must be"):
        hyperinit.read_siren(path, size=(9, 12, 3))


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("was_run"),))


def test_no_code_of_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(notebook(), "module.pt")
    torch.save({"net.0.weight": torch.ones(2), "x": Evil()}, "evil.pt")
    np.savez("evil.npz", **{"0.weight": np.array([Evil()], dtype=object)})
    for name in ("module.pt", "evil.pt", "evil.npz"):
        with pytest.raises(InputError, match=name):
            hyperinit.read_siren(name, size=(9, 12))
    with pytest.raises(InputError, match=r"save net\.state_dict"):
        hyperinit.read_siren("module.pt")
    assert not Path("was_run").exists()


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 no archive", b"\x80\x02 no pickle", b"x" * 99]
)
def test_a_damaged_file_is_one_line(tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        hyperinit.read_siren(path, size=(9, 12))
    assert f"bad{suffix}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    state = sequential().state_dict()
    path = tmp_path / "theirs.safetensors"
    for blanks in range(0, 300, 8):  # of the header's lengths one begins as a pickle does
        save_file(state, path, metadata={"about": " " * blanks})
        if path.read_bytes().startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04")):
            break
    else:
        pytest.fail("no header of such a length")
    assert_same(
        hyperinit.read_siren(path, size=(9, 12)),
        hyperinit.read_siren(save(tmp_path / "theirs.pt", state), size=(9, 12)),
    )


def test_a_view_larger_than_its_file_is_refused(tmp_path):
    huge = torch.ones(1).expand(60000, 60000)
    torch.save({"0.weight": huge, "2.weight": torch.ones(3, 8)}, tmp_path / "huge.pt")
    with pytest.raises(InputError, match=r"0\.weight is larger than its data in the file"):
        hyperinit.read_siren(tmp_path / "huge.pt")


def test_our_own_files_are_read_as_before(tmp_path):
    spec = hyperinit.named_init("33")
    params = hyperinit.sample_params(
        spec, spec.siren_config(8, 2), generator=torch.Generator().manual_seed(0)
    )
    hyperinit.save_params(tmp_path / "ours.safetensors", params)
    assert_same(hyperinit.read_siren(tmp_path / "ours.safetensors"), params)
    with pytest.raises(InputError, match="takes no layout"):
        hyperinit.read_siren(tmp_path / "ours.safetensors", "coin")


def test_the_commands_take_a_foreign_file(tmp_path, capsys):
    torch.manual_seed(0)
    net = sequential()
    path = save(tmp_path / "theirs.pth", net.state_dict())
    picture, out = tmp_path / "p.png", tmp_path / "out.png"
    assert main(["render", str(path), "--size", f"{HEIGHT}x{WIDTH}", "-o", str(out)]) == 0
    want = shown(net, corners())
    assert float((load_image(out) - want).abs().max()) <= 0.5 / 255 + 1e-4
    size = ["--theirs", f"size={HEIGHT}x{WIDTH}"]
    assert main(["render", str(path), *size, "-o", str(out)]) == 0
    assert load_image(out).shape[-2:] == (HEIGHT, WIDTH)
    hyperinit.save_image(smooth_image(16), picture)
    fitted = ["-o", str(tmp_path / "ours.safetensors"), "--budget-epochs", "8"]
    assert main(["fit", str(picture), "--init", str(path), *fitted]) == 0
    assert hyperinit.load_params(tmp_path / "ours.safetensors")[0].config.width == 16
    for wrong, text in (("grid", "K=V"), ("first_omega=x", "first_omega=x"), ("a=b", "'a'")):
        with pytest.raises(SystemExit):
            main(["fit", str(picture), "--init", str(path), "--theirs", wrong])
        assert text in capsys.readouterr().err


def test_the_documents_list_every_layout():
    text = (Path(__file__).parent.parent / "docs" / "siren-files.md").read_text(encoding="utf-8")
    for name in LAYOUTS:
        assert f"| `{name}` |" in text
