"""A race of fits -> a local page that shows it live, for any image that is dropped.

Only `serve` imports gradio; all that is seen of a race is HTML without it, see board.py.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path
from hyperinit.demo.board import board, failure, style, waiting
from hyperinit.demo.race import BUDGET_EPOCHS, Lane, race, race_config
from hyperinit.fitting.config import FitConfig
from hyperinit.hypernet.checkpoint import load_hypernetwork
from hyperinit.hypernet.pretrained import pretrained_path
from hyperinit.images.decode import load_image
from hyperinit.images.pixels import image_hash, square_crop
from hyperinit.inits.rules import NAMED_INITS
from hyperinit.inits.start import Init, model_init, spec_init
from hyperinit.record.protocol import PROTOCOLS, TARGETS
from hyperinit.siren.network import default_lr
from hyperinit.siren.store import save_params

MIN_SIDE = 8  # pixels of an image that is worth a race

# The hypernetwork that takes part when no checkpoint is given.
DEFAULT_CHECKPOINT = pretrained_path("photo-96")

# Photographs inside scikit-image that the default meta-training never sees.
EXAMPLES = ("astronaut", "chelsea", "coffee")

UPDATE_SEC = 0.3  # between two pictures of a race


@dataclass(frozen=True)
class Arena:
    """What all races of a page have in common.

    Attributes:
        inits: For SIRENs of one size.
        size: Side of the images in pixels.
        lr: The learning rate that suits these SIRENs.
    """

    inits: Sequence[Init]
    size: int
    lr: float


def arena(checkpoint: Path = DEFAULT_CHECKPOINT, size: int | None = None) -> Arena:
    """The hand-designed inits, and the hypernetwork of a checkpoint, which sets the sizes.

    Raises:
        InputError: no usable checkpoint there, or the size is too small.
    """
    if size is not None and size < MIN_SIDE:
        raise InputError(f"--size must be at least {MIN_SIDE}, not {size}")
    hyper, info = load_hypernetwork(checkpoint)
    hashes = frozenset(info.get("train_hashes", ()))
    learned = replace(model_init("hyper", hyper), train_hashes=hashes)
    width, depth = hyper.config.siren.width, hyper.config.siren.depth
    trained_size = info.get("train", {}).get("size", PROTOCOLS["small"]["image_size"])
    named = [spec_init(name, spec, width, depth) for name, spec in NAMED_INITS.items()]
    lr = default_lr(NAMED_INITS["33"].siren_config(width, depth))
    return Arena([*named, learned], size or trained_size, lr)


def _examples() -> list[Path]:
    """The files of EXAMPLES; none where scikit-image is not installed."""
    package = find_spec("skimage")
    folders = list(package.submodule_search_locations or ()) if package else []
    paths = [Path(folder) / "data" / f"{name}.png" for folder in folders for name in EXAMPLES]
    return [path for path in paths if path.is_file()]


def read_photo(path: str | Path) -> Tensor:
    """An uploaded file as an image (3, H, W) in [0, 1].

    Raises:
        InputError: it is none, or too small; the message leaves out the path, which is not the
            user's.
    """
    try:
        photo = load_image(path)
    except InputError as error:
        raise InputError(str(error).removeprefix(f"{shown_path(path)}: ")) from error
    height, width = photo.shape[-2:]
    if min(height, width) < MIN_SIDE:
        raise InputError(
            f"the image has {height} x {width} pixels: at least {MIN_SIDE} x {MIN_SIDE} are needed"
        )
    return photo


def save_lane(folder: str | Path, lane: Lane, image: Tensor, config: FitConfig) -> str:
    """Writes a fitted SIREN as `hyperinit fit` does, and returns the path."""
    path = Path(folder) / f"{lane.init}-siren.safetensors"
    height, width = image.shape[-2:]
    shown = {"name": "demo", "height": height, "width": width, "sha256": image_hash(image)}
    kept = lane.result.kept
    facts = {"mse": kept.mse, "psnr": kept.psnr, "lr": lane.result.lr, "images": [shown]}
    save_params(path, lane.result.params, init=lane.init, fit=asdict(config), **facts)
    return str(path)


def live(
    path: str | None, arena: Arena, folder: str, lr: float | None, budget_epochs: float
) -> Iterator[tuple[str, list[str]]]:
    """A race as the page shows it.

    Args:
        path: An uploaded file.
        folder: Where fitted SIRENs are written while the race goes on.
        lr, budget_epochs: See FitConfig.

    Yields:
        HTML, and the files of the fits that are over. Bad input is one line of HTML.
    """
    try:
        if path is None:
            raise InputError("Drop an image first.")
        config = race_config(lr, budget_epochs)
        photo = read_photo(path)
        image = square_crop(photo, arena.size)
        seen = {image_hash(image), image_hash(photo)}
        known = [init.name for init in arena.inits if seen & init.train_hashes]
        note = f"{known[0]} was trained on this very image." if known else ""
        files: dict[str, str] = {}
        drawn = -math.inf
        with tempfile.TemporaryDirectory(dir=folder) as out:
            for lanes in race(image, arena.inits, config):
                over = [lane for lane in lanes if lane.over]
                if len(over) < len(lanes) and time.monotonic() - drawn < UPDATE_SEC:
                    continue
                for lane in over:
                    if lane.init not in files:
                        files[lane.init] = save_lane(out, lane, image, config)
                yield board(image, lanes, config, note), list(files.values())
                drawn = time.monotonic()
    except InputError as error:
        yield failure(str(error)), []


def serve(
    arena: Arena,
    budget_epochs: float = BUDGET_EPOCHS,
    port: int | None = None,
    browser: bool = True,
) -> None:
    """Shows the page on this machine alone, until Ctrl-C or SIGTERM.

    Args:
        budget_epochs: What the page proposes.
        port: None: the first free one from 7860.
        browser: Whether to open the page in the user's browser.

    Raises:
        InputError: gradio is missing, a value is out of range or the port is taken.
    """
    if port is not None and not 1 <= port <= 65535:
        raise InputError(f"--port must be 1 to 65535, not {port}")
    race_config(arena.lr, budget_epochs)
    with tempfile.TemporaryDirectory(
        prefix="hyperinit-demo-", ignore_cleanup_errors=True
    ) as folder:
        gradio = _import_gradio(folder)
        page = _page(gradio, arena, budget_epochs, folder)
        grey = torch.full((3, arena.size, arena.size), 0.5)
        for _ in race(grey, arena.inits, race_config(budget_epochs=1)):
            pass  # or the first race would count what the libraries do only once
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            _, url, _ = page.launch(
                server_name="127.0.0.1",
                server_port=port,
                inbrowser=browser,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                show_error=True,
                ssr_mode=False,
                run_history=False,
                footer_links=[],
                max_file_size="100mb",
                # Fonts of the system: gradio's own themes ask Google for theirs.
                theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            )
        except OSError as error:
            wanted = "from 7860 on" if port is None else port
            raise InputError(f"no free port {wanted}: choose one with --port") from error
        print(f"{url} shows the demo; Ctrl-C ends it", flush=True)
        try:
            while True:
                time.sleep(1)
        finally:
            page.close(verbose=False)


def _import_gradio(folder: str) -> Any:
    """Gradio, which sends no analytics and keeps its files in a folder."""
    if find_spec("gradio") is None:
        raise InputError("hyperinit demo needs gradio: pip install 'hyperinit[demo]'")
    # Read when it is imported; "False" is how it wants to be told.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": f"{folder}/cache"}
    import gradio

    if int(gradio.__version__.split(".")[0]) < 6:
        raise InputError(f"hyperinit demo needs gradio 6, not {gradio.__version__}")
    return gradio


@dataclass
class _Session:
    """One user: the file that was dropped, and the race that may go on; any other ends."""

    path: str | None = None
    race: object | None = None


def _page(gr: Any, arena: Arena, budget_epochs: float, folder: str) -> Any:
    """The page of gradio components; one race at a time, or they would slow each other's clocks."""

    def run(session: _Session, lr: float | None, budget: float) -> Iterator[Any]:
        me = session.race = object()
        for html, paths in live(session.path, arena, folder, lr, budget):
            if session.race is not me:
                break
            yield html, gr.File(paths, visible=bool(paths))

    def halt(session: _Session) -> None:
        session.race = None

    def choose(session: _Session, path: str | None) -> tuple[None, str, Any]:
        session.path, session.race = path, None
        # The place to drop is free for the next image, and what is shown is no longer of this one.
        return None, waiting(), gr.File(visible=False)

    def repeat(session: _Session) -> tuple[None, str, Any]:
        return choose(session, session.path)

    with gr.Blocks(title="hyperinit demo", delete_cache=(600, 21600)) as page:
        gr.Markdown(
            "# hyperinit: which initial weights fit a SIREN to your image first?\n"
            f"All fits go on in turn, an epoch at a time, to MSE {min(TARGETS):g} (normalised;"
            " 43.9 dB) or to the end of the budget. A demo, not the benchmark's protocol: one"
            f" image, one seed, one learning rate for all."
        )
        session = gr.State(_Session())  # each user has a copy
        with gr.Row():
            with gr.Column(scale=2):
                drop = gr.File(label="Drop an image here", file_types=["image"], height=130)
                with gr.Row():
                    examples = [
                        (gr.Button(path.stem, size="sm", min_width=60), str(path))
                        for path in _examples()
                    ]
            with gr.Column():
                with gr.Row():
                    lr = gr.Number(arena.lr, label="learning rate", min_width=100)
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
            again.click(repeat, session, cleared),
            *(b.click(partial(choose, path=path), session, cleared) for b, path in examples),
        ]
        for event in chosen:
            event.then(
                run,
                [session, lr, budget],
                [shown, files],
                show_progress="minimal",
                show_progress_on=shown,
                trigger_mode="multiple",  # a race is wanted while the one before is ending
                concurrency_id="race",
            )
        stop.click(halt, session)
    return page
