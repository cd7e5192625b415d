"""Fits that collapse on the way: where they are taken back to, and what their results say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from test_default_fit import picture, start

from hyperinit.fitting.fit import fit
from hyperinit.fitting.many import fit_many
from hyperinit.fitting.steps import FlatSteps


def disturbed(
    monkeypatch: pytest.MonkeyPatch, at: int, *, again: int = 0, fit_number: int = 0
) -> list[int]:
    """Spoils the weights of a fit at a step, and `again` steps after it was taken back; returns, as
    they come, the steps that the states to which it is taken back are from."""
    taken, bad = {"steps": 0}, [at]
    loaded: list[int] = []
    take, state, load = FlatSteps.take, FlatSteps.state, FlatSteps.load_state

    def spoiling(self: Any, *arguments: Any, **options: Any) -> Any:
        taken["steps"] += 1
        if taken["steps"] in bad:
            for value in self.params.values():
                (value[fit_number] if self.params.batch_shape else value).mul_(1.5)
        return take(self, *arguments, **options)

    def counted(self: Any) -> dict[str, Any]:
        return {**state(self), "steps": taken["steps"]}

    def noted(self: Any, found: Mapping[str, Any]) -> None:
        loaded.append(found["steps"])
        bad.extend([taken["steps"] + again] if again else [])
        load(self, found)

    monkeypatch.setattr(FlatSteps, "take", torch.no_grad()(spoiling))
    monkeypatch.setattr(FlatSteps, "state", counted)
    monkeypatch.setattr(FlatSteps, "load_state", noted)
    return loaded


def test_a_collapse_is_taken_back_and_named_with_the_rate_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = fit(start(), picture(), budget_epochs=16, eval_epochs=())
    loaded = disturbed(monkeypatch, 200)
    found = fit(start(), picture(), budget_epochs=16, eval_epochs=())
    assert len(loaded) == 1 and loaded[0] < 200 and not found.restarts
    assert 200 / 24 < found.collapses[0] < 200 / 24 + 2  # of 24 steps
    assert found.lr == pytest.approx(usual.lr / 3)
    assert found.psnr > usual.psnr - 6


def test_a_second_collapse_is_not_taken_back_to_a_state_just_before_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = disturbed(monkeypatch, 200, again=6)
    found = fit(start(), picture(), budget_epochs=16, eval_epochs=())
    first, second = loaded[:2]
    assert second == first or second > found.collapses[0] * 24


def test_fits_together_name_the_collapse_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    disturbed(monkeypatch, 200, fit_number=1)
    results = fit_many([start()] * 2, [picture()] * 2, budget_epochs=16, eval_epochs=())
    assert [len(result.collapses) for result in results] == [0, 1]
    assert [result.restarts for result in results] == [0, 1]
