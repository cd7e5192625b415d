"""What was read of images + where their fits led -> how a linear start is to be corrected.

Recursive least squares: theta(x) = theta_0 + z(x) A is, after each batch of fits, the ridge
regression of where all fits so far ended on what was read of their images. With a limited memory
older fits, which began from starts that were not as good, count less.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Of the mean second moment of what is read: more holds back what can be learned, less lets noise
# in (docs/research-log.md 49). While there are few images for the numbers that are read, more:
# FEW_RIDGE * numbers / images (52).
RIDGE, FEW_RIDGE = 0.03, 0.45


def with_one(read: Tensor) -> Tensor:
    """What is read (B, n), and a one for theta_0: (B, n + 1)."""
    return torch.cat([read, read.new_ones(len(read), 1)], dim=1)


def gains(moments: Tensor, images: int, read: Tensor, memory_images: int) -> Tensor:
    """What the displacement of each fit is multiplied by to correct [A, theta_0].

    Args:
        moments: Sum of the outer products of `with_one` of all images so far, these included,
            (n + 1, n + 1).
        images: How many these are.
        read: `with_one` of the images whose fits have ended, (B, n + 1).
        memory_images: After how many images an older one counts for less.

    Returns:
        (B, n + 1): [A, theta_0] += gains.T @ displacements (B, parameters).
    """
    mean = moments.double() / images
    numbers = len(mean) - 1
    ridge = torch.full_like(mean.diagonal(), max(RIDGE, FEW_RIDGE * numbers / images))
    ridge *= mean.diagonal()[:-1].mean() if numbers else 0
    ridge[-1] = 0  # theta_0 itself needs no holding back
    solved: Tensor = torch.linalg.solve(mean + ridge.diag(), read.double().T).T
    return (solved / min(images, memory_images)).to(read)
