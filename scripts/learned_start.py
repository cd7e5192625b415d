"""Updates the tables and charts of docs/results/learned-start.md from committed records.

    python scripts/learned_start.py                    with every record file learned-NAME.jsonl
    python scripts/learned_start.py learned-96         with only these

Error against budget comes from the record files, the worth of a head start from
benchmarks/records/oracle.csv (see benchmarks/oracle.py), and training compute against gain from
baselines/records/learned-training.csv, which cites the source of each number.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before any install

from benchmarks.oracle import CONTROL, Row, read_rows
from hyperinit.base.arguments import Parser
from hyperinit.base.errors import InputError
from hyperinit.base.files import write_atomically
from hyperinit.record.protocol import TARGETS
from hyperinit.record.records import read_records
from hyperinit.report.blocks import update_blocks
from hyperinit.report.charts import error_ladder, png
from hyperinit.report.tables import markdown_table
from hyperinit.score.costs import cost_to_target, geometric_mean, number
from hyperinit.score.score import score_groups

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "learned-start.md"
RECORDS = ROOT / "baselines" / "records"
ORACLE = ROOT / "benchmarks" / "records" / "oracle.csv"
TRAINING = RECORDS / "learned-training.csv"
BUDGETS = (1, 2, 8)  # epochs, of the columns of TRAINING


# Error against budget ----------------------------------------------------------------------------


def ladder_names() -> list[str]:
    """Records files of learned starts: learned-SIZE.jsonl."""
    return sorted(path.stem for path in RECORDS.glob("learned-*.jsonl"))


def ladders_block(names: Iterable[str]) -> str:
    """A chart for each records file."""
    return "\n".join(f"![Error against budget, {name}]({name}.png)\n" for name in names)


def ladder_png(name: str) -> bytes:
    """The chart of a records file's first group that has test runs.

    Raises:
        InputError: there is none.
    """
    records = read_records([RECORDS / f"{name}.jsonl"])
    for found in score_groups(records, CONTROL, strict=False):
        if found.inits:
            return png(error_ladder(found.inits, found.group.workload.text))
    raise InputError(f"{name}.jsonl has no test run")


# What a head start is worth ----------------------------------------------------------------------


@dataclass(frozen=True)
class Worth:
    """The epochs that fits from one start still need.

    Attributes:
        head_epochs: Epochs of the fit that the start comes from; None for the control.
        mse: Error of the start, a geometric mean over photographs.
        epochs: Target -> mean over photographs; 0 if the start reaches it, infinite if one
            photograph never does.
    """

    head_epochs: float | None
    mse: float
    epochs: dict[float, float]


def needed(rows: Sequence[Row], target: float) -> float:
    """Epochs to a target for one photograph from one start, at the best rate for every budget."""
    best: dict[float, Row] = {}
    for row in rows:
        if row.budget_epochs not in best or row.mse < best[row.budget_epochs].mse:
            best[row.budget_epochs] = row
    ladder = [best[budget] for budget in sorted(best)]
    return cost_to_target([row.epochs for row in ladder], [row.mse for row in ladder], target)


def worths(rows: Sequence[Row]) -> tuple[list[Worth], int]:
    """The control and then the head starts, shortest first, and how many photographs have all.

    Raises:
        InputError: none has, or there are no fits from the control.
    """
    by_start: dict[tuple[str, float], dict[str, list[Row]]] = {}
    for row in rows:
        same = by_start.setdefault((row.start, row.head_epochs), {})
        same.setdefault(row.sha256, []).append(row)
    if (CONTROL, 0.0) not in by_start:
        raise InputError(f"no fits from {CONTROL}: run benchmarks/oracle.py")
    ladders = {(row.start, row.head_epochs, row.lr_factor) for row in rows}
    made = {(row.sha256, row.start, row.head_epochs, row.lr_factor) for row in rows}
    images = {row.sha256 for row in rows}
    whole = {image for image in images if all((image, *ladder) in made for ladder in ladders)}
    if not whole:
        raise InputError("no photograph has all starts at all rates: run benchmarks/oracle.py")
    found = []
    for (start, head), own_fits in sorted(by_start.items(), key=lambda item: item[0][1]):
        fits = [own_fits[image] for image in sorted(whole)]
        begin = [next(row.mse for row in own if row.budget_epochs == 0) for own in fits]
        epochs = {target: fmean(needed(own, target) for own in fits) for target in TARGETS}
        found.append(Worth(None if start == CONTROL else head, geometric_mean(begin), epochs))
    return found, len(whole)


def oracle_block(rows: Sequence[Row]) -> str:
    """The epochs still needed, the epochs saved, and the chart."""
    (control, *heads), count = worths(rows)
    like = rows[0]
    lines = [[f"`{CONTROL}`", number(control.mse), *map(number, control.epochs.values())]]
    for head in heads:
        saved = {target: control.epochs[target] - head.epochs[target] for target in TARGETS}
        cells = [f"{number(head.epochs[t])} (saves {number(saved[t])})" for t in TARGETS]
        lines.append([f"{head.head_epochs:g} epochs of a fit", number(head.mse), *cells])
    rates = ", ".join(f"{factor:g}" for factor in sorted({row.lr_factor for row in rows}))
    header = ["start", "its error", *(f"epochs to {target:g}" for target in TARGETS)]
    return (
        f"{like.size} x {like.size} pixels, SIREN {like.depth} x {like.width}, {count} photographs,"
        f" one seed, each budget at the best of {rates} times the default rate\n\n"
        f"{markdown_table(header, lines)}\n"
        "![Epochs saved against epochs of head start](head-starts.png)\n"
    )


def oracle_png(rows: Sequence[Row]) -> bytes:
    """Epochs saved against the epochs of the head start."""
    (control, *heads), _ = worths(rows)
    figure, (axes,) = _figure(1, "epochs of the head start", "epochs saved")
    sizes = [head.head_epochs or 0.0 for head in heads]
    for target, marker in zip(TARGETS, "os^", strict=False):
        saved = [control.epochs[target] - head.epochs[target] for head in heads]
        label = f"to {target:g} (`untrained`: {number(control.epochs[target])})"
        axes.plot(sizes, saved, marker=marker, label=label.replace("`", ""))
    axes.plot([0, max(sizes)], [0, max(sizes)], ":", color="grey", label="an epoch for an epoch")
    axes.axhline(0, color="grey", linewidth=0.8)
    figure.legend(loc="outside right upper", fontsize="small")
    return png(figure)


# Training compute against gain -------------------------------------------------------------------


def read_training() -> list[dict[str, str]]:
    """The lines of TRAINING."""
    with TRAINING.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def gain(line: dict[str, str], budget: int) -> float | None:
    """Error after a fit of so many epochs, relative to the control's; None if not measured."""
    own, control = line[f"mse_{budget}"], line[f"control_{budget}"]
    return float(own) / float(control) if own and control else None


def _cells(line: dict[str, str]) -> list[str]:
    gains = (gain(line, budget) for budget in BUDGETS)
    return ["-" if found is None else number(found) for found in gains]


def training_block(lines: Sequence[dict[str, str]]) -> str:
    """Every line, and the chart."""
    rows = []
    for line in lines:
        fits = f"{int(line['fits']):,}" if line["fits"] else "-"
        place = f"{line['tested_on']}, {line['size']} pixels"
        rows.append(
            [line["series"], fits, place, *_cells(line), f"`{line['control']}`", line["source"]]
        )
    after = [f"after {budget} epochs" for budget in BUDGETS]
    header = ["start", "fits seen", "tested on", *after, "relative to", "from"]
    picture = "![Error relative to the control against fits seen](learned-training.png)\n"
    return f"{markdown_table(header, rows)}\n{picture}"


def training_png(lines: Sequence[dict[str, str]]) -> bytes:
    """Relative errors after one epoch and after eight, against fits seen."""
    shown = (BUDGETS[0], BUDGETS[-1])
    label = "error relative to the control"
    figure, panels = _figure(len(shown), "fits seen", label)
    series: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        if line["fits"]:
            name = f"{line['series']}, {line['tested_on']}, {line['size']}"
            series.setdefault(name, []).append(line)
    for axes, budget in zip(panels, shown, strict=True):
        for (name, own), marker in zip(series.items(), "os^Dv<>p", strict=False):
            points = [(int(line["fits"]), gain(line, budget)) for line in own]
            known = [(fits, found) for fits, found in points if found is not None]
            if known:
                axes.plot(*zip(*known, strict=True), marker=marker, label=name)
        axes.set(xscale="log", title=f"after {budget} epoch{'s' if budget > 1 else ''}")
        axes.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")
    return png(figure)


def domains_block(lines: Sequence[dict[str, str]]) -> str:
    """The longest training of each series: images of the set against those of another source."""
    last: dict[tuple[str, str], dict[str, str]] = {}
    for line in lines:
        key = (line["series"], line["tested_on"])
        if key not in last or int(line["fits"] or 0) >= int(last[key]["fits"] or 0):
            last[key] = line
    order = sorted(last.values(), key=lambda line: (line["images"], line["tested_on"]))
    rows = [
        [
            line["images"],
            line["tested_on"],
            line["size"],
            line["series"].rpartition(", ")[0],
            *_cells(line),
            f"`{line['control']}`",
        ]
        for line in order
    ]
    after = [f"after {budget} epochs" for budget in BUDGETS]
    header = ["learned from", "tested on", "pixels a side", "start", *after, "relative to"]
    return markdown_table(header, rows)


def _figure(panels: int, xlabel: str, ylabel: str) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5) if panels == 1 else (10, 6), layout="constrained")
    found = list(figure.subplots(1, panels, squeeze=False)[0])
    for axes in found:
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.grid(alpha=0.3)
    return figure, found


# The page ----------------------------------------------------------------------------------------


def update_page(text: str, names: Sequence[str]) -> str:
    """The page with all its generated blocks updated.

    Raises:
        InputError: a file is missing or unusable, or a block does not end.
    """
    rows, lines = read_rows(ORACLE), read_training()
    blocks = {
        "ladders": lambda: ladders_block(names),
        "head-starts": lambda: oracle_block(rows),
        "training": lambda: training_block(lines),
        "domains": lambda: domains_block(lines),
    }
    return update_blocks(text, RECORDS, PAGE.name, blocks)


def charts(names: Sequence[str]) -> dict[str, bytes]:
    """Name of each chart beside the page -> the PNG file."""
    rows, lines = read_rows(ORACLE), read_training()
    found = {f"{name}.png": ladder_png(name) for name in names}
    return {
        **found,
        "head-starts.png": oracle_png(rows),
        "learned-training.png": training_png(lines),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = Parser(
        prog="learned_start.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("records", nargs="*", metavar="NAME", help="files in baselines/records")
    names = parser.parse_args(argv).records or ladder_names()
    try:
        text = update_page(PAGE.read_text(encoding="utf-8"), names)
        for name, content in charts(names).items():
            write_atomically(PAGE.parent / name, content)
        write_atomically(PAGE, text.encode())
    except InputError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
