"""FitConfig + start + image -> the object that takes the steps of a fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.fitting.config import AUTO, CREDIT, FitConfig
from hyperinit.images.coords import image_coords, image_to_rgb
from hyperinit.siren.device import has_bfloat16_units
from hyperinit.siren.network import Params
from hyperinit.siren.replay import Replayed
from hyperinit.siren.vectors import FlatParams, layer_of
from hyperinit.stepping.credit import CreditSampler
from hyperinit.stepping.engine import SquaredErrors, loss_of, settled
from hyperinit.stepping.gradients import Gradients, LowGradients, scaled_coords
from hyperinit.stepping.samplers import SAMPLERS, Batches
from hyperinit.stepping.schedule import layer_factors, unit_factors
from hyperinit.stepping.soap import OPTIMIZERS

# Multiplications in a hidden layer's product from which bfloat16 gradients pay, if they do at all.
BACKWARD_WORK = 2e6


class Steps(Protocol):
    """The steps of one fit, or of B fits that run together.

    Attributes:
        params: The current parameters; changed in place.
    """

    params: Params

    def take(self, lr: float, decay: float, done: float = 1.0) -> Tensor:
        """Takes a step at rate lr x decay; returns the mean squared errors before it, () or (B,).

        Args:
            lr: The fit's learning rate.
            decay: The factor on it.
            done: The share of the fit that is over, on which the rates of single units depend.
        """

    def state(self) -> dict[str, Any]:
        """Everything that the next steps depend on, except the pixels they see."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores a `state()`."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts that the steps of a fit are made of.

    Attributes:
        start: One SIREN, or B stacked ones; copied.
        batches: The pixels of each step.
        config: See FitConfig.
        factors: Each layer's learning rate relative to the fit's, the output layer last.
        errors: The loss, for steps whose gradient autograd computes.
    """

    start: Params
    batches: Batches
    config: FitConfig
    factors: Sequence[float]
    errors: SquaredErrors


class CreditBatches(Batches):
    """Credit sampling, as the batches of coordinates and colours of each step."""

    def __init__(
        self, image: Tensor, batch_pixels: int, generator: torch.Generator, dims: int = 2
    ) -> None:
        super().__init__(image, batch_pixels, generator, dims)
        cell = max(1, round((prod(image.shape[-dims:]) / batch_pixels) ** (1 / dims)))
        self.sampler = CreditSampler(image, cell, generator, batch_pixels, dims)
        # A pixel's colours are stored side by side, because a step reads pixels all over the image.
        self.coords = image_coords(image, dims)
        self.rgb = image_to_rgb(image, dims).contiguous()

    def __call__(self) -> tuple[Tensor, Tensor]:
        return self.look(self.sampler.next_batch())

    def look(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Coords (..., N, D) and rgb (..., N, C) of pixels (N,) or (B, N), now the last drawn."""
        self.drawn = pixels
        coords = self.coords.index_select(0, self.drawn.reshape(-1))
        coords = coords.view(*self.drawn.shape, self.dims)
        if self.drawn.ndim == 1:
            return coords, self.rgb.index_select(0, self.drawn)
        channels = self.rgb.shape[-1]
        index = self.drawn[..., None].expand(*self.drawn.shape, channels)
        return coords, self.rgb.gather(-2, index)

    def observe(self, squared_errors: Tensor) -> None:
        """Receives squared errors (..., N, C), or their means over the channels (..., N, 1)."""
        self.sampler.report(self.drawn, squared_errors.mean(dim=-1).sqrt())


def batches_of(image: Tensor, config: FitConfig, batch_pixels: int, dims: int = 2) -> Batches:
    """The batches of a fit's steps; all randomness comes from the config's seed."""
    generator = torch.Generator().manual_seed(config.seed)
    kinds = {CREDIT: CreditBatches, **SAMPLERS}
    return kinds[config.sampler](image, batch_pixels, generator, dims)


def rate_factors(config: FitConfig, depth: int) -> tuple[float, ...]:
    """Each layer's learning rate relative to the fit's, output layer last; 0 for frozen layers.

    Raises:
        InputError: `layer_lr_factors` or `frozen_layers` are for another number of layers.
    """
    further = config.layer_lr_factors or (1.0,) * (depth + 1)
    if len(further) != depth + 1:
        raise InputError(
            f"layer_lr_factors: {len(further)} factors for {depth + 1} layers, the output layer"
            " included"
        )
    for layer in config.frozen_layers:
        if not 0 <= layer <= depth:
            raise InputError(f"frozen_layers: no layer {layer}; this SIREN has 0 to {depth}")
    own = layer_factors(depth, output=config.output_lr_factor)
    if not config.rising_rates:
        own = (*(1.0,) * depth, config.output_lr_factor)
    return tuple(
        0.0 if layer in config.frozen_layers else a * b
        for layer, (a, b) in enumerate(zip(own, further, strict=True))
    )


def _by_hand(config: FitConfig) -> bool:
    """Whether gradients are computed by hand and not by autograd."""
    exact = config.hidden_dtype == "float32"
    return exact and config.engine == "eager" and config.optimizer != "adamw"


def backward_dtype(config: FitConfig, params: Params, batch_pixels: int) -> str:
    """The value that `FitConfig.backward_dtype` takes in a fit whose optimizer is chosen.

    Args:
        config: The fit's config.
        params: What is fitted. On a GPU, bfloat16 gains nothing for networks of this size.
        batch_pixels: Pixels per step.
    """
    if not _by_hand(config):
        return "float32"
    if config.backward_dtype != AUTO:
        return config.backward_dtype
    siren, plain = params.config, params.device.type == "cpu" and params.dtype == torch.float32
    enough = siren.depth > 1 and batch_pixels * siren.width**2 >= BACKWARD_WORK
    return "bfloat16" if enough and plain and has_bfloat16_units() else "float32"


def settled_options(
    config: FitConfig, params: Params, batch_pixels: int, *, work: float
) -> dict[str, Any]:
    """The values that a finished fit used for open settings; see `FitResult.became`."""
    return {
        "batch_pixels": batch_pixels,
        "optimizer": config.optimizer,
        **settled(config.engine, config.hidden_dtype, work=work, device=params.device),
        "backward_dtype": backward_dtype(config, params, batch_pixels),
    }


def make_steps(start: Params, image: Tensor, config: FitConfig, *, work: float) -> Steps:
    """The steps of a fit.

    Args:
        start: One SIREN, or B stacked ones, detached; not modified.
        image: (3, H, W), or (B, 3, H, W), in [0, 1], on the device of the SIREN; or signals.
        config: See FitConfig.
        work: Weights x pixels that the fit will visit; decides what engine="auto" becomes.

    Raises:
        InputError: an option does not fit the network.
    """
    factors = rate_factors(config, start.config.depth)
    dims = start.config.in_features
    batch_pixels = config.step_pixels(prod(image.shape[-dims:]))
    batches = batches_of(image, config, batch_pixels, dims)
    errors = loss_of(config.engine, config.hidden_dtype, work=work, device=image.device)
    parts = Parts(start, batches, config, factors, errors)
    if config.optimizer == "adamw":
        return AutogradSteps(parts)
    captured = image.device.type == "cuda" and config.engine == "eager"
    if captured and isinstance(batches, CreditBatches):
        return StaticSteps(parts)
    return FlatSteps(parts)


class AutogradSteps:
    """torch's AdamW with autograd's gradients: protocol 1, bit for bit as in its records."""

    def __init__(self, parts: Parts) -> None:
        self.params = parts.start.map(lambda value: value.detach().clone())
        self._batches, self._errors = parts.batches, parts.errors
        for name, value in self.params.items():
            value.requires_grad_(layer_of(name) not in parts.config.frozen_layers)
        if any(parts.factors):
            self._optimizer = adamw(self.params, parts.config, parts.factors)

    def take(self, lr: float, decay: float, done: float = 1.0) -> Tensor:
        """See Steps."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["factor"] * decay
        errors = self._errors(self.params, *self._batches())
        losses = errors.mean(dim=(-1, -2)) if self.params.batch_shape else errors.mean()
        self._optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        self._optimizer.step()
        self._batches.observe(errors.detach())
        return losses.detach()

    def state(self) -> dict[str, Any]:
        """See Steps."""
        copies = {name: value.detach().clone() for name, value in self.params.items()}
        moments = [
            {key: value.clone() for key, value in self._optimizer.state.get(value, {}).items()}
            for value in self.params.values()
        ]
        return {"params": copies, "moments": moments}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See Steps."""
        with torch.no_grad():
            for (name, value), moments in zip(self.params.items(), state["moments"], strict=True):
                value.copy_(state["params"][name])
                for key, moment in moments.items():
                    self._optimizer.state[value][key].copy_(moment)


def adamw(params: Params, config: FitConfig, factors: Sequence[float]) -> torch.optim.AdamW:
    """AdamW over the trained parameters; each group has a `factor` on the learning rate."""
    groups: dict[tuple[bool, float], list[Tensor]] = {}
    for name, value in params.items():
        layer = layer_of(name)
        if value.requires_grad:
            groups.setdefault((layer == params.config.depth, factors[layer]), []).append(value)
    return torch.optim.AdamW(
        [{"params": values, "factor": factor} for (_, factor), values in groups.items()],
        lr=1.0,
        betas=(float(config.beta1), float(config.beta2)),  # torch refuses the integer 0
        weight_decay=config.weight_decay,
        fused=True,
    )


class FlatSteps:
    """NAdam or SOAP on parameters in one contiguous vector, with gradients computed by hand.

    If the fit is compiled, or has a `hidden_dtype`, autograd computes the gradients.

    Args:
        plain: See Optimizer.
    """

    def __init__(self, parts: Parts, *, plain: bool | None = None) -> None:
        config = parts.config
        self._flat = FlatParams(parts.start)
        self.params = self._flat.params
        self._batches, self._errors = parts.batches, parts.errors
        self._optimizer = OPTIMIZERS[config.optimizer](
            self._flat,
            parts.factors,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            plain=plain,
            unit_factors=self._unit_factors(parts),
        )
        self._unit_std_coords = self.params.config.unit_std_coords
        moved = [layer for layer, factor in enumerate(parts.factors) if factor]
        self._gradients: Gradients | None = None
        if _by_hand(config):
            batch_pixels = self._batches.batch_pixels
            dtype = backward_dtype(config, self.params, batch_pixels)
            self._gradients = (LowGradients if dtype == "bfloat16" else Gradients)(
                *(self._flat, self._optimizer.gradient, batch_pixels),
                min(moved, default=0),
            )

    @staticmethod
    def _unit_factors(parts: Parts) -> dict[str, Tensor]:
        """The unit factors of the hidden layers that are trained."""
        if not parts.config.rising_units:
            return {}
        factors = unit_factors(parts.start["layers.0.weight"].detach())
        hidden = range(1, parts.start.config.depth)
        return {f"layers.{i}.weight": factors for i in hidden if parts.factors[i]}

    @torch.no_grad()
    def take(self, lr: float, decay: float, done: float = 1.0) -> Tensor:
        """See Steps."""
        losses = self._descend(*self._batches())
        self._optimizer.step(lr * decay, done)
        return losses

    def _descend(self, coords: Tensor, rgb: Tensor) -> Tensor:
        """Computes the gradient, reports residuals to the sampler; returns mean squared errors."""
        if self._gradients is not None:
            coords = scaled_coords(coords, self._unit_std_coords)
            means = self._gradients(coords.expand(*rgb.shape[:-1], -1), rgb)
            errors, losses = means[..., None], means.mean(-1)
        else:
            errors, losses = self._by_autograd(coords, rgb)
        self._batches.observe(errors)
        return losses

    def state(self) -> dict[str, Any]:
        """See Steps."""
        return {"vector": self._flat.vector.clone(), "optimizer": self._optimizer.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See Steps."""
        self._flat.vector.copy_(state["vector"])
        self._optimizer.load_state(state["optimizer"])

    @torch.enable_grad()
    def _by_autograd(self, coords: Tensor, rgb: Tensor) -> tuple[Tensor, Tensor]:
        leaves = self.params.map(lambda value: value.detach().requires_grad_())
        errors = self._errors(leaves, coords, rgb)
        losses = errors.mean(dim=(-1, -2))
        gradients = torch.autograd.grad(losses.sum(), list(leaves.values()))
        for name, gradient in zip(leaves, gradients, strict=True):
            self._optimizer.gradient.params[name].copy_(gradient)
        return errors.detach(), losses.detach()


class StaticSteps(FlatSteps):
    """FlatSteps as a function over tensors at fixed addresses, which a GPU replays.

    Whatever differs from step to step, the pixels and the constants of the update, is written into
    such tensors beforehand. Earlier states are restored in place.

    Args:
        parts: They must have credit sampling and the engine "eager".
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts, plain=True)
        assert isinstance(parts.batches, CreditBatches)
        self._credit = parts.batches
        like, batch_shape = self._flat.vector, self.params.batch_shape
        shape = (*batch_shape, self._credit.batch_pixels)
        self._pixels = torch.zeros(shape, dtype=torch.long, device=like.device)
        self._losses = like.new_zeros(batch_shape)
        # One graph, unless the host has to do something in between.
        optimizer, device = self._optimizer, like.device
        calls = [[self._look, optimizer.observe, optimizer.move]]
        if optimizer.refreshes:
            calls = [[self._look, optimizer.observe], [optimizer.move]]
        self._replayed = [Replayed(_one_after_the_other(part), device) for part in calls]

    @torch.no_grad()
    def take(self, lr: float, decay: float, done: float = 1.0) -> Tensor:
        """See Steps."""
        self._pixels.copy_(self._credit.sampler.next_batch())
        if not self._optimizer.refreshes:
            self._optimizer.advance(lr * decay, done)
            self._replayed[0]()
            return self._losses.clone()
        self._replayed[0]()
        self._optimizer.refresh()
        self._optimizer.advance(lr * decay, done)
        self._replayed[1]()
        return self._losses.clone()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See Steps."""
        super().load_state(state)
        if not self._optimizer.steps:  # the first step differs from the others
            for part in self._replayed:
                part.restart()

    def _look(self) -> None:
        self._losses.copy_(self._descend(*self._credit.look(self._pixels)))


def _one_after_the_other(functions: Sequence[Callable[[], None]]) -> Callable[[], None]:
    def call() -> None:
        for function in functions:
            function()

    return call
