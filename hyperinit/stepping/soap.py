"""Gradients -> steps of SOAP (NAdam in another basis); and all optimisers of a fit by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.siren.vectors import FlatParams
from hyperinit.stepping.optimizers import AdamW, NAdam, Optimizer

# Decay of the running gradient covariances, as in the code of SOAP's paper, and the steps between
# two refreshes of the basis.
COVARIANCE_BETA = 0.95
REFRESH_STEPS = {"one-sided": 50, "both": 10}


class Soap(NAdam):
    """SOAP (Vyas et al. 2024): NAdam in the eigenbasis of the gradients' covariances.

    It applies only to the weights between two sine layers; all others use NAdam. The moments are
    those of the rotated gradient L^T G R. When the basis changes, the first moment is rotated and
    the second one is kept, as in the paper.

    Args:
        sides: "one-sided": only R, the eigenvectors of the running G^T G, on the side of the
            layer's inputs; "both": also L, those of G G^T.
        refresh_steps: Steps between two refreshes of the basis; by default REFRESH_STEPS.
    """

    refreshes = True

    def __init__(
        self,
        flat: FlatParams,
        layer_factors: Sequence[float],
        *,
        sides: str = "one-sided",
        refresh_steps: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(flat, layer_factors, **options)
        if sides not in REFRESH_STEPS:
            raise InputError(f"sides must be one of {', '.join(REFRESH_STEPS)}, not {sides!r}")
        self.refresh_steps = refresh_steps or REFRESH_STEPS[sides]
        self._rotated = [
            f"layers.{layer}.weight"
            for layer in range(1, len(flat.layers) - 1)
            if layer_factors[layer]
        ]
        self._sides = ("right", "left") if sides == "both" else ("right",)
        self._rates = flat.vector.new_zeros(flat.params.batch_shape)
        self._covariances: dict[str, Tensor] = {}
        self._bases: dict[str, Tensor] = {}
        for name in self._rotated:
            for side in self._sides:
                self._covariances[f"{name} {side}"] = torch.zeros_like(flat.params[name])
                self._bases[f"{name} {side}"] = torch.zeros_like(flat.params[name])

    def observe(self) -> None:
        for name in self._rotated:
            self._observe(name, self.gradient.params[name])

    def refresh(self) -> None:
        if self.steps % self.refresh_steps == 0:
            for name in self._rotated:
                self._refresh(name)

    def advance(self, lr: float | Sequence[float], done: float = 1.0) -> None:
        super().advance(lr, done)
        if self.weight_decay:
            if isinstance(lr, float):
                self._rates.fill_(lr)
            else:
                self._rates.copy_(torch.as_tensor(lr))

    def move(self) -> None:
        before = []
        for name in self._rotated:
            gradient, value = self.gradient.params[name], self.flat.params[name]
            gradient.copy_(self._rotate(name, gradient))
            # The update starts from zero, and is rotated back before it is added.
            before.append(value.clone())
            value.zero_()
        super().move()
        for name, old in zip(self._rotated, before, strict=True):
            value = self.flat.params[name]
            value.copy_(self._rotate_back(name, value))
            if self.weight_decay:
                layer_factor = self.layer_factors[int(name.split(".")[1])]
                rate = self._rates * layer_factor * self.weight_decay
                old.mul_((1 - rate)[..., None, None])
            value.add_(old)

    def state(self) -> dict[str, Any]:
        copies = {name: value.clone() for name, value in self._covariances.items()}
        bases = {name: value.clone() for name, value in self._bases.items()}
        return super().state() | {"covariances": copies, "bases": bases}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        for own, saved in ((self._covariances, "covariances"), (self._bases, "bases")):
            if own.keys() != state[saved].keys():
                raise InputError(f"optimizer state has other {saved}: {', '.join(state[saved])}")
            for name, value in own.items():
                value.copy_(state[saved][name])

    def restore(self, state: Mapping[str, Any], image: int) -> None:
        super().restore(state, image)
        for own, saved in ((self._covariances, "covariances"), (self._bases, "bases")):
            for name, value in own.items():
                value[image].copy_(state[saved][name][image])

    def _observe(self, name: str, gradient: Tensor) -> None:
        share = 1 - COVARIANCE_BETA if self.steps else 1.0
        for side in self._sides:
            left, right = gradient, gradient.mT
            if side == "right":
                left, right = right, left
            covariance = self._covariances[f"{name} {side}"]
            if covariance.ndim == 2:
                covariance.addmm_(left, right, beta=1 - share, alpha=share)
            else:
                covariance.baddbmm_(left, right, beta=1 - share, alpha=share)

    def _refresh(self, name: str) -> None:
        """Computes new bases and rotates the first moment into them."""
        momentum = self._first.params[name]
        if self.steps:
            momentum.copy_(self._rotate_back(name, momentum))
        for side in self._sides:
            basis = self._bases[f"{name} {side}"]
            basis.copy_(_eigenvectors(self._covariances[f"{name} {side}"], basis))
        if self.steps:
            momentum.copy_(self._rotate(name, momentum))

    def _rotate(self, name: str, value: Tensor) -> Tensor:
        turned = value @ self._bases[f"{name} right"]
        return self._bases[f"{name} left"].mT @ turned if "left" in self._sides else turned

    def _rotate_back(self, name: str, value: Tensor) -> Tensor:
        turned = value @ self._bases[f"{name} right"].mT
        return self._bases[f"{name} left"] @ turned if "left" in self._sides else turned


def _eigenvectors(covariance: Tensor, otherwise: Tensor) -> Tensor:
    """Eigenvectors of symmetric (..., n, n); `otherwise` where a matrix is not finite."""
    size = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    usable = covariance.isfinite().all(-1, keepdim=True).all(-2, keepdim=True) & (size > 0)
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    # Normalised to a trace of 1, so that their scale does not matter to the eigensolver.
    vectors: Tensor = torch.linalg.eigh(torch.where(usable, covariance / size, identity))[1]
    blank = (otherwise == 0).all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(usable, vectors, torch.where(blank, identity, otherwise))


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adamw": AdamW, "nadam": NAdam, "soap": Soap}
