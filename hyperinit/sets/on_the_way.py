"""The fits of a set so far -> better starts for the next ones, without a training run.

Every fit of a set tells where the parameters for its image are. A linear map from an image's
features to these (`inits.linear`) is as good as a trained one after about a hundred images, because
they come from the set itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from hyperinit.images.cosines import lowest_cosines
from hyperinit.inits.linear import gains, with_one
from hyperinit.inits.start import Init, Start, network_of
from hyperinit.siren.network import Params, param_shapes
from hyperinit.siren.vectors import from_vector, to_vector

READ_NUMBERS = 64
FORGET = 0.8  # decay of the record of how good predictions were, per batch of fits
MEMORY_IMAGES = 800
MAX_WEIGHTS = 2**26  # 256 MiB: for a large network fewer numbers are read


class OnTheWay:
    """A start for each image of a set, learned from the fits before it.

    Attributes:
        base: The init to whose draw the learned correction is added.
        first: The init of the first `first_images` images.
        read_numbers: Number of cosine coefficients of an image on which its start depends.
        images: Number of images learned from so far.
    """

    def __init__(
        self,
        base: Init,
        first: Init | None = None,
        first_images: int = 0,
        read_numbers: int = READ_NUMBERS,
    ) -> None:
        self.base, self.first, self.first_images = base, first or base, first_images
        # As many as fit in MAX_WEIGHTS, whatever the network.
        parameters = sum(map(prod, param_shapes(network_of(base)).values()))
        self.read_numbers = read_numbers = min(read_numbers, MAX_WEIGHTS // parameters)
        self.images = 0
        self._moments = torch.zeros(read_numbers + 1, read_numbers + 1, dtype=torch.float64)
        self._came_true = self._predicted = 0.0
        self._weights: Tensor | None = None  # (read_numbers + 1, parameters)

    @property
    def trust(self) -> float:
        """The share of the predicted corrections that came true in fits: 0 to 1."""
        return min(max(self._came_true / self._predicted, 0.0), 1.0) if self._predicted else 0.0

    @property
    def init(self) -> Init:
        """The init that gives the starts; `learn` changes those to come."""
        facts = {"base": self.base.facts, "first": self.first.facts}
        rule = {"read_numbers": self.read_numbers, "first_images": self.first_images}
        return Init(
            f"{self.base.name}+way",
            self._make,
            facts={"on_the_way": {**facts, **rule}},
            learn=self.learn,
        )

    def read(self, images: Sequence[Tensor]) -> Tensor:
        """Features of images (3, H, W) of any sizes, with a one appended: (B, read_numbers + 1)."""
        numbers = [lowest_cosines(image[None].cpu(), self.read_numbers) for image in images]
        return with_one(torch.cat(numbers) / self.read_numbers**0.5)

    def _make(self, image: Tensor, seed: int) -> Start:
        if self._weights is None or self.images < self.first_images:
            return self.first.start(image, seed)
        start = self.base.start(image, seed)
        predicted = self.trust * (self.read([image]) @ self._weights)[0]
        params = to_vector(start.params) + predicted.to(image.device)
        return replace(start, params=from_vector(params, start.params.config))

    def learn(self, images: Sequence[Tensor], fitted: Sequence[Params], seed: int) -> None:
        """Learns from the ends of fits; a pure function of all fits so far, in order.

        Args:
            images: (3, H, W) each, of any sizes.
            fitted: The fitted SIREN of each.
            seed: The seed of their fits.
        """
        if not images:
            return
        read = self.read(images)
        draws = [self.base.start(image, seed).params for image in images]
        ends = torch.stack(
            [
                to_vector(end).cpu() - to_vector(draw).cpu()
                for end, draw in zip(fitted, draws, strict=True)
            ]
        )
        if self._weights is None:
            self._weights = ends.new_zeros(self.read_numbers + 1, ends.shape[1])
        predicted = read @ self._weights
        self._came_true = FORGET * self._came_true + float((ends * predicted).sum())
        self._predicted = FORGET * self._predicted + float(predicted.square().sum())
        self.images += len(images)
        self._moments += read.double().T @ read.double()
        gained = gains(self._moments, self.images, read, MEMORY_IMAGES)
        self._weights += gained.T @ (ends - predicted)
