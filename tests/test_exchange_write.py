"""A SIREN in the formats of other programs shows what it shows here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_same, smooth_image
from torch import Tensor

import hyperinit
from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.exchange.glsl import MAX_CONSTANTS
from hyperinit.exchange.layouts import LAYOUTS
from hyperinit.exchange.read import read_any
from hyperinit.exchange.write import FORMATS
from hyperinit.images.coords import pixel_coords
from hyperinit.siren.network import Params, SirenConfig

DOCS = Path(__file__).parent.parent / "docs"
SIZE = (9, 12)


def siren(name: str = "33", width: int = 10, depth: int = 3) -> Params:
    spec = hyperinit.named_init(name)
    return hyperinit.sample_params(
        spec, spec.siren_config(width, depth), generator=torch.Generator().manual_seed(0)
    )


def picture(rgb: Tensor) -> Tensor:
    return rgb.reshape(*SIZE, 3).permute(2, 0, 1).clamp(0, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_whole_number_as_omega_0_is_written_and_read_again(tmp_path, layout):
    drawn = siren(width=8, depth=2)
    params = Params(SirenConfig(8, 2, omega_0=30, unit_std_coords=True), drawn.tensors)
    path = tmp_path / ("a" + FORMATS[layout].suffixes[-1])
    hyperinit.write_siren(path, params, layout, size=SIZE)
    again = hyperinit.read_siren(path, layout, size=SIZE)
    expected = hyperinit.render(params, *SIZE)
    torch.testing.assert_close(hyperinit.render(again, *SIZE), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["33", "paper", "20"])  # unit-std coordinates, plain, no biases
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_written_and_read_again(tmp_path, layout, name):
    from hyperinit.inits.rows import row

    spec = row(name).init
    params = hyperinit.sample_params(
        spec, spec.siren_config(10, 3), generator=torch.Generator().manual_seed(0)
    )
    path = tmp_path / f"out{FORMATS[layout].suffixes[0]}"
    hyperinit.write_siren(path, params, layout, size=SIZE)
    back = hyperinit.read_siren(path, size=SIZE)
    torch.testing.assert_close(
        hyperinit.render(back, *SIZE), hyperinit.render(params, *SIZE), atol=2e-5, rtol=0
    )


def test_the_installed_siren_pytorch_takes_and_shows_what_is_written(tmp_path):
    siren_pytorch = pytest.importorskip("siren_pytorch")
    params = siren()
    hyperinit.write_siren(tmp_path / "a.pt", params, "siren-pytorch", size=SIZE)
    net = siren_pytorch.SirenNet(dim_in=2, dim_hidden=10, dim_out=3, num_layers=3)
    net.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    wrapper = siren_pytorch.SirenWrapper(net, image_width=SIZE[1], image_height=SIZE[0])
    torch.testing.assert_close(
        wrapper()[0].detach().clamp(0, 1), hyperinit.render(params, *SIZE), atol=2e-5, rtol=0
    )


def test_conventions_can_be_asked_for(tmp_path):
    params, told = siren(), {"first_omega": 12.0, "grid": "centres01", "colours": "imagenet"}
    path = tmp_path / "a.safetensors"
    hyperinit.write_siren(path, params, "coin", **told)  # this grid needs no size
    back = hyperinit.read_siren(path, "coin", **told)
    assert back.config.omega_0 == 12.0
    torch.testing.assert_close(
        hyperinit.render(back, *SIZE), hyperinit.render(params, *SIZE), atol=2e-5, rtol=0
    )


def test_onnx_runs_for_any_number_of_coordinates(tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    params = siren()
    hyperinit.write_siren(tmp_path / "a.onnx", params, "onnx")
    session = runtime.InferenceSession(
        (tmp_path / "a.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    for height, width in (SIZE, (1, 1), (30, 20)):
        coords = pixel_coords(height, width)
        (rgb,) = session.run(None, {"coords": coords.numpy()})
        want = hyperinit.render(params, height, width)
        shown = torch.from_numpy(rgb).reshape(height, width, 3).permute(2, 0, 1).clamp(0, 1)
        torch.testing.assert_close(shown, want, atol=1e-5, rtol=0)


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(InputError, match=r"hyperinit\[export\]"):
        hyperinit.write_siren(tmp_path / "a.onnx", siren(), "onnx")
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # torch.export's own
def test_torch_export_runs_for_any_number_of_coordinates(tmp_path):
    params = siren()
    hyperinit.write_siren(tmp_path / "a.pt2", params, "torch-export")
    program = torch.export.load(tmp_path / "a.pt2").module()
    for height, width in (SIZE, (30, 20)):
        with torch.no_grad():
            rgb = program(pixel_coords(height, width))
        shown = rgb.reshape(height, width, 3).permute(2, 0, 1).clamp(0, 1)
        want = hyperinit.render(params, height, width)
        torch.testing.assert_close(shown, want, atol=2e-5, rtol=0)


def code(page: str, mark: str) -> str:
    """The Python block of a document that has a word in it."""
    text = (DOCS / page).read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if mark in b]
    return block


def test_ten_lines_of_numpy_draw_it_as_documented(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = siren()
    hyperinit.write_siren("siren.npz", params, "npz")
    block = code("guides/exchange.md", 'np.load("siren.npz")')
    assert len(block.splitlines()) <= 12 and "torch" not in block
    names: dict = {}
    exec(block.replace("height, width = 256, 256", "height, width = 9, 12"), names)
    want = (hyperinit.render(params, *SIZE) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(names["picture"].astype(float) - want).max() <= 1


def test_flax_is_given_a_nested_dict_of_dense_layers(tmp_path):
    params = siren()
    hyperinit.write_siren(tmp_path / "a.npz", params, "jax")
    names: dict = {}
    exec(code("guides/exchange.md", "def nested(").partition("\n\n\nclass")[0], names)
    tree = names["nested"](tmp_path / "a.npz")
    assert list(tree) == ["params"] and len(tree["params"]) == 4
    hidden = pixel_coords(*SIZE).numpy()
    for i in range(4):
        dense = tree["params"][f"Dense_{i}"]
        hidden = hidden @ dense["kernel"] + dense["bias"]
        hidden = np.sin(hidden) if i < 3 else hidden
    shown = picture(torch.from_numpy(hidden))
    torch.testing.assert_close(shown, hyperinit.render(params, *SIZE), atol=2e-5, rtol=0)


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_fewer_bits_are_read_again_and_their_cost_is_said(tmp_path, capsys, form):
    image = smooth_image(24)
    hyperinit.save_image(image, tmp_path / "p.png")
    params = siren("identity", width=32)
    hyperinit.save_params(tmp_path / "a.safetensors", params)
    for _ in range(2):  # a file of this kind may be written again
        command = ["export", str(tmp_path / "a.safetensors"), "--to", form]
        assert main([*command, "--image", str(tmp_path / "p.png")]) == 0
    path = tmp_path / f"a-{form}.safetensors"
    back = hyperinit.read_siren(path)
    assert back.dtype == torch.float32 and back.config == params.config
    ratio = path.stat().st_size / (tmp_path / "a.safetensors").stat().st_size
    assert ratio < (0.6 if form == "fp16" else 0.5)
    error = (hyperinit.render(back, 24, 24) - hyperinit.render(params, 24, 24)).square().mean()
    told = capsys.readouterr().out.splitlines()[-1]
    assert float(re.search(r"PSNR to the full SIREN ([\d.]+) dB", told)[1]) == pytest.approx(
        float(-10 * error.log10()), abs=0.06
    )
    assert re.search(r"to the image [\d.]+ -> [\d.]+ dB", told)
    assert float(-10 * error.log10()) > (50 if form == "fp16" else 30)
    assert main(["render", str(path), "--size", "8x8", "-o", str(tmp_path / "r.png")]) == 0


@pytest.mark.parametrize("theirs", ["size=5x6", "grid=centres", "layout=siren"])
def test_a_file_of_ours_is_not_read_as_theirs(tmp_path, capsys, theirs):
    path = str(tmp_path / "a.safetensors")
    hyperinit.save_params(path, siren(), images=[{"name": "a.png", "height": 8, "width": 9}])
    for command in (["export", "--to", "siren"], ["render", "-o", str(tmp_path / "a.png")]):
        with pytest.raises(SystemExit, match="2"):
            main([command[0], path, *command[1:], "--theirs", theirs])
        assert "written by hyperinit, so it takes no layout" in capsys.readouterr().err
    assert [found.name for found in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("flags", [[], ["--size", "8"]], ids=str)
def test_a_photograph_is_compared_as_it_was_fitted(tmp_path, capsys, flags):
    wide = torch.cat((torch.zeros(3, 16, 8), smooth_image(16), torch.ones(3, 16, 8)), dim=2)
    photo, path = str(tmp_path / "wide.png"), str(tmp_path / "a.safetensors")
    hyperinit.save_image(wide, photo)
    sizes = ["--width", "16", "--depth", "2", "--budget-epochs", "2"]
    assert main(["fit", photo, "--size", "8", *sizes, "-o", path, "--json"]) == 0
    assert main(["export", path, "--to", "fp16", "--image", photo, *flags, "--json"]) == 0
    fitted, exported = map(json.loads, capsys.readouterr().out.splitlines())
    assert exported["psnr_before"] == pytest.approx(fitted["psnr"], abs=0.05)


@pytest.mark.parametrize("sides", [(40,), (8, 9), (5, 6, 7)], ids=str)
def test_a_signal_in_fewer_bits_says_what_they_cost(tmp_path, capsys, sides):
    path = str(tmp_path / "a.safetensors")
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((2, *sides), dtype=np.float32))
    sizes = ["--width", "16", "--depth", "2", "--budget-epochs", "4"]
    assert main(["fit", str(tmp_path / "a.npy"), *sizes, "-o", path]) == 0
    capsys.readouterr()
    assert main(["export", path, "--to", "int8", "--json"]) == 0
    (found,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert 20 < found["psnr_to_full"] < 100 and found["psnr_before"] is None
    hyperinit.save_image(smooth_image(8), tmp_path / "p.png")
    with pytest.raises(SystemExit, match="2"):
        main(["export", path, "--to", "int8", "--image", str(tmp_path / "p.png")])
    assert "a.safetensors shows a signal" in capsys.readouterr().err
    # The sides over two dimensions are known: no --size is needed.
    assert main(["export", path, "--to", "siren"]) == 0


@pytest.mark.parametrize("form", ["fp16", "int8", "hyperinit"])
def test_fewer_bits_do_not_claim_to_fit_as_well(tmp_path, form):
    path, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    images = [{"name": "a.png", "height": 8, "width": 9}]
    how_well = {"mse": 1e-4, "psnr": 45.0, "reached": True, "runs": [{"mse": 1e-4}]}
    hyperinit.save_params(path, siren(), images=images, init="33", **how_well)
    assert main(["export", str(path), "--to", form, "-o", str(out)]) == 0
    whole = {"images": images, "init": "33", **(how_well if form == "hyperinit" else {})}
    assert read_any(out)[1] == whole


def test_what_is_too_large_for_a_format_is_refused():
    huge = siren().map(lambda value: value * 1e9)
    with pytest.raises(InputError, match=r"layers\.0\.weight has values beyond"):
        hyperinit.write_siren("never.safetensors", huge, "fp16")
    with pytest.raises(InputError, match=rf"at most {4 * MAX_CONSTANTS}.*OUT\.html"):
        hyperinit.write_siren("never.frag", siren(width=128), "glsl")
    assert not Path("never.frag").exists()


# 3e38 is a number, but not in float32 where omega_0 is in the weights.
NO_NUMBERS = [(form, value) for form in FORMATS for value in (nan, inf)]


@pytest.mark.parametrize(("form", "value"), [*NO_NUMBERS, ("onnx", 3e38), ("jax", 3e38)], ids=str)
def test_what_is_no_number_is_not_written(tmp_path, form, value):
    params = siren().map(Tensor.clone)
    params["layers.1.weight"][0, 0] = value
    path = tmp_path / f"a{FORMATS[form].suffixes[0]}"
    with pytest.raises(InputError, match=r"layers\.1\S* has values"):
        hyperinit.write_siren(path, params, form, size=SIZE)
    assert not path.exists()


def test_eight_bits_hold_what_half_precision_does_not(tmp_path):
    params = siren().map(Tensor.clone)
    params["layers.1.weight"][0] *= 1e9
    hyperinit.write_siren(tmp_path / "a.safetensors", params, "int8")
    row = hyperinit.read_siren(tmp_path / "a.safetensors")["layers.1.weight"][0]
    assert float(row.abs().max()) == pytest.approx(float(params["layers.1.weight"][0].abs().max()))


def test_what_makes_no_sense_is_refused(tmp_path):
    params = siren()
    for arguments, text in (
        (("a.pt", params, "coyn"), "unknown format 'coyn'"),
        (("a.pt", params, "onnx"), r"onnx files end in \.onnx"),
        (("a.pt", params, "coin"), "'coin' depends on the image"),
        (("a.pt", params.map(lambda v: v[None]), "coin"), "one SIREN"),
    ):
        with pytest.raises(InputError, match=text):
            hyperinit.write_siren(tmp_path / arguments[0], *arguments[1:])
    with pytest.raises(InputError, match="takes no conventions"):
        hyperinit.write_siren(tmp_path / "a.safetensors", params, "fp16", order="yx")
    with pytest.raises(InputError, match="omega_0 is in the weights"):
        hyperinit.write_siren(tmp_path / "a.onnx", params, "onnx", first_omega=3.0)
    assert list(tmp_path.iterdir()) == []


def test_the_command_converts_both_ways(tmp_path, capsys):
    params = siren()
    images = [{"name": "p.png", "height": 9, "width": 12, "sha256": ""}]
    hyperinit.save_params(tmp_path / "a.safetensors", params, images=images)
    command = ["export", str(tmp_path / "a.safetensors"), "--to", "siren"]
    theirs = str(tmp_path / "theirs.pth")
    assert main([*command, "-o", theirs]) == 0  # the size is in the file
    back = ["--to", "hyperinit", "--size", "9x12", "-o", str(tmp_path / "b.safetensors")]
    assert main(["export", theirs, *back]) == 0
    again = hyperinit.load_params(tmp_path / "b.safetensors")[0]
    torch.testing.assert_close(
        hyperinit.render(again, *SIZE), hyperinit.render(params, *SIZE), atol=2e-5, rtol=0
    )
    capsys.readouterr()
    for more, text in (
        (["--to", "siren", "--image", "p.png"], "--image is for"),
        (["--to", "nothing"], "unknown format 'nothing'"),
        (["--to", "coin", "--conventions", "size=3x3"], "--conventions takes no"),
    ):
        with pytest.raises(SystemExit):
            main([*command[:2], *more])
        assert text in capsys.readouterr().err


@pytest.mark.long
def test_a_browser_shows_what_render_shows(tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    params = siren(width=10)
    hyperinit.write_siren(tmp_path / "a.html", params, "glsl", size=SIZE)
    hyperinit.write_siren(tmp_path / "a.frag", params, "glsl")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    texture = re.search(r'x-fragment">(.*?)</script>', page, re.DOTALL)[1]
    constants = page.replace(texture, (tmp_path / "a.frag").read_text(encoding="utf-8"))
    for name, html in (("texture", page), ("constants", constants)):
        driver = (
            "<script>document.title = gl ? JSON.stringify([...draw(12, 9)]) : 'no WebGL'</script>"
        )
        (tmp_path / f"{name}.html").write_text(html.replace("</html>", driver + "</html>"))
        flags = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader"]
        flags += ["--enable-unsafe-swiftshader", f"--user-data-dir={tmp_path / 'profile'}"]
        command = [browser, *flags, "--dump-dom", str(tmp_path / f"{name}.html")]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        title = re.search(r"<title>(.*?)</title>", run.stdout)[1]
        if title == "no WebGL":
            pytest.skip("this Chromium has no WebGL")
        problem = re.search(r'<p id="problem">(.*?)</p>', run.stdout, re.DOTALL)[1]
        assert problem == ""
        pixels = torch.tensor(json.loads(title)).reshape(*SIZE, 4)[..., :3].permute(2, 0, 1) / 255
        want = hyperinit.render(params, *SIZE)
        assert float((pixels - want).abs().max()) <= 1.01 / 255, name


def test_a_half_precision_file_is_one_of_ours(tmp_path):
    params = siren()
    hyperinit.write_siren(tmp_path / "a.safetensors", params, "fp16")
    back, _ = hyperinit.load_params(tmp_path / "a.safetensors")
    assert_same(back, params.map(lambda value: value.half().float()))


def test_the_documents_list_every_format():
    text = (DOCS / "guides" / "exchange.md").read_text(encoding="utf-8")
    for name in FORMATS:
        assert f"`{name}`" in text
