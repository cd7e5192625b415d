"""SIREN and pixels -> residuals and gradients, computed by hand in preallocated buffers.

With autograd, a step of a small SIREN is mostly bookkeeping, allocations and clearing gradients;
docs/results/fit-engine.md has the times. Tests check that results equal autograd's up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hyperinit.images.coords import COORD_STD
from hyperinit.siren.device import onednn_linear
from hyperinit.siren.sine import sin_and_cos
from hyperinit.siren.vectors import FlatParams


def scaled_coords(coords: Tensor, unit_std_coords: bool) -> Tensor:
    """The input of the first layer: see SirenConfig.unit_std_coords."""
    return coords / COORD_STD if unit_std_coords else coords


class Gradients:
    """Residuals and gradients of the mean squared error of one SIREN or B stacked ones.

    Args:
        flat: The parameters, read at each call.
        gradient: Receives the gradients, in the same layout; its content is overwritten.
        batch_pixels: Pixels per step and SIREN, N.
        lowest: The first layer that has a gradient; layers below are frozen.
    """

    def __init__(
        self, flat: FlatParams, gradient: FlatParams, batch_pixels: int, lowest: int = 0
    ) -> None:
        params, grads = flat.params, gradient.params
        config, batch = params.config, params.batch_shape
        self._batch_pixels = batch_pixels
        self.omega_0, self.depth, self.lowest = config.omega_0, config.depth, lowest
        layers = range(config.depth + 1)
        self._weights = [params[f"layers.{i}.weight"] for i in layers]
        self._biases = [params.tensors.get(f"layers.{i}.bias") for i in layers]
        self._weight_grads = [grads[f"layers.{i}.weight"] for i in layers]
        self._bias_grads = [grads.tensors.get(f"layers.{i}.bias") for i in layers]

        self._sines = [self._buffer(config.width) for _ in range(config.depth)]
        self._errors = self._buffer(config.out_features)
        self._turned = torch.empty_like(self._weights[0].mT, memory_format=torch.contiguous_format)
        self._product: Callable[..., Tensor] = torch.baddbmm if batch else torch.addmm
        self._scale = 2 / (config.out_features * batch_pixels)
        self._make_way_back()

    def _buffer(self, size: int, dtype: torch.dtype | None = None) -> Tensor:
        """A buffer of `size` numbers for each pixel of a step."""
        like = self._weights[0]
        shape = (*like.shape[:-2], self._batch_pixels, size)
        return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)

    def _make_way_back(self) -> None:
        """Allocates the buffers of the backward pass, and what it needs from the forward pass."""
        width = self._sines[0].shape[-1]
        self._cosines = [self._buffer(width) for _ in self._sines]
        self._angles = self._cosines  # the cosines overwrite the angles
        self._slope, self._next_slope = self._buffer(width), self._buffer(width)

    @torch.no_grad()
    def __call__(self, coords: Tensor, rgb: Tensor) -> Tensor:
        """Computes the gradient of each SIREN's mean squared error.

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
        below = coords
        for i in range(self.depth):
            angle, cosine = self._angle(i, below), self._cosines[i]
            below = self._sines[i]
            sin_and_cos(angle, below, cosine if i >= self.lowest else None)
        bias = self._biases[-1]
        assert bias is not None  # the linear layer always has one
        self._product(bias.unsqueeze(-2), below, self._weights[-1].mT, out=self._errors)

    def _angle(self, layer: int, below: Tensor) -> Tensor:
        """The argument of a layer's sine, omega_0 (W x + b)."""
        angle, bias = self._angles[layer], self._biases[layer]
        return self._product(
            angle if bias is None else bias.unsqueeze(-2),
            below,
            self._weights[layer].mT,
            beta=0.0 if bias is None else self.omega_0,
            alpha=self.omega_0,
            out=angle,
        )

    def _backward(self, coords: Tensor, slope: Tensor) -> None:
        """Backpropagates `slope`, the derivative with respect to the colours."""
        for i in range(self.depth, self.lowest - 1, -1):
            # A sine layer has omega_0 (W x + b), so derivatives by W, b and x have the factor too.
            omega = self.omega_0 if i < self.depth else 1.0
            if i < self.depth:
                slope = slope.mul_(self._cosines[i])
            if i == 0:
                self._of_first(coords, slope)
                return
            below, grad = self._sines[i - 1], self._weight_grads[i]
            self._product(grad, slope.mT, below, beta=0, alpha=omega, out=grad)
            self._of_bias(i, slope, omega)
            if i > self.lowest:
                out = self._next_slope
                self._product(out, slope, self._weights[i], beta=0, alpha=omega, out=out)
                self._slope, self._next_slope = out, self._slope
                slope = out

    def _of_first(self, coords: Tensor, slope: Tensor) -> None:
        """The gradient of the first layer; the transposed product would be ten times slower."""
        turned = self._turned
        self._product(turned, coords.mT, slope, beta=0, alpha=self.omega_0, out=turned)
        self._weight_grads[0].copy_(turned.mT)
        self._of_bias(0, slope, self.omega_0)

    def _of_bias(self, layer: int, slope: Tensor, omega: float) -> None:
        """The gradient of a layer's bias, if it has one."""
        grad = self._bias_grads[layer]
        if grad is not None:
            torch.sum(slope, -2, dtype=grad.dtype, out=grad)
            if omega != 1:
                grad.mul_(omega)


class LowGradients(Gradients):
    """The same, with the backward pass through the hidden layers in bfloat16.

    The forward pass, and so every residual, stays in float32, though computed by another library.
    Gradients get noise of half a percent, far less than from the sampling of pixels. See
    docs/research-log.md 97.
    """

    def _make_way_back(self) -> None:
        width, low = self._sines[0].shape[-1], torch.bfloat16
        self._slope = self._buffer(width)
        self._angles = [self._slope] * self.depth  # shared: used by one layer after the other
        self._cosines = [self._buffer(width, low) for _ in self._sines]
        self._low_sines = self._buffer(width, low)
        self._low_slope, self._low_next_slope = self._buffer(width, low), self._buffer(width, low)
        self._low_weight, self._low_grad, self._low_output = (
            torch.empty_like(like, dtype=low)
            for like in (self._weights[1], self._weights[1], self._weights[-1])
        )
        self._linear = onednn_linear() if self._slope.dtype == torch.float32 else None

    def _angle(self, layer: int, below: Tensor) -> Tensor:
        if self._linear is None or layer == 0:
            return super()._angle(layer, below)
        angle, weight, bias = self._angles[layer], self._weights[layer], self._biases[layer]
        if below.ndim == 2:
            return self._linear(below, weight, bias).mul_(self.omega_0)
        for i, own in enumerate(angle):  # the operator takes a single SIREN
            shown = self._linear(below[i], weight[i], None if bias is None else bias[i])
            torch.mul(shown, self.omega_0, out=own)
        return angle

    def _backward(self, coords: Tensor, slope: Tensor) -> None:
        last = self.depth
        grad = self._weight_grads[last]
        self._product(grad, slope.mT, self._sines[-1], beta=0, out=grad)
        self._of_bias(last, slope, 1.0)
        if self.lowest == last:
            return
        low, free = self._low_slope, self._low_next_slope
        weight = self._low_output.copy_(self._weights[last])
        self._product(low, slope.to(low.dtype), weight, beta=0, out=low)
        for i in range(last - 1, max(self.lowest, 1) - 1, -1):
            low.mul_(self._cosines[i])
            below, grad = self._low_sines.copy_(self._sines[i - 1]), self._low_grad
            self._product(grad, low.mT, below, beta=0, alpha=self.omega_0, out=grad)
            self._weight_grads[i].copy_(grad)
            self._of_bias(i, low, self.omega_0)
            if i > self.lowest:
                weight = self._low_weight.copy_(self._weights[i])
                self._product(free, low, weight, beta=0, alpha=self.omega_0, out=free)
                low, free = free, low
        if self.lowest == 0:
            # Coordinates need more precision than bfloat16.
            self._of_first(coords, self._slope.copy_(low.mul_(self._cosines[0])))
