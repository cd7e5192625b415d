"""Image features + where the fits of the images ended -> the correction of a linear start.

Recursive least squares: after each batch of fits, theta(x) = theta_0 + z(x) A is the ridge
regression of the end points of all fits so far on the features z of their images. With a limited
memory, older fits count less, because they began from worse starts.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Ridge, as a share of the features' mean second moment: more holds back what can be learned, less
# lets noise in (docs/research-log.md 49). With few images for the number of features, it is
# FEW_RIDGE * features / images (52) if that is more.
RIDGE, FEW_RIDGE = 0.03, 0.45


def with_one(read: Tensor) -> Tensor:
    """Features (B, n) with a one appended, for theta_0: (B, n + 1)."""
    return torch.cat([read, read.new_ones(len(read), 1)], dim=1)


def gains(moments: Tensor, images: int, read: Tensor, memory_images: int) -> Tensor:
    """The factors by which the displacements of a batch of fits correct [A, theta_0].

    Args:
        moments: Sum of the outer products of `with_one` of all images so far, including this batch,
            (n + 1, n + 1).
        images: Number of images in that sum.
        read: `with_one` of the images whose fits have ended, (B, n + 1).
        memory_images: Number of images after which older ones count less.

    Returns:
        (B, n + 1): [A, theta_0] += gains.T @ displacements (B, parameters).
    """
    mean = moments.double() / images
    numbers = len(mean) - 1
    ridge = torch.full_like(mean.diagonal(), max(RIDGE, FEW_RIDGE * numbers / images))
    ridge *= mean.diagonal()[:-1].mean() if numbers else 0
    ridge[-1] = 0  # theta_0 itself needs no ridge
    solved: Tensor = torch.linalg.solve(mean + ridge.diag(), read.double().T).T
    return (solved / min(images, memory_images)).to(read)
