"""Image -> the initial weights and biases of its SIREN.

The hypernetwork knows the SIREN only through `param_shapes`. For each layer it predicts a low-rank
residual from the image and adds it to a learned base `theta_0`. It may then take a few gradient
steps on pixels of the image, with learned step sizes: the gradient is the cheapest information
about an image, and is meaningful without any training.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from hyperinit.base.errors import InputError
from hyperinit.base.settings import as_recorded, check, option
from hyperinit.hypernet.hub import Shared
from hyperinit.hypernet.inner import MAX_INNER_STEPS, StepSizes, adapt, root_mse
from hyperinit.images.coords import image_to_rgb
from hyperinit.images.decode import ImageSource, to_image
from hyperinit.inits.rules import Preference, named_init, sample_params
from hyperinit.inits.start import Start, start_of
from hyperinit.siren.ambient import plain, with_own_settings
from hyperinit.siren.network import Params, Siren, SirenConfig, param_shapes
from hyperinit.siren.vectors import layer_of

CHECKPOINT_KIND = "hyperinit-hypernetwork-1"


@dataclass(frozen=True)
class HyperConfig:
    """Size of a hypernetwork, and the network it is for.

    Attributes:
        siren: The network it initialises.
        encoder_size: Images are area-resized to this many pixels a side before they are encoded.
        channels: Channels of the encoder's first convolution; doubled at each halving of the size.
        code_size: Length of the image's code.
        rank: Rank of the residual of a weight matrix.
        inner_steps: Gradient steps that `generate` takes.
        inner_pixels: Pixels per gradient step.
        normalized_steps: Whether gradient steps follow gradients of unit size, see `unit_rms`.
        lr_factor: The learning rate that suits a fit from here, relative to `default_lr`.
    """

    siren: SirenConfig
    encoder_size: int = option(32, at_least=1)
    channels: int = option(32, at_least=1)
    code_size: int = option(256, at_least=1)
    rank: int = option(8, at_least=1)
    inner_steps: int = option(3, at_least=0, at_most=MAX_INNER_STEPS)
    inner_pixels: int = option(1024, at_least=1)
    normalized_steps: bool = False
    lr_factor: float = option(1.0, above=0)

    def __post_init__(self) -> None:
        check(self)
        self.siren.check_image()
        if self.encoder_size % 8:
            raise InputError(f"encoder_size must be a multiple of 8, not {self.encoder_size}")


class Encoder(nn.Module):
    """(B, 3, S, S) normalised image -> (B, code_size).

    Three strided convolutions and one linear layer on the whole grid, without pooling: for a SIREN,
    where something is matters as much as what it is.
    """

    def __init__(self, config: HyperConfig) -> None:
        super().__init__()
        width, cells = config.channels, (config.encoder_size // 8) ** 2
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(4 * width * cells, config.code_size),
            nn.SiLU(),
        )

    def forward(self, images: Tensor) -> Tensor:
        code: Tensor = self.layers(images)
        return code


class Head(nn.Module):
    """Code (B, code_size) -> residual (B, *shape) of one parameter; zero before training.

    A weight's residual is left(code) @ right, with a learned right factor (rank, in), so the head
    has out * rank outputs instead of out * in. Vectors, and matrices no larger than the rank, are
    predicted directly.
    """

    def __init__(self, config: HyperConfig, shape: tuple[int, ...], scale: float) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("scale", torch.tensor(scale))  # stored: training moves the base
        low_rank = len(shape) == 2 and config.rank < min(shape)
        self.right = nn.Parameter(torch.randn(config.rank, shape[1])) if low_rank else None
        self.rank = config.rank
        outputs = shape[0] * config.rank if low_rank else torch.Size(shape).numel()
        self.left = nn.Linear(config.code_size, outputs)
        nn.init.zeros_(self.left.weight)
        nn.init.zeros_(self.left.bias)

    scale: Tensor

    def forward(self, code: Tensor) -> Tensor:
        left: Tensor = self.scale * self.left(code)
        if self.right is None:
            return left.reshape(-1, *self.shape)
        residual: Tensor = left.reshape(-1, self.shape[0], self.rank) @ self.right
        return residual / sqrt(self.rank)


def numbers_of(config: HyperConfig) -> int:
    """The number of parameters of a hypernetwork, without allocating them."""
    with torch.device("meta"):
        parts: list[tuple[nn.Module, int]] = [(Encoder(config), 1)]
        for shape, count in Counter(param_shapes(config.siren).values()).items():
            parts.append((Head(config, shape, 0.0), count))
    learned = sum(count * value.numel() for part, count in parts for value in part.parameters())
    return learned + config.siren.weights


@dataclass(frozen=True)
class StepSizeStart:
    """Initial values of learned step sizes.

    Attributes:
        first, hidden, output: Sizes of the first step, (weights, biases) for each kind of layer.
        decay: Factor from each step to the next.
    """

    first: tuple[float, float]
    hidden: tuple[float, float]
    output: tuple[float, float]
    decay: float = 1.0

    def of(self, name: str, depth: int, step: int) -> float:
        """The size of one step (0 is the first) of one parameter, named as in `param_shapes`."""
        layer = layer_of(name)
        sizes = {0: self.first, depth: self.output}.get(layer, self.hidden)
        return sizes[0 if name.endswith("weight") else 1] * self.decay**step


# For base 33, with plain steps: close to where meta-training moved smaller ones. For base identity:
# from random search on training photographs, a quarter of its result for plain steps, so that
# gradients through them are not chaotic, and half for normalized ones; docs/research-log.md 20.
_PLAIN_START = StepSizeStart((2e-3, 2e-4), (1e-3, 2e-4), (2e-2, 2e-2))
_IDENTITY_START = StepSizeStart((1e-5, 1.1e-3), (2e-2, 8.5e-4), (4e-2, 0.6), decay=0.9)
_NORMALIZED_START = StepSizeStart((1.5e-4, 2e-4), (2.5e-4, 5e-4), (2.5e-4, 5e-2))


class HyperNetwork(Shared, nn.Module):
    """Outputs all weights and biases of a SIREN for an image.

    Args:
        config: See HyperConfig.
        base: The SIREN that an untrained hypernetwork returns for every image before inner steps.
        step_size_start: Initial step sizes for plain gradient steps.
    """

    kind, prefix = CHECKPOINT_KIND, "hyper"
    objective = staticmethod(root_mse)  # the loss of its inner steps

    def __init__(
        self, config: HyperConfig, base: Params, step_size_start: StepSizeStart = _PLAIN_START
    ) -> None:
        super().__init__()
        if base.config != config.siren:
            raise InputError(f"the base is a SIREN with {base.config}, not with {config.siren}")
        self.config = config
        self.base = Siren(base)
        self.encoder = Encoder(config)
        # In units of each parameter's own size, so that a head's first steps have the same relative
        # size in every layer.
        self.heads = nn.ModuleList(
            Head(config, shape, float(base[name].detach().square().mean().sqrt()))
            for name, shape in param_shapes(config.siren).items()
        )
        start = _NORMALIZED_START if config.normalized_steps else step_size_start
        depth, steps = config.siren.depth, range(config.inner_steps)
        sizes = torch.tensor([[start.of(name, depth, step) for name in base] for step in steps])
        self.log_step_sizes = nn.Parameter(sizes.reshape(len(steps), len(base)).log())

    @property
    def normalized_steps(self) -> bool:
        """See HyperConfig."""
        return self.config.normalized_steps

    @property
    def prefers(self) -> Preference:
        """See Start."""
        return Preference.of(self.base.params, shows_image=True)

    @property
    def facts(self) -> dict[str, Any]:
        """Its description in records and checkpoints, JSON-able."""
        return {"hypernetwork": as_recorded(self.config, ["lr_factor", "normalized_steps"])}

    @classmethod
    @with_own_settings
    def from_named_init(cls, config: HyperConfig, name: str, seed: int = 0) -> HyperNetwork:
        """A fresh hypernetwork whose base is one draw of a named hand-designed init."""
        generator = torch.Generator().manual_seed(seed)
        spec = named_init(name)
        base = sample_params(spec, config.siren, generator=generator)
        start = _IDENTITY_START if spec.hidden.dist == "identity" else _PLAIN_START
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # torch.nn draws its own layers from the global generator
            return cls(config, base, start)

    def forward(self, images: Tensor) -> Params:
        """Images (B, 3, H, W) in [0, 1] of any size -> B stacked SIRENs, before inner steps."""
        size = self.config.encoder_size
        small = nn.functional.adaptive_avg_pool2d(images, size)
        code = self.encoder(image_to_rgb(small).transpose(-1, -2).unflatten(-1, (size, size)))
        named = zip(self.base.params.items(), self.heads, strict=True)
        tensors = {name: value + head(code) for (name, value), head in named}
        return Params(self.config.siren, tensors)

    def step_sizes(self) -> list[StepSizes]:
        """The learned step size of every parameter at every inner step."""
        names = list(self.base.params)
        return [dict(zip(names, row.exp(), strict=True)) for row in self.log_step_sizes]

    def start(self, image: ImageSource, seed: int = 0) -> Start:
        """The start of a fit of one image: `generate`, its cost, and a suitable learning rate.

        Args:
            image: Anything that `to_image` accepts.
            seed: Seed of the pixels that the inner steps see.
        """
        return start_of(self, to_image(image).to(self.log_step_sizes.device), seed)

    def generate_epochs(self, image: Tensor, *, inner_steps: int | None = None) -> float:
        """The cost of `generate` in pixel visits / pixels of the image (3, H, W)."""
        pixels = image.shape[-2] * image.shape[-1]
        return self._steps(inner_steps) * min(self.config.inner_pixels, pixels) / pixels

    @with_own_settings
    def generate(
        self, image: ImageSource, *, inner_steps: int | None = None, seed: int = 0
    ) -> Params:
        """The initial weights for one image: the hypernetwork's output after its inner steps.

        Args:
            image: (3, H, W) in [0, 1], any size, or anything else that `to_image` accepts.
            inner_steps: Take only this many of the inner steps; 0 returns the network's output.
            seed: Seed of the pixels that the inner steps see.

        Raises:
            InputError: the image is unusable, or more inner steps are asked for than were learned.
        """
        steps = self._steps(inner_steps)
        image = plain(to_image(image)).to(self.log_step_sizes.device)
        with torch.no_grad():
            params: Params = self(image[None]).unbatch()[0]
        if steps:
            step_sizes = self.step_sizes()[:steps]
            params = adapt(
                params,
                image,
                step_sizes,
                self.config.inner_pixels,
                seed=seed,
                normalized=self.config.normalized_steps,
            )
        return params.map(Tensor.detach)

    def _steps(self, wanted: int | None) -> int:
        learned = self.config.inner_steps
        if wanted is None:
            return learned
        if not 0 <= wanted <= learned:
            raise InputError(f"inner_steps must be 0 to {learned}, not {wanted}")
        return wanted
