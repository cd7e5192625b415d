"""How time to a target error is measured: one frozen, versioned object, and the records it makes.

Scoring reads records only, so nothing is rerun when a rule of scoring changes. No torch in here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import inf, isfinite
from pathlib import Path
from typing import Any

from hyperinit.base.errors import InputError
from hyperinit.record.protocol import PROTOCOL_VERSION, VERSIONS

TUNING = "-lr"  # ends the track of records that only serve to choose a rate


@dataclass(frozen=True)
class Record:
    """One fit, with everything needed to score it and to run it again.

    Attributes:
        track: "seed", "tuned", "open" or "frozen"; with "-lr" behind it for fits of tuning images
            that only serve to choose a learning rate.
        init: Name of the init.
        init_facts: The init's resolved row, or its checkpoint's identity.
        image: Name of the image; `image_hash` identifies its content.
        seed: Of the draw of the init and of the order of pixels.
        lr, budget_epochs: What the run declared.
        curve: Rows (epochs, steps, sec, mse, psnr, train_mse), the fields of fit.CurvePoint: the
            start, evaluations, and the end; what is not a finite number is null in the file.
        init_epochs, init_sec: The part of the cost that went into making the start.
        params_hash: SHA-256 of the fitted parameters.
        diverged: The error became non-finite.
        settings: Image size, network size and every field of FitConfig that can move the result.
        environment: Commit, versions, threads, device.
        version: The protocol's.
    """

    track: str
    init: str
    init_facts: dict[str, Any]
    image: str
    image_hash: str
    seed: int
    lr: float
    budget_epochs: float
    curve: tuple[tuple[float, ...], ...]
    init_epochs: float
    init_sec: float
    params_hash: str
    diverged: bool
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    version: int = PROTOCOL_VERSION

    @property
    def mse(self) -> float:
        """Final error; infinite for a run that diverged."""
        return inf if self.diverged else self.curve[-1][3]

    @property
    def epochs(self) -> float:
        """Pixel visits / pixels, making the start included."""
        return self.curve[-1][0]

    @property
    def sec(self) -> float:
        """Seconds on the clock, making the start included."""
        return self.curve[-1][2]

    @property
    def start_mse(self) -> float:
        """Error at step 0."""
        return self.curve[0][3]

    @property
    def start_psnr(self) -> float:
        """PSNR at step 0, in dB."""
        return self.curve[0][4]

    @property
    def trial(self) -> tuple[Any, ...]:
        """What makes two records the same trial: rerunning it must give the same result."""
        return trial_key(
            track=self.track,
            init=self.init,
            init_facts=self.init_facts,
            settings=self.settings,
            image_hash=self.image_hash,
            seed=self.seed,
            budget_epochs=self.budget_epochs,
            lr=self.lr,
            version=self.version,
        )


def trial_key(
    *,
    track: str,
    init: str,
    init_facts: Mapping[str, Any],
    settings: Mapping[str, Any],
    image_hash: str,
    seed: int,
    budget_epochs: float,
    lr: float | None,
    version: int = PROTOCOL_VERSION,
) -> tuple[Any, ...]:
    """Identity of a trial, known before it is run; the rate is its last entry."""
    facts = json.dumps([init_facts, settings], sort_keys=True)
    return (version, track, init, facts, image_hash, seed, budget_epochs, lr)


def to_line(record: Record) -> str:
    """A record as one line of JSON, without its newline; what is not finite is null."""
    values = asdict(record)
    values["curve"] = [[v if isfinite(v) else None for v in row] for row in record.curve]
    return json.dumps(values, allow_nan=False)


def append_record(path: str | Path, record: Record) -> None:
    """Appends one complete line; a line that a killed run left unfinished is cut off first."""
    repair_jsonl(path)
    with open(path, "ab") as file:
        file.write(to_line(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def repair_jsonl(path: str | Path) -> None:
    """Cuts an unfinished last line off a JSONL file; leaves complete lines alone."""
    path = Path(path)
    if not path.exists():
        return
    with open(path, "rb+") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":  # only then is the file worth reading: this is done per append
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def read_records(paths: str | Path | Iterable[str | Path]) -> list[Record]:
    """Reads records, the first of each trial where a trial was written twice.

    Raises:
        InputError: a file is missing or not text, a line is not a record, or it was made under
            another version of the protocol; the line is named.
    """
    records: dict[tuple[Any, ...], Record] = {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        if not Path(path).is_file():
            raise InputError(f"{path}: no such record file")
        try:
            lines = Path(path).read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a record file ({error})") from error
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            if number == len(lines):
                continue  # no newline after it: the run that wrote it was killed in mid-line
            record = _from_json(line, f"{path}:{number}")
            records.setdefault(record.trial, record)
    return list(records.values())


def _from_json(line: str, where: str) -> Record:
    try:
        values = json.loads(line)
        version = values["version"]
        if version in VERSIONS:
            values["curve"] = tuple(
                tuple(inf if v is None else v for v in row) for row in values["curve"]
            )
            if not values["curve"] or any(len(row) != 6 for row in values["curve"]):
                raise ValueError("curve must have rows of 6 numbers")
            return Record(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: not a record ({error})") from error
    raise InputError(
        f"{where}: protocol version {version}, but this program scores versions"
        f" {' and '.join(map(str, VERSIONS))}"
    )


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation of the full pixel grid.

    Attributes:
        epochs: Pixel visits so far / pixels of the image, making the start included.
        steps: Optimiser steps so far.
        sec: Seconds on the clock so far.
        mse: MSE over all pixels, in ImageNet-normalised units; infinite after divergence.
        psnr: In dB on [0, 1].
        train_mse: Exponential moving average of the training loss; NaN before the first step.
    """

    epochs: float
    steps: int
    sec: float
    mse: float
    psnr: float
    train_mse: float
