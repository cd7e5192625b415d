"""The charts of the documents show the committed records, as their tables do."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import peers
from benchmarks.peer.report import CHART, chart_png
from hyperinit.record.records import read_records
from hyperinit.report.charts import DATA_KEY, figures, png
from hyperinit.score.score import score_groups
from scripts import learned_start

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "baselines" / "records"


def of_report(name: str, kind: str) -> bytes:
    """One of the charts that `hyperinit report` makes of a records file."""
    found = figures(score_groups(read_records([RECORDS / f"{name}.jsonl"]), "33", strict=False))
    (figure,) = [figure for title, figure in found.items() if title.endswith(kind)]
    return png(figure)


CHARTS: dict[str, Callable[[], bytes]] = {
    "docs/results/frozen-layers.png": lambda: of_report("frozen-96", "-errors"),
    "docs/results/seed-curves.png": lambda: of_report("seed-cat", "-curves"),
    CHART: lambda: chart_png(peers.read_record(peers.RECORD)),
}


def shown(content: bytes) -> str:
    image = Image.open(io.BytesIO(content))
    image.load()
    return str(image.text[DATA_KEY])


@pytest.mark.slow
@pytest.mark.parametrize("path", CHARTS)
def test_a_chart_shows_the_committed_records(path):
    assert shown((ROOT / path).read_bytes()) == shown(CHARTS[path]()), f"make {path} anew"


@pytest.mark.slow
def test_the_charts_of_learned_starts_show_the_committed_records():
    for name, made in learned_start.charts(learned_start.ladder_names()).items():
        there = (learned_start.PAGE.parent / name).read_bytes()
        assert shown(there) == shown(made), f"{name}: run scripts/learned_start.py"


def test_what_a_chart_shows_is_told_from_another():
    def chart(values: list[float], title: str) -> str:
        from matplotlib.figure import Figure

        figure = Figure()
        figure.subplots().plot(values, label=title)
        return shown(png(figure))

    assert chart([1, 2], "a") == chart([1, 2], "a")
    assert len({chart([1, 2], "a"), chart([1, 2.1], "a"), chart([1, 2], "b")}) == 3
