"""Inits x held-out images x budgets -> records, one table and one picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from hyperinit.fit import preview
from hyperinit.protocol import Protocol, Record, to_line
from hyperinit.report import at_best_lr, comparison_table
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
    the learning rates of `at_best_lr`."""
    from matplotlib.figure import Figure

    chosen = {record.trial for record in at_best_lr(trial.record for trial in trials)}
    shown = [trial for trial in trials if trial.record.trial in chosen]
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
