"""A draw and a few gradient steps: the control of every trained init that takes such steps."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

from torch import Tensor

from hyperinit.hypernet.inner import StepSizes, adapt
from hyperinit.hypernet.network import StepSizeStart
from hyperinit.inits.rules import NAMED_INITS, WARMUP_STEPS, InitSpec, Preference, WeightRule
from hyperinit.inits.start import SIZED_POWER, Init, sized_init
from hyperinit.siren.network import Params, SirenConfig

STEPS = 16
MAX_STEP_PIXELS = 256
STEP_EPOCHS = 1 / 36  # of a small image, so that all steps cost 0.44 epochs
MOST_EPOCHS = STEPS * STEP_EPOCHS
# It pays where the steps take no more of the budget, and do not see too few pixels of a tiny image
# (docs/research-log.md 62 and 68).
MOST_SHARE = 0.2
USUAL_EPOCHS, USUAL_POWER = 1.8, -0.52  # to an error of 0.02, and how they go with the error
LEAST_PIXELS = 40 * 40
MANY_WEIGHTS = 24  # of a SIREN, for each pixel of its image (research log, 84)
# From a scan on training photographs at 96 x 96; more steps, more pixels, other layers and other
# directions (momentum, orthogonalised, Gauss-Newton) gave no better fits: docs/research-log.md 24.
FIRST_STEP = StepSizeStart(first=(0, 0), hidden=(2e-2, 0), output=(4e-2, 0.6), decay=0.9)

# On the rate of the draw: a start that shows the image already takes less (research log, 57).
LR_FACTOR = 0.76
SUITS = Preference(warmup_steps=WARMUP_STEPS, rising_units=True)

# On all step sizes from waves (research log, 68), and the draw that suits what they are for: long
# fits want more short waves than `waves` has, and hidden layers that do not depend on the side.
WAVES_FACTOR = 0.7
WAVES_DRAW = replace(
    NAMED_INITS["waves"],
    first=WeightRule("waves", 1.54, power=1.45),
    hidden=WeightRule("identity", 1.85),
    output=WeightRule("uniform", 0.43),
    hidden_power=0.0,
    output_power=0.0,
)


def step_sizes(params: Params, factor: float) -> list[StepSizes]:
    """FIRST_STEP and those after it, times a factor."""
    like, depth = params.layer(0)[0], params.config.depth
    return [
        {name: like.new_tensor(factor * FIRST_STEP.of(name, depth, k)) for name in params}
        for k in range(STEPS)
    ]


def step_pixels(pixels: int) -> int:
    """Pixels of each step on an image that has so many, or samples of a signal."""
    return min(MAX_STEP_PIXELS, ceil(pixels * STEP_EPOCHS))


def cost_epochs(pixels: int) -> float:
    """What all steps cost in pixel visits / pixels of an image that has so many: 0.44 at most."""
    return STEPS * step_pixels(pixels) / pixels


def expected_epochs(budget_epochs: float, target_mse: float | None = None) -> float:
    """What a fit will take: its budget, or less where it ends at a target."""
    if not target_mse:
        return budget_epochs
    return min(budget_epochs, float(USUAL_EPOCHS * (target_mse / 0.02) ** USUAL_POWER))


def pays(pixels: int | None, budget_epochs: float, target_mse: float | None = None) -> bool:
    """Whether a fit ends better from here than from the draw, on most photographs.

    Args:
        pixels: Of the image; None: not known, but not few.
        budget_epochs: Of the fit.
        target_mse: Where its end is found on the way: it takes about as many epochs as a photograph
            of 96 x 96 usually does (records learned-96), if that is less.
    """
    budget_epochs = expected_epochs(budget_epochs, target_mse)
    cost = MOST_EPOCHS if pixels is None else cost_epochs(pixels)
    is_tiny = pixels is not None and pixels < LEAST_PIXELS
    return cost <= MOST_SHARE * budget_epochs and not is_tiny


def wants_all_waves(
    pixels: int | None,
    width: int,
    depth: int,
    budget_epochs: float,
    target_mse: float | None = None,
) -> bool:
    """Whether a fit from a draw alone ends better with waves of all lengths than with long ones.

    Long ones are best for short fits. A longer one of a tiny image, or by a large network, ends up
    to 16 dB lower from them (docs/research-log.md 76 and 84).

    Args:
        pixels: Of the image; None: not known, but not few.
        width, depth: Of the SIREN.
        budget_epochs, target_mse: See `pays`.
    """
    if pixels is None or expected_epochs(budget_epochs, target_mse) <= MOST_EPOCHS / MOST_SHARE:
        return False
    return pixels < LEAST_PIXELS or MANY_WEIGHTS * pixels < SirenConfig(width, depth).weights


def untrained(name: str, width: int, depth: int, factor: float | None = None) -> Init:
    """`identity-sized` after STEPS gradient steps on `step_pixels` pixels of the image each.

    Args:
        name: What tables call it.
        width: Units of the SIREN's sine layers.
        depth: Number of its sine layers.
        factor: On all step sizes; None: 1.
    """
    scale = 1.0 if factor is None else factor
    init = _stepped(NAMED_INITS["identity"], name, width, depth, scale)
    return replace(init, facts={"untrained": init.facts})


def waves_steps(name: str, width: int, depth: int, factor: float | None = None) -> Init:
    """The same steps, times WAVES_FACTOR, from WAVES_DRAW, sized; arguments as `untrained`."""
    scale = WAVES_FACTOR if factor is None else factor
    init = _stepped(WAVES_DRAW, name, width, depth, scale)
    return replace(init, facts={"waves_steps": {**init.facts, "draw": WAVES_DRAW.facts}})


def _stepped(draw: InitSpec, name: str, width: int, depth: int, factor: float) -> Init:
    drawn = sized_init(name, draw, width, depth, SIZED_POWER)

    def make(image: Tensor, seed: int) -> Params:
        params = drawn.start(image, seed).params
        return adapt(
            params, image, step_sizes(params, factor), step_pixels(image[0].numel()), seed=seed
        )

    # No rule of a draw in its facts: scores do not count it as hand-designed.
    facts = {"steps": STEPS, "decay": FIRST_STEP.decay, "factor": factor}
    facts |= {"step_epochs": STEP_EPOCHS, "max_step_pixels": MAX_STEP_PIXELS}
    (hidden, _), (output, output_bias) = FIRST_STEP.hidden, FIRST_STEP.output
    facts |= {"hidden": hidden, "output": output, "output_bias": output_bias}
    lr_factor = drawn.lr_factor * LR_FACTOR
    suits: dict[str, Any] = {"lr_factor": lr_factor, "prefers": SUITS}
    return Init(name, make, lambda image: cost_epochs(image[0].numel()), facts, **suits)


STEPPED = {"untrained": untrained, "waves-steps": waves_steps}
