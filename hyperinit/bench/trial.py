"""Init + image + seed -> one Record. Every comparison in the project runs through here."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import hyperinit
from hyperinit.base.errors import InputError
from hyperinit.base.settings import as_recorded
from hyperinit.fitting.config import AUTO, PROTOCOL_1, FitConfig
from hyperinit.fitting.descent import FitResult
from hyperinit.fitting.fit import fit
from hyperinit.inits.start import Init, Start
from hyperinit.photos.workload import NamedImage
from hyperinit.record.labels import label
from hyperinit.record.protocol import Protocol
from hyperinit.record.record import CurvePoint, Record, trial_key
from hyperinit.siren.device import cpuinfo
from hyperinit.siren.store import tensors_hash

# Fields of FitConfig that are newer than the first records of this version of the protocol.
LATER_FIT_OPTIONS = (
    *("layer_lr_factors", "beta2", "hidden_dtype", "engine", "max_restarts"),
    *("optimizer", "beta1", "rising_rates", "warmup_steps", "rising_units", "backward_dtype"),
)

# Version of the protocol -> settings of its fits that are not fields of `Protocol`.
FITS: dict[int, dict[str, Any]] = {
    1: PROTOCOL_1,
    2: {
        "max_restarts": 0,
        "optimizer": "nadam",
        "rising_rates": True,
        "backward_dtype": "float32",
    },
}


@functools.cache
def _versions() -> dict[str, Any]:
    version: str | None = None
    with contextlib.suppress(ImportError):  # a copy that is not installed
        version = hyperinit.__version__
    return {
        "commit": _commit(),
        "hyperinit": version,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def _commit() -> str | None:
    """The commit of the checkout that this module is in; None if the package is installed."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found or None


@functools.cache
def machine(device: str = "cpu") -> str:
    """The hardware that seconds depend on: processor, cores and GPU; without the host's name."""
    processor = cpuinfo("model name") or platform.processor() or platform.machine()
    gpu = ""
    if device.startswith("cuda"):
        with contextlib.suppress(RuntimeError):
            gpu = f", {torch.cuda.get_device_name(device)}"
    return f"{processor}, {os.cpu_count()} cores{gpu}"


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Everything that a result may depend on besides its settings."""
    where = {"threads": torch.get_num_threads(), "device": str(device)}
    return {**_versions(), "machine": machine(str(device)), **where}


@dataclass(frozen=True, eq=False)
class Trial:
    """One planned fit: its start, its image, and what it declares.

    Attributes:
        init: The init that it starts from.
        image: The image, at the protocol's size.
        protocol: Everything that the trials of a comparison share.
        budget_epochs, lr: What the run declares; `lr` is None if it is still to be found.
        seed: Seed of the init's draw and, separately, of the order of the pixels.
        track, is_tuning, changes: See Record.
        fit_fields: Fields of FitConfig that override the protocol's, `changes` among them.
    """

    init: Init
    image: NamedImage
    protocol: Protocol
    budget_epochs: float
    lr: float | None
    seed: int
    track: str = "tuned"
    is_tuning: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    fit_fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What tables call its entry."""
        return label(self.init.name, self.changes)

    @property
    def init_facts(self) -> dict[str, Any]:
        """See Record."""
        return self.init.facts

    @property
    def image_hash(self) -> str:
        """See Record."""
        return self.image.hash

    @property
    def version(self) -> int:
        """The protocol's version."""
        return self.protocol.version

    @property
    def fit_config(self) -> FitConfig:
        """The protocol's fit with the entry's own changes.

        Raises:
            InputError: a value is out of range or left open. A record must show what its declared
                rate does, divergence included, so fits are not restarted.
        """
        fields = FitConfig.__dataclass_fields__
        shared = {k: v for k, v in asdict(self.protocol).items() if k in fields}
        own = {"budget_epochs": self.budget_epochs, "lr": self.lr, "seed": self.seed}
        version = {**self.init.prefers.fit_fields, **FITS[self.protocol.version]}
        config = FitConfig(**{**version, **shared, **self.fit_fields, **own})
        if config.max_restarts:
            raise InputError(f"init {self.init.name}: max_restarts must be 0 in a benchmark")
        left_open = AUTO in (config.engine, config.hidden_dtype, config.backward_dtype)
        if left_open or config.batch_pixels is None:
            raise InputError(
                f"init {self.init.name}: engine, hidden_dtype, backward_dtype and batch_pixels must"
                " be given in a benchmark, not left open"
            )
        return config

    @property
    def settings(self) -> dict[str, Any]:
        """The workload in its record: if anything in here changes, it is another trial."""
        sizes = {k: getattr(self.protocol, k) for k in ("image_size", "width", "depth")}
        # The defaults of later options are part of the protocol.
        fitted = as_recorded(self.fit_config, LATER_FIT_OPTIONS, FitConfig(**PROTOCOL_1))
        # The first three are fields of the record itself; evaluations do not affect the fit.
        for name in ("budget_epochs", "lr", "seed", "eval_epochs"):
            del fitted[name]
        return {**sizes, **fitted}

    @property
    def key(self) -> tuple[Any, ...]:
        """`Record.trial` of the record that it will give."""
        return trial_key(self)

    def start(self) -> Start:
        """The fit's start, on the image's device.

        Raises:
            InputError: the init returned something other than one SIREN of the protocol's size.
        """
        start = self.init.start(self.image.image, self.seed)
        width, depth = self.protocol.width, self.protocol.depth
        found = start.params.config
        if (found.width, found.depth) != (width, depth):
            raise InputError(
                f"init {self.init.name} is for a SIREN of {found.depth} x {found.width}, not"
                f" {depth} x {width}"
            )
        return start

    def run(
        self, on_eval: Callable[[CurvePoint], None] = lambda point: None
    ) -> tuple[Record, FitResult]:
        """Makes the start and runs the fit."""
        image = self.image.image
        start = self.start()
        result = fit(start, image, self.fit_config, on_eval=on_eval)
        record = Record(
            track=self.track,
            init=self.init.name,
            init_facts=self.init_facts,
            image=self.image.name,
            image_hash=self.image_hash,
            seed=self.seed,
            lr=result.lr,
            budget_epochs=self.budget_epochs,
            curve=result.curve,
            init_epochs=start.epochs,
            init_sec=start.sec,
            params_hash=tensors_hash(result.params.tensors),
            diverged=result.diverged,
            settings=self.settings,
            environment=environment(image.device),
            version=self.version,
            changes=dict(self.changes),
            is_tuning=self.is_tuning,
            source_hash=self.image.source_hash,
        )
        return record, result
