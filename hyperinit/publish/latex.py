"""Scores -> LaTeX tables that need no package, with intervals; names are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hyperinit.base.errors import InputError
from hyperinit.record.protocol import TARGETS
from hyperinit.report.headline import middle
from hyperinit.report.names import latex_cell, shown
from hyperinit.report.tables import psnr_columns
from hyperinit.score.costs import Cost
from hyperinit.score.score import GroupScore, InitScore, hardest_solved

_HEAD = """\
% Written by hyperinit. Medians over pairs of an image and a seed, with the share that reach the
% target; ratios are geometric means and PSNRs are means, with 95 % intervals over images.
"""


def latex(scores: Iterable[GroupScore]) -> str:
    """A table for every group with test runs.

    Raises:
        InputError: there is no such group.
    """
    scores = [found for found in scores if found.inits]
    if not scores:
        raise InputError("no records of test runs")
    return _HEAD + "\n".join(_group(found, scores) for found in scores)


def _group(found: GroupScore, scores: Sequence[GroupScore]) -> str:
    header = ["init", *(f"{found.track.unit} to {target:g}" for target in TARGETS)]
    columns = [[_cost(s.targets[t].epochs) for t in TARGETS] for s in found.inits]
    if not found.track.along_curve:
        hardest = hardest_solved(found.inits)
        if found.has_seconds:
            header.append(f"seconds to {hardest:g}")
        header.append(f"ratio to {shown(found.reference)}, {hardest:g}")
        for cells, s in zip(columns, found.inits, strict=True):
            cells += _compared(found, s, hardest)
    psnr_header, psnr_cells = psnr_columns(found, scores)
    rows = [
        [shown(s.init), *cells, *psnr_cells.get(s.init, ())]
        for s, cells in zip(found.inits, columns, strict=True)
    ]
    workload = found.group.workload
    caption = f"{workload}; protocol {workload.version}"
    if found.notes:  # what a reader must know about the numbers stays with the table
        caption = " ".join([f"{caption}.", *found.notes])
    return _table(caption, [*header, *psnr_header], rows)


def _cost(cost: Cost) -> str:
    return f"{middle(cost)} ({cost.hits}/{cost.n})"


def _compared(found: GroupScore, s: InitScore, target: float) -> list[str]:
    """Seconds, if there are any, and the ratio to the reference."""
    own = s.targets[target]
    seconds = [_cost(own.seconds)] if found.has_seconds and own.seconds is not None else []
    ratio = "1" if s.init == found.reference else str(own.to_reference or "-")
    return [*seconds, ratio]


def _table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        r"\begin{table}",
        rf"\caption{{{latex_cell(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\hline",
        _row(header),
        r"\hline",
        *map(_row, rows),
        r"\hline",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "".join(f"{line}\n" for line in lines)


def _row(cells: Iterable[str]) -> str:
    return f"{' & '.join(map(latex_cell, cells))} \\\\"
