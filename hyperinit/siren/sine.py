"""Sines that are faster than torch's and accurate to float32.

A step of a SIREN takes millions of sines and cosines, a third of its time. On one thread NumPy's
are two to three times as fast (docs/research-log.md 101). In a compiled fit, a polynomial that the
compiler fuses with the surrounding operations costs next to nothing.
"""

from __future__ import annotations

from math import pi
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Up to this many threads NumPy, which uses one, is faster than torch, which uses all of them.
NUMPY_THREADS = 2

# pi in two parts; the first has so few bits that small multiples of it are exact in float32.
_PI_HIGH = 3.140625
_PI_LOW = pi - _PI_HIGH

# sin(r) / r - 1 in powers of r^2, by least squares at Chebyshev points of [-pi/2, pi/2]. Before
# rounding, the sine is accurate to 5e-9 and its derivative to 4e-7.
_COEFFICIENTS = (
    -0.16666656731361065,
    0.008333010326027561,
    -0.00019806202009698458,
    2.599278194865842e-06,
)


def fast_sin(x: Tensor) -> Tensor:
    """sin(x), accurate to about 2e-7 for |x| up to some thousands; keeps the dtype of `x`."""
    exact = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    turns = torch.round(exact / pi).detach()  # half turns: sin(r + k pi) = (-1)^k sin(r)
    r = exact - turns * _PI_HIGH - turns * _PI_LOW
    square = r * r
    series = square * _COEFFICIENTS[-1]
    for coefficient in _COEFFICIENTS[-2::-1]:
        series = (series + coefficient) * square
    sign = 1 - 2 * (turns - 2 * torch.floor(turns / 2))
    return (sign * (r + r * series)).to(x.dtype)


def _for_numpy(x: Tensor) -> Any:
    """The same memory as a NumPy array if NumPy's sines are the better choice; else None."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and type(x) is Tensor
    # torch.jit tracing would record NumPy's results as constants.
    if not plain or torch.get_num_threads() > NUMPY_THREADS or torch.jit.is_tracing():
        return None
    try:
        return x.numpy()
    except RuntimeError:  # inside torch.func, whose tensors have no memory of their own
        return None


def sin_(x: Tensor) -> Tensor:
    """Computes sin(x) in place, without gradients."""
    values = _for_numpy(x)
    if values is None:
        return torch.sin_(x)
    with np.errstate(all="ignore"):  # like torch, whatever the process has set
        np.sin(values, out=values)
    return x


def sin_and_cos(x: Tensor, sine: Tensor, cosine: Tensor | None) -> None:
    """Fills `sine` with sin(x) and, unless it is None, `cosine` with cos(x), in its own dtype.

    Overwrites x, which may be `cosine` itself.
    """
    values = _for_numpy(x)
    if values is None:
        torch.sin(x, out=sine)
        if cosine is not None:
            torch.cos(x, out=cosine)
        return
    with np.errstate(all="ignore"):
        np.sin(values, out=sine.numpy())
        if cosine is not None:
            np.cos(values, out=values)
    if cosine is not None and cosine is not x:
        cosine.copy_(x)
