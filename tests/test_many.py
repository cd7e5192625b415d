"""Many images at once: the same fits as one by one, and a directory that can be interrupted."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_same, smooth_image
from torch import Tensor

from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.base.files import exclusive
from hyperinit.fitting.config import PROTOCOL_1
from hyperinit.fitting.descent import FitResult
from hyperinit.fitting.fit import fit
from hyperinit.fitting.many import fit_many
from hyperinit.images.decode import load_image
from hyperinit.images.save import save_image
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.inits.start import spec_init
from hyperinit.sets import directory as directory_module
from hyperinit.sets.directory import DirectoryReport, fit_directory, result_name
from hyperinit.siren.network import Params
from hyperinit.siren.store import load_params, save_params, save_tensors
from hyperinit.siren.vectors import stack_params
from hyperinit.stepping.samplers import SAMPLERS

INIT = spec_init("33", named_init("33"), 16, 2)
FAST: dict[str, Any] = {
    **PROTOCOL_1,
    **{"budget_epochs": 4, "batch_pixels": 64, "eval_epochs": (1,)},
}


def start(seed: int = 0) -> Params:
    spec = named_init("33")
    generator = torch.Generator().manual_seed(seed)
    return sample_params(spec, spec.siren_config(16, 2), generator=generator)


def assert_near(many: FitResult, alone: FitResult) -> None:
    assert_same(many.params, alone.params, 1e-4)
    for a, b in zip(many.curve, alone.curve, strict=True):
        assert (a.epochs, a.steps) == (b.epochs, b.steps)
        assert a.mse == pytest.approx(b.mse, rel=1e-3) and a.psnr == pytest.approx(b.psnr, abs=0.01)


# Together ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_image_is_fitted_as_it_would_be_alone(sampler: Any) -> None:
    images = [smooth_image(16, seed) for seed in range(3)]
    starts = [start(seed) for seed in range(3)]
    options: dict[str, Any] = {**FAST, "sampler": sampler, "weight_decay": 0.1}
    for params, image, result in zip(
        starts, images, fit_many(starts, images, **options), strict=True
    ):
        assert_near(result, fit(params, image, **options))


@pytest.mark.slow
@pytest.mark.parametrize("height,width", [(1, 9), (9, 1), (1, 1), (2, 3)])
def test_small_and_thin_images_are_fitted(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = list(torch.rand(2, 3, height, width, generator=generator))
    # fewer pixels than the batch
    results = fit_many([start()] * 2, images, **{**FAST, "budget_epochs": 30})
    for image, result in zip(images, results, strict=True):
        assert_near(result, fit(start(), image, **{**FAST, "budget_epochs": 30}))
        assert result.curve[-1].steps == 30 and result.mse < result.curve[0].mse


def test_a_one_colour_image_among_others_is_fitted() -> None:
    images = [torch.full((3, 8, 8), level) for level in (0.0, 1.0)] + [smooth_image(8)]
    for result in fit_many([start()] * 3, images, budget_epochs=100):
        assert not result.diverged and result.mse < 0.2 * result.curve[0].mse


def test_an_image_that_fails_leaves_its_neighbours_alone() -> None:
    images = [smooth_image(16, seed) for seed in range(2)]
    broken = start().map(lambda value: value * float("nan"))
    results = fit_many([broken, start()], images, **FAST)
    assert results[0].diverged and not results[1].diverged
    assert_near(results[1], fit(start(), images[1], **FAST))


def test_only_the_image_that_failed_is_begun_again() -> None:
    images = [smooth_image(16, seed) for seed in range(2)]
    far = start().map(lambda value: value.clone())
    far["layers.2.bias"].fill_(1e3)  # its rate cannot bring it back, and it never looks better
    options = {**FAST, "lr": 2e-3, "max_restarts": 2}
    results = fit_many([start(), far], images, **options)
    assert results[0].restarts == 0
    assert_near(results[0], fit(start(), images[0], **options))
    alone = fit(far, images[1], **options)
    assert results[1].restarts == alone.restarts
    assert results[1].kept.mse == pytest.approx(alone.kept.mse, rel=1e-3)


@pytest.mark.slow
def test_a_fit_that_has_reached_its_target_is_not_touched_by_the_others() -> None:
    images = [torch.full((3, 8, 8), 0.45), smooth_image(8)]
    options: dict[str, Any] = {
        **{"budget_epochs": 60, "schedule": "constant", "eval_epochs": range(60)},
        "stop_mse": 0.1,
    }
    alone = [fit(start(), image, **options) for image in images]
    assert len(alone[0].curve) != len(alone[1].curve)
    for result, expected in zip(fit_many([start()] * 2, images, **options), alone, strict=True):
        assert_near(result, expected)


@pytest.mark.slow
@pytest.mark.parametrize("activations", [1, 3 * 64 * 16, 4 * 64 * 16])
def test_fits_that_are_too_large_together_are_taken_apart(
    monkeypatch: pytest.MonkeyPatch, activations: int
) -> None:
    images = [smooth_image(16, seed) for seed in range(5)]
    starts = [start(seed) for seed in range(5)]
    expected = [fit(p, image, **FAST) for p, image in zip(starts, images, strict=True)]
    monkeypatch.setattr(
        "hyperinit.fitting.many.MAX_ACTIVATIONS", activations
    )  # one, one or four at a time
    for result, alone in zip(fit_many(starts, images, **FAST), expected, strict=True):
        assert_near(result, alone)


def test_images_of_two_sizes_and_wrong_counts_are_refused() -> None:
    with pytest.raises(InputError, match=r"of one SIREN; pass \[params\]"):
        fit_many(start(), [smooth_image(8)], **FAST)
    with pytest.raises(InputError, match="one size, not 8x8 and 9x9"):
        fit_many([start()] * 2, [smooth_image(8), smooth_image(9)])
    with pytest.raises(InputError, match="1 images for 2 SIRENs"):
        fit_many([start()] * 2, [smooth_image(8)])
    with pytest.raises(InputError, match="unknown fit option 'budget'"):
        fit_many([start()], [smooth_image(8)], budget=1)
    with pytest.raises(InputError, match="one or more"):
        stack_params([])


# A directory -------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images: two names that differ in their folder alone, and two sizes."""
    top = tmp_path / "photos"
    (top / "a").mkdir(parents=True)
    names = {"1.png": 12, "2.png": 12, "3.png": 12, "a/1.png": 12, "a/wide one.png": 16}
    for seed, (name, side) in enumerate(names.items()):
        save_image(smooth_image(side, seed), top / name)
    return top


def run(photos: Path, **options: Any) -> DirectoryReport:
    return fit_directory(photos, photos.parent / "out", INIT, **{**FAST, **options})


def contents(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.glob("*.safetensors")}


def test_every_image_gets_a_file_that_says_what_it_is(photos: Path) -> None:
    report = run(photos, batch_images=2)
    assert (report.fitted, report.finished, report.failed) == (5, 0, ())
    assert report.images_per_hour > 0
    params, info = load_params(photos.parent / "out" / result_name("a/wide one.png"))
    assert info["images"][0]["name"] == "a/wide one.png" and info["images"][0]["height"] == 16
    assert info["fit"]["budget_epochs"] == 4 and info["init"] == "33"
    alone = fit(
        INIT.start(torch.zeros(3, 1, 1), 0).params, load_image(photos / "a/wide one.png"), **FAST
    )
    assert_same(params, alone.params, 1e-4)
    assert info["mse"] == pytest.approx(alone.mse, rel=1e-3)
    assert info["psnr"] == pytest.approx(alone.psnr, abs=0.01)


def test_images_can_be_cropped_to_one_size(photos: Path) -> None:
    assert run(photos, size=8).fitted == 5
    for path in (photos.parent / "out").glob("*.safetensors"):
        assert load_params(path)[1]["images"][0]["height"] == 8


def test_finished_images_are_skipped_and_the_rest_is_made(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def interrupt(name: str, result: FitResult) -> None:
        names.append(name)
        if len(names) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(photos, batch_images=2, on_fitted=interrupt)
    before = contents(photos.parent / "out")
    assert len(before) == 3
    report = run(photos, batch_images=2, on_fitted=lambda name, result: names.append(name))
    assert (report.fitted, report.finished) == (2, 3)
    assert len(set(names)) == 5
    after = contents(photos.parent / "out")
    assert all(after[name] == content for name, content in before.items())
    assert run(photos).fitted == 0


def test_a_damaged_or_outdated_result_is_made_again(photos: Path) -> None:
    run(photos)
    out = photos.parent / "out"
    before = contents(out)
    flipped = bytearray(before[result_name("1.png")])
    flipped[-1] ^= 1
    (out / result_name("1.png")).write_bytes(flipped)
    (out / result_name("2.png")).write_bytes(before[result_name("2.png")][:100])
    assert run(photos).fitted == 2
    for name, content in before.items():  # those made again were fitted in a smaller batch
        (photos.parent / "before.safetensors").write_bytes(content)
        expected, _ = load_params(photos.parent / "before.safetensors")
        assert_same(load_params(out / name)[0], expected, 1e-4)
    save_image(smooth_image(12, 99), photos / "3.png")
    assert run(photos).fitted == 1
    assert contents(out)[result_name("3.png")] != before[result_name("3.png")]


def test_results_that_were_made_differently_are_refused_and_kept(photos: Path) -> None:
    run(photos)
    out = photos.parent / "out"
    before = contents(out)
    for options in ({"budget_epochs": 5}, {"size": 8}, {"seed": 1}):
        with pytest.raises(InputError, match="use another output directory"):
            run(photos, **options)
    assert contents(out) == before


@pytest.mark.parametrize("foreign", ["another kind", "no facts"])
def test_a_file_of_something_else_is_refused_and_kept(photos: Path, foreign: str) -> None:
    path = photos.parent / "out" / result_name("1.png")
    path.parent.mkdir()
    if foreign == "no facts":
        save_params(path, start())
    else:
        save_tensors(path, {"a": torch.zeros(1)}, "something else", {})
    before = path.read_bytes()
    with pytest.raises(InputError, match="use another output directory"):
        run(photos)
    assert path.read_bytes() == before


def test_images_that_cannot_be_read_are_listed_and_the_others_fitted(photos: Path) -> None:
    (photos / "broken.png").write_bytes((photos / "1.png").read_bytes()[:60])
    (photos / "empty.jpg").write_bytes(b"")
    os.mkfifo(photos / "pipe.png")
    report = run(photos)
    assert report.fitted == 5
    assert sorted(name for name, _ in report.failed) == ["broken.png", "empty.jpg", "pipe.png"]
    assert all(reason and "photos" not in reason for _, reason in report.failed)


def test_a_fit_that_diverges_is_listed_and_writes_nothing(photos: Path) -> None:
    report = run(photos, lr=1e30)
    assert report.fitted == 0 and len(report.failed) == 5
    assert "diverged" in report.failed[0][1]
    assert not contents(photos.parent / "out")


def test_a_full_disk_is_one_clear_error_and_finished_results_stay(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "a" / "wide one.png").rename(photos.parent / "later.png")
    run(photos)
    before = contents(photos.parent / "out")
    (photos.parent / "later.png").rename(photos / "a" / "wide one.png")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"cannot write .*No space left on device"):
            run(photos)
    assert contents(photos.parent / "out") == before
    assert run(photos).fitted == 1


def test_images_that_wait_for_a_batch_of_their_size_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sizes"
    folder.mkdir()
    for i in range(6):  # six sizes: no batch of one size ever fills
        save_image(smooth_image(16 + i, seed=i), folder / f"{i}.png")
    events: list[str] = []

    def load_and_note(path: Path, **options: Any) -> Tensor:
        events.append("loaded")
        return load_image(path, **options)

    monkeypatch.setattr("hyperinit.photos.folder.load_image", load_and_note)
    monkeypatch.setattr(directory_module, "MAX_WAITING_PIXELS", 700)  # two of them, not three
    report = fit_directory(
        folder, tmp_path / "out", INIT, on_fitted=lambda *_: events.append("fitted"), **FAST
    )
    assert report.fitted == 6
    waiting = [events[:k].count("loaded") - events[:k].count("fitted") for k in range(13)]
    assert max(waiting) == 3  # the third makes one of them go


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_directory_is_one_clear_error(photos: Path) -> None:
    (photos.parent / "out").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot write"):
        run(photos)


def test_two_runs_do_not_write_to_one_directory(photos: Path) -> None:
    (photos.parent / "out").mkdir()
    with (
        exclusive(photos.parent / "out" / ".lock"),
        pytest.raises(InputError, match="another process"),
    ):
        run(photos)


def test_directories_and_options_that_cannot_be_used_are_refused(photos: Path) -> None:
    out = photos.parent / "out"
    (photos.parent / "none").mkdir()
    (photos.parent / "file").write_bytes(b"")
    for directory, options, message in (
        (photos.parent / "missing", {}, "no such directory"),
        (photos.parent / "file", {}, "is a file"),
        (photos.parent / "none", {}, "no image files"),
        (photos, {"batch_images": 0}, "batch_images must be a whole number of at least 1"),
        (photos, {"size": 0}, "size must be at least 1"),
        (photos, {"size": (8,)}, "size must be a number of pixels, or height and width"),
        (photos, {"size": 8.5}, "size must be a number of pixels, or height and width"),
        (photos, {"most_images": -1}, "most_images must be a whole number of at least 1"),
        (photos, {"target_mse": 0.0}, "target_mse must be a positive number"),
    ):
        with pytest.raises(InputError, match=message):
            fit_directory(directory, out, INIT, **options)
    with pytest.raises(InputError, match="init must be an Init, not str"):
        fit_directory(photos, out, "33")
    with pytest.raises(InputError, match="cannot create"):
        fit_directory(photos, photos.parent / "file", INIT)
    assert not out.exists()


def test_numbers_of_numpy_and_lists_are_taken_as_any_others(photos: Path) -> None:
    own = {"size": (8, 12), "seed": 1, "lr": 0.01, "budget_epochs": 2}
    theirs = {"size": [np.int64(8), np.int64(12)], "seed": np.int64(1), "lr": np.float64(0.01)}
    theirs |= {"budget_epochs": np.int32(2)}
    out = photos.parent / "out"
    fitted = fit_directory(photos, out, INIT, **theirs).fitted
    assert fitted == fit_directory(photos, out, INIT, **own).finished > 0
    target = np.float32(0.5)
    assert fit_directory(photos, photos.parent / "good", INIT, target_mse=target, size=8).fitted


def test_no_two_images_share_a_file_name_and_all_names_are_safe() -> None:
    names = ["a/b.png", "a_b.png", "a/b.jpg", "../b.png", "ü.png", "-.png", "A_b.png", "x" * 300]
    names += ["\udcff.png", "a\nb.png", ".png"]
    made = [result_name(name) for name in names]
    assert len({name.lower() for name in made}) == len(names)
    for name in made:
        assert name.isascii() and name.isprintable() and len(name) < 120
        assert "/" not in name and not name.startswith((".", "-"))


def test_memory_is_bounded_by_pixels_not_by_images(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []
    whole = fit_many

    def watched(starts: Any, images: list[Tensor], *args: Any, **options: Any) -> Any:
        together.append(len(images))
        return whole(starts, images, *args, **options)

    monkeypatch.setattr("hyperinit.sets.jobs.fit_many", watched)
    monkeypatch.setattr("hyperinit.sets.directory.MAX_BATCH_PIXELS", 2 * 12 * 12)
    assert run(photos).fitted == 5
    assert max(together) == 2


# The command -------------------------------------------------------------------------------------


def test_the_command_fits_a_directory_and_goes_on(photos: Path, capsys: Any) -> None:
    (photos / "broken.png").write_bytes(b"no image")
    command = ["fit", str(photos), "-o", str(photos.parent / "out"), "--width", "16", "--depth"]
    command += ["2", "--budget-epochs", "2", "--size", "8", "--batch-images", "2"]
    assert main(command) == 1  # one of them has no result
    shown = capsys.readouterr()
    assert "5 fitted, 0 finished before, 1 without a result" in shown.out
    assert "images per hour" in shown.out and "broken.png: not an image" in shown.err
    # Each is counted as it happens, with how long the rest will take.
    assert "(6 of 6)" in shown.out and " left)" in shown.out
    assert main(command) == 1
    assert "0 fitted, 5 finished before" in capsys.readouterr().out
    (photos / "broken.png").unlink()
    assert main(command) == 0


@pytest.mark.parametrize(
    "flags,message",
    [
        ([], "give a directory for results: -o OUT_DIR"),
        (["-o", "x", "--render", "x.png"], "--render"),
    ],
)
def test_the_command_says_what_a_directory_needs(
    photos: Path, capsys: Any, flags: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", str(photos), *flags])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
