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
from hyperinit.record.protocol import PROTOCOL_VERSION, TARGETS, Protocol
from hyperinit.record.records import Record
from hyperinit.score.costs import Cost, Pair, Ratio, number
from hyperinit.score.score import (
    TUNING,
    InitScore,
    SeedScore,
    groups,
    hardest_solved,
    ladder_costs,
    score,
    score_seed,
    select_lrs,
)

LEGEND = """\
Costs are medians over all pairs of an image and a seed, unsolved ones included (`>`: so is the
median pair; `<=`: the smallest budget was enough). A ratio is a geometric mean over the pairs that
both inits solve, with its 95 % interval over images; below 1 is cheaper. Errors are geometric means
over pairs. Every init has the learning rate that was best for it on {tuned_on}.
"""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> str:
    rows = [[_cell(row[0]), *row[1:]] for row in rows]
    lines = [header, ["---", *["---:" if numbers else "---"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(name: str) -> str:
    """A name in Markdown: one line that neither ends a table's cell nor is taken for HTML."""
    name = " ".join(name.split())
    name = name if len(name) <= 160 else name[:159] + "…"
    return (
        name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
    )


def markdown(
    records: Iterable[Record], reference: str = "33", *, tune_on_test: bool = False
) -> str:
    """Tables of every group of records that may be compared.

    Args:
        records: Of any tracks and workloads.
        reference: The init that ratios are to.
        tune_on_test: See `score`.

    Raises:
        InputError: there are none, or see `score`.
    """
    parts = []
    for (track, workload), own in groups(records).items():
        tests = [record for record in own if not record.track.endswith(TUNING)]
        if not tests:
            parts.append(f"**{_cell(track)} track**, {_cell(workload)}: no test run yet\n")
            continue
        title = f"**{_cell(track)} track**, {_cell(workload)}; {_provenance(own, tests)}\n"
        if track == "seed":
            parts += [title, _seed_table(score_seed(tests))]
        else:
            scores = score(own, reference, tune_on_test=tune_on_test)
            parts += [title, _cost_table(scores), _ratio_table(scores, reference)]
            tuned_on = "these very images" if tune_on_test else "tuning images"
            parts += [_error_table(scores), LEGEND.format(tuned_on=tuned_on)]
    if not parts:
        raise InputError("no records")
    return "\n".join(parts)


def _provenance(records: Sequence[Record], tests: Sequence[Record]) -> str:
    """How much was run, and on what."""
    images, seeds = {r.image_hash for r in tests}, {r.seed for r in tests}
    tuned = {r.image_hash for r in records} - images
    versions = {_environment(record.environment) for record in tests}
    text = f"protocol {tests[0].version}; test images {len(images)}, seeds {len(seeds)}"
    text += f"; rates from {len(tuned)} tuning images" if tuned else ""
    text += "; " + " and ".join(_cell(version) for version in sorted(versions))
    return text if len(versions) == 1 else f"{text}: seconds are not comparable"


def _environment(found: Mapping[str, Any]) -> str:
    """What seconds depend on."""
    parts = [
        str(found.get("processor")),
        str(found.get("device")),
        f"{found.get('threads')} threads",
    ]
    if "workers" in found:
        parts.append(f"{found['workers']} fits at a time")
    return ", ".join([*parts, f"torch {str(found.get('torch')).partition('+')[0]}"])


def _cost_table(scores: Sequence[InitScore]) -> str:
    hardest = hardest_solved(scores)
    header = ["init", *(f"epochs to {t:g}" for t in TARGETS), f"seconds to {hardest:g}"]
    rows = [
        [s.init, *(str(s.targets[t].epochs) for t in TARGETS), str(s.targets[hardest].seconds)]
        for s in scores
    ]
    return _table(header, rows)


def _ratio_table(scores: Sequence[InitScore], reference: str) -> str:
    def shown(ratio: Ratio | None, *, named: bool = False) -> str:
        if ratio is None:
            return "-"
        return f"to {_cell(ratio.to)}: {ratio}" if named else str(ratio)

    hardest = hardest_solved(scores)
    header = ["init", *(f"ratio to {_cell(reference)}, {t:g}" for t in TARGETS)]
    header.append(f"ratio to the best hand-designed init, {hardest:g}")
    rows = [
        [
            s.init,
            *(shown(s.targets[t].to_reference) for t in TARGETS),
            shown(s.targets[hardest].to_best, named=True),
        ]
        for s in scores
    ]
    return _table(header, rows)


def _error_table(scores: Sequence[InitScore]) -> str:
    budgets = sorted({budget for s in scores for budget in s.rungs})
    header = ["init", "PSNR at step 0, dB", *(f"MSE after {b:g} epochs (LR)" for b in budgets)]

    def cell(s: InitScore, budget: float) -> str:
        rung = s.rungs.get(budget)
        return "-" if rung is None else f"{rung.mse:.3g} ({rung.lr:g}, n={rung.n})"

    rows = [[s.init, f"{s.start_psnr:.1f}", *(cell(s, b) for b in budgets)] for s in scores]
    return _table(header, rows)


def _seed_table(scores: Sequence[SeedScore]) -> str:
    header = ["init", "LR", *(f"training loss at {t:g}" for t in TARGETS)]
    header += [*(f"grid MSE at {t:g}" for t in TARGETS), "final grid MSE"]
    rows = [
        [
            s.init,
            ", ".join(f"{lr:.2g}" for lr in s.lrs),
            *(str(s.train[t]) for t in TARGETS),
            *(str(s.grid[t]) for t in TARGETS),
            f"{s.mse:.3g}",
        ]
        for s in scores
    ]
    return _table(header, rows)


def at_best_lr(records: Iterable[Record]) -> list[Record]:
    """The records at each init's best rate for each budget: the lowest mean error over pairs."""
    records = list(records)
    chosen = select_lrs(records, average=fmean)
    return [r for r in records if r.lr == chosen[r.init, r.budget_epochs]]


def comparison_table(records: Iterable[Record]) -> str:
    """One row an init, in the order of the records: what a few budgets on a few images say.

    Errors are plain means over images, at the rates of `at_best_lr` (chosen on these very images,
    for every init alike). Epochs and seconds are medians of the log-log interpolation between
    budgets, with how many images reach the target; "-" where the median image does not.
    """
    records = at_best_lr(records)
    budgets = sorted({record.budget_epochs for record in records})
    costs = [(0, "epochs", target) for target in TARGETS]
    costs += [(2, "seconds", target) for target in TARGETS]
    header = ["init", "PSNR at step 0, dB", *(f"MSE after {b:g} epochs (LR)" for b in budgets)]
    header += [f"{unit} to {target:g}" for _, unit, target in costs]
    rows = []
    for init in dict.fromkeys(record.init for record in records):
        ladders: dict[Pair, dict[float, Record]] = {}
        for record in sorted(records, key=lambda r: r.budget_epochs):
            if record.init == init:
                pair = ladders.setdefault((record.image_hash, record.seed), {})
                pair[record.budget_epochs] = record
        starts = [next(iter(ladder.values())) for ladder in ladders.values()]
        row = [init, f"{fmean(start.start_psnr for start in starts):.1f}"]
        for budget in budgets:
            rung = [ladder[budget] for ladder in ladders.values()]
            row.append(f"{fmean(record.mse for record in rung):.3g} ({rung[0].lr:g})")
        for column, unit, target in costs:
            cost = ladder_costs(ladders, column, unit, target)
            shown = number(cost.median) if isfinite(cost.median) else "-"
            row.append(f"{shown} ({cost.hits}/{cost.n})")
        rows.append(row)
    return _table(header, rows)


def rivals_table(
    tuned: Iterable[Record],
    published: Iterable[Record],
    training: Mapping[str, Mapping[str, str]],
    reference: str = "33",
) -> str:
    """One row an init: what training it took, and what it costs under two protocols.

    Args:
        tuned: Records of one group of the tuned track.
        published: Of one group of the open track, where names go on with how they were fitted.
        training: Init -> "outer_steps", "published_steps" and "minutes", in words.
        reference: The init that ratios are to, those of the tuned track.
    """
    others = {s.init.partition(" ")[0]: s for s in score(published)}
    shown = TARGETS[1:]
    hardest = shown[-1]
    header = ["init", "outer steps (published)", "training, minutes"]
    header += [f"tuned: epochs to {t:g}" for t in shown]
    header += [f"tuned: seconds to {t:g}" for t in shown]
    header += [f"tuned: ratio to {_cell(reference)}, {hardest:g}"]
    header += [f"published: epochs to {t:g}" for t in shown]
    header += [f"published: seconds to {t:g}" for t in shown]
    rows = []
    for s in score(tuned, reference):
        found, other, cost = s.targets, others.get(s.init), training.get(s.init)
        steps = f"{cost['outer_steps']} ({cost['published_steps']})" if cost else "-"
        row = [s.init, steps, cost["minutes"] if cost else "-"]
        row += [str(found[t].epochs) for t in shown]
        row += [str(found[t].seconds) for t in shown]
        row += [str(found[hardest].to_reference or "-")]
        row += [str(other.targets[t].epochs) if other else "-" for t in shown]
        row += [str(other.targets[t].seconds) if other else "-" for t in shown]
        rows.append(row)
    return _table(header, rows)


def _read_training(path: Path) -> dict[str, dict[str, str]]:
    """Init -> the other columns of a table of training costs.

    Raises:
        InputError: it is missing or has other columns.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {row.pop("init"): {k: row[k] for k in TRAINING_FIELDS} for row in rows}
    except (OSError, UnicodeDecodeError, KeyError) as error:
        fields = ", ".join(("init", *TRAINING_FIELDS))
        raise InputError(f"{path}: not a table with the columns {fields} ({error})") from error


TRAINING_FIELDS = ("outer_steps", "published_steps", "minutes")

CSV_FIELDS = (
    *("track", "workload", "init", "measure", "target", "median", "n", "hits"),
    *("reference_init", "reference_ratio", "reference_low", "reference_high"),
    *("best_init", "best_ratio", "best_low", "best_high"),
)


def csv_text(
    records: Iterable[Record], reference: str = "33", *, tune_on_test: bool = False
) -> str:
    """One line per group, init, measure and target; an unsolved median is "inf"."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_FIELDS, restval="", lineterminator="\n")
    writer.writeheader()

    def write(common: dict[str, Any], measure: str, target: float, cost: Cost) -> None:
        numbers = {"median": cost.median, "n": cost.n, "hits": cost.hits}
        writer.writerow({**common, "measure": measure, "target": target, **numbers})

    for (track, workload), own in groups(records).items():
        tests = [record for record in own if not record.track.endswith(TUNING)]
        group = {"track": track, "workload": workload}
        for seed_score in score_seed(tests) if track == "seed" else ():
            common = {**group, "init": seed_score.init}
            for target in TARGETS:
                write(common, "seed epochs, training loss", target, seed_score.train[target])
                write(common, "seed epochs, grid MSE", target, seed_score.grid[target])
        if track == "seed" or not tests:
            continue
        for found in score(own, reference, tune_on_test=tune_on_test):
            common = {**group, "init": found.init}
            for target, values in found.targets.items():
                ratios: dict[str, Any] = {}
                for to, ratio in (("reference", values.to_reference), ("best", values.to_best)):
                    for field in ("low", "high") if ratio else ():
                        ratios[f"{to}_{field}"] = getattr(ratio, field)
                    if ratio:
                        ratios |= {f"{to}_init": ratio.to, f"{to}_ratio": ratio.mean}
                write({**common, **ratios}, "epochs", target, values.epochs)
                write(common, "seconds", target, values.seconds)
    return out.getvalue()


def protocol_markdown() -> str:
    """The protocol as a table, from the code that measures."""
    header = ["field", "value", "meaning"]
    rows = []
    for field in dataclasses.fields(Protocol):
        value = field.default
        shown = ", ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
        rows.append([f"`{field.name}`", shown, field.metadata["help"]])
    targets = ", ".join(f"{target:g}" for target in TARGETS)
    return f"Protocol version {PROTOCOL_VERSION}; targets {targets}.\n\n" + _table(
        header, rows, False
    )
