"""`hyperinit fit` of one image: what was typed is done or refused, and a good file is not lost."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import smooth_image

import hyperinit
from hyperinit import Init
from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.fitting.config import with_options
from hyperinit.fitting.fit import failure
from hyperinit.images.decode import load_image
from hyperinit.images.pixels import image_hash
from hyperinit.images.save import save_image
from hyperinit.siren.store import load_params, tensors_hash

SMALL = ["fit", "a.png", "--width", "16", "--depth", "2"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_image(smooth_image(16), "a.png")
    return tmp_path


def test_a_terminal_does_not_change_what_is_written(monkeypatch):
    # At a constant rate this high the best evaluation is not the last one, but at 18 epochs.
    rough = ["--lr", "0.01", "--budget-epochs", "20", "--fit", "schedule=constant"]
    written = []
    for stderr in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stderr)
        assert main([*SMALL, *rough, "-o", "o.safetensors"]) == 0
        params, info = load_params("o.safetensors")
        written.append((tensors_hash(params.tensors), info))
    assert written[0] == written[1]


def missed(capsys, *flags: str) -> tuple[str, str]:
    """stdout and stderr of a fit that cannot reach its target."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*SMALL, "--target-mse", "1e-9", *flags])
    assert stopped.value.code == 2
    out, error = capsys.readouterr()
    assert error.count("\n") == 1 and "--target-mse 1e-09 was not reached" in error
    return out, error


def test_a_missed_target_says_where_the_best_so_far_is(capsys):
    few = ["--budget-epochs", "2"]
    out, error = missed(capsys, *few, "-o", "o.safetensors", "--render", "o.png", "--json")
    assert error.endswith("; the best so far is in o.safetensors\n")
    said = json.loads(out)
    assert said["kind"] == "fit" and said["reached"] is False and said["out"] == "o.safetensors"
    assert said["mse"] == pytest.approx(load_params("o.safetensors")[1]["mse"])
    out, error = missed(capsys, *few, "--render", "o.png")
    assert out == "" and error.endswith("; what the best so far shows is in o.png\n")
    _, error = missed(capsys, *few)
    assert "so far" not in error
    out, error = missed(capsys, "--budget-epochs", "0", "-o", "none.safetensors", "--json")
    assert "so far" not in error and json.loads(out)["out"] is None


def test_a_missed_target_does_not_replace_what_is_better(capsys, place):
    assert main([*SMALL, "--budget-epochs", "30", "-o", "o.safetensors"]) == 0
    before = (place / "o.safetensors").read_bytes()
    command = ["--budget-epochs", "2", "-o", "o.safetensors"]
    out, error = missed(capsys, *command, "--json")
    assert (place / "o.safetensors").read_bytes() == before and json.loads(out)["out"] is None
    assert "; nothing was written: o.safetensors is of the same image and better (MSE " in error
    save_image(smooth_image(16, seed=1), "a.png")  # of another image it may be as good as it likes
    _, error = missed(capsys, *command)
    assert error.endswith("; the best so far is in o.safetensors\n")
    assert (place / "o.safetensors").read_bytes() != before


def test_a_target_that_is_reached_is_said_as_json(capsys):
    assert main([*SMALL, "--target-mse", "0.7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reached"] is True
    assert main([*SMALL, "--budget-epochs", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reached"] is None


def test_sizes_that_an_init_of_its_own_network_lacks_are_refused(capsys, place):
    assert main([*SMALL, "--budget-epochs", "1", "-o", "own.safetensors"]) == 0
    (place / "photos").mkdir()
    save_image(smooth_image(16), "photos/a.png")
    before = sorted(place.rglob("*"))
    capsys.readouterr()
    for source, out in (("a.png", "b.safetensors"), ("photos", "fitted")):
        command = ["fit", source, "--init", "own.safetensors", "--budget-epochs", "1", "-o", out]
        for flags in (["--width", "24"], ["--depth", "5"], ["--width", "16", "--depth", "3"]):
            with pytest.raises(SystemExit):
                main([*command, *flags])
            error = capsys.readouterr().err
            assert error.count("\n") == 1 and " ".join(flags) + ": init own brings" in error
            assert "write --width 16 --depth 2" in error
            assert sorted(place.rglob("*")) == before
    for flags in ([], ["--width", "16"], ["--width", "16", "--depth", "2"]):
        assert main([*command, *flags]) == 0


def test_a_seed_at_the_end_of_its_range_fits_to_a_target(capsys):
    rough = ["--lr", "10", "--target-mse", "0.5", "--seed", str(2**63 - 1)]
    assert main([*SMALL, *rough, "-o", "o.safetensors"]) == 0
    assert len(load_params("o.safetensors")[1]["runs"]) > 1


@pytest.mark.parametrize(
    ("pair", "advice"),
    [("eval_epochs=1", "hyperinit.fit in Python"), ("stop_mse=1", "write --target-mse X")],
)
def test_an_option_that_has_no_flag_is_not_said_to_have_one(capsys, pair, advice):
    with pytest.raises(SystemExit):
        main([*SMALL, "--fit", pair])
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and advice in error and "flag" not in error


@pytest.mark.parametrize("name", ["whole", "whole_ends"])
def test_what_is_no_option_is_not_named_as_one(capsys, name):
    with pytest.raises(SystemExit):
        main([*SMALL, "--fit", f"{name}=false"])
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"unknown fit option {name!r}" in error
    assert "whole_ends" not in error.replace(repr(name), "")
    with pytest.raises(InputError, match=f"unknown fit option '{name}'"):
        with_options(None, {name: False})


GIVEN = hyperinit.signal_start(smooth_image(16), width=8, depth=2).params
MINE = Init("mine", lambda image, seed: GIVEN)
INSTEAD_OF_PARAMS = {"Siren": hyperinit.Siren.from_params(GIVEN), "str": "33", "NoneType": None}


@pytest.mark.parametrize("name", INSTEAD_OF_PARAMS)
def test_what_is_given_in_the_place_of_params_is_named(name):
    given: Any = INSTEAD_OF_PARAMS[name]
    for call in (
        lambda: hyperinit.Siren(given),
        lambda: hyperinit.render(given, 4, 5),
        lambda: hyperinit.render_signal(given, (4,)),
        lambda: hyperinit.to_vector(given),
        lambda: hyperinit.save_params("x.safetensors", given),
        lambda: hyperinit.write_siren("x.pt", given, "siren", size=(4, 5)),
    ):
        with pytest.raises(InputError, match=f"must be Params, not {name}") as error:
            call()
        assert ("give its .params" in str(error.value)) is (name == "Siren")
    for start in (Init("mine", lambda image, seed: GIVEN), "33", None):
        for fit in (
            lambda start=start: hyperinit.fit(start, "a.png"),
            lambda start=start: hyperinit.fit_many([start], ["a.png"]),
            lambda start=start: hyperinit.fit_to_target(start, "a.png", 0.1),
        ):
            with pytest.raises(InputError, match=f"Start, not from {type(start).__name__}"):
                fit()


def test_what_takes_one_siren_refuses_a_stack():
    one = hyperinit.sample_params(
        hyperinit.named_init("33"),
        hyperinit.SirenConfig(8, 2, in_features=1, out_features=1),
        generator=torch.Generator(),
    )
    many = one.map(lambda value: value.expand(2, *value.shape))
    for name, call in {
        "Siren": lambda: hyperinit.Siren(many),
        "fit": lambda: hyperinit.fit(many, torch.zeros(1, 9)),
        "fit_to_target": lambda: hyperinit.fit_to_target(many, torch.zeros(1, 9), 0.1),
        "render_signal": lambda: hyperinit.render_signal(many, (9,)),
        "write_siren": lambda: hyperinit.write_siren("x.pt", many, "siren"),
    }.items():
        with pytest.raises(InputError, match=f"^{name} takes one SIREN, not 2 .*unbatch"):
            call()


def net() -> hyperinit.SirenNet:
    return hyperinit.SirenNet(2, 8, 3, 2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: hyperinit.fit(GIVEN, "a.png", {"lr": 1}), "config must be a FitConfig, not dict"),
        (lambda: hyperinit.fit_many([GIVEN], ["a.png"], 8), "config must be a FitConfig, not int"),
        (lambda: hyperinit.fit_to_target(GIVEN, "a.png", "0.1"), "target_mse must be a positive"),
        (lambda: hyperinit.fit_to_target(GIVEN, "a.png", None), "target_mse must be a positive"),
        (lambda: hyperinit.fit_directory(".", "o", MINE, target_mse="0.1"), "target_mse must be a"),
        (lambda: hyperinit.fit_directory(".", "o", MINE, batch_images="3"), "batch_images must be"),
        (lambda: hyperinit.fit_directory(".", "o", MINE, most_images=1.5), "most_images must be a"),
        (lambda: hyperinit.fit_many(hyperinit.Start(GIVEN), ["a.png"]), "takes a list of starts"),
        (lambda: MINE.start("a.png", 0), "init mine takes a tensor .* not str: see to_image"),
        (lambda: hyperinit.init_(net().state_dict()), "init_ takes a module, not OrderedDict"),
        (lambda: hyperinit.init_(hyperinit.SirenNet), "init_ takes a module, not type"),
        (lambda: hyperinit.named_init(None), "unknown init 'None'"),
    ],
)
def test_what_is_of_another_type_is_named(place, call, said):
    """They were a TypeError or an AttributeError from deep inside."""
    with pytest.raises(InputError, match=said):
        call()
    assert not (place / "o").exists()


def test_a_row_may_be_named_by_its_number():
    assert hyperinit.named_init(33) == hyperinit.named_init("33")
    image = smooth_image(8)
    starts = [hyperinit.signal_start(image, name, width=8, depth=2) for name in (33, "33")]
    assert tensors_hash(starts[0].params.tensors) == tensors_hash(starts[1].params.tensors)


def test_a_number_of_numpy_is_the_number_that_it_is():
    theirs = {"lr": np.float32(0.25), "seed": np.int64(3), "frozen_layers": [np.int64(0)]}
    own = {"lr": 0.25, "seed": 3, "frozen_layers": (0,)}
    found = [hyperinit.fit(GIVEN, "a.png", budget_epochs=2, **given) for given in (theirs, own)]
    assert found[0].mse == found[1].mse
    config = hyperinit.FitConfig(**theirs, budget_epochs=2)
    assert json.dumps(asdict(config)) == json.dumps(
        asdict(hyperinit.FitConfig(**own, budget_epochs=2))
    )
    siren = hyperinit.SirenConfig(np.int64(8), np.int32(2), np.float32(30))
    assert json.dumps(siren.facts) == json.dumps(GIVEN.config.facts | {"unit_std_coords": False})


def test_one_thing_is_not_told_as_several(capsys):
    assert main([*SMALL, "--target-mse", "0.5"]) == 0
    assert capsys.readouterr().out.endswith(" s in 1 run\n")
    os.mkdir("photos")
    os.rename("a.png", "photos/a.png")
    assert main(["generate", "photos", *SMALL[2:], "--init", "33", "-o", "starts"]) == 0
    assert "initial weights for 1 image, from 33" in capsys.readouterr().out
    assert main(["fit", "photos", *SMALL[2:], "--budget-epochs", "1", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("1 image, 0 finished")
    result = hyperinit.fit(GIVEN, smooth_image(16), lr=1e9, max_restarts=1, budget_epochs=1)
    assert "restart," in failure(replace(result, diverged=True, restarts=1))


OWN_INIT = """
import shutil
from hyperinit import named_init, sample_params
import torch

def start(image, seed, width=8, depth=1):
    shutil.copy("other.png", "a.png")
    spec = named_init("33")
    return sample_params(spec, spec.siren_config(width, depth), generator=torch.Generator())
"""


def test_facts_are_of_the_photograph_that_was_read_though_its_file_is_replaced(place):
    photo = image_hash(load_image("a.png"))
    save_image(smooth_image(16, 1), "other.png")
    (place / "own.py").write_text(OWN_INIT)
    line = ["fit", "a.png", "--size", "8", "--init", "own.py:start", "-o", "o.safetensors"]
    assert main(line) == 0
    (facts,) = load_params("o.safetensors")[1]["images"]
    assert facts["photo_sha256"] == photo != image_hash(load_image("a.png"))
