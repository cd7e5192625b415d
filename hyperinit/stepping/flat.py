"""Params in one piece of memory, which an optimiser updates in a few long stretches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyperinit.siren.network import Params, param_shapes


class FlatParams:
    """One SIREN or B stacked ones, with all numbers in one vector, layer after layer.

    In each layer the weights of all SIRENs come first and then their biases, so that every
    parameter is a contiguous (..., out, in) or (..., out) and every layer one stretch.

    Attributes:
        vector: All numbers.
        params: The same memory as Params.
        layers: Each layer's stretch of `vector`.
    """

    def __init__(self, params: Params, *, zeros: bool = False) -> None:
        """A copy of `params`, or zeros of their shapes."""
        shapes = param_shapes(params.config)
        batch = params.batch_shape
        sizes = [math.prod((*batch, *shape)) for shape in shapes.values()]
        like = params["layers.0.weight"]
        self.vector = torch.zeros(sum(sizes), dtype=like.dtype, device=like.device)
        parts = self.vector.split(sizes)
        tensors = {
            name: part.view(*batch, *shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }
        self.params = Params(params.config, tensors)
        layer_sizes = [0] * (params.config.depth + 1)
        for name, size in zip(shapes, sizes, strict=True):
            layer_sizes[int(name.split(".")[1])] += size
        self.layers = self.vector.split(layer_sizes)
        if not zeros:
            with torch.no_grad():
                for name, value in params.items():
                    tensors[name].copy_(value)

    def zeros_like(self) -> FlatParams:
        """The same layout, filled with zeros."""
        return FlatParams(self.params, zeros=True)

    def image(self, index: int) -> list[list[Tensor]]:
        """The parameters of one of B stacked SIRENs: for each layer its tensors."""
        layers: list[list[Tensor]] = [[] for _ in self.layers]
        for name, value in self.params.items():
            layers[int(name.split(".")[1])].append(value[index])
        return layers
