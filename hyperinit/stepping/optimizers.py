"""Gradients -> steps of AdamW, of NAdam and of SOAP, for one SIREN or B that are fitted together.

Ours, because those of torch.optim spend longer on looking after many small tensors than on the
update itself (docs/research-log.md 41), and NAdam and SOAP have no fused kernel for a CPU at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.stepping.flat import FlatParams

# What a fit uses, from the third round of measurements.
BETAS = (0.8, 0.9999)
EPS = 1e-8

# Numbers that are updated at a time on a CPU: the two passes of NAdam find what they share in its
# caches.
CHUNK = 2**16

# A second moment that stays as it is, in float32, though the kernel means to decay it; with 1
# itself the kernel's bias correction would be a division by zero.
_KEEP = 1 - 2.0**-40

# SOAP: decay of the running covariances of the gradients, as in its paper's code, and the steps
# between two looks at the gradient and between two refreshes of the basis.
COVARIANCE_BETA = 0.95
REFRESH_STEPS = {"one-sided": 50, "both": 10}

# Of some parameters: values, gradients, first and second moments, each a contiguous vector.
_Part = tuple[Tensor, ...]
_Layer = list[_Part]


class Optimizer:
    """Moments of the gradient, and steps along them, for one SIREN or B stacked ones.

    Element by element, so each of B SIRENs moves as it would alone. A step subtracts
    lr * factor * update, where `factor` is the layer's, after taking lr * factor * weight_decay of
    the parameter itself off it (decoupled, as in AdamW).

    Attributes:
        gradient: To be filled before each step; its content is not kept.

    Args:
        flat: The parameters; updated in place.
        layer_factors: On the rate of each layer, the output's last; a layer with 0 stays as it
            is.
        betas: Decay of the first and of the second moment a step.
        eps: Added to the root of the second moment.
        weight_decay: See above.
    """

    nesterov = False

    def __init__(
        self,
        flat: FlatParams,
        layer_factors: Sequence[float],
        *,
        betas: tuple[float, float] = BETAS,
        eps: float = EPS,
        weight_decay: float = 0.0,
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
        self._images: list[list[_Layer]] = []  # made when rates first differ
        moved = (self.flat, self.gradient, self._first, self._second)
        self._all = [_parts([part.layers[i]] for part in moved) for i in range(len(flat.layers))]
        # What the kernel takes its bias corrections from: see `_fused`.
        self._count, self._kept_count = torch.zeros(()), torch.zeros(())

    @torch.no_grad()
    def step(self, lr: float | Sequence[float]) -> None:
        """One update with the gradient as it is.

        Args:
            lr: Of all SIRENs, or one for each of B.
        """
        self.steps += 1
        self._count.fill_(self.steps)
        self._kept_count.fill_(self.steps * math.log(self.betas[1]) / math.log(_KEEP))
        if isinstance(lr, float):
            self._update(self._all, lr)
            return
        if not self._images:
            moved = (self.flat, self.gradient, self._first, self._second)
            for image in range(len(lr)):
                of_layers = zip(*(part.image(image) for part in moved), strict=True)
                self._images.append([_parts(tensors) for tensors in of_layers])
        for layers, image_lr in zip(self._images, lr, strict=True):
            self._update(layers, image_lr)

    def state(self) -> dict[str, Any]:
        """All that the next steps depend on, apart from the parameters and the arguments."""
        return {
            "steps": self.steps,
            "first": self._first.vector.clone(),
            "second": self._second.vector.clone(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state()` gave.

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
        """Takes over the moments of one of B SIRENs alone; `steps` stays as it is."""
        for part, name in ((self._first, "first"), (self._second, "second")):
            saved = part.zeros_like()
            saved.vector.copy_(state[name])
            for layer, values in zip(part.image(image), saved.image(image), strict=True):
                for value, new in zip(layer, values, strict=True):
                    value.copy_(new)

    def _update(self, layers: list[_Layer], lr: float) -> None:
        """Moves the parameters of all layers."""
        beta1 = self.betas[0]
        on_momentum, on_gradient = 1 / (1 - beta1**self.steps), 0.0
        if self.nesterov:
            on_momentum = beta1 / (1 - beta1 ** (self.steps + 1))
            on_gradient = (1 - beta1) / (1 - beta1**self.steps)
        move = self._fused if self.gradient.vector.device.type == "cpu" else self._plain
        for parts, factor in zip(layers, self.layer_factors, strict=True):
            if factor:
                for part in parts:
                    move(part, lr * factor, on_momentum, on_gradient)

    def _plain(self, part: _Part, lr: float, on_momentum: float, on_gradient: float) -> None:
        """value -= lr (on_momentum m + on_gradient g) / (sqrt(v / bias correction) + eps)."""
        value, gradient, first, second = part
        beta1, beta2 = self.betas
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = second.div(1 - beta2**self.steps).sqrt_().add_(self.eps)
        if self.weight_decay:
            value.mul_(1 - lr * self.weight_decay)
        direction = first.mul(on_momentum).add_(gradient, alpha=on_gradient)
        value.addcdiv_(direction, root, value=-lr)

    def _fused(self, part: _Part, lr: float, on_momentum: float, on_gradient: float) -> None:
        """As `_plain`, by torch's kernel of Adam.

        NAdam is Adam's step with a smaller share of the momentum, followed by a step along the
        gradient over the same root. No single call can do both: the kernel takes both moments
        of one gradient. In the second call the first moment decays at once, and so is the
        gradient (and can be stored where that is), and the second moment does not at all.
        """
        value, gradient, first, second = part
        beta1, beta2 = self.betas
        on_adam = on_momentum * (1 - beta1**self.steps)  # the kernel divides by this
        decayed = self.weight_decay / on_adam if on_adam else 0.0
        moments = [first], [second]
        _adam(
            ([value], [gradient], *moments),
            self._count,
            lr * on_adam,
            (beta1, beta2),
            self.eps,
            decayed,
        )
        if on_gradient:
            moments = [gradient], [second]
            _adam(
                ([value], [gradient], *moments),
                self._kept_count,
                lr * on_gradient,
                (0.0, _KEEP),
                self.eps,
                0.0,
            )


def _parts(tensors: Iterable[list[Tensor]]) -> _Layer:
    """Parameters with their gradients, first and second moments -> CHUNK numbers of each at most.

    On other devices than a CPU each as a whole.
    """
    parts: _Layer = []
    for values in zip(*tensors, strict=True):
        if values[0].device.type == "cpu":
            parts += zip(*(value.view(-1).split(CHUNK) for value in values), strict=True)
        else:
            parts.append(values)
    return parts


def _adam(
    tensors: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]],
    count: Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """torch's fused kernel; `count` is what its bias corrections are taken from."""
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


class AdamW(Optimizer):
    """AdamW (Loshchilov & Hutter 2019), as torch.optim.AdamW."""


class NAdam(Optimizer):
    """Adam with Nesterov's momentum (Dozat 2016), with a constant beta1.

    The update is ((beta1 m / (1 - beta1^(t + 1)) + (1 - beta1) g / (1 - beta1^t)) /
    (sqrt(v / (1 - beta2^t)) + eps): torch.optim.NAdam where its schedule of beta1 is over, that is
    with a large momentum_decay.
    """

    nesterov = True


class Soap(NAdam):
    """SOAP (Vyas et al. 2024): NAdam in the eigenbasis of the gradients' covariances.

    For the weights between two sine layers alone; all else is NAdam. The moments are those of the
    rotated gradient L^T G R; the first one turns with the basis, the second one stays, as in the
    paper.

    Args:
        sides: "one-sided": R alone, the eigenvectors of the running G^T G, on the side of the
            layer's inputs; "both": those of G G^T too.
        refresh_steps: Steps between two refreshes; by default REFRESH_STEPS.
    """

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
        self._covariances: dict[str, Tensor] = {}
        self._bases: dict[str, Tensor] = {}
        for name in self._rotated:
            for side in self._sides:
                self._covariances[f"{name} {side}"] = torch.zeros_like(flat.params[name])
                self._bases[f"{name} {side}"] = torch.zeros_like(flat.params[name])

    @torch.no_grad()
    def step(self, lr: float | Sequence[float]) -> None:
        turned = []
        for name in self._rotated:
            gradient = self.gradient.params[name]
            self._observe(name, gradient)
            if self.steps % self.refresh_steps == 0:
                self._refresh(name)
            gradient.copy_(self._rotate(name, gradient))
            # The update is made from zero, and turned back before it is added.
            turned.append(self.flat.params[name].clone())
            self.flat.params[name].zero_()
        super().step(lr)
        rates = torch.tensor(lr, dtype=turned[0].dtype, device=turned[0].device) if turned else None
        for name, before in zip(self._rotated, turned, strict=True):
            value = self.flat.params[name]
            value.copy_(self._rotate_back(name, value))
            if self.weight_decay and rates is not None:
                rate = rates * self.layer_factors[int(name.split(".")[1])] * self.weight_decay
                before.mul_((1 - rate)[..., None, None])
            value.add_(before)

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
        """New bases, to which the first moment is turned."""
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
    """Eigenvectors of symmetric (..., n, n); where there are none (no numbers), `otherwise`."""
    size = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    usable = covariance.isfinite().all(-1, keepdim=True).all(-2, keepdim=True) & (size > 0)
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    # By a trace of 1 their size is of no matter to the eigensolver.
    vectors: Tensor = torch.linalg.eigh(torch.where(usable, covariance / size, identity))[1]
    blank = (otherwise == 0).all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(usable, vectors, torch.where(blank, identity, otherwise))


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adamw": AdamW, "nadam": NAdam, "soap": Soap}
