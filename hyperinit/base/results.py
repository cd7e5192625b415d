"""The results that commands print: sentences and tables to read, or JSON, one object per line.

Results go to stdout. Everything else goes to stderr, see terminal.py; with `--quiet` only errors
do.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

# The output of `--json`: kind of result -> field -> (type, description). A type with "?" may be
# null, and so may every number if it is infinite or NaN.
RESULTS: dict[str, dict[str, tuple[str, str]]] = {
    "generated": {
        "out": ("text", "file or directory that was written"),
        "init": ("text", "init of the weights"),
        "images": ("whole", "number of images it is for"),
        "finished": ("whole", "images of a set that were finished before"),
        "failed": ("whole", "images of a set that have no result"),
    },
    "fit": {
        "image": ("text", "the file"),
        "init": ("text", "init of the fit"),
        "psnr": ("number", "dB on [0, 1], over all pixels; of a signal, on [-1, 1]"),
        "mse": ("number", "over all pixels, ImageNet-normalised; of a signal, in its own units"),
        "psnr_start": ("number?", "dB before the first step; null with --target-mse"),
        "epochs": ("number", "pixel visits / pixels, including making the start"),
        "sec": ("number", "seconds of the fit, including making the start"),
        "attempts": ("whole", "fits that were made, including the last one"),
        "reached": ("flag?", "whether --target-mse was reached; null without it"),
        "out": ("text?", "file of the SIREN, if it was written"),
        "render": ("text?", "file of the picture, if it was written"),
    },
    "image": {
        "image": ("text", "name below the directory"),
        "psnr": ("number", "as for fit"),
        "mse": ("number", "as for fit"),
        "done": ("text", "number of images done, and the time left"),
    },
    "failed": {
        "image": ("text", "name below the directory"),
        "reason": ("text", "why it has no result, or misses --target-mse; also on stderr"),
    },
    "directory": {
        "out": ("text", "directory of the results"),
        "fitted": ("whole", "images fitted now"),
        "finished": ("whole", "images that were finished before"),
        "missed": ("whole", "images that missed --target-mse"),
        "failed": ("whole", "images without a result"),
        "images_per_hour": ("number", "images fitted per hour in this run"),
    },
    "estimate": {"text": ("text", "the estimate of --dry-run")},
    "submission": {
        "out": ("text", "the file for a pull request"),
        "records": ("whole", "in it"),
        "images": ("whole", "number of images that they are on"),
    },
    "rendered": {
        "out": ("text", "file of the picture, sound or array"),
        "size": ("text", "HxW in pixels; for sound N samples, for a volume DxHxW"),
    },
    "exported": {
        "out": ("text", "file that was written"),
        "format": ("text", "as --to"),
        "bytes": ("whole", "size of the file"),
        "psnr_to_full": ("number?", "dB, of the SIREN with fewer bits to the full one"),
        "psnr_before": ("number?", "dB, of the full SIREN to --image"),
        "psnr_after": ("number?", "dB, of the SIREN with fewer bits to --image"),
    },
    "gallery": {
        "out": ("text", "the page"),
        "images": ("whole", "images on the page"),
        "left_out": ("whole", "results that are not on the page"),
    },
    "names": {
        "inits": ("list", "rows by name"),
        "rules": ("list", "rules by name"),
        "images": ("list", "data sets by name"),
    },
    "score": {
        "track": ("text", "track of the benchmark"),
        "workload": ("text", "image size, network, fit"),
        "init": ("text", "init, with changes of the fit"),
        "psnr_start": ("number?", "mean dB before the first step; null if one is unknown"),
        "target_mse": ("number", "over all pixels, ImageNet-normalised"),
        "median": ("number?", "median cost over pairs; null if the median pair misses the target"),
        "unit": ("text", "unit of the median"),
        "hits": ("whole", "pairs that reach the target"),
        "pairs": ("whole", "pairs of an image and a seed"),
    },
    "rerun": {
        "init": ("text", "changes of the fit included"),
        "image": ("text", "its name"),
        "seed": ("whole", "seed of the trial"),
        "budget_epochs": ("number", "budget of the trial"),
        "lr": ("number", "learning rate of the trial"),
        "mse_then": ("number", "error in the record"),
        "mse_now": ("number", "error of the rerun"),
        "difference": ("number", "relative"),
    },
    "comparison": {
        "run": ("text", "run directory"),
        "cells": ("object", "column of the table -> text"),
    },
    "report": {
        "out": ("text", "the page"),
        "records": ("whole", "number of records that it is made from"),
    },
    "document": {
        "path": ("text", "path of a document whose blocks were outdated"),
        "updated": ("flag", "whether it was rewritten"),
    },
    "demo": {"url": ("text", "URL of the page")},
    "check": {
        "name": ("text", "what was checked"),
        "state": ("text", "ok, note (worth knowing) or fails"),
        "value": ("text", "what was found"),
        "advice": ("text", "what to do about it; empty if nothing"),
    },
}

# Types in RESULTS -> Python types.
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
    """How a command prints.

    Attributes:
        quiet: Only results and errors, neither progress nor remarks.
        json: Results as JSON, one object per line.
    """

    quiet: bool = False
    json: bool = False


_TO_PEOPLE = Manner()
_manner: ContextVar[Manner] = ContextVar("manner", default=_TO_PEOPLE)


def manner() -> Manner:
    """How the running command prints."""
    return _manner.get()


@contextlib.contextmanager
def own_manner() -> Iterator[None]:
    """Inside the block a command may change how it prints; the end restores it."""
    token = _manner.set(_manner.get())
    try:
        yield
    finally:
        _manner.reset(token)


def set_manner(**changes: bool) -> None:
    """Changes how the running command prints, until the end of its `own_manner`."""
    _manner.set(replace(_manner.get(), **changes))


def count(n: int, what: str) -> str:
    """Such as "1 image" or "2 images"."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def result(kind: str, text: str | None, /, **fields: Any) -> None:
    """Prints a result on stdout: a text, or an object {"kind": KIND, ...} with `--json`.

    Args:
        kind: A row of RESULTS.
        text: The text; None prints nothing without `--json`.
        **fields: All fields of that row, and no others; paths and names unchanged.
    """
    results(kind, text, [fields])


def results(kind: str, text: str | None, rows: Iterable[Mapping[str, Any]]) -> None:
    """Prints several results of one kind: one text (a table), or with `--json` an object each."""
    lines = [] if text is None else [text]
    if manner().json:
        objects = ({"kind": kind, **_checked(kind, row)} for row in rows)
        lines = [json.dumps(one, allow_nan=False) for one in objects]
    with _between_bars():
        for line in lines:
            print(line, flush=True)


@functools.cache  # tqdm is imported only where a bar may be shown
def bar_class() -> Any:
    """tqdm's bar, but lines that are printed before its time do not make it appear."""
    from tqdm import tqdm

    class LateBar(tqdm):
        def _is_early(self) -> bool:
            # Without a delay tqdm draws itself before it has a start.
            return bool(self.delay > 0 and self._time() < self.start_t + self.delay)

        def clear(self, *arguments: Any, **options: Any) -> None:
            if not self._is_early():
                super().clear(*arguments, **options)

        def refresh(self, *arguments: Any, **options: Any) -> Any:
            return None if self._is_early() else super().refresh(*arguments, **options)

    return LateBar


def _between_bars() -> contextlib.AbstractContextManager[Any]:
    """Inside the block, progress bars are cleared."""
    if "tqdm" not in sys.modules:
        return contextlib.nullcontext()
    from tqdm import tqdm

    bars: contextlib.AbstractContextManager[Any] = tqdm.external_write_mode(file=sys.stdout)
    return bars


def _checked(kind: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a result in the order of RESULTS; numbers that are not finite are None."""
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
