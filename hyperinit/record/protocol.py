"""The rules for measuring the time to a target error: one frozen, versioned object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hyperinit.base.arguments import (
    MAX_COUNT,
    MAX_DEPTH,
    MAX_EPOCHS,
    MAX_PIXELS,
    MAX_RATE,
    MAX_WIDTH,
)
from hyperinit.base.errors import InputError
from hyperinit.base.settings import check, option

PROTOCOL_VERSION = 2
VERSIONS = (1, 2)  # the versions that can be measured and scored

# The seed experiment's three levels of usability, as MSE over all pixels in ImageNet-normalised
# units: "low frequency info is there", "majority of structure is present", and "looks largely
# similar to the input image" (43.9 dB). The last is the headline.
TARGETS = (0.08, 0.02, 8e-4)


@dataclass(frozen=True)
class Protocol:
    """The tuned track: the same optimiser for every init, each init at its own best rate.

    A run declares its budget in advance and is judged only by its final error, so a lucky early
    stop on a noisy curve does not count. Any change that can affect a result bumps `version`.

    Raises:
        InputError: a field is out of range.
    """

    version: Literal[1, 2] = option(
        PROTOCOL_VERSION, "1: AdamW on random pixels; 2: NAdam, hard pixels more often"
    )
    image_size: int = option(
        224,
        "side of the images in pixels; they are centre squares, area-resized",
        at_least=1,
        at_most=int(MAX_PIXELS**0.5),
    )
    width: int = option(256, "units of the SIREN's sine layers", at_least=1, at_most=MAX_WIDTH)
    depth: int = option(5, "number of the SIREN's sine layers", at_least=1, at_most=MAX_DEPTH)
    budgets_epochs: tuple[float, ...] = option(
        (1, 2, 4, 8, 16, 32),
        "ladder of budgets; each rung is a separate fit",
        above=0,
        at_most=MAX_EPOCHS,
    )
    lrs: tuple[float, ...] = option(
        (1.2e-4, 1.7e-4, 2.4e-4, 3.4e-4, 4.8e-4),
        "grid of learning rates, the same for all inits",
        above=0,
        at_most=MAX_RATE,
    )
    lr_images: int = option(
        8,
        "number of tuning images on which an init's learning rate is chosen, with one seed",
        at_least=1,
        at_most=10_000,
    )
    lr_budget_epochs: float = option(
        16.0,
        "rungs above this one use the rate that was best here, because tuning them costs most",
        at_least=0,
        at_most=MAX_RATE,
    )
    batch_pixels: int = option(784, "pixels per step", at_least=1, at_most=MAX_COUNT)
    sampler: Literal["credit", "pixels", "points"] = option(
        "credit",
        "without replacement, hard pixels more often; each once per epoch; random points between",
    )
    schedule: Literal["power", "linear", "constant"] = option(
        "power", "decay of the rate over the declared budget: (1 - t)^0.7, linear, or none"
    )
    output_lr_factor: float = option(
        5.0, "the output layer's rate relative to the others'", at_least=0, at_most=MAX_RATE
    )
    weight_decay: float = option(0.0, "decoupled weight decay", at_least=0, at_most=MAX_RATE)
    batch_factors: tuple[float, ...] = option(
        (4.0,),
        "also tried for each init on tuning images: batches of this many times batch_pixels",
        above=0,
        at_most=MAX_COUNT,
    )
    level_rates: bool = option(
        True, "also tried there: one rate for all sine layers instead of rates rising with depth"
    )

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

    @property
    def alternatives(self) -> dict[str, tuple[Any, ...]]:
        """The settings that are chosen for each init and rung besides its rate.

        Field of FitConfig -> the values tried on tuning images, this protocol's own first.
        """
        pixels, own = self.image_size**2, self.batch_pixels
        batches = [min(max(round(own * factor), 1), pixels) for factor in self.batch_factors]
        others = [batch for batch in batches if batch != min(own, pixels)]
        tried = {
            "batch_pixels": tuple(dict.fromkeys((own, *others))),
            "rising_rates": (True, False) if self.level_rates else (True,),
        }
        chosen = CHOSEN_SETTINGS[self.version]
        return {name: values for name, values in tried.items() if name in chosen}


_SMALL: dict[str, Any] = {
    **{"image_size": 96, "width": 128, "depth": 4, "batch_pixels": 144},
    "lrs": (2.5e-4, 3.5e-4, 5e-4, 7e-4),
}
# The fit of version 1.
_FIT_1: dict[str, Any] = {"version": 1, "sampler": "pixels", "schedule": "linear"}

# Version -> settings that a report need not mention. Those of the current version follow from the
# code; those of earlier versions are fixed, so that their tables do not change.
_USUAL: dict[int, dict[str, Any]] = {
    1: {
        "batch_pixels": 2048,
        "sampler": "pixels",
        "schedule": "linear",
        "output_lr_factor": 5.0,
        "weight_decay": 0.0,
    },
}

# Version -> settings that are chosen for each init and budget, like its learning rate, or that an
# init brings with it; and their values in a record that does not state them.
CHOSEN_SETTINGS: dict[int, dict[str, Any]] = {
    1: {},
    2: {"batch_pixels": None, "rising_rates": False, "warmup_steps": 0, "rising_units": False},
}


def usual_settings(version: int) -> dict[str, Any]:
    """Setting -> its value in the standard protocol of a version."""
    return _USUAL.get(version) or vars(Protocol())


# Protocols by name; fields that are not given have the defaults above.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "standard": {},
    # One rung down the ladder of scales.
    "small": _SMALL,
    # The same size, and over in two minutes: a check that everything works.
    "quick": {
        **_SMALL,
        **{"budgets_epochs": (1, 2, 4, 8), "lr_images": 3},
        **{"batch_factors": (), "level_rates": False},
    },
    # Version 1, for records made before version 2.
    "standard-1": {
        **_FIT_1,
        "batch_pixels": 2048,
        "budgets_epochs": (0.5, 1, 2, 4, 8, 16, 32, 64),
        "lrs": (1.25e-4, 2.5e-4, 5e-4, 1e-3),
    },
    "small-1": {
        **_SMALL,
        **_FIT_1,
        "batch_pixels": 1024,
        "budgets_epochs": (0.5, 1, 2, 4, 8, 16, 32, 64),
        "lrs": (5e-4, 1e-3, 2e-3),
    },
    # As in the seed experiment, except that an LR range test finds the rate.
    "seed": {
        **_FIT_1,
        # 3,000 of its epochs of 7 steps of 8,192 points, in visits to each of 224 x 224 pixels
        "budgets_epochs": (3000 * 7 * 8192 / 224**2,),
        "batch_pixels": 8192,
        "sampler": "points",
        "schedule": "constant",
        "output_lr_factor": 1.0,
        "weight_decay": 0.01,
    },
    # What most papers report: 5,000 steps of Adam, each on all pixels. The track has the rate.
    "published": {
        **_FIT_1,
        "budgets_epochs": (5000.0,),
        "batch_pixels": 224**2,
        "schedule": "constant",
        "output_lr_factor": 1.0,
    },
}
