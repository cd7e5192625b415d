"""The result of a fit of a set, over a budget or to a target, and its file."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path
from hyperinit.data.source import Source
from hyperinit.fitting.descent import FitResult
from hyperinit.fitting.fit import failure
from hyperinit.fitting.target import TargetResult, advice
from hyperinit.images.files import IMAGE_SUFFIXES
from hyperinit.images.pixels import image_hash
from hyperinit.siren.network import Params
from hyperinit.siren.store import PARAMS_KIND, file_kind, load_params, read_info, save_params

Fitted: TypeAlias = FitResult | TargetResult


@dataclass(frozen=True)
class Unfitted:
    """Stands for a fit that was not made, with the reason alone: the image is known."""

    reason: str


Outcome: TypeAlias = Fitted | Unfitted

Found = TypeVar("Found")

LOCK_NAME = ".lock"  # in a directory of results

# The facts in a result's file about how it was made, including the network.
HOW = ("init", "init_facts", "fit", "size", "target_mse", "siren")


def why_none(result: Fitted) -> str:
    """Why a fit failed, in a line; "" if it has a result."""
    if isinstance(result, TargetResult):
        return "" if result.improved else advice(result, 0)
    return failure(result)


def facts_of(result: Fitted) -> dict[str, Any]:
    """The facts about its fit in the file of a result."""
    if isinstance(result, TargetResult):
        runs = [asdict(run) for run in result.runs]
        return {"mse": result.mse, "psnr": result.psnr, "reached": result.reached, "runs": runs}
    return {
        "mse": result.kept.mse,
        "psnr": result.kept.psnr,
        "lr": result.lr,
        "restarts": result.restarts,
        "became": dict(result.became),
    }


def result_name(name: str) -> str:
    """File name for the result of an image: readable, safe on every system, and unique.

    Args:
        name: The image's name in its set, with its suffix: "a/b.png" and "a_b.png" differ.
    """
    stem, suffix = os.path.splitext(name)
    stem = stem if suffix.lower() in IMAGE_SUFFIXES else name  # "photos.npy[000012]"
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[-80:].lstrip("_-")
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return f"{readable or 'image'}-{digest}.safetensors"


def save_result(path: Path, params: Params, facts: Mapping[str, Any]) -> None:
    """Writes the SIREN of an image, with facts about it."""
    save_params(path, params, **facts)


class UnusableResult(InputError):
    """An error about the output directory, not about a single image."""

    @classmethod
    def made_otherwise(cls, path: Path) -> UnusableResult:
        """The error for an undamaged file that is not from this run."""
        return cls(
            f"{shown_path(path)}: made by another init, with other options or by another"
            " program; use another output directory"
        )


def stored_result(path: Path, how: Mapping[str, Any]) -> tuple[Params, dict[str, Any]] | None:
    """The result that an earlier run made in the same way; None if there is no undamaged file.

    Args:
        path: The result's file.
        how: The facts that it must have.

    Raises:
        UnusableResult: the file is something else.
    """
    return _stored(path, how, load_params, lambda found: found[1])


def stored_facts(path: Path, how: Mapping[str, Any]) -> dict[str, Any] | None:
    """Like `stored_result`, but without reading the weights: fast, but misses damage to them."""
    return _stored(path, how, lambda found: read_info(found, PARAMS_KIND), lambda found: found)


def _stored(
    path: Path,
    how: Mapping[str, Any],
    read: Callable[[Path], Found],
    facts: Callable[[Found], dict[str, Any]],
) -> Found | None:
    if not os.path.lexists(path):
        return None
    try:
        found = read(path) if file_kind(path) == PARAMS_KIND else None
    except InputError as error:
        if path.is_file():
            return None  # truncated or damaged: will be made again
        raise UnusableResult(str(error)) from error
    if found is None or any(facts(found).get(key) != value for key, value in how.items()):
        raise UnusableResult.made_otherwise(path)
    return found


class Pending:
    """An image of a set, decoded at most once and only when needed.

    Attributes:
        sha256: Changes with the bytes that the image is decoded from.

    Raises:
        InputError: it cannot be read; the reason alone.
    """

    def __init__(self, source: Source, index: int) -> None:
        self._source, self._index = source, index
        self._image: Tensor | None = None
        self.sha256 = image_hash(self.image) if source.digest is None else source.digest(index)

    @property
    def image(self) -> Tensor:
        """(3, H, W) in [0, 1].

        Raises:
            InputError: it cannot be read, or has changed since its hash was taken; the reason
                alone.
        """
        if self._image is None:
            digest = self._source.digest
            self._image = self._source.read(self._index)
            if digest is not None and digest(self._index) != self.sha256:
                raise InputError("was changed while being read; run the command again")
        return self._image
