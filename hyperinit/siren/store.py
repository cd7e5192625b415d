"""Tensors and JSON -> one file, and back: written atomically, with a checksum verified on reading.

Files are safetensors (no code can hide in them). Neither safetensors nor torch.save notices a
flipped byte, so a SHA-256 of the content is stored in the metadata and verified at every load.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path, utf8_path, write_atomically
from hyperinit.siren.network import Params, SirenConfig, check_params

PARAMS_KIND = "hyperinit-params-1"
CHECKPOINT_NAME = "checkpoint.safetensors"  # in the directory of a training run


def checkpoint_file(path: str | os.PathLike[str]) -> Path:
    """The checkpoint file of a run directory, or the path itself if it is not a directory."""
    path = Path(path)
    return path / CHECKPOINT_NAME if path.is_dir() else path


# At the worst nesting, facts of this length take about 1 GB while they are read. Hashes of training
# images do not count: there can be a million, and they take little more than their length.
MAX_INFO_CHARS = 2**24
_HASH = re.compile(r'"[0-9a-f]{64}"')

# First bytes of a file that torch.save wrote: a zip archive, or a pickle.
_PYTORCH_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

_IMAGE_HASHES = ("sha256", "photo_sha256")  # of the image as fitted, and of the original

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}

FOREIGN = (
    "hyperinit.read_siren reads SIRENs of other programs and carries them over to the conventions"
    " of docs/siren-files.md: x before y, pixel centres, ImageNet-normalised colours, one omega_0,"
    " tensors layers.<i>.weight and .bias"
)


def tensors_hash(tensors: Mapping[str, Tensor], extra: str = "") -> str:
    """SHA-256 of the names, types, shapes and bytes of tensors, and of a text."""
    digest = hashlib.sha256(extra.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], kind: str, info: Mapping[str, Any]
) -> None:
    """Writes tensors with a kind (what the file is) and JSON-able facts, atomically.

    Raises:
        InputError: the file cannot be written, or the facts are too long for safetensors.
    """
    text = json.dumps(info, sort_keys=True)
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    metadata = {"kind": kind, "info": text, "sha256": tensors_hash(plain, kind + text)}
    try:
        content = save(plain, metadata)
    except SafetensorError as error:  # its header is limited
        raise InputError(
            f"cannot write {shown_path(path)}: its metadata has {len(text)} characters, more than a"
            " file can hold; if these are hashes of training images, train on fewer images"
        ) from error
    write_atomically(path, content)


def _one_line(error: object) -> str:
    """An error's text as the end of a message, made printable: it may quote a hostile file."""
    text = " ".join(str(error).split())
    return text[:200] if text.isprintable() else repr(text[:200])


def is_of_torch(content: bytes) -> bool:
    """Whether a file begins like one of torch.save, and not like a safetensors header."""
    return content.startswith(_PYTORCH_STARTS) and content[8:9] != b"{"  # "{" begins a header


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[Any]:
    name = shown_path(path)
    if not os.path.isfile(path):
        what = "is a directory" if os.path.isdir(path) else "no such file"
        raise InputError(f"{name}: {what}")
    try:
        with open(path, "rb") as file:
            if is_of_torch(file.read(9)):
                raise InputError(f"{name}: a file of torch.save; {FOREIGN}")
        with utf8_path(path) as place, safe_open(place, framework="pt") as opened:
            yield opened
    except InputError:
        raise
    except (SafetensorError, OSError) as error:
        reason = _one_line(error)
        raise InputError(f"{name}: not a readable safetensors file ({reason})") from error


def file_kind(path: str | Path) -> str:
    """The kind that a file was saved with, or "" for a safetensors file of another program."""
    with _readable(Path(path)) as file:
        return str((file.metadata() or {}).get("kind", ""))


def _length(text: str) -> int:
    """The length of facts in characters; hashes are not counted if it is over the limit."""
    if len(text) <= MAX_INFO_CHARS:
        return len(text)
    return len(text) - sum(len(found.group()) + 2 for found in _HASH.finditer(text))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    facts = dict(pairs)
    if len(facts) < len(pairs):
        raise ValueError("a key occurs twice")
    return facts


def _facts(path: Path, metadata: Mapping[str, str] | None, kind: str) -> dict[str, Any]:
    """The facts in the metadata of a file of this kind.

    Raises:
        InputError: the kind is another, or the facts are missing, too long, not a JSON object or
            have a key twice.
    """
    name, metadata = shown_path(path), metadata or {}
    found = metadata.get("kind")
    if found is None:
        raise InputError(f"{name}: not written by hyperinit ({kind}); {FOREIGN}")
    if found != kind:
        raise InputError(f"{name}: is {_one_line(found)}, not {kind}")
    text = metadata.get("info", "")
    if _length(text) > MAX_INFO_CHARS:
        raise InputError(f"{name}: damaged, its facts are {len(text)} characters long")
    try:
        info = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        reason = _one_line(error)
        raise InputError(f"{name}: damaged, its facts cannot be read ({reason})") from error
    if not isinstance(info, dict):
        raise InputError(f"{name}: damaged, its facts are not a JSON object")
    return info


def read_info(path: str | Path, kind: str) -> dict[str, Any]:
    """The facts in a file, without reading its tensors, and so without verifying its checksum.

    Raises:
        InputError: the file is missing, truncated or of another kind, or its facts are unusable.
    """
    path = Path(path)
    with _readable(path) as file:
        info = _facts(path, file.metadata(), kind)
    if kind == PARAMS_KIND:
        check_siren_facts(path, info)
    return info


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_tensors` wrote: (tensors, info). The tensors do not map the file.

    Raises:
        InputError: the file is missing, truncated, of another kind or changed since it was written,
            or its facts are unusable.
    """
    path = Path(path)
    with _readable(path) as file:
        return _tensors(path, file, kind)


def _tensors(path: Path, file: Any, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """`load_tensors` from a file that is already open."""
    metadata = file.metadata() or {}
    info = _facts(path, metadata, kind)
    # Copies: a tensor that maps a file would change with it, and on Windows would keep the file
    # from being replaced.
    tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if metadata.get("sha256") != tensors_hash(tensors, kind + metadata["info"]):
        raise InputError(
            f"{shown_path(path)}: checksum does not match, the file was damaged after writing"
        )
    return tensors, info


def load_module(
    module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, path: str | Path
) -> None:
    """Loads the tensors that a file has under "PREFIX/" into a module.

    Raises:
        InputError: they do not fit; the message names the file.
    """
    start = f"{prefix}/"
    own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        reason = _one_line(error)
        raise InputError(
            f"{shown_path(path)}: tensors do not fit its own config ({reason})"
        ) from error


def save_params(path: str | Path, params: Params, **info: Any) -> None:
    """Writes one SIREN, or B stacked ones, with JSON-able facts about where it comes from.

    Raises:
        InputError: `load_params` would refuse it, for a parameter that is not finite or a fact that
            means something else there; or the file cannot be written.
    """
    facts = readable_facts(path, check_params(params), info)
    _in_float32(shown_path(path), params)
    save_tensors(path, params.tensors, PARAMS_KIND, facts)


def readable_facts(path: str | Path, params: Params, info: Mapping[str, Any]) -> dict[str, Any]:
    """The facts for a file of SIRENs, including those of the network.

    Raises:
        InputError: they could not be read again.
    """
    facts = {**info, "siren": params.config.facts}
    try:
        check_siren_facts(Path(path), json.loads(json.dumps(facts)))
    except InputError as error:
        raise InputError(str(error).replace("damaged, ", "", 1)) from error
    except (TypeError, ValueError, RecursionError) as error:
        reason = f"facts must be what JSON holds ({_one_line(error)})"
        raise InputError(f"{shown_path(path)}: {reason}") from error
    return facts


def _in_float32(name: str, params: Params) -> Params:
    """Checks parameters that were read from a file.

    Raises:
        InputError: they are not those of a SIREN or a stack, or not finite floating-point numbers.
    """
    if params.batch_shape == (0,) or len(params.batch_shape) > 1:
        raise InputError(f"{name}: expected one SIREN or a stack, not {params.batch_shape}")
    for key, value in params.items():
        if value.dtype not in _FLOATS:
            raise InputError(f"{name}: {key} is {value.dtype}, expected floating-point numbers")
    params = params.map(lambda value: value.to(torch.float32))
    for key, value in params.items():
        if not bool(value.isfinite().all()):
            raise InputError(f"{name}: {key} has values that are not finite")
    return params


def load_params(path: str | Path) -> tuple[Params, dict[str, Any]]:
    """Reads what `save_params` wrote: (params, info), the params in float32.

    Raises:
        InputError: as `load_tensors`; or the facts are not those of a SIREN, or the tensors do not
            fit the stored SirenConfig, are not floating-point numbers, or are NaN or infinite.
    """
    path = Path(path)
    name = shown_path(path)
    with _readable(path) as file:
        info = _facts(path, file.metadata(), PARAMS_KIND)
        config = check_siren_facts(path, info)
        # Checked before anything is read or allocated whose size a hostile file controls.
        count = config.depth + 1 + (config.depth + 1 if config.bias else 1)
        if len(file.keys()) != count:
            raise InputError(f"{name}: has {len(file.keys())} tensors, {config} has {count}")
        tensors, info = _tensors(path, file, PARAMS_KIND)
    del info["siren"]
    try:
        params = Params(config, tensors)
    except InputError as error:
        raise InputError(f"{name}: {_one_line(error)}") from error
    return _in_float32(name, params), info


def load_siren(path: str | Path, index: int | None = None) -> tuple[Params, dict[str, Any]]:
    """Reads one SIREN of a file; `index` says which one if the file has several stacked.

    The facts are those of this SIREN: `images` has only its entry.

    Raises:
        InputError: as `load_params`, or there is no such SIREN, or there are several and no index.
    """
    params, info = load_params(path)
    count = params.batch_shape[0] if params.batch_shape else 1
    check_index(path, index, count)
    if not params.batch_shape:
        return params, info
    one = index or 0
    return params.map(lambda value: value[one].clone()), _facts_of_one(info, one, count)


def check_index(path: str | Path, index: int | None, count: int) -> None:
    """Refuses an index that does not select one of a file's SIRENs.

    Raises:
        InputError: there is no such SIREN, or there are several and no index.
    """
    name = shown_path(path)
    if index is None and count > 1:
        raise InputError(f"{name} holds {count} SIRENs: say which one by its index")
    if not 0 <= (index or 0) < count:
        held = f"SIRENs 0 to {count - 1}" if count > 1 else "one SIREN"
        raise InputError(f"{name} holds {held}, there is no {index}")


def _facts_of_one(info: Mapping[str, Any], index: int, count: int) -> dict[str, Any]:
    """The facts about one SIREN of a stack: lists with an entry per SIREN keep only its entry.

    A list of another length is left out, because none of its entries can be assigned to a SIREN.
    """
    facts = dict(info)
    for field in ("images", "mse", "psnr", "start"):
        entries = facts.get(field)
        if not isinstance(entries, list):
            continue
        if len(entries) != count:
            del facts[field]
        else:
            facts[field] = [entries[index]] if field == "images" else entries[index]
    return facts


def check_siren_facts(path: Path, info: Mapping[str, Any]) -> SirenConfig:
    """Checks the types of all facts that are used, and returns the network that a file is for.

    Raises:
        InputError: a fact has the wrong type.
    """
    name, facts = shown_path(path), info.get("siren")
    if not isinstance(facts, dict):
        raise InputError(f"{name}: damaged, does not say which SIREN it is for")
    for field in ("unit_std_coords", "bias"):
        if not isinstance(facts.get(field, True), bool):
            raise InputError(f"{name}: siren {field} must be true or false")
    try:
        config = SirenConfig(**facts)
    except (InputError, TypeError) as error:
        raise InputError(f"{name}: {_one_line(error)}") from error
    images = info.get("images", [])
    if not isinstance(images, list) or not all(map(_is_image, images)):
        raise InputError(f"{name}: damaged, images must be a list of names and sizes")
    if not _is_signal(info.get("signal", {}), config.in_features):
        raise InputError(f"{name}: damaged, signal must be a name, sides and a rate")
    hashes = info.get("train_hashes", [])
    if not isinstance(hashes, list) or not all(isinstance(entry, str) for entry in hashes):
        raise InputError(f"{name}: damaged, train_hashes must be a list of texts")
    for field in ("mse", "psnr"):
        value = info.get(field, 0.0)
        if not isinstance(value, (int, float, list)) or isinstance(value, bool):
            raise InputError(f"{name}: damaged, {field} must be a number")
    return config


def shown_hashes(info: Mapping[str, Any]) -> frozenset[str]:
    """Hashes of the images that a file of SIRENs shows or was trained on, by its facts."""
    shown = (image.get(key) for image in info.get("images", ()) for key in _IMAGE_HASHES)
    return frozenset(filter(None, shown)) | frozenset(info.get("train_hashes", ()))


def _is_signal(facts: object, dims: int) -> bool:
    """Whether the entry `signal`, which may be missing, has the expected types."""
    if not isinstance(facts, dict) or not facts:
        return facts == {}
    sides, rate_hz = facts.get("sides"), facts.get("rate_hz", 1)
    if not isinstance(sides, list) or len(sides) != dims:
        return False
    return all(
        isinstance(number, int) and not isinstance(number, bool) and 1 <= number < 2**31
        for number in (*sides, rate_hz)
    )


def _is_image(facts: object) -> bool:
    """Whether an entry of `images` has the expected types."""
    if not isinstance(facts, dict):
        return False
    texts = (facts.get(key, "") for key in ("name", *_IMAGE_HASHES))
    sides = (facts.get(key, 1) for key in ("height", "width"))
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in sides
    )
