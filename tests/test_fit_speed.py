"""The benchmark of the fit engine: that every row runs and reaches the table; no seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import smooth_image

from benchmarks import fit_speed
from hyperinit.images.save import save_image


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    save_image(smooth_image(32), tmp_path / "a.png")
    return ["--smoke", "--image", str(tmp_path / "a.png"), "--threads", "1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    ["plain", "seed", "command", "engine", "engine:sampler=residual,lr=1e-3", "alone", "together"],
)
def test_every_row_gives_numbers(row: str, flags: list[str]) -> None:
    arguments = fit_speed._parser().parse_args([*flags, "--target-mse", "0.5"])
    vars(arguments).update(fit_speed.SMOKE)
    found = fit_speed.measure(row, arguments)
    assert found["sec"] > 0
    assert ("target_sec" in found) == row.startswith(("seed", "engine", "command"))


@pytest.mark.long
def test_rows_become_a_table(flags: list[str], capsys: Any) -> None:
    rows = [flag for row in ("plain", "engine", "alone", "together") for flag in ("--row", row)]
    assert fit_speed.main([*flags, *rows]) == 0
    shown = capsys.readouterr().out
    for row in ("plain", "engine", "alone", "together"):
        assert f"| {row} |" in shown


def test_a_row_that_does_not_exist_is_named(flags: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        fit_speed.main([*flags, "--measure", "engin"])
    assert stopped.value.code == 2
    assert "--row 'engin': must be one of" in capsys.readouterr().err
