"""A race as it stands -> the HTML that shows it: who leads, pictures and where they are wrong,
curves, who was where.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from torch import Tensor

from hyperinit.demo.race import Lane
from hyperinit.fitting.config import FitConfig
from hyperinit.images.errors import MOST_ERROR, error_map
from hyperinit.images.save import webp
from hyperinit.record.protocol import TARGETS
from hyperinit.record.records import CurvePoint
from hyperinit.report.names import one_line, shown, templates
from hyperinit.report.svg import DARK, LIGHT, STYLE, Series, chart, sample

PICTURE_SIDE = 256  # pixels at most


def board(image: Tensor, lanes: Sequence[Lane], config: FitConfig, note: str = "") -> str:
    """A race as HTML.

    Args:
        image: (3, H, W) in [0, 1].
        lanes: As `race` yields them.
        config: Of every fit.
        note: A sentence below the verdict.
    """
    curves = chart(
        [
            Series(shown(lane.init), i, [(point.epochs, point.mse) for point in lane.result.curve])
            for i, lane in enumerate(lanes)
        ],
        title="MSE against epochs, by init",
        xlabel="epochs, making the start included",
        ylabel="MSE over all pixels",
        targets=TARGETS,
    )
    return _render(
        "board.html.j2",
        verdict=one_line(verdict(lanes, config)),
        note=one_line(note),
        image=_url(image),
        lanes=[_shown(lane, i, image) for i, lane in enumerate(lanes)],
        curves=curves,
        targets=[f"{target:g}" for target in TARGETS],
        white=f"white: off by {MOST_ERROR:.0%} or more",
    )


def several(over: Sequence[tuple[str, str]], name: str, html: str, total: int) -> str:
    """The race that is on, and below it those of other images that are over.

    Args:
        over: (name of the image, HTML of its race as it ended), in their order.
        name: Of the image that is raced for now.
        html: Of its race.
        total: Images in all; one alone is shown as it is.
    """
    if total == 1:
        return html
    return _render(
        "several.html.j2",
        title=f"Image {len(over) + 1} of {total}: {shown(name)}",
        now=Markup(html),
        over=[(shown(own), Markup(page)) for own, page in reversed(over)],
    )


def waiting() -> str:
    """What is shown until a race begins."""
    return _render("line.html.j2", kind="verdict", text="Waiting for the race before to end.")


def failure(text: str) -> str:
    """An error as one line of HTML."""
    return _render("line.html.j2", kind="error", text=one_line(text))


def style() -> str:
    """The style sheet of the board."""
    return _render("board.css.j2", light=LIGHT, dark=DARK, charts=STYLE)


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


def _render(name: str, **values: Any) -> str:
    html = templates("hyperinit.demo").get_template(name).render(**values).strip()
    return html.encode(errors="replace").decode()


def _url(image: Tensor) -> str:
    content = base64.b64encode(webp(image, PICTURE_SIDE)).decode()
    return f"data:image/webp;base64,{content}"


def _shown(lane: Lane, style: int, image: Tensor) -> dict[str, Any]:
    """What the templates show of a lane."""
    first, now = lane.result.curve[0], lane.now
    state = "diverged: try a lower rate" if lane.result.diverged else lane_mse(lane)
    state += ", done" if lane.over and not lane.result.diverged else ""
    return {
        "name": shown(lane.init),
        "sample": sample(style),
        "start": _url(lane.start),
        "start_text": f"step 0: {first.psnr:.1f} dB",
        "now": _url(lane.picture),
        "now_text": f"epoch {now.epochs:.3g}: {lane.result.kept.psnr:.1f} dB",
        "error": _url(error_map(image.cpu(), lane.picture.cpu())),
        "hits": [_hit(lane.hit(target)) for target in TARGETS],
        "lr": f"{lane.result.lr:.2g}",
        "state": state,
    }


def _hit(point: CurvePoint | None) -> str:
    return f"{point.epochs:.3g} ({point.sec:.2f}\N{NO-BREAK SPACE}s)" if point else "-"
