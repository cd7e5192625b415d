"""Sines are sines, whoever makes them, and their derivatives cosines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyperinit.siren.device import on_threads
from hyperinit.siren.sine import fast_sin, sin_, sin_and_cos


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


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sines_in_place_are_those_of_torch(threads: int, dtype: torch.dtype) -> None:
    x = torch.cat((torch.linspace(-100, 100, 999), torch.tensor([3e5, -0.0]))).to(dtype)
    with on_threads(threads):
        torch.testing.assert_close(sin_(x.clone()), x.sin())
        for cosine in (torch.empty_like(x), torch.empty_like(x, dtype=torch.bfloat16), None):
            sine = torch.empty_like(x)
            sin_and_cos(x.clone(), sine, cosine)
            torch.testing.assert_close(sine, x.sin())
            if cosine is not None:
                torch.testing.assert_close(cosine, x.cos().to(cosine.dtype))
        sine, angle = torch.empty_like(x), x.clone()
        sin_and_cos(angle, sine, angle)
        torch.testing.assert_close(angle, x.cos())


@pytest.mark.filterwarnings("error")
def test_a_fit_that_has_blown_up_warns_of_nothing() -> None:
    x = torch.tensor([float("inf"), float("nan"), 1.0])
    sine, cosine = torch.empty(3), torch.empty(3)
    sin_and_cos(x.clone(), sine, cosine)
    for values in (sin_(x.clone()), sine, cosine):
        assert values.isnan().tolist() == [True, True, False]


def test_what_numpy_is_told_to_raise_is_not_raised_by_a_sine() -> None:
    x = torch.tensor([1e-40, float("inf"), 1.0])
    sine, cosine = torch.empty(3), torch.empty(3)
    with np.errstate(all="raise"):
        sin_and_cos(x.clone(), sine, cosine)
        torch.testing.assert_close(sin_(x.clone()), x.sin(), equal_nan=True)
    torch.testing.assert_close(sine, x.sin(), equal_nan=True)
    torch.testing.assert_close(cosine, x.cos(), equal_nan=True)


@pytest.mark.filterwarnings("ignore")  # torch.func itself uses torch.jit, which is deprecated
def test_a_sine_inside_a_transform_of_torch_func_is_torchs() -> None:
    x = torch.linspace(-3, 3, 12).reshape(3, 4)
    torch.testing.assert_close(torch.vmap(lambda part: sin_(part * 2))(x), (x * 2).sin())
    shown, slope = torch.func.jvp(lambda y: sin_(y * 2), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(shown, (x * 2).sin())
    torch.testing.assert_close(slope, 2 * (x * 2).cos())


@pytest.mark.filterwarnings("ignore")  # as above
def test_a_recorded_sine_is_no_constant() -> None:
    x = torch.linspace(-3, 3, 12)
    recorded = torch.jit.trace(lambda y: sin_(y * 1), (x,))
    torch.testing.assert_close(recorded(x + 1), (x + 1).sin())
