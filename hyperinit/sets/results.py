"""What a fit of a set ended with: over a budget, or to a target."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, TypeAlias

from hyperinit.fitting.descent import FitResult
from hyperinit.fitting.fit import failure
from hyperinit.fitting.target import TargetResult

Fitted: TypeAlias = FitResult | TargetResult


def why_none(result: Fitted) -> str:
    """Why a fit has no result, in a line; nothing if it has one."""
    if isinstance(result, TargetResult):
        return "" if result.improved else "no better than its start: try a lower lr"
    if result.diverged:
        return failure(result)
    if not result.kept.mse < result.curve[0].mse:
        return f"no better than its start: try lr below {result.lr:g}"
    return ""


def facts_of(result: Fitted) -> dict[str, Any]:
    """What the file of a result says about its fit."""
    if isinstance(result, TargetResult):
        runs = [asdict(run) for run in result.runs]
        return {"mse": result.mse, "psnr": result.psnr, "reached": result.reached, "runs": runs}
    return {
        "mse": result.kept.mse,
        "psnr": result.kept.psnr,
        "lr": result.lr,
        "restarts": result.restarts,
        "became": dict(result.became),
    }
