"""Tensors and JSON -> one file, and back: atomic to write, checksummed to read.

Files are safetensors (no code can hide in them). Neither safetensors nor torch.save notices a
flipped byte, so a SHA-256 of the content is stored in the metadata and verified at every load.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hyperinit.base.errors import InputError
from hyperinit.base.files import write_atomically
from hyperinit.siren.network import Params, SirenConfig

PARAMS_KIND = "hyperinit-params-1"
CHECKPOINT_NAME = "checkpoint.safetensors"  # in the directory of a training run


def tensors_hash(tensors: Mapping[str, Tensor], extra: str = "") -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, and over a text."""
    digest = hashlib.sha256(extra.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], kind: str, info: Mapping[str, Any]
) -> None:
    """Writes tensors with a kind (what the file is) and JSON-able facts, atomically."""
    text = json.dumps(info, sort_keys=True)
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    metadata = {"kind": kind, "info": text, "sha256": tensors_hash(plain, kind + text)}
    write_atomically(path, save(plain, metadata))


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise InputError(f"{path}: {'is a directory' if path.is_dir() else 'no such file'}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error


def file_kind(path: str | Path) -> str:
    """The kind a file was saved with, or "" for a safetensors file of another program."""
    with _readable(Path(path)) as file:
        return str((file.metadata() or {}).get("kind", ""))


def read_info(path: str | Path, kind: str) -> dict[str, Any]:
    """The facts in a file, without reading its tensors, and hence without its checksum.

    Raises:
        InputError: missing, truncated or of another kind.
    """
    with _readable(Path(path)) as file:
        metadata = file.metadata() or {}
    if metadata.get("kind") != kind:
        raise InputError(f"{path}: is {metadata.get('kind', 'no hyperinit file')}, not {kind}")
    try:
        info: dict[str, Any] = json.loads(metadata["info"])
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: damaged, its facts cannot be read") from error
    return info


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_tensors` wrote: (tensors, info).

    Raises:
        InputError: missing, truncated, of another kind, or changed since it was written.
    """
    path = Path(path)
    with _readable(path) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("kind") != kind:
        raise InputError(f"{path}: is {metadata.get('kind', 'no hyperinit file')}, not {kind}")
    if metadata.get("sha256") != tensors_hash(tensors, kind + metadata.get("info", "")):
        raise InputError(f"{path}: checksum does not match, the file was damaged after writing")
    return tensors, json.loads(metadata["info"])


def load_module(
    module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, path: str | Path
) -> None:
    """Gives a module the tensors that a file has under "PREFIX/".

    Raises:
        InputError: they do not fit; the file is named.
    """
    start = f"{prefix}/"
    own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: tensors do not fit its own config ({reason})") from error


def save_params(path: str | Path, params: Params, **info: Any) -> None:
    """Writes one SIREN, or B stacked ones, with JSON-able facts about where it comes from."""
    facts = {"siren": asdict(params.config), **info}
    save_tensors(path, params.tensors, PARAMS_KIND, facts)


def load_params(path: str | Path) -> tuple[Params, dict[str, Any]]:
    """Reads what `save_params` wrote: (params, info).

    Raises:
        InputError: as `load_tensors`, or the tensors do not fit the stored SirenConfig.
    """
    tensors, info = load_tensors(path, PARAMS_KIND)
    try:
        return Params(SirenConfig(**info.pop("siren")), tensors), info
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{path}: {error}") from error


def load_siren(path: str | Path, index: int | None = None) -> tuple[Params, dict[str, Any]]:
    """Reads one SIREN of a file: `index` says which where the file has several stacked.

    Raises:
        InputError: as `load_params`, or there is no such one, or several and no index.
    """
    params, info = load_params(path)
    several = params.unbatch() if params.batch_shape else [params]
    if index is None and len(several) > 1:
        raise InputError(f"{path} holds {len(several)} SIRENs: say which one by its index")
    if not 0 <= (index or 0) < len(several):
        raise InputError(f"{path} holds SIRENs 0 to {len(several) - 1}, there is no {index}")
    return several[index or 0], info
