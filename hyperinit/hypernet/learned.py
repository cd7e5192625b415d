"""`LearnedInit`: one learned init for all images (MAML and relatives, STRAINER's shared layers),
or weights for each image (a linear reader, a transformer that modulates, a residual network).

It is what the trained rivals have in common. To a fit, a checkpoint and the outer loss it looks
like a hypernetwork.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperinit.base.arguments import check_seed
from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.settings import as_recorded, check, option
from hyperinit.hypernet.hub import Origin, Shared
from hyperinit.hypernet.inner import MAX_INNER_STEPS, StepSizes, adapt, plain_mse
from hyperinit.hypernet.modulation import ModulationConfig, Modulator, Trunk, TrunkConfig
from hyperinit.hypernet.restore import base_from, config_from, restored
from hyperinit.hypernet.untrained import STEPPINGS, Stepping
from hyperinit.images.cosines import MOST_COSINES, lowest_cosines
from hyperinit.images.decode import ImageSource, to_image
from hyperinit.inits.linear import gains, with_one
from hyperinit.inits.rules import PAPER_INIT, Preference, sample_params
from hyperinit.inits.start import Start, start_of
from hyperinit.siren.ambient import plain, with_own_settings
from hyperinit.siren.network import Params, Siren, SirenConfig, features
from hyperinit.siren.store import checkpoint_file, load_tensors
from hyperinit.siren.vectors import from_vector, layer_of, to_vector

LEARNED_KIND = "hyperinit-learned-init-1"


@dataclass(frozen=True)
class LearnedConfig:
    """The parts of a learned init.

    Attributes:
        siren: The network it initialises.
        heads: Output layers beside the SIREN's own, one per training image. The SIREN's own is then
            not trained, but drawn anew for every seed (STRAINER).
        output_gain: Gain of a drawn output layer's weights, relative to nn.Linear's.
        inner_steps: Gradient steps per image during training.
        inner_pixels: Pixels of each of these steps.
        inner_lr: Their step size; if step sizes are learned, the initial one.
        inner_hidden_factor: Factor on the step sizes of all layers but the output layer.
        learned_step_sizes: Whether to learn one for every parameter and step (Meta-SGD).
        adapts: Whether the inner steps are part of the init, or only served to train it.
        lr_factor: The learning rate that suits a fit from here, relative to `default_lr`.
        read_numbers: Number of lowest cosine coefficients of the image on which the parameters
            depend linearly (a linear hypernetwork). 0: they are the same for all images.
        memory_images: During training of a linear hypernetwork, the number of images after which
            older ones count less; 0: training is finished.
        modulation: The transformer that turns the learned weights into an image's; None: they are
            the same for all images.
        trunk: The residual network that predicts all of an image's weights; None likewise.
        gradient_steps: Name in `STEPPINGS`: the init ends with these gradient steps on the image,
            which have learned nothing themselves. None: with none of them.
    """

    siren: SirenConfig
    heads: int = option(0, at_least=0)
    output_gain: float = 1.0
    inner_steps: int = option(0, at_least=0, at_most=MAX_INNER_STEPS)
    inner_pixels: int = option(1024, at_least=1)
    inner_lr: float = 1e-2
    inner_hidden_factor: float = 1.0
    learned_step_sizes: bool = False
    adapts: bool = False
    modulation: ModulationConfig | None = None
    lr_factor: float = option(1.0, above=0)
    read_numbers: int = option(0, at_least=0, at_most=MOST_COSINES)
    memory_images: int = option(0, at_least=0)
    trunk: TrunkConfig | None = None
    gradient_steps: str | None = None

    def __post_init__(self) -> None:
        check(self)
        if self.read_numbers and (self.heads or self.modulation is not None):
            raise InputError("read_numbers cannot be combined with heads or with a modulation")
        if self.trunk is not None and (self.heads or self.read_numbers or self.modulation):
            raise InputError("trunk cannot be combined with heads, read_numbers or a modulation")
        if self.modulation is not None:
            self.modulation.layers(self.siren)  # checks that there are any
        if self.gradient_steps is not None:
            if self.gradient_steps not in STEPPINGS:
                raise unknown_name("gradient_steps", self.gradient_steps, STEPPINGS)
            if self.adapts:
                raise InputError("gradient_steps cannot be combined with inner steps that adapt")


class LearnedInit(Shared, nn.Module):
    """The same parameters for every image, except what the config says is drawn or adapted.

    Args:
        config: See LearnedConfig.
        base: The initial parameters.
        generator: Draws the heads, or the transformer.
    """

    kind, prefix = LEARNED_KIND, "model"
    objective = staticmethod(plain_mse)  # the loss of its inner steps
    normalized_steps = False

    def __init__(
        self, config: LearnedConfig, base: Params, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.base = Siren(base)
        generator = generator or torch.Generator()
        drawn = [self._draw_output(generator) for _ in range(config.heads)]
        self.head_weight = nn.Parameter(torch.stack([w for w, _ in drawn])) if drawn else None
        self.head_bias = nn.Parameter(torch.stack([b for _, b in drawn])) if drawn else None
        numbers = sum(value.numel() for value in base.values())
        rates = torch.full((config.inner_steps, numbers), config.inner_lr)
        self.rates = nn.Parameter(rates) if config.learned_step_sizes else None
        self.reader: nn.Parameter | None = None
        if config.read_numbers:
            self.reader = nn.Parameter(torch.zeros(config.read_numbers, numbers))
        # Running statistics of the images' features, like those of batch normalisation.
        self.moments: Tensor
        self.moments_images: Tensor
        if config.memory_images:
            moments = torch.zeros(config.read_numbers + 1, config.read_numbers + 1)
            self.register_buffer("moments", moments.double())
            self.register_buffer("moments_images", torch.zeros((), dtype=torch.int64))
        self.modulator: Modulator | Trunk | None = None
        if config.modulation is not None or config.trunk is not None:
            with torch.random.fork_rng(devices=[]):
                # torch.nn draws its own layers from the global generator
                drawn_seed = torch.randint(2**31, (1,), generator=generator, device="cpu")
                torch.manual_seed(int(drawn_seed))
                if config.modulation is not None:
                    self.modulator = Modulator(config.modulation, config.siren)
                elif config.trunk is not None:
                    self.modulator = Trunk(config.trunk, config.siren)

    @property
    def facts(self) -> dict[str, Any]:
        """Its description in records and checkpoints, JSON-able."""
        new = [
            "modulation",
            "lr_factor",
            "inner_hidden_factor",
            "read_numbers",
            "memory_images",
            "trunk",
            "gradient_steps",
        ]  # fields that were added after the first checkpoints
        return {"learned": as_recorded(self.config, new)}

    @property
    def prefers(self) -> Preference:
        """See Start."""
        config = self.config
        looks = self.reader is not None or self.modulator is not None
        looks = looks or config.adapts or config.gradient_steps is not None
        return Preference.of(self.base.params, shows_image=looks)

    @property
    def stepping(self) -> Stepping | None:
        """The gradient steps with which the init ends, see LearnedConfig."""
        name = self.config.gradient_steps
        return None if name is None else STEPPINGS[name]

    def _draw_output(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Weight (3, width) and bias (3,) of a fresh output layer."""
        config = self.config.siren
        drawn = sample_params(PAPER_INIT, config, generator=generator)
        name = f"layers.{config.depth}"
        return drawn[f"{name}.weight"] * self.config.output_gain, drawn[f"{name}.bias"]

    def forward(self, images: Tensor) -> Params:
        """Images (B, 3, H, W) -> B stacked SIRENs before any inner step."""
        if self.modulator is not None:
            modulated: Params = self.modulator(images, self.base.params)
            return modulated
        if self.reader is not None:
            moved = to_vector(self.base.params) + self.read(images) @ self.reader
            return from_vector(moved, self.config.siren)
        return self.base.params.map(lambda value: value.expand(len(images), *value.shape))

    def read(self, images: Tensor) -> Tensor:
        """The features of images: (B, 3, H, W) -> (B, read_numbers), of length about 1."""
        count = self.config.read_numbers
        numbers: Tensor = lowest_cosines(images, count) / max(count, 1) ** 0.5
        return numbers

    @torch.no_grad()
    def remember(self, images: Tensor) -> None:
        """Adds images (B, 3, H, W) that are being fitted to the statistics, if there are any."""
        if self.config.memory_images:
            read = with_one(self.read(images)).double()
            self.moments += read.T @ read
            self.moments_images += len(images)

    def gains(self, images: Tensor) -> Tensor:
        """The factors by which fits of these images correct [A, theta_0]: see `linear.gains`.

        Args:
            images: (B, 3, H, W), already in the statistics.

        Raises:
            InputError: the init keeps no statistics.
        """
        if not self.config.memory_images:
            raise InputError("this learned init was finished: its training cannot continue")
        read, memory = with_one(self.read(images)), self.config.memory_images
        return gains(self.moments, int(self.moments_images), read, memory)

    def show_heads(self, coords: Tensor) -> Tensor:
        """The output of each head at coordinates (N, 2): normalised colours (heads, N, 3)."""
        if self.head_weight is None or self.head_bias is None:
            raise InputError("this learned init has no heads")
        shared = features(self.base.params, coords)  # (N, width)
        return shared @ self.head_weight.transpose(-1, -2) + self.head_bias.unsqueeze(-2)

    def step_sizes(self) -> list[StepSizes]:
        """The step size of every parameter at every inner step."""
        siren, base = self.config.siren, self.base.params
        if self.rates is not None:
            steps = [dict(from_vector(row, siren)) for row in self.rates]
        else:
            rate = base.layer(0)[0].new_tensor(self.config.inner_lr)
            steps = [dict.fromkeys(base, rate)] * self.config.inner_steps
        factors = {
            name: 1.0 if layer_of(name) == siren.depth else self.config.inner_hidden_factor
            for name in base
        }
        return [{name: size * factors[name] for name, size in sizes.items()} for sizes in steps]

    def start(self, image: ImageSource, seed: int = 0) -> Start:
        """The start of a fit of one image: `generate`, its cost, and a suitable learning rate.

        Args:
            image: Anything that `to_image` accepts.
            seed: See `generate`.
        """
        return start_of(self, to_image(image).to(self.base.params.device), seed)

    def generate_epochs(self, image: Tensor) -> float:
        """The cost of `generate` in pixel visits / pixels of the image (3, H, W)."""
        pixels = image.shape[-2] * image.shape[-1]
        if self.stepping is not None:
            return self.stepping.cost_epochs(pixels)
        steps = self.config.inner_steps if self.config.adapts else 0
        return steps * min(self.config.inner_pixels, pixels) / pixels

    @with_own_settings
    def generate(self, image: ImageSource, *, seed: int = 0) -> Params:
        """The initial weights for one image.

        Args:
            image: Anything that `to_image` accepts. Only a transformer, a linear reader and
                gradient steps look at it.
            seed: Seed of a drawn output layer, and of the pixels that gradient steps see.
        """
        params = self.unadapted(image, seed=seed)
        if self.stepping is not None:
            picture = plain(to_image(image)).to(params.device)
            return self.stepping.take(params, picture, check_seed(seed))
        return self.adapted(params, image, seed=seed) if self.config.adapts else params

    def unadapted(self, image: ImageSource, *, seed: int) -> Params:
        """The initial weights for one image before any inner step; arguments as `generate`."""
        if self.modulator is None and self.reader is None:
            return self.draw(seed)
        picture = plain(to_image(image)).to(self.base.params.device)
        training = self.training
        self.eval()  # batch normalisation cannot use the statistics of a batch of one
        with torch.no_grad():
            params: Params = self(picture[None]).unbatch()[0]
        self.train(training)
        # Shared layers are views of the module's own parameters.
        return params.map(lambda value: value.detach().clone())

    def draw(self, seed: int) -> Params:
        """The learned parameters; with heads, the output layer is drawn for this seed."""
        params = self.base.params.map(lambda value: value.detach().clone())
        if not self.config.heads:
            return params
        device = params.device
        weight, bias = self._draw_output(torch.Generator().manual_seed(check_seed(seed)))
        name = f"layers.{params.config.depth}"
        fresh = {f"{name}.weight": weight.to(device), f"{name}.bias": bias.to(device)}
        return Params(params.config, {**params, **fresh})

    def adapted(self, params: Params, image: ImageSource, *, seed: int) -> Params:
        """One SIREN after the inner steps on an image, whether or not they are part of the init."""
        if not self.config.inner_steps:
            return params
        picture = plain(to_image(image)).to(params.device)
        return adapt(
            params,
            picture,
            self.step_sizes(),
            self.config.inner_pixels,
            seed=seed,
            objective=self.objective,
        )


@with_own_settings
def load_learned(path: str | Path) -> tuple[LearnedInit, dict[str, Any]]:
    """Loads a learned init and the facts about it.

    Args:
        path: A run directory, or a checkpoint file.

    Raises:
        InputError: there is no checkpoint, or it is damaged or of another program or version.
    """
    path = checkpoint_file(path)
    tensors, info = load_tensors(path, LEARNED_KIND)
    try:
        facts = dict(info["learned"])
        base = base_from(facts.pop("siren"), tensors, "model/base.")
        modulation = facts.pop("modulation", None)
        if modulation is not None:
            modulation = config_from(ModulationConfig, modulation)
        trunk = facts.pop("trunk", None)
        if trunk is not None:
            trunk = config_from(TrunkConfig, trunk)
        parts = {"modulation": modulation, "trunk": trunk}
        config = config_from(LearnedConfig, facts, siren=base.config, **parts)
        loops = (config.heads, 0 if modulation is None else modulation.transformer_layers)
        rows = max((len(value) for value in tensors.values() if value.ndim), default=0)
        if max(loops) > max(rows, len(tensors)):  # checked before that many layers are made
            raise InputError(f"heads or transformer_layers: {max(loops)} are not in the file")
        model = restored(lambda: LearnedInit(config, base), tensors, "model", path)
        model.origin = Origin(path, info)
        return model, info
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a learned init of this version ({reason})") from error
