"""Inits x held-out images x budgets -> records, one table and one picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean, median

from torch import Tensor

from hyperinit.fit import preview
from hyperinit.protocol import TARGETS, Protocol, Record, cost_to_target, to_line
from hyperinit.store import write_atomically
from hyperinit.trial import Init, run_trial


@dataclass(frozen=True)
class Trial:
    """One fit of a comparison, with what it showed at the start and at the end."""

    record: Record
    shown_start: Tensor
    shown_end: Tensor


def run_comparison(
    inits: Sequence[Init],
    images: Sequence[tuple[str, Tensor]],
    protocol: Protocol,
    *,
    seed: int = 0,
    wrap: Callable[[list[tuple[Init, float, float]]], Iterable[tuple[Init, float, float]]] = list,
) -> list[Trial]:
    """Every init on every image, at every budget and every learning rate of the protocol.

    Args:
        images: (name, image (3, size, size) in [0, 1]).
        seed: Added to an image's index, it draws the init and the pixel order.
        wrap: A progress bar around the list of (init, budget, lr).
    """
    grid = [
        (init, budget, lr)
        for init in inits
        for budget in protocol.budgets_epochs
        for lr in protocol.lrs
    ]
    trials = []
    for init, budget, lr in wrap(grid):
        for index, (name, image) in enumerate(images):
            record, result = run_trial(
                init,
                image,
                name,
                protocol=protocol,
                budget_epochs=budget,
                lr=lr,
                seed=seed + index,
            )
            start = init.start(image, seed + index)
            trials.append(Trial(record, preview(start, image), preview(result.params, image)))
    return trials


def best_lrs(records: Iterable[Record]) -> dict[tuple[str, float], float]:
    """(init, budget) -> the learning rate with the lowest mean final error over images."""
    errors: dict[tuple[str, float], dict[float, list[float]]] = {}
    for record in records:
        by_lr = errors.setdefault((record.init, record.budget_epochs), {})
        by_lr.setdefault(record.lr, []).append(record.mse)
    return {key: min(by_lr, key=lambda lr: fmean(by_lr[lr])) for key, by_lr in errors.items()}


def at_best_lr(records: Sequence[Record]) -> list[Record]:
    """The records that `best_lrs` chooses."""
    chosen = best_lrs(records)
    return [r for r in records if r.lr == chosen[r.init, r.budget_epochs]]


def _cost(value: float) -> str:
    return f"{value:.3g}" if isfinite(value) else "-"


def comparison_table(records: Sequence[Record]) -> str:
    """Markdown: one row an init, each at its best learning rate for every budget.

    Errors are means over images. Epochs and seconds to a target are medians over images of the
    log-log interpolation between budgets, "-" where the median image does not reach it.
    """
    records = at_best_lr(records)
    budgets = sorted({record.budget_epochs for record in records})
    images = {record.image for record in records}
    header = ["init", "PSNR at step 0, dB", *(f"MSE after {b:g} epochs (LR)" for b in budgets)]
    header += [f"epochs to {t:g}" for t in TARGETS] + [f"seconds to {t:g}" for t in TARGETS]
    rows = []
    for init in dict.fromkeys(record.init for record in records):
        own = [record for record in records if record.init == init]
        row = [init, f"{fmean(r.start_psnr for r in own if r.budget_epochs == budgets[0]):.1f}"]
        for budget in budgets:
            rung = [record for record in own if record.budget_epochs == budget]
            row.append(f"{fmean(record.mse for record in rung):.3g} ({rung[0].lr:g})")
        ladders = [
            sorted((r for r in own if r.image == image), key=lambda r: r.budget_epochs)
            for image in images
        ]
        for column in (0, 2):  # of a curve's points: epochs, sec
            for target in TARGETS:
                row.append(
                    _cost(median(_ladder_cost(ladder, column, target) for ladder in ladders))
                )
        rows.append(row)
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _ladder_cost(ladder: Sequence[Record], column: int, target: float) -> float:
    """Cost to a target over the start and the rungs of one image."""
    costs = [ladder[0].curve[0][column], *(record.curve[-1][column] for record in ladder)]
    return cost_to_target(costs, [ladder[0].start_mse, *(r.mse for r in ladder)], target)


def write_comparison(
    trials: Sequence[Trial], images: Sequence[tuple[str, Tensor]], out: Path
) -> str:
    """Writes comparison.md, .jsonl and .png into a directory; returns the table."""
    records = [trial.record for trial in trials]
    table = comparison_table(records)
    write_atomically(out / "comparison.md", table.encode())
    write_atomically(
        out / "comparison.jsonl", "".join(to_line(record) + "\n" for record in records).encode()
    )
    write_atomically(out / "comparison.png", comparison_figure(trials, images))
    return table


def comparison_figure(trials: Sequence[Trial], images: Sequence[tuple[str, Tensor]]) -> bytes:
    """A PNG with a row per image: the image, then each init at step 0 and after each budget, at
    the learning rates of `best_lrs`."""
    from matplotlib.figure import Figure

    chosen = best_lrs(trial.record for trial in trials)
    shown = [t for t in trials if t.record.lr == chosen[t.record.init, t.record.budget_epochs]]
    inits = list(dict.fromkeys(trial.record.init for trial in shown))
    budgets = sorted({trial.record.budget_epochs for trial in shown})
    columns = 1 + len(inits) * (1 + len(budgets))
    figure = Figure(figsize=(1.3 * columns, 1.3 * len(images) + 0.5), dpi=100)
    grid = figure.subplots(len(images), columns, squeeze=False)
    for axes, (name, image) in zip(grid, images, strict=True):
        cells = [("image", image)]
        for init in inits:
            own = [t for t in shown if (t.record.init, t.record.image) == (init, name)]
            own.sort(key=lambda trial: trial.record.budget_epochs)
            cells.append((f"{init}\nstep 0", own[0].shown_start))
            cells += [(f"{init}\n{t.record.budget_epochs:g} epochs", t.shown_end) for t in own]
        for axis, (title, picture) in zip(axes, cells, strict=True):
            axis.imshow(picture.permute(1, 2, 0).cpu().numpy(), vmin=0, vmax=1)
            axis.axis("off")
            if axes is grid[0]:
                axis.set_title(title, fontsize=8)
    figure.tight_layout(pad=0.3)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
