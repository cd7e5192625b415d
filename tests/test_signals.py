"""Signals that are no photographs: sound, grey, RGBA, many bands, volumes."""

from __future__ import annotations

import re
import wave
from math import pi
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import hyperinit
from hyperinit import InputError
from hyperinit.app import cli
from hyperinit.images.coords import COORD_STD, grid_coords, pixel_coords
from hyperinit.siren.network import SirenConfig, predict
from hyperinit.siren.store import PARAMS_KIND, save_tensors
from hyperinit.stepping.credit import CreditSampler, cell_grid, local_std

SHAPES = [(1, 300), (2, 200), (1, 12, 20), (4, 16, 16), (8, 12, 12), (1, 7, 8, 6), (3, 6, 6, 6)]


def smooth_signal(*shape: int) -> Tensor:
    """A few slow waves, different in every channel: (C, *sides) in [-1, 1]."""
    coords = grid_coords(shape[1:])
    channels = [torch.sin(2 * coords.sum(-1) + 3 * i) * 0.8 for i in range(shape[0])]
    return torch.stack(channels).view(shape)


def start_of(signal: Tensor, init: str = "identity-sized", seed: int = 0) -> hyperinit.Start:
    return hyperinit.signal_start(signal, init, width=24, depth=2, seed=seed)


def siren_of(dims: int, channels: int) -> hyperinit.Params:
    return start_of(torch.zeros(channels, *[4] * dims)).params


# Fits --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_fit_comes_near_any_signal(shape):
    signal = smooth_signal(*shape)
    start = start_of(signal)
    before = start.params.map(torch.clone)
    result = hyperinit.fit(start, signal, budget_epochs=30)
    assert result.mse < 0.05 * result.curve[0].mse
    shown = hyperinit.render_signal(result.params, shape[1:])
    mse = float((shown - signal).square().mean())
    assert mse == pytest.approx(result.mse, rel=1e-3)
    assert result.psnr == pytest.approx(-10 * np.log10(result.mse / 4), abs=1e-3)  # of 2 in range
    assert all(torch.equal(before[name], start.params[name]) for name in before)


@pytest.mark.parametrize("sampler", ["pixels", "points", "residual"])
@pytest.mark.parametrize("shape", [(1, 300), (4, 16, 16), (1, 7, 8, 6)], ids=str)
def test_every_sampler_sees_any_signal(shape, sampler):
    signal = smooth_signal(*shape)
    result = hyperinit.fit(start_of(signal), signal, budget_epochs=20, sampler=sampler)
    assert result.mse < 0.1 * result.curve[0].mse


@pytest.mark.parametrize("init", ["paper", "22", "33", "identity", "33-sized", "identity-sized"])
def test_every_hand_designed_init_starts_any_signal(init):
    for dims, channels in ((1, 1), (2, 4), (3, 2)):
        signal = smooth_signal(channels, *[6] * dims)
        config = start_of(signal, init).params.config
        assert (config.in_features, config.out_features) == (dims, channels)
        assert np.isfinite(hyperinit.fit(start_of(signal, init), signal, budget_epochs=1).mse)


def test_signals_together_end_where_each_ends_alone():
    signals = [smooth_signal(2, 8, 9), -smooth_signal(2, 8, 9)]
    starts = [start_of(signal, seed=i) for i, signal in enumerate(signals)]
    for found, start, signal in zip(
        hyperinit.fit_many(starts, signals, budget_epochs=4), starts, signals, strict=True
    ):
        alone = hyperinit.fit(start, signal, budget_epochs=4)
        assert found.mse == pytest.approx(alone.mse, rel=1e-2)


def test_a_target_can_be_reached():
    signal = smooth_signal(1, 400)
    result = hyperinit.fit_to_target(start_of(signal), signal, 1e-3, budget_epochs=100)
    assert result.reached and result.mse <= 1e-3


def test_a_siren_of_a_module_is_fitted_in_place():
    signal = smooth_signal(1, 100)
    siren = hyperinit.Siren.from_params(start_of(signal).params)
    result = hyperinit.fit(siren, signal, budget_epochs=5)
    shown = siren(grid_coords((100,))).detach().T
    assert float((shown - signal).square().mean()) == pytest.approx(result.mse, rel=1e-4)


@pytest.mark.parametrize(
    ("dims", "channels", "shape", "message"),
    [
        (1, 1, (2, 50), r"from 1 to 1 takes a signal \(1, N\), not \(2, 50\)"),
        (1, 1, (1, 5, 5), r"takes a signal \(1, N\), not \(1, 5, 5\)"),
        (3, 2, (2, 5, 5), r"takes a signal \(2, D, H, W\)"),
        (2, 4, (3, 5, 5), "from 2 coordinates to 3 colours, not from 2 to 4"),
        (2, 3, (4, 5, 5), "image tensor"),
        (1, 1, (1, 0), "must have samples"),
        (1, 1, (1, 2, 3, 4, 5), "must be"),
    ],
)
def test_a_signal_of_another_shape_is_refused(dims, channels, shape, message):
    with pytest.raises(InputError, match=message):
        hyperinit.fit(siren_of(dims, channels), torch.zeros(shape))


@pytest.mark.parametrize("value", [1.1, -1.1, float("nan"), float("inf")])
def test_values_out_of_range_are_refused(value):
    signal = smooth_signal(1, 20)
    signal[0, 3] = value
    with pytest.raises(InputError, match=r"must be in \[-1, 1\] without NaN"):
        hyperinit.fit(siren_of(1, 1), signal)


def test_fits_take_three_dimensions_at_most():
    config = SirenConfig(8, 1, in_features=4, out_features=1)
    params = hyperinit.sample_params(
        hyperinit.named_init("33"), config, generator=torch.Generator().manual_seed(0)
    )
    with pytest.raises(InputError, match="from 1, 2 or 3 coordinates, not from 4"):
        hyperinit.fit(params, torch.zeros(1, 2, 2, 2, 2))


# Grids and cells ---------------------------------------------------------------------------------


def test_coordinates_are_of_the_last_side_first():
    coords = grid_coords((2, 3, 5)).view(2, 3, 5, 3)
    for column, side, along in (
        (0, 5, coords[0, 0]),
        (1, 3, coords[0, :, 0]),
        (2, 2, coords[:, 0, 0]),
    ):
        expected = (2 * torch.arange(side) + 1) / side - 1
        assert torch.equal(along[:, column], expected)
    assert torch.equal(grid_coords((2, 3, 5), samples=range(7, 22)), coords.view(-1, 3)[7:22])
    assert torch.equal(grid_coords((4, 6)), pixel_coords(4, 6))


@pytest.mark.parametrize("sides", [(64,), (8, 8, 8)], ids=str)
def test_a_batch_takes_one_sample_of_every_cell_where_all_are_visited(sides):
    count = int(np.prod(sides))
    cell = 16 if len(sides) == 1 else 4
    generator = torch.Generator().manual_seed(0)
    sampler = CreditSampler(smooth_signal(1, *sides), cell, generator, dims=len(sides))
    cells = int(np.prod(cell_grid(sides, cell)))
    assert sampler.batch_pixels == cells
    sampler.report(torch.arange(count), torch.ones(count))  # the image would decide otherwise
    seen = []
    for _ in range(count // cells):
        drawn = sampler.next_batch()
        sampler.report(torch.arange(count), torch.ones(count))
        index = np.unravel_index(drawn.numpy(), sides)
        assert len(set(zip(*(places // cell for places in index), strict=True))) == cells
        seen += drawn.tolist()
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("sides", [(9,), (4, 5, 6)], ids=str)
def test_local_std_is_that_of_three_samples_a_side(sides):
    generator = torch.Generator().manual_seed(0)
    signal = torch.rand(2, *sides, generator=generator) * 2 - 1
    found = local_std(signal, len(sides)).view(sides)
    patch = signal[(slice(None), *[slice(1, 4)] * len(sides))].reshape(2, -1)
    expected = patch.var(1, unbiased=False).mean().sqrt()
    assert float(found[(2,) * len(sides)]) == pytest.approx(float(expected), rel=1e-5)
    assert torch.equal(
        local_std(torch.stack([signal, signal / 2]), len(sides))[0].view(sides), found
    )


# Inits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sides", "share"), [((4000,), 1 / 8), ((8, 32, 16), 1 / 16)], ids=str)
def test_a_start_has_frequencies_of_a_share_of_the_nyquist_frequency(sides, share):
    signal = torch.zeros(1, *sides)
    for init in ("identity-sized", "33-sized"):
        params = hyperinit.signal_start(signal, init, width=4000, depth=1).params
        std = params.config.omega_0 * params.layer(0)[0].std(0) / COORD_STD  # radians a unit
        nyquist = torch.tensor([pi / 2 * side for side in reversed(sides)])
        assert torch.allclose(std / nyquist, torch.tensor(share), rtol=0.05)


def test_over_two_dimensions_a_start_is_that_of_a_photograph():
    photograph, cut_out = torch.zeros(3, 48, 64), torch.zeros(4, 48, 64)
    first = [start_of(signal).params.layer(0)[0] for signal in (photograph, cut_out)]
    assert torch.equal(*first)


def test_what_learned_from_images_says_so():
    from hyperinit.bench.sources import load_init

    sound = smooth_signal(1, 200)
    init = load_init("linear-96", {}, 128, 4)
    with pytest.raises(
        InputError, match=r"init linear-96 is for images \(3, H, W\), not for a signal \(1, 200\)"
    ):
        init.start(sound, 0)
    with pytest.raises(InputError, match="@ is only for images"):
        start_of(sound, "identity-sized@0.7")


# Files -------------------------------------------------------------------------------------------


def write_wav(path: Path, values: np.ndarray, size: int, rate_hz: int = 8000) -> None:
    """(frames, channels) of whole numbers -> a PCM file of `size` bytes a sample."""
    raw = values.astype("<i4", order="C").view(np.uint8).reshape(*values.shape, 4)[..., :size]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(values.shape[1])
        file.setsampwidth(size)
        file.setframerate(rate_hz)
        file.writeframes(raw.tobytes())


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_samples_of_every_width_are_read(tmp_path, size):
    top = 2 ** (8 * size - 1)
    values = np.array([[0, top - 1], [-top, top // 2]])
    write_wav(tmp_path / "x.wav", values + (128 if size == 1 else 0), size)
    found = hyperinit.to_signal(tmp_path / "x.wav")
    expected = torch.tensor(values.T / top, dtype=torch.float32)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(20, 30, 3), (20, 30, 4), (5, 5, 3)], ids=str)
def test_a_picture_with_its_channels_last_is_refused(tmp_path, capsys, shape):
    values = np.full(shape, 0.5, dtype=np.float32)
    np.save(tmp_path / "a.npy", values)
    height, width, channels = shape
    said = f"transpose it to ({channels}, {height}, {width})"
    for source in (values, torch.from_numpy(values), tmp_path / "a.npy"):
        with pytest.raises(InputError, match=re.escape(said)):
            hyperinit.to_signal(source)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["fit", str(tmp_path / "a.npy")])
    told = capsys.readouterr().err
    assert f"a.npy: {shape} looks like (H, W, {channels})" in told
    assert (".npz" in told) == (channels == 3)  # which holds no others
    assert hyperinit.to_signal(values.transpose(2, 0, 1)).shape == (channels, height, width)


@pytest.mark.parametrize("shape", [(20, 30, 1), (5, 6, 7, 1), (8, 8, 8, 3), (800, 2)], ids=str)
def test_grey_volumes_and_sound_with_their_channels_last_are_refused(tmp_path, capsys, shape):
    values = np.full(shape, 0.5, dtype=np.float32)
    np.save(tmp_path / "a.npy", values)
    right = (shape[-1], *shape[:-1])
    with pytest.raises(InputError, match=re.escape(f"transpose it to {right}")):
        hyperinit.to_signal(values)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["fit", str(tmp_path / "a.npy")])
    assert f"a.npy: {shape} looks like" in capsys.readouterr().err
    assert hyperinit.to_signal(np.moveaxis(values, -1, 0)).shape == right


ONLY_FIRST = [
    *[(4, 9, 3), (8, 4, 3), (8, 9, 5), (3, 9, 4), (9, 3)],
    *[(1, 8, 8, 3), (4, 8, 8, 3), (2, 800), (64, 3), (20, 30, 5), (8, 8, 8, 5), (5,), (800,)],
]


@pytest.mark.parametrize("shape", ONLY_FIRST, ids=str)
def test_what_can_only_be_channels_first_is_taken(shape):
    found = hyperinit.to_signal(np.full(shape, 0.5, dtype=np.float32))
    assert found.shape == (shape if len(shape) > 1 else (1, *shape))


def test_files_that_are_no_signals_are_refused(tmp_path):
    write_wav(tmp_path / "cut.wav", np.zeros((100, 1), dtype=int), 2)
    content = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[:-50])
    (tmp_path / "text.wav").write_text("no sound")
    write_wav(tmp_path / "wide.wav", np.zeros((100, 1), dtype=int), 4)
    wide = bytearray((tmp_path / "wide.wav").read_bytes())
    (tmp_path / "float.wav").write_bytes(wide[:20] + b"\3" + wide[21:])
    (tmp_path / "wide.wav").write_bytes(wide[:34] + b"\x40" + wide[35:])
    np.save(tmp_path / "whole.npy", np.zeros((1, 9), dtype=np.int64))
    np.save(tmp_path / "code.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "far.npy", np.full((1, 9), 7.0))
    for name, message in {
        "cut.wav": "truncated",
        "text.wav": "unreadable",
        "wide.wav": r"\(samples of 64 bits\); expected whole numbers \(PCM\) of 8, 16, 24 or 32",
        "float.wav": r"format: 3\); expected whole numbers \(PCM\)",
        "whole.npy": "expected float",
        "code.npy": "unreadable",
        "far.npy": r"\[-1, 1\]",
        "none.npy": "no such file",
    }.items():
        with pytest.raises(InputError, match=message):
            hyperinit.fit(siren_of(1, 1), tmp_path / name)
        with pytest.raises(SystemExit, match="2"):
            cli.main(["fit", str(tmp_path / name)])


def test_a_sound_is_fitted_and_drawn_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sound = (smooth_signal(2, 400).T.numpy() * 2**15).astype(int)
    write_wav(tmp_path / "x.wav", sound, 2, rate_hz=11025)
    fit = ["fit", "x.wav", "--width", "24", "--depth", "2", "--budget-epochs", "30"]
    assert cli.main([*fit, "-o", "x.safetensors", "--render", "fit.wav"]) == 0
    told = capsys.readouterr().out
    assert " MSE " in told and "normalised" not in told  # which only colours are
    assert cli.main(["render", "x.safetensors", "-o", "again.wav"]) == 0
    assert cli.main(["render", "x.safetensors", "--size", "800", "-o", "twice.wav"]) == 0
    assert (tmp_path / "fit.wav").read_bytes() == (tmp_path / "again.wav").read_bytes()
    shown = hyperinit.to_signal(tmp_path / "again.wav")
    assert float((shown - hyperinit.to_signal("x.wav")).abs().max()) < 0.3
    with wave.open("again.wav") as one, wave.open("twice.wav") as two:
        assert (one.getframerate(), one.getnframes()) == (11025, 400)
        assert (two.getframerate(), two.getnframes()) == (22050, 800)
    capsys.readouterr()
    assert cli.main(["export", "x.safetensors", "--to", "int8"]) == 0
    assert "400: PSNR to the full SIREN" in capsys.readouterr().out
    for arguments, message in (
        (["render", "x.safetensors", "--size", "4x4", "-o", "y.wav"], "must look like 8000"),
        (["render", "x.safetensors", "-o", "y.png"], "must end in"),
        (["fit", "x.wav", "--size", "64"], "--size is for images"),
        (["fit", "x.wav", "--init", "linear-96"], "is for images"),
    ):
        with pytest.raises(SystemExit, match="2"):
            cli.main(arguments)
        assert message in capsys.readouterr().err


def test_a_volume_is_fitted_and_drawn_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    volume = smooth_signal(1, 6, 7, 8)
    np.save("x.npy", volume.numpy())
    fit = ["fit", "x.npy", "--width", "24", "--depth", "2", "--target-mse", "0.01"]
    assert cli.main([*fit, "-o", "x.safetensors"]) == 0
    assert "normalised" not in capsys.readouterr().out
    assert cli.main(["render", "x.safetensors", "-o", "again.npy"]) == 0
    assert float((torch.from_numpy(np.load("again.npy")) - volume).square().mean()) < 0.011
    assert cli.main(["render", "x.safetensors", "--size", "3x4x5", "-o", "small.npy"]) == 0
    assert np.load("small.npy").shape == (1, 3, 4, 5)


@pytest.mark.parametrize(
    "facts",
    [7, {"sides": [5, 5]}, {"sides": [0]}, {"sides": ["9"]}, {"sides": [9], "rate_hz": "x"}],
)
def test_a_file_with_impossible_sides_is_refused(tmp_path, facts):
    params = siren_of(1, 1)
    info = {"siren": params.config.facts, "signal": facts}
    save_tensors(tmp_path / "x.safetensors", params.tensors, PARAMS_KIND, info)
    with pytest.raises(InputError, match="damaged, signal must be"):
        hyperinit.load_params(tmp_path / "x.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(("dims", "channels"), [(1, 1), (2, 4), (3, 1), (3, 3)])
def test_other_programs_are_given_the_same_values(tmp_path, dims, channels):
    params = siren_of(dims, channels)
    expected = predict(params, grid_coords((4,) * dims))
    hyperinit.save_params(tmp_path / "x.safetensors", params)
    again, _ = hyperinit.load_params(tmp_path / "x.safetensors")
    assert torch.equal(predict(again, grid_coords((4,) * dims)), expected)
    hyperinit.write_siren(tmp_path / "x.pt2", params, "torch-export")
    program = torch.export.load(tmp_path / "x.pt2").module()
    assert torch.allclose(program(grid_coords((4,) * dims)), expected, atol=1e-4)
    hyperinit.write_siren(tmp_path / "x.npz", params, "npz")
    stored = np.load(tmp_path / "x.npz")
    hidden = grid_coords((4,) * dims).numpy()
    for i in range(params.config.depth + 1):
        hidden = hidden @ stored[f"layers.{i}.weight"].T + stored[f"layers.{i}.bias"]
        hidden = np.sin(stored["omega_0"] * hidden) if i < params.config.depth else hidden
    assert np.allclose(hidden, expected.numpy(), atol=1e-4)
    with pytest.raises(InputError, match="an image needs"):
        hyperinit.write_siren(tmp_path / "x.frag", params, "glsl")


def test_sound_of_no_known_rate_is_refused_before_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.sin(np.arange(300) / 9))
    command = ["fit", "x.npy", "--width", "8", "--depth", "2", "-o", "x.safetensors"]
    for target in ([], ["--target-mse", "0.1"]):
        with pytest.raises(SystemExit):
            cli.main([*command, "--render", "x.wav", *target])
        assert "x.wav: the sampling rate is unknown; write .npy\n" in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy"]
    assert cli.main([*command, "--render", "y.npy"]) == 0


@pytest.mark.parametrize(
    ("name", "out", "size", "message"),
    [
        ("sound", "x.wav", [], "x.wav: the sampling rate is unknown; write .npy"),
        ("rated", "x.wav", ["--size", "999999"], "x.wav: cannot have a sampling rate of"),
        ("image", "x.jpg", ["--size", "1x65501"], "x.jpg: a JPEG has at most 65500 pixels a side"),
    ],
)
def test_what_a_file_cannot_hold_is_refused_before_it_is_drawn(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    out: str,
    size: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hyperinit.siren.signals.predict", None)
    monkeypatch.setattr("hyperinit.siren.network.predict", None)
    dims, channels = (2, 3) if name == "image" else (1, 1)
    params = siren_of(dims, channels)
    rate = {"rate_hz": 10**6} if name == "rated" else {}
    signal = {} if name == "image" else {"signal": {"sides": [300], **rate}}
    hyperinit.save_params("x.safetensors", params, **signal)
    with pytest.raises(SystemExit):
        cli.main(["render", "x.safetensors", "-o", out, *size])
    assert message in capsys.readouterr().err
    assert not (tmp_path / out).exists()


def test_an_image_that_is_too_long_for_a_jpeg_is_refused_before_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    hyperinit.save_image(torch.zeros(3, 1, 65501), "x.png")
    with pytest.raises(InputError, match=r"a\.jpg: a JPEG has at most 65500 pixels a side"):
        hyperinit.save_image(torch.zeros(3, 1, 65501), "a.jpg")
    with pytest.raises(SystemExit):
        cli.main(["fit", "x.png", "--width", "8", "-o", "x.safetensors", "--render", "x.jpg"])
    assert "x.jpg: a JPEG has at most 65500 pixels a side" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.png"]
