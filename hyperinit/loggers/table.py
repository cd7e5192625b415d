"""The loggers of `--log` besides W&B, one row each, as thin layers over their packages.

Everything they get is also in the run's own log. They may raise any exception: the caller turns the
first one into a warning, and the run continues without the logger.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hyperinit.base.errors import unknown_name
from hyperinit.base.extras import check_installed

WANDB, NONE = "wandb", "none"  # names of `--log` that are not in the table: see learn/tracking.py


@dataclass(frozen=True)
class LoggedRun:
    """The facts about a run that a logger gets at the beginning.

    Attributes:
        directory: The run's directory; whatever is not sent to a server is written below it.
        project, name: The run's names.
        config: The resolved settings, JSON-able.
        resume_step: Step of the resumed checkpoint; None for a new run.
    """

    directory: Path
    project: str
    name: str
    config: Mapping[str, Any]
    resume_step: int | None = None


class Logger(Protocol):
    """The interface of a logger. Names contain only letters, digits, "_", ".", "-" and "/"."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Logs the numbers of one step."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """Logs a picture, given as a PNG file of the run."""

    def table(self, name: str, columns: Sequence[Any], rows: Sequence[Any], step: int) -> None:
        """Logs a table of texts, numbers and None."""

    def file(self, path: Path) -> None:
        """Logs a file of the run, such as a checkpoint."""

    def summary(self, values: Mapping[str, Any], step: int) -> None:
        """Logs the run's headline numbers."""

    def finish(self, failed: bool) -> None:
        """Ends the log when the run is over."""


@dataclass(frozen=True)
class LoggerKind:
    """A row of the table; the extra with its name brings its package (base/extras.py).

    Attributes:
        title: Its name in messages.
        start: Starts or continues the log of a run.
    """

    title: str
    start: Callable[[LoggedRun], Logger]


class TensorBoard:
    """torch.utils.tensorboard, below the run's `tensorboard/`; checkpoints stay where they are."""

    def __init__(self, run: LoggedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the checkpoint will be logged again.
        purge = None if run.resume_step is None else run.resume_step + 1
        self.writer = SummaryWriter(str(run.directory / "tensorboard"), purge_step=purge)
        self._text("config", f"```json\n{json.dumps(run.config, indent=1)}\n```", 0)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, name: str, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def table(self, name: str, columns: Sequence[Any], rows: Sequence[Any], step: int) -> None:
        self._text(name, _markdown(columns, rows), step)

    def file(self, path: Path) -> None:
        pass

    def summary(self, values: Mapping[str, Any], step: int) -> None:
        self._text("summary", _markdown(["name", "value"], list(values.items())), step)

    def finish(self, failed: bool) -> None:
        self.writer.close()

    def _text(self, name: str, text: str, step: int) -> None:
        self.writer.add_text(name, text, step)
        self.writer.flush()


class MLflow:
    """MLflow's client, at MLFLOW_TRACKING_URI or else in the run's `mlflow.db`.

    A resumed run continues under its id; steps that are logged again appear twice.
    """

    def __init__(self, run: LoggedRun) -> None:
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        files = None if uri else (run.directory / "mlflow-files").as_uri()
        self.client = MlflowClient(uri or f"sqlite:///{run.directory / 'mlflow.db'}")
        stored = run.directory / "mlflow_id.txt"
        if run.resume_step is not None and stored.is_file():
            self.id = stored.read_text().strip()
            self.client.update_run(self.id, status="RUNNING")
            return
        known = self.client.get_experiment_by_name(run.project)
        place = known.experiment_id if known else self.client.create_experiment(run.project, files)
        self.id = self.client.create_run(place, run_name=run.name).info.run_id
        stored.write_text(self.id)
        settings = [Param(name, str(value)[:500]) for name, value in run.config.items()]
        self.client.log_batch(self.id, params=settings[:100])
        self.client.log_dict(self.id, dict(run.config), "config.json")

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def picture(self, name: str, path: Path, step: int) -> None:
        self.client.log_artifact(self.id, str(path), "images")

    def table(self, name: str, columns: Sequence[Any], rows: Sequence[Any], step: int) -> None:
        self.client.log_text(self.id, _markdown(columns, rows), f"{name}.md")

    def file(self, path: Path) -> None:
        self.client.log_artifact(self.id, str(path))

    def summary(self, values: Mapping[str, Any], step: int) -> None:
        for name, value in values.items():
            self.client.set_tag(self.id, name, str(value))

    def finish(self, failed: bool) -> None:
        self.client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


LOGGERS: dict[str, LoggerKind] = {
    "tensorboard": LoggerKind("TensorBoard", TensorBoard),
    "mlflow": LoggerKind("MLflow", MLflow),
}


def check_logger(name: str) -> None:
    """Refuses a logger that does not exist, or whose package is not installed.

    Raises:
        InputError: the message lists the known ones, or says which extra brings the package.
    """
    if name not in (WANDB, NONE, *LOGGERS):
        raise unknown_name("logger", name, (WANDB, *LOGGERS, NONE))
    if name in LOGGERS:
        check_installed(name)


def _markdown(columns: Sequence[Any], rows: Sequence[Any]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ([" ".join(str(cell).replace("|", "&#124;").split()) for cell in row] for row in lines)
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)
