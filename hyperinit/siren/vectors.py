"""Stacks of SIRENs, and SIRENs as parameter vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.siren.network import Params, SirenConfig, check_params, param_shapes


def layer_of(name: str) -> int:
    """The layer that a parameter such as "layers.3.bias" belongs to; 0 is the first."""
    return int(name.split(".")[1])


def to_vector(params: Params) -> Tensor:
    """One SIREN -> (P,), B stacked ones -> (B, P): in the order of `param_shapes`."""
    batch = check_params(params).batch_shape
    return torch.cat([value.reshape(*batch, -1) for value in params.values()], dim=-1)


def from_vector(vector: Tensor, config: SirenConfig) -> Params:
    """The inverse of `to_vector`: (P,) -> one SIREN, (B, P) -> B stacked ones (views).

    Raises:
        InputError: the vector's length is not the number of parameters of this config.
    """
    if not isinstance(vector, Tensor):
        raise InputError(f"vector must be a tensor, not {type(vector).__name__}")
    shapes = param_shapes(config)
    sizes = [math.prod(shape) for shape in shapes.values()]
    if vector.ndim not in (1, 2) or vector.shape[-1] != sum(sizes):
        raise InputError(
            f"a vector for {config} must be ({sum(sizes)},) or (B, {sum(sizes)}), "
            f"not {tuple(vector.shape)}"
        )
    parts = vector.split(sizes, dim=-1)
    batch = vector.shape[:-1]
    return Params(
        config,
        {n: part.reshape(*batch, *shapes[n]) for n, part in zip(shapes, parts, strict=True)},
    )


def choose_params(which: Tensor, yes: Params, no: Params) -> Params:
    """New SIRENs: `yes`, detached, where `which` (B,) or () is true, and `no` elsewhere."""

    def chosen(name: str) -> Tensor:
        mask = which.reshape(*which.shape, *[1] * (yes[name].ndim - which.ndim))
        return torch.where(mask, yes[name].detach(), no[name])

    return Params(no.config, {name: chosen(name) for name in no})


def stack_params(several: Sequence[Params]) -> Params:
    """B single SIRENs of one SirenConfig -> one Params with a leading B.

    Raises:
        InputError: there are none, some are stacked already, or the networks differ.
    """
    if not several or any(params.batch_shape for params in several):
        raise InputError("stack_params takes one or more single SIRENs")
    config = several[0].config
    for params in several:
        if params.config != config:
            raise InputError(f"SIRENs of two kinds cannot be stacked: {config}, {params.config}")
    return Params(config, {name: torch.stack([p[name] for p in several]) for name in several[0]})


class FlatParams:
    """One SIREN or B stacked ones, with all parameters in one vector, layer after layer.

    In each layer the weights of all SIRENs come first and then their biases, so every parameter is
    a contiguous (..., out, in) or (..., out), and every layer is a contiguous slice.

    Attributes:
        vector: All parameters.
        params: The same memory as Params.
        layers: Each layer's slice of `vector`.
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
            layer_sizes[layer_of(name)] += size
        self.layers = self.vector.split(layer_sizes)
        if not zeros:
            with torch.no_grad():
                for name, value in params.items():
                    tensors[name].copy_(value)

    def zeros_like(self) -> FlatParams:
        """The same layout, filled with zeros."""
        return FlatParams(self.params, zeros=True)

    def image(self, index: int) -> list[list[Tensor]]:
        """The parameters of one of B stacked SIRENs: a list of tensors for each layer."""
        layers: list[list[Tensor]] = [[] for _ in self.layers]
        for name, value in self.params.items():
            layers[layer_of(name)].append(value[index])
        return layers
