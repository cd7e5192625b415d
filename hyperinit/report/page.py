"""Records and thumbnails -> one HTML file that needs nothing else: no network, no other file.

Its Content-Security-Policy forbids every request and every script but its own, so a name that
slipped through unescaped could neither. The same records give the same page, byte for byte.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from math import inf, isfinite
from pathlib import Path
from statistics import fmean, median
from string import Template

from hyperinit.base.errors import InputError
from hyperinit.record.protocol import TARGETS, Protocol
from hyperinit.record.records import Record
from hyperinit.record.thumbnails import SHOWN_EPOCHS, Thumbnails
from hyperinit.report.svg import DARK, LIGHT, STYLE, STYLES, Series, chart, sample
from hyperinit.score.costs import (
    Cost,
    Pair,
    Ratio,
    geometric_mean,
    number,
    performance_profile,
    ratio,
    solved_share,
)
from hyperinit.score.score import TUNING, Ladder, choose_ladders, groups, ladder_costs, score_seed

# Track -> what it measures. Others may be measured too; they have no words here.
TRACKS = {
    "tuned": "Every init is fitted alike, at its own best learning rate.",
    "seed": "As the seed experiment ran it: constant rate from a range test, random points.",
    "open": "The fit itself may differ; the name of an init then says how.",
    "frozen": "Some layers are left as the init made them: the numbers behind “frozen”, from 0.",
}
MEANINGS = {
    0.08: "low frequencies are there",
    0.02: "most of the structure is there",
    8e-4: "it largely looks like the image",
}
PICTURE_BYTES = 3_500_000  # of all thumbnails, encoded: a page stays below 5 MB
SHOWN_IMAGES = 60  # of a group, in the table per image
NAME_CHARS = 60


@dataclass(frozen=True)
class Group:
    """Records that may be compared, as a page tells of them.

    Attributes:
        track, workload: See `score.groups`.
        tests: Its records without those that chose rates.
        tuned_on: How many images rates were chosen on; 0 if on the test images or by a range test.
        ladders: Init -> pair -> its runs.
        epochs, seconds: Init -> target -> cost; no seconds in the seed track.
    """

    track: str
    workload: str
    tests: Sequence[Record]
    tuned_on: int
    ladders: Mapping[str, Mapping[Pair, Ladder]]
    epochs: Mapping[str, Mapping[float, Cost]]
    seconds: Mapping[str, Mapping[float, Cost]]

    @property
    def inits(self) -> list[str]:
        """From the fastest to the slowest."""
        return self.ranked(self.target)

    @property
    def target(self) -> float:
        """The hardest that the median pair of some init reaches; else that any pair reaches."""
        costs = [(t, cost) for own in self.epochs.values() for t, cost in own.items()]
        usual = [t for t, cost in costs if isfinite(cost.median)]
        return min(usual or [t for t, cost in costs if cost.hits], default=max(TARGETS))

    def ranked(self, target: float) -> list[str]:
        """Inits by their cost to a target, then by their error after the largest budget."""

        def rank(init: str) -> tuple[float, ...]:
            cost = self.epochs[init][target]
            return cost.median, -cost.hits / cost.n, self.final_mse(init)

        return sorted(self.ladders, key=rank)

    def final_mse(self, init: str, budget: float | None = None) -> float:
        """Geometric mean over pairs, of their largest budget if none is given."""
        runs = [ladder[budget or max(ladder)] for ladder in self.ladders[init].values()]
        return geometric_mean(run.mse for run in runs)


def read_groups(records: Iterable[Record], *, tune_on_test: bool = False) -> list[Group]:
    """Every group that has test runs, the tuned track first.

    Args:
        records: Of any tracks and workloads.
        tune_on_test: See `score.score`.

    Raises:
        InputError: there are none, or the runs of an init cannot be told apart.
    """
    found = []
    for (track, workload), own in groups(records).items():
        tests = [record for record in own if not record.track.endswith(TUNING)]
        if not tests:
            continue
        images = {record.image_hash for record in tests}
        tuned_on = len({record.image_hash for record in own} - images)
        if track == "seed":
            ladders: dict[str, dict[Pair, Ladder]] = {}
            for record in tests:
                pairs = ladders.setdefault(record.init, {})
                pairs.setdefault((record.image_hash, record.seed), {})[record.budget_epochs] = (
                    record
                )
            epochs = {s.init: s.grid for s in score_seed(tests)}
            found.append(Group(track, workload, tests, 0, ladders, epochs, {}))
            continue
        chosen = choose_ladders(own, tune_on_test=tune_on_test)
        costs = [
            {i: {t: ladder_costs(p, column, unit, t) for t in TARGETS} for i, p in chosen.items()}
            for column, unit in ((0, "epochs"), (2, "seconds"))
        ]
        found.append(Group(track, workload, tests, tuned_on, chosen, *costs))
    if not found:
        raise InputError("no records of test runs")
    order = list(TRACKS)
    return sorted(found, key=lambda g: order.index(g.track) if g.track in order else len(order))


def headline(group: Group, reference: str = "33") -> list[str]:
    """Which init is fastest, by how much, how sure that is, and on what: plain sentences."""
    target, inits = group.target, group.inits
    first, costs = inits[0], {init: group.epochs[init][target] for init in inits}
    name, others = shown(first), f"{len(inits)} inits"
    unit = costs[first].unit
    level = f"MSE {target:g} ({MEANINGS[target]})"
    if not costs[first].hits:
        top = max(record.budget_epochs for record in group.tests)
        sentences = [
            f"No init reaches even {level}. The lowest error after {top:g} epochs is"
            f" {number(group.final_mse(first))}, from {name}."
        ]
    elif not isfinite(costs[first].median):
        sentences = [
            f"Within the largest budget most fits reach {level} from none of the {others};"
            f" {name} gets there most often: {_share(costs[first])}."
        ]
    elif len(inits) == 1:
        sentences = [f"{name} reaches {level} after a median of {_median(costs[first])} {unit}."]
    else:
        second = costs[inits[1]]
        sentences = [
            f"{name} is the fastest of {others}: it reaches {level} after a median of"
            f" {_median(costs[first])} {unit}; {shown(inits[1])}, the runner-up, after"
            f" {_median(second)}."
        ]
    if costs[first].hits:
        sentences += _comparisons(group, target, reference)
        harder = [f"{t:g}" for t in TARGETS if t < target]
        if harder:
            most = f"{number(max(costs[first].limits.values()))} {unit}"
            sentences.append(
                f"No init gets most fits to {' or '.join(harder)} within the {most} that were run."
            )
    images = {record.image_hash for record in group.tests}
    pairs = {(record.image_hash, record.seed) for record in group.tests}
    fits = f"{_count(len(images), 'test image')}, {_count(len(pairs), 'pair')} of image and seed"
    rates = f"on {_count(group.tuned_on, 'other image')}"
    if not group.tuned_on:
        rates = "by a range test" if group.track == "seed" else "on these very images"
    sentences.append(f"Measured on {fits}; {group.workload}; learning rates chosen {rates}.")
    return sentences


def _comparisons(group: Group, target: float, reference: str) -> list[str]:
    """The first init against the runner-up and the reference, in epochs and in seconds."""
    first, *rest = group.inits
    others = [*rest[:1], *(i for i in (reference,) if i in rest[1:])]
    sentences = []
    for other in others:
        for costs in (group.epochs, group.seconds):
            if costs:
                own = costs[first][target]
                found = ratio(other, own, costs[other][target])
                sentences.append(_compared(shown(first), shown(other), own.unit, found))
    return [sentence for sentence in sentences if sentence]


def _compared(name: str, other: str, unit: str, found: Ratio) -> str:
    if found.mean is None:
        if found.at_most is not None:
            return f"It needs at most {number(found.at_most)} times the {unit} of {other}."
        return ""
    text = f"It needs {number(found.mean)} times the {unit} of {other}"
    if found.low is None or found.high is None:
        return f"{text} on a single image, the only one to tell from: others may differ."
    text += f" (95 % interval over images {number(found.low)} to {number(found.high)}"
    text += ": a tie cannot be excluded)" if found.low <= 1 <= found.high else ")"
    if found.n < found.pairs:
        text += f", over the {found.n} of {found.pairs} pairs that both reach it on"
    return text + "."


def page(
    records: Iterable[Record],
    reference: str = "33",
    *,
    tune_on_test: bool = False,
    thumbnails: Thumbnails | None = None,
    sources: Sequence[Path] = (),
) -> str:
    """The page, as text for a file index.html.

    Args:
        records: Of any tracks and workloads.
        reference: The init that others are compared with besides the runner-up.
        tune_on_test: See `score.score`.
        thumbnails: Pictures of the fits; what is not there is left out.
        sources: The record files, for the page to name with their digests.

    Raises:
        InputError: there are no test runs, or they cannot be compared.
    """
    records = list(records)
    found = read_groups(records, tune_on_test=tune_on_test)
    names = sorted({init for group in found for init in group.ladders})
    # A style keeps to its init over the whole page.
    styles = {init: i for i, init in enumerate(names)}
    pictures = _Pictures(thumbnails or Thumbnails([]))
    sections = [_group(group, i, reference, styles, pictures) for i, group in enumerate(found)]
    links = [f'<a href="#group{i}">{_html(group.track)} track</a>' for i, group in enumerate(found)]
    links.append('<a href="#protocol">Protocol</a><a href="#provenance">Provenance</a>')
    best, *details = headline(found[0], reference)
    body = [
        "<h1>Which initial weights fit a SIREN to an image fastest?</h1>",
        f'<p class="headline">{_html(best)}</p>',
        *(f"<p>{_html(sentence)}</p>" for sentence in details),
        _overview(found[0], reference, styles),
        f'<nav aria-label="Sections">{"".join(links)}</nav>',
        *sections,
        _protocol(found),
        _provenance(records, sources),
    ]
    template = files("hyperinit.report").joinpath("page.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", template, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    policy += f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return Template(template).substitute(
        csp=policy,
        title=_html(f"hyperinit report: {best}"[:120]),
        body="\n".join(body),
        light=LIGHT,
        dark=DARK,
        charts=STYLE,
    )


def shown(name: object) -> str:
    """A name as a page can show it: one line without control characters, and not too long."""
    text = "".join(c if c.isprintable() else " " for c in str(name))
    text = " ".join(text.split()) or "(no name)"
    return text if len(text) <= NAME_CHARS else text[: NAME_CHARS - 1] + "…"


def _html(text: object) -> str:
    return escape(str(text).encode(errors="replace").decode(), quote=True)


def _name(name: object) -> str:
    return _html(shown(name))


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _median(cost: Cost) -> str:
    return str(cost).partition(f" {cost.unit}")[0]


def _share(cost: Cost) -> str:
    return f"{cost.hits} of {cost.n}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], label: str) -> str:
    """Cells are HTML; the first of a row heads it."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    lines = [
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    ]
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{_html(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _overview(group: Group, reference: str, styles: Mapping[str, int]) -> str:
    """A line per init with a bar of what it costs."""
    target = group.target
    costs = {init: group.epochs[init][target] for init in group.inits}
    unit = next(iter(costs.values())).unit
    longest = max(
        cost.median if isfinite(cost.median) else max(cost.limits.values())
        for cost in costs.values()
    )
    rows = []
    for init, cost in costs.items():
        length = cost.median if isfinite(cost.median) else longest
        part = 100 * length / longest if longest else 0.0
        kind = "bar" if isfinite(cost.median) else "open"  # open: at least this
        bar = (
            f'<svg class="hbar s{styles[init] % STYLES}" viewBox="0 0 102 12" aria-hidden="true"'
            f' preserveAspectRatio="none"><rect class="{kind}" x="1" y="1" width="{part:.1f}"'
            ' height="10"/></svg>'
        )
        compared = "1, by definition"
        if init != reference:
            compared = "-"
            if reference in costs:
                compared = _html(ratio(reference, cost, costs[reference]))
        starts = [next(iter(ladder.values())) for ladder in group.ladders[init].values()]
        psnr = fmean(start.start_psnr for start in starts)
        legend = f"{sample(styles[init])} {_name(init)}"
        rows.append(
            [legend, f"{bar} {_html(_median(cost))}", _share(cost), compared, f"{psnr:.1f} dB"]
        )
    header = [
        "init",
        f"median {unit} to {target:g}",
        "pairs that reach it",
        f"times {_name(reference)}",
        "PSNR at step 0",
    ]
    return _table(header, rows, "inits, from the fastest to the slowest")


def _group(
    group: Group,
    index: int,
    reference: str,
    styles: Mapping[str, int],
    pictures: _Pictures,
) -> str:
    parts = [
        f'<section id="group{index}"><h2>{_name(group.track)} track: {_html(group.workload)}</h2>',
        f"<p>{_html(TRACKS.get(group.track, ''))}</p>",
    ]
    if index:
        parts += [f"<p>{_html(sentence)}</p>" for sentence in headline(group, reference)]
        parts.append(_overview(group, reference, styles))
    parts += [_charts(group, styles), _costs(group), _frozen(group)]
    parts += [_images(group, styles, pictures), "</section>"]
    return "\n".join(part for part in parts if part)


def _figure(svg: str, caption: str, inits: Iterable[str], styles: Mapping[str, int]) -> str:
    legend = "".join(f"<li>{sample(styles[init])} {_name(init)}</li>" for init in inits)
    return (
        f'<figure>{svg}<ul class="legend">{legend}</ul><figcaption>{caption}</figcaption></figure>'
    )


def _charts(group: Group, styles: Mapping[str, int]) -> str:
    inits, target = group.inits, group.target
    figures = []
    unit = group.epochs[inits[0]][target].unit
    for column, name in ((0, "epochs"), (2, "seconds")):
        curves = [Series(shown(i), styles[i], mse_curve(group, i, column)) for i in inits]
        caption = f"Error against {name}: geometric means over pairs. "
        caption += (
            "Every point is the end of runs with that budget."
            if group.track != "seed"
            else "The median of the runs at every evaluation."
        )
        drawn = chart(
            curves,
            title=f"MSE against {name}, by init",
            xlabel=name,
            ylabel="MSE over all pixels",
            targets=TARGETS,
        )
        figures.append(_figure(drawn, caption + " Dotted: the three targets.", inits, styles))
    solved = []
    for init in inits:
        cost = group.epochs[init][target]
        x, y = solved_share(cost)
        end = [(max(cost.limits.values()), y[-1] if y else 0.0)]
        solved.append(
            Series(shown(init), styles[init], [(0.0, 0.0), *zip(x, y, strict=True), *end])
        )
    drawn = chart(
        solved,
        title=f"share of pairs that reach MSE {target:g}, by init",
        xlabel=unit,
        ylabel="share of pairs",
        share=True,
    )
    caption = f"Share of pairs at MSE {target:g} (Kaplan-Meier): higher and further left is better."
    figures.append(_figure(drawn, caption, inits, styles))
    profiles = performance_profile({i: group.epochs[i][target] for i in inits})
    end_x = max((x[-1] for x, _ in profiles.values() if x), default=1.0) * 1.1
    lines = []
    for init in inits:
        x, y = profiles[init]
        points = [(0.0, 0.0), *((a - 1, b) for a, b in zip(x, y, strict=True))]
        points.append((end_x - 1, points[-1][1]))
        lines.append(Series(shown(init), styles[init], points))
    drawn = chart(
        lines,
        title="performance profile, by init",
        xlabel=f"{unit} above the pair's cheapest init, as a fraction of it",
        ylabel="share of pairs",
        share=True,
    )
    caption = (
        "Performance profile: at 0, the share of pairs on which an init is the cheapest; at 1,"
    )
    caption += " on which it costs at most twice as much."
    figures.append(_figure(drawn, caption, inits, styles))
    return f'<div class="charts">{"".join(figures)}</div>'


def mse_curve(group: Group, init: str, column: int) -> list[tuple[float, float]]:
    """The start and the end of every rung; in the seed track every evaluation of its one rung."""
    ladders = list(group.ladders[init].values())
    if group.track == "seed":
        runs = [run for ladder in ladders for run in ladder.values()]
        by_step: dict[float, list[tuple[float, ...]]] = {}
        for row in (row for run in runs for row in run.curve):
            by_step.setdefault(row[1], []).append(row)
        full = [rows for _, rows in sorted(by_step.items()) if len(rows) == len(runs)]
        every = max(1, len(full) // 150)
        return [
            (median(row[column] for row in rows), median(row[3] for row in rows))
            for rows in [*full[::every], *full[-1:]]
        ]
    starts = [next(iter(ladder.values())).curve[0] for ladder in ladders]
    points = [(fmean(row[column] for row in starts), geometric_mean(row[3] for row in starts))]
    for budget in sorted({budget for ladder in ladders for budget in ladder}):
        ends = [ladder[budget] for ladder in ladders if budget in ladder]
        cost = median(run.curve[-1][column] for run in ends)
        points.append((cost, geometric_mean(run.mse for run in ends)))
    return points


def _costs(group: Group) -> str:
    header = ["init"]
    columns: list[tuple[Mapping[str, Mapping[float, Cost]], float]] = []
    for costs in (group.epochs, group.seconds):
        for target in TARGETS if costs else ():
            columns.append((costs, target))
            header.append(f"{costs[group.inits[0]][target].unit} to {target:g}")
    rows = [
        [
            _name(init),
            *(
                f"{_html(_median(c[init][t]))} ({c[init][t].hits}/{c[init][t].n})"
                for c, t in columns
            ),
        ]
        for init in group.inits
    ]
    note = "Medians over pairs, with how many get there; those that never do count as infinite."
    return f'<h3>Cost of each target</h3><p class="note">{note}</p>' + _table(header, rows, "costs")


def _frozen(group: Group) -> str:
    """What frozen layers do to the error, for inits with and without."""
    frozen: dict[str, Sequence[int]] = {
        record.init: tuple(record.settings.get("frozen_layers") or ()) for record in group.tests
    }
    if not any(frozen.values()):
        return ""
    rows = []
    for init in group.ladders:
        base = init.partition(" frozen ")[0]
        own, free = group.final_mse(init), group.final_mse(base) if base in group.ladders else inf
        layers = ", ".join(map(str, frozen[init])) or "none"
        times = f"{number(own / free)}" if isfinite(own) and isfinite(free) else "-"
        rows.append([_name(base), _html(layers), f"{own:.3g}", times])
    header = ["init", "frozen layers", "MSE after the largest budget", "times that of none frozen"]
    note = "A layer whose row says about 1 need not be trained from this init."
    return f'<h3>Frozen layers</h3><p class="note">{note}</p>' + _table(header, rows, "frozen")


class _Pictures:
    """Thumbnails as HTML, as many as fit on a page."""

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


def _picture(url: str, text: str, kind: str = "") -> str:
    return (
        f'<button type="button" class="zoom"><img{kind} src="{url}" alt="{_html(text)}"'
        ' loading="lazy"></button>'
    )


def _images(group: Group, styles: Mapping[str, int], pictures: _Pictures) -> str:
    """Every image, and what each init shows of it at step 0 and after some budgets."""
    thumbnails, inits, target = pictures.thumbnails, group.inits, group.target
    unit = group.epochs[inits[0]][target].unit
    by_image: dict[str, list[Record]] = {}
    for record in group.tests:
        by_image.setdefault(record.image_hash, []).append(record)
    parts = ["<h3>Image by image</h3>"]
    for at, (image_hash, records) in enumerate(list(by_image.items())[:SHOWN_IMAGES]):
        ladders = {init: _ladder(group.ladders[init], image_hash, thumbnails) for init in inits}
        runs = [run for found in ladders.values() if found for run in found[1].values()]
        budgets = sorted({run.budget_epochs for run in runs if thumbnails.end(run)})
        budgets = budgets or sorted({run.budget_epochs for run in runs})
        columns = [b for b in budgets if b in SHOWN_EPOCHS] or budgets[:4]
        image = shown(records[0].image)
        original = pictures.url(thumbnails.image, records[0])
        top = _picture(original, image, ' class="original"') if original else ""
        rows = []
        for init in inits:
            found = ladders[init]
            if found is None:
                continue
            pair, ladder = found
            runs = [next(iter(ladder.values()))]
            url = pictures.url(thumbnails.start, runs[0])
            label = f"{shown(init)} at step 0, {image}"
            cells = [_cell(url, label, f"{runs[0].start_psnr:.1f} dB")]
            for budget in columns:
                run = ladder.get(budget)
                url = pictures.url(thumbnails.end, run) if run else None
                label = f"{shown(init)} after {budget:g} epochs, {image}"
                cells.append(_cell(url, label, f"MSE {run.mse:.2g}" if run else "-"))
            cost = group.epochs[init][target]
            value = cost.values[pair]
            needed = number(value) if isfinite(value) else f"&gt; {number(cost.limits[pair])}"
            rows.append([f"{sample(styles[init])} {_name(init)}", *cells, needed])
        header = [
            "init",
            "step 0",
            *("1 epoch" if b == 1 else f"{b:g} epochs" for b in columns),
            f"{unit} to {target:g}",
        ]
        parts.append(
            f"<details{' open' if at < 6 else ''}><summary>{_html(image)}</summary>{top}"
            f"{_table(header, rows, image)}</details>"
        )
    if len(by_image) > SHOWN_IMAGES:
        parts.append(
            f'<p class="note">{len(by_image) - SHOWN_IMAGES} more images are in the CSV'
            " and the records.</p>"
        )
    if pictures.left_out:
        parts.append(
            '<p class="note">Further pictures are left out: the page would be too large.</p>'
        )
    return "\n".join(parts)


def _cell(url: str | None, label: str, text: str) -> str:
    picture = _picture(url, f"{label}, {text}") if url else ""
    return f'{picture}<span class="mse">{_html(text)}</span>'


def _ladder(
    pairs: Mapping[Pair, Ladder], image_hash: str, thumbnails: Thumbnails
) -> tuple[Pair, Ladder] | None:
    """The runs of an image with one seed: the lowest that has pictures, or the lowest."""
    own = sorted((pair, ladder) for pair, ladder in pairs.items() if pair[0] == image_hash)
    shown_first = (
        (pair, ladder)
        for pair, ladder in own
        if any(thumbnails.end(run) for run in ladder.values())
    )
    return next(shown_first, own[0] if own else None)


def _protocol(found: Sequence[Group]) -> str:
    helps = {f.name: f.metadata.get("help", "") for f in dataclasses.fields(Protocol)}
    parts = ['<section id="protocol"><h2>Protocol</h2>']
    targets = "; ".join(f"{target:g}: {MEANINGS[target]}" for target in TARGETS)
    parts.append(
        f"<p>Version {Protocol.version}. Errors are MSE over all pixels in ImageNet-normalised"
        f" units; targets {_html(targets)}. An epoch is as many pixel visits as the image"
        " has pixels;"
        " what an init does to make its start counts. Costs are interpolated, log-log, between"
        " budgets that were declared beforehand. Intervals are bootstraps over images.</p>"
    )
    for group in found:
        values: dict[str, set[str]] = {}
        for record in group.tests:
            fields = {**record.settings, "budgets_epochs": record.budget_epochs, "lrs": record.lr}
            for name, value in fields.items():
                text = f"{value:g}" if isinstance(value, float) else json.dumps(value)
                values.setdefault(name, set()).add(text)
        rows = [
            [_name(name), _html(_listed(own)), _html(helps.get(name, ""))]
            for name, own in sorted(values.items())
        ]
        parts.append(f"<h3>{_name(group.track)} track, {_html(group.workload)}</h3>")
        parts.append(_table(["setting", "value", "meaning"], rows, "settings"))
    return "\n".join([*parts, "</section>"])


def _listed(values: set[str]) -> str:
    def key(text: str) -> tuple[int, float, str]:
        try:
            return 0, float(text), text
        except ValueError:
            return 1, 0.0, text

    texts = [shown(text.strip('"')) for text in sorted(values, key=key)]
    return ", ".join(texts[:20]) + (", …" if len(texts) > 20 else "")


_SECONDS_DEPEND_ON = ("processor", "device", "threads", "workers", "torch")


def _provenance(records: Sequence[Record], sources: Sequence[Path]) -> str:
    """Where the numbers come from: files, commits, versions."""
    values: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.environment.items():
            values.setdefault(name, set()).add(str(value))
    rows = [[_name(name), _html(_listed(own))] for name, own in sorted(values.items())]
    parts = ['<section id="provenance"><h2>Environment and provenance</h2>']
    # Not by `values`: a record without workers differs from one with some.
    if len({tuple(str(r.environment.get(n)) for n in _SECONDS_DEPEND_ON) for r in records}) > 1:
        parts.append("<p>Runs were made in different environments: do not compare seconds.</p>")
    parts.append(_table(["environment", "found in the records"], rows, "environment"))
    inits: dict[str, str] = {}
    for record in records:
        inits.setdefault(record.init, json.dumps(record.init_facts, sort_keys=True))
    rows = [[_name(init), f"<code>{_html(text[:600])}</code>"] for init, text in inits.items()]
    parts.append("<h3>Inits</h3>" + _table(["init", "what identifies it"], rows, "inits"))
    files = [
        [_name(path.name), f"<code>{hashlib.sha256(path.read_bytes()).hexdigest()}</code>"]
        for path in sources
    ]
    if files:
        parts.append("<h3>Files</h3>" + _table(["records", "SHA-256"], files, "files"))
    parts.append(
        f"<p>{len(records)} records. Made by scripts/report.py of hyperinit.</p></section>"
    )
    return "\n".join(parts)
