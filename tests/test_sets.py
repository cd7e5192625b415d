"""Sets of images: starts that are learned on the way, fits to a target, estimates."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperinit.app.fit import main
from hyperinit.base.errors import InputError
from hyperinit.fitting.fit import fit
from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.images.save import save_image
from hyperinit.inits.rules import NAMED_INITS
from hyperinit.inits.start import Init, Start, spec_init
from hyperinit.sets.directory import DirectoryReport, fit_directory, result_name
from hyperinit.sets.on_the_way import OnTheWay
from hyperinit.siren.network import Params, predict
from hyperinit.siren.store import load_params

SIDE, WIDTH, DEPTH = 16, 16, 2
BASE = spec_init("identity", NAMED_INITS["identity"], WIDTH, DEPTH)
FAST: dict[str, Any] = {"budget_epochs": 4.0, "engine": "eager", "eval_epochs": ()}


def picture(i: int) -> Tensor:
    """One of a kind: a soft blob of some colour somewhere on a slope."""
    g = torch.Generator().manual_seed(i)
    y, x, *colour = torch.rand(5, generator=g).tolist()
    at = (torch.arange(SIDE) + 0.5) / SIDE
    blob = torch.exp(-8 * ((at[:, None] - y) ** 2 + (at - x) ** 2))
    return (0.3 * at + 0.6 * blob * torch.tensor(colour)[:, None, None]).clamp(0, 1)


def error(params: Params, image: Tensor) -> float:
    mse, _ = grid_errors(predict(params, image_coords(image)), image_to_rgb(image))
    return float(mse)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(24):
        save_image(picture(i), folder / f"{i:02}.png")
    return folder


def learned_from(count: int, read_numbers: int = 12) -> OnTheWay:
    way = OnTheWay(BASE, read_numbers=read_numbers)
    for first in range(0, count, 8):
        images = [picture(i) for i in range(first, first + 8)]
        ends = [fit(way.init.start(image, 0), image, **FAST).params for image in images]
        way.learn(images, ends, 0)
    return way


@pytest.mark.slow
def test_start_of_an_image_nears_it_as_images_of_its_kind_are_learned_from() -> None:
    new = [picture(i) for i in range(100, 108)]

    def mean_error(way: OnTheWay) -> float:
        errors = [error(way.init.start(image, 0).params, image) for image in new]
        return math.exp(sum(map(math.log, errors)) / len(errors))

    before, few, many = (mean_error(learned_from(count)) for count in (0, 16, 48))
    assert max(few, many) < 0.4 * before


@pytest.mark.slow
def test_what_does_not_come_true_is_not_trusted() -> None:
    way = OnTheWay(BASE, read_numbers=12)
    g = torch.Generator().manual_seed(0)
    for first in range(0, 80, 8):  # ends that have nothing to do with the image
        images = [picture(i) for i in range(first, first + 8)]
        ends = [
            BASE.start(image, 0).params.map(lambda v: v + torch.randn(v.shape, generator=g))
            for image in images
        ]
        way.learn(images, ends, 0)
    new = picture(100)
    assert way.trust < 0.1
    assert error(way.init.start(new, 0).params, new) < 1.2 * error(BASE.start(new, 0).params, new)
    assert learned_from(48).trust > 0.5


def test_first_images_start_from_another_init_and_at_its_cost() -> None:
    other = Init("other", lambda image, seed: Start(BASE.start(image, seed).params, epochs=0.25))
    way = OnTheWay(BASE, other, first_images=3)
    images = [picture(i) for i in range(3)]
    assert way.init.start(images[0], 0).epochs == 0.25
    way.learn(images[:2], [BASE.start(i, 0).params for i in images[:2]], 0)
    assert way.init.start(images[2], 0).epochs == 0.25
    way.learn(images[2:], [BASE.start(images[2], 0).params], 0)
    assert way.init.start(images[2], 0).epochs == 0


def test_learning_takes_images_of_several_sizes_and_none() -> None:
    way = OnTheWay(BASE, read_numbers=12)
    way.learn([], [], 0)
    images = [picture(0), picture(1)[:, :9], picture(2)[:, :, :1]]
    way.learn(images, [BASE.start(image, 0).params for image in images], 0)
    assert all(value.isfinite().all() for value in way.init.start(images[1], 0).params.values())


def run(photos: Path, out: Path, learn: bool = True, **options: Any) -> DirectoryReport:
    init = OnTheWay(BASE, read_numbers=12).init if learn else BASE
    return fit_directory(photos, out, init, batch_images=4, **{**FAST, **options})


def contents(out: Path) -> dict[str, Any]:
    """What the results hold; the order of what is said about them is any."""
    found = {path.name: load_params(path) for path in out.glob("*.safetensors")}
    return {
        name: ({key: value.tolist() for key, value in params.items()}, info)
        for name, (params, info) in found.items()
    }


@pytest.mark.slow
def test_set_that_was_interrupted_ends_as_if_it_had_not_been(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "whole")
    whole = contents(tmp_path / "whole")

    def interrupt(name: str, result: object) -> None:
        if name == "11.png":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "parts", on_fitted=interrupt)
    report = run(photos, tmp_path / "parts")
    assert (report.finished, report.fitted) == (12, 12)
    assert contents(tmp_path / "parts") == whole
    # One that is lost in the middle is made again as it was, from those before it.
    batch = [tmp_path / "parts" / result_name(f"{i:02}.png") for i in range(8, 12)]
    for path in batch:
        path.unlink()
    assert run(photos, tmp_path / "parts").fitted == 4
    assert contents(tmp_path / "parts") == whole


@pytest.mark.slow
def test_later_images_of_a_set_are_fitted_better_than_without_learning(
    photos: Path, tmp_path: Path
) -> None:
    ends = {}
    for learn in (True, False):
        out = tmp_path / str(learn)
        run(photos, out, learn, budget_epochs=0.5)
        infos = [load_params(out / result_name(f"{i:02}.png"))[1] for i in range(12, 24)]
        ends[learn] = sum(math.log(info["mse"]) for info in infos)
    assert ends[True] < ends[False] - 12 * math.log(1.5)


def test_results_learned_and_not_do_not_share_a_directory(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "out", most_images=4)
    with pytest.raises(InputError, match="another output directory"):
        run(photos, tmp_path / "out", learn=False)


def test_directory_to_a_target(photos: Path, tmp_path: Path) -> None:
    told: list[str] = []
    options = {"target_mse": 0.05, "budget_epochs": 100.0, "most_images": 4}
    report = run(photos, tmp_path / "out", **options)
    assert (report.fitted, report.missed) == (4, ())
    for i in range(4):
        params, info = load_params(tmp_path / "out" / result_name(f"{i:02}.png"))
        assert info["reached"] and info["mse"] == pytest.approx(error(params, picture(i)), abs=5e-3)
        assert info["mse"] <= 0.05 and info["runs"]
    # A target that cannot be met: what there is is kept, and said to be short of it every time.
    hard = {"target_mse": 1e-9, "budget_epochs": 2.0, "most_images": 2}
    for _ in range(2):
        report = run(
            photos, tmp_path / "hard", **hard, on_failed=lambda name, reason: told.append(reason)
        )
        assert [name for name, _ in report.missed] == ["00.png", "01.png"]
    assert len(told) == 4 and all("1e-09 was not reached" in reason for reason in told)
    assert len(contents(tmp_path / "hard")) == 2


COMMAND = ["--width", "8", "--depth", "1", "--fit", "engine=eager"]


@pytest.mark.slow
def test_command_learns_unless_told_otherwise(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init_of(out: str, *arguments: str) -> str:
        target = tmp_path / out
        line = [str(photos), "-o", str(target), "--budget-epochs", "3", *COMMAND, *arguments]
        assert main(line) == 0  # of an option that is there twice, the last one counts
        return str(load_params(target / result_name("00.png"))[1]["init"])

    assert init_of("few") == "waves-few-steps"
    assert init_of("few-learned", "--learn") == "waves-few-steps+way"
    assert init_of("named", "--learn", "--init", "33") == "33+way"
    monkeypatch.setattr("hyperinit.sets.command.LEARN_IMAGES", 24)
    assert init_of("many") == "waves-few-steps+way"
    assert init_of("many-short", "--budget-epochs", "1") == "waves-sized+way"
    assert init_of("many-omega", "--omega-0", "20") == "waves-sized+way"
    assert init_of("many-long", "--budget-epochs", "6") == "waves-steps"  # which are ahead there
    assert init_of("many-not", "--no-learn") == "waves-few-steps"
    assert init_of("many-named", "--init", "33") == "33"


def test_command_says_what_missed_the_target(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [str(photos), "-o", str(tmp_path / "out"), "--budget-epochs", "0.5", *COMMAND]
    assert main([*line, "--target-mse", "1e-6"]) == 1
    told = capsys.readouterr()
    assert "24 short of the target" in told.out
    assert told.err.count("was not reached") == 24
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    told_to = " ".join(capsys.readouterr().out.split())
    assert "1 if some images of a set have no result or miss --target-mse" in told_to


def test_dry_run_writes_nothing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(photos), "--dry-run", "-o", str(tmp_path / "out"), *COMMAND]) == 0
    told = capsys.readouterr().out
    assert told.startswith("24 images, 0 finished: about ")
    assert not (tmp_path / "out").exists()
    assert main([str(photos), "--dry-run", *COMMAND]) == 0


@pytest.mark.parametrize("flag", ["--learn", "--dry-run"])
def test_flags_of_directories_are_refused_for_one_image(photos: Path, flag: str) -> None:
    with pytest.raises(InputError, match=f"{flag} is for a set of images"):
        main([str(photos / "00.png"), flag, *COMMAND])
