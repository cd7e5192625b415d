"""Recipe + image -> the steps of one SIREN fit, with this project's gradients and optimisers.

All SIREN rows except siren-pytorch's use these steps, so that seconds differ by method and not by
quality of the implementation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.peer.choose import CHOOSERS, View
from hyperinit.bench.catalogue import inits_for_fit
from hyperinit.bench.sources import load_init
from hyperinit.fitting.suits import suitable_batch, suitable_lr
from hyperinit.images.coords import RGB_MEAN, RGB_STD, image_coords
from hyperinit.siren.network import apply, predict
from hyperinit.siren.vectors import FlatParams
from hyperinit.stepping.gradients import Gradients, scaled_coords
from hyperinit.stepping.optimizers import Optimizer
from hyperinit.stepping.schedule import DECAY_POWERS, decay, layer_factors
from hyperinit.stepping.soap import OPTIMIZERS

# Name -> (mean, std) of the colours that a SIREN is fitted to.
COLOURS = {
    "unit": (torch.zeros(3), torch.ones(3)),  # [0, 1]
    "signed": (torch.full((3,), 0.5), torch.full((3,), 0.5)),  # [-1, 1]
    "normalised": (torch.tensor(RGB_MEAN), torch.tensor(RGB_STD)),
}
OUR_START = "identity-sized"


@dataclass(frozen=True)
class Recipe:
    """How a SIREN is fitted: as published, or as we do with one part replaced.

    Attributes:
        init: A name that `hyperinit fit --init` knows.
        omega_0: The network's omega_0; None: the init's own.
        colours: A row of COLOURS.
        chooser: A row of CHOOSERS.
        batch: Pixels per step: a share of the image up to 1, a number above; None: our choice.
        lr: Learning rate; None: the one that suits our fit, times `lr_factor`.
        lr_factor: Factor on that rate.
        optimizer: A row of OPTIMIZERS; "adamw" without decay is Adam.
        betas: The optimiser's betas.
        weight_decay: Decoupled.
        schedule: A row of DECAY_POWERS, or "cosine" to 0, over the planned steps.
        our_layer_rates: Whether layers have our factors on the rate, or one rate for all.
        muon_lr: Muon's rate for the hidden matrices; None: they are fitted like the rest.
    """

    init: str = "paper"
    omega_0: float | None = None
    colours: str = "signed"
    chooser: str = "all"
    batch: float | None = 1.0
    lr: float | None = 1e-4
    lr_factor: float = 1.0
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: str = "constant"
    our_layer_rates: bool = False
    muon_lr: float | None = None

    def batch_pixels(self, pixels: int) -> int:
        """Pixels per step for an image with `pixels` pixels."""
        if self.batch is None:
            return suitable_batch(pixels)
        return max(1, round(self.batch * pixels if self.batch <= 1 else self.batch))


class SirenFit:
    """One fit, step by step.

    Attributes:
        steps: Taken so far.
        weights: Numbers in the network.

    Args:
        image: (3, H, W) in [0, 1].
        recipe: See Recipe.
        width, depth: Width and depth of the network.
        planned_steps: Steps of the whole fit, over which schedules and choosers run.
        seed: Seed of the start and the pixels.
    """

    def __init__(
        self,
        image: Tensor,
        recipe: Recipe,
        width: int,
        depth: int,
        planned_steps: int,
        seed: int = 0,
    ) -> None:
        inits = inits_for_fit(recipe.init, recipe.omega_0)
        start = load_init(recipe.init, inits, width, depth).start(image, seed)
        self.recipe, self.planned_steps, self.steps = recipe, planned_steps, 0
        self._flat = FlatParams(start.params)
        self.params = self._flat.params
        self.weights = len(self._flat.vector)
        self._coords = image_coords(image)
        self.pixels = len(self._coords)
        self.batch_pixels = recipe.batch_pixels(self.pixels)
        self._mean, self._std = COLOURS[recipe.colours]
        colours = (image.flatten(1).T - self._mean) / self._std
        view = View(image, self._coords, colours.contiguous(), self.params)
        generator = torch.Generator().manual_seed(seed)
        self._chooser = CHOOSERS[recipe.chooser](view, self.batch_pixels, planned_steps, generator)
        self.lr = recipe.lr or recipe.lr_factor * suitable_lr(
            start.params.config,
            self.pixels,
            self.batch_pixels,
            planned_steps * self.batch_pixels / self.pixels,
            start.lr_factor,
        )
        factors = layer_factors(depth) if recipe.our_layer_rates else (1.0,) * (depth + 1)
        optimizer = OPTIMIZERS[recipe.optimizer](
            self._flat, factors, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self._gradient = optimizer.gradient
        self._optimizer: Optimizer | Muon = optimizer
        if recipe.muon_lr is not None:
            self._optimizer = Muon(optimizer, recipe.muon_lr / self.lr)
        self.muon_lr = recipe.muon_lr
        self._gradients: dict[int, Gradients] = {}  # by pixels a step
        self._visits = 0

    @property
    def over(self) -> bool:
        """Whether its learning rate has decayed to 0."""
        return self.recipe.schedule != "constant" and self.steps >= self.planned_steps

    @property
    def epochs(self) -> float:
        """Pixel visits / pixels, including pixels that were only evaluated."""
        return (self._visits + self._chooser.forward_visits) / self.pixels

    @torch.no_grad()
    def take(self) -> None:
        """One step."""
        coords, colours = self._chooser.next(self.steps)
        self._visits += len(coords)
        if self._chooser.needs_slopes:
            self._by_autograd(coords, colours)
        else:
            self._by_hand(coords, colours)
        self._optimizer.step(self.lr * self._decay())
        self.steps += 1

    @torch.no_grad()
    def shown(self) -> Tensor:
        """Colours of all pixels on [0, 1], unclipped: (P, 3)."""
        return predict(self.params, self._coords) * self._std + self._mean

    def _decay(self) -> float:
        done = self.steps / self.planned_steps
        if self.recipe.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        return decay(done, DECAY_POWERS[self.recipe.schedule])

    def _by_hand(self, coords: Tensor, colours: Tensor) -> None:
        count = len(coords)
        if count not in self._gradients:
            self._gradients[count] = Gradients(self._flat, self._gradient, count)
        scaled = scaled_coords(coords, self.params.config.unit_std_coords)
        self._chooser.saw(self._gradients[count](scaled, colours), None)

    @torch.enable_grad()
    def _by_autograd(self, coords: Tensor, colours: Tensor) -> None:
        coords = coords.clone().requires_grad_()
        leaves = self.params.map(lambda value: value.detach().requires_grad_())
        residuals = apply(leaves, coords) - colours
        errors = residuals.square().mean(-1)
        weights = self._chooser.weights(residuals.detach())
        loss = (errors if weights is None else errors * weights).mean()
        *slopes, by_coords = torch.autograd.grad(loss, [*leaves.values(), coords])
        for name, slope in zip(leaves, slopes, strict=True):
            self._gradient.params[name].detach().copy_(slope)
        self._chooser.saw(errors.detach(), by_coords)


class Muon:
    """Muon on the hidden matrices, another optimiser on the rest (Jordan et al. 2024; for such
    networks arXiv 2512.14366).

    The step of a matrix is its gradient's Nesterov momentum of 0.95 with all singular values
    moved towards 1 by five Newton-Schulz iterations.

    Args:
        rest: Of all other parameters.
        lr_ratio: Muon's rate relative to the rest's.
    """

    MOMENTUM, ITERATIONS = 0.95, 5
    COEFFICIENTS = (3.4445, -4.7750, 2.0315)

    def __init__(self, rest: Optimizer, lr_ratio: float) -> None:
        self.rest, self.lr_ratio = rest, lr_ratio
        params, gradients = rest.flat.params, rest.gradient.params
        names = [f"layers.{i}.weight" for i in range(1, params.config.depth)]
        self._matrices = [(params[name], gradients[name]) for name in names]
        self._momenta = [torch.zeros_like(matrix) for matrix, _ in self._matrices]

    def step(self, lr: float) -> None:
        """One update, `lr` being the rest's rate."""
        moved = []  # first, as the rest's step may use the gradient up
        for (matrix, gradient), momentum in zip(self._matrices, self._momenta, strict=True):
            momentum.lerp_(gradient, 1 - self.MOMENTUM)
            direction = self._orthogonal(gradient.lerp(momentum, self.MOMENTUM))
            moved.append(matrix - self.lr_ratio * lr * direction)
        self.rest.step(lr)
        for (matrix, _), new in zip(self._matrices, moved, strict=True):
            matrix.copy_(new)

    def _orthogonal(self, matrix: Tensor) -> Tensor:
        a, b, c = self.COEFFICIENTS
        found = matrix / (matrix.norm() + 1e-7)
        for _ in range(self.ITERATIONS):
            square = found @ found.mT
            found = a * found + (b * square + c * square @ square) @ found
        return found
