"""Inits x held-out images x budgets -> records, one table and one picture."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.files import numbered, write_atomically, write_or_spare
from hyperinit.bench.trial import Trial
from hyperinit.images.save import webp
from hyperinit.inits.start import Init
from hyperinit.photos.workload import NamedImage
from hyperinit.record.protocol import Protocol
from hyperinit.record.records import Record, to_line
from hyperinit.record.thumbnails import Thumbnails, folder_of
from hyperinit.report.charts import plain_text, png
from hyperinit.report.tables import at_best_lr, comparison_table
from hyperinit.score.groups import choice_at, select_choices
from hyperinit.siren.signals import preview

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShownFit:
    """One fit of a comparison, with its renderings (3, H, W) at the start and at the end."""

    record: Record
    start: Tensor
    end: Tensor


def comparison_size(inits: int, images: int, protocol: Protocol) -> int:
    """The number of fits that `run_comparison` makes."""
    tuned = len(protocol.tuned_budgets)
    return inits * images * (tuned * len(protocol.lrs) + len(protocol.budgets_epochs) - tuned)


def run_comparison(
    inits: Sequence[Init], images: Sequence[NamedImage], protocol: Protocol, *, seed: int = 0
) -> Iterator[ShownFit]:
    """Fits every init on every image, at every budget and every learning rate of the protocol.

    Budgets above `lr_budget_epochs` are fitted at the rate that was best at smaller budgets, as in
    the tuned track. Unlike there, rates are chosen on the images that are compared.

    Args:
        images: Images at the protocol's size.
        seed: Plus an image's index, the seed of the init and the pixel order; after the largest
            valid seed comes 0.
    """
    seeds = [(seed + i) % 2**63 for i in range(len(images))]
    for init in inits:
        starts = [
            preview(init.start(shown.image, own).params, shown.image)
            for own, shown in zip(seeds, images, strict=True)
        ]
        records: list[Record] = []
        for budget in sorted(protocol.budgets_epochs):
            best = choice_at(select_choices(records, average=fmean), init.name, budget)
            tuned = budget in protocol.tuned_budgets
            lrs = protocol.lrs if tuned or best is None else (best.lr,)
            for lr, (i, shown) in itertools.product(lrs, enumerate(images)):
                trial = Trial(init, shown, protocol, budget, lr, seeds[i])
                record, result = trial.run()
                records.append(record)
                yield ShownFit(record, starts[i], preview(result.params, shown.image))


def free_name(out: Path) -> str:
    """The first name of comparison, comparison-2, ... that is free in a directory."""
    return next(name for name in numbered("comparison") if not (out / f"{name}.jsonl").exists())


def write_comparison(
    fits: Sequence[ShownFit], images: Sequence[NamedImage], out: Path, name: str = "comparison"
) -> str:
    """Writes NAME.md, .jsonl, .png and thumbnails into a directory; returns the table.

    If pictures cannot be made or written, a warning says so; the numbers are written anyway.
    """
    records = [fit.record for fit in fits]
    table = comparison_table(records)
    lines = "".join(to_line(record) + "\n" for record in records)
    write = partial(write_atomically, content=lines.encode())
    write_or_spare(out / f"{name}.jsonl", write, "the comparison")
    write_atomically(out / f"{name}.md", table.encode())
    try:
        _write_pictures(fits, images, out, name)
    except (InputError, OSError, ImportError) as error:
        reason = " ".join(str(error).split())
        _logger.warning("no pictures of the comparison (%s); its numbers are written", reason)
    return table


def _write_pictures(
    fits: Sequence[ShownFit], images: Sequence[NamedImage], out: Path, name: str
) -> None:
    write_atomically(out / f"{name}.png", png(comparison_figure(fits, images)))
    thumbnails = Thumbnails(folder_of(out / f"{name}.jsonl"))
    shown = {image.hash: image.image for image in images}
    chosen = {record.trial for record in at_best_lr([fit.record for fit in fits])}
    for fit in fits:
        if fit.record.trial in chosen:
            pictures = (shown[fit.record.image_hash], fit.start, fit.end)
            thumbnails.add(fit.record, *map(webp, pictures))


def comparison_figure(fits: Sequence[ShownFit], images: Sequence[NamedImage]) -> Figure:
    """A row per image: the image, then each init at step 0 and after each budget, at the learning
    rates of `at_best_lr`."""
    from matplotlib.figure import Figure

    chosen = {record.trial for record in at_best_lr(fit.record for fit in fits)}
    fits = [fit for fit in fits if fit.record.trial in chosen]
    fits.sort(key=lambda fit: fit.record.budget_epochs)
    inits = list(dict.fromkeys(fit.record.label for fit in fits))
    budgets = sorted({fit.record.budget_epochs for fit in fits})
    columns = 1 + len(inits) * (1 + len(budgets))
    figure = Figure(figsize=(0.9 * columns, 0.9 * len(images) + 0.4), layout="constrained")
    grid = figure.subplots(len(images), columns, squeeze=False)
    for row, (axes, image) in enumerate(zip(grid, images, strict=True)):
        cells = [("image", image.image)]
        for init in inits:
            own = [f for f in fits if (f.record.label, f.record.image) == (init, image.name)]
            name = plain_text(init)
            cells.append((f"{name}\nstep 0", own[0].start))
            cells += [(f"{name}\n{f.record.budget_epochs:g} epochs", f.end) for f in own]
        for axis, (title, picture) in zip(axes, cells, strict=True):
            axis.imshow(picture.permute(1, 2, 0).cpu().numpy(), vmin=0, vmax=1)
            axis.axis("off")
            if row == 0:
                axis.set_title(title, fontsize=7)
    return figure
