"""Outputs that would destroy something, or that come to nothing, are refused before the work."""

from __future__ import annotations

import gc
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import shake_heads, smooth_image, tiny_hyper

from hyperinit import fit, load_params
from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.base.outputs import check_directory
from hyperinit.bench.catalogue import inits_for_fit
from hyperinit.bench.sources import load_init
from hyperinit.fitting.command import looks
from hyperinit.fitting.config import FitConfig
from hyperinit.images.files import image_files
from hyperinit.images.save import save_image
from hyperinit.learn.loop import TrainState, save_state
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.siren.device import choose_device, choose_threads
from hyperinit.siren.store import CHECKPOINT_NAME

SMALL = ["--width", "8", "--depth", "1", "--budget-epochs", "8"]
OWN_NETWORK = ["--init", CHECKPOINT_NAME, "--width", "16", "--depth", "2"]  # tiny_hyper's


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A directory with a photograph, a checkpoint, a fitted SIREN, records and a text."""
    monkeypatch.chdir(tmp_path)
    save_image(smooth_image(16), tmp_path / "p.png")
    shutil.copy("p.png", "q.png")
    state = TrainState(HYPERNETWORK, shake_heads(tiny_hyper()), torch.optim.AdamW([torch.zeros(1)]))
    save_state(tmp_path / CHECKPOINT_NAME, state, TrainConfig())
    assert main(["fit", "p.png", *SMALL, "-o", "s.safetensors"]) == 0
    Path("r.safetensors").write_text('{"record": 1}\n')
    Path("r.png").write_text('{"record": 1}\n')
    Path("text.safetensors").write_text("my notes, kept in an odd place\n")
    os.symlink("p.png", "link.png")
    os.mkdir("dir.png")
    return tmp_path


FIT = ["fit", "p.png", *SMALL]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*FIT, "--render", "p.png"], "p.png: is one of the inputs"),
        ([*FIT, "--render", "./link.png"], "link.png: is one of the inputs"),
        ([*FIT, "-o", "p.png"], "must end in .safetensors"),
        ([*FIT, "-o", CHECKPOINT_NAME], "the checkpoint of a hypernetwork, which would be lost"),
        ([*FIT, "-o", "r.safetensors"], "exists and is a file of records"),
        ([*FIT, "-o", "text.safetensors"], "a file of another kind"),
        ([*FIT, "--render", "r.png"], "exists and is a file of records"),
        ([*FIT, "--render", "dir.png"], "dir.png: is a directory"),
        ([*FIT, "-o", "no/where.safetensors"], "no: no such directory"),
        ([*FIT, "-o", "p.png/x.safetensors"], "p.png: is a file"),
        ([*FIT, "--init", "x=s.safetensors", "-o", "s.safetensors"], "is one of the inputs"),
        ([*FIT, "--init", "a=b.safetensors", "-o", "a=b.safetensors"], "is one of the inputs"),
        ([*FIT, "--init", "sirens", "-o", "sirens/s.safetensors"], "the SIRENs of --init sirens"),
        ([*FIT, "--init", "x=sirens", "-o", "sirens/new.safetensors"], "the SIRENs of --init"),
        ([*FIT, "--init", "sirens", "-o", "away.safetensors"], "the SIRENs of --init sirens"),
        (["fit", "photos", *SMALL, "--init", "sirens", "-o", "sirens"], "the SIRENs of --init"),
        (["generate", "photos", "--init", "sirens", "-o", "sirens"], "the SIRENs of --init"),
        (["generate", "p.png", "--init", "sirens", "-o", "sirens"], "the SIRENs of --init"),
        (["generate", "s.png", "--init", "33", "-o", "."], "a fitted SIREN, which would be lost"),
        (["generate", "p.png", "--checkpoint", ".", "-o", CHECKPOINT_NAME], "a hypernetwork"),
        (["generate", "p.png", "--checkpoint", ".", "-o", "text.safetensors"], "another kind"),
        (["generate", "p.png", "--checkpoint", ".", "-o", "p.png"], "p.png: is a file"),
        (["generate", "p.png", f"{'x' * 250}.png", "-o", "new"], "the name is longer than 255"),
        (["render", "s.safetensors", "-o", "r.png"], "exists and is a file of records"),
        (["benchmark", "--quick", "--out", "x.png"], "records are not a .png file"),
        (
            ["benchmark", "--quick", "--images", "p.png", "--out", "p.jsonl"],
            "p.png is an input and",
        ),
        (["benchmark", "--quick", "--out", "q.jsonl"], "q.png, where the chart goes, is another"),
        (["benchmark", "--quick", "--out", "no/x.jsonl"], "no: no such directory"),
        (["meta-train", "--preset", "tiny", "--out", "p.png/run"], "p.png: is a file"),
    ],
)
def test_what_would_be_lost_is_refused_and_untouched(place, arguments, message, capsys):
    shutil.copy("p.png", "s.png")
    shutil.copy("s.safetensors", "a=b.safetensors")
    os.mkdir("sirens")
    shutil.copy("s.safetensors", "sirens/s.safetensors")
    os.symlink("sirens/s.safetensors", "away.safetensors")
    os.mkdir("photos")
    shutil.copy("p.png", "photos/p.png")
    before = contents(place)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert contents(place) == before


@pytest.mark.parametrize("images", [["p.png"], ["p.png", "q.png"]], ids=len)
@pytest.mark.parametrize("out", ["a.safetensors", "new/below"])
def test_no_bar_is_left_behind_what_was_generated(place, images, out, capsys):
    capsys.readouterr()
    assert main(["generate", *images, "--checkpoint", ".", "-o", out]) == 0
    gc.collect()
    assert capsys.readouterr().err == ""


def contents(place: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in place.rglob("*") if p.is_file()}


def test_what_was_made_before_is_replaced(place, capsys):
    Path("empty.png").touch()
    again = [*FIT, "-o", "s.safetensors", "--render", "empty.png"]
    assert main(again) == 0 and main([*again[:-1], "q.png"]) == 0
    starts = ["generate", "p.png", "--init", "33", "--width", "8", "-o"]
    assert main([*starts, "s.safetensors"]) == 0  # whose name is typed
    assert main([*starts, "."]) == 0 and main([*starts, "."]) == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_the_right_to_write_is_refused(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot write to"):
        check_directory(tmp_path / "locked" / "new", may_be_made=True)


def test_a_place_where_no_file_can_be_made_is_refused():
    if not os.path.isdir("/proc/self"):
        pytest.skip("no /proc")
    with pytest.raises(InputError, match="cannot write to /proc/self: "):
        check_directory("/proc/self")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budget-epochs", "0"], "the budget leaves nothing to fit with"),
        ([*OWN_NETWORK, "--budget-epochs", "0.01"], "making the start costs"),
    ],
)
def test_a_fit_that_gained_nothing_is_no_success(place, flags, message, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "p.png", *SMALL, *flags, "-o", "new.safetensors", "--render", "new.png"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("new.safetensors").exists() and not Path("new.png").exists()


@pytest.mark.parametrize(
    ("diverged", "message"), [(False, "no better than its start"), (True, "the fit diverged")]
)
def test_a_fit_that_ends_where_it_began_is_no_success(
    place, diverged, message, monkeypatch, capsys
):
    def hopeless(start, image, config, **options):
        result = fit(start, image, config, **options)
        return replace(result, kept=result.curve[0], diverged=diverged)

    monkeypatch.setattr("hyperinit.fitting.fit.fit", hopeless)
    with pytest.raises(SystemExit) as stopped:
        main([*FIT, "-o", "new.safetensors"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and "try --lr below" in error
    assert not Path("new.safetensors").exists()


NO_NUMBER = """
import hyperinit
import torch
def nan(image, seed):
    spec = hyperinit.named_init("identity")
    generator = torch.Generator().manual_seed(seed)
    params = hyperinit.sample_params(spec, spec.siren_config(8, 1), generator=generator)
    params["layers.1.weight"][0, 0] = float("nan")
    return params
"""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr", "1e-12"], "no better|did not improve"),
        (["--init", "own.py:nan"], "not a usable SIREN"),
        (["--budget-epochs", "0"], "nothing (is left )?to fit with"),
        (["--init", "untrained", "--budget-epochs", "0.1"], "nothing (is left )?to fit with"),
    ],
)
@pytest.mark.parametrize("mode", ["budget", "target", "directory"])
def test_a_fit_that_came_to_nothing_overwrites_nothing(place, mode, flags, message, capsys):
    Path("own.py").write_text(NO_NUMBER)
    source, out, more = "p.png", Path("before.safetensors"), []
    if mode == "directory":
        os.mkdir("photos")
        shutil.copy("p.png", "photos/p.png")
        source, out = "photos", Path("fitted")
    else:
        assert main([*FIT, "-o", str(out)]) == 0
        more = ["--target-mse", "1e-5"] if mode == "target" else []
    before = out.read_bytes() if out.is_file() else b""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["fit", source, *SMALL, "--budget-epochs", "2", *flags, *more, "-o", str(out)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and re.search(message, error)
    if mode == "directory":
        assert not list(out.glob("*.safetensors")) and "no image could be fitted" in error
    else:
        assert out.read_bytes() == before and error.count("\n") == 1


def test_a_network_that_is_too_small_is_one_line(place, capsys):
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    save_image(torch.nn.functional.interpolate(coarse, 32, mode="bilinear")[0], "a.png")
    capsys.readouterr()
    command = ["fit", "a.png", "--width", "16", "--depth", "4", "--init", "identity"]
    assert main([*command, "--budget-epochs", "8"]) == 0
    error = capsys.readouterr().err
    assert "too small for this image" in error and "--width" in error and error.count("\n") == 1
    assert main([*command, "--budget-epochs", "8", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert main([*command, "--budget-epochs", "1"]) == 0
    assert capsys.readouterr().err == ""


def test_networks_of_a_set_that_are_too_small_are_remarks(tmp_path, capsys):
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    (tmp_path / "one").mkdir()
    image = torch.nn.functional.interpolate(coarse, 32, mode="bilinear")[0]
    save_image(image, tmp_path / "one" / "a.png")
    command = ["fit", str(tmp_path / "one"), "--width", "16", "--depth", "4", "--init", "identity"]
    for quiet in ([], ["--quiet"]):
        assert main([*command, "-o", str(tmp_path / f"out{len(quiet)}"), *quiet]) == 0
        error = capsys.readouterr().err
        assert error == "" if quiet else "too small for this image" in error


def test_a_target_that_a_fit_comes_no_nearer_to_leaves_no_file(place, capsys):
    with pytest.raises(SystemExit):
        main([*FIT, "--target-mse", "1e-9", "--budget-epochs", "0", "-o", "new.safetensors"])
    assert "was not reached" in capsys.readouterr().err
    assert not Path("new.safetensors").exists()


# Options ------------------------------------------------------------------------------------------


def test_size_takes_a_side_or_height_and_width(place, capsys):
    assert main([*FIT, "--size", "6x12", "-o", "t.safetensors"]) == 0
    _, info = load_params("t.safetensors")
    assert (info["images"][0]["height"], info["images"][0]["width"]) == (6, 12)
    os.mkdir("photos")
    shutil.copy("p.png", "photos")
    assert main(["fit", "photos", "-o", "out", *SMALL, "--size", "6x12"]) == 0
    (path,) = Path("out").glob("*.safetensors")
    assert load_params(path)[1]["images"][0]["width"] == 12
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*FIT, "--size", "20x"])
    assert "must look like 224 or 480x640" in capsys.readouterr().err


def test_omega_0_is_of_the_network_and_for_hand_designed_inits(place, capsys):
    assert main([*FIT, "--init", "33", "--omega-0", "12", "-o", "t.safetensors"]) == 0
    assert load_params("t.safetensors")[0].config.omega_0 == 12
    cases = {
        "use --omega-0 60": ["--fit", "omega_0=60"],
        "did you mean 'sampler'": ["--fit", "samplr=points"],
        "hand-designed init by name": ["--init", ".", "--omega-0", "12"],
        "must be a positive number": ["--omega-0", "-1"],
    }
    capsys.readouterr()
    for message, flags in cases.items():
        with pytest.raises(SystemExit):
            main([*FIT, *flags])
        assert message in capsys.readouterr().err


def test_every_row_is_an_init_of_fit():
    for source, omega_0 in (("36@2", 50.0), ("1", 30.0), ("35", 10.0)):
        init = load_init(source, inits_for_fit(source), 8, 1)
        assert init.start(smooth_image(8), 0).params.config.omega_0 == omega_0


def test_an_unusable_device_is_one_line():
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("cuda:99", "gpu", "meta"):
        with pytest.raises(InputError, match=f"--device {name} ") as error:
            choose_device(name)
        assert "\n" not in str(error.value)


def test_small_work_gets_one_thread_and_a_wish_is_kept():
    assert choose_threads(None, 256 * 128**2) == 1
    assert choose_threads(3, 1) == 3
    with pytest.raises(InputError, match="--threads must be at least 1"):
        choose_threads(0, 1)


def test_a_fit_that_is_watched_is_looked_at_all_along():
    found = looks(FitConfig(budget_epochs=64))
    assert len(found) == 16 and max(found) < 64 and found == tuple(sorted(found))


def test_links_to_folders_are_followed_once(tmp_path):
    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    for folder in (top / "a", elsewhere):
        folder.mkdir(parents=True)
        save_image(smooth_image(8), folder / "x.png")
    os.symlink(top, top / "a" / "loop")
    os.symlink(elsewhere, top / "b")
    os.symlink(elsewhere, top / "c")
    os.symlink(top / "a", top / "d")
    assert image_files(top, follow_links=True) == (["a/x.png", "b/x.png"], [])
    assert image_files(top) == (["a/x.png"], [])
