"""A sine made of multiplications and additions, for compiled fits.

A step of a SIREN takes millions of sines and cosines. The vector sine of a C library keeps full
relative precision for every argument and costs a third of a step in bfloat16; a polynomial that a
compiler can fuse with what comes before and after it costs next to nothing, and its error is that
of float32 itself.
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

# pi in two parts, the first with so few bits that small multiples of it are exact in float32.
_PI_HIGH = 3.140625
_PI_LOW = pi - _PI_HIGH

# sin(r) / r - 1 in powers of r^2, by least squares at Chebyshev points of [-pi/2, pi/2]: the sine
# is then right to 5e-9 and its derivative to 4e-7, before rounding.
_COEFFICIENTS = (
    -0.16666656731361065,
    0.008333010326027561,
    -0.00019806202009698458,
    2.599278194865842e-06,
)


def fast_sin(x: Tensor) -> Tensor:
    """sin(x) to about 2e-7, of any |x| up to some thousands; the dtype of `x` is kept."""
    exact = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    turns = torch.round(exact / pi).detach()  # half turns: sin(r + k pi) = (-1)^k sin(r)
    r = exact - turns * _PI_HIGH - turns * _PI_LOW
    square = r * r
    series = square * _COEFFICIENTS[-1]
    for coefficient in _COEFFICIENTS[-2::-1]:
        series = (series + coefficient) * square
    sign = 1 - 2 * (turns - 2 * torch.floor(turns / 2))
    return (sign * (r + r * series)).to(x.dtype)
