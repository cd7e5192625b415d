"""Image -> which of its points each step of a fit sees: one row of SAMPLERS per way to choose."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor

from hyperinit.coords import image_coords, image_to_rgb

# Of "residual": what a pixel that is fitted perfectly still counts, relative to the mean residual.
RESIDUAL_FLOOR = 0.3
# Steps between two looks at all residuals; more for large images, where a look costs most, and no
# more than an epoch.
RESIDUAL_REFRESH_STEPS = 20
RESIDUAL_REFRESH_EPOCHS = 1 / 16


class Batches:
    """The batches of one fit, one a call; all randomness is the generator's.

    Args:
        image: (3, H, W) in [0, 1].
        batch_pixels: Points a step, N.
        generator: On the CPU.
    """

    def __init__(self, image: Tensor, batch_pixels: int, generator: torch.Generator) -> None:
        self.image = image
        self.batch_pixels = batch_pixels
        self.generator = generator

    def __call__(self) -> tuple[Tensor, Tensor]:
        """The next step's coords (N, 2) and rgb (N, 3)."""
        raise NotImplementedError

    def observe(self, squared_errors: Tensor) -> None:
        """Is told the squared errors (N, 3) of the batch that was drawn last."""


class PixelBatches(Batches):
    """Pixels in one random permutation after the other: every epoch visits each exactly once."""

    def __init__(self, image: Tensor, batch_pixels: int, generator: torch.Generator) -> None:
        super().__init__(image, batch_pixels, generator)
        self.coords, self.rgb = image_coords(image), image_to_rgb(image)
        self.queue = torch.empty(0, dtype=torch.long)

    def __call__(self) -> tuple[Tensor, Tensor]:
        indices = self.indices().to(self.image.device)
        return self.coords[indices], self.rgb[indices]

    def indices(self) -> Tensor:
        """The next N pixels, on the CPU."""
        if len(self.queue) < self.batch_pixels:
            shuffled = torch.randperm(len(self.coords), generator=self.generator)
            self.queue = torch.cat((self.queue, shuffled))
        indices, self.queue = self.queue[: self.batch_pixels], self.queue[self.batch_pixels :]
        return indices


class ResidualBatches(PixelBatches):
    """Pixels with a chance in proportion to their residual, plus RESIDUAL_FLOOR of its mean.

    The residual of a pixel (the root of its squared error) is the one of its last visit, so that
    looking at it costs no visits of its own. Until every pixel has been visited once, pixels come
    as in PixelBatches.
    """

    def __init__(self, image: Tensor, batch_pixels: int, generator: torch.Generator) -> None:
        super().__init__(image, batch_pixels, generator)
        self.residuals = torch.zeros(len(self.coords), device=image.device)
        self.unseen = len(self.coords)

    def indices(self) -> Tensor:
        if self.unseen > 0:
            self.drawn = super().indices().to(self.image.device)
            self.unseen -= self.batch_pixels
            if self.unseen <= 0:  # the rest of the permutation is not used
                self.queue = self.drawn[:0]
        else:
            if len(self.queue) == 0:
                epoch_steps = ceil(len(self.coords) / self.batch_pixels)
                steps = max(RESIDUAL_REFRESH_STEPS, round(RESIDUAL_REFRESH_EPOCHS * epoch_steps))
                steps = min(steps, epoch_steps)
                self.queue = self._draw(steps * self.batch_pixels)
            self.drawn = self.queue[: self.batch_pixels]
            self.queue = self.queue[self.batch_pixels :]
        return self.drawn

    def observe(self, squared_errors: Tensor) -> None:
        self.residuals[self.drawn] = squared_errors.detach().sum(dim=-1).sqrt()

    def _draw(self, count: int) -> Tensor:
        # A fit that has blown up may have left residuals that are no numbers.
        weights = self.residuals.double().nan_to_num(0, 0, 0)
        # The last term is for an image that is fitted exactly.
        ends = (weights + RESIDUAL_FLOOR * weights.mean() + 1e-12).cumsum(0)
        # Evenly spaced points, so that a pixel comes as often as it should to within one time;
        # independent draws leave the fit noticeably worse.
        offset = torch.rand(1, generator=self.generator, dtype=torch.float64)
        points = ((torch.arange(count) + offset) / count).to(ends) * ends[-1]
        drawn = torch.searchsorted(ends, points).clamp_max(len(ends) - 1)
        return drawn[torch.randperm(count, generator=self.generator).to(drawn.device)]


class PointBatches(Batches):
    """Uniformly random points with bilinearly interpolated colours, as the seed experiment has."""

    def __call__(self) -> tuple[Tensor, Tensor]:
        drawn = torch.rand(self.batch_pixels, 2, generator=self.generator)
        coords = drawn.to(self.image.device) * 2 - 1
        # align_corners=False puts pixel centres where pixel_coords does
        colours = torch.nn.functional.grid_sample(
            self.image[None], coords[None, None], padding_mode="border", align_corners=False
        )
        return coords, image_to_rgb(colours[0])


SAMPLERS: dict[str, Callable[[Tensor, int, torch.Generator], Batches]] = {
    "pixels": PixelBatches,
    "points": PointBatches,
    "residual": ResidualBatches,
}


class StackedBatches:
    """The batches of B fits of images of one size, each exactly as it would be on its own.

    Args:
        images: (B, 3, H, W) in [0, 1], or one image (3, H, W) without the leading B, in which
            case the batches have none either.
        sampler: A name in SAMPLERS.
        batch_pixels: Points a step and image, N.
        seed: Of each image's own generator.
    """

    def __init__(self, images: Tensor, sampler: str, batch_pixels: int, seed: int) -> None:
        self.stacked = images.ndim == 4
        self.each = [
            SAMPLERS[sampler](image, batch_pixels, torch.Generator().manual_seed(seed))
            for image in (images if self.stacked else images[None])
        ]

    def __call__(self) -> tuple[Tensor, Tensor]:
        """The next step's coords (B, N, 2) and rgb (B, N, 3)."""
        if not self.stacked:
            return self.each[0]()
        coords, rgb = zip(*(batches() for batches in self.each), strict=True)
        return torch.stack(coords), torch.stack(rgb)

    def observe(self, squared_errors: Tensor) -> None:
        """Is told the squared errors (B, N, 3) of the batch that was drawn last."""
        for batches, errors in zip(
            self.each, squared_errors if self.stacked else squared_errors[None], strict=True
        ):
            batches.observe(errors)
