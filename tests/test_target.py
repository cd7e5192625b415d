"""Fitting until it is good enough: never claimed without a look, never over the cap."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_same, smooth_image

from hyperinit.app.cli import main
from hyperinit.base import terminal
from hyperinit.base.errors import InputError
from hyperinit.fitting.target import End, Progress, advice, fit_to_target
from hyperinit.images.coords import image_to_rgb, pixel_coords
from hyperinit.images.save import save_image
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.inits.start import Start
from hyperinit.siren.network import Params, predict
from hyperinit.siren.store import load_params

OPTIONS: dict[str, Any] = {"budget_epochs": 400, "batch_pixels": 64}


def start(width: int = 16) -> Params:
    spec = named_init("33")
    generator = torch.Generator().manual_seed(0)
    return sample_params(spec, spec.siren_config(width, 2), generator=generator)


def grid_mse(params: Params, image: torch.Tensor) -> float:
    coords = pixel_coords(*image.shape[-2:])
    return float((predict(params, coords) - image_to_rgb(image)).square().mean())


@pytest.mark.parametrize("target_mse", [0.5, 0.2, 0.1])
def test_the_target_is_reached_and_the_error_is_that_of_all_pixels(target_mse: float) -> None:
    image = smooth_image(16)
    result = fit_to_target(start(), image, target_mse, **OPTIONS)
    assert result.reached and result.mse <= target_mse
    assert result.mse == pytest.approx(grid_mse(result.params, image), rel=1e-4)
    assert result.epochs == pytest.approx(sum(run.epochs for run in result.runs))
    assert result.epochs <= 400
    assert result.sec > 0


@pytest.mark.parametrize("budget_epochs", [0, 0.1, 1, 30])
def test_what_cannot_be_reached_within_the_cap_is_not_claimed(budget_epochs: float) -> None:
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    result = fit_to_target(start(4), image, 1e-4, batch_pixels=64, budget_epochs=budget_epochs)
    assert not result.reached and result.mse > 1e-4
    assert result.mse == pytest.approx(grid_mse(result.params, image), rel=1e-4)
    assert result.epochs <= budget_epochs + 0.125 * len(result.runs)  # half a step each


def test_a_start_that_is_good_enough_is_not_fitted() -> None:
    params = start()
    result = fit_to_target(Start(params, epochs=2.0), smooth_image(16), 100.0, **OPTIONS)
    assert result.reached and result.runs == () and result.epochs == 2.0
    assert_same(result.params, params)


@pytest.mark.parametrize("factor", [1.01, 0.99, 1e-9])
@pytest.mark.parametrize("budget_epochs", [0, 1])
def test_a_start_is_judged_on_all_pixels_where_a_part_does_not_decide(
    factor: float, budget_epochs: float
) -> None:
    """Of 2,304 pixels the first look takes 1,024, which are not the rest."""
    image = torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(0))
    mse = grid_mse(start(), image)
    options = {"lr": 1e-12, "batch_pixels": 64, "budget_epochs": budget_epochs}
    result = fit_to_target(start(), image, factor * mse, **options)
    assert result.reached == (factor > 1) and result.mse == pytest.approx(mse, rel=1e-5)
    assert result.mse == pytest.approx(grid_mse(result.params, image), rel=1e-5)
    assert result.improved == result.reached or result.mse < mse


def test_a_start_that_is_far_from_good_is_not_looked_at_as_a_whole(monkeypatch) -> None:
    seen: list[int] = []

    def note(params: Params, coords: torch.Tensor) -> torch.Tensor:
        seen.append(len(coords))
        return predict(params, coords)

    monkeypatch.setattr("hyperinit.fitting.descent.predict", note)
    result = fit_to_target(start(64), smooth_image(48), 0.1, **OPTIONS)
    assert result.reached and len(result.runs) == 1
    assert seen[:2] == [1024, 1024] and seen[-1] == 48 * 48


def test_a_rate_that_blows_up_is_lowered_until_it_does_not() -> None:
    result = fit_to_target(start(), smooth_image(16), 0.2, lr=1.0, **OPTIONS)
    assert result.reached and len(result.runs) > 1
    assert result.runs[-1].lr < 1.0


@pytest.mark.parametrize("side", [16, 48])
def test_a_last_step_that_blows_up_leaves_the_start(side: int) -> None:
    """No training loss has seen it: a look at the pixels is the first that is no number."""
    image = smooth_image(side)
    once = {"budget_epochs": 64 / side**2, "batch_pixels": 64}
    result = fit_to_target(start(), image, 0.2, lr=1e30, output_lr_factor=1e9, **once)
    assert not result.reached and not result.improved and len(result.runs) == 1
    assert_same(result.params, start())
    assert result.mse == pytest.approx(grid_mse(start(), image), rel=1e-5)


def test_a_start_that_is_no_number_ends_at_once() -> None:
    broken = start().map(lambda value: value * float("nan"))
    result = fit_to_target(broken, smooth_image(8), 0.1, **OPTIONS)
    assert not result.reached and result.runs == ()


def test_a_rate_that_is_far_too_high_costs_one_run() -> None:
    result = fit_to_target(start(), smooth_image(16), 0.2, lr=1e30, **OPTIONS)
    assert result.reached and len(result.runs) == 2


@pytest.mark.parametrize(
    ("factor", "options", "message"),
    [
        (float("nan"), {}, "not a usable SIREN"),
        (float("inf"), {}, "not a usable SIREN"),
        (1.0, {"budget_epochs": 0}, "nothing is left to fit with: raise budget_epochs"),
        (1.0, {"lr": 1e-12, "budget_epochs": 2}, "fit did not improve: try lr other than 1e-12"),
        (1.0, {"budget_epochs": 1}, "raise budget_epochs, or width to about "),
    ],
)
def test_why_a_target_was_missed_is_said(
    factor: float, options: dict[str, Any], message: str
) -> None:
    begin = start().map(lambda value: value * factor)
    result = fit_to_target(begin, smooth_image(16), 1e-4, batch_pixels=64, **options)
    assert not result.reached and message in advice(result, 1e-4)
    assert result.improved == ("width" in message)


def test_the_end_of_a_fit_moves_with_its_error() -> None:
    def end(step: int, train_mse: float) -> int:
        return End(4e-4, 10_000, loss_ratio=1, start_mse=1.0).running(
            step, train_mse, lambda: train_mse
        )

    far, near = end(100, 0.02), end(100, 0.005)
    assert 100 < near < far < 10_000  # the better it is, the sooner it ends
    assert end(200, 0.02) > far  # the later it is no better, the later it ends
    assert end(100, 0.0003) == 100  # there
    assert end(100, 0.2) == 10_000  # too far off to tell
    # Hopeless: as bad as at the start after many steps, or no number.
    assert end(100, 0.9) == 100 and end(20, float("nan")) == 20 and end(20, 0.9) == 10_000


def test_a_start_that_shows_the_image_need_not_become_so_much_better() -> None:
    def end(start_mse: float, flat_mse: float) -> int:
        end = End(1e-3, 10_000, loss_ratio=1, flat_mse=flat_mse, start_mse=start_mse)
        return end.running(100, 0.1, lambda: 0.1)

    assert end(0.3, flat_mse=1.0) > 100  # a hard photograph from `untrained`
    assert end(0.3, flat_mse=0.35) == 100
    assert end(1.0, flat_mse=0.35) > 100  # a draw


def test_a_fit_that_loses_what_it_had_is_given_up() -> None:
    end = End(1e-3, 10_000, loss_ratio=1, start_mse=1.0)
    assert end.running(400, 0.01, lambda: 0.01) > 400
    assert end.running(420, 0.05, lambda: 0.05) > 420  # a spike
    assert end.running(440, 0.15, lambda: 0.15) == 440 and end.looked(440, 0.15) == 440


def test_a_fit_that_stalls_goes_on_at_a_lower_rate() -> None:
    end = End(1e-3, 10_000, loss_ratio=1, start_mse=1.0)
    for step in range(20, 400, 20):
        end.running(step, 0.1, lambda: 0.1)
    assert 0.2 < end.lr_factor < 0.5  # lowered twice, and given time in between
    good = End(1e-3, 10_000, loss_ratio=1, start_mse=1.0)
    for step in range(20, 400, 20):
        good.running(step, 10 / step, lambda: 10 / 200)
    assert good.lr_factor == 1.0


def test_a_fit_that_missed_goes_on_and_knows_by_how_much() -> None:
    def there() -> float:
        return 0.9e-3

    end = End(1e-3, 10_000, loss_ratio=1, start_mse=1.0)
    assert end.running(1000, 0.9e-3, there) == 1000
    assert end.looked(1000, 0.99e-3) == 1000
    end = End(1e-3, 10_000, loss_ratio=1, start_mse=1.0)
    end.running(1000, 0.9e-3, there)
    assert 1000 < end.looked(1000, 1.01e-3) < end.looked(1000, 2e-3) < 10_000
    assert end.looked(9_999, 1.01e-3) == 10_000


def test_near_its_end_a_fit_is_planned_by_a_sample_and_not_by_its_training_loss() -> None:
    def steps(train_mse: float, *samples: float) -> int:
        left = list(samples)
        end = End(1e-3, 10_000, loss_ratio=1, start_mse=1.0)
        planned = end.running(500, train_mse, lambda: left.pop(0))
        assert not left
        return planned

    assert steps(3e-3, 0.9e-3) == 500  # the loss lags behind
    assert 500 < steps(0.9e-3, 1.2e-3) < steps(0.9e-3, 3e-3) < 10_000  # or is of easy pixels
    assert steps(0.1) > 1250  # far from it nothing is looked at
    assert steps(2e-3, math.inf) == 10_000  # a sample that says nothing


@pytest.mark.parametrize("target_mse", [0.0, -1.0, float("nan"), float("inf")])
def test_a_target_out_of_range_is_refused(target_mse: float) -> None:
    with pytest.raises(InputError, match="target_mse must be a positive number"):
        fit_to_target(start(), smooth_image(8), target_mse)


def test_the_command_says_whether_the_target_was_reached(tmp_path: Path, capsys: Any) -> None:
    save_image(smooth_image(16), tmp_path / "a.png")
    out = tmp_path / "a.safetensors"
    command = ["fit", str(tmp_path / "a.png"), "-o", str(out), "--width", "16", "--depth", "2"]
    assert main([*command, "--batch-pixels", "64", "--target-mse", "0.1"]) == 0
    assert load_params(out)[1]["mse"] <= 0.1
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--target-mse", "1e-9", "--budget-epochs", "2"])
    assert stopped.value.code == 2
    assert "--target-mse 1e-09 was not reached" in capsys.readouterr().err


def test_progress_says_what_is_spent_and_what_will_be() -> None:
    told: list[Progress] = []
    image = smooth_image(16)
    result = fit_to_target(start(), image, 0.1, on_progress=told.append, **OPTIONS)
    spent = [now.epochs for now in told]
    assert spent == sorted(spent) and 0 < spent[0] < spent[-1] <= result.epochs
    assert all(now.epochs <= now.planned_epochs <= 400 for now in told)
    assert told[-1].planned_epochs == pytest.approx(result.epochs, rel=0.2)  # it knew near the end
    assert told[-1].mse == pytest.approx(result.mse, rel=0.5)


def test_progress_of_a_second_run_begins_where_the_first_ended() -> None:
    told: list[Progress] = []
    result = fit_to_target(
        start(), smooth_image(16), 0.2, lr=1.0, on_progress=told.append, **OPTIONS
    )
    assert len(result.runs) > 1
    spent = [now.epochs for now in told]
    assert spent == sorted(spent) and spent[-1] > result.runs[0].epochs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.slow
@pytest.mark.parametrize("mode", [["--target-mse", "0.1"], ["--budget-epochs", "100"]])
def test_a_terminal_sees_progress_and_a_pipe_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: list[str]
) -> None:
    monkeypatch.setattr(terminal, "BAR_AFTER_SEC", 0.0)
    monkeypatch.setattr(terminal, "BAR_EVERY_SEC", 0.0)
    save_image(smooth_image(16), tmp_path / "a.png")
    command = ["fit", str(tmp_path / "a.png"), "--width", "16", "--depth", "1", *mode]
    seen = Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    assert main(command) == 0
    assert "epochs, " in seen.getvalue() and " left, MSE " in seen.getvalue()
    assert ("training loss" in seen.getvalue()) == (mode[0] == "--budget-epochs")
    piped = io.StringIO()
    monkeypatch.setattr(sys, "stderr", piped)
    assert main(command) == 0
    assert piped.getvalue() == ""
