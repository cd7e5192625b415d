"""Options of a fit -> one checked `FitConfig`, and suitable values for options left open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from hyperinit.base.arguments import MAX_COUNT, MAX_EPOCHS, MAX_RATE, pairs_of
from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.settings import check, from_texts, option
from hyperinit.fitting.suits import default_lr, suitable_batch, suitable_lr
from hyperinit.inits.start import Start
from hyperinit.siren.network import SirenConfig
from hyperinit.stepping.engine import AUTO as AUTO
from hyperinit.stepping.schedule import FIRST_FACTOR, LAST_FACTOR, layer_factors

CREDIT = "credit"


@dataclass(frozen=True)
class FitConfig:
    """How a SIREN is fitted to an image, over a budget that is declared in advance.

    The defaults are those of protocol 2: NAdam on pixels that are visited without replacement, hard
    ones more often. PROTOCOL_1 has the settings of earlier records.

    Attributes:
        budget_epochs: Pixel visits / pixels of the image.
        lr: Learning rate at the start; None chooses one that suits image, network, budget and init,
            see suits.py.
        batch_pixels: Pixels per step, at most as many as the image has; None suits its size.
        sampler: "credit": without replacement, hard pixels up to ten times as often (credit.py);
            "pixels": one random permutation after another; "points": uniformly random points
            between pixels, bilinearly interpolated (as in the seed experiment); "residual": with
            replacement, pixels with large errors more often (samplers.py).
        schedule: Of the learning rate over the budget: "power": (1 - t)^0.7; "linear" decay to 0;
            or "constant".
        output_lr_factor: The output layer's learning rate relative to the others'.
        weight_decay: Decoupled, for AdamW and NAdam.
        frozen_layers: Indices of layers that are not trained; 0 is the first.
        eval_epochs: When the full pixel grid is evaluated, off the clock, besides start and end.
        eval_pixels: Number of pixels, drawn once, for evaluations on the way; None: the full grid.
            The first and the last evaluation, and all with `stop_mse`, use the full grid, and the
            result is chosen only among these. A fit to a target sets its own.
        seed: Seed of the order in which pixels are visited.
        stop_mse: Stop at the first evaluation where the error and the smoothed training loss are
            both at or below this; None never stops. Only for reproducing the seed experiment: the
            tuned track judges by the error after the whole declared budget.
        layer_lr_factors: A further factor on each layer's learning rate, from the first layer to
            the output layer; () is 1 for all.
        beta2: Decay of the squared gradients. With few pixels per step, a long memory (0.9999)
            keeps fits stable that would otherwise diverge after a thousand steps.
        hidden_dtype: The dtype in which all layers but the first and the last compute during the
            fit. Weights, their updates and every evaluation stay in the weights' own dtype.
            "auto": bfloat16 where it is clearly faster, see engine.py.
        backward_dtype: The dtype of the backward pass through the hidden layers; the forward pass,
            and so every residual, is not affected. "auto": bfloat16 on processors that have units
            for it, if the network is not small. Ignored where autograd computes the gradients:
            with AdamW, when compiled, or with a `hidden_dtype`.
        engine: "eager", or "compiled" by torch.compile: the first step then takes seconds, which
            are on the clock. "auto": compiled if the fit is long enough to make up for that.
        max_restarts: How often a fit that collapsed early, diverged, or ended worse than it began
            is restarted from its init at a lower learning rate, with the whole budget. Unless it
            is 0, a fit that collapses later is taken back to its last good state. With 0 the result
            is the end of the fit; otherwise it is the best of all evaluations.
        optimizer: "nadam", "soap" (NAdam in the eigenbasis of the input side of each hidden
            layer's gradients), or "adamw". "auto": what suits the init, see `Preference`.
        beta1: Decay of the momentum.
        rising_rates: Whether the sine layers' learning rates rise geometrically, from 0.5 times the
            fit's rate in the first to 1.5 times in the last; if False, they are equal. None: what
            suits the init: they rise, or fall from init 33.
        warmup_steps: Steps of linear warm-up of the learning rate. None: what suits the init: a few
            for a start that already shows the image, otherwise none.
        rising_units: Whether, in every hidden layer, the learning rates of the units rise from 0.5
            times the layer's rate, for the unit that carries the longest wave of the first layer,
            to 1.5 times, for the shortest; in full only at the end of the fit. For starts whose
            hidden layers pass waves on; None: only for these.
    """

    budget_epochs: float = option(8.0, at_least=0, at_most=MAX_EPOCHS)
    lr: float | None = option(None, above=0, at_most=MAX_RATE)
    batch_pixels: int | None = option(None, at_least=1, at_most=MAX_COUNT)
    sampler: Literal["credit", "pixels", "points", "residual"] = "credit"
    schedule: Literal["power", "linear", "constant"] = "power"
    output_lr_factor: float = option(5.0, at_least=0, at_most=MAX_RATE)
    weight_decay: float = option(0.0, at_least=0, at_most=MAX_RATE)
    frozen_layers: tuple[int, ...] = ()
    eval_epochs: tuple[float, ...] = option(
        (0.5, 1, 2, 4, 8, 16, 32, 64), at_least=0, at_most=MAX_EPOCHS
    )
    eval_pixels: int | None = option(None, at_least=1, at_most=MAX_COUNT)
    seed: int = option(0, at_least=-(2**63), below=2**63)
    stop_mse: float | None = option(None, at_least=0)
    layer_lr_factors: tuple[float, ...] = option((), at_least=0, at_most=MAX_RATE)
    beta2: float = option(0.9999, above=0, below=1)
    hidden_dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    backward_dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    engine: Literal["eager", "compiled", "auto"] = "eager"
    max_restarts: int = option(3, at_least=0, at_most=1000)
    optimizer: Literal["auto", "nadam", "soap", "adamw"] = "auto"
    beta1: float = option(0.8, at_least=0, below=1)
    rising_rates: bool | None = None
    warmup_steps: int | None = option(None, at_least=0, at_most=MAX_COUNT)
    rising_units: bool | None = None

    whole_ends = True  # not a field, so not an option: see SampledFit

    def __post_init__(self) -> None:
        check(self)

    def step_pixels(self, pixels: int) -> int:
        """Pixels per step for an image with this many pixels."""
        return min(self.batch_pixels or suitable_batch(pixels), pixels)

    def eval_at(self, pixels: int, device: torch.device) -> Tensor | None:
        """Indices (eval_pixels,) of the pixels that evaluations on the way use; None: all."""
        if self.eval_pixels is None or self.eval_pixels >= pixels:
            return None
        drawn = torch.randperm(pixels, generator=torch.Generator().manual_seed(0))
        return drawn[: self.eval_pixels].to(device)


class SampledFit(FitConfig):
    """A fit whose first and last evaluation use only `eval_pixels` too.

    For training, which makes thousands of fits only to see whether their end is better than their
    start; it reports none of their errors as results.
    """

    whole_ends = False


# The fit of protocol 1: settings that records of that version do not state.
PROTOCOL_1: dict[str, Any] = {
    "batch_pixels": 2048,
    "sampler": "pixels",
    "schedule": "linear",
    "beta2": 0.999,
    "max_restarts": 0,
    "backward_dtype": "float32",
    "optimizer": "adamw",
    "beta1": 0.9,
    "rising_rates": False,
    "warmup_steps": 0,
    "rising_units": False,
}


def suited(config: FitConfig, start: Start) -> FitConfig:
    """A config whose open settings are filled with what suits the start."""
    if config.optimizer == AUTO:
        config = replace(config, optimizer=start.prefers.optimizer)
    if config.engine == AUTO and start.params.device.type == "cuda":
        config = replace(config, engine="eager")  # capturing gains more than compiling
    fields = start.prefers.fit_fields.items()
    config = replace(config, **{k: v for k, v in fields if getattr(config, k) is None})
    if config.rising_rates is not None:
        return config
    if not start.prefers.falling_rates:
        return replace(config, rising_rates=True)
    falling = layer_factors(start.params.config.depth, LAST_FACTOR, FIRST_FACTOR, output=1.0)
    own = config.layer_lr_factors
    if own and len(own) == len(falling):  # a wrong number is refused later, where they are used
        falling = tuple(a * b for a, b in zip(own, falling, strict=True))
    return replace(config, rising_rates=False, layer_lr_factors=falling)


def rate_of(config: FitConfig, start: Start, pixels: int) -> float:
    """A fit's learning rate: the config's, or one that suits image, network, budget and init."""
    if config.lr:
        return config.lr
    config = suited(config, start)
    siren: SirenConfig = start.params.config
    if config.optimizer == "adamw":
        return default_lr(siren) * start.lr_factor
    batch_pixels = config.step_pixels(pixels)
    lr = suitable_lr(siren, pixels, batch_pixels, config.budget_epochs, start.lr_factor)
    return lr if config.rising_rates else lr * start.prefers.lr_factor


def with_options(config: FitConfig | None, options: dict[str, Any]) -> FitConfig:
    """A config, or the default one, with some fields set.

    Raises:
        InputError: the config is none, there is no such field (the message suggests one), or a
            value is out of range.
    """
    if not isinstance(config, FitConfig | None):
        found = type(config).__name__
        raise InputError(f"config must be a FitConfig, not {found}; give its fields by their names")
    for name in options.keys() - FitConfig.__dataclass_fields__.keys():
        raise unknown_name("fit option", name, FitConfig.__dataclass_fields__)
    return replace(config or FitConfig(), **options)


def fit_options(
    pairs: Sequence[str], declared: Sequence[str] = (), by: str = "its own flag"
) -> dict[str, Any]:
    """("sampler=points", ...) from a command line -> fields of FitConfig, checked as flags are.

    Args:
        pairs: Items of the form FIELD=VALUE, each field once.
        declared: Fields that are set elsewhere.
        by: What sets them, for the message.

    Raises:
        InputError: a pair is not of that form, names no field or a declared one, or its value is
            bad.
    """
    texts = pairs_of(pairs, "--fit", "sampler=points")
    for name in texts:
        if name in declared:
            raise InputError(f"--fit: {name} is set by {by}")
    return from_texts(FitConfig, texts, source="--fit")
