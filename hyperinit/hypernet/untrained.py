"""A draw and a few gradient steps: starts that have learned nothing, and which one suits a fit.

They are the control for every trained init that takes such steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import ceil, log2
from typing import Any

from torch import Tensor

from hyperinit.hypernet.inner import StepSizes, adapt
from hyperinit.hypernet.network import StepSizeStart
from hyperinit.inits.rules import NAMED_INITS, WARMUP_STEPS, InitSpec, Preference, WeightRule
from hyperinit.inits.start import SIZED_POWER, Init, Start, sized_init
from hyperinit.siren.network import Params, SirenConfig

MAX_STEP_PIXELS = 256
LARGE_STEP_PIXELS = 512  # the cap for large images, if a start has `large_step_epochs`
# From a scan on training photographs at 96 x 96. Steps of other layers and in other directions
# (momentum, orthogonalised, Gauss-Newton) gave no better fits: docs/research-log.md 24.
FIRST_STEP = StepSizeStart(first=(0, 0), hidden=(2e-2, 0), output=(4e-2, 0.6))
SUITS = Preference(warmup_steps=WARMUP_STEPS, rising_units=True)

# A network with more weights per pixel than this is large for its image.
LARGE_WEIGHTS = 8
# Weights per pixel, and units, for which the draw of `WAVES_STEPS` was found: 5 x 256 at 224 x 224.
# From FINE_PIXELS on, the largest networks get the finest waves.
USUAL_WEIGHTS, USUAL_WIDTH = 5.3, 256
FINE_PIXELS = 64 * 64
COARSEST = 0.7  # the coarsest that was measured: 3 x 64 at 48 x 48
# In long fits, wider networks than this need larger gains of the hidden and output layers, the
# larger they are for their image, and lower learning rates (research log, 107).
NARROW_WIDTH = 128
HIDDEN_GAIN, HIDDEN_POWER, MOST_HIDDEN = 1.1, 0.45, 1.3
OUTPUT_GAIN, MOST_OUTPUT = 1.4, 1.5
RATE_POWER = -1.7  # of the hidden layers' factor


@dataclass(frozen=True)
class Stepping:
    """A sized draw, and the gradient steps on the image that are taken from it.

    Attributes:
        draw: See `sized_init`.
        steps: Number of steps.
        step_epochs: Pixels of each step, as a share of the image's pixels, up to MAX_STEP_PIXELS.
        large_step_epochs: For large images a share of their pixels, up to LARGE_STEP_PIXELS, if
            that is more than MAX_STEP_PIXELS.
        factor: Factor on FIRST_STEP.
        decay: Factor on the step sizes from each step to the next.
        lr_factor: Factor on the draw's learning rate: a start that already shows the image needs
            a lower one.
        large: The draw for networks that are large for their image; None: the same.
        finest: The larger the network is for its image, the finer the first layer's waves: up to
            this many times as fine as drawn, less on tiny images; and a wide network's other
            layers have larger gains, see `widened`. 0: all as drawn.
    """

    draw: InitSpec
    steps: int
    step_epochs: float
    factor: float
    decay: float
    lr_factor: float
    large: InitSpec | None = None
    large_step_epochs: float = 0.0
    finest: float = 0.0

    def step_pixels(self, pixels: int) -> int:
        """Pixels of each step on an image with `pixels` pixels, or samples of a signal."""
        most = min(max(MAX_STEP_PIXELS, pixels * self.large_step_epochs), LARGE_STEP_PIXELS)
        return ceil(min(most, pixels * self.step_epochs))

    def cost_epochs(self, pixels: int) -> float:
        """The cost of all steps in pixel visits / pixels of an image with `pixels` pixels."""
        return self.steps * self.step_pixels(pixels) / pixels

    def sizes(self, params: Params, factor: float) -> list[StepSizes]:
        """The size of every step for every parameter; `factor` replaces the attribute."""
        like, depth = params.layer(0)[0], params.config.depth
        first = replace(FIRST_STEP, decay=self.decay)
        return [
            {name: like.new_tensor(factor * first.of(name, depth, k)) for name in params}
            for k in range(self.steps)
        ]

    def take(
        self, params: Params, image: Tensor, seed: int, *, factor: float | None = None
    ) -> Params:
        """One SIREN after all steps on an image (3, H, W).

        Args:
            params: Detached.
            image: On the device of `params`.
            seed: Seed of the pixels.
            factor: Replaces the attribute.
        """
        sizes = self.sizes(params, self.factor if factor is None else factor)
        return adapt(params, image, sizes, self.step_pixels(image[0].numel()), seed=seed)

    def draw_for(self, width: int, depth: int, pixels: int) -> InitSpec:
        """The draw for a SIREN of this size and an image with `pixels` pixels."""
        ratio = weights_per_pixel(pixels, width, depth)
        if self.finest:
            fineness = (ratio / USUAL_WEIGHTS) ** (1 / 3) * (width / USUAL_WIDTH) ** (1 / 6)
            finest = self.finest * min((pixels / FINE_PIXELS) ** 0.5, 1)
            draw = self.draw.with_first_scaled(min(max(fineness, COARSEST), finest))
            return widened(draw, width, fineness)
        is_large = ratio > LARGE_WEIGHTS
        return self.large if self.large is not None and is_large else self.draw

    def drawn(self, width: int, depth: int, image: Tensor, seed: int) -> Start:
        """A draw for an image, before any step, and the learning rate that suits it after them."""
        draw = self.draw_for(width, depth, image[0].numel())
        params = sized_init("drawn", draw, width, depth, SIZED_POWER).start(image, seed).params
        return Start(params, lr_factor=draw.lr_factor * self.lr_factor, prefers=SUITS)

    def facts(self, factor: float, width: int) -> dict[str, Any]:
        """JSON-able, without the rules of the draw, so scores do not count it as hand-designed."""
        (hidden, _), (output, output_bias) = FIRST_STEP.hidden, FIRST_STEP.output
        facts: dict[str, Any] = {"steps": self.steps, "decay": self.decay, "factor": factor}
        facts |= {"step_epochs": self.step_epochs, "max_step_pixels": MAX_STEP_PIXELS}
        if self.large_step_epochs:
            facts |= {"large_step_epochs": self.large_step_epochs}
        if self.finest:
            facts |= {"finest": self.finest, "usual_weights": USUAL_WEIGHTS}
            if width > NARROW_WIDTH:
                facts |= {"hidden_gain": [HIDDEN_GAIN, HIDDEN_POWER, MOST_HIDDEN]}
                facts |= {"output_gain": [OUTPUT_GAIN, MOST_OUTPUT]}
        return {**facts, "hidden": hidden, "output": output, "output_bias": output_bias}


def weights_per_pixel(pixels: int | None, width: int, depth: int) -> float:
    """How large a SIREN is for an image; 0 if the number of pixels is not known."""
    return SirenConfig(width, depth).weights / pixels if pixels else 0.0


def widened(draw: InitSpec, width: int, fineness: float) -> InitSpec:
    """A draw for long fits, adapted to a network of this width; up to NARROW_WIDTH unchanged.

    Args:
        draw: The draw that was found for narrow networks.
        width: Units of the SIREN's sine layers.
        fineness: How large the network is for its image: 1 for 5 x 256 at 224 x 224.
    """
    if width <= NARROW_WIDTH:
        return draw
    power = HIDDEN_POWER * log2(width / NARROW_WIDTH)
    hidden = min(max(HIDDEN_GAIN * fineness, 1) ** power, MOST_HIDDEN)
    output = min(max(OUTPUT_GAIN * fineness, 1), MOST_OUTPUT)
    return replace(
        draw,
        hidden=replace(draw.hidden, gain=draw.hidden.gain * hidden),
        output=replace(draw.output, gain=draw.output.gain * output),
        lr_factor=draw.lr_factor * hidden**RATE_POWER,
    )


# The draw that suits long fits: they need more short waves than `waves` has, and hidden layers that
# do not depend on the side (research log, 68). `WAVES_STEPS` makes the waves even finer (104).
LONG_DRAW = replace(
    NAMED_INITS["waves"],
    first=WeightRule("waves", 1.54, power=1.45),
    hidden=WeightRule("identity", 1.85),
    output=WeightRule("uniform", 0.43),
    hidden_power=0.0,
    output_power=0.0,
)

# Learning rates: research log, 57; few steps: 94.
UNTRAINED = Stepping(NAMED_INITS["identity"], 16, 1 / 36, 1.0, 0.9, lr_factor=0.76)
WAVES_STEPS = Stepping(
    LONG_DRAW.with_first_scaled(1.3),
    *(16, 1 / 36, 0.7, 0.9),
    lr_factor=0.76,
    large_step_epochs=1 / 98,
    finest=1.25,
)
WAVES_FEW_STEPS = Stepping(
    NAMED_INITS["waves-mid"], 6, 1 / 72, 0.75, 0.8, lr_factor=0.82, large=LONG_DRAW
)

STEPPINGS = {
    "untrained": UNTRAINED,
    "waves-steps": WAVES_STEPS,
    "waves-few-steps": WAVES_FEW_STEPS,
}

# Length of a fit, in epochs, from which it ends lowest after few steps, and after many at 64 x 64
# pixels; for larger images fewer epochs, see `many_epochs` (research log, 94, 106, 107). Above
# USUAL_PIXELS all images have batches of one size, so an epoch is a longer fit.
FEW_EPOCHS, MANY_EPOCHS = 0.6, 5.2
MANY_PIXELS, MANY_POWER = 64 * 64, -0.22
USUAL_PIXELS = 256 * 256
# On images with fewer pixels, steps see too few of them; even more so if the network is large.
LEAST_PIXELS, LEAST_PIXELS_LARGE = 24 * 24, 40 * 40
TINY_WEIGHTS = 12  # per pixel
# From this length on, a fit from a draw without steps, of a tiny image or with this many weights
# per pixel, needs waves of all lengths instead of long ones: up to 16 dB (research log, 76, 84).
WAVES_EPOCHS, MANY_WEIGHTS = 2.2, 24
USUAL_EPOCHS, USUAL_POWER = 1.8, -0.52  # epochs to an error of 0.02, and their power of the error
SOONER_POWER = -0.25  # of these epochs, with the weights per pixel above USUAL_WEIGHTS (108)


def expected_epochs(budget_epochs: float, target_mse: float | None = None) -> float:
    """The epochs that a fit will take: its budget, or less if it ends at a target."""
    if not target_mse:
        return budget_epochs
    return min(budget_epochs, float(USUAL_EPOCHS * (target_mse / 0.02) ** USUAL_POWER))


def likely_epochs(
    pixels: int | None, width: int, depth: int, budget_epochs: float, target_mse: float | None
) -> float:
    """`expected_epochs`; to a target fewer by a network that is large for its image."""
    epochs = expected_epochs(budget_epochs, target_mse)
    ratio = weights_per_pixel(pixels, width, depth)
    return epochs * max(ratio / USUAL_WEIGHTS, 1) ** SOONER_POWER if target_mse else epochs


def epoch_length(pixels: int | None) -> float:
    """Steps of an epoch relative to one of USUAL_PIXELS; 1 for smaller images."""
    return max((pixels or 0) / USUAL_PIXELS, 1.0)


def many_epochs(pixels: int | None) -> float:
    """Length of a fit, in epochs, from which it ends lowest from `waves-steps`.

    Args:
        pixels: Pixels of the image; None: not known, assumed to be few.
    """
    if pixels is None:
        return MANY_EPOCHS
    epochs = MANY_EPOCHS * (min(pixels, USUAL_PIXELS) / MANY_PIXELS) ** MANY_POWER
    return float(epochs / epoch_length(pixels))


def suitable_start(
    pixels: int | None,
    width: int,
    depth: int,
    budget_epochs: float,
    target_mse: float | None = None,
    *,
    takes_steps: bool = True,
) -> str:
    """The name of the start from which a fit ends lowest, of those that have learned nothing.

    Args:
        pixels: Pixels of the image; None: not known, but not few.
        width, depth: Of the SIREN.
        budget_epochs: The fit's budget.
        target_mse: The target of a fit whose end is found on the way. It is assumed to take as many
            epochs as a photograph of 96 x 96 usually does (records learned-96), fewer if the
            network is large for its image, and never more than the budget.
        takes_steps: Whether gradient steps are possible: they are for photographs and the usual
            omega_0.
    """
    epochs = expected_epochs(budget_epochs, target_mse)
    ratio = weights_per_pixel(pixels, width, depth)
    likely = likely_epochs(pixels, width, depth, budget_epochs, target_mse)
    is_many = likely >= many_epochs(pixels)
    epochs *= epoch_length(pixels)
    least = LEAST_PIXELS_LARGE if ratio > TINY_WEIGHTS else LEAST_PIXELS
    if takes_steps and (pixels is None or pixels >= least) and epochs >= FEW_EPOCHS:
        return "waves-steps" if is_many else "waves-few-steps"
    is_tiny = pixels is not None and pixels < LEAST_PIXELS_LARGE
    wants_all = epochs > WAVES_EPOCHS and (is_tiny or ratio > MANY_WEIGHTS)
    return "identity-sized" if wants_all else "waves-sized"


def base_of_learning(
    budget_epochs: float, target_mse: float | None = None, *, takes_steps: bool = True
) -> str:
    """The name of the start to which a learned correction is added (research log, 95).

    Args:
        budget_epochs, target_mse, takes_steps: See `suitable_start`.
    """
    is_short = expected_epochs(budget_epochs, target_mse) <= WAVES_EPOCHS
    return "waves-sized" if is_short or not takes_steps else "waves-few-steps"


def _stepped(
    kind: Stepping, label: str, name: str, width: int, depth: int, factor: float | None = None
) -> Init:
    """A draw and gradient steps on the image.

    Args:
        kind: Which draw and steps.
        label: The label in its facts.
        name: What tables call it.
        width: Units of the SIREN's sine layers.
        depth: Number of its sine layers.
        factor: Factor on all step sizes; None: the usual one.
    """
    factor = kind.factor if factor is None else factor

    def make(image: Tensor, seed: int) -> Start:
        start = kind.drawn(width, depth, image, seed)
        return replace(start, params=kind.take(start.params, image, seed, factor=factor))

    facts = kind.facts(factor, width)
    if kind is not UNTRAINED:  # its records are older than the other draws
        facts["draw"] = kind.draw.facts
    if kind.large is not None:
        facts |= {"large_draw": kind.large.facts, "large_weights": LARGE_WEIGHTS}
    suits: dict[str, Any] = {"lr_factor": kind.draw.lr_factor * kind.lr_factor, "prefers": SUITS}
    return Init(
        name, make, lambda image: kind.cost_epochs(image[0].numel()), {label: facts}, **suits
    )


# Name -> (name in tables, width, depth, factor on all step sizes or None) -> Init.
STEPPED = {
    name: partial(_stepped, kind, name.replace("-", "_")) for name, kind in STEPPINGS.items()
}
untrained, waves_steps = STEPPED["untrained"], STEPPED["waves-steps"]
