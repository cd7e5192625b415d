"""Init + image + seed -> one Record: every comparison in the project runs through here."""

from __future__ import annotations

import functools
import platform
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinit.clock import Clock
from hyperinit.config import as_recorded
from hyperinit.errors import InputError
from hyperinit.fit import CurvePoint, FitConfig, FitResult, default_lr, fit
from hyperinit.fit_config import AUTO
from hyperinit.hypernet import HyperNetwork
from hyperinit.images import image_hash, square_crop
from hyperinit.init import InitSpec, sample_params
from hyperinit.learned import LearnedInit
from hyperinit.protocol import Protocol, Record, trial_key
from hyperinit.siren import Params
from hyperinit.store import tensors_hash

# Fields of FitConfig that came after the first records of this version of the protocol.
LATER_FIT_OPTIONS = ("layer_lr_factors", "beta2", "hidden_dtype", "engine", "max_restarts")

SIZED_POWER = 0.5  # see sized_init

# Starts are made one at a time: an init may draw from torch's global generator.
_starting = threading.Lock()


@dataclass(frozen=True)
class Init:
    """Anything that gives a SIREN for an image; the fit cannot tell one from another.

    Attributes:
        name: What tables call it.
        start: (image (3, H, W) in [0, 1], seed) -> Params. Timed: it is part of the cost.
        epochs: image -> pixel visits that `start` costs, per pixel of the image.
        facts: JSON-able; whatever else identifies the init in a record.
        train_hashes: Hashes of the images it was made from, which it may not be tested on.
        fit: Fields of FitConfig that differ from the protocol's, for tracks that allow it.
        lr: The learning rate that suits a fit from here; None: `default_lr`. Benchmarks search
            for one of their own.
    """

    name: str
    start: Callable[[Tensor, int], Params]
    epochs: Callable[[Tensor], float] = lambda image: 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    train_hashes: frozenset[str] = frozenset()
    fit: Mapping[str, Any] = field(default_factory=dict)
    lr: float | None = None


def spec_init(name: str, spec: InitSpec, width: int, depth: int) -> Init:
    """A hand-designed init: a fresh draw for every seed, blind to the image."""
    config = spec.siren_config(width, depth)

    def start(image: Tensor, seed: int) -> Params:
        return sample_params(spec, config, generator=torch.Generator().manual_seed(seed))

    return Init(name, start, facts=spec.facts, lr=default_lr(config) * spec.lr_factor)


def sized_init(name: str, spec: InitSpec, width: int, depth: int, power: float) -> Init:
    """A hand-designed init with the first layer times (side / 224)^power, the side being sqrt(H W).

    At 48 x 48 most of init 33's first layer lies beyond the pixel grid's Nyquist frequency. Power
    1 would keep the frequencies where they are in cycles a pixel; on training photographs of 96
    and 48 pixels a side factors of 0.7 and 0.35 to 0.5 are best: docs/research-log.md 10, 17.
    """
    config = spec.siren_config(width, depth)

    def start(image: Tensor, seed: int) -> Params:
        side = sqrt(image.shape[-2] * image.shape[-1])
        params = sample_params(spec, config, generator=torch.Generator().manual_seed(seed))
        first = "layers.0.weight"
        return Params(config, {**params, first: params[first] * (side / 224) ** power})

    rule = {"rule": name.partition("@")[0], "number": power, "output_gain": 1.0}
    return replace(spec_init(name, spec, width, depth), start=start, facts={**spec.facts, **rule})


def hyper_init(name: str, hyper: HyperNetwork | LearnedInit) -> Init:
    """A trained init: its forward pass and inner steps are on the clock and in the epochs."""
    return Init(
        name,
        lambda image, seed: hyper.to(image.device).generate(image, seed=seed),
        hyper.generate_epochs,
        {**hyper.facts, "sha256": tensors_hash(hyper.state_dict())},
        lr=default_lr(hyper.config.siren) * hyper.config.lr_factor,
    )


def params_init(name: str, params: Params) -> Init:
    """Fixed parameters, the same for every image and seed (a learned init, a stored SIREN)."""
    facts = {"siren": asdict(params.config), "sha256": tensors_hash(params.tensors)}
    return Init(name, lambda image, seed: params, facts=facts)


@dataclass(frozen=True)
class NamedImage:
    """An image at the protocol's size.

    Attributes:
        name: What records call it.
        image: (3, size, size) in [0, 1].
        hash: `image_hash` of it.
        source_hash: The same of the photograph that it was cropped from; "" if there is none.
    """

    name: str
    image: Tensor = field(repr=False, compare=False)
    hash: str
    source_hash: str = ""

    @classmethod
    def cropped(cls, name: str, source: Tensor, size: int, source_hash: str = "") -> NamedImage:
        """The centre square of an image (3, H, W) of any size."""
        image = square_crop(source, size)
        return cls(name, image, image_hash(image), source_hash or image_hash(source))


@functools.cache
def _versions() -> dict[str, Any]:
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {
        "commit": commit or None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a result may depend on besides its settings."""
    return {**_versions(), "threads": torch.get_num_threads(), "device": str(device)}


@dataclass(frozen=True, eq=False)
class Trial:
    """One fit that has been decided on: where it starts, on what, and what it declares.

    Attributes:
        init: Where it starts; its `fit` overrides the protocol.
        image: At the protocol's size.
        protocol: Everything the trials of a comparison share.
        budget_epochs, lr: What the run declares; `lr` None where it is still to be found.
        seed: Draws the init and, separately, the order of the pixels.
        track: See Record.
    """

    init: Init
    image: NamedImage
    protocol: Protocol
    budget_epochs: float
    lr: float | None
    seed: int
    track: str = "tuned"

    @property
    def fit_config(self) -> FitConfig:
        """The protocol's fit with the init's own changes.

        Raises:
            InputError: a value is out of range, or not declared: a record is of what the rate it
                declares does, so one that diverges must show as such, and fits are not restarted.
        """
        fields = FitConfig.__dataclass_fields__
        shared = {k: v for k, v in asdict(self.protocol).items() if k in fields}
        own = {"budget_epochs": self.budget_epochs, "lr": self.lr, "seed": self.seed}
        config = FitConfig(**{**shared, **self.init.fit, **own})
        if config.max_restarts:
            raise InputError(f"init {self.init.name}: max_restarts must be 0 in a benchmark")
        if AUTO in (config.engine, config.hidden_dtype) or config.batch_pixels is None:
            raise InputError(
                f"init {self.init.name}: engine, hidden_dtype and batch_pixels must be named in a"
                " benchmark, not left to be chosen"
            )
        return config

    @property
    def settings(self) -> dict[str, Any]:
        """What its record says of the workload: nothing in here can change without a new trial."""
        sizes = {k: getattr(self.protocol, k) for k in ("image_size", "width", "depth")}
        # The defaults of later options are part of the protocol.
        fitted = as_recorded(self.fit_config, LATER_FIT_OPTIONS)
        # The first three stand in the record itself; evaluations do not touch the fit.
        for name in ("budget_epochs", "lr", "seed", "eval_epochs"):
            del fitted[name]
        return {**sizes, **fitted}

    @property
    def key(self) -> tuple[Any, ...]:
        """`Record.trial` of the record that running it gives."""
        return trial_key(
            track=self.track,
            init=self.init.name,
            init_facts=self.init.facts,
            settings=self.settings,
            image_hash=self.image.hash,
            seed=self.seed,
            budget_epochs=self.budget_epochs,
            lr=self.lr,
        )

    def start(self) -> tuple[Params, float]:
        """The SIREN the fit starts from, on the image's device, and the seconds it took.

        Raises:
            InputError: the init gave something else than one SIREN of the protocol's size.
        """
        clock = Clock(self.image.image.device)
        with _starting, clock.running():
            params = self.init.start(self.image.image, self.seed)
            if isinstance(params, Params):
                params = params.map(lambda value: value.to(self.image.image.device))
        width, depth = self.protocol.width, self.protocol.depth
        if not isinstance(params, Params) or params.batch_shape:
            raise InputError(f"init {self.init.name} must give the Params of one SIREN")
        if (params.config.width, params.config.depth) != (width, depth):
            found = f"{params.config.depth} x {params.config.width}"
            raise InputError(
                f"init {self.init.name} is for a SIREN of {found}, not {depth} x {width}"
            )
        return params, clock.sec

    def run(
        self, on_eval: Callable[[CurvePoint], None] = lambda point: None
    ) -> tuple[Record, FitResult]:
        """Starts from the init and fits."""
        image = self.image.image
        params, init_sec = self.start()
        init_epochs = self.init.epochs(image)
        config = self.fit_config
        result = fit(
            params, image, config, spent_epochs=init_epochs, spent_sec=init_sec, on_eval=on_eval
        )
        record = Record(
            track=self.track,
            init=self.init.name,
            init_facts=self.init.facts,
            image=self.image.name,
            image_hash=self.image.hash,
            seed=self.seed,
            lr=result.lr,
            budget_epochs=self.budget_epochs,
            curve=tuple(astuple(point) for point in result.curve),
            init_epochs=init_epochs,
            init_sec=init_sec,
            params_hash=tensors_hash(result.params.tensors),
            diverged=result.diverged,
            settings=self.settings,
            environment=environment(image.device),
        )
        return record, result
