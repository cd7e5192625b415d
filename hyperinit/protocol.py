"""How time to a target error is measured: one frozen, versioned object, and the records it makes.

Scoring reads records only, so nothing is rerun when a rule of scoring changes. No torch in here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import exp, inf, isfinite, log
from pathlib import Path
from typing import Any, ClassVar, Literal

from hyperinit.config import check, option
from hyperinit.errors import InputError

PROTOCOL_VERSION = 1

# The seed experiment's three levels of usability, as MSE over all pixels in ImageNet-normalised
# units: "low frequency info is there", "majority of structure is present", and "looks largely
# similar to the input image" (43.9 dB). The last is the headline.
TARGETS = (0.08, 0.02, 8e-4)


@dataclass(frozen=True)
class Protocol:
    """The tuned track: the same optimiser for every init, each init at its own best rate.

    A run declares its budget beforehand and is judged by its final error alone, so no lucky early
    stop on a noisy curve counts. `version` is bumped by any change that can move a result.

    Raises:
        InputError: a field is out of range.
    """

    version: ClassVar[int] = PROTOCOL_VERSION

    image_size: int = option(
        224, "side of the images in pixels: centre squares, area-resized", at_least=1
    )
    width: int = option(256, "units of the SIREN's sine layers", at_least=1)
    depth: int = option(5, "number of the SIREN's sine layers", at_least=1)
    budgets_epochs: tuple[float, ...] = option(
        (0.5, 1, 2, 4, 8, 16, 32, 64), "ladder of budgets; each rung is a fit of its own", above=0
    )
    lrs: tuple[float, ...] = option(
        (1.25e-4, 2.5e-4, 5e-4, 1e-3), "grid of learning rates, one for all inits", above=0
    )
    lr_images: int = option(
        8, "tuning images on which an init's rate is chosen, with one seed", at_least=1
    )
    lr_budget_epochs: float = option(
        16.0, "rungs above this one take the rate that was best here: tuning them would cost most"
    )
    batch_pixels: int = option(2048, "pixels per step", at_least=1)
    sampler: Literal["pixels", "points"] = option(
        "pixels", "pixels without replacement within an epoch, or random points between them"
    )
    schedule: Literal["linear", "constant"] = option(
        "linear", "of the rate over the declared budget: decay to 0, or none"
    )
    output_lr_factor: float = option(5.0, "the output layer's rate relative to the others'")
    weight_decay: float = option(0.0, "AdamW's")

    def __post_init__(self) -> None:
        check(self)
        for name in ("budgets_epochs", "lrs"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"{name} must be distinct and at least one, not {list(values)}")

    @property
    def tuned_budgets(self) -> tuple[float, ...]:
        """The rungs on which rates are chosen, ascending; always the smallest."""
        budgets = sorted(self.budgets_epochs)
        return tuple(b for b in budgets if b <= self.lr_budget_epochs) or (budgets[0],)


_SMALL: dict[str, Any] = {
    **{"image_size": 96, "width": 128, "depth": 4, "batch_pixels": 1024},
    "lrs": (5e-4, 1e-3, 2e-3),
}

# Protocols by name; fields that are not given are as above.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "standard": {},
    # One rung down the ladder of scales.
    "small": _SMALL,
    # As small, and over in three minutes: to see that everything works.
    "quick": {**_SMALL, "budgets_epochs": (1, 2, 4, 8), "lr_images": 3},
    # As the seed experiment ran it, but for the rate, which an LR range test finds.
    "seed": {
        # 3,000 of its epochs of 7 steps of 8,192 points, in visits to each of 224 x 224 pixels
        "budgets_epochs": (3000 * 7 * 8192 / 224**2,),
        "batch_pixels": 8192,
        "sampler": "points",
        "schedule": "constant",
        "output_lr_factor": 1.0,
        "weight_decay": 0.01,
    },
}


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
        if version == PROTOCOL_VERSION:
            values["curve"] = tuple(
                tuple(inf if v is None else v for v in row) for row in values["curve"]
            )
            if not values["curve"] or any(len(row) != 6 for row in values["curve"]):
                raise ValueError("curve must have rows of 6 numbers")
            return Record(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: not a record ({error})") from error
    raise InputError(
        f"{where}: protocol version {version}, but this program scores version {PROTOCOL_VERSION}"
    )


def cost_to_target(costs: Sequence[float], errors: Sequence[float], target: float) -> float:
    """Cost at which a ladder of runs reaches a target error; infinite where none does.

    Args:
        costs: Epochs or seconds of the start and of each rung, ascending.
        errors: Final error of each.
        target: Reached when error <= target.

    Returns:
        The log-log interpolation between the first rung that reaches the target and the one
        before it; that rung's own cost where the one before cost nothing (an upper bound).
    """
    for i, (cost, error) in enumerate(zip(costs, errors, strict=True)):
        if not error <= target:
            continue
        if i == 0 or costs[i - 1] <= 0 or not isfinite(errors[i - 1]) or error <= 0:
            return cost
        part = log(errors[i - 1] / target) / log(errors[i - 1] / error)
        return exp(log(costs[i - 1]) + part * log(cost / costs[i - 1]))
    return inf
