"""Sets of images: what happens to one of them leaves the others their results."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperinit.app.cli import main
from hyperinit.app.fit import main as fit_main
from hyperinit.base import errors
from hyperinit.base.errors import InputError
from hyperinit.data.source import Source
from hyperinit.images.save import save_image
from hyperinit.inits.rules import named_init
from hyperinit.inits.start import Init, Start, spec_init
from hyperinit.photos.load import open_source
from hyperinit.sets.directory import fit_directory
from hyperinit.sets.results import result_name
from hyperinit.sets.starts import generate_set
from hyperinit.siren.network import Params
from hyperinit.siren.store import load_params

DRAWN = spec_init("33", named_init("33"), 8, 1)
FAST: dict[str, Any] = {"budget_epochs": 1.0, "engine": "eager", "eval_epochs": ()}
COMMAND = ["--width", "8", "--depth", "1", "--fit", "engine=eager"]
MINE = """
from hyperinit import named_init, sample_params
from hyperinit.base.errors import InputError
import torch

def start(image, seed):
    if image.mean() > {brightest}:
        raise InputError("too bright for me")
    spec = named_init("33")
    return sample_params(spec, spec.siren_config(8, 1), generator=torch.Generator())
"""


def save_photos(folder: Path, count: int) -> Path:
    """Images of noise, the later the brighter: 0.1 on average, 0.2 and so on."""
    folder.mkdir(exist_ok=True)
    g = torch.Generator().manual_seed(0)
    for i in range(count):
        noise = 0.1 * torch.rand(3, 8, 8, generator=g) - 0.05
        save_image((noise + (i % 9 + 1) / 10).clamp(0, 1), folder / f"{i:03}.png")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return save_photos(tmp_path / "photos", 4)


def written(out: Path) -> set[str]:
    return {path.name for path in out.glob("*.safetensors")}


def picky(image: Tensor, seed: int) -> Start:
    if 0.15 < image.mean() < 0.25:  # the second
        raise InputError("not this one")
    return DRAWN.start(image, seed)


@pytest.mark.parametrize("options", [{}, {"target_mse": 10.0}, {"batch_images": 1000}])
def test_an_image_without_a_start_leaves_the_others_theirs(photos, tmp_path, options):
    told: list[tuple[str, str]] = []
    init = Init("picky", picky)
    report = fit_directory(
        photos, tmp_path / "o", init, on_failed=lambda *a: told.append(a), **FAST, **options
    )
    assert report.failed == (("001.png", "not this one"),) == (*told,)
    assert report.fitted == 3
    assert written(tmp_path / "o") == {result_name(f"00{i}.png") for i in (0, 2, 3)}


def test_an_init_that_learns_is_told_of_the_images_that_have_a_fit(photos, tmp_path):
    learned: list[int] = []
    init = Init("picky", picky, learn=lambda images, ends, seed: learned.append(len(images)))
    fit_directory(photos, tmp_path / "o", init, batch_images=2, **FAST)
    assert learned == [1, 2]


def test_what_is_learned_is_what_was_written_whatever_a_callback_does(photos, tmp_path):
    ends: list[Params] = []
    init = Init("mine", DRAWN.make, learn=lambda images, fitted, seed: ends.extend(fitted))

    def spoil(name: str, result: Any) -> None:
        for value in result.params.values():
            value.zero_()

    fit_directory(photos, tmp_path / "o", init, on_fitted=spoil, **FAST)
    for i, end in enumerate(ends):
        params, _ = load_params(tmp_path / "o" / result_name(f"00{i}.png"))
        assert all(torch.equal(params[name], value) for name, value in end.items())
    assert len(ends) == 4


def test_a_set_is_generated_but_for_the_image_that_has_no_start(photos, tmp_path):
    source: Source = open_source(photos, None)
    report = generate_set(source, tmp_path / "o", Init("picky", picky))
    assert (report.made, report.failed) == (3, [("001.png", "not this one")])


def test_an_image_that_memory_cannot_hold_leaves_the_others_their_fits(
    photos, tmp_path, monkeypatch
):
    save_image(torch.rand(3, 64, 64), photos / "large.png")

    def check(needed: float, what: str, advice: str) -> None:
        if "to 4096 pixels" in what:
            raise errors.MemoryShort(f"{what}: {advice}")

    monkeypatch.setattr("hyperinit.fitting.suits.check_memory", check)
    report = fit_directory(photos, tmp_path / "o", DRAWN, **FAST)
    ((name, reason),) = report.failed
    assert name == "large.png" and reason.startswith("fitting a SIREN of 1 x 8 to 4096 pixels")
    assert report.fitted == 4


def test_fits_that_memory_holds_one_by_one_alone_are_made_so(photos, tmp_path, monkeypatch):
    together: list[bool] = []

    def check(needed: float, what: str, advice: str) -> None:
        together.append(" at a time: " in what)
        if together[-1]:
            raise errors.MemoryShort(what)

    monkeypatch.setattr("hyperinit.fitting.suits.check_memory", check)
    monkeypatch.setattr("hyperinit.fitting.many.most_together", lambda *a: 4)
    report = fit_directory(photos, tmp_path / "o", DRAWN, **FAST)
    assert report.fitted == 4 and together[0] and not any(together[1:])


def test_a_start_that_fails_for_every_image_is_an_error_that_says_why(photos, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(MINE.format(brightest=0))
    line = ["fit", str(photos), "-o", str(tmp_path / "o"), "--init", f"{tmp_path}/mine.py:start"]
    with pytest.raises(SystemExit) as caught:
        main([*line, *COMMAND])
    told = capsys.readouterr().err
    assert caught.value.code == 2 and told.count("too bright for me") == 4
    assert "no image could be fitted" in told.splitlines()[-1]
    (tmp_path / "mine.py").write_text(MINE.format(brightest=0.35))
    assert main([*line, *COMMAND]) == 1
    assert "003.png: too bright for me" in capsys.readouterr().err


def test_a_set_that_grows_goes_on_as_it_began(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("hyperinit.sets.command.LEARN_IMAGES", 5)

    def inits(out: str, *arguments: str) -> set[str]:
        line = [str(photos), "-o", str(tmp_path / out), "--budget-epochs", "1", *COMMAND]
        assert fit_main([*line, *arguments]) == 0
        found = (tmp_path / out).glob("*.safetensors")
        return {load_params(path)[1]["init"] for path in found}

    (plain,) = inits("o")  # 4 images: nothing is learned
    (named,) = inits("named", "--init", "33", "--learn")
    assert (plain, named) == ("waves-few-steps", "33+way")
    (tmp_path / "o" / result_name("000.png")).write_bytes(b"damaged")  # does not decide
    save_photos(photos, 6)
    assert inits("o") == {"waves-few-steps"} and len(written(tmp_path / "o")) == 6
    assert inits("named", "--init", "33") == {"33+way"}
    assert inits("new") == {"waves-sized+way"}
    # The other way round: one that has shrunk, or of which a few are looked at.
    assert inits("new", "--limit", "3") == {"waves-sized+way"}


def test_a_dry_run_counts_what_the_run_would_take_as_finished(photos, tmp_path, capsys):
    out = tmp_path / "o"
    line = [str(photos), "-o", str(out), "--init", "33", "--budget-epochs", "1", *COMMAND]
    assert fit_main([*line, "--limit", "3"]) == 0
    cut = out / result_name("001.png")
    cut.write_bytes(cut.read_bytes()[:-40])
    before = {path: path.read_bytes() for path in out.glob("*.safetensors")}
    capsys.readouterr()
    assert fit_main([*line, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("4 images, 2 finished: ")
    for other in (["--target-mse", "1"], ["--width", "16"], ["--size", "4"], ["--seed", "1"]):
        for dry in (["--dry-run"], []):
            with pytest.raises(InputError, match="use another output directory"):
                fit_main([*line, *other, *dry])
    assert {path: path.read_bytes() for path in out.glob("*.safetensors")} == before


def test_a_dry_run_fits_no_more_images_than_the_run_would(photos, capsys):
    line = [str(photos), "--init", "33", "--budget-epochs", "1", *COMMAND]
    for limit, tried in ((["--limit", "1"], 1), ([], 4)):
        assert fit_main([*line, "--dry-run", *limit]) == 0
        assert f"by {tried} fitted and thrown away" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--init", "waves-steps", "--budget-epochs", "0.01"], "raise --budget-epochs"),
        (["--lr", "1e30", "--fit", "max_restarts=0"], "try --lr below 1e+30"),
        (["--target-mse", "1e-6", "--budget-epochs", "8"], "--target-mse 1e-06 was not reached"),
    ],
)
def test_advice_for_an_image_of_a_set_is_in_flags(photos, tmp_path, capsys, arguments, advice):
    line = ["fit", str(photos), *COMMAND, *arguments]
    with contextlib.suppress(SystemExit):
        main([*line, "-o", str(tmp_path / "o")])
    assert capsys.readouterr().err.count(f" {advice}") == 4
    if "--target-mse" not in arguments:
        with pytest.raises(SystemExit):
            main([*line, "--dry-run"])
        assert f" {advice}" in capsys.readouterr().err.splitlines()[-1]


def test_an_image_that_misses_its_target_is_counted_once(photos, tmp_path, capsys):
    line = ["fit", str(photos), "-o", str(tmp_path / "o"), "--target-mse", "1e-9"]
    for run in ("fitted", "found as it is"):
        assert main([*line, "--budget-epochs", "8", "--no-learn", *COMMAND]) == 1
        said = "".join(capsys.readouterr())
        assert said.count("was not reached") == 4 and "5 of 4" not in said
        assert ("(4 of 4)" in said) == (run == "fitted")
