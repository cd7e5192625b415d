"""What a fit of a set ended with, over a budget or to a target, and the file it goes into."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from hyperinit.fitting.descent import FitResult
from hyperinit.fitting.fit import failure
from hyperinit.fitting.target import TargetResult, advice
from hyperinit.siren.network import Params
from hyperinit.siren.store import save_params

Fitted: TypeAlias = FitResult | TargetResult


def why_none(result: Fitted) -> str:
    """Why a fit has no result, in a line; nothing if it has one."""
    if isinstance(result, TargetResult):
        return "" if result.improved else advice(result, 0)
    return failure(result)


def facts_of(result: Fitted) -> dict[str, Any]:
    """What the file of a result says about its fit."""
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
    """File name for the result of an image: readable, safe everywhere, and no two alike.

    Args:
        name: Of the image, below its directory, with its suffix: "a/b.png" and "a_b.png" differ.
    """
    readable = (
        re.sub(r"[^A-Za-z0-9_-]+", "_", os.path.splitext(name)[0]).strip("_-")[-80:].lstrip("_-")
    )
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return f"{readable or 'image'}-{digest}.safetensors"


def file_sha256(path: Path) -> str:
    """Of a file's bytes, read in parts."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def save_result(path: Path, params: Params, facts: Mapping[str, Any]) -> None:
    """Writes the SIREN of an image, and what is known about it."""
    save_params(path, params, **facts)
