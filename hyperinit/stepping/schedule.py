"""Learning rates of a fit: how they fall over its steps, and rise with a layer's depth."""

from __future__ import annotations

from torch import Tensor

# Learning rate of the linear output layer, relative to the fit's.
OUTPUT_FACTOR = 5.0

# The same of the first and the last sine layer.
FIRST_FACTOR, LAST_FACTOR = 0.5, 1.5

# Relative to the layer's rate: that of the hidden units that carry the first layer's longest and
# shortest wave.
SLOWEST_UNIT, FASTEST_UNIT = 0.5, 1.5

# Schedule -> the power of (1 - t) with which the rate falls.
DECAY_POWERS = {"power": 0.7, "linear": 1.0, "constant": 0.0}


def decay(done: float, power: float) -> float:
    """The rate's factor when a share `done` of the fit is over: (1 - done)^power.

    `done` is clipped to [0, 1]. A power of 0 is a constant rate, a power of 1 linear decay.
    """
    return float((1 - min(max(done, 0.0), 1.0)) ** power) if power else 1.0


def warmup(step: int, steps: int) -> float:
    """The rate's factor at a step (0 is the first) during a linear warm-up over `steps` steps."""
    return min((step + 1) / (steps + 1), 1.0)


def rate_factor(step: int, steps: int, power: float, warmup_steps: int) -> float:
    """The rate's factor at a step (0 is the first) of a fit of `steps`: its decay and warm-up."""
    return decay(step / steps, power) * warmup(step, warmup_steps)


def unit_share(done: float) -> float:
    """The degree to which `unit_factors` count when a share `done` of the fit is over: its root.

    At first all units must move; otherwise images that are rich in detail end worse.
    """
    return float(min(max(done, 0.0), 1.0) ** 0.5)


def unit_factors(first_weights: Tensor) -> Tensor:
    """Factors on the learning rates of hidden units; unit i carries wave i of the first layer.

    They rise evenly from the longest wave to the shortest.

    Args:
        first_weights: The first layer's weights, (..., width, coordinates).

    Returns:
        (..., width).
    """
    frequencies = first_weights.norm(dim=-1)
    place = frequencies.argsort(-1).argsort(-1) / max(frequencies.shape[-1] - 1, 1)
    factors: Tensor = SLOWEST_UNIT + (FASTEST_UNIT - SLOWEST_UNIT) * place.to(first_weights)
    return factors


def layer_factors(
    depth: int,
    first: float = FIRST_FACTOR,
    last: float = LAST_FACTOR,
    output: float = OUTPUT_FACTOR,
) -> tuple[float, ...]:
    """Factors on the learning rates of `depth` sine layers and of the output layer.

    They change geometrically from the first to the last sine layer; a single sine layer has the
    geometric mean.
    """
    shares = [layer / (depth - 1) for layer in range(depth)] if depth > 1 else [0.5]
    return (*(first ** (1 - share) * last**share for share in shares), output)
