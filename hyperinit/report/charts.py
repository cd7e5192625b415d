"""Scores and records -> figures: error against budget, share solved, performance profile, curves.

Figures are drawn without pyplot, so no global state changes and no display is needed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from math import isfinite
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperinit.record.protocol import TARGETS
from hyperinit.report.names import one_line
from hyperinit.score.costs import performance_profile, solved_share
from hyperinit.score.curves import curve_cost
from hyperinit.score.score import GroupScore, InitScore, hardest_solved

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DATA_KEY = "Data"  # key of a text in a PNG file


def figures(scores: Iterable[GroupScore]) -> dict[str, Figure]:
    """File name without suffix -> figure, for every group of records that may be compared."""
    found: dict[str, Figure] = {}
    for group in scores:
        if not group.inits:
            continue
        workload, inits = group.group.workload, group.inits
        title = (
            str(workload) if workload.version == 1 else f"{workload}, protocol {workload.version}"
        )
        name = re.sub(r"[^a-z0-9.]+", "-", title.replace(" track,", "").lower()).strip("-")
        if len(name) > 120:  # file systems take 255 bytes
            name = f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        if group.track.along_curve:
            found[f"{name}-curves"] = seed_curves(inits, title, group.track.unit)
            continue
        target = hardest_solved(inits)
        found[f"{name}-errors"] = error_ladder(inits, title)
        found[f"{name}-solved"] = solved_curves(inits, title, target)
        found[f"{name}-profile"] = profile_curves(inits, title, target)
    return found


def png(figure: Figure) -> bytes:
    """A figure as a PNG file, with its `shown_data` stored as a text."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes; the page and tables show them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(content, format="png", dpi=120, metadata={DATA_KEY: shown_data(figure)})
    return content.getvalue()


def is_chart(path: Path) -> bool:
    """Whether a file begins like the output of `png`, of any version."""
    try:
        with open(path, "rb") as file:
            return b"Matplotlib" in file.read(200)
    except OSError:
        return False


def shown_data(figure: Figure) -> str:
    """A hash of a figure's lines and their labels.

    It tells whether a chart shows the current records. Pixels cannot tell, because they change with
    the version of matplotlib.
    """
    shown: list[Any] = []
    for axes in figure.axes:
        shown.append([axes.get_title(), axes.get_xlabel(), axes.get_ylabel()])
        for line in axes.get_lines():
            points: Any = line.get_xydata()
            shown.append([line.get_label(), *(f"{value:.6g}" for value in points.ravel())])
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def _axes(title: str, xlabel: str, ylabel: str, inits: int) -> tuple[Figure, Any]:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    colours = "tab10" if inits <= 10 else "tab20"
    # beyond 20 inits colours repeat with another dash
    axes.set_prop_cycle(
        color=[colormaps[colours](i % 20) for i in range(max(inits, 1))],
        linestyle=[("-", "--", ":")[i // 20 % 3] for i in range(max(inits, 1))],
    )
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.title.set_fontsize("medium")
    axes.grid(alpha=0.3)
    return figure, axes


def plain_text(text: Any) -> str:
    """A name that is drawn literally ("$" would begin a formula), on one line, not too long."""
    line = one_line(text)
    return (line if len(line) <= 80 else line[:79] + "…").replace("$", r"\$")


def _finish(figure: Figure, axes: Any) -> Figure:
    axes.set_title(plain_text(axes.get_title()), fontsize="medium")
    for line in axes.get_lines():
        line.set_label(plain_text(line.get_label()))
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside right upper", fontsize="small")
    return figure


def _target_lines(axes: Any) -> None:
    for target in TARGETS:
        axes.axhline(target, color="grey", linewidth=0.8, linestyle=":", zorder=0)
        axes.annotate(
            f"{target:g}",
            (1, target),
            (2, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            fontsize="small",
            va="center",
        )


def error_ladder(scores: Sequence[InitScore], title: str) -> Figure:
    """Final error against declared budget; every point is the end of separate runs.

    A line ends before the first budget that was not run for all pairs: pairs that have reached
    every target are not run further.
    """
    label = "grid MSE at the end (geometric mean)"
    figure, axes = _axes(title, "budget in epochs", label, len(scores))
    for found in scores:
        rungs = [(b, rung.mse) for b, rung in found.whole_rungs.items() if isfinite(rung.mse)]
        axes.plot([b for b, _ in rungs], [mse for _, mse in rungs], marker="o", label=found.init)
    axes.set(xscale="log", yscale="log")
    budgets = sorted({budget for found in scores for budget in found.rungs})
    axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
    axes.set_xticks([], minor=True)
    _target_lines(axes)
    return _finish(figure, axes)


def solved_curves(scores: Sequence[InitScore], title: str, target: float) -> Figure:
    """Kaplan-Meier curves: the share of pairs at the target, against epochs."""
    label = f"share of pairs at MSE {target:g}"
    figure, axes = _axes(title, "epochs", label, len(scores))
    for found in scores:
        cost = found.targets[target].epochs
        costs, shares = solved_share(cost)
        x, y = [0.0, *costs, max(cost.limits.values())], [0.0, *shares, *(shares or [0.0])[-1:]]
        axes.step(x, y, where="post", label=f"{found.init} ({cost.hits}/{cost.n})")
    axes.set(ylim=(-0.02, 1.02), xlim=(0, None))
    return _finish(figure, axes)


def profile_curves(scores: Sequence[InitScore], title: str, target: float) -> Figure:
    """Performance profile: the share of pairs within a factor of the pair's cheapest init."""
    profiles = performance_profile({s.init: s.targets[target].epochs for s in scores})
    label = f"share of pairs at MSE {target:g}"
    figure, axes = _axes(title, "epochs, relative to the pair's cheapest init", label, len(scores))
    end = max((ratios[-1] for ratios, _ in profiles.values() if ratios), default=1.0) * 1.1
    for init, (ratios, shares) in profiles.items():
        x, y = [1.0, *ratios, end], [0.0, *shares, *(shares or [0.0])[-1:]]
        axes.step(x, y, where="post", label=init)
    axes.set(ylim=(-0.02, 1.02))
    return _finish(figure, axes)


def seed_curves(scores: Sequence[InitScore], title: str, unit: str = "seed epochs") -> Figure:
    """Error along the fit, like the seed experiment's chart: training solid, grid MSE dashed."""
    figure, axes = _axes(title, unit, "MSE (solid: training, dashed: grid)", len(scores))
    from matplotlib import colormaps

    for i, found in enumerate(scores):
        colour = colormaps["tab20"](i % 20)
        for run in found.runs:
            label = f"{found.init}, {run.image}, {run.seed}"
            points = [point for point in run.curve if point.steps > 0]
            x = [curve_cost(run, point) for point in points]
            for error, line, shown in (("train_mse", "-", label), ("mse", "--", None)):
                y = list(map(attrgetter(error), points))
                axes.plot(x, y, line, color=colour, label=shown, linewidth=1)
    axes.set(yscale="log")
    _target_lines(axes)
    return _finish(figure, axes)
