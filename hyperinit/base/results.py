"""What commands print as results: sentences and tables for people, or JSON, one object a line.

Results go to stdout. Everything else goes to stderr, see terminal.py; with `--quiet` nothing but
errors does.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

# What `--json` prints: kind of result -> field -> (its type, what it is). A type with "?" may be
# null, as may every number that is infinite or none.
RESULTS: dict[str, dict[str, tuple[str, str]]] = {
    "generated": {
        "out": ("text", "file or directory that was written"),
        "init": ("text", "where the weights are from"),
        "images": ("whole", "how many images it is for"),
        "finished": ("whole", "images of a set that were finished before"),
        "failed": ("whole", "images of a set that cannot be read"),
    },
    "fit": {
        "image": ("text", "the file"),
        "init": ("text", "where the fit started"),
        "psnr": ("number", "dB on [0, 1], over all pixels"),
        "mse": ("number", "over all pixels, ImageNet-normalised"),
        "psnr_start": ("number?", "dB before the first step; null with --target-mse"),
        "epochs": ("number", "pixel visits / pixels, making the start included"),
        "sec": ("number", "seconds of the fit, making the start included"),
        "attempts": ("whole", "fits that were made, the last one included"),
        "reached": ("flag?", "whether --target-mse was; null where there is none"),
        "out": ("text?", "file of the SIREN, where it was written"),
        "render": ("text?", "file of the picture, where it was written"),
    },
    "image": {
        "image": ("text", "name below the directory"),
        "psnr": ("number", "as of fit"),
        "mse": ("number", "as of fit"),
        "done": ("text", "how many are over, and the time left"),
    },
    "failed": {
        "image": ("text", "name below the directory"),
        "reason": ("text", "why it has no result; also on stderr"),
    },
    "directory": {
        "out": ("text", "directory of the results"),
        "fitted": ("whole", "images fitted now"),
        "finished": ("whole", "images that were finished before"),
        "missed": ("whole", "of those, short of --target-mse"),
        "failed": ("whole", "images without a result"),
        "images_per_hour": ("number", "of those fitted now"),
    },
    "estimate": {"text": ("text", "what --dry-run found out")},
    "submission": {
        "out": ("text", "the file for a pull request"),
        "records": ("whole", "in it"),
        "images": ("whole", "that they are on"),
    },
    "rendered": {
        "out": ("text", "file of the picture, sound or array"),
        "size": ("text", "HxW in pixels; of sound N samples, of a volume DxHxW"),
    },
    "exported": {
        "out": ("text", "file that was written"),
        "format": ("text", "as --to"),
        "bytes": ("whole", "of the file"),
        "psnr_to_full": ("number?", "dB of what fewer bits show to the whole SIREN"),
        "psnr_before": ("number?", "dB to --image, of the whole SIREN"),
        "psnr_after": ("number?", "dB to --image, of fewer bits"),
    },
    "gallery": {
        "out": ("text", "the page"),
        "images": ("whole", "images on it"),
        "left_out": ("whole", "results that are not on it"),
    },
    "names": {
        "inits": ("list", "rows by name"),
        "rules": ("list", "rules by name"),
        "images": ("list", "data sets by name"),
    },
    "score": {
        "track": ("text", "of the benchmark"),
        "workload": ("text", "image size, network, fit"),
        "init": ("text", "changes of the fit included"),
        "psnr_start": ("number?", "mean dB before the first step; null where one is unknown"),
        "target_mse": ("number", "over all pixels, ImageNet-normalised"),
        "median": ("number?", "over pairs; null where the median pair does not get there"),
        "unit": ("text", "of the median"),
        "hits": ("whole", "pairs of an image and a seed that get there"),
        "pairs": ("whole", "of an image and a seed"),
    },
    "rerun": {
        "init": ("text", "changes of the fit included"),
        "image": ("text", "its name"),
        "seed": ("whole", "of the trial"),
        "budget_epochs": ("number", "of the trial"),
        "lr": ("number", "of the trial"),
        "mse_then": ("number", "in the record"),
        "mse_now": ("number", "of the rerun"),
        "difference": ("number", "relative"),
    },
    "comparison": {
        "run": ("text", "run directory"),
        "cells": ("object", "column of the table -> text"),
    },
    "report": {
        "out": ("text", "the page"),
        "records": ("whole", "that it is made from"),
    },
    "document": {
        "path": ("text", "of a document whose blocks were outdated"),
        "updated": ("flag", "whether it was rewritten"),
    },
    "demo": {"url": ("text", "where the page is")},
    "check": {
        "name": ("text", "what was looked at"),
        "state": ("text", "ok, note (worth knowing) or fails"),
        "value": ("text", "what was found"),
        "advice": ("text", "what to do about it; empty where nothing"),
    },
}

# What a type in RESULTS means.
_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "whole": (int,),
    "number": (int, float),
    "flag": (bool,),
    "list": (list,),
    "object": (dict,),
}


@dataclass(frozen=True)
class Manner:
    """How a command talks.

    Attributes:
        quiet: Neither progress nor remarks: results and errors alone.
        json: Results as JSON, one object a line.
    """

    quiet: bool = False
    json: bool = False


_TO_PEOPLE = Manner()
_manner: ContextVar[Manner] = ContextVar("manner", default=_TO_PEOPLE)


def manner() -> Manner:
    """How the command that runs talks."""
    return _manner.get()


@contextlib.contextmanager
def own_manner() -> Iterator[None]:
    """Inside the block a command may change how it talks; at the end all is as before."""
    token = _manner.set(_manner.get())
    try:
        yield
    finally:
        _manner.reset(token)


def set_manner(**changes: bool) -> None:
    """Changes how the command that runs talks, up to the end of its `own_manner`."""
    _manner.set(replace(_manner.get(), **changes))


def count(n: int, what: str) -> str:
    """Such as "1 image" or "2 images"."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def result(kind: str, text: str | None, /, **fields: Any) -> None:
    """A result on stdout: a text for people, or an object {"kind": KIND, ...} with `--json`.

    Args:
        kind: A row of RESULTS.
        text: None: nothing is printed for people.
        **fields: All of that row, and no others; paths and names as they are, as JSON can hold any.
    """
    results(kind, text, [fields])


def results(kind: str, text: str | None, rows: Iterable[Mapping[str, Any]]) -> None:
    """Several results of one kind: one text (a table) for people, an object each with `--json`."""
    lines = [] if text is None else [text]
    if manner().json:
        objects = ({"kind": kind, **_checked(kind, row)} for row in rows)
        lines = [json.dumps(one, allow_nan=False) for one in objects]
    with _between_bars():
        for line in lines:
            print(line, flush=True)


def _between_bars() -> contextlib.AbstractContextManager[Any]:
    """Inside the block no progress bar is in the way, if there is any."""
    if "tqdm" not in sys.modules:
        return contextlib.nullcontext()
    from tqdm import tqdm

    bars: contextlib.AbstractContextManager[Any] = tqdm.external_write_mode(file=sys.stdout)
    return bars


def _checked(kind: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a result in the order of RESULTS; what is no finite number is None."""
    expected = RESULTS[kind]
    if set(row) != set(expected):
        raise ValueError(f"result {kind}: fields {sorted(row)} are not {sorted(expected)}")
    checked = {name: _finite(row[name]) for name in expected}
    for name, value in checked.items():
        wanted = expected[name][0]
        may_be_null = wanted.startswith("number") or wanted.endswith("?")
        if not isinstance(value, _TYPES[wanted.rstrip("?")]) and not (
            value is None and may_be_null
        ):
            raise ValueError(f"result {kind}: {name} must be a {wanted}, not {value!r}")
    return checked


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value


def results_markdown() -> str:
    """RESULTS as a Markdown table."""
    lines = ["| kind | field | type | what it is |", "|---|---|---|---|"]
    for kind, fields in RESULTS.items():
        for name, (wanted, help) in fields.items():
            lines.append(f"| `{kind}` | `{name}` | {wanted} | {help} |")
    return "\n".join(lines) + "\n"
