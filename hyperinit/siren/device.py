"""Which device a computation runs on, and with how many threads."""

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

# Multiply-adds of one layer's product per thread. With less work, another thread costs more than it
# saves, and far more if other processes want the core.
THREAD_WORK = 2**25


def choose_device(name: str = "auto") -> torch.device:
    """A device name as typed -> a device that works here.

    Args:
        name: "cpu", "cuda", "mps" or another name that torch knows ("cuda:1"); "auto" is the GPU
            if there is one, else the CPU.

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
            f"--device {name} cannot be used ({reason}); give one of {DEVICE_HELP}"
        ) from error
    if device.type == "meta":
        raise InputError(f"--device {name} cannot hold data; give one of {DEVICE_HELP}")
    return device


def free_bytes(device: torch.device) -> int | None:
    """Bytes of a CUDA device that are free or in torch's cache; None for other devices."""
    if device.type != "cuda":
        return None
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + reserve


def cpuinfo(field: str) -> str:
    """A field of /proc/cpuinfo for the first processor; "" if there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return ""


@functools.cache
def has_bfloat16_units() -> bool:
    """Whether this processor has units for bfloat16 products, which are then four times as fast.

    Judged by its own flags, because a timing would depend on other work on the machine.
    """
    units = {"avx512_bf16", "amx_bf16"}
    return torch.backends.mkldnn.is_available() and not units.isdisjoint(cpuinfo("flags").split())


@functools.cache
def onednn_linear() -> Linear | None:
    """oneDNN's float32 product of a layer, without gradients; None where it is not faster.

    torch uses MKL, which is less than half as fast on AMD processors. The operator is an internal
    one of torch.compile and may disappear; then only this gain is lost.
    """
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if linear is None or cpuinfo("vendor_id") != "AuthenticAMD":
        return None
    return lambda x, weight, bias: linear(x, weight, bias, "none", [], "")


@contextlib.contextmanager
def fast_products(device: torch.device, *, allowed: bool = True) -> Iterator[None]:
    """Inside the block float32 matrix products may use TF32, on GPUs that have units for it.

    TF32 has ten mantissa bits: enough for training, whose noise is larger, but never used in a
    measured fit.
    """
    with products_of("high" if allowed and device.type == "cuda" else "highest"):
        yield


def choose_threads(asked: int | None, work: float) -> int:
    """The number of threads for products of `work` multiply-adds each.

    Args:
        asked: The user's choice; None lets the work decide, up to torch's own number.
        work: Pixels of a step * width^2.

    Raises:
        InputError: `asked` is below 1 or absurdly large.
    """
    if asked is not None:
        if not 1 <= asked <= 1024:
            raise InputError(f"--threads must be at least 1 and at most 1024, not {asked}")
        return asked
    return max(1, min(torch.get_num_threads(), int(work / THREAD_WORK)))


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Inside the block torch computes on `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
