"""Series of points -> one inline SVG chart, in the colours of its page.

Inits differ in line dash and marker shape, not only in colour. A chart has no fixed size and no
script, and makes no requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log, log10

from markupsafe import Markup, escape

STYLES = 8  # colours, as classes s0, s1, ...
# For the style sheet of a page with charts, which must define --fore, --soft, --edge and --back.
LIGHT = """--c0: #0060b0; --c1: #c04000; --c2: #00785a; --c3: #9a2f86; --c4: #7a5c00;
  --c5: #3d3d3d; --c6: #0086a8; --c7: #b3003c;"""
DARK = """--c0: #6cb4ff; --c1: #ff9a5c; --c2: #4fd6ac; --c3: #f08bdc; --c4: #e6c34a;
  --c5: #d0d0d0; --c6: #63d8f2; --c7: #ff7d9c;"""
STYLE = """figure > svg { width: 100%; height: auto; display: block; }
svg text { font: 14px system-ui, sans-serif; fill: var(--fore); }
svg text.aim { fill: var(--soft); }
.grid { stroke: var(--edge); stroke-width: .7; fill: none; }
.target { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 1 3; fill: none; }
.line { fill: none; stroke: currentColor; stroke-width: 2.2; }
.mark { fill: currentColor; stroke: var(--back); stroke-width: .8; }
svg.sample { width: 44px; height: 16px; vertical-align: -2px; display: inline-block; }
.s0 { color: var(--c0); } .s1 { color: var(--c1); } .s2 { color: var(--c2); }
.s3 { color: var(--c3); } .s4 { color: var(--c4); } .s5 { color: var(--c5); }
.s6 { color: var(--c6); } .s7 { color: var(--c7); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0;
  margin: .3rem 0; font-size: .875rem; }"""
_DASHES = ("", "7 4", "2 3", "9 3 2 3", "14 4", "5 2 1 2 1 2", "1 5")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 360, 66, 14, 14, 52


@dataclass(frozen=True)
class Series:
    """One line: a readable name, the index of its style, and its points (x, y), x ascending."""

    name: str
    style: int
    points: Sequence[tuple[float, float]]


def chart(  # more than 60 lines: one drawing from top to bottom, and its docstring
    series: Sequence[Series],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    targets: Sequence[float] = (),
    share: bool = False,
) -> Markup:
    """A line chart whose x axis starts at 0 and spreads small values as a logarithm does.

    Args:
        title: For screen readers.
        targets: Values of y that get a line and a label.
        share: Whether y is a share, drawn as steps on a linear axis. Otherwise its axis is
            logarithmic, and points that are not positive and finite are left out.
    """
    kept = [
        Series(one.name, one.style, [p for p in one.points if _drawable(p, share)])
        for one in series
    ]
    xs = [x for one in kept for x, _ in one.points]
    ys = [*(y for one in kept for _, y in one.points), *targets]
    if not xs:
        return Markup('<p class="note">Nothing to draw.</p>')
    unit = min((x for x in xs if x > 0), default=1.0)
    end = log(1 + max(xs) / unit) or 1.0

    def at_x(x: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * log(1 + x / unit) / end

    low, high = (0.0, 1.0) if share else (floor(log10(min(ys))), ceil(log10(max(ys))))
    high = max(high, low + 1)

    def at_y(y: float) -> float:
        part = ((y if share else log10(y)) - low) / (high - low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * part

    parts = []
    bottom = _HEIGHT - _BOTTOM
    for tick in _ticks(max(xs), unit):
        x = at_x(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    y_ticks = (
        [0, 0.25, 0.5, 0.75, 1] if share else [10.0**k for k in range(int(low), int(high) + 1)]
    )
    for tick in y_ticks:
        y = at_y(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for target in targets:
        y = at_y(target)
        parts.append(f'<path class="target" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="aim" x="{_LEFT + 4}" y="{y - 4:.1f}">{target:g}</text>')
    for one in kept:
        places = [(at_x(x), at_y(y)) for x, y in one.points]
        if places:
            parts.append(_line(one, places, steps=share))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(xlabel)}</text>'
    )
    middle = (_TOP + bottom) / 2
    parts.append(
        f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(ylabel)}</text>"
    )
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def sample(style: int) -> Markup:
    """A piece of a line with its marker, for a legend."""
    line = f'<path class="line" stroke-dasharray="{_dash(style)}" d="M1 8H43"/>'
    return Markup(
        f'<svg class="sample s{style % STYLES}" viewBox="0 0 44 16" aria-hidden="true">'
        f"{line}{_marker(style, 22, 8)}</svg>"
    )


def _drawable(point: tuple[float, float], share: bool) -> bool:
    x, y = point
    return isfinite(x) and isfinite(y) and x >= 0 and (share or y > 0)


def _ticks(end: float, unit: float) -> list[float]:
    """0 and round numbers up to `end`, far enough apart to be readable."""
    found, last = [0.0], 0.0
    span = log(1 + end / unit) or 1.0
    for power in range(floor(log10(unit)) if unit > 0 else 0, ceil(log10(max(end, unit))) + 1):
        for digit in (1, 2, 5):
            tick = digit * 10.0**power
            place = log(1 + tick / unit) / span
            if tick <= end * 1.001 and place - last > 0.09:
                found.append(tick)
                last = place
    return found


def _dash(style: int) -> str:
    return _DASHES[style % len(_DASHES)]


def _line(series: Series, places: Sequence[tuple[float, float]], *, steps: bool) -> str:
    path = f"M{places[0][0]:.1f} {places[0][1]:.1f}"
    for x, y in places[1:]:
        path += f"H{x:.1f}V{y:.1f}" if steps else f"L{x:.1f} {y:.1f}"
    every = ceil(len(places) / 12)  # a marker on every point of a long curve would be a smear
    markers = "".join(_marker(series.style, x, y) for x, y in places[::every])
    return (
        f'<g class="s{series.style % STYLES}"><title>{escape(series.name)}</title>'
        f'<path class="line" stroke-dasharray="{_dash(series.style)}" d="{path}"/>{markers}</g>'
    )


def _marker(style: int, x: float, y: float) -> str:
    shapes = (
        "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",  # disc
        "m-3.6-3.6h7.2v7.2h-7.2z",  # square
        "m0-5l4.6 8h-9.2z",  # triangle
        "m0-5l5 5l-5 5l-5-5z",  # diamond
        "m0 5l4.6-8h-9.2z",  # triangle, upside down
    )
    return f'<path class="mark" d="M{x:.1f} {y:.1f}{shapes[style % len(shapes)]}"/>'
