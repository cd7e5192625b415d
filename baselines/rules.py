"""Hand-designed rivals as rules: a draw with one number to tune, and perhaps a look at the image.

`RULES` maps the names that users type to rules; "NAME@X" is the rule with the number X. Every row
cites the source of its values. Three things hold for all of them:

- The linear output layer is the source's, not nn.Linear's default as in the seed's table: its
  weights are `output_gain` times as wide.
- If a source multiplies the first layer by another frequency than the hidden ones, we scale the
  first layer's weights instead. The function at the start is the same, and the hidden layers, whose
  steps decide how a fit goes, are as in the source.
- The time for looking at the image is on the clock, and `looks` is in the epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import exp, sqrt

import torch
from torch import Tensor

from hyperinit.images.coords import COORD_STD, image_to_rgb, pixel_coords
from hyperinit.images.pixels import resize
from hyperinit.inits.rules import PAPER_INIT, BiasRule, InitSpec, WeightRule, sample_params
from hyperinit.inits.start import Init
from hyperinit.siren.network import Params, SirenConfig, predict

_ROOT_6 = sqrt(6)  # SIREN sec. 3.2
_OMEGA_0 = PAPER_INIT.omega_0
# U(+-sqrt(6/n)/30), as the hidden layers: the output layer of SIREN's and most rivals' code.
_OUTPUT_GAIN = _ROOT_6 / _OMEGA_0


@dataclass(frozen=True)
class Draw:
    """The draw before the rule looks at the image; see `Rule.draw`.

    Attributes:
        spec: Everything except the output layer.
        output_gain: Gain of the output layer's weights, relative to nn.Linear's.
    """

    spec: InitSpec
    output_gain: float = 1.0

    def sample(self, config: SirenConfig, generator: torch.Generator) -> Params:
        """Draws one SIREN."""
        params = sample_params(self.spec, config, generator=generator)
        return params.with_layer_scaled(config.depth, self.output_gain)


def _blind(params: Params, image: Tensor, number: float, generator: torch.Generator) -> Params:
    """For rules that do not look at the image: returns the draw unchanged."""
    return params


@dataclass(frozen=True)
class Rule:
    """A hand-designed rival.

    Attributes:
        source: Paper, repository file, and the published setting; one line.
        number: The number that "NAME@X" replaces, at its published value.
        meaning: The meaning of the number.
        draw: number -> the draw.
        adapt: (drawn, image (3, H, W) in [0, 1], number, generator) -> the start for this image.
        looks: Pixel visits per pixel of the image that `adapt` costs.
    """

    source: str
    number: float
    meaning: str
    draw: Callable[[float], Draw]
    adapt: Callable[[Params, Tensor, float, torch.Generator], Params] = _blind
    looks: float = 0.0

    def init(self, name: str, width: int, depth: int, number: float | None = None) -> Init:
        """The rule as an `Init` for networks of one size."""
        value = self.number if number is None else number
        draw = self.draw(value)
        config = draw.spec.siren_config(width, depth)

        def make(image: Tensor, seed: int) -> Params:
            generator = torch.Generator().manual_seed(seed)
            return self.adapt(draw.sample(config, generator), image, value, generator)

        rule = {"rule": name.partition("@")[0], "number": value, "output_gain": draw.output_gain}
        return Init(name, make, lambda image: self.looks, {**draw.spec.facts, **rule})


# Weight Scaling ----------------------------------------------------------------------------------


def weight_scaling(alpha: float) -> Draw:
    """The paper's init with all weights but the output layer's times alpha."""
    hidden = replace(PAPER_INIT.hidden, gain=PAPER_INIT.hidden.gain * alpha)
    return Draw(replace(PAPER_INIT, hidden=hidden).with_first_scaled(alpha), _OUTPUT_GAIN)


# WINNER ------------------------------------------------------------------------------------------


def spectral_centroid(image: Tensor) -> float:
    """WINNER's SC of an image (3, H, W) in [0, 1]: 0 for a constant one.

    As in its code, the spectrum is that of each channel's pixels as one long row, in [-1, 1],
    including the mean; twice the mean centroid in cycles per pixel is divided by the channels.
    """
    signal = (2 * image.double() - 1).flatten(1)  # (3, H * W)
    amplitudes = torch.fft.rfft(signal).abs()
    cycles = torch.fft.rfftfreq(signal.shape[1], device=image.device, dtype=torch.float64)
    centroids = (amplitudes @ cycles) / amplitudes.sum(dim=1).clamp_min(1e-12)
    return float(2 * centroids.mean() / len(signal))


def noise_scales(centroid: float, channels: int = 3) -> tuple[float, float]:
    """WINNER's S0 and S1 for images, as in `SIREN_square.set_noise_scales`.

    The file exists in two versions; the other one divides by the root of the channels.
    """
    relative = centroid / channels
    return 50 * (1 - exp(-5 * relative)), 0.4 * relative


def add_noise(params: Params, image: Tensor, factor: float, generator: torch.Generator) -> Params:
    """Adds normal noise of std factor S / omega_0 to the weights of the first two layers."""
    tensors = dict(params)
    for layer, scale in enumerate(noise_scales(spectral_centroid(image))):
        name = f"layers.{layer}.weight"
        noise = torch.randn(params[name].shape, generator=generator)
        tensors[name] = params[name] + noise * (factor * scale / params.config.omega_0)
    return Params(params.config, tensors)


# VI3NR -------------------------------------------------------------------------------------------


def vi3nr(sigma: float) -> Draw:
    """Weights with which every layer's pre-activation, also the output layer's, has std sigma.

    The activation is f(p) = sin(omega_0 p), as in the source's experiments, so p is W x + b. The
    gain is sigma / sqrt(E f(p)^2), the same in every layer except the first, whose input is the
    coordinates. The source estimates the expectation by Monte Carlo; for a sine of a normal p it
    is (1 - exp(-2 (omega_0 sigma)^2)) / 2. Weights are uniform, with a bound of sqrt(3) stds.
    Biases are nn.Linear's, as in the source's demo.
    """
    phase = _OMEGA_0 * sigma
    gain = sqrt(3) * sigma / sqrt((1 - exp(-2 * phase**2)) / 2)
    spec = InitSpec(
        first=WeightRule("uniform", sqrt(3) * sigma * sqrt(2) / COORD_STD),  # bound = this / 2
        hidden=WeightRule("uniform", _OMEGA_0 * gain),
        bias=BiasRule("torch", 1.0),
        omega_0=_OMEGA_0,
    )
    return Draw(spec, gain)


# FreSh -------------------------------------------------------------------------------------------

FRESH_OMEGAS = tuple(range(10, 201, 10))
FRESH_DRAWS = 10
FRESH_BINS = 64


def fresh_draw(_: float) -> Draw:
    """The SIREN of FreSh's code: omega multiplies x in W (omega x) + b, also in the output layer.

    So in our W x + b, which omega_0 multiplies, its biases are a thirtieth of the paper's.
    """
    return Draw(replace(PAPER_INIT, bias=BiasRule("torch", _OMEGA_0)), _ROOT_6)


def spectrum(rgb: Tensor, side: int) -> Tensor:
    """FreSh's spectrum: (side * side, 3) colours -> (FRESH_BINS,), which sums to 1.

    Amplitudes of the two-dimensional Fourier transform, summed over the channels and over the
    frequencies with the same i + j, each conjugate pair once, without the mean.
    """
    picture = rgb.double().T.reshape(3, side, side)
    amplitudes = torch.fft.fft2(picture).abs().sum(dim=0)
    index = torch.arange(side, device=rgb.device)
    diagonal = index[:, None] + index
    half = side // 2
    # The source's mask: i + j < side, half of the diagonal i + j = side, no axis beyond Nyquist.
    keep = (diagonal < side) | ((diagonal == side) & (index[:, None] <= half))
    keep &= ~(((index[:, None] == 0) & (index > half)) | ((index == 0) & (index[:, None] > half)))
    sums = torch.zeros(max(2 * side - 1, FRESH_BINS + 1), dtype=torch.float64, device=rgb.device)
    sums.index_add_(0, diagonal[keep], amplitudes[keep])
    bins = sums[1 : FRESH_BINS + 1]
    return bins / bins.sum().clamp_min(1e-12)


def wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """Distance of distributions over the same bins, (..., bins), in bins."""
    return (a - b).cumsum(dim=-1).abs().sum(dim=-1)


@lru_cache(maxsize=4)
def fresh_spectra(config: SirenConfig, side: int) -> Tensor:
    """Spectra of untrained SIRENs: (omegas, draws, bins).

    They do not depend on the image, so the source stores them too; the first image of a size pays
    for them in seconds.
    """
    coords = pixel_coords(side, side)
    draws = [
        fresh_draw(0).sample(config, torch.Generator().manual_seed(seed))
        for seed in range(FRESH_DRAWS)
    ]
    rows = [
        torch.stack(
            [spectrum(predict(p.with_layer_scaled(0, o / _OMEGA_0), coords), side) for p in draws]
        )
        for o in FRESH_OMEGAS
    ]
    return torch.stack(rows)


def choose_omega(config: SirenConfig, image: Tensor) -> float:
    """The first layer's frequency whose untrained SIRENs come closest to the image's spectrum."""
    side = min(image.shape[-2:])
    square = image if image.shape[-2:] == (side, side) else resize(image, side, side)
    target = spectrum(image_to_rgb(square), side).cpu()
    distances = wasserstein(fresh_spectra(config, side), target).mean(dim=1)
    return float(FRESH_OMEGAS[int(distances.argmin())])


def fresh(params: Params, image: Tensor, factor: float, generator: torch.Generator) -> Params:
    """Gives the first layer the chosen frequency, times a factor."""
    return params.with_layer_scaled(
        0, factor * choose_omega(params.config, image) / params.config.omega_0
    )


RULES: dict[str, Rule] = {
    "weight-scaling": Rule(
        "arXiv 2410.04779, effl-lab/Fast-Neural-Fields ICLR2025/weight_scaling.py: alpha 2.5 at"
        " 1+3 sine layers x 512, grey 512 x 512, full batch, Adam 1e-4",
        2.5,
        "alpha, the factor on all weights but the output layer's",
        weight_scaling,
    ),
    "winner": Rule(
        "arXiv 2509.09719, hemanthgrylls/SIREN-square modules/networks.py SIREN_square: 5 x 256,"
        " omega 30, Adam 1e-4 times 0.998 every 20 steps",
        1.0,
        "factor on both noise scales",
        lambda _: Draw(PAPER_INIT, _OUTPUT_GAIN),
        add_noise,
        looks=1.0,
    ),
    "vi3nr": Rule(
        "arXiv 2504.19270, Chumbyte/vi3nr vi3nr.py, toy_experiments_all.py; sigma_p to be searched"
        " for per task, the number is from a search at 96 x 96",
        0.08,
        "sigma_p, the std of every layer's pre-activation before omega_0",
        vi3nr,
    ),
    "fresh": Rule(
        "arXiv 2410.05050, gmum/FreSh src/models.py, configs/siren_best_omega.yaml: 20 omegas, 10"
        " draws, 64 diagonals; 1+3 sine layers x 256, Adam 1e-4",
        1.0,
        "factor on the chosen omega",
        fresh_draw,
        fresh,
        looks=1.0,
    ),
}
