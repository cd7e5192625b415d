"""An init + an image -> the start of a fit: parameters, their cost, their learning rate.

Hand-designed, learned and user-made inits all return a `Start`, so a fit cannot tell them apart.
This is the only place where making a start is timed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor

from hyperinit.base.arguments import check_seed
from hyperinit.base.clock import Clock
from hyperinit.base.errors import InputError
from hyperinit.base.files import in_forked_processes, recorded_name
from hyperinit.images.signals import shows_image, to_signal
from hyperinit.inits.rules import (
    USUAL,
    InitSpec,
    Preference,
    factor_of,
    named_init,
    sample_params,
)
from hyperinit.inits.spectrum import first_layer_factor, side_factor
from hyperinit.siren.ambient import plain, with_own_settings
from hyperinit.siren.network import Params, SirenConfig
from hyperinit.siren.store import tensors_hash

SIZED_POWER = 0.5  # see sized_init
_SIZED = "-sized"

# Starts are made one at a time, because an init may draw from torch's global generator. An init may
# call another one, so the lock is reentrant.
_starting = threading.RLock()


def _unlocked() -> None:
    global _starting
    _starting = threading.RLock()


in_forked_processes(_unlocked)


@dataclass(frozen=True, eq=False)
class Start:
    """Where a fit starts.

    Attributes:
        params: One SIREN, converted to float32, in which fits compute.
        epochs: Pixel visits that making it cost, per pixel of the image; part of a fit's budget.
        sec: Seconds that making it took; a fit's clock starts from there.
        lr_factor: The learning rate that suits a fit from here, relative to the fit's default.
        prefers: Other settings that suit such a fit.

    Raises:
        InputError: a cost or the factor is not a number, negative or not finite, the factor is 0,
            or a parameter is not a floating-point number.
    """

    params: Params
    epochs: float = 0.0
    sec: float = 0.0
    lr_factor: float = 1.0
    prefers: Preference = USUAL

    def __post_init__(self) -> None:
        for name, bound in (("epochs", ">= 0"), ("sec", ">= 0"), ("lr_factor", "> 0")):
            value = getattr(self, name)
            is_number: bool = isinstance(value, Real)
            if not (is_number and 0 <= value < inf) or (name == "lr_factor" and value == 0):
                raise InputError(f"a start's {name} must be a number {bound}, not {value!r}")
            object.__setattr__(self, name, float(value))  # JSON cannot hold numpy's
        if not isinstance(self.params, Params):
            return  # the caller refuses it, and can name the init that returned it
        for name, tensor in self.params.items():
            if not tensor.is_floating_point():
                raise InputError(
                    f"a start's {name} must be floating-point numbers, not {tensor.dtype}"
                )
        object.__setattr__(self, "params", self.params.map(lambda value: value.to(torch.float32)))


def _costs_nothing(image: Tensor) -> float:
    """Unlike a lambda, it can be sent to another process."""
    return 0.0


@dataclass(frozen=True)
class Init:
    """Anything that returns a SIREN for an image.

    Attributes:
        name: What tables call it.
        make: (image (3, H, W) in [0, 1], seed) -> Params of one SIREN; or a Start, if its cost or
            its learning rate depends on the image. Hand-designed inits take signals (C, *sides)
            too, and return SIRENs with that many coordinates and values.
        epochs: image -> pixel visits that `make` costs, per pixel of the image. If `make` returns
            a Start that has a cost too, the larger number counts.
        facts: JSON-able; whatever else identifies the init in a record.
        train_hashes: Hashes of the images it was made from, which it may not be tested on.
        lr_factor: See Start. Benchmarks choose their own learning rates.
        prefers: See Start.
        learn: (images, their fitted Params, the fits' seed) -> None. Called with the fits of a
            set, in order, if the init is to learn from them. None: it does not learn.
    """

    name: str
    make: Callable[[Tensor, int], Params | Start]
    epochs: Callable[[Tensor], float] = _costs_nothing
    facts: dict[str, Any] = field(default_factory=dict)
    train_hashes: frozenset[str] = frozenset()
    lr_factor: float = 1.0
    prefers: Preference = USUAL
    learn: Callable[[Sequence[Tensor], Sequence[Params], int], None] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", recorded_name(self.name))

    @with_own_settings
    def start(self, image: Tensor, seed: int) -> Start:
        """The start for an image (3, H, W) in [0, 1], on the image's device.

        `make` and `epochs` get copies of the image, so they cannot change it.

        Raises:
            InputError: the image is not a tensor, the seed is not a 64-bit integer, `make` returned
                something other than one SIREN or tried to exit the program, or `epochs` returned no
                usable number.
        """
        if not isinstance(image, Tensor):
            found = type(image).__name__
            raise InputError(
                f"init {self.name} takes a tensor (3, H, W), not {found}: see to_image"
            )
        clock = Clock(image.device)
        # A copy, here and below: an init that writes to its image would change the fitted one.
        shown = image.clone()
        with _starting, clock.running():
            try:
                made = self.make(shown, check_seed(seed))
            except SystemExit as error:  # would end only this thread, which others then wait for
                raise InputError(f"init {self.name} calls sys.exit({error.code!r})") from error
            like = made if isinstance(made, Start) else None
            params = made.params if isinstance(made, Start) else made
            if isinstance(params, Params):
                params = params.map(lambda value: plain(value).to(image.device))
        if not isinstance(params, Params) or params.batch_shape:
            found = type(params).__name__
            raise InputError(f"init {self.name} must give the Params of one SIREN, not {found}")
        try:
            epochs = float(self.epochs(image.clone()))
            if like is not None:  # a Start that states no cost does not undo the declared one
                return replace(like, params=params, epochs=max(like.epochs, epochs), sec=clock.sec)
            return Start(params, epochs, clock.sec, self.lr_factor, self.prefers)
        except (InputError, TypeError, ValueError) as error:
            raise InputError(f"init {self.name}: {error}") from error


def spec_init(name: str, spec: InitSpec, width: int, depth: int) -> Init:
    """A hand-designed init: a fresh draw for every seed, which sees only the image's shape."""

    def make(image: Tensor, seed: int) -> Params:
        config = spec.siren_config(width, depth, image.ndim - 1, len(image))
        return sample_params(spec, config, generator=torch.Generator().manual_seed(seed))

    return Init(name, make, facts=spec.facts, lr_factor=spec.lr_factor, prefers=spec.prefers)


def sized_init(name: str, spec: InitSpec, width: int, depth: int, power: float) -> Init:
    """A hand-designed init with the first layer times (side / 224)^power, where side = sqrt(H W).

    At 48 x 48, most of init 33's first layer lies beyond the pixel grid's Nyquist frequency. Power
    1 would keep the frequencies constant in cycles per pixel; on training photographs of 96 and 48
    pixels a side, factors of 0.7 and 0.35 to 0.5 are best: docs/research-log.md 10, 17.
    In a spec, other layers may depend on the side too, see InitSpec.hidden_power.
    For sound and volumes the factor comes from the Nyquist frequency, see `first_layer_factor`.
    """
    drawn = spec_init(name, spec, width, depth)

    def make(image: Tensor, seed: int) -> Params:
        if image.ndim != 3 and power != SIZED_POWER:
            raise InputError(f"init {name}: @ is only for images and other grids H x W")
        params, sides = drawn.start(image, seed).params, image.shape[1:]
        params = params.with_layer_scaled(0, first_layer_factor(spec, sides, power))
        if len(sides) == 2:
            powers = [spec.hidden_power] * (depth - 1) + [spec.output_power]
            for layer, own in enumerate(powers, 1):
                params = params.with_layer_scaled(layer, side_factor(sides, own))
        return params

    rule = {"rule": name.partition("@")[0], "number": power, "output_gain": 1.0}
    return replace(drawn, make=make, facts={**spec.facts, **rule})


def rule_init(name: str, width: int, depth: int) -> Init:
    """A hand-designed init by name: one that `named_init` knows, or its sized form NAME-sized.

    Args:
        name: "NAME-sized@X" has the power X, see `sized_init`.
        width: Units of each sine layer.
        depth: Number of sine layers.

    Raises:
        InputError: there is no such name, or X is not a number.
    """
    name = str(name)  # a row's number will do
    known, at, text = name.partition("@")
    if not known.endswith(_SIZED):
        return spec_init(name, named_init(name), width, depth)
    power = factor_of(text, name) if at else SIZED_POWER
    return sized_init(name, named_init(known.removesuffix(_SIZED)), width, depth, power)


def signal_start(
    signal: Tensor, init: str = "identity-sized", *, width: int = 256, depth: int = 5, seed: int = 0
) -> Start:
    """The start of a fit of any signal, from a hand-designed init.

    Args:
        signal: (C, N), (C, H, W) or (C, D, H, W) in [-1, 1], or an image (3, H, W) in [0, 1].
        init: "identity-sized" or "33-sized", whose first layer suits the signal's samples, or a
            name that `named_init` knows, whose draw does not depend on the signal.
        width: Units of each sine layer.
        depth: Number of sine layers.
        seed: Seed of the draw.

    Raises:
        InputError: the init is unknown, or the signal is unusable, see `to_signal`.
    """
    signal = to_signal(signal)
    return rule_init(init, width, depth).start(signal, seed)


class InitModel(Protocol):
    """A trained module that returns a SIREN for an image: a hypernetwork or a learned init."""

    @property
    def config(self) -> Any:
        """Has at least `siren`, the network it initialises, and `lr_factor` (see Start)."""

    @property
    def facts(self) -> dict[str, Any]:
        """Its description in records and checkpoints, JSON-able."""

    @property
    def prefers(self) -> Preference:
        """See Start."""

    def to(self, device: Any) -> Any:
        """As nn.Module's."""

    def state_dict(self) -> Any:
        """As nn.Module's."""

    def generate(self, image: Any, *, seed: int = 0) -> Params:
        """Image (3, H, W) in [0, 1] -> the Params of one SIREN."""

    def generate_epochs(self, image: Tensor) -> float:
        """Pixel visits that `generate` costs, per pixel of the image."""


def check_shows_image(name: str, samples: Tensor) -> None:
    """Refuses a signal for an init that was learned from images.

    Raises:
        InputError: the samples are not (3, H, W).
    """
    if not shows_image(samples):
        shape = tuple(samples.shape)
        raise InputError(
            f"init {name} is for images (3, H, W), not for a signal {shape}; use a hand-designed"
            " one, such as identity-sized"
        )


def model_init(name: str, model: InitModel) -> Init:
    """A trained init: its forward pass and inner steps count in the seconds and the epochs."""
    facts = {**model.facts, "sha256": tensors_hash(model.state_dict())}
    return replace(_generated(name, model), facts=facts)


def start_of(model: InitModel, image: Tensor, seed: int) -> Start:
    """The start that a trained module generates for an image, with its cost and learning rate.

    Args:
        model: A hypernetwork or a learned init.
        image: (3, H, W) in [0, 1], on the model's device.
        seed: See the model's `generate`.
    """
    return _generated(type(model).__name__, model).start(image, seed)


def _generated(name: str, model: InitModel) -> Init:
    """A trained init without its facts, which would need a pass over all its parameters."""

    def make(image: Tensor, seed: int) -> Params:
        check_shows_image(name, image)
        params: Params = model.to(image.device).generate(image, seed=seed)
        return params

    suits: dict[str, Any] = {"lr_factor": model.config.lr_factor, "prefers": model.prefers}
    return Init(name, make, model.generate_epochs, **suits)


def params_init(name: str, params: Params, suits: Mapping[str, Any] | None = None) -> Init:
    """Fixed parameters, the same for every image and seed (a learned init, a stored SIREN).

    Args:
        name: What tables call it.
        params: Of one SIREN.
        suits: The `start_facts` that were stored with them, if they are a start that was written
            to a file. A fit from it then equals a fit from the original start.

    Raises:
        InputError: `suits` does not have this form.
    """
    facts = {"siren": params.config.facts, "sha256": tensors_hash(params.tensors)}
    init = Init(name, lambda image, seed: params, facts=facts)
    if suits is None:
        return init
    try:
        prefers = Preference(**suits["prefers"])
        start = Start(params, suits["epochs"], lr_factor=suits["lr_factor"], prefers=prefers)
    except (KeyError, TypeError, InputError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name}: damaged, start must have epochs, lr_factor and prefers ({reason})"
        ) from error
    own: dict[str, Any] = {"lr_factor": start.lr_factor, "prefers": start.prefers}
    return replace(init, epochs=lambda image: start.epochs, **own)


def start_facts(start: Start) -> dict[str, Any]:
    """What a fit must know about a start beside its parameters, JSON-able; see `params_init`."""
    own = ("epochs", "lr_factor")
    return {**{name: getattr(start, name) for name in own}, "prefers": asdict(start.prefers)}


def network_of(init: Init, sides: tuple[int, int] = (64, 64), seed: int = 0) -> SirenConfig:
    """The network of an init, found from its start for a plain grey image of these sides.

    Raises:
        InputError: the init refuses that image.
    """
    return init.start(torch.full((3, *sides), 0.5), seed).params.config
