"""One scored group -> the content of its section on the page, as plain values for the templates."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from typing import Any

from hyperinit.record.protocol import TARGETS
from hyperinit.record.records import Record
from hyperinit.record.thumbnails import SHOWN_EPOCHS, Thumbnails
from hyperinit.report.headline import headline, middle, share, shown_workload
from hyperinit.report.names import one_line, shown
from hyperinit.report.svg import Series, chart, sample
from hyperinit.report.tables import psnr_columns
from hyperinit.score.costs import Pair, decibels, number, performance_profile, solved_share
from hyperinit.score.groups import Ladder
from hyperinit.score.score import GroupScore, InitScore, Unit

PICTURE_BYTES = 3_500_000  # of all encoded thumbnails, so that a page stays below 5 MB
SHOWN_IMAGES = 60  # of a group, in the table of images
OPEN_IMAGES = 6

Styles = Mapping[str, int]  # init -> the style of its lines
View = dict[str, Any]


class Pictures:
    """Thumbnails as data URLs, as many as fit on a page."""

    def __init__(self, thumbnails: Thumbnails) -> None:
        self.thumbnails = thumbnails
        self.bytes = 0
        self.left_out = False

    def url(self, read: Callable[[Record], bytes | None], record: Record) -> str | None:
        """A picture as a data URL; None if there is none or the page is full."""
        content = read(record)
        if content is None:
            return None
        encoded = base64.b64encode(content).decode()
        if self.bytes + len(encoded) > PICTURE_BYTES:
            self.left_out = True
            return None
        self.bytes += len(encoded)
        return f"data:image/webp;base64,{encoded}"


def section(
    found: GroupScore, styles: Styles, pictures: Pictures, scores: Sequence[GroupScore] = ()
) -> View:
    """Everything that the section of a group shows; `scores` may have published PSNRs for it."""
    psnr_header, psnr_cells = psnr_columns(found, scores)
    unit = found.inits[0].targets[found.target].epochs.unit
    return {
        "track": shown(found.track.name),
        "workload": shown_workload(found),
        "meaning": found.track.meaning,
        "sentences": headline(found),
        "notes": list(map(one_line, found.notes)),
        "target": f"{found.target:g}",
        "unit": unit,
        "reference": shown(found.reference),
        "psnr_header": psnr_header,
        "overview": _overview(found, styles, psnr_cells),
        "charts": _charts(found, styles, unit),
        "costs": _costs(found),
        "frozen": _frozen(found),
        "images": _images(found, styles, pictures),
        "images_left_out": max(0, len({r.image_hash for r in found.group.tests}) - SHOWN_IMAGES),
        "pictures_left_out": pictures.left_out,
    }


def _overview(
    found: GroupScore, styles: Styles, psnr_cells: Mapping[str, Sequence[str]]
) -> list[View]:
    """A line per init with a bar for its cost."""
    costs = {s.init: s.targets[found.target].epochs for s in found.fastest_first}

    def length(init: str) -> float:
        cost = costs[init]
        return cost.median if isfinite(cost.median) else max(cost.limits.values())

    longest = max(map(length, costs))
    rows = []
    for s in found.fastest_first:
        cost, compared = costs[s.init], s.targets[found.target].to_reference
        own = length(s.init) if isfinite(cost.median) else longest
        against = "1, by definition" if s.init == found.reference else str(compared or "-")
        rows.append(
            {
                "style": styles[s.init],
                "name": shown(s.init),
                "sample": sample(styles[s.init]),
                "length": f"{100 * own / longest if longest else 0.0:.1f}",
                "kind": "bar" if isfinite(cost.median) else "open",  # open: at least this
                "median": middle(cost),
                "share": share(cost),
                "compared": against,
                "psnr": f"{decibels(s.start_psnr)} dB",
                "psnr_after": psnr_cells.get(s.init, ()),
            }
        )
    return rows


def _charts(found: GroupScore, styles: Styles, unit: str) -> View:
    inits, target = found.fastest_first, found.target
    figures = []
    ends = "Every point is the end of runs with that budget; lines end at the last complete budget."
    if found.track.along_curve:
        ends = "The median of the runs at every evaluation."
    units: tuple[Unit, ...] = ("epochs", "seconds") if found.has_seconds else ("epochs",)
    for name in units:
        drawn = chart(
            [Series(shown(s.init), styles[s.init], s.mse_curve(name)) for s in inits],
            title=f"MSE against {name}, by init",
            xlabel=name,
            ylabel="MSE over all pixels",
            targets=TARGETS,
        )
        caption = f"Error against {name}: geometric means over pairs. {ends}"
        figures.append((drawn, f"{caption} Dotted: the three targets."))
    drawn = chart(
        [_solved(s, styles, target) for s in inits],
        title=f"share of pairs that reach MSE {target:g}, by init",
        xlabel=unit,
        ylabel="share of pairs",
        share=True,
    )
    caption = f"Share of pairs at MSE {target:g} (Kaplan-Meier): higher and further left is better."
    figures.append((drawn, caption))
    drawn = chart(
        _profiles(inits, styles, target),
        title="performance profile, by init",
        xlabel=f"{unit} above the pair's cheapest init, as a fraction of it",
        ylabel="share of pairs",
        share=True,
    )
    caption = (
        "Performance profile: at 0, the share of pairs on which an init is the cheapest; at 1,"
    )
    figures.append((drawn, f"{caption} on which it costs at most twice as much."))
    legend = [(sample(styles[s.init]), shown(s.init)) for s in inits]
    return {"figures": figures, "legend": legend}


def _solved(s: InitScore, styles: Styles, target: float) -> Series:
    cost = s.targets[target].epochs
    x, y = solved_share(cost)
    end = [(max(cost.limits.values()), y[-1] if y else 0.0)]
    points = [(0.0, 0.0), *zip(x, y, strict=True), *end]
    return Series(shown(s.init), styles[s.init], points)


def _profiles(inits: Sequence[InitScore], styles: Styles, target: float) -> list[Series]:
    profiles = performance_profile({s.init: s.targets[target].epochs for s in inits})
    end_x = max((x[-1] for x, _ in profiles.values() if x), default=1.0) * 1.1
    lines = []
    for s in inits:
        x, y = profiles[s.init]
        points = [(0.0, 0.0), *((a - 1, b) for a, b in zip(x, y, strict=True))]
        points.append((end_x - 1, points[-1][1]))
        lines.append(Series(shown(s.init), styles[s.init], points))
    return lines


def _costs(found: GroupScore) -> View:
    columns = [
        (t, i) for i in range(len(found.inits[0].targets[TARGETS[0]].costs)) for t in TARGETS
    ]
    header = [f"{found.inits[0].targets[t].costs[i].unit} to {t:g}" for t, i in columns]
    rows = []
    for s in found.fastest_first:
        costs = [s.targets[t].costs[i] for t, i in columns]
        cells = [f"{middle(cost)} ({cost.hits}/{cost.n})" for cost in costs]
        rows.append((shown(s.init), cells))
    return {"header": header, "rows": rows}


def _frozen(found: GroupScore) -> list[tuple[str, list[str]]]:
    """The effect of frozen layers on the error, for inits with and without them."""
    layers = {s.init: list(s.runs[0].settings.get("frozen_layers") or ()) for s in found.inits}
    if not any(layers.values()):
        return []
    free = {s.runs[0].init: s.whole_rungs for s in found.inits if not layers[s.init]}
    rows = []
    order = {s.init: (s.runs[0].init, len(layers[s.init]), layers[s.init]) for s in found.inits}
    for s in sorted(found.inits, key=lambda s: order[s.init]):
        base = s.runs[0].init
        both = [budget for budget in s.whole_rungs if budget in free.get(base, s.whole_rungs)]
        own = s.rungs[max(both)].mse if both else s.final_mse
        to = free[base][max(both)].mse if both and base in free else inf
        times = number(own / to) if isfinite(own) and isfinite(to) and to > 0 else "-"
        frozen = ", ".join(map(str, layers[s.init])) or "none"
        rows.append((shown(base), [frozen, f"{own:.3g}", times]))
    return rows


def _images(found: GroupScore, styles: Styles, pictures: Pictures) -> list[View]:
    """Every image, with each init's rendering at step 0 and after some budgets."""
    by_image: dict[str, list[Record]] = {}
    for record in found.group.tests:
        by_image.setdefault(record.image_hash, []).append(record)
    return [
        _image(found, image_hash, records, styles, pictures) | {"open": at < OPEN_IMAGES}
        for at, (image_hash, records) in enumerate(list(by_image.items())[:SHOWN_IMAGES])
    ]


def _image(
    found: GroupScore,
    image_hash: str,
    records: Sequence[Record],
    styles: Styles,
    pictures: Pictures,
) -> View:
    thumbnails, image = pictures.thumbnails, shown(records[0].image)
    chosen = [(s, _ladder(s.ladders, image_hash, thumbnails)) for s in found.fastest_first]
    ladders = [(s, own) for s, own in chosen if own is not None]
    runs = [run for _, (_, ladder) in ladders for run in ladder.values()]
    budgets = sorted({run.budget_epochs for run in runs if thumbnails.end(run)})
    budgets = budgets or sorted({run.budget_epochs for run in runs})
    columns = [b for b in budgets if b in SHOWN_EPOCHS] or budgets[:4]
    original = pictures.url(thumbnails.image, records[0])
    rows = []
    for s, (pair, ladder) in ladders:
        first, name = next(iter(ladder.values())), shown(s.init)
        url = pictures.url(thumbnails.start, first)
        cells = [_cell(url, f"{name} at step 0, {image}", f"{decibels(first.start.psnr)} dB")]
        for budget in columns:
            run = ladder.get(budget)
            url = pictures.url(thumbnails.end, run) if run else None
            label = f"{name} after {budget:g} epochs, {image}"
            cells.append(_cell(url, label, f"MSE {run.mse:.2g}" if run else "-"))
        cost = s.targets[found.target].epochs
        value = cost.values[pair]
        needed = number(value) if isfinite(value) else f"> {number(cost.limits[pair])}"
        needed = f"<= {needed}" if pair in cost.at_most else needed
        legend = sample(styles[s.init])
        rows.append({"sample": legend, "name": name, "cells": cells, "needed": needed})
    header = ["1 epoch" if b == 1 else f"{b:g} epochs" for b in columns]
    return {"name": image, "original": original, "header": header, "rows": rows}


def _cell(url: str | None, label: str, text: str) -> View:
    return {"url": url, "alt": f"{label}, {text}", "text": text}


def _ladder(
    pairs: Mapping[Pair, Ladder], image_hash: str, thumbnails: Thumbnails
) -> tuple[Pair, Ladder] | None:
    """The runs of an image with one seed: the lowest seed that has pictures, or the lowest."""
    own = sorted(pair for pair in pairs if pair[0] == image_hash)
    with_pictures = (pair for pair in own if any(map(thumbnails.end, pairs[pair].values())))
    pair = next(with_pictures, own[0] if own else None)
    return None if pair is None else (pair, pairs[pair])
