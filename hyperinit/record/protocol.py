"""How time to a target error is measured: one frozen, versioned object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from hyperinit.base.errors import InputError, check_at_least
from hyperinit.base.settings import option

PROTOCOL_VERSION = 1
READABLE_VERSIONS = (1, 2)  # of records: side by side in a report, never in one comparison

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

    image_size: int = option(224, "side of the images in pixels: centre squares, area-resized")
    width: int = option(256, "units of the SIREN's sine layers")
    depth: int = option(5, "number of the SIREN's sine layers")
    budgets_epochs: tuple[float, ...] = option(
        (0.5, 1, 2, 4, 8, 16, 32, 64), "ladder of budgets; each rung is a fit of its own"
    )
    lrs: tuple[float, ...] = option(
        (1.25e-4, 2.5e-4, 5e-4, 1e-3), "grid of learning rates, one for all inits"
    )
    lr_images: int = option(8, "tuning images on which an init's rate is chosen, with one seed")
    lr_budget_epochs: float = option(
        16.0, "rungs above this one take the rate that was best here: tuning them would cost most"
    )
    batch_pixels: int = option(2048, "pixels per step")
    sampler: Literal["pixels", "points"] = option(
        "pixels", "pixels without replacement within an epoch, or random points between them"
    )
    schedule: Literal["linear", "constant"] = option(
        "linear", "of the rate over the declared budget: decay to 0, or none"
    )
    output_lr_factor: float = option(5.0, "the output layer's rate relative to the others'")
    weight_decay: float = option(0.0, "AdamW's")

    def __post_init__(self) -> None:
        sizes = ("image_size", "width", "depth", "lr_images", "batch_pixels")
        check_at_least(self, dict.fromkeys(sizes, 1))
        for name in ("budgets_epochs", "lrs"):
            values = getattr(self, name)
            if not values or min(values) <= 0 or len(set(values)) < len(values):
                raise InputError(f"{name} must be positive and distinct, not {list(values)}")

    @property
    def tuned_budgets(self) -> tuple[float, ...]:
        """The rungs on which rates are chosen, ascending; always the smallest."""
        budgets = sorted(self.budgets_epochs)
        return tuple(b for b in budgets if b <= self.lr_budget_epochs) or (budgets[0],)


_SMALL: dict[str, Any] = {
    **{"image_size": 96, "width": 128, "depth": 4, "batch_pixels": 1024},
    "lrs": (5e-4, 1e-3, 2e-3),
}

# Version -> settings that a report need not mention; those of the current version follow from the
# code, those of earlier ones stay as they were, so that their tables do.
_USUAL: dict[int, dict[str, Any]] = {
    1: {
        "batch_pixels": 2048,
        "sampler": "pixels",
        "schedule": "linear",
        "output_lr_factor": 5.0,
        "weight_decay": 0.0,
    },
}

# Version -> settings that are chosen for each init and budget, as its learning rate is.
CHOSEN_SETTINGS: dict[int, tuple[str, ...]] = {1: (), 2: ("batch_pixels",)}


def usual_settings(version: int) -> dict[str, Any]:
    """Setting -> its value in the standard protocol of a version."""
    return _USUAL.get(version) or vars(Protocol())


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
