"""A SIREN with the arguments, names and outputs of siren-pytorch's, but with our inits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hyperinit.base.arguments import check_count
from hyperinit.exchange.in_place import init_


class SineLayer(nn.Linear):
    """sin(w0 (W x + b)), then dropout."""

    def __init__(
        self, fan_in: int, fan_out: int, w0: float, use_bias: bool, dropout: float
    ) -> None:
        super().__init__(fan_in, fan_out, bias=use_bias)
        self.w0 = w0
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., fan_in) -> (..., fan_out) in [-1, 1]."""
        wave: Tensor = self.dropout(torch.sin(self.w0 * super().forward(x)))
        return wave


class SirenNet(nn.Module):
    """siren-pytorch's SirenNet with our inits: only the import changes.

    Each can load a state dict of the other.

    Args:
        dim_in: Inputs, such as 2 coordinates.
        dim_hidden: Units of each sine layer.
        dim_out: Outputs, such as 3 colours.
        num_layers: Sine layers, at least 1.
        w0: omega_0 of all sine layers but the first.
        w0_initial: omega_0 of the first.
        use_bias: Whether layers have biases.
        final_activation: Applied after the linear layer, such as nn.Sigmoid(); None: nothing.
        dropout: Dropout rate after each sine layer.
        init: A hand-designed init, see `init_`.
        seed: Seed of the init; None draws one from torch's global generator.

    Raises:
        InputError: a size is below 1, or the init is unknown.
    """

    def __init__(
        self,
        dim_in: int,
        dim_hidden: int,
        dim_out: int,
        num_layers: int,
        w0: float = 1.0,
        w0_initial: float = 30.0,
        use_bias: bool = True,
        final_activation: nn.Module | None = None,
        dropout: float = 0.0,
        *,
        init: Any = "waves",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {"dim_in": dim_in, "dim_hidden": dim_hidden, "dim_out": dim_out}
        for name, value in {**sizes, "num_layers": num_layers}.items():
            check_count(name, value)
        self.num_layers, self.dim_hidden = num_layers, dim_hidden
        self.layers = nn.ModuleList(
            SineLayer(
                dim_in if i == 0 else dim_hidden,
                dim_hidden,
                w0_initial if i == 0 else w0,
                use_bias,
                dropout,
            )
            for i in range(num_layers)
        )
        self.last_layer = nn.Linear(dim_hidden, dim_out, bias=use_bias)
        self.final_activation = nn.Identity() if final_activation is None else final_activation
        drawn = int(torch.randint(2**31, (), device="cpu")) if seed is None else seed
        init_(self, init=init, seed=drawn)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_in) -> (..., dim_out)."""
        for layer in self.layers:
            x = layer(x)
        rgb: Tensor = self.final_activation(self.last_layer(x))
        return rgb
