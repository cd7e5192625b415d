"""A kind of noise and a generator -> pictures that are not photographs, for SNP's pretraining.

All are (count, 3, size, size) in [0, 1]. Each cites what SNP (arXiv 2603.29034) says about it. We
have not read its code, so ranges that the paper does not give are ours, and marked as such.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def uniform(count: int, size: int, generator: torch.Generator, power: float = 0.0) -> Tensor:
    """Every value U(0, 1)."""
    return torch.rand(count, 3, size, size, generator=generator)


def gaussian(count: int, size: int, generator: torch.Generator, power: float = 0.0) -> Tensor:
    """Every value N(0.5, 0.2), clipped to [0, 1] like all images here (this affects 1 in 80)."""
    return (0.5 + 0.2 * torch.randn(count, 3, size, size, generator=generator)).clamp(0, 1)


def spectrum(count: int, size: int, generator: torch.Generator, power: float = 1.0) -> Tensor:
    """Amplitude 1/f^power with random phases, independent for each channel.

    Normal noise is filtered, then every picture is stretched to [0, 1] as a whole, because clipping
    would change the spectrum.
    """
    white = torch.fft.rfft2(torch.randn(count, 3, size, size, generator=generator))
    down, across = torch.fft.fftfreq(size), torch.fft.rfftfreq(size)
    radius = (down[:, None].square() + across.square()).sqrt()
    radius[0, 0] = 1.0
    gain = radius**-power
    gain[0, 0] = 0.0  # no mean, which the stretch sets
    pictures = torch.fft.irfft2(white * gain, s=(size, size))
    low, high = (
        pictures.amin(dim=(1, 2, 3), keepdim=True),
        pictures.amax(dim=(1, 2, 3), keepdim=True),
    )
    return (pictures - low) / (high - low)


def dead_leaves(count: int, size: int, generator: torch.Generator, power: float = 3.0) -> Tensor:
    """Opaque discs of random colours, radii distributed as r^-power, until all is covered.

    Power 3 is scale-invariant (Lee, Mumford and Huang 2001). Radii from size / 50 to size / 2 are
    ours.
    """
    return torch.stack([_dead_leaves(size, generator, power) for _ in range(count)])


def _dead_leaves(size: int, generator: torch.Generator, power: float) -> Tensor:
    index = torch.arange(size, dtype=torch.float32) + 0.5
    picture, bare = torch.zeros(3, size, size), torch.ones(size, size, dtype=torch.bool)
    smallest, largest = size / 50, size / 2
    exponent = 1 - power if power != 1 else -1e-6
    a, b = smallest**exponent, largest**exponent
    while bare.any():  # from front to back: covered pixels do not change
        x, y, r, *colour = torch.rand(6, generator=generator).tolist()
        radius = (a + (b - a) * r) ** (1 / exponent)
        # Centres also lie outside; otherwise the border would be covered less than the middle.
        x, y = (-largest + z * (size + 2 * largest) for z in (x, y))
        new = bare & ((index[:, None] - y).square() + (index - x).square() <= radius**2)
        picture[:, new] = torch.tensor(colour)[:, None]
        bare &= ~new
    return picture


# Name -> (count, size, generator, power) -> pictures.
NOISES: dict[str, Callable[[int, int, torch.Generator, float], Tensor]] = {
    "uniform": uniform,
    "gaussian": gaussian,
    "spectrum": spectrum,
    "dead-leaves": dead_leaves,
}
