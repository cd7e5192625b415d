"""Hand-designed initialisation as data: `InitSpec` -> `Params`.

`sample_params` is the only place in the project where the weights of a SIREN are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import pi, sqrt
from typing import Literal

import torch
from torch import Tensor

from hyperinit.errors import unknown_name
from hyperinit.siren import Params, SirenConfig, param_shapes


@dataclass(frozen=True)
class WeightRule:
    """How a layer's weights are drawn, relative to the layer's natural scale.

    The scale is gain / fan_in in the first layer and gain / (omega_0 sqrt(fan_in)) in the hidden
    ones (SIREN sec. 3.2 has uniform bounds with gain 1 and sqrt(6)).

    Attributes:
        dist: "uniform" (the scale is the bound) or "normal" (the scale is the std).
        gain: The factor in the scale.
    """

    dist: Literal["uniform", "normal"]
    gain: float

    def scale(self, fan_in: int, omega_0: float, *, first: bool) -> float:
        """The uniform bound or the normal std of this layer."""
        return self.gain / fan_in if first else self.gain / (omega_0 * sqrt(fan_in))


@dataclass(frozen=True)
class BiasRule:
    """How a layer's biases are set.

    Attributes:
        kind: "torch": uniform within 1 / sqrt(fan_in), nn.Linear's default, divided by `scale`;
            "uniform": uniform within `scale`; "even": evenly spaced over [-scale, scale], not
            random; "zero".
        scale: See `kind`.
    """

    kind: Literal["torch", "uniform", "even", "zero"]
    scale: float = 1.0

    def bound(self, fan_in: int) -> float:
        """Largest absolute value this rule gives."""
        if self.kind == "torch":
            return 1 / (sqrt(fan_in) * self.scale)
        return 0.0 if self.kind == "zero" else self.scale


@dataclass(frozen=True)
class InitSpec:
    """A hand-designed init and the two properties of the network it was designed for.

    The linear output layer is always nn.Linear's default, weights and biases uniform within
    1 / sqrt(fan_in): the seed experiment never mentions it and its code leaves it so.

    Attributes:
        first: Weights of the first sine layer.
        hidden: Weights of the other sine layers.
        bias: Biases of the sine layers; None for sine layers without biases.
        first_bias: Biases of the first sine layer where they differ; None means as `bias`.
        omega_0: See SirenConfig.
        unit_std_coords: See SirenConfig.
    """

    first: WeightRule
    hidden: WeightRule
    bias: BiasRule | None
    first_bias: BiasRule | None = None
    omega_0: float = 30.0
    unit_std_coords: bool = False

    def siren_config(self, width: int = 256, depth: int = 5) -> SirenConfig:
        """The network this init is for, at a given size."""
        return SirenConfig(width, depth, self.omega_0, self.unit_std_coords, self.bias is not None)

    def with_first_scaled(self, factor: float) -> InitSpec:
        """The same with the first layer's weights, and so its frequencies, times a factor."""
        return replace(self, first=replace(self.first, gain=self.first.gain * factor))


_OUTPUT_WEIGHT = WeightRule("uniform", 1.0)  # in a linear layer, that is with omega_0 = 1
_OUTPUT_BIAS = BiasRule("torch")

PAPER_INIT = InitSpec(
    first=WeightRule("uniform", 1.0),
    hidden=WeightRule("uniform", sqrt(6)),
    bias=BiasRule("torch"),
)
_UNIT = replace(PAPER_INIT, first=WeightRule("normal", 1.0), unit_std_coords=True)

# The inits every comparison starts from, by the names users type. The seed experiment's whole
# table, of which these are rows 1, 22 and 33, is baselines/table.py.
NAMED_INITS: dict[str, InitSpec] = {
    "paper": PAPER_INIT,
    "22": replace(_UNIT, bias=BiasRule("uniform", pi / 30)),
    "33": replace(_UNIT, bias=BiasRule("torch", 15)),
}


def named_init(name: str) -> InitSpec:
    """Looks a named init up.

    Raises:
        InputError: no such name; the known ones are listed.
    """
    if name not in NAMED_INITS:
        raise unknown_name("init", name, NAMED_INITS)
    return NAMED_INITS[name]


def _draw_weight(
    rule: WeightRule, shape: tuple[int, ...], scale: float, generator: torch.Generator
) -> Tensor:
    if rule.dist == "normal":
        return torch.randn(shape, generator=generator) * scale
    return (torch.rand(shape, generator=generator) * 2 - 1) * scale


def _draw_bias(rule: BiasRule, size: int, fan_in: int, generator: torch.Generator) -> Tensor:
    bound = rule.bound(fan_in)
    if rule.kind == "even":
        return torch.linspace(-bound, bound, size)
    return (torch.rand(size, generator=generator) * 2 - 1) * bound


def sample_params(spec: InitSpec, config: SirenConfig, *, generator: torch.Generator) -> Params:
    """Draws one SIREN from a hand-designed init, on the CPU in float32.

    Args:
        spec: The rules.
        config: The network; its omega_0 sets the hidden layers' scale.
        generator: The only source of randomness.
    """
    tensors: dict[str, Tensor] = {}
    fan_in = 2
    for name, shape in param_shapes(config).items():
        layer, output = int(name.split(".")[1]), name.startswith(f"layers.{config.depth}.")
        if len(shape) == 2:
            fan_in = shape[1]
            weight_rule = spec.first if layer == 0 else _OUTPUT_WEIGHT if output else spec.hidden
            omega_0 = 1.0 if output else config.omega_0
            scale = weight_rule.scale(fan_in, omega_0, first=layer == 0)
            tensors[name] = _draw_weight(weight_rule, shape, scale, generator)
        else:
            bias_rule = spec.first_bias if layer == 0 and spec.first_bias else spec.bias
            bias_rule = _OUTPUT_BIAS if output or bias_rule is None else bias_rule
            tensors[name] = _draw_bias(bias_rule, shape[0], fan_in, generator)
    return Params(config, tensors)
