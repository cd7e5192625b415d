"""What a user gives as an init: refused in one line that says what is expected."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.bench.plan import Entry, Plan
from hyperinit.bench.sources import BY_NAME, callable_init, load_init
from hyperinit.exchange.quantized import save_half, save_int8
from hyperinit.fitting.fit import fit
from hyperinit.images.decode import load_image
from hyperinit.images.pixels import image_hash
from hyperinit.images.save import save_image
from hyperinit.inits.neighbours import neighbour_init
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.inits.start import Init, Start, spec_init, start_facts
from hyperinit.photos.workload import NamedImage
from hyperinit.record.protocol import Protocol
from hyperinit.siren.network import Params
from hyperinit.siren.store import save_params

IMAGE = torch.full((3, 8, 8), 0.5)
DRAWN = spec_init("33", named_init("33"), 8, 1)
GIVES = """
from hyperinit import named_init, sample_params
import torch

def start(image, seed):
    spec = named_init("33")
    params = sample_params(spec, spec.siren_config(8, 1), generator=torch.Generator())
    return {result}

start.epochs = {epochs}
"""


def module(directory: Path, result: str = "params", epochs: str = "0.5") -> str:
    path = directory / "mine.py"
    path.write_text(GIVES.format(result=result, epochs=epochs))
    return f"{path}:start"


def test_a_function_that_gives_params_is_taken(tmp_path):
    start = callable_init(module(tmp_path)).start(IMAGE, 0)
    assert start.epochs == 0.5 and start.params.config.width == 8
    source = module(tmp_path, epochs="lambda image: image.shape[-1] / 4")
    assert callable_init(source).start(IMAGE, 0).epochs == 2


@pytest.mark.parametrize(
    ("result", "found"),
    [
        ("dict(params)", "dict"),
        ("None", "NoneType"),
        ("torch.nn.Linear(2, 3).state_dict()", "OrderedDict"),
        ("params['layers.0.weight']", "Tensor"),
        ("[params]", "list"),
        ("params.map(lambda value: value[None])", "Params"),  # a stack of one
    ],
)
def test_a_function_that_gives_something_else_is_named(tmp_path, result, found):
    with pytest.raises(InputError, match=f"init start must give the Params .* not {found}"):
        callable_init(module(tmp_path, result)).start(IMAGE, 0)


def test_a_function_that_ends_the_program_is_named(tmp_path):
    """In one of several fits at a time it ended its thread, and the others waited for it."""
    with pytest.raises(InputError, match=r"init start calls sys\.exit\('no GPU'\)"):
        callable_init(module(tmp_path, "exit('no GPU')")).start(IMAGE, 0)


@pytest.mark.parametrize(
    ("result", "epochs", "said"),
    [
        ("{}['gain']", "0", "KeyError: 'gain'"),
        ("torch.zeros(2) @ torch.zeros(3)", "0", "RuntimeError: "),
        ("exec('raise Warning')", "0", "Warning$"),
        ("params", "lambda image: 1 / 0", "ZeroDivisionError: division by zero$"),
    ],
)
def test_a_function_that_raises_is_named_with_its_line(tmp_path, result, epochs, said):
    source = module(tmp_path, result, epochs)
    text = (tmp_path / "mine.py").read_text().splitlines()
    line = 1 + next(i for i, one in enumerate(text) if (result if epochs == "0" else epochs) in one)
    with pytest.raises(InputError, match=f"{source}, line {line}, raises {said}"):
        callable_init(source).start(IMAGE, 0)


def test_a_function_that_raises_for_an_image_costs_a_set_only_that_image(tmp_path, capsys):
    """It ended the command with a traceback, and the images after it had no result."""
    (tmp_path / "images").mkdir()
    for i, grey in enumerate((0.1, 0.9, 0.2)):
        save_image(torch.full((3, 8, 8), grey), tmp_path / f"images/{i}.png")
    source = module(tmp_path, "params if image.mean() < 0.5 else 1 / 0")
    out = tmp_path / "out"
    asked = ["fit", str(tmp_path / "images"), "-o", str(out), "--init", source]
    assert main([*asked, "--budget-epochs", "1"]) == 1
    assert sorted(path.name[0] for path in out.glob("*.safetensors")) == ["0", "2"]
    said = capsys.readouterr().err
    assert "1.png: " in said and "raises ZeroDivisionError" in said


@pytest.mark.parametrize(
    "asked", [["fit", "IMAGE", "--init"], ["benchmark"], ["generate", "IMAGE", "--checkpoint"]]
)
def test_a_file_of_functions_alone_asks_for_the_function(tmp_path, asked, capsys):
    """It was read as a SIREN: "not a readable safetensors file"."""
    path = module(tmp_path).removesuffix(":start")
    save_image(IMAGE, tmp_path / "a.png")
    command = [str(tmp_path / "a.png") if word == "IMAGE" else word for word in asked]
    out = ["-o" if asked[0] != "benchmark" else "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        main([*command, path, *out])
    assert stopped.value.code == 2
    assert f"{path}:FUNCTION" in capsys.readouterr().err


def test_a_function_of_something_else_than_an_image_and_a_seed_is_named(tmp_path):
    for theirs in ("image", "image, seed, size", "image, *, seed"):
        (tmp_path / "mine.py").write_text(f"def start({theirs}):\n    return None\n")
        with pytest.raises(InputError, match=r"mine\.py:start must be a function of \(image, seed"):
            callable_init(f"{tmp_path}/mine.py:start")
    for theirs in ("image, seed, width, depth", "x, s=0", "*both", "image, seed, *, depth, a=1"):
        (tmp_path / "mine.py").write_text(f"def start({theirs}):\n    return None\n")
        callable_init(f"{tmp_path}/mine.py:start")


@pytest.mark.parametrize(
    "epochs", ["-1", "float('nan')", "float('inf')", "'3'", "'many'", "None", "True", "[1]", "1j"]
)
@pytest.mark.parametrize("form", ["{}", "lambda image: {}"])
def test_a_cost_that_is_no_number_buys_nothing(tmp_path, epochs, form):
    with pytest.raises(InputError, match=r"epochs of .*mine\.py:start must be a number >= 0") as e:
        callable_init(module(tmp_path, epochs=form.format(epochs))).start(IMAGE, 0)
    assert "\n" not in str(e.value)


def darken(image: Tensor, seed: int) -> Params:
    image.numpy()[:] = 0  # past what torch counts as a change
    image.mul_(0.2)
    return DRAWN.start(image, seed).params


def test_an_init_that_writes_to_its_image_leaves_the_fit_s_as_it_was():
    seen: list[float] = []

    def epochs(image: Tensor) -> float:
        seen.append(float(image.min()))
        image.zero_()
        return 0.0

    image = IMAGE.clone()
    Init("darken", darken, epochs).start(image, 0)
    assert torch.equal(image, IMAGE) and seen == [0.5]


@pytest.mark.parametrize(("own", "declared", "cost"), [(0, 3, 3), (0.5, 3, 3), (4, 3, 4)])
def test_a_declared_cost_holds_where_a_start_is_given(tmp_path, own, declared, cost):
    result = f"__import__('hyperinit').Start(params, epochs={own}, lr_factor=0.5)"
    start = callable_init(module(tmp_path, result, str(declared))).start(IMAGE, 0)
    assert (start.epochs, start.lr_factor) == (cost, 0.5)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "1", None])
def test_a_rate_s_factor_that_is_no_number_above_0_is_one_line(value):
    params = DRAWN.start(IMAGE, 0).params
    with pytest.raises(InputError, match="a start's lr_factor must be a number > 0, not"):
        Start(params, lr_factor=value)
    with pytest.raises(InputError, match="init mine: a start's lr_factor must be a number > 0"):
        Init("mine", lambda image, seed: params, lr_factor=value).start(IMAGE, 0)


def test_costs_and_factors_may_be_numbers_of_numpy():
    params = DRAWN.start(IMAGE, 0).params
    start = Start(params, np.float32(0.5), np.int64(2), np.float32(0.25))
    assert (start.epochs, start.sec, start.lr_factor) == (0.5, 2.0, 0.25)
    assert json.loads(json.dumps(start_facts(start)))["epochs"] == 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_parameters_in_another_precision_are_fitted_in_float32(dtype):
    given = DRAWN.start(IMAGE, 0).params.map(lambda value: value.to(dtype))
    start = Init("mine", lambda image, seed: given).start(IMAGE, 0)
    assert start.params.dtype == torch.float32 and given.dtype == dtype
    for begun in (start, given):
        result = fit(begun, IMAGE, budget_epochs=1, batch_pixels=16, engine="eager")
        assert result.params.dtype == torch.float32
        assert all(value.isfinite().all() for value in result.params.values())


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_parameters_that_are_no_floating_point_numbers_are_one_line(dtype):
    given = DRAWN.start(IMAGE, 0).params.map(lambda value: value.to(dtype))
    with pytest.raises(InputError, match=r"init mine: .*layers\.0\.weight must be floating-point"):
        Init("mine", lambda image, seed: given).start(IMAGE, 0)


@pytest.mark.parametrize("line", ["raise SystemExit(3)", "1 / 0", "import nothing_at_all", "("])
def test_a_module_that_cannot_be_imported_is_one_line(tmp_path, line):
    (tmp_path / "mine.py").write_text(line)
    with pytest.raises(InputError, match=r"cannot import .*mine\.py") as caught:
        callable_init(f"{tmp_path}/mine.py:start")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["nul\0byte", "x" * 5000, "x=" + "y" * 5000, "\udc80", ":", ""])
def test_what_can_be_no_name_and_no_path_is_one_line(source):
    with pytest.raises(InputError) as caught:
        load_init(source, BY_NAME, 8, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["theirs.safetensors", "theirs.pt"])
def test_the_command_refuses_a_foreign_siren_in_one_line(tmp_path, capsys, name):
    weights = {"net.0.weight": torch.zeros(8, 2)}
    save_file(weights, tmp_path / "theirs.safetensors")
    torch.save(weights, tmp_path / "theirs.pt")
    save_image(IMAGE, tmp_path / "p.png")
    picture, theirs = str(tmp_path / "p.png"), str(tmp_path / name)
    for command in (
        ["fit", picture, "--init", theirs, "--budget-epochs", "1"],
        ["render", theirs, "-o", str(tmp_path / "out.png")],
    ):
        with pytest.raises(SystemExit) as caught:
            main(command)
        assert caught.value.code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert name in last and "docs/siren-files.md" in last and "net.0.weight" in last


@pytest.mark.parametrize("save", [save_params, save_half, save_int8])
@pytest.mark.parametrize("key", ["sha256", "photo_sha256"])
def test_a_file_that_shows_an_image_is_not_tested_on_it(tmp_path, save, key):
    spec, generator = named_init("33"), torch.Generator().manual_seed(0)
    params = sample_params(spec, spec.siren_config(8, 1), generator=generator)
    shown = {"name": "p.png", "height": 8, "width": 8, key: image_hash(IMAGE)}
    save(tmp_path / "cheat.safetensors", params, images=[shown], train_hashes=["more"])
    init = load_init(str(tmp_path / "cheat.safetensors"), BY_NAME, 8, 1)
    assert init.train_hashes == {image_hash(IMAGE), "more"}
    image = NamedImage("p.png", IMAGE, image_hash(IMAGE), "")
    with pytest.raises(InputError, match=r"init cheat was trained on the test image p\.png"):
        Plan("seed", (Entry(init),), (image,), (), 1, Protocol())
    if save is not save_int8:  # and the same holds for a directory of such files
        assert neighbour_init("cheats", tmp_path).train_hashes == init.train_hashes


@pytest.mark.parametrize("command", ["fit", "generate"])
def test_a_siren_of_another_size_of_an_image_is_known_to_show_it(tmp_path, command):
    save_image(IMAGE, tmp_path / "p.png")
    files = [str(tmp_path / "p.png"), "-o", str(tmp_path / "s.safetensors")]
    line = [command, *files, "--size", "6x7"]
    small = ["--width", "8", "--depth", "2", "--budget-epochs", "2", "--quiet"]
    main([*line, *(small if command == "fit" else ["--checkpoint", "photo-96"])])
    init = load_init(str(tmp_path / "s.safetensors"), BY_NAME, 8, 2)
    assert image_hash(load_image(tmp_path / "p.png")) in init.train_hashes
