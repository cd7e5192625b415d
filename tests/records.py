"""Made-up records for tests of scoring and reports: no fit is run."""

from __future__ import annotations

from dataclasses import asdict
from math import inf, nan
from typing import Any

from hyperinit.inits.rules import named_init
from hyperinit.record.records import CurvePoint, Record
from hyperinit.record.tracks import split_stored_track

HAND_DESIGNED = asdict(named_init("33"))
SETTINGS = {
    **{"image_size": 224, "width": 256, "depth": 5, "batch_pixels": 2048, "sampler": "pixels"},
    **{"schedule": "linear", "output_lr_factor": 5.0, "weight_decay": 0.0},
    **{"frozen_layers": [], "stop_mse": None},
}


def record(
    init: str = "33",
    image: str = "cat",
    *,
    mse: float = 0.01,
    budget: float = 1.0,
    lr: float = 5e-4,
    seed: int = 0,
    track: str = "tuned",
    start_mse: float = 1.0,
    start_epochs: float = 0.0,
    sec: float | None = None,
    **fields: Any,
) -> Record:
    """A run from `start_mse` to `mse` in `budget` epochs and, if not said, as many seconds."""
    sec = budget if sec is None else sec
    track, is_tuning = split_stored_track(track)
    values: dict[str, Any] = {
        "track": track,
        "is_tuning": is_tuning,
        "init": init,
        "init_facts": HAND_DESIGNED,
        "image": f"{image}.png",
        "image_hash": image,
        "seed": seed,
        "lr": lr,
        "budget_epochs": budget,
        "curve": (
            CurvePoint(start_epochs, 0, start_epochs, start_mse, 10.0, nan),
            CurvePoint(budget, 10, sec, mse, 30.0, mse),
        ),
        "init_epochs": start_epochs,
        "init_sec": start_epochs,
        "params_hash": "p",
        "diverged": mse == inf,
        "settings": SETTINGS,
        "version": 1,  # as the settings above are
        "environment": {"processor": "x", "device": "cpu", "threads": 1, "torch": "2.4.0+cpu"},
    }
    return Record(**{**values, **fields})


def ladder(
    init: str, errors: dict[float, float], image: str = "cat", **fields: Any
) -> list[Record]:
    """One run per budget: budget -> final error."""
    return [record(init, image, mse=e, budget=b, **fields) for b, e in errors.items()]
