"""The page of gradio components, and the races on it."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.settings import from_texts
from hyperinit.demo.arena import Arena, examples, read_photo
from hyperinit.demo.board import board, failure, several, style, waiting
from hyperinit.demo.race import Lane, race, race_config
from hyperinit.fitting.config import FitConfig
from hyperinit.images.pixels import image_hash, square_crop
from hyperinit.record.protocol import TARGETS
from hyperinit.siren.store import save_params

INTRODUCTION = f"""\
# hyperinit: which initial weights fit a SIREN to your image first?
All fits take turns, an epoch at a time, until MSE {min(TARGETS):g} (normalised; 43.9 dB) or the end
of the budget. This is a demo, not the benchmark's protocol: one image, one seed, and each init has
the learning rate that suits it, unless you give one for all.
"""
UPDATE_SEC = 0.3  # between two pictures of a race
MAX_IMAGES = 8  # at a time, because all their boards are sent with every update
DROP = {"label": f"Drop an image here, or up to {MAX_IMAGES}", "height": 130}


def save_lane(prefix: str, lane: Lane, image: Tensor, config: FitConfig) -> str:
    """Writes a fitted SIREN as `hyperinit fit` does; returns the path, which begins with PREFIX."""
    path = Path(f"{prefix}{lane.init}-siren.safetensors")
    height, width = image.shape[-2:]
    shown = {"name": "demo", "height": height, "width": width, "sha256": image_hash(image)}
    kept = lane.result.kept
    facts = {"mse": kept.mse, "psnr": kept.psnr, "lr": lane.result.lr, "images": [shown]}
    save_params(path, lane.result.params, init=lane.init, fit=asdict(config), **facts)
    return str(path)


def live(
    paths: str | Sequence[str] | None,
    arena: Arena,
    folder: str,
    lr: str,
    budget_epochs: float,
) -> Iterator[tuple[str, list[str]]]:
    """Runs a race for the page; for several images, one race after the other.

    Args:
        paths: An uploaded file, or several.
        folder: Where fitted SIRENs are written during the race.
        lr: The learning rate as typed; if blank, each init has the one that suits it.
        budget_epochs: See FitConfig.

    Yields:
        HTML, and the files of finished fits. Bad input gives one line of HTML, and the race of the
        next image follows.
    """
    paths = [paths] if isinstance(paths, str) else list(paths or ())
    try:
        if not paths:
            raise InputError("Drop an image first.")
        if len(paths) > MAX_IMAGES:
            raise InputError(f"{len(paths)} images are too many; drop at most {MAX_IMAGES}.")
        config = race_config(_rate(lr), budget_epochs)
    except InputError as error:
        yield failure(str(error)), []
        return
    over: list[tuple[str, str]] = []
    files: list[str] = []
    with tempfile.TemporaryDirectory(dir=folder) as out:
        for i, path in enumerate(paths):
            name, html = Path(path).name, ""
            made: list[str] = []
            prefix = f"{i + 1}-" if len(paths) > 1 else ""
            for html, made in _race_of(path, arena, f"{out}/{prefix}", config):
                yield several(over, name, html, len(paths)), [*files, *made]
            over.append((name, html))
            files += made


def _rate(text: str) -> float | None:
    """The learning rate that was typed, if any.

    Raises:
        InputError: it is not a positive number.
    """
    if not text.strip():
        return None
    rate: float | None = from_texts(FitConfig, {"lr": text.strip()}, source="the page")["lr"]
    return rate


def _race_of(
    path: str, arena: Arena, prefix: str, config: FitConfig
) -> Iterator[tuple[str, list[str]]]:
    """Runs the race of one image; the paths of its files begin with `prefix`."""
    try:
        photo = read_photo(path)
        image = square_crop(photo, arena.size)
        seen = {image_hash(image), image_hash(photo)}
        known = [init.name for init in arena.inits if seen & init.train_hashes]
        note = f"{known[0]} was trained on this image." if known else ""
        files: dict[str, str] = {}
        drawn = -math.inf
        for lanes in race(image.to(arena.device), arena.inits, config):
            over = [lane for lane in lanes if lane.over]
            if len(over) < len(lanes) and time.monotonic() - drawn < UPDATE_SEC:
                continue
            for lane in over:
                if lane.init not in files:
                    files[lane.init] = save_lane(prefix, lane, image, config)
            yield board(image, lanes, config, note), list(files.values())
            drawn = time.monotonic()
    except InputError as error:
        yield failure(str(error)), []


@dataclass
class Session:
    """A user's dropped files, and the race that may continue; any other race ends."""

    paths: Sequence[str] = ()
    race: object | None = None


def page_of(gr: Any, arena: Arena, budget_epochs: float, folder: str) -> Any:
    """The page of gradio components; races run one at a time, so as not to slow each other."""

    def run(session: Session, lr: str, budget: float) -> Iterator[Any]:
        me = session.race = object()
        for html, paths in live(session.paths, arena, folder, lr, budget):
            if session.race is not me:
                break
            yield html, gr.File(paths, visible=bool(paths))

    def halt(session: Session) -> None:
        session.race = None

    def choose(session: Session, paths: Sequence[str] | None) -> tuple[None, str, Any]:
        session.paths, session.race = paths or (), None
        # Clears the drop zone for the next images, and the results of the previous ones.
        return None, waiting(), gr.File(visible=False)

    with gr.Blocks(title="hyperinit demo", delete_cache=(600, 21600)) as page:
        gr.Markdown(INTRODUCTION)
        session, paths = gr.State(Session()), examples()  # each user gets a copy of the state
        with gr.Row():
            with gr.Column(scale=2):
                drop = gr.File(file_types=["image"], file_count="multiple", **DROP)
                with gr.Row():
                    buttons = [gr.Button(path.stem, size="sm", min_width=60) for path in paths]
            with gr.Column():
                with gr.Row():
                    # Not a Number, because gradio shows and sends an empty one as 0.
                    lr = gr.Textbox("", label="learning rate (empty: suits init)", min_width=100)
                    budget = gr.Number(budget_epochs, label="budget in epochs", min_width=100)
                with gr.Row():
                    again = gr.Button("Race again", variant="primary", min_width=100)
                    stop = gr.Button("Stop", min_width=100)
        shown = gr.HTML(css_template=style(), apply_default_css=False)
        files = gr.File(
            label="Fitted SIRENs, for hyperinit render", interactive=False, visible=False
        )
        cleared = [drop, shown, files]
        chosen = [
            drop.upload(choose, [session, drop], cleared),
            again.click(lambda session: choose(session, session.paths), session, cleared),
            *(
                button.click(partial(choose, paths=[str(path)]), session, cleared)
                for button, path in zip(buttons, paths, strict=True)
            ),
        ]
        for event in chosen:
            event.then(
                run,
                [session, lr, budget],
                [shown, files],
                show_progress="minimal",
                show_progress_on=shown,
                trigger_mode="multiple",  # a race may be started while the previous one is ending
                concurrency_id="race",
            )
        stop.click(halt, session)
    return page
