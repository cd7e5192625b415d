"""Hand-designed initialisation as data: `InitSpec` -> `Params`.

`sample_params` is the only place in the project where the weights of a SIREN are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, inf, nan, pi, sqrt
from typing import Any, Literal

import torch
from torch import Tensor

from hyperinit.base.errors import InputError, check_memory, unknown_name
from hyperinit.base.settings import as_recorded, check, option
from hyperinit.inits.waves import even_phases, even_waves
from hyperinit.siren.ambient import with_own_settings
from hyperinit.siren.network import Params, SirenConfig, param_shapes
from hyperinit.siren.vectors import layer_of


@dataclass(frozen=True)
class WeightRule:
    """How a layer's weights are drawn, relative to the layer's natural scale.

    The scale is gain / fan_in in the first layer and gain / (omega_0 sqrt(fan_in)) in the hidden
    ones (SIREN sec. 3.2 has uniform bounds with gain 1 and sqrt(6)). For "identity" it is
    gain / omega_0.

    Attributes:
        dist: "uniform" (the scale is the bound), "normal" (the scale is the std), "identity"
            (not random: unit i gets only unit i of the layer below, times the scale), or "waves"
            (for the first layer: spread evenly, see waves.py; the scale is the std that normal
            weights have, which "waves" of power 1 resemble).
        gain: The factor in the scale.
        power: Of "waves": the higher, the more of them are long.

    Raises:
        InputError: the name is unknown, or a number is not finite.
    """

    dist: Literal["uniform", "normal", "identity", "waves"]
    gain: float
    power: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON-able data; power 1 is left out."""
        return as_recorded(self, ["power"])

    def scale(self, fan_in: int, omega_0: float, *, first: bool) -> float:
        """The uniform bound, the normal std, or the diagonal of this layer."""
        if self.dist == "identity":
            return self.gain / omega_0
        return self.gain / fan_in if first else self.gain / (omega_0 * sqrt(fan_in))


@dataclass(frozen=True)
class BiasRule:
    """How a layer's biases are set.

    Attributes:
        kind: "torch": uniform within 1 / sqrt(fan_in), nn.Linear's default, divided by `scale`;
            "uniform": uniform within `scale`; "even": evenly spaced over [-scale, scale], not
            random; "waves": within the bound of "torch", but spread evenly; "zero".
        scale: See `kind`.

    Raises:
        InputError: the name is unknown, or the scale is not a number above 0.
    """

    kind: Literal["torch", "uniform", "even", "waves", "zero"]
    scale: float = option(1.0, above=0)

    def __post_init__(self) -> None:
        check(self)

    def bound(self, fan_in: int) -> float:
        """The largest absolute bias that this rule can give."""
        if self.kind in ("torch", "waves"):
            return 1 / (sqrt(fan_in) * self.scale)
        return 0.0 if self.kind == "zero" else self.scale


@dataclass(frozen=True)
class Preference:
    """The settings that suit a fit from an init, used where the fit's config leaves them open.

    Measured in docs/research-log.md 47.

    Attributes:
        optimizer: See FitConfig.
        falling_rates: Whether the sine layers' learning rates fall with depth, from 1.5 times the
            fit's rate in the first to 0.5 times in the last; otherwise they rise.
        lr_factor: Multiplies the learning rate of fits whose rates do not rise with depth.
        warmup_steps, rising_units: See FitConfig.

    Raises:
        InputError: a value is of another type or out of range.
    """

    optimizer: Literal["nadam", "soap"] = "nadam"
    falling_rates: bool = False
    lr_factor: float = option(1.0, above=0)
    warmup_steps: int = option(0, at_least=0)
    rising_units: bool = False

    def __post_init__(self) -> None:
        check(self)

    @property
    def fit_fields(self) -> dict[str, Any]:
        """The preferences that are fields of FitConfig, for configs that leave them open."""
        return {"warmup_steps": self.warmup_steps, "rising_units": self.rising_units}

    @classmethod
    def of(cls, params: Params, *, shows_image: bool) -> Preference:
        """The preference of a learned start, judged by its parameters.

        Args:
            params: Its parameters for some image, or for all.
            shows_image: Whether they already show the image to be fitted.
        """
        steps = WARMUP_STEPS if shows_image else 0
        return cls(warmup_steps=steps, rising_units=carries_waves(params))


# For starts that already show the image. NAdam's first steps are based on a single gradient and
# move every weight by the full learning rate, which loses some of what such a start shows:
# docs/research-log.md 72.
WARMUP_STEPS = 4

# Hidden layers pass waves on if the diagonals of their weights are at least this many times as
# large as the rest, both as root mean squares.
_DOMINANT = 4.0

USUAL = Preference()
# The preference of inits whose hidden layers pass waves on.
CARRIES_WAVES = Preference(rising_units=True)


def carries_waves(params: Params) -> bool:
    """Whether unit i of every hidden layer mostly carries wave i of the first layer."""
    for layer in range(1, params.config.depth):
        weights = params.layer(layer)[0]
        kept = weights.diagonal(dim1=-2, dim2=-1)
        rest = weights - torch.diag_embed(kept)
        if not kept.square().mean() > (_DOMINANT**2) * rest.square().mean():
            return False
    return params.config.depth > 1


@dataclass(frozen=True)
class InitSpec:
    """A hand-designed init and the two properties of the network it was designed for.

    Attributes:
        first: Weights of the first sine layer.
        hidden: Weights of the other sine layers.
        bias: Biases of the sine layers; None for sine layers without biases.
        first_bias: Biases of the first sine layer if they differ; None means as `bias`.
        omega_0: See SirenConfig.
        unit_std_coords: See SirenConfig.
        output: Weights of the linear output layer. The default is nn.Linear's, uniform within
            1 / sqrt(fan_in), as in the seed experiment, which never mentions it. The output biases
            always have nn.Linear's default.
        taper: The gain of the hidden layers falls geometrically, from exp(taper / 2) times the
            rule's in the first of them to exp(-taper / 2) times in the last.
        lr_factor: The learning rate that suits a fit from this init, relative to `default_lr`.
        prefers: See Preference.
        hidden_power, output_power: In a sized init (`start.sized_init`), the gains of the hidden
            layers and of the output layer are multiplied by (side / 224) to these powers.
    """

    first: WeightRule
    hidden: WeightRule
    bias: BiasRule | None
    first_bias: BiasRule | None = None
    omega_0: float = 30.0
    unit_std_coords: bool = False
    output: WeightRule = WeightRule("uniform", 1.0)  # in a linear layer: with omega_0 = 1
    taper: float = 0.0
    lr_factor: float = 1.0
    prefers: Preference = USUAL
    hidden_power: float = 0.0
    output_power: float = 0.0

    @property
    def facts(self) -> dict[str, Any]:
        """The rules as JSON-able data; rules that were added later are left out if not used.

        `lr_factor` and `prefers` are not included: they are about the fit.
        """
        rules = as_recorded(self, ["output", "taper", "hidden_power", "output_power"])
        del rules["lr_factor"], rules["prefers"]
        return rules

    def siren_config(
        self, width: int = 256, depth: int = 5, in_features: int = 2, out_features: int = 3
    ) -> SirenConfig:
        """The network that this init is for, at a given size; see `SirenConfig`."""
        bias = self.bias is not None
        sides = in_features, out_features
        return SirenConfig(width, depth, self.omega_0, self.unit_std_coords, bias, *sides)

    def with_first_scaled(self, factor: float) -> InitSpec:
        """These rules with the first layer's weights (its frequencies) multiplied by a factor."""
        return replace(self, first=replace(self.first, gain=self.first.gain * factor))


_OUTPUT_BIAS = BiasRule("torch")

PAPER_INIT = InitSpec(
    first=WeightRule("uniform", 1.0),
    hidden=WeightRule("uniform", sqrt(6)),
    bias=BiasRule("torch"),
)
_UNIT = replace(PAPER_INIT, first=WeightRule("normal", 1.0), unit_std_coords=True)

# The basic inits of every comparison, by the names users type. "paper", "22" and "33" are rows 1,
# 22 and 33 of the seed experiment's table, see rows.py.
NAMED_INITS: dict[str, InitSpec] = {
    "paper": PAPER_INIT,
    "22": replace(_UNIT, bias=BiasRule("uniform", pi / 30)),
    "33": replace(
        _UNIT,
        bias=BiasRule("torch", 15),
        prefers=Preference("soap", falling_rates=True, lr_factor=1.55),
    ),
    # Ours: every unit starts as a single wave, which the hidden layers pass on, and the output
    # layer is smaller; all mixing is left to the fit. An evolution strategy found the numbers on
    # training photographs: docs/research-log.md 17.
    "identity": replace(
        _UNIT,
        first=WeightRule("normal", 1.1),
        hidden=WeightRule("identity", 1.9),
        bias=BiasRule("torch", 15),
        first_bias=BiasRule("torch", 4),
        output=WeightRule("uniform", 0.55),
        taper=0.8,
        lr_factor=0.5,
        prefers=CARRIES_WAVES,
    ),
}
# The same with waves that are spread evenly, more of them long: docs/research-log.md 67.
NAMED_INITS["waves"] = replace(
    NAMED_INITS["identity"],
    first=WeightRule("waves", 1.65, power=1.7),
    first_bias=BiasRule("waves", 4),
    output=WeightRule("uniform", 0.36),
    taper=0.85,
    hidden_power=0.2,
    output_power=0.25,
)
# Between `waves` and the draw that `waves-steps` begins from: a little worse than `waves` in fits
# of one epoch, better from two on. Learned starts for both begin from it: docs/research-log.md 77.
NAMED_INITS["waves-mid"] = replace(
    NAMED_INITS["waves"],
    first=WeightRule("waves", 1.6, power=1.57),
    output=WeightRule("uniform", 0.38),
    hidden_power=0.15,
    output_power=0.15,
)

# The inits that a comparison shows beside the user's own.
YARDSTICKS = ("paper", "22", "33", "identity", "waves")


def named_init(name: str) -> InitSpec:
    """Looks a named init up; "NAME@X" is NAME with its first layer times X.

    Raises:
        InputError: there is no such name (the message lists the known ones), or X is not a number.
    """
    known, at, text = str(name).partition("@")  # a row's number will do
    if known not in NAMED_INITS:
        raise unknown_name("init", name, NAMED_INITS)
    spec = NAMED_INITS[known]
    return spec.with_first_scaled(factor_of(text, name)) if at else spec


def factor_of(text: str, name: str) -> float:
    """The number X of an init "NAME@X".

    Raises:
        InputError: X is not a number, or is negative.
    """
    try:
        number = float(text)
    except ValueError:
        number = nan
    if not 0 <= number < inf:
        raise InputError(f"init {name}: what follows @ must be a number >= 0, not {text!r}")
    return number


def _draw_weight(
    rule: WeightRule, shape: tuple[int, ...], scale: float, generator: torch.Generator
) -> Tensor:
    if rule.dist == "identity":
        return torch.eye(*shape, device=generator.device) * scale
    if rule.dist == "waves":
        count, dims = shape
        return even_waves(count, dims, rule.power, generator).to(generator.device) * scale
    if rule.dist == "normal":
        return torch.randn(shape, generator=generator, device=generator.device) * scale
    return (torch.rand(shape, generator=generator, device=generator.device) * 2 - 1) * scale


def _draw_bias(rule: BiasRule, size: int, fan_in: int, generator: torch.Generator) -> Tensor:
    bound = rule.bound(fan_in)
    if rule.kind == "even":
        return torch.linspace(-bound, bound, size, device=generator.device)
    if rule.kind == "waves":
        return even_phases(size, bound, generator).to(generator.device)
    return (torch.rand(size, generator=generator, device=generator.device) * 2 - 1) * bound


@with_own_settings
def sample_params(spec: InitSpec, config: SirenConfig, *, generator: torch.Generator) -> Params:
    """Draws one SIREN from a hand-designed init, on the generator's device in float32.

    Args:
        spec: The rules.
        config: The network; its omega_0 sets the hidden layers' scale.
        generator: The only source of randomness.

    Raises:
        InputError: there is not enough memory for the weights.
    """
    what = f"a SIREN of {config.depth} x {config.width}"
    check_memory(4.0 * config.weights, what, "take a smaller width or depth")
    tensors: dict[str, Tensor] = {}
    hidden_layers = config.depth - 1
    fan_in = config.in_features
    for name, shape in param_shapes(config).items():
        layer = layer_of(name)
        output = layer == config.depth
        if len(shape) == 2:
            fan_in = shape[1]
            weight_rule = spec.first if layer == 0 else spec.output if output else spec.hidden
            omega_0 = 1.0 if output else config.omega_0
            scale = weight_rule.scale(fan_in, omega_0, first=layer == 0)
            if 0 < layer < config.depth and hidden_layers > 1:
                scale *= exp(spec.taper * (0.5 - (layer - 1) / (hidden_layers - 1)))
            tensors[name] = _draw_weight(weight_rule, shape, scale, generator)
        else:
            bias_rule = spec.first_bias if layer == 0 and spec.first_bias else spec.bias
            bias_rule = _OUTPUT_BIAS if output or bias_rule is None else bias_rule
            tensors[name] = _draw_bias(bias_rule, shape[0], fan_in, generator)
    return Params(config, tensors)
