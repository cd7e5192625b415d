"""Options of a fit -> one checked `FitConfig`, and what suits where they leave that open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from hyperinit.base.arguments import MAX_COUNT, MAX_EPOCHS, MAX_RATE
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
    """How a SIREN is fitted to an image, over a budget that is declared before.

    The defaults are protocol 2's: NAdam on pixels that are visited without replacement, hard ones
    more often. PROTOCOL_1 has what earlier records were made with.

    Attributes:
        budget_epochs: Pixel visits / pixels of the image.
        lr: Learning rate at the start; None takes what suits image, network, budget and init, see
            suits.py.
        batch_pixels: Pixels a step, never more than the image has; None takes what suits its size.
        sampler: "credit": without replacement, hard pixels up to ten times as often (credit.py);
            "pixels": in one random permutation after the other; "points": uniformly random points
            between pixels, bilinearly interpolated (the seed experiment's); "residual": with
            replacement, pixels that are still far off more often (samplers.py).
        schedule: Of the rate over the budget: "power": (1 - t)^0.7; "linear" decay to 0; or
            "constant".
        output_lr_factor: The output layer's learning rate relative to the others'.
        weight_decay: Decoupled, AdamW's and NAdam's.
        frozen_layers: Indices of layers that are not trained, 0 being the first.
        eval_epochs: When the full pixel grid is evaluated, off the clock, besides start and end.
        eval_pixels: How many pixels, drawn once, evaluations on the way look at; None: the full
            grid. The first and the last always look at all pixels, and so does every one with
            `stop_mse`; what is kept is chosen among those alone. A fit to a target sets its own.
        seed: Of the order in which pixels are visited.
        stop_mse: Stop at the first evaluation where the error and the smoothed training loss are
            both at or below this; None never does. Only for reproducing the seed experiment: the
            tuned track judges by the error after the whole declared budget.
        layer_lr_factors: A further factor for each layer's rate, the first layer's first and the
            output layer's last; () is 1 for all.
        beta2: Decay of the squared gradients. With few pixels a step a long memory (0.9999) keeps
            fits stable that otherwise blow up after a thousand steps.
        hidden_dtype: What all layers but the first and the last are computed in while fitting.
            Weights, their updates and every evaluation stay in the type the weights came in.
            "auto": bfloat16 where it is clearly faster, see engine.py.
        backward_dtype: What gradients are computed in on their way back through the hidden layers;
            what is shown, and so every residual, is not concerned. "auto": bfloat16 on processors
            that have units for it, where the network is not small. Of no account where autograd
            makes the gradients: by AdamW, compiled, or with a `hidden_dtype`.
        engine: "eager", or "compiled" by torch.compile: the first step then takes seconds, which
            are on the clock. "auto": compiled where the fit is long enough to pay for that.
        max_restarts: How often a fit that collapsed, diverged, or ended worse than it began, is
            started again from its init at a lower rate, with the whole budget; and how often one
            that collapses later is taken back to its last good state. With 0 the result is what
            the fit ended with; otherwise it is the best of all evaluations.
        optimizer: "nadam", "soap" (NAdam in the eigenbasis of the input side of each hidden
            layer's gradients), or "adamw". "auto": what suits the init, see `Preference`.
        beta1: Decay of the momentum.
        rising_rates: Whether the sine layers' rates rise geometrically from 0.5 times the rate in
            the first to 1.5 times in the last; otherwise they are all alike. None: what suits the
            init: they rise, or from init 33 fall.
        warmup_steps: Steps over which the rate rises linearly to its own. None: what suits the
            init: a few from a start that shows the image already, otherwise none.
        rising_units: Whether, in every hidden layer, the rates of the units rise from 0.5 times the
            layer's, for the one that carries the longest wave of the first layer, to 1.5 times,
            for the shortest; in full only at the end of the fit. For starts whose hidden layers
            hand waves on; None: only from these.
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

    whole_ends = True  # no field, and so no option: see SampledFit

    def __post_init__(self) -> None:
        check(self)

    def step_pixels(self, pixels: int) -> int:
        """Pixels a step of an image that has so many."""
        return min(self.batch_pixels or suitable_batch(pixels), pixels)

    def eval_at(self, pixels: int, device: torch.device) -> Tensor | None:
        """Which of an image's pixels evaluations on the way look at, (eval_pixels,); None: all."""
        if self.eval_pixels is None or self.eval_pixels >= pixels:
            return None
        drawn = torch.randperm(pixels, generator=torch.Generator().manual_seed(0))
        return drawn[: self.eval_pixels].to(device)


class SampledFit(FitConfig):
    """A fit whose first and last evaluation are of `eval_pixels` too.

    For training, which makes thousands of fits only to see which of their two ends is better: its
    errors are no result of any fit.
    """

    whole_ends = False


# The fit of protocol 1: what records of that version leave unsaid.
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
    """A config with what suits the start, where it leaves that open."""
    if config.optimizer == AUTO:
        config = replace(config, optimizer=start.prefers.optimizer)
    fields = start.prefers.fit_fields.items()
    config = replace(config, **{k: v for k, v in fields if getattr(config, k) is None})
    if config.rising_rates is not None:
        return config
    if not start.prefers.falling_rates:
        return replace(config, rising_rates=True)
    falling = layer_factors(start.params.config.depth, LAST_FACTOR, FIRST_FACTOR, output=1.0)
    own = config.layer_lr_factors
    if own and len(own) == len(falling):  # others are refused where they are used
        falling = tuple(a * b for a, b in zip(own, falling, strict=True))
    return replace(config, rising_rates=False, layer_lr_factors=falling)


def rate_of(config: FitConfig, start: Start, pixels: int) -> float:
    """The learning rate of a fit: the config's, or what suits image, network, budget and init."""
    if config.lr:
        return config.lr
    siren: SirenConfig = start.params.config
    if config.optimizer == "adamw":
        return default_lr(siren) * start.lr_factor
    batch_pixels = config.step_pixels(pixels)
    lr = suitable_lr(siren, pixels, batch_pixels, config.budget_epochs, start.lr_factor)
    return lr if config.rising_rates else lr * start.prefers.lr_factor


def with_options(config: FitConfig | None, options: dict[str, Any]) -> FitConfig:
    """A config, or the default one, with some fields set.

    Raises:
        InputError: no such field (the nearest is suggested), or a value is out of range.
    """
    for name in options.keys() - FitConfig.__dataclass_fields__.keys():
        raise unknown_name("fit option", name, FitConfig.__dataclass_fields__)
    return replace(config or FitConfig(), **options)


def fit_options(
    pairs: Sequence[str], declared: Sequence[str] = (), by: str = "its own flag"
) -> dict[str, Any]:
    """("sampler=points", ...) from a command line -> fields of FitConfig, checked as flags are.

    Args:
        pairs: FIELD=VALUE each.
        declared: Fields that something else sets.
        by: What that is.

    Raises:
        InputError: not of that form, no such field, a field that is declared, or a bad value.
    """
    texts = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--fit: {pair!r} is not of the form FIELD=VALUE")
        if name in declared:
            raise InputError(f"--fit: {name} is declared by {by}")
        texts[name] = text
    return from_texts(FitConfig, texts, source="--fit")
