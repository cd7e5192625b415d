"""Image + fit so far -> the pixels of the next step: one row of CHOOSERS per published method.

Written from the papers' settings; none of this is the authors' code.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vjp

from hyperinit.siren.network import Params, apply, predict
from hyperinit.stepping.credit import CreditSampler
from hyperinit.stepping.samplers import PointBatches


@dataclass(frozen=True)
class View:
    """The part of a fit that a chooser sees.

    Attributes:
        image: (3, H, W) in [0, 1].
        coords: (P, 2), the centres of all pixels.
        colours: (P, 3), the target colours at these.
        params: The current parameters; changed in place.
    """

    image: Tensor
    coords: Tensor
    colours: Tensor
    params: Params

    def residuals(self) -> Tensor:
        """Signed residuals of all pixels: (P, 3)."""
        return predict(self.params, self.coords) - self.colours


class Chooser:
    """All pixels in every step: the full batch. Base class that documents what others override.

    Attributes:
        forward_visits: Pixels evaluated so far without a gradient step on them.
        needs_slopes: Whether `saw` needs the loss's derivatives with respect to coordinates.

    Args:
        view: See View.
        batch_pixels: Pixels per step, N.
        steps: Planned steps of the whole fit.
        generator: The source of all randomness.
    """

    needs_slopes = False

    def __init__(
        self, view: View, batch_pixels: int, steps: int, generator: torch.Generator
    ) -> None:
        self.view, self.batch_pixels, self.steps = view, batch_pixels, steps
        self.generator = generator
        self.forward_visits = 0

    def next(self, step: int) -> tuple[Tensor, Tensor]:
        """Coordinates (N, 2) and colours (N, 3) of step `step`, from 0."""
        indices = self.indices(step)
        return self.view.coords[indices], self.view.colours[indices]

    def indices(self, step: int) -> Tensor | slice:
        """The pixels of step `step`, row by row in the image."""
        return slice(None)

    def weights(self, residuals: Tensor) -> Tensor | None:
        """Signed residuals (N, 3) of the batch -> the weight of each pixel's loss, (N,)."""
        return None

    def saw(self, errors: Tensor, slopes: Tensor | None) -> None:
        """Receives the errors of the batch, before its step.

        Args:
            errors: (N,) mean squares over the channels, unweighted.
            slopes: (N, 2) derivatives of the mean weighted loss with respect to the coordinates,
                if `needs_slopes`.
        """

    def _random(self, among: Tensor, count: int) -> Tensor:
        """`count` of `among`, without replacement."""
        return among[torch.randperm(len(among), generator=self.generator)[:count]]


class Points(Chooser):
    """Random points between pixels, as in the seed experiment, with normalised colours."""

    def __init__(
        self, view: View, batch_pixels: int, steps: int, generator: torch.Generator
    ) -> None:
        super().__init__(view, batch_pixels, steps, generator)
        self._batches = PointBatches(view.image, batch_pixels, generator)

    def next(self, step: int) -> tuple[Tensor, Tensor]:
        return self._batches()


class Credit(Chooser):
    """Ours: see hyperinit/stepping/credit.py."""

    def __init__(
        self, view: View, batch_pixels: int, steps: int, generator: torch.Generator
    ) -> None:
        super().__init__(view, batch_pixels, steps, generator)
        cell = max(1, round(math.sqrt(len(view.coords) / batch_pixels)))
        self._sampler = CreditSampler(view.image, cell, generator, batch_pixels)

    def indices(self, step: int) -> Tensor:
        self._drawn = self._sampler.next_batch()
        return self._drawn

    def saw(self, errors: Tensor, slopes: Tensor | None) -> None:
        self._sampler.report(self._drawn, errors.sqrt())


class Evos(Chooser):
    """EVOS (arXiv 2412.10153): the pixels that were fitted worst at the last look at all of them,
    and as many random others.

    All pixels are looked at, and descended on, every 100 steps at first and every 50 in the end;
    half of a batch are the fittest (largest error), the other half is drawn among the rest
    ("mutation"). Fitness counts the squared error and the squared error of the Laplacian
    ("crossover"): pixels that are among the worst in both come first, the remaining places are
    shared in proportion to the two means, the Laplacian's times 1e-5 on colours of 0 to 255.
    Left out is the loss on the Laplacian of the first 1,500 steps, as in its own ablation.
    """

    FIRST_INTERVAL, LAST_INTERVAL = 100, 50
    MUTATION = 0.5
    LAPLACE_WEIGHT = 1e-5 * 255**2

    def next(self, step: int) -> tuple[Tensor, Tensor]:
        done = min(step / self.steps, 1.0)
        interval = round(self.FIRST_INTERVAL + (self.LAST_INTERVAL - self.FIRST_INTERVAL) * done)
        if step % interval == 0:
            self._look()
            if self.batch_pixels * 2 >= len(self.view.coords):  # as published: also descended on
                self.forward_visits -= len(self.view.coords)
                return self.view.coords, self.view.colours
        return super().next(step)

    def indices(self, step: int) -> Tensor:
        mutated = round(self.MUTATION * self.batch_pixels)
        return torch.cat((self._fittest, self._random(self._others, mutated)))

    def _look(self) -> None:
        residuals = self.view.residuals()
        self.forward_visits += len(residuals)
        count = self.batch_pixels - round(self.MUTATION * self.batch_pixels)
        errors = residuals.square().mean(-1)
        curved = self.LAPLACE_WEIGHT * self._laplacian(residuals).square().mean(-1)
        in_both = torch.zeros(len(errors), dtype=torch.long)
        by_error, by_laplace = (values.topk(count).indices for values in (errors, curved))
        in_both[by_error] += 1
        in_both[by_laplace] += 1
        both = (in_both == 2).nonzero()[:, 0]
        left = count - len(both)
        share = float(errors.mean() / (errors.mean() + curved.mean()).clamp_min(1e-30))
        plain = round(left * share)
        one = in_both == 1
        worst = by_error[one[by_error]][:plain]
        self._fittest = torch.cat((both, worst, by_laplace[one[by_laplace]][: left - plain]))
        chosen = torch.zeros(len(errors), dtype=torch.bool)
        chosen[self._fittest] = True
        self._others = (~chosen).nonzero()[:, 0]

    def _laplacian(self, values: Tensor) -> Tensor:
        """(P, 3) -> of the picture of them, with no neighbours beyond its border."""
        height, width = self.view.image.shape[-2:]
        picture = values.T.reshape(1, 3, height, width)
        padded = torch.nn.functional.pad(picture, (1, 1, 1, 1), mode="replicate")
        around = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]
        around = around + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
        return (around - 4 * picture).reshape(3, -1).T


class Nint(Chooser):
    """NINT (arXiv 2511.15487): the largest residuals times the tangent kernel, the largest
    residuals, and random pixels.

    Every step looks at all pixels. 70 % of a batch are random. Of the rest a share that is 30 %
    of the batch at first, and falls by a factor e every fifth step, has the largest |K r|, where
    K = J J^T is the tangent kernel and r the residuals; it is renewed every tenth step until it
    is below a thousandth. The remaining places have the largest absolute residuals.
    """

    RANDOM = 0.7
    KERNEL, KERNEL_STEPS, KERNEL_DECAY, LEAST_KERNEL = 0.3, 10, 0.2, 1e-3

    _kernel: Tensor  # pixels with the largest scores, at the last look

    def indices(self, step: int) -> Tensor:
        residuals = self.view.residuals()
        self.forward_visits += len(residuals)
        looks = step + 1
        if step == 0 or (looks % self.KERNEL_STEPS == 0 and len(self._kernel)):
            share = self.KERNEL * math.exp(-math.ceil(self.KERNEL_DECAY * looks))
            count = round(share * self.batch_pixels) if share >= self.LEAST_KERNEL else 0
            self._kernel = torch.empty(0, dtype=torch.long)
            if count:
                self._kernel = self._kernel_scores(residuals).topk(count).indices
                self.forward_visits += 2 * len(residuals)
        free = torch.ones(len(residuals), dtype=torch.bool)
        free[self._kernel] = False
        count = round((1 - self.RANDOM) * self.batch_pixels) - len(self._kernel)
        sizes = torch.where(free, residuals.abs().sum(-1), -1.0)
        worst = sizes.topk(max(count, 0)).indices
        free[worst] = False
        drawn = self._random(
            free.nonzero()[:, 0], self.batch_pixels - len(worst) - len(self._kernel)
        )
        return torch.cat((self._kernel, worst, drawn))

    def _kernel_scores(self, residuals: Tensor) -> Tensor:
        """|J J^T r|^2 of every pixel: (P,)."""
        config, coords = self.view.params.config, self.view.coords

        def show(tensors: dict[str, Tensor]) -> Tensor:
            return apply(Params(config, tensors), coords)

        tensors = {name: value.clone() for name, value in self.view.params.items()}
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about what it imports itself
            _, pull = vjp(show, tensors)  # type: ignore[misc]
            (direction,) = pull(residuals)
            _, moved = jvp(show, (tensors,), (direction,))  # type: ignore[misc]
        return moved.detach().square().sum(-1)


class SoftMining(Chooser):
    """Soft mining (arXiv 2312.00075): samples that climb towards the error by Langevin steps, and
    a loss that is divided by a power of the chance that they are there.

    The published numbers: drift 20 times the slope of the mean log loss by coordinates in [0, 1],
    noise of 0.02, softness 0.6 reached over the first 600 of 1,000 steps of a ramp; every step a
    tenth of the samples is uniform, and the tenth with the smallest loss, with all that left the
    image, is drawn again where the image has edges. Samples are moved to the nearest pixel.
    """

    needs_slopes = True
    DRIFT, NOISE = 20.0, 0.02
    SOFTNESS, RAMP_STEPS = 0.6, 1000
    UNIFORM = RENEWED = 0.1
    LEAST_WEIGHT = 0.2

    def __init__(
        self, view: View, batch_pixels: int, steps: int, generator: torch.Generator
    ) -> None:
        super().__init__(view, batch_pixels, steps, generator)
        self._edges = edges(view.image).cumsum(0)
        height, width = view.image.shape[-2:]
        self._size = torch.tensor((width, height))
        self._places = torch.rand(batch_pixels, 2, generator=generator)  # x, y in [0, 1)
        self._step = 0

    def indices(self, step: int) -> Tensor:
        self._step = step
        x, y = (self._places * self._size).long().minimum(self._size - 1).unbind(-1)
        return y * int(self._size[0]) + x

    def weights(self, residuals: Tensor) -> Tensor:
        softness = min((self._step + 1) / self.RAMP_STEPS, self.SOFTNESS)
        found: Tensor = residuals.abs().mean(-1).clamp_min(1e-3).pow(-softness)
        most = max(float(found.mean() + found.std()), self.LEAST_WEIGHT)
        self._weights = found.clamp(self.LEAST_WEIGHT, most)
        return self._weights

    def saw(self, errors: Tensor, slopes: Tensor | None) -> None:
        assert slopes is not None
        losses = errors * self._weights
        # A coordinate runs over two units where a place runs over one.
        climb = 2 * slopes / (losses[:, None] + 1e-7)
        noise = torch.randn(self._places.shape, generator=self.generator)
        places = self._places + self.DRIFT * climb + self.NOISE * noise
        uniform = round(self.UNIFORM * len(places))
        places[-uniform:] = torch.rand(uniform, 2, generator=self.generator)
        renewed = ((places < 0) | (places >= 1) | ~places.isfinite()).any(-1)
        renewed[losses.topk(round(self.RENEWED * len(places)), largest=False).indices] = True
        points = torch.rand(int(renewed.sum()), generator=self.generator) * self._edges[-1]
        pixels = torch.searchsorted(self._edges, points).clamp_max(len(self._edges) - 1)
        width = int(self._size[0])
        at = torch.stack((pixels % width, pixels // width), -1)
        places[renewed] = (at + 0.5) / self._size
        self._places = places


class Expansive(Chooser):
    """Expansive supervision (arXiv 2409.08056), as EVOS compares with it on images: half of a
    batch are the pixels on edges, always the same; the other half is drawn among the rest.

    The published edges are a Canny filter's, its threshold moved until they are as many as
    wanted; here they are the pixels with the largest gradient, which needs no search.
    """

    EDGES = 0.5

    def __init__(
        self, view: View, batch_pixels: int, steps: int, generator: torch.Generator
    ) -> None:
        super().__init__(view, batch_pixels, steps, generator)
        order = edges(view.image).argsort(descending=True)
        count = round(self.EDGES * batch_pixels)
        self._edges, self._others = order[:count], order[count:]

    def indices(self, step: int) -> Tensor:
        drawn = self._random(self._others, self.batch_pixels - len(self._edges))
        return torch.cat((self._edges, drawn))


def edges(image: Tensor) -> Tensor:
    """(3, H, W) -> size of the gradient of the grey image by Sobel's filter, (H * W,), > 0."""
    grey = image.mean(0)[None, None]
    grey = torch.nn.functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    filter_x = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    filters = torch.stack((filter_x, filter_x.T))[:, None]
    slopes = torch.nn.functional.conv2d(grey, filters)
    return slopes.square().sum(1).sqrt().flatten() + 1e-6


CHOOSERS: dict[str, Callable[[View, int, int, torch.Generator], Chooser]] = {
    "all": Chooser,
    "points": Points,
    "credit": Credit,
    "evos": Evos,
    "nint": Nint,
    "soft-mining": SoftMining,
    "expansive": Expansive,
}
