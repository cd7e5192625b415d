"""Rates of a fit: how they fall with its time, and how they rise with a layer's depth."""

from __future__ import annotations

from torch import Tensor

# Of the last layer that is no sine layer, relative to the fit's rate.
OUTPUT_FACTOR = 5.0

# Of the first and of the last sine layer.
FIRST_FACTOR, LAST_FACTOR = 0.5, 1.5

# Of the units of a hidden layer that carry the longest and the shortest wave of the first layer.
SLOWEST_UNIT, FASTEST_UNIT = 0.5, 1.5

# Schedule -> the power of (1 - t) that the rate falls with.
DECAY_POWERS = {"power": 0.7, "linear": 1.0, "constant": 0.0}


def decay(done: float, power: float) -> float:
    """The rate's factor when a share `done` in [0, 1] of the fit is over: (1 - done)^power.

    Beyond the ends it is what it is at them. A power of 0 is a constant rate, of 1 linear decay.
    """
    return float((1 - min(max(done, 0.0), 1.0)) ** power) if power else 1.0


def warmup(step: int, steps: int) -> float:
    """The rate's factor at a step (0 is the first) while it rises, over so many steps, to 1."""
    return min((step + 1) / (steps + 1), 1.0)


def rate_factor(step: int, steps: int, power: float, warmup_steps: int) -> float:
    """The rate's factor at a step (0 is the first) of a fit of so many: its decay and warm-up."""
    return decay(step / steps, power) * warmup(step, warmup_steps)


def unit_share(done: float) -> float:
    """How much `unit_factors` count when a share `done` of the fit is over: its root.

    At first all units have to move: images that are rich in detail are worse off otherwise.
    """
    return float(min(max(done, 0.0), 1.0) ** 0.5)


def unit_factors(first_weights: Tensor) -> Tensor:
    """Factors on the rates of a hidden layer's units, of which unit i carries wave i of the first.

    They rise evenly from the longest wave to the shortest.

    Args:
        first_weights: Of the first layer, (..., width, coordinates).

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
    """Factors on the rates of `depth` sine layers and of the output layer.

    Geometric from the first to the last sine layer; a single one has their geometric mean.
    """
    shares = [layer / (depth - 1) for layer in range(depth)] if depth > 1 else [0.5]
    return (*(first ** (1 - share) * last**share for share in shares), output)
