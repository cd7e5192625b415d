"""Init + image + seed -> one Record: every comparison in the project runs through here."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinit.clock import Clock
from hyperinit.fit import FitConfig, FitResult, fit
from hyperinit.hypernet import HyperNetwork
from hyperinit.images import image_hash
from hyperinit.init import InitSpec, sample_params
from hyperinit.protocol import Protocol, Record
from hyperinit.siren import Params
from hyperinit.store import tensors_hash


@dataclass(frozen=True)
class Init:
    """Anything that gives a SIREN for an image; the fit cannot tell one from another.

    Attributes:
        name: What tables call it.
        start: (image (3, H, W) in [0, 1], seed) -> Params. Timed: it is part of the cost.
        epochs: image -> pixel visits that `start` costs, per pixel of the image.
        facts: JSON-able; whatever else identifies the init in a record.
    """

    name: str
    start: Callable[[Tensor, int], Params]
    epochs: Callable[[Tensor], float] = lambda image: 0.0
    facts: dict[str, Any] = field(default_factory=dict)


def spec_init(name: str, spec: InitSpec, width: int, depth: int) -> Init:
    """A hand-designed init: a fresh draw for every seed, blind to the image."""
    config = spec.siren_config(width, depth)

    def start(image: Tensor, seed: int) -> Params:
        return sample_params(spec, config, generator=torch.Generator().manual_seed(seed))

    return Init(name, start, facts=asdict(spec))


def hyper_init(name: str, hyper: HyperNetwork) -> Init:
    """A hypernetwork: its forward pass and inner steps are on the clock and in the epochs."""
    return Init(
        name,
        lambda image, seed: hyper.generate(image, seed=seed),
        hyper.generate_epochs,
        {"hypernetwork": asdict(hyper.config), "sha256": tensors_hash(hyper.state_dict())},
    )


def params_init(name: str, params: Params) -> Init:
    """Fixed parameters, the same for every image and seed (a learned init, a stored SIREN)."""
    facts = {"siren": asdict(params.config), "sha256": tensors_hash(params.tensors)}
    return Init(name, lambda image, seed: params, facts=facts)


@functools.cache
def environment() -> dict[str, Any]:
    """What a result may depend on besides its settings."""
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
        "threads": torch.get_num_threads(),
    }


def run_trial(
    init: Init,
    image: Tensor,
    image_name: str,
    *,
    protocol: Protocol,
    budget_epochs: float,
    lr: float,
    seed: int,
    track: str = "tuned",
) -> tuple[Record, FitResult]:
    """Starts from an init and fits, under a protocol.

    Args:
        image: (3, size, size) in [0, 1], already at the protocol's size.
        seed: Draws the init and, separately, the order of the pixels.
    """
    clock = Clock(image.device)
    with clock.running():
        params = init.start(image, seed)
    settings = FitConfig(
        budget_epochs=budget_epochs,
        lr=lr,
        batch_pixels=protocol.batch_pixels,
        schedule=protocol.schedule,  # type: ignore[arg-type]
        output_lr_factor=protocol.output_lr_factor,
        weight_decay=protocol.weight_decay,
        seed=seed,
    )
    init_epochs = init.epochs(image)
    result = fit(params, image, settings, spent_epochs=init_epochs, spent_sec=clock.sec)
    shown = {k: v for k, v in asdict(protocol).items() if k not in ("budgets_epochs", "lrs")}
    record = Record(
        track=track,
        init=init.name,
        init_facts=init.facts,
        image=image_name,
        image_hash=image_hash(image),
        seed=seed,
        lr=lr,
        budget_epochs=budget_epochs,
        curve=tuple(astuple(point) for point in result.curve),
        init_epochs=init_epochs,
        init_sec=clock.sec,
        params_hash=tensors_hash(result.params.tensors),
        diverged=result.diverged,
        settings=shown,
        environment=environment() | {"device": str(image.device)},
    )
    return record, result
