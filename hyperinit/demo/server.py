"""`serve`: the page of races, shown only on this machine. Only this module needs gradio."""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import torch

from hyperinit.base.errors import InputError
from hyperinit.base.extras import need
from hyperinit.base.results import result
from hyperinit.demo.arena import Arena
from hyperinit.demo.page import page_of
from hyperinit.demo.race import BUDGET_EPOCHS, race, race_config


def serve(
    arena: Arena,
    budget_epochs: float = BUDGET_EPOCHS,
    port: int | None = None,
    browser: bool = True,
) -> None:
    """Serves the page on this machine only, until Ctrl-C or SIGTERM.

    Args:
        budget_epochs: The budget that the page proposes.
        port: The port; None: the first free one from 7860.
        browser: Whether to open the page in the user's browser.

    Raises:
        InputError: gradio is missing, a value is out of range or the port is taken.
    """
    if port is not None and not 1 <= port <= 65535:
        raise InputError(f"--port must be 1 to 65535, not {port}")
    race_config(None, budget_epochs)
    with tempfile.TemporaryDirectory(
        prefix="hyperinit-demo-", ignore_cleanup_errors=True
    ) as folder:
        gradio = _import_gradio(folder)
        page = page_of(gradio, arena, budget_epochs, folder)
        grey = torch.full((3, arena.size, arena.size), 0.5, device=arena.device)
        for _ in race(grey, arena.inits, race_config(budget_epochs=1)):
            pass  # warm-up: otherwise the first race would pay for one-time work of libraries
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
                # System fonts, because gradio's own themes load theirs from Google.
                theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            )
        except OSError as error:
            wanted = "from 7860 on" if port is None else port
            raise InputError(f"no free port {wanted}; choose one with --port") from error
        result("demo", f"{url} shows the demo; Ctrl-C ends it", url=url)
        try:
            while True:
                time.sleep(1)
        finally:
            page.close(verbose=False)


def _import_gradio(folder: str) -> Any:
    """Imports gradio with analytics off and its files in a folder."""
    # Read at import; the value must be spelled "False".
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": f"{folder}/cache"}
    gradio = need("demo")
    if int(gradio.__version__.split(".")[0]) < 6:
        raise InputError(f"hyperinit demo needs gradio 6, not {gradio.__version__}")
    return gradio
