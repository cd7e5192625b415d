"""SIREN and pixels -> residuals and gradients, by hand: what autograd does, in buffers of its own.

A step of a small SIREN is mostly the bookkeeping of autograd, allocations and the clearing of
gradients; see SPEED.md for what it takes with and without. Equal to autograd but for rounding,
which the tests check.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hyperinit.images.coords import COORD_STD
from hyperinit.siren.vectors import FlatParams


def scaled_coords(coords: Tensor, unit_std_coords: bool) -> Tensor:
    """What the first layer multiplies: see SirenConfig.unit_std_coords."""
    return coords / COORD_STD if unit_std_coords else coords


class Gradients:
    """Residuals and gradients of the mean squared error of one SIREN or B stacked ones.

    Args:
        flat: The parameters, read at each call.
        gradient: Where the gradients go, in the same layout; what was there is overwritten.
        batch_pixels: Pixels a step and SIREN, N.
        lowest: The first layer that has a gradient; those below are frozen.
    """

    def __init__(
        self, flat: FlatParams, gradient: FlatParams, batch_pixels: int, lowest: int = 0
    ) -> None:
        params, grads = flat.params, gradient.params
        config, batch = params.config, params.batch_shape
        like = params["layers.0.weight"]
        self.omega_0, self.depth, self.lowest = config.omega_0, config.depth, lowest
        layers = range(config.depth + 1)
        self._weights = [params[f"layers.{i}.weight"] for i in layers]
        self._biases = [params.tensors.get(f"layers.{i}.bias") for i in layers]
        self._weight_grads = [grads[f"layers.{i}.weight"] for i in layers]
        self._bias_grads = [grads.tensors.get(f"layers.{i}.bias") for i in layers]

        def buffer(size: int) -> Tensor:
            return torch.empty(*batch, batch_pixels, size, dtype=like.dtype, device=like.device)

        self._sines = [buffer(config.width) for _ in range(config.depth)]
        self._cosines = [buffer(config.width) for _ in range(config.depth)]
        self._slope, self._next_slope = buffer(config.width), buffer(config.width)
        self._errors = buffer(config.out_features)
        self._product: Callable[..., Tensor] = torch.baddbmm if batch else torch.addmm
        self._scale = 2 / (config.out_features * batch_pixels)

    @torch.no_grad()
    def __call__(self, coords: Tensor, rgb: Tensor) -> Tensor:
        """Fills the gradient of each SIREN's mean squared error.

        Args:
            coords: (N, D), or (B, N, D), already scaled by `scaled_coords`.
            rgb: (N, C), or (B, N, C), normalised.

        Returns:
            Mean squared error of each pixel over its channels, (N,) or (B, N).
        """
        self._forward(coords)
        errors = self._errors.sub_(rgb)
        squared: Tensor = errors.square().mean(-1)
        self._backward(coords, errors.mul_(self._scale))
        return squared

    def _forward(self, coords: Tensor) -> None:
        below, omega = coords, self.omega_0
        for i in range(self.depth):
            angle, bias = self._cosines[i], self._biases[i]
            self._product(
                angle if bias is None else bias.unsqueeze(-2),
                below,
                self._weights[i].mT,
                beta=0.0 if bias is None else omega,
                alpha=omega,
                out=angle,
            )
            below = torch.sin(angle, out=self._sines[i])
            if i >= self.lowest:
                torch.cos(angle, out=angle)
        bias = self._biases[-1]
        assert bias is not None  # the linear layer always has one
        self._product(bias.unsqueeze(-2), below, self._weights[-1].mT, out=self._errors)

    def _backward(self, coords: Tensor, slope: Tensor) -> None:
        """`slope`: derivative by the colours."""
        for i in range(self.depth, self.lowest - 1, -1):
            # Of omega_0 (W x + b), whose derivative by W and x has the factor too.
            omega = self.omega_0 if i < self.depth else 1.0
            if i < self.depth:
                slope = slope.mul_(self._cosines[i])
            below = self._sines[i - 1] if i else coords
            grad = self._weight_grads[i]
            self._product(grad, slope.mT, below, beta=0, alpha=omega, out=grad)
            bias_grad = self._bias_grads[i]
            if bias_grad is not None:
                torch.sum(slope, -2, out=bias_grad)
                if omega != 1:
                    bias_grad.mul_(omega)
            if i > self.lowest:
                out = self._next_slope
                self._product(out, slope, self._weights[i], beta=0, alpha=omega, out=out)
                self._slope, self._next_slope = out, self._slope
                slope = out
