"""The state of a race -> HTML: the verdict, pictures and error maps, curves, and when each fit
reached each target.
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
        config: The config of every fit.
        note: A sentence below the verdict.
    """
    curves = chart(
        [
            Series(shown(lane.init), i, [(point.epochs, point.mse) for point in lane.result.curve])
            for i, lane in enumerate(lanes)
        ],
        title="MSE against epochs, by init",
        xlabel="epochs, including making the start",
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
    """The current race, and below it the finished races of other images.

    Args:
        over: (name of the image, HTML of its finished race), in order.
        name: The image of the current race.
        html: The HTML of the current race.
        total: Number of images; a single one is shown without headings.
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
    """The HTML until a race begins."""
    return _render("line.html.j2", kind="verdict", text="Waiting for the previous race to end.")


def failure(text: str) -> str:
    """An error as one line of HTML."""
    return _render("line.html.j2", kind="error", text=one_line(text))


def style() -> str:
    """The style sheet of the board."""
    return _render("board.css.j2", light=LIGHT, dark=DARK, charts=STYLE)


def verdict(lanes: Sequence[Lane], config: FitConfig) -> str:
    """The winner at the hardest target, or the progress of the race, in one line."""
    target = min(TARGETS)
    hits = {lane.init: hit.epochs for lane in lanes if (hit := lane.hit(target))}
    if hits:
        best = min(hits.values())
        # Errors are measured once an epoch, so a smaller difference is a tie.
        first = [name for name, epochs in hits.items() if epochs - best < 0.5]
        return f"First at MSE {target:g}, after {best:.3g} epochs: {' and '.join(first)}."
    if all(lane.over for lane in lanes):
        lead = min(lanes, key=lambda lane: lane.result.kept.mse)
        return (
            f"None reached MSE {target:g} within {config.budget_epochs:g} epochs; the lowest error"
            f" is {lane_mse(lead)}, from {lead.init}."
        )
    epochs = min(lane.now.epochs for lane in lanes if not lane.over)
    return f"Epoch {epochs:.1f} of at most {config.budget_epochs:g}"


def lane_mse(lane: Lane) -> str:
    """The current error of a lane, as text."""
    return f"{lane.result.kept.mse:.2g}"


def _render(name: str, **values: Any) -> str:
    html = templates("hyperinit.demo").get_template(name).render(**values).strip()
    return html.encode(errors="replace").decode()


def _url(image: Tensor) -> str:
    content = base64.b64encode(webp(image, PICTURE_SIDE)).decode()
    return f"data:image/webp;base64,{content}"


def _shown(lane: Lane, style: int, image: Tensor) -> dict[str, Any]:
    """The values of a lane for the templates."""
    first, now = lane.result.curve[0], lane.now
    state = "diverged; try a lower learning rate" if lane.result.diverged else lane_mse(lane)
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
