"""Where a computation runs, and on how many threads."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.siren.ambient import products_of

# x (..., in), weight (out, in), bias (out,) -> x W^T + b
Linear: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]

DEVICE_HELP = "auto, cpu, cuda or mps"

# Multiply-adds of one layer's product that pay for one more thread. Below, handing work to a second
# thread costs more than it saves, and far more where other processes want the core.
THREAD_WORK = 2**25


def choose_device(name: str = "auto") -> torch.device:
    """What a user types -> a device that works here.

    Args:
        name: "cpu", "cuda", "mps" or another name that torch knows ("cuda:1"); "auto" is the GPU
            where there is one, else the CPU.

    Raises:
        InputError: there is no such device, or it cannot be used.
    """
    if name == "auto":
        mps = getattr(torch.backends, "mps", None)
        usable = (
            "cuda" if torch.cuda.is_available() else "mps" if mps and mps.is_available() else ""
        )
        return torch.device(usable or "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--device {name} cannot be used ({reason}): give one of {DEVICE_HELP}"
        ) from error
    if device.type == "meta":
        raise InputError(f"--device {name} holds no numbers: give one of {DEVICE_HELP}")
    return device


def free_bytes(device: torch.device) -> int | None:
    """Memory of a CUDA device that is free or held in reserve; None for other devices."""
    if device.type != "cuda":
        return None
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + reserve


def cpuinfo(field: str) -> str:
    """What Linux says of its first processor; "" where nothing is said."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return ""


@functools.cache
def has_bfloat16_units() -> bool:
    """Whether this processor has units for products in bfloat16, which are then four times as fast.

    By what it says of itself: a timing would say another thing beside other work.
    """
    units = {"avx512_bf16", "amx_bf16"}
    return torch.backends.mkldnn.is_available() and not units.isdisjoint(cpuinfo("flags").split())


@functools.cache
def onednn_linear() -> Linear | None:
    """The products of a layer in float32, without gradients, by oneDNN; None: there is no need.

    torch takes MKL, which on AMD's processors is less than half as fast. The operator is what its
    compiler calls, and may go: then nothing is lost but that.
    """
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if linear is None or cpuinfo("vendor_id") != "AuthenticAMD":
        return None
    return lambda x, weight, bias: linear(x, weight, bias, "none", [], "")


@contextlib.contextmanager
def fast_products(device: torch.device, *, allowed: bool = True) -> Iterator[None]:
    """Inside the block matrix products of float32 may take TF32, where a GPU has units for it.

    Ten bits of mantissa: for training, whose noise is larger, and never for a measured fit.
    """
    with products_of("high" if allowed and device.type == "cuda" else "highest"):
        yield


def choose_threads(asked: int | None, work: float) -> int:
    """Threads for products of so many multiply-adds each.

    Args:
        asked: What the user typed; None lets the work decide, up to torch's own number.
        work: Pixels of a step * width^2.

    Raises:
        InputError: `asked` is below 1 or absurd.
    """
    if asked is not None:
        if not 1 <= asked <= 1024:
            raise InputError(f"--threads must be at least 1 and at most 1024, not {asked}")
        return asked
    return max(1, min(torch.get_num_threads(), int(work / THREAD_WORK)))


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Inside the block torch computes on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
