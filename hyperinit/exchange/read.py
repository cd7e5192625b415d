"""A file of weights, ours or another program's -> the SIREN in it."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.files import read_small, shown_path
from hyperinit.exchange.conventions import Conventions, Layers, Size, check_size, to_params
from hyperinit.exchange.layouts import ABOUT, check_signal, find, size_of_grid
from hyperinit.exchange.quantized import INT8_KIND, load_int8
from hyperinit.siren.ambient import with_own_settings
from hyperinit.siren.network import Params
from hyperinit.siren.store import check_index, file_kind, is_of_torch, load_siren

SUFFIXES = (".safetensors", ".pt", ".pth", ".npz")
MAX_BYTES = 2**31  # of a file, and of all arrays of an .npz file, whatever its headers claim
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Keys under which training scripts save the state dict.
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "siren", "params")


@dataclass(frozen=True)
class ForeignSiren:
    """The layers of another program's SIREN, and the meaning of its numbers.

    Attributes:
        layers: Weights (out, in) and biases, input side first.
        conventions: Those of its layout, with the user's changes.
        size: Height and width of its image, if the file or the user states them.
    """

    layers: Layers
    conventions: Conventions
    size: Size | None = None

    def params(self, size: Size | None = None) -> Params:
        """The SIREN in our conventions.

        Args:
            size: The image's size, for grids that depend on it; a size in the file comes first.

        Raises:
            InputError: the grid depends on the size, and it is unknown.
        """
        return to_params(self.layers, self.conventions, self.size or size)


@with_own_settings
def read_siren(
    path: str | os.PathLike[str],
    layout: str = "auto",
    *,
    size: Size | None = None,
    index: int | None = None,
    **conventions: Any,
) -> Params:
    """Reads a SIREN of hyperinit or of another program, converted to our conventions.

    Differences in omega_0, coordinates and colours are folded into the weights, which is exact. The
    result can be rendered, fitted and saved like any other.

    Args:
        path: A file of hyperinit, or a state dict: .pt, .pth, .safetensors or .npz.
        layout: A name in the table of `docs/siren-files.md`: siren-pytorch, siren, notebook, coin,
            sequential, npz or jax; "auto" finds the one that fits.
        size: (height, width) in pixels of the image it shows. Needed for most programs, because
            they place the outer pixels on the border.
        index: Which SIREN of a file of hyperinit with several.
        **conventions: Differences from the usual conventions of the layout's program: first_omega,
            hidden_omega, order ("xy", "yx"), grid ("corners", "centres", "corners01", "centres01",
            "coin") and colours ("unit" for [0, 1], "signed" for [-1, 1], "imagenet", or "values"
            for outputs that are not colours, such as one band of many).

    Returns:
        One SIREN in float32 on the CPU. A grey one has three equal colours. For sound, volumes or
        other numbers of values, outputs are left as they are, and so are coordinates other than
        two.

    Raises:
        InputError: the file is missing, unreadable or contains code, a key or a shape does not fit
            (the message names it), a layout or convention is unknown, or the size is needed and
            not given.
    """
    return read_any(path, layout, size=size, index=index, **conventions)[0]


@with_own_settings
def read_any(
    path: str | os.PathLike[str],
    layout: str = "auto",
    *,
    size: Size | None = None,
    index: int | None = None,
    **conventions: Any,
) -> tuple[Params, dict[str, Any]]:
    """Like `read_siren`, with the facts in a file of hyperinit; {} for another program's file."""
    path = Path(path)
    kind = own_kind(path)
    if kind and (layout != "auto" or any(v is not None for v in conventions.values())):
        raise not_theirs(path)
    if kind == INT8_KIND:
        check_index(path, index, 1)
        return load_int8(path)
    if kind:
        return load_siren(path, index)
    foreign = read_foreign(path, layout, size=size, **conventions)
    if index is not None:
        raise InputError(f"{shown_path(path)} holds one SIREN, so it takes no index")
    try:
        return foreign.params(), {}
    except InputError as error:
        raise InputError(f"{shown_path(path)}: {error}") from error


def not_theirs(path: Path) -> InputError:
    """The error for reading a file of ours as another program's."""
    return InputError(
        f"{shown_path(path)}: written by hyperinit, so it takes no layout or convention"
    )


def own_kind(path: str | os.PathLike[str]) -> str:
    """The kind of a file of hyperinit; "" for a file of another program.

    Raises:
        InputError: the file is missing or not readable.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() in (".pt", ".pth", ".npz"):
        return ""
    return file_kind(path)


def read_foreign(
    path: str | os.PathLike[str],
    layout: str = "auto",
    *,
    size: Size | None = None,
    **conventions: Any,
) -> ForeignSiren:
    """Reads the layers of another program's SIREN; arguments and errors as `read_siren`."""
    path = Path(path)
    try:
        tensors = read_tensors(path)
        found = find(tensors, layout)
        layers = found.layers(tensors)
        check_signal(found, layers)
        for keys, pair in zip(found.keys, layers, strict=True):
            for key, value in zip(keys, pair, strict=True):
                _check_values(key, value)
        theirs = found.layout.conventions
        if found.layout.needs == "omega_0":
            omega = float(tensors["omega_0"].reshape(-1)[0]) if tensors["omega_0"].numel() else 0.0
            theirs = theirs.but(first_omega=omega, hidden_omega=omega)
        size = check_size(size) or size_of_grid(tensors)
        return ForeignSiren(layers, theirs.but(**conventions), size)
    except InputError as error:
        name, text = shown_path(path), " ".join(str(error).split())
        raise InputError(text if text.startswith(name) else f"{name}: {text}") from error


def _check_values(key: str, value: Tensor | None) -> None:
    if value is None:
        return
    if value.dtype not in _FLOATS:
        raise InputError(f"{key} is {value.dtype}, expected floating-point numbers")
    if not bool(value.isfinite().all()):
        raise InputError(f"{key} has values that are not finite")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a state dict in any of the formats; no code of the file is run.

    Raises:
        InputError: the file is missing, of an unknown format, damaged, or not a state dict.
    """
    name, suffix = shown_path(path), path.suffix.lower()
    if not path.is_file():
        raise InputError(f"{name}: {'is a directory' if path.is_dir() else 'no such file'}")
    if suffix not in SUFFIXES:
        raise InputError(f"{name}: cannot be read; expected {', '.join(SUFFIXES)}")
    try:
        content = read_small(path, MAX_BYTES)
        if suffix == ".npz":
            return _read_npz(content)
        if suffix == ".safetensors" and not is_of_torch(content[:9]):
            return load_safetensors(content)
        return _state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            "holds more than tensors, such as a whole module, which would run code when it is"
            f" read; save net.state_dict() instead, see {ABOUT}"
        ) from error
    except Exception as error:  # IndexError, struct.error, ...: a hostile file can raise any
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"not a readable {suffix} file ({reason}); see {ABOUT}") from error


def _state_dict(loaded: Any) -> dict[str, Tensor]:
    """The state dict in the result of torch.load: the result itself, or an entry of it."""
    for _ in range(3):
        if not isinstance(loaded, Mapping):
            break
        tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
        if tensors:
            for key, value in tensors.items():
                # A view may claim to be larger than its storage, and copies would be that large.
                if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                    raise InputError(f"{key} is larger than its data in the file")
            return tensors
        inner = [loaded[key] for key in _NESTED if isinstance(loaded.get(key), Mapping)]
        loaded = inner[0] if inner else None
    raise InputError(f"holds no state dict; save net.state_dict(), see {ABOUT}")


def _read_npz(content: bytes) -> dict[str, Tensor]:
    import numpy as np

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
            raise InputError(f"its arrays take more than {MAX_BYTES} bytes")
    tensors = {}
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        for key in arrays.files:
            array = arrays[key]
            if key == "omega_0" and array.dtype.kind in "iu":  # 30, from whoever wrote no 30.0
                array = array.astype(np.float64)
            if array.dtype.kind == "f":
                tensors[key] = torch.from_numpy(
                    np.array(array, dtype=array.dtype.newbyteorder("="))
                )
    return tensors
