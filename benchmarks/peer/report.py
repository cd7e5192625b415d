"""Record of `benchmarks/peers.py` -> tables in documents, and a chart."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peer.measure import LEVELS, STEP_MARKS
from benchmarks.peer.run import Record
from benchmarks.peer.table import CODED, CURVE, PEERS
from hyperinit.base.errors import InputError
from hyperinit.report.charts import png

DOCUMENTS = ("docs/results/peers.md", "README.md")
CHART = "docs/results/peers.png"

# Columns of a record's points.
STEPS, EPOCHS, SEC, PSNR, BYTES = range(5)

OURS = "ours"
COMPARED_AT = 40.0  # dB: where the table says how many times our seconds a peer takes
SHORT = (OURS, "33", "evos", "soft-mining", "nint", "paper", "siren-pytorch")  # of README.md
BUSY_SHARE = 0.9  # of a core: a peer that had less was not alone
CHART_LEVELS = [15 + 0.5 * i for i in range(71)]


@dataclass(frozen=True)
class Cost:
    """What it took: a number, or a bound of it (">" not within so much, "≤" with the first fit)."""

    value: float
    bound: str = ""

    def __str__(self) -> str:
        return f"{self.bound} {self.value:.3g}".strip()


def cost(record: Record, level: float, column: int) -> Cost:
    """What a peer's line says it took to a PSNR.

    Of a curve, where it first is there, between two looks; of fits that are told their end,
    between the last that is not and the first that is. In between the logarithm of the cost is
    linear in the PSNR.
    """
    last: Sequence[Any] | None = None
    for point in record["points"]:
        if point[PSNR] >= level:
            if last is None:
                return Cost(point[column], "" if record["kind"] == CURVE else "≤")
            part = (level - last[PSNR]) / (point[PSNR] - last[PSNR])
            low, high = last[column], point[column]
            if low > 0:
                return Cost(low * (high / low) ** part)
            return Cost(low + part * (high - low))
        last = point
    return Cost(max((point[column] for point in record["points"]), default=0.0), ">")


def together(costs: Sequence[Cost]) -> str:
    """Geometric mean over photographs; a bound where one of them is one."""
    if not costs:
        return "-"
    bounds = {one.bound for one in costs} - {""}
    if len(bounds) > 1:
        return "-"
    mean = math.exp(statistics.fmean(math.log(max(one.value, 1e-9)) for one in costs))
    reached = sum(one.bound != ">" for one in costs)
    some = f" ({reached} of {len(costs)})" if 0 < reached < len(costs) else ""
    return f"{Cost(mean, bounds.pop() if bounds else '')}{some}"


@dataclass(frozen=True)
class Group:
    """Lines that may be compared: of one size, network and number of threads.

    Attributes:
        title: What they have in common.
        peers: Peer -> photograph's hash -> its line.
    """

    title: str
    peers: dict[str, dict[str, Record]]

    def costs(self, name: str, level: float, column: int) -> list[Cost]:
        """Of all photographs."""
        return [cost(record, level, column) for record in self.peers[name].values()]

    def ratios(self, name: str) -> list[Cost]:
        """Seconds to COMPARED_AT relative to ours, of photographs where ours is there."""
        found = []
        for image, record in self.peers[name].items():
            ours = self.peers.get(OURS, {}).get(image)
            if ours is None or (base := cost(ours, COMPARED_AT, SEC)).bound or base.value <= 0:
                continue
            own = cost(record, COMPARED_AT, SEC)
            found.append(Cost(own.value / base.value, own.bound))
        return found


def groups(records: Iterable[Record]) -> list[Group]:
    """Lines -> what may be compared, in the order of the file; of two for the same, the later."""
    found: dict[tuple[Any, ...], dict[str, dict[str, Record]]] = {}
    for record in records:
        image = record["image"]
        same = [image["height"], image["width"], record["depth"], record["width"]]
        peers = found.setdefault((*same, record["threads"]), {})
        peers.setdefault(record["peer"], {})[image["sha256"]] = record
    made = []
    for (height, wide, depth, width, threads), peers in found.items():
        lines = [record for images in peers.values() for record in images.values()]
        names = sorted({record["image"]["name"] for record in lines})
        title = f"{height} x {wide} pixels, SIREN {depth} x {width}, {threads} thread"
        title += f"{'s' if threads > 1 else ''}, {lines[-1]['machine']}, torch {lines[-1]['torch']}"
        busy = sum(line["cpu_share"] < BUSY_SHARE for line in lines)
        title += f"; photographs: {', '.join(names)}"
        if busy:
            title += f". {busy} of {len(lines)} fits had less than {BUSY_SHARE:.0%} of their cores"
        order = {name: peers[name] for name in PEERS if name in peers}
        made.append(Group(title, order))
    return made


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows)) + "\n"


def _dbs(after: str = "") -> list[str]:
    return [f"{level:g} dB{after}" for level in LEVELS]


def _fits(group: Group) -> list[str]:
    """Peers that are fits."""
    return [n for n, images in group.peers.items() if next(iter(images.values()))["kind"] != CODED]


def _what(group: Group, name: str) -> str:
    return str(next(iter(group.peers[name].values()))["what"])


def seconds_table(group: Group) -> str:
    """Seconds to each level, and times ours."""
    rows = [
        [
            f"`{name}`: {_what(group, name)}",
            *(together(group.costs(name, level, SEC)) for level in LEVELS),
            together(group.ratios(name)),
        ]
        for name in _fits(group)
    ]
    head = ["seconds to", *_dbs(), f"times ours, {COMPARED_AT:g} dB"]
    return _table(head, rows)


def epochs_table(group: Group) -> str:
    """Epochs to each level."""
    rows = [
        [f"`{name}`", *(together(group.costs(name, level, EPOCHS)) for level in LEVELS)]
        for name in _fits(group)
    ]
    return _table(["epochs to", *_dbs()], rows)


def steps_table(group: Group) -> str:
    """PSNR after so many steps, what a step sees, and memory."""
    rows = []
    for name in _fits(group):
        lines = list(group.peers[name].values())
        cells = []
        for mark in STEP_MARKS:
            psnrs = [p[PSNR] for line in lines for p in line["points"] if p[STEPS] == mark]
            cells.append(f"{statistics.fmean(psnrs):.2f}" if len(psnrs) == len(lines) else "-")
        facts = lines[-1]["facts"]
        lrs = sorted({line["facts"].get("lr", 0.0) for line in lines})
        rate = f"{lrs[0]:.2g}" if len(lrs) == 1 else f"{lrs[0]:.2g} to {lrs[-1]:.2g}"
        muon = sorted({line["facts"].get("muon_lr", 0.0) for line in lines} - {0.0})
        rate += f", Muon {muon[-1]:g}" if muon else ""
        peak = max(line["peak_mib"] for line in lines)
        more = max(line["peak_mib"] - line["base_mib"] for line in lines)
        batch, weights = facts.get("batch_pixels", 0), facts.get("weights", 0)
        rows.append(
            [f"`{name}`", *cells, f"{batch:,}", rate, f"{weights:,}", f"{peak:.0f} ({more:.0f})"]
        )
    steps = [f"{mark:,}" for mark in STEP_MARKS]
    head = ["PSNR in dB after steps", *steps, "pixels a step", "rate", "weights", "peak MiB"]
    return _table(head, rows)


def bytes_table(group: Group) -> str:
    """Bytes of files that show a picture as well."""
    rows = []
    for name, images in group.peers.items():
        if name in _fits(group):
            continue
        cells = []
        for level in LEVELS:
            sizes = [
                min((p[BYTES] for p in line["points"] if p[PSNR] >= level), default=None)
                for line in images.values()
            ]
            known = [size for size in sizes if size is not None]
            mean = statistics.fmean(known) if known else 0.0
            cells.append(f"{mean:,.0f}" if len(known) == len(sizes) else "-")
        rows.append([f"`{name}`", *cells])
    for name in (OURS,):
        for line in list(group.peers.get(name, {}).values())[-1:]:
            size = 4 * line["facts"]["weights"]
            rows.append(["a SIREN as it is stored, float32", *[f"{size:,}"] * len(LEVELS)])
    return _table(["bytes to", *_dbs()], rows) if rows else ""


def short_table(group: Group) -> str:
    """A few rows for README.md."""
    rows = [
        [
            _what(group, name),
            together(group.costs(name, 35.0, SEC)),
            together(group.costs(name, 40.0, SEC)),
            together(group.ratios(name)),
        ]
        for name in SHORT
        if name in group.peers
    ]
    return _table(["seconds to", "35 dB", "40 dB", "times ours, 40 dB"], rows)


TABLES: dict[str, Callable[[Group], str]] = {
    "seconds": seconds_table,
    "epochs": epochs_table,
    "steps": steps_table,
    "bytes": bytes_table,
    "short": short_table,
}
NOTHING = "Not measured yet.\n"


def block(name: str, records: Sequence[Record]) -> str:
    """One generated block; "short" is of the first group alone.

    Raises:
        InputError: no such table.
    """
    if name not in TABLES:
        raise InputError(f"a block of peers is one of {', '.join(TABLES)}, not {name!r}")
    found = groups(records)[: 1 if name == "short" else None]
    if not found:
        return NOTHING
    text = "\n".join(f"{group.title}\n\n{TABLES[name](group)}" for group in found)
    picture = f"\n![PSNR against seconds]({Path(CHART).name})\n"
    return text + picture if name == "seconds" else text


def update_document(text: str, records: Sequence[Record], source: str) -> str:
    """A document with its `<!-- peers: NAME -->` to `<!-- /peers -->` blocks made anew.

    Raises:
        InputError: it has none, or one does not end.
    """
    whole = r"(^<!-- peers: (?P<name>\w+) -->\n).*?(^<!-- /peers -->$)"
    opened = len(re.findall(r"^<!-- peers: ", text, re.MULTILINE))
    new, count = re.subn(
        whole,
        lambda found: f"{found[1]}{block(found['name'], records)}{found[3]}",
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    if count == 0 or count != opened:
        raise InputError(f"{source}: {opened} blocks of peers open, {count} of them end")
    return new


def chart_png(records: Sequence[Record]) -> bytes:
    """PSNR against seconds of the first group: geometric means over its photographs."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    group = groups(records)[0]
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(_fits(group)):
        places = []
        for level in CHART_LEVELS:
            costs = group.costs(name, level, SEC)
            if all(not one.bound and one.value > 0 for one in costs):
                logs = [math.log(one.value) for one in costs]
                places.append((math.exp(statistics.fmean(logs)), level))
        if places:
            width = 3.0 if name == OURS else 1.3
            x, y = zip(*places, strict=True)
            axes.plot(x, y, label=name, color=colormaps["tab20"](i % 20), linewidth=width)
    for level in LEVELS:
        axes.axhline(level, color="grey", linewidth=0.8, linestyle=":", zorder=0)
    title = group.title.partition(";")[0]
    axes.set(xscale="log", xlabel="seconds of one fit", ylabel="PSNR, dB", title=title)
    axes.title.set_fontsize("medium")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    return png(figure)
