"""Gradients -> steps of AdamW and of NAdam, for one SIREN or B that are fitted together.

We use our own because torch.optim spends more time on handling many small tensors than on the
update itself (docs/research-log.md 41), and has no fused CPU kernel for NAdam.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.siren.vectors import FlatParams
from hyperinit.stepping.moves import FusedMoves, Moves, Piece, PlainMoves, Rule, pieces_of
from hyperinit.stepping.schedule import unit_share

# The defaults of a fit, from the third round of measurements.
BETAS = (0.8, 0.9999)
EPS = 1e-8


class Optimizer:
    """Moments of the gradient, and steps along them, for one SIREN or B stacked ones.

    All operations are element by element, so each of B SIRENs is updated as it would be alone. A
    step first shrinks each parameter by lr * factor * weight_decay of itself (decoupled, as in
    AdamW), then subtracts lr * factor * update, where `factor` is the layer's.

    Attributes:
        gradient: To be filled before each step; its content is not kept.
        steps: Number of steps taken so far.

    Args:
        flat: The parameters; updated in place.
        layer_factors: A factor on each layer's learning rate, the output layer last; layers with 0
            are not updated.
        betas: Decay of the first and of the second moment, per step.
        eps: Added to the root of the second moment.
        weight_decay: See above.
        plain: Whether to use `PlainMoves`; None: on every device but a CPU.
        unit_factors: Name of weights (..., out, in) -> factors (..., out) on the learning rates of
            their units, applied to the degree that `schedule.unit_share` says.
    """

    nesterov = False
    refreshes = False  # whether `refresh` does anything

    def __init__(
        self,
        flat: FlatParams,
        layer_factors: Sequence[float],
        *,
        betas: tuple[float, float] = BETAS,
        eps: float = EPS,
        weight_decay: float = 0.0,
        plain: bool | None = None,
        unit_factors: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        if len(layer_factors) != len(flat.layers):
            raise InputError(
                f"layer_factors: {len(layer_factors)} factors for {len(flat.layers)} layers, the "
                "output's included"
            )
        self.flat = flat
        self.gradient = flat.zeros_like()
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.layer_factors = tuple(layer_factors)
        self.steps = 0
        self._first, self._second = flat.zeros_like(), flat.zeros_like()
        rule = Rule(betas, eps, weight_decay, self.nesterov)
        self._plain = flat.vector.device.type != "cpu" if plain is None else plain
        self._moves: Moves = PlainMoves(rule, flat.vector) if self._plain else FusedMoves(rule)
        self._all = self._pieces()
        self._images: list[list[Piece]] = []  # created when rates first differ
        self._lr: float | Sequence[float] = 0.0
        self._unit_share = flat.vector.new_ones(())  # degree to which `unit_factors` count now
        # Weights, a copy of them from before the step, and each unit's factor minus 1.
        self._units = [
            (flat.params[name], torch.empty_like(flat.params[name]), factors[..., None] - 1)
            for name, factors in unit_factors.items()
        ]

    @torch.no_grad()
    def step(self, lr: float | Sequence[float], done: float = 1.0) -> None:
        """Takes one step with the current gradient.

        Args:
            lr: The learning rate of all SIRENs, or one for each of B.
            done: The share of the fit that is over.
        """
        self.observe()
        self.refresh()
        self.advance(lr, done)
        self.move()

    # The parts of a step. With a single learning rate, `observe` and `move` can be captured as CUDA
    # graphs and replayed; the others run on the host in between.

    def observe(self) -> None:
        """Accumulates statistics of the gradient, if the optimiser needs any."""

    def refresh(self) -> None:
        """Updates what depends on these statistics, when it is due."""

    def advance(self, lr: float | Sequence[float], done: float = 1.0) -> None:
        """Counts the step and sets its constants; arguments as for `step`."""
        self.steps += 1
        if self._units:
            self._unit_share.fill_(unit_share(done))
        self._lr = lr
        if isinstance(lr, float):
            self._moves.advance(self.steps, lr)

    def move(self) -> None:
        """Updates the parameters of all layers, and the moments."""
        for weights, stood, _ in self._units:
            stood.copy_(weights)
        self._move()
        for weights, stood, more in self._units:
            torch.lerp(stood, weights, 1 + self._unit_share * more, out=weights)

    def _move(self) -> None:
        """Updates the parameters without regard to `unit_factors`."""
        lr = self._lr
        if isinstance(lr, float):
            for piece in self._all:
                self._moves(piece)
            return
        if not self._images:
            for image in range(len(lr)):
                of_layers = zip(*(part.image(image) for part in self._moved), strict=True)
                layers = [list(zip(*tensors, strict=True)) for tensors in of_layers]
                self._images.append(pieces_of(layers, self.layer_factors))
        for pieces, image_lr in zip(self._images, lr, strict=True):
            self._moves.advance(self.steps, image_lr)
            for piece in pieces:
                self._moves(piece)

    @property
    def _moved(self) -> tuple[FlatParams, FlatParams, FlatParams, FlatParams]:
        return self.flat, self.gradient, self._first, self._second

    def _pieces(self) -> list[Piece]:
        """All parameters: layer by layer for the fused kernel, else in one piece."""
        value, gradient, first, second = self._moved
        if not self._plain:
            layers = [[tensors] for tensors in zip(*(f.layers for f in self._moved), strict=True)]
            return pieces_of(layers, self.layer_factors)
        spans, end = [], 0
        for layer, factor in zip(value.layers, self.layer_factors, strict=True):
            begin, end = end, end + len(layer)
            spans += [(slice(begin, end), factor)] if factor else []
        whole = value.vector, gradient.vector, first.vector, second.vector
        return [Piece(whole, tuple(spans))]

    def state(self) -> dict[str, Any]:
        """Everything that the next steps depend on, except the parameters and the arguments."""
        return {
            "steps": self.steps,
            "first": self._first.vector.clone(),
            "second": self._second.vector.clone(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores a `state()`.

        Raises:
            InputError: the state is of other parameters.
        """
        if state["first"].shape != self._first.vector.shape:
            found, wanted = len(state["first"]), len(self._first.vector)
            raise InputError(f"optimizer state is of {found} parameters, not {wanted}")
        self.steps = state["steps"]
        self._first.vector.copy_(state["first"])
        self._second.vector.copy_(state["second"])

    def restore(self, state: Mapping[str, Any], image: int) -> None:
        """Restores only the moments of one of B SIRENs; does not change `steps`."""
        for part, name in ((self._first, "first"), (self._second, "second")):
            saved = part.zeros_like()
            saved.vector.copy_(state[name])
            for layer, values in zip(part.image(image), saved.image(image), strict=True):
                for value, new in zip(layer, values, strict=True):
                    value.copy_(new)


class AdamW(Optimizer):
    """AdamW (Loshchilov & Hutter 2019), like torch.optim.AdamW."""


class NAdam(Optimizer):
    """Adam with Nesterov's momentum (Dozat 2016), with a constant beta1.

    The update is ((beta1 m / (1 - beta1^(t + 1)) + (1 - beta1) g / (1 - beta1^t)) /
    (sqrt(v / (1 - beta2^t)) + eps). That equals torch.optim.NAdam once its beta1 schedule is over,
    as with a large momentum_decay.
    """

    nesterov = True
