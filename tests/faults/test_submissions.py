"""Complete benchmarks can be submitted, whatever their inits ask of their fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import smooth_image

from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.bench.declared import plans_path
from hyperinit.images.save import save_image
from hyperinit.publish.submission import submission_of

SMALL = (
    *("--image-size", "16", "--width", "8", "--depth", "2", "--seeds", "1", "--workers", "1"),
    *("--budgets-epochs", "1", "--lrs", "1e-2", "--lr-images", "1", "--batch-pixels", "64"),
    *("--no-level-rates", "--batch-factors", ""),
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of an init that asks for something of its fits and of one that does not."""
    folder = tmp_path_factory.mktemp("measured")
    for k in range(2):
        save_image(smooth_image(20, k), folder / f"{k}.png")
    images = ["--images", str(folder / "0.png"), "--tuning-images", str(folder / "1.png")]
    out = folder / "r.jsonl"
    inits = ["--inits", "33", "identity"]
    assert main(["benchmark", *inits, *images, *SMALL, "--out", str(out)]) == 0
    return out


def rewrite_entries(records: Path, **changes: Any) -> None:
    """Gives every entry of the plans other values, or takes them out where they are None."""
    path = plans_path(records)
    plans = json.loads(path.read_text(encoding="utf-8"))
    for entry in (entry for plan in plans for entry in plan["entries"]):
        entry |= changes
        for name in (name for name, value in changes.items() if value is None):
            del entry[name]
    path.write_text(json.dumps(plans))


def test_an_init_that_asks_for_something_of_its_fits_can_be_submitted(measured, tmp_path):
    packed = submission_of([measured], "me")
    assert {one.init for one in packed.records} == {"33", "identity"}
    assert {one.settings.get("rising_units") for one in packed.records} == {None, True}
    # A plan of before it said so, as it is in files that are about.
    kept = plans_path(measured).read_text(encoding="utf-8")
    try:
        rewrite_entries(measured, prefers=None)
        assert submission_of([measured], "me").records == packed.records
        rewrite_entries(measured, prefers={"warmup_steps": 7})  # not what was run
        with pytest.raises(InputError, match="was declared and is missing"):
            submission_of([measured], "me")
        rewrite_entries(measured, prefers={"warmth": 7})
        with pytest.raises(InputError, match="not the plan of a benchmark"):
            submission_of([measured], "me")
    finally:
        plans_path(measured).write_text(kept)
