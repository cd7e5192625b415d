"""A run's numbers and pictures -> `metrics.jsonl` in its directory, always, and an extra logger.

The logger is W&B or one of `loggers/table.py`. Its failures do not stop a run: after the first one,
which is a warning, only the JSONL file is written. That file has one JSON object per line, each
with a "kind" and a "step":

    {"kind": "start", "step": 0, "config": {...}}
    {"kind": "metrics", "step": 20, "values": {"train/loss": 0.31}}
    {"kind": "image", "step": 20, "name": "preview", "path": "images/preview-000020.png"}
    {"kind": "table", "step": 20, "name": "fits", "columns": [...], "rows": [[...], ...]}
    {"kind": "artifact", "step": 20, "name": "hypernet", "path": "..."}
    {"kind": "summary", "step": 20, "values": {"psnr_db/after": 27.1}}

NaN and infinity are null there. Tables, artifacts and the summary have the last logged step.
W&B adds the host's name and hardware, the package list and the git commit, but not the console.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.extras import has_key
from hyperinit.base.files import write_atomically
from hyperinit.images.save import save_image
from hyperinit.loggers.bounded import bounded
from hyperinit.loggers.plain import cell, plain, safe_name, safe_part, text, unwrap
from hyperinit.loggers.table import LOGGERS, WANDB, LoggedRun, Logger, check_logger

LOG_NAME = "metrics.jsonl"
WandbMode = Literal["auto", "online", "offline", "disabled"]

_logger = logging.getLogger(__name__)

_ONLY_JSONL = f"from here on only {LOG_NAME} is written"

# W&B is given up if it has not started after _START_SEC. A server that refuses or never answers
# costs _INIT_SEC; the rest is for an SDK whose own time-out fails (it adds a grace of 10 s).
_INIT_SEC = 8
_START_SEC = 13.0
_OTHER_START_SEC = 60.0  # MLflow creates a database, which takes half a minute on a busy machine
_CALL_SEC = 10.0  # tables and artifacts ask the server, which may have died meanwhile
_ABANDON_SEC = 5.0
_FINISH_SEC = 60  # for the upload at the end; the rest stays on disk, for `wandb sync`


class Tracker:
    """The log of a run; see `open_tracker`.

    Attributes:
        path: The JSONL file.
        wandb_run: The W&B run, or None if there is none (any more).
        other: Another logger and its name in messages, or None likewise.
    """

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path = path
        self.wandb_run: Any = None
        self.other: tuple[str, Logger] | None = None
        self._file = file
        self._step = 0
        self._lost_images = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs numbers of one step, by name; "/" in a name groups charts."""
        self._write("metrics", step, values=metrics)
        numbers = {safe_name(name): unwrap(value) for name, value in metrics.items()}
        self._send(lambda run: run.log(numbers, step=step))
        self._tell(lambda logger: logger.numbers(numbers, step))

    def log_image(self, name: str, image: Tensor, step: int) -> None:
        """Writes a picture (3, H, W) in [0, 1] as PNG below the run's directory; NaN is black.

        The first failure to write one is a warning.
        """
        path = self.path.parent / "images" / f"{safe_part(name)}-{step:06d}.png"
        with contextlib.suppress(OSError):  # save_image has the better message
            path.parent.mkdir(exist_ok=True)
        try:
            save_image(image.nan_to_num(), path)
        except InputError as error:
            if not self._lost_images:
                _logger.warning("%s; the run continues without such pictures", error)
            self._lost_images = True
            return
        self._write("image", step, name=name, path=self._relative(path))

        def send(run: Any) -> None:
            import wandb

            run.log({safe_name(name): wandb.Image(str(path))}, step=step)

        self._send(send)
        self._tell(lambda logger: logger.picture(safe_name(name), path, step))

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Logs a table of texts, numbers and None."""
        self._write("table", self._step, name=name, columns=columns, rows=rows)
        header, data = plain(columns), plain(rows)

        def send(run: Any) -> None:
            import wandb

            shown: dict[str, Any] = {"columns": [cell(name) for name in columns]}
            shown["data"] = [[cell(value) for value in row] for row in rows]
            table = wandb.Table(**shown, allow_mixed_types=True)
            run.log({safe_name(name): table}, step=self._step)

        self._send(send)
        self._tell(lambda logger: logger.table(safe_name(name), header, data, self._step))

    def log_artifact(self, name: str, path: str | Path) -> None:
        """Logs a file, such as a checkpoint: W&B gets a copy, the JSONL file its path."""
        self._write("artifact", self._step, name=name, path=self._relative(path))

        def send(run: Any) -> None:
            import wandb

            artifact = wandb.Artifact(safe_part(name), type="file")
            artifact.add_file(str(path), name=safe_part(Path(path).name), skip_cache=True)
            run.log_artifact(artifact)

        self._send(send)
        self._tell(lambda logger: logger.file(Path(path)))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Logs the run's headline numbers; a later value of the same name wins."""
        self._write("summary", self._step, values=values)
        named = {safe_name(name): plain(value) for name, value in values.items()}
        self._send(lambda run: run.summary.update(named))
        self._tell(lambda logger: logger.summary(named, self._step))

    def finish(self, exit_code: int = 0) -> None:
        """Closes the log; loggers mark the run as failed unless the exit code is 0."""
        self._file.close()
        missing = f"send what is missing with: wandb sync {self.path.parent / 'wandb'}"
        self._send(lambda run: run.finish(exit_code), missing, _FINISH_SEC + 10)
        self.wandb_run = None
        self._tell(lambda logger: logger.finish(exit_code != 0))
        self.other = None

    def _relative(self, path: str | Path) -> str:
        return Path(os.path.relpath(path, self.path.parent)).as_posix()

    def _write(self, kind: str, step: int, **content: Any) -> None:
        """Appends a line in one write: a killed process leaves at most a half-written last line."""
        self._step = int(step)
        row = {"kind": kind, "step": self._step, **plain(content)}
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _send(
        self,
        action: Callable[[Any], object],
        consequence: str = _ONLY_JSONL,
        limit_sec: float | None = None,
    ) -> None:
        """Does something with the W&B run; after the first failure of any kind it is not used."""
        run = self.wandb_run
        if run is None:
            return
        try:
            bounded(lambda: action(run), limit_sec or _CALL_SEC)
        except Exception as error:
            self.wandb_run = None
            _warn("W&B failed", error, consequence)
            _abandon(run)

    def _tell(self, action: Callable[[Logger], object]) -> None:
        """Like `_send`, for the other logger."""
        if self.other is None:
            return
        title, logger = self.other
        try:
            bounded(lambda: action(logger), _CALL_SEC)
        except Exception as error:
            self.other = None
            _warn(f"{title} failed", error, _ONLY_JSONL)


def open_tracker(
    run_dir: str | Path,
    config: Mapping[str, Any],
    wandb_mode: WandbMode,
    project: str = "hyperinit",
    name: str | None = None,
    resume_step: int | None = None,
    log: str = WANDB,
) -> Tracker:
    """Starts or continues the log of a run. Takes at most 15 s, whatever W&B does.

    Args:
        run_dir: Created if missing; W&B writes below its `wandb/`.
        config: The resolved settings, JSON-able.
        wandb_mode: "auto" is WANDB_MODE if that is set, else online if an API key is configured,
            else offline; online falls back to offline.
        project: W&B project.
        name: W&B display name; by default the directory's name.
        resume_step: Step of the resumed checkpoint: entries after it are dropped (they will be
            logged again), and the W&B run is continued under its id.
        log: The extra logger: "wandb", a name in `LOGGERS` (given a minute to start), or "none".

    Raises:
        InputError: the directory cannot be written, or holds a log and `resume_step` is None, or
            the logger's package is not installed.
    """
    check_logger(log)
    run_dir = Path(run_dir).absolute()
    path = run_dir / LOG_NAME
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if path.is_fifo():
            raise InputError(f"{path} is a pipe; choose another folder")
        if path.exists() and path.stat().st_size:
            if resume_step is None:
                raise InputError(f"{path} already holds a run; resume it or choose another folder")
            _drop_after(path, resume_step)
        file = FileIO(path, "a")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    tracker = Tracker(path, file)
    try:
        tracker._write("start", resume_step or 0, config=config)
    except InputError:
        file.close()
        raise
    label = " ".join(text(name or run_dir.name).split())[:120]
    run = LoggedRun(run_dir, project, label, plain(config), resume_step)
    if log in LOGGERS:
        _start_other(tracker, log, run)
    elif log == WANDB and wandb_mode != "disabled":
        _start_wandb_in_time(tracker, wandb_mode, run)
    return tracker


def _start_other(tracker: Tracker, log: str, run: LoggedRun) -> None:
    kind = LOGGERS[log]
    try:
        tracker.other = kind.title, bounded(lambda: kind.start(run), _OTHER_START_SEC)
    except Exception as error:
        _warn(f"{kind.title} did not start", error, _ONLY_JSONL)


def _start_wandb_in_time(tracker: Tracker, mode: WandbMode, run: LoggedRun) -> None:
    settings = {"config": run.config, "project": run.project, "name": run.name}
    resumed = run.resume_step is not None
    try:
        tracker.wandb_run, problem = bounded(
            lambda: _start_wandb(run.directory, mode, resumed, settings), _START_SEC
        )
        if problem:
            _warn("W&B did not start online", problem, "logging offline")
    except Exception as error:
        _warn("W&B did not start", error, _ONLY_JSONL)


def silent_tracker() -> Tracker:
    """A tracker that logs nothing, for a process that leaves the log to another."""
    return Tracker(Path(os.devnull), FileIO(os.devnull, "a"))


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSONL log, without a half-written one."""
    rows = (_parse_row(line) for line in Path(path).read_bytes().split(b"\n"))
    return [row for row in rows if row is not None]


def _parse_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _drop_after(path: Path, step: int) -> None:
    """Removes, atomically, rows after a step, and a half-written line of a killed process.

    Other damaged lines stay, with a warning: whatever is left in them is all there is.
    """
    lines = path.read_bytes().split(b"\n")
    rows = [_parse_row(line) for line in lines]
    damaged = [i for i, line in enumerate(lines[:-1]) if line and rows[i] is None]
    if damaged:
        where = f"line {damaged[0] + 1}" + (f" and {len(damaged) - 1} more" if damaged[1:] else "")
        _logger.warning("%s: damaged in %s; left as it is", path, where)
    kept = {i for i, row in enumerate(rows) if row is not None and row["step"] <= step}
    write_atomically(path, b"".join(lines[i] + b"\n" for i in sorted(kept.union(damaged))))


def _warn(what: str, error: Exception, consequence: str) -> None:
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    _logger.warning("%s (%s); %s", what, reason.removesuffix(": "), consequence)


def _abandon(run: Any) -> None:
    """Ends a W&B run that failed, and W&B's service process, which may be dead or stuck.

    Otherwise W&B's exit hook would wait for it, or fail with a traceback.
    """
    with contextlib.suppress(Exception):
        bounded(lambda: run.finish(1), _ABANDON_SEC)
    with contextlib.suppress(Exception):
        import wandb

        if wandb.run is None:  # no other run is open
            bounded(wandb.teardown, _ABANDON_SEC)


def _start_wandb(
    run_dir: Path, mode: str, resumed: bool, settings: dict[str, Any]
) -> tuple[Any, Exception | None]:
    """Starts W&B online or, if that fails or is not wanted, offline: (run, why not online)."""
    # W&B's service process reads these when it starts. Its own error reports go to the W&B server,
    # and delay the exit by 20 s if that does not answer.
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ["WANDB_DATA_DIR"] = str(run_dir / "wandb")  # artifacts waiting for upload
    os.environ["WANDB_CACHE_DIR"] = str(run_dir / "wandb" / "cache")
    import wandb

    wanted: dict[str, Any] = {
        "console": "off",
        "silent": True,
        "disable_code": True,
        "reinit": "create_new",  # leaves alone a run that the caller may have open
        "init_timeout": _INIT_SEC,
        "finish_timeout": _FINISH_SEC,
        "finish_timeout_raises": True,
    }
    known = {name: value for name, value in wanted.items() if hasattr(wandb.Settings(), name)}
    id_path = run_dir / "wandb_id.txt"
    is_there = resumed and id_path.is_file()
    stored = id_path.read_text(errors="replace").strip() if is_there else ""
    run_id = stored if re.fullmatch(r"[a-z0-9]{1,32}", stored) else secrets.token_hex(4)
    write_atomically(id_path, run_id.encode())

    def init(mode: Any) -> Any:
        return wandb.init(
            mode=mode,
            dir=str(run_dir),
            id=run_id,
            resume="allow" if resumed else None,
            settings=wandb.Settings(**known),
            **settings,
        )

    keyed = has_key(wandb.setup().settings.base_url)
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if keyed else "offline")
    if mode != "online":
        return init(mode), None
    try:
        if not keyed:
            raise InputError("no API key; run `wandb login` or set WANDB_API_KEY")
        return init("online"), None
    except Exception as error:
        if wandb.run is None:  # no other run is open; frees the id that the attempt took
            wandb.teardown()
        return init("offline"), error
