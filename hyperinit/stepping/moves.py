"""Gradients and moments -> the update of the parameters, element by element.

On a CPU, torch's fused Adam kernel does it, in chunks that fit in the caches. Elsewhere, plain
operations work on everything at once. The constants of a step are then in device memory, so that a
captured step can be replayed with other constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Numbers updated at a time on a CPU: NAdam makes two passes, and the second one finds its data in
# the caches.
CHUNK = 2**16

# A decay that leaves a float32 second moment unchanged. With exactly 1, the kernel's bias
# correction would divide by zero.
_KEEP = 1 - 2.0**-40


@dataclass(frozen=True, eq=False)
class Piece:
    """Parameters that are updated together.

    Attributes:
        tensors: Values, gradients, first and second moments, each a contiguous vector.
        spans: The parts that are updated, each with the factor on its learning rate.
    """

    tensors: tuple[Tensor, Tensor, Tensor, Tensor]
    spans: tuple[tuple[slice, float], ...]


@dataclass(frozen=True)
class Rule:
    """The hyperparameters that do not change from step to step: see Optimizer."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    nesterov: bool

    def shares(self, steps: int) -> tuple[float, float]:
        """The factors of momentum and gradient in the update of a step; the first step is 1."""
        beta1 = self.betas[0]
        if not self.nesterov:
            return 1 / (1 - beta1**steps), 0.0
        return beta1 / (1 - beta1 ** (steps + 1)), (1 - beta1) / (1 - beta1**steps)


class Moves(Protocol):
    """Updates parameters: value -= lr (a m + b g) / (sqrt(v / bias correction) + eps)."""

    def advance(self, steps: int, lr: float) -> None:
        """Sets the constants of a step; the first step is 1."""

    def __call__(self, piece: Piece) -> None:
        """Takes the step for a piece of the parameters and their moments."""


class FusedMoves:
    """Uses torch's fused Adam kernel, on a CPU.

    NAdam is Adam's step with a smaller share of momentum, followed by a step along the gradient
    divided by the same root. A single call cannot do both, because the kernel derives both moments
    from one gradient. In the second call beta1 is 0, so that the first moment equals the gradient
    (and can share its memory), and the second moment does not decay.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        # The step counts from which the kernel computes its bias corrections.
        self._count, self._kept_count = torch.zeros(()), torch.zeros(())

    def advance(self, steps: int, lr: float) -> None:
        """See Moves."""
        beta1, beta2 = self._rule.betas
        self._count.fill_(steps)
        self._kept_count.fill_(steps * math.log(beta2) / math.log(_KEEP))
        self._lr = lr
        on_momentum, self._on_gradient = self._rule.shares(steps)
        self._on_adam = on_momentum * (1 - beta1**steps)  # the kernel divides by this

    def __call__(self, piece: Piece) -> None:
        """See Moves; all parameters of the piece have one factor."""
        value, gradient, first, second = piece.tensors
        rule, ((_, factor),) = self._rule, piece.spans
        lr, on_adam = self._lr * factor, self._on_adam
        decayed = rule.weight_decay / on_adam if on_adam else 0.0
        moved = [value], [gradient], [first], [second]
        _adam(moved, self._count, lr * on_adam, rule.betas, rule.eps, decayed)
        if self._on_gradient:
            moved = [value], [gradient], [gradient], [second]
            kept = self._kept_count
            _adam(moved, kept, lr * self._on_gradient, (0.0, _KEEP), rule.eps, 0.0)


class PlainMoves:
    """Uses a few operations whose constants are tensors, so that `__call__` can be captured."""

    def __init__(self, rule: Rule, like: Tensor) -> None:
        self._rule = rule
        self._numbers = [like.new_zeros(()) for _ in range(4)]

    def advance(self, steps: int, lr: float) -> None:
        """See Moves."""
        on_momentum, on_gradient = self._rule.shares(steps)
        # The root of the bias correction is moved out of the denominator, which needs one number.
        root = math.sqrt(1 - self._rule.betas[1] ** steps)
        numbers = (lr, lr * root * on_momentum, lr * root * on_gradient, self._rule.eps * root)
        for own, number in zip(self._numbers, numbers, strict=True):
            own.fill_(number)

    def __call__(self, piece: Piece) -> None:
        """See Moves."""
        value, gradient, first, second = piece.tensors
        lr, on_momentum, on_gradient, eps = self._numbers
        beta1, beta2 = self._rule.betas
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = second.sqrt().add_(eps)
        direction = first.mul(on_momentum)
        if self._rule.nesterov:
            direction.addcmul_(gradient, on_gradient)
        for span, factor in piece.spans:
            moved = value[span]
            if self._rule.weight_decay:
                moved.addcmul_(moved, lr, value=-factor * self._rule.weight_decay)
            moved.addcdiv_(direction[span], root[span], value=-factor)


def pieces_of(
    layers: Sequence[Iterable[tuple[Tensor, ...]]], factors: Sequence[float]
) -> list[Piece]:
    """Parameters, gradients and moments, layer by layer -> pieces of at most CHUNK numbers.

    Layers with a factor of 0 are left out.
    """
    pieces = []
    for tensors, factor in zip(layers, factors, strict=True):
        for group in tensors if factor else ():
            flat = [value.view(-1) for value in group]
            for value, gradient, first, second in zip(*(f.split(CHUNK) for f in flat), strict=True):
                whole = (slice(0, len(value)), factor)
                pieces.append(Piece((value, gradient, first, second), (whole,)))
    return pieces


def _adam(
    tensors: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]],
    count: Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """Calls torch's fused kernel; it computes its bias corrections from `count`."""
    torch._fused_adamw_(
        *tensors,
        [],
        [count],
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=weight_decay,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )
