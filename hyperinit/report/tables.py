"""Records -> Markdown tables, CSV, and the generated blocks of a document."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from hyperinit.base.errors import InputError
from hyperinit.base.files import read_small
from hyperinit.record.protocol import PROTOCOL_VERSION, TARGETS, Protocol
from hyperinit.record.records import Record
from hyperinit.report.headline import middle
from hyperinit.report.names import csv_cell, markdown_cell, markdown_line
from hyperinit.score.beside import psnr_beside
from hyperinit.score.costs import Cost, Mean, Pair, Ratio, decibels
from hyperinit.score.groups import Choice, Ladder, select_choices
from hyperinit.score.score import (
    GroupScore,
    InitScore,
    TargetScore,
    Unit,
    hardest_solved,
    ladder_costs,
    score,
)

LEGEND = """\
Costs are medians over all pairs of an image and a seed, including unsolved ones (`>`: the median
pair is unsolved; `<=`: the smallest budget was enough). A ratio is a geometric mean over the pairs
that both inits solve, with its 95 % interval over images; below 1 is cheaper. Errors are geometric
means over pairs. {rates}
"""


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True
) -> str:
    """A table whose cells are Markdown."""
    lines = [header, ["---", *["---:" if numbers else "---"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def score_rows(scores: Iterable[GroupScore]) -> list[dict[str, Any]]:
    """Every init and target of every group, in the form of `results.RESULTS`."""
    return [
        {
            "track": found.track.name,
            "workload": found.group.workload.text,
            "init": own.init,
            "psnr_start": own.start_psnr,
            "target_mse": target,
            "median": cost.epochs.median,
            "unit": cost.epochs.unit,
            "hits": cost.epochs.hits,
            "pairs": cost.epochs.n,
        }
        for found in scores
        for own in found.inits
        for target, cost in own.targets.items()
    ]


def markdown(scores: Iterable[GroupScore]) -> str:
    """Tables of every group of records that may be compared.

    Raises:
        InputError: there are none.
    """
    parts = []
    scores = list(scores)
    for found in scores:
        workload = found.group.workload
        name = f"**{markdown_cell(workload.track.name)} track**, {markdown_line(workload.text)}"
        if not found.inits:
            parts.append(f"{name}: no test run yet\n")
            continue
        parts.append(f"{name}; {_provenance(found)}\n")
        parts += [f"{markdown_line(note)}\n" for note in found.notes]
        if found.track.along_curve:
            parts.append(_curve_table(found.inits))
            parts += _psnr_table(found, scores)
            continue
        parts += [_cost_table(found), _ratio_table(found), _error_table(found.inits)]
        parts += [*_psnr_table(found, scores), LEGEND.format(rates=_rates(found))]
    if not parts:
        raise InputError("no records")
    return "\n".join(parts)


def _rates(found: GroupScore) -> str:
    """A sentence on how learning rates were chosen, as far as the records say."""
    chosen = [c for s in found.inits for rung in s.rungs.values() for c in rung.chosen]
    others = ", and the settings shown with it," if len({c.others for c in chosen}) > 1 else ""
    by_image: dict[str, list[str]] = {}
    for s in found.inits:
        by_image.setdefault(found.chosen_on[s.init], []).append(markdown_cell(s.init))
    parts = []
    for images, inits in by_image.items():
        who = "Every init has" if len(by_image) == 1 else f"With {', '.join(inits)}: each has"
        best = f"that was best for it on {images}" if images else "of its runs; there was no choice"
        parts.append(f"{who} the learning rate{others if images else ''} {best}.")
    return " ".join(parts)


def _provenance(found: GroupScore) -> str:
    """The amount of runs, and the environments they ran in."""
    group = found.group
    tests, tuned_on = group.tests, group.tuned_on
    images, photographs, seeds = group.images, group.photographs, {r.seed for r in tests}
    versions = {_environment(record.environment) for record in tests}
    text = f"protocol {group.workload.version}; test images {images}"
    text += f" of {photographs} photographs" if photographs < images else ""
    text += f", seeds {len(seeds)}"
    text += f"; rates from {tuned_on} tuning images" if tuned_on else ""
    text += "; " + " and ".join(markdown_cell(version) for version in sorted(versions))
    return text if len(versions) == 1 else f"{text}: seconds are not comparable"


def _environment(found: Mapping[str, Any]) -> str:
    """The environment that seconds depend on."""
    parts = [
        str(found.get("machine") or found.get("processor")),
        str(found.get("device")),
        f"{found.get('threads')} threads",
    ]
    if "workers" in found:
        parts.append(f"{found['workers']} fits at a time")
    return ", ".join([*parts, f"torch {str(found.get('torch')).partition('+')[0]}"])


def _cost_table(found: GroupScore) -> str:
    hardest = hardest_solved(found.inits)
    header = ["init", *(f"epochs to {t:g}" for t in TARGETS)]
    header += [f"seconds to {hardest:g}"] if found.has_seconds else []
    rows = []
    for s in found.inits:
        row = [markdown_cell(s.init), *(str(s.targets[t].epochs) for t in TARGETS)]
        rows.append(row + ([str(s.targets[hardest].seconds)] if found.has_seconds else []))
    return markdown_table(header, rows)


def psnr_columns(
    found: GroupScore, scores: Iterable[GroupScore]
) -> tuple[list[str], dict[str, list[str]]]:
    """The PSNRs that papers print, for the inits of a group: the header, and init -> cells.

    Empty if they were not measured.
    """
    beside = psnr_beside(found, scores)
    steps = list(next(iter(beside.values()), {}))
    header = [f"PSNR after {n:,} steps, dB" for n in steps]
    nothing: dict[int, Mean | None] = dict.fromkeys(steps)
    cells = {
        s.init: [str(value or "-") for value in beside.get(s.init, nothing).values()]
        for s in found.inits
    }
    return header, cells if steps else {}


def _psnr_table(found: GroupScore, scores: Iterable[GroupScore]) -> list[str]:
    """The table of these PSNRs, if they were measured."""
    header, cells = psnr_columns(found, scores)
    rows = [[markdown_cell(init), *row] for init, row in cells.items()]
    return [markdown_table(["init", *header], rows)] if rows else []


def _ratio_table(found: GroupScore) -> str:
    def shown(ratio: Ratio | None, *, named: bool = False) -> str:
        if ratio is None:
            return "-"
        return f"to {markdown_cell(ratio.to)}: {ratio}" if named else str(ratio)

    scores, reference = found.inits, markdown_cell(found.reference)
    hardest = hardest_solved(scores)
    header = ["init", *(f"ratio to {reference}, {t:g}" for t in TARGETS)]
    header.append(f"ratio to the best hand-designed init, {hardest:g}")
    rows = [
        [
            markdown_cell(s.init),
            *(shown(s.targets[t].to_reference) for t in TARGETS),
            shown(s.targets[hardest].to_best, named=True),
        ]
        for s in scores
    ]
    return markdown_table(header, rows)


def _error_table(scores: Sequence[InitScore], *, choices: bool = True) -> str:
    """PSNR at step 0 and errors after every budget; with the chosen settings if `choices`."""
    budgets = sorted({budget for s in scores for budget in s.rungs})
    chosen = " (LR)" if choices else ""
    header = ["init", "PSNR at step 0, dB", *(f"MSE after {b:g} epochs{chosen}" for b in budgets)]

    def cell(s: InitScore, budget: float) -> str:
        rung = s.rungs.get(budget)
        if rung is None:
            return "-"
        some = f" (n={rung.n})" if rung.n < len(s.ladders) else ""
        return f"{rung.mse:.3g}" + (f" ({rung.choices}, n={rung.n})" if choices else some)

    rows = [
        [markdown_cell(s.init), decibels(s.start_psnr), *(cell(s, b) for b in budgets)]
        for s in scores
    ]
    return markdown_table(header, rows)


def _curve_table(scores: Sequence[InitScore]) -> str:
    header = ["init", "LR", *(f"training loss at {t:g}" for t in TARGETS)]
    header += [*(f"grid MSE at {t:g}" for t in TARGETS), "final grid MSE"]
    rows = [
        [
            markdown_cell(s.init),
            ", ".join(f"{run.lr:.2g}" for run in s.runs),
            *(str(s.targets[t].train) for t in TARGETS),
            *(str(s.targets[t].epochs) for t in TARGETS),
            f"{s.final_mse:.3g}",
        ]
        for s in scores
    ]
    return markdown_table(header, rows)


def at_best_lr(records: Iterable[Record]) -> list[Record]:
    """The records at each init's best rate for each budget (lowest mean error over pairs)."""
    records = list(records)
    chosen = select_choices(records, average=fmean)
    return [r for r in records if Choice.of(r) == chosen[r.label, r.budget_epochs]]


def errors_table(groups: Iterable[GroupScore]) -> str:
    """The errors of every init after every budget, a table per group, for a first look."""
    return "\n".join(_error_table(group.inits, choices=False) for group in groups)


def comparison_table(records: Iterable[Record]) -> str:
    """A row per init, in the order of the records: results of a few budgets on a few images.

    Errors are plain means over images, at the rates of `at_best_lr` (chosen on these very images,
    for every init alike). Epochs and seconds are medians of the log-log interpolation between
    budgets, with the number of images that reach the target; "-" if the median image does not. A
    mean over fewer images gives their number: a benchmark goes on with the unsolved ones.
    """
    records = at_best_lr(records)
    budgets = sorted({record.budget_epochs for record in records})
    units: tuple[Unit, ...] = ("epochs", "seconds")
    costs = [(unit, target) for unit in units for target in TARGETS]
    header = ["init", "PSNR at step 0, dB", *(f"MSE after {b:g} epochs (LR)" for b in budgets)]
    header += [f"{unit} to {target:g}" for unit, target in costs]
    rows = []
    for init in dict.fromkeys(record.label for record in records):
        ladders: dict[Pair, Ladder] = {}
        for record in sorted(records, key=lambda r: r.budget_epochs):
            if record.label == init:
                ladders.setdefault(record.pair, {})[record.budget_epochs] = record
        starts = [next(iter(ladder.values())) for ladder in ladders.values()]
        row = [markdown_cell(init), decibels(fmean(run.start.psnr for run in starts))]
        for budget in budgets:
            rung = [ladder[budget] for ladder in ladders.values() if budget in ladder]
            some = f", n={len(rung)}" if len(rung) < len(ladders) else ""
            error = f"{fmean(record.mse for record in rung):.3g}" if rung else "-"
            row.append(error + (f" ({rung[0].lr:g}{some})" if rung else ""))
        for unit, target in costs:
            cost = ladder_costs(ladders, unit, target)
            shown = middle(cost) if isfinite(cost.median) else "-"
            row.append(f"{shown} ({cost.hits}/{cost.n})")
        rows.append(row)
    return markdown_table(header, rows)


def rivals_table(
    tuned: Iterable[Record],
    published: Iterable[Record],
    training: Mapping[str, Mapping[str, str]],
    reference: str = "33",
) -> str:
    """A row per init: the training it took, and its costs under two protocols.

    Args:
        tuned: Records of one group of the tuned track.
        published: Records of one group of the open track, whose labels say how inits were fitted.
        training: Init -> "outer_steps", "published_steps" and "minutes", as text.
        reference: The reference init of ratios, which are those of the tuned track.
    """
    others = {s.runs[0].init: s for s in score(published)}
    shown = TARGETS[1:]
    hardest = shown[-1]
    header = ["init", "outer steps (published)", "training, minutes"]
    header += [f"tuned: epochs to {t:g}" for t in shown]
    header += [f"tuned: seconds to {t:g}" for t in shown]
    header += [f"tuned: ratio to {markdown_cell(reference)}, {hardest:g}"]
    header += [f"published: epochs to {t:g}" for t in shown]
    header += [f"published: seconds to {t:g}" for t in shown]
    rows = []
    for s in score(tuned, reference):
        found, other, cost = s.targets, others.get(s.init), training.get(s.init)
        steps = f"{cost['outer_steps']} ({cost['published_steps']})" if cost else "-"
        row = [markdown_cell(s.init), steps, cost["minutes"] if cost else "-"]
        row += [str(found[t].epochs) for t in shown]
        row += [str(found[t].seconds or "-") for t in shown]
        row += [str(found[hardest].to_reference or "-")]
        row += [str(other.targets[t].epochs) if other else "-" for t in shown]
        row += [str(other.targets[t].seconds or "-") if other else "-" for t in shown]
        rows.append(row)
    return markdown_table(header, rows)


def read_training(path: Path) -> dict[str, dict[str, str]]:
    """Init -> the other columns of a table of training costs.

    Raises:
        InputError: the file is missing or has other columns, or a row has more or fewer cells.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_small(path).decode(), newline="")))
        for row in rows:
            if None in row or None in row.values():  # such as 150,000 without quotes
                raise InputError(f"the row of {row.get('init')} has too many or too few cells")
        return {row.pop("init"): {k: row[k] for k in TRAINING_FIELDS} for row in rows}
    except (InputError, UnicodeDecodeError, KeyError) as error:
        fields = ", ".join(("init", *TRAINING_FIELDS))
        raise InputError(f"{path}: not a table with the columns {fields} ({error})") from error


TRAINING_FIELDS = ("outer_steps", "published_steps", "minutes")

# Fields of a `Ratio` besides its mean and its interval.
_RATIO_FIELDS = ("n", "pairs", "at_least", "at_most", "free", "other_free", "both_free")

CSV_FIELDS = (
    *("track", "workload", "init", "measure", "target", "median", "n", "hits"),
    *("reference_init", "reference_ratio", "reference_low", "reference_high"),
    *("best_init", "best_ratio", "best_low", "best_high", "protocol"),
    *("mean", "low", "high"),
    # The number of pairs of each ratio, and what is known about the others.
    *(f"{to}_{what}" for to in ("reference", "best") for what in _RATIO_FIELDS),
)


def csv_text(scores: Iterable[GroupScore]) -> str:
    """One line per group, init, measure and target; an unsolved median is "inf".

    `low` and `high` are 95 % intervals over images. A PSNR has a `mean`, and no target or median.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    rows: list[dict[str, Any]] = []
    for found in scores:
        workload = found.group.workload
        group: dict[str, Any] = {"track": workload.track.name, "workload": workload.text}
        group["protocol"] = workload.version
        for s in found.inits:
            for target, values in s.targets.items():
                for measure, cost, ratios in _measures(found, values):
                    numbers = {"median": cost.median, "n": cost.n, "hits": cost.hits}
                    row = {**group, "init": s.init, "measure": measure, "target": target}
                    rows.append({**row, **numbers, **ratios})
            for steps, psnr in s.psnr_after.items():
                row = {**group, "init": s.init, "measure": f"PSNR after {steps} steps, dB"}
                if psnr is not None:
                    row |= {"mean": psnr.value, "low": psnr.low, "high": psnr.high, "n": psnr.n}
                rows.append(row)
    for row in rows:
        writer.writerow({k: csv_cell(v) if isinstance(v, str) else v for k, v in row.items()})
    return out.getvalue()


def _measures(group: GroupScore, found: TargetScore) -> list[tuple[str, Cost, dict[str, Any]]]:
    """Name, cost and ratio columns of everything that is measured for a target."""
    if group.track.along_curve:
        kinds = (("training loss", found.train), ("grid MSE", found.epochs))
        return [(f"{cost.unit}, {kind}", cost, {}) for kind, cost in kinds if cost is not None]
    ratios: dict[str, Any] = {}
    for to, ratio in (("reference", found.to_reference), ("best", found.to_best)):
        if ratio is not None:
            ratios |= {f"{to}_init": ratio.to, f"{to}_ratio": ratio.mean}
            ratios |= {f"{to}_low": ratio.low, f"{to}_high": ratio.high}
            ratios |= {f"{to}_{what}": getattr(ratio, what) for what in _RATIO_FIELDS}
    measures = [("epochs", found.epochs, ratios)]
    return measures if found.seconds is None else [*measures, ("seconds", found.seconds, {})]


def protocol_markdown() -> str:
    """The protocol as a table, generated from the code that measures."""
    header = ["field", "value", "meaning"]
    rows = []
    for field in dataclasses.fields(Protocol):
        value = field.default
        shown = ", ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
        rows.append([f"`{field.name}`", shown, field.metadata["help"]])
    targets = ", ".join(f"{target:g}" for target in TARGETS)
    table = markdown_table(header, rows, False)
    return f"Protocol version {PROTOCOL_VERSION}; targets {targets}.\n\n{table}"
