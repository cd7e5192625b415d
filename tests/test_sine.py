"""The polynomial sine of compiled fits is a sine, and its derivative a cosine."""

from __future__ import annotations

import pytest
import torch

from hyperinit.siren.sine import fast_sin


def test_it_is_the_sine_and_its_gradient_the_cosine() -> None:
    x = torch.linspace(-60, 60, 100_001, requires_grad=True)
    value = fast_sin(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    exact = x.detach().double()
    assert float((value.detach() - exact.sin()).abs().max()) < 1e-5  # |x| 60 is known to 4e-6
    assert float((gradient - exact.cos()).abs().max()) < 1e-5
    near = exact.abs() < 3
    assert float((value.detach() - exact.sin()).abs()[near].max()) < 5e-7
    assert float((gradient - exact.cos()).abs()[near].max()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    x = torch.linspace(-10, 10, 1001, dtype=dtype)
    assert fast_sin(x).dtype == dtype
    torch.testing.assert_close(
        fast_sin(x), x.sin(), atol=1e-2 if dtype.itemsize < 4 else 1e-6, rtol=0
    )
