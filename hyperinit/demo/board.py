"""A race as HTML, without gradio: who leads, the pictures, the curves, and who was where when."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from torch import Tensor

from hyperinit.demo.race import Lane
from hyperinit.fitting.config import FitConfig
from hyperinit.images.save import webp
from hyperinit.record.protocol import TARGETS
from hyperinit.record.records import CurvePoint
from hyperinit.report.svg import DARK, LIGHT, STYLE, Series, chart, sample


def board(image: Tensor, lanes: Sequence[Lane], config: FitConfig, note: str = "") -> str:
    """A race as HTML: who leads, the pictures, the curves, and who was where when."""
    styles = {lane.init: i for i, lane in enumerate(lanes)}
    legends = {name: f"{sample(style)} {escape(name)}" for name, style in styles.items()}
    cards = [_card("the image", [(image, "the image, cropped and resized", "as it is fitted")])]
    for lane in lanes:
        first, now = lane.result.curve[0], lane.now
        psnr = f"{lane.result.kept.psnr:.1f} dB"
        start = (lane.start, f"{lane.init} at step 0", f"step 0: {first.psnr:.1f} dB")
        shown = (lane.picture, f"{lane.init} now", f"epoch {now.epochs:.3g}: {psnr}")
        cards.append(_card(legends[lane.init], [start, shown]))
    curves = chart(
        [
            Series(lane.init, styles[lane.init], [(p.epochs, p.mse) for p in lane.result.curve])
            for lane in lanes
        ],
        title="MSE against epochs, by init",
        xlabel="epochs, making the start included",
        ylabel="MSE over all pixels",
        targets=TARGETS,
    )
    legend = "".join(f"<li>{name}</li>" for name in legends.values())
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return (
        f'<p class="verdict">{escape(verdict(lanes, config))}</p>{said}'
        f'<div class="cards">{"".join(cards)}</div><div class="numbers">'
        f'<figure>{curves}<ul class="legend">{legend}</ul></figure>{_table(lanes, legends)}</div>'
    )


def verdict(lanes: Sequence[Lane], config: FitConfig) -> str:
    """Who was first at the hardest target, or how far the race is, in one line."""
    target = min(TARGETS)
    hits = {lane.init: hit.epochs for lane in lanes if (hit := lane.hit(target))}
    if hits:
        best = min(hits.values())
        # Errors are read once an epoch: less is no lead.
        first = [name for name, epochs in hits.items() if epochs - best < 0.5]
        return f"First at MSE {target:g}, after {best:.3g} epochs: {' and '.join(first)}."
    if all(lane.over for lane in lanes):
        lead = min(lanes, key=lambda lane: lane.result.kept.mse)
        return (
            f"None got to MSE {target:g} within {config.budget_epochs:g} epochs; the lowest error"
            f" is {lane_mse(lead)}, from {lead.init}."
        )
    epochs = min(lane.now.epochs for lane in lanes if not lane.over)
    return f"Epoch {epochs:.1f} of at most {config.budget_epochs:g}"


def lane_mse(lane: Lane) -> str:
    """The error of what a lane shows, for people."""
    return f"{lane.result.kept.mse:.2g}"


def _card(title: str, pictures: Sequence[tuple[Tensor, str, str]]) -> str:
    """A titled column of pictures (image, text for those who cannot see it, caption)."""
    shown = "".join(
        f'<figure><img src="data:image/webp;base64,{base64.b64encode(webp(image, 256)).decode()}"'
        f' alt="{escape(alt)}" decoding="sync"><figcaption>{escape(caption)}</figcaption></figure>'
        for image, alt, caption in pictures
    )
    return f'<section class="card"><h3>{title}</h3><div>{shown}</div></section>'


def _table(lanes: Sequence[Lane], legends: dict[str, str]) -> str:
    def cell(point: CurvePoint | None) -> str:
        return f"{point.epochs:.3g} ({point.sec:.2f}&nbsp;s)" if point else "-"

    rows = []
    for lane in lanes:
        state = "diverged: try a lower rate" if lane.result.diverged else lane_mse(lane)
        state += ", done" if lane.over and not lane.result.diverged else ""
        cells = [*(cell(lane.hit(target)) for target in TARGETS), state]
        tds = "".join(f"<td>{text}</td>" for text in cells)
        rows.append(f'<tr><th scope="row">{legends[lane.init]}</th>{tds}</tr>')
    header = ["init", *(f"epochs to {target:g}" for target in TARGETS), "MSE now"]
    head = "".join(f'<th scope="col">{text}</th>' for text in header)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


BOARD_STYLE = f"""
--fore: var(--body-text-color); --soft: #57606a; --edge: var(--border-color-primary);
--back: var(--body-background-fill); color: var(--fore); line-height: 1.4;
{LIGHT}
.dark & {{ --soft: #a4abb4; {DARK} }}
{STYLE}
.verdict {{ font-size: 1.3rem; font-weight: 600; margin: 0 0 .5rem; }}
.note, figcaption {{ color: var(--soft); font-size: .875rem; font-variant-numeric: tabular-nums; }}
.error {{ border-left: 4px solid #b3003c; padding: .5rem .8rem; overflow-wrap: anywhere; }}
.cards {{ display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: 1rem; }}
.card h3 {{ font-size: 1rem; font-weight: 600; margin: 0 0 .3rem; }}
.card figure {{ margin: 0 0 .5rem; min-width: 0; }}
.card img {{ width: 100%; aspect-ratio: 1; image-rendering: pixelated; border-radius: 4px; }}
.numbers {{ display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1.5rem;
  margin-top: 1rem; align-items: start; }}
.numbers figure {{ margin: 0; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--edge); }}
th[scope=row] {{ white-space: nowrap; }}
@media (max-width: 48rem) {{
  th, td {{ padding-right: .5rem; font-size: .875rem; }}
  th[scope=row] {{ white-space: normal; }}
  .cards {{ grid-auto-flow: row; grid-auto-columns: auto; }}
  .card div {{ display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; }}
  .numbers {{ grid-template-columns: minmax(0, 1fr); }}
}}
"""
