"""Options of a fit -> one checked `FitConfig`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.settings import Parser, build_parser, resolve
from hyperinit.fitting.suits import suitable_batch
from hyperinit.stepping.optimizers import OPTIMIZERS
from hyperinit.stepping.samplers import SAMPLERS
from hyperinit.stepping.schedule import DECAY_POWERS

AUTO = "auto"
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
        engine: "eager", or "compiled" by torch.compile: the first step then takes seconds, which
            are on the clock. "auto": compiled where the fit is long enough to pay for that.
        max_restarts: How often a fit that collapsed, diverged, or ended worse than it began, is
            started again from its init at a lower rate, with the whole budget; and how often one
            that collapses later is taken back to its last good state. With 0 the result is what
            the fit ended with; otherwise it is the best of all evaluations.
        optimizer: "nadam", "soap" (NAdam in the eigenbasis of the input side of each hidden
            layer's gradients), or "adamw".
        beta1: Decay of the momentum.
        rising_rates: Whether the sine layers' rates rise geometrically from 0.5 times the rate in
            the first to 1.5 times in the last; otherwise they are all alike.
    """

    budget_epochs: float = 8.0
    lr: float | None = None
    batch_pixels: int | None = None
    sampler: Literal["credit", "pixels", "points", "residual"] = "credit"
    schedule: Literal["power", "linear", "constant"] = "power"
    output_lr_factor: float = 5.0
    weight_decay: float = 0.0
    frozen_layers: tuple[int, ...] = ()
    eval_epochs: tuple[float, ...] = (0.5, 1, 2, 4, 8, 16, 32, 64)
    seed: int = 0
    stop_mse: float | None = None
    layer_lr_factors: tuple[float, ...] = ()
    beta2: float = 0.9999
    hidden_dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    engine: Literal["eager", "compiled", "auto"] = "eager"
    max_restarts: int = 3
    optimizer: Literal["nadam", "soap", "adamw"] = "nadam"
    beta1: float = 0.8
    rising_rates: bool = True

    def __post_init__(self) -> None:
        numbers = ("budget_epochs", "lr", "batch_pixels", "output_lr_factor", "weight_decay")
        for field in (*numbers, "beta1", "beta2", "seed"):
            value, optional = getattr(self, field), field in ("lr", "batch_pixels")
            if not isinstance(value, (int, float)) and not (optional and value is None):
                raise InputError(f"{field} must be a number, not {value!r}")
        for field in ("budget_epochs", "output_lr_factor", "weight_decay"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise InputError(f"{field} must be a number >= 0, not {getattr(self, field)}")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise InputError(f"lr must be a positive number, not {self.lr}")
        if self.batch_pixels is not None and self.batch_pixels < 1:
            raise InputError(f"batch_pixels must be at least 1, not {self.batch_pixels}")
        if not (isinstance(self.seed, int) and abs(self.seed) < 2**63):
            raise InputError(f"seed must be a whole number of at most 63 bits, not {self.seed}")
        if not 0 < self.beta2 < 1:
            raise InputError(f"beta2 must be between 0 and 1, not {self.beta2}")
        if not 0 <= self.beta1 < 1:
            raise InputError(f"beta1 must be at least 0 and below 1, not {self.beta1}")
        if any(not 0 <= factor < float("inf") for factor in self.layer_lr_factors):
            raise InputError(f"layer_lr_factors must be >= 0, not {list(self.layer_lr_factors)}")
        if not isinstance(self.max_restarts, int) or self.max_restarts < 0:
            raise InputError(f"max_restarts must be a whole number >= 0, not {self.max_restarts}")
        tables = {
            "schedule": DECAY_POWERS,
            "sampler": (CREDIT, *SAMPLERS),
            "hidden_dtype": ("float32", "bfloat16", AUTO),
            "engine": ("eager", "compiled", AUTO),
            "optimizer": OPTIMIZERS,
        }
        for field, known in tables.items():
            if getattr(self, field) not in known:
                raise unknown_name(field, getattr(self, field), known)

    def step_pixels(self, pixels: int) -> int:
        """Pixels a step of an image that has so many."""
        return min(self.batch_pixels or suitable_batch(pixels), pixels)


# The fit of protocol 1: what records of that version leave unsaid.
PROTOCOL_1: dict[str, Any] = {
    "batch_pixels": 2048,
    "sampler": "pixels",
    "schedule": "linear",
    "beta2": 0.999,
    "max_restarts": 0,
    "optimizer": "adamw",
    "beta1": 0.9,
    "rising_rates": False,
}


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
    flags = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--fit: {pair!r} is not of the form FIELD=VALUE")
        if name in declared:
            raise InputError(f"--fit: {name} is declared by {by}")
        flags.append(f"--{name.replace('_', '-')}={value}")
    namespace = build_parser(FitConfig, {}, Parser(prog="--fit")).parse_args(flags)
    config = resolve(FitConfig, namespace, {})
    return {pair.partition("=")[0]: getattr(config, pair.partition("=")[0]) for pair in pairs}
