"""A GPU that is only pretended: every tensor knows whether it would be there.

All numbers are in the CPU's memory and all arithmetic is the CPU's, so whole fits run. But what is
made for "cuda", or comes of what is there, says that it is there; and what would go wrong on a GPU
goes wrong: operations on tensors of two devices, numbers drawn there by a generator of the CPU's,
memory that is looked at without a copy. Where the host would wait for the device is counted. Graphs
are recorded operation by operation, and do only what was recorded: what depended on Python then
does no more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda", 0)

_aten = torch.ops.aten
_COPIES = {_aten.copy_, _aten._to_copy, _aten._foreach_copy_, _aten.set_}
_READS = {_aten._local_scalar_dense, _aten.nonzero, _aten.masked_select, _aten.equal}
_LOOKS = {Tensor.numpy, Tensor.__array__}
_MOVES = {Tensor.to, Tensor.cpu, Tensor.cuda}
_DEVICE, _IS_CUDA, _GRAD = (getattr(Tensor, n).__get__ for n in ("device", "is_cuda", "grad"))


def tensors_of(*nested: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, Tensor)]


def storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Gpu:
    """Which tensors are there, and what has been asked of it.

    Attributes:
        waits: How often the host has waited for the device.
        made: How many tensors were made there.
        graphs: How many functions have been captured.
        replays: How often one was replayed.
        bytes: Of its memory.
        here: Whether what is made from nothing is made there.
        copies_there: Whether copies go there; None: to where the original is.
    """

    def __init__(self) -> None:
        self.waits = self.made = self.graphs = self.replays = 0
        self.bytes = 2**33
        self.here = False
        self.copies_there: bool | None = None
        self._there: dict[int, StorageWeakRef] = {}  # none of these addresses is used again

    def holds(self, tensor: Tensor) -> bool:
        return storage_of(tensor) in self._there

    def take(self, made: Any) -> None:
        for tensor in tensors_of(made):
            self.made += 1
            storage = tensor.untyped_storage()
            self._there.setdefault(storage._cdata, StorageWeakRef(storage))
        if len(self._there) > 20_000:
            self._there = {k: ref for k, ref in self._there.items() if not ref.expired()}


class _Operations(TorchDispatchMode):
    """Every operation, those of gradients included: what may meet, and where results are."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, given = self.gpu, tensors_of(args, kwargs)
        there = [tensor for tensor in given if gpu.holds(tensor)]
        packet = func.overloadpacket
        if packet in _COPIES:
            if 0 < len(there) < len(given) and not (kwargs or {}).get("non_blocking"):
                gpu.waits += 1
        elif there and len(there) < len(given):
            raise AssertionError(f"{func}: tensors of two devices, {[t.shape for t in given]}")
        if there and (kwargs or {}).get("generator") is not None:
            raise AssertionError(f"{func}: a generator of the CPU's for a tensor that is not there")
        by_mask = packet in (_aten.index, _aten.index_put_) and any(
            tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors_of(args[1])
        )
        if there and (packet in _READS or by_mask):
            gpu.waits += 1
        result = func(*args, **(kwargs or {}))
        is_there = bool(there) if given else gpu.here
        if packet is _aten._to_copy and gpu.copies_there is not None:
            is_there = gpu.copies_there
        if is_there:
            old = {storage_of(tensor) for tensor in given}
            gpu.take([t for t in tensors_of(result) if storage_of(t) not in old])
        return result


class _Functions(TorchFunctionMode):
    """What Python asks: devices by name, `.device`, copies, and looks at memory."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs = self.gpu, dict(kwargs or {})
        if func in (_DEVICE, _IS_CUDA) and gpu.holds(args[0]):
            return CUDA if func == _DEVICE else True
        if func in _MOVES:
            return self._move(func, args, kwargs)
        there = any(gpu.holds(tensor) for tensor in tensors_of(args, kwargs))
        if there and func in _LOOKS:
            raise AssertionError(f"{func}: of a tensor that is on the GPU")
        if there and func is Tensor.tolist:
            gpu.waits += 1
        device = kwargs.get("device")
        if device is not None:
            there = torch.device(device).type == "cuda"
            kwargs["device"] = "cpu" if there else device
            if there and kwargs.get("generator") is not None:
                raise AssertionError(f"{func}: a generator of the CPU's for a tensor on the GPU")
        before, gpu.here = gpu.here, there
        try:
            result = func(*args, **kwargs)
        finally:
            gpu.here = before
        if there and (device is not None or func in (Tensor.new_tensor, _GRAD)):
            gpu.take(result)
        return result

    def _move(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        gpu, (tensor, *options) = self.gpu, args
        target = CUDA if gpu.holds(tensor) else torch.device("cpu")
        named = "cpu" if func is Tensor.cpu else "cuda" if func is Tensor.cuda else None
        named = named or kwargs.pop("device", None)
        for option in options:
            if isinstance(option, (str, torch.device)):
                named = option
            elif isinstance(option, Tensor):
                named = CUDA if gpu.holds(option) else "cpu"
                kwargs["dtype"] = option.dtype
            elif isinstance(option, torch.dtype):
                kwargs["dtype"] = option
        target = target if named is None else torch.device(named)
        moves = (target.type == "cuda") != gpu.holds(tensor)
        kwargs.setdefault("dtype", tensor.dtype)
        if moves and (target.type == "cpu" or not kwargs.get("non_blocking")):
            gpu.waits += 1
        gpu.copies_there = target.type == "cuda"
        try:
            moved = Tensor.to(tensor, **{**kwargs, "copy": kwargs.get("copy", False) or moves})
        finally:
            gpu.copies_there = None
        return moved


class _Recorder(TorchDispatchMode):
    """Every operation of a function, and what memory was like before."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in tensors_of(args, kwargs):
            key = storage_of(tensor)
            if key not in self._made and key not in self.before:
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self.before[key] = whole, whole.clone()
        waits = self.gpu.waits
        result = func(*args, **kwargs)
        if self.gpu.waits > waits:
            raise RuntimeError(f"{func}: operation not permitted when stream is capturing")
        given = {storage_of(tensor) for tensor in tensors_of(args, kwargs)}
        self._made |= {storage_of(t) for t in tensors_of(result)} - given
        self.calls.append((func, args, kwargs, result))
        return result


def recorded(gpu: Gpu, function: Callable[[], None]) -> Callable[[], None]:
    """In the place of `capture`: nothing is done, and then only what was recorded."""
    recorder = _Recorder(gpu)
    try:
        with recorder:
            function()
    finally:
        for whole, copy in recorder.before.values():
            whole.copy_(copy)
    gpu.graphs += 1

    def replay() -> None:
        gpu.replays += 1
        with torch.no_grad():
            for func, args, kwargs, made in recorder.calls:
                again = func(*args, **kwargs)
                for old, new in zip(tensors_of(made), tensors_of(again), strict=True):
                    if storage_of(old) != storage_of(new):
                        old.copy_(new)

    return replay


@contextlib.contextmanager
def pretended_gpu() -> Iterator[Gpu]:
    """Inside the block there is a GPU, `torch.device("cuda")`."""
    gpu = Gpu()

    def synchronize(device: Any = None) -> None:
        gpu.waits += 1

    def grouped(tensors: Any, *options: Any) -> Any:  # asks the tensors from C++
        groups = _group_tensors_by_device_and_dtype(tensors, *options)
        there = gpu.holds(tensors[0][0])
        return {(CUDA if there else d, dtype): found for (d, dtype), found in groups.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "synchronize", synchronize)
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (gpu.bytes, gpu.bytes))
        for name in ("memory_reserved", "memory_allocated"):
            patch.setattr(torch.cuda, name, lambda device: 0)
        patch.setattr(clip_grad, "_group_tensors_by_device_and_dtype", grouped)
        patch.setattr(
            "hyperinit.siren.replay.capture", lambda function, device: recorded(gpu, function)
        )
        with _Operations(gpu), _Functions(gpu):
            yield gpu
