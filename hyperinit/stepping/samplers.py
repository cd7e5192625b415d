"""Image -> the points that each step of a fit sees; `SAMPLERS` has one entry per method."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor
from torch.nn.functional import pad

from hyperinit.images.coords import image_coords, image_to_rgb

# For "residual": the weight of a perfectly fitted pixel, relative to the mean residual.
RESIDUAL_FLOOR = 0.3
# Steps between two looks at all residuals. More for large images, where a look costs most, but at
# most an epoch.
RESIDUAL_REFRESH_STEPS = 20
RESIDUAL_REFRESH_EPOCHS = 1 / 16


class Batches:
    """The batches of one fit, or of B fits of images of one size; one batch per call.

    All randomness comes from the generator and does not depend on the images, so each of B images
    gets the batches that it would get on its own.

    Args:
        image: (..., 3, H, W) in [0, 1], or a signal (..., C, *sides) in [-1, 1]; "..." is nothing
            or B.
        batch_pixels: Points per step and image, N.
        generator: On the CPU.
        dims: Dimensions of the grid, D.
    """

    def __init__(
        self, image: Tensor, batch_pixels: int, generator: torch.Generator, dims: int = 2
    ) -> None:
        self.image, self.dims = image, dims
        self.batch_pixels = batch_pixels
        self.generator = generator

    def __call__(self) -> tuple[Tensor, Tensor]:
        """The next step's coords, (N, D) for all images or (B, N, D), and rgb (..., N, C)."""
        raise NotImplementedError

    def observe(self, squared_errors: Tensor) -> None:
        """Receives the squared errors (..., N, C), or (..., N, 1), of the last batch."""


class PixelBatches(Batches):
    """Pixels in one random permutation after another: every epoch visits each exactly once."""

    def __init__(
        self, image: Tensor, batch_pixels: int, generator: torch.Generator, dims: int = 2
    ) -> None:
        super().__init__(image, batch_pixels, generator, dims)
        self.coords, self.rgb = image_coords(image, dims), image_to_rgb(image, dims)
        self.queue = torch.empty(0, dtype=torch.long, device=image.device)

    def __call__(self) -> tuple[Tensor, Tensor]:
        if len(self.queue) < self.batch_pixels:
            shuffled = torch.randperm(len(self.coords), generator=self.generator)
            self.queue = torch.cat((self.queue, shuffled.to(self.queue.device)))
        # (N,), or (..., N) if images differ
        self.drawn, self.queue = self.queue.tensor_split([self.batch_pixels])
        return self.coords[self.drawn], self.rgb[..., self.drawn, :]


class ResidualBatches(PixelBatches):
    """Pixels with probability proportional to their residual plus RESIDUAL_FLOOR of its mean.

    A pixel's residual (the root of its squared error) is that of its last visit, so it costs no
    extra visits. Until every pixel has been visited once, pixels come as in PixelBatches.
    """

    def __init__(
        self, image: Tensor, batch_pixels: int, generator: torch.Generator, dims: int = 2
    ) -> None:
        super().__init__(image, batch_pixels, generator, dims)
        self.residuals = torch.zeros(self.rgb.shape[:-1], device=image.device)
        self.unseen = len(self.coords)
        self.planned: list[tuple[Tensor, Tensor, Tensor]] = []  # of the next steps, last one first

    def __call__(self) -> tuple[Tensor, Tensor]:
        if self.unseen > 0:
            self.unseen -= self.batch_pixels
            return super().__call__()
        if not self.planned:
            self.planned = self._plan()
        self.drawn, coords, rgb = self.planned.pop()
        return coords, rgb

    def observe(self, squared_errors: Tensor) -> None:
        residuals = squared_errors.detach().sum(dim=-1).sqrt()
        self.residuals.scatter_(-1, self.drawn.expand_as(residuals), residuals)

    def _plan(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Pixels (..., N), coords and rgb of the steps until the next look at the residuals."""
        epoch_steps = ceil(len(self.coords) / self.batch_pixels)
        steps = max(RESIDUAL_REFRESH_STEPS, round(RESIDUAL_REFRESH_EPOCHS * epoch_steps))
        drawn = self._draw(min(steps, epoch_steps) * self.batch_pixels)
        rgb = self.rgb.gather(-2, drawn[..., None].expand(*drawn.shape, self.rgb.shape[-1]))
        parts = (
            drawn.split(self.batch_pixels, -1),
            self.coords[drawn].split(self.batch_pixels, -2),
        )
        return [*zip(*parts, rgb.split(self.batch_pixels, -2), strict=True)][::-1]

    def _draw(self, count: int) -> Tensor:
        # A fit that has diverged may have left residuals that are NaN.
        exact = torch.float32 if self.residuals.device.type == "mps" else torch.float64
        weights = self.residuals.to(exact).nan_to_num(0, 0, 0)
        # The last term is for an image that is fitted exactly: all residuals are 0.
        ends = (weights + RESIDUAL_FLOOR * weights.mean(-1, keepdim=True) + 1e-12).cumsum(-1)
        # Evenly spaced points (systematic sampling): a pixel's count is within one of its expected
        # value. Independent draws make the fit noticeably worse.
        offset = torch.rand(1, generator=self.generator, dtype=torch.float64)
        points = ((torch.arange(count) + offset) / count).to(ends, non_blocking=True)
        points = points * ends[..., -1:]
        drawn = torch.searchsorted(ends, points).clamp_max(len(self.coords) - 1)
        order = torch.randperm(count, generator=self.generator)
        return drawn[..., order.to(drawn.device, non_blocking=True)]


class PointBatches(Batches):
    """Uniformly random points with bilinearly interpolated colours, as in the seed experiment."""

    def __call__(self) -> tuple[Tensor, Tensor]:
        drawn = torch.rand(self.batch_pixels, self.dims, generator=self.generator)
        coords = drawn.to(self.image.device, non_blocking=True) * 2 - 1
        # B images are one with 3 B channels; sound is one with a single row
        stacked = self.image.flatten(end_dim=-self.dims - 1)[None]
        points = coords.view(*[1] * self.dims, *coords.shape)
        if self.dims == 1:
            stacked, points = stacked.unsqueeze(-2), pad(points, (0, 1))[None]
        # align_corners=False puts pixel centres where pixel_coords does
        colours = torch.nn.functional.grid_sample(
            stacked,
            points,
            padding_mode="border",
            align_corners=False,
        )
        ones = [1] * (self.dims - 1)
        drawn_image = colours.reshape(*self.image.shape[: -self.dims], *ones, -1)
        return coords, image_to_rgb(drawn_image, self.dims)


SAMPLERS: dict[str, Callable[[Tensor, int, torch.Generator, int], Batches]] = {
    "pixels": PixelBatches,
    "points": PointBatches,
    "residual": ResidualBatches,
}
