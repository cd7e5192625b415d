"""A pattern for several files -> their paths: "shards-{000..123}.tar", "x-*.parquet"."""

from __future__ import annotations

import glob
import itertools
import os
import re

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path

# Far more than any set has, and still quick to count.
MAX_FILES = 1_000_000

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def split_field(spec: str) -> tuple[str, str]:
    """("FILE", "FIELD") of "FILE#FIELD"; an existing file of exactly that name takes precedence."""
    if "#" not in spec or os.path.exists(spec):
        return spec, ""
    path, _, field = spec.rpartition("#")
    return path, field


def ends_with(spec: str, *suffixes: str) -> bool:
    """Whether `spec` names files with one of these suffixes; a directory never counts."""
    path, _ = split_field(spec)
    return path.lower().endswith(suffixes) and not os.path.isdir(path)


def expand(path: str) -> list[str]:
    """The files that a pattern names, in order; each exists.

    "{000..123}" counts up, with as many digits as the first number has. "*", "?" and "[...]" match
    existing files.

    Raises:
        InputError: a file is missing, no file matches, or there are too many.
    """
    if os.path.isfile(path):
        return [path]
    found = [file for one in _counted(path) for file in _present(one)]
    if len(set(found)) < len(found):
        raise InputError(f"{shown_path(path)}: names a file twice")
    return found


def _counted(path: str) -> list[str]:
    """A path with every "{first..last}" counted out."""
    parts = _RANGE.split(path)  # text, first, last, text, ...
    ranges = []
    total = 1
    for first, last in zip(parts[1::3], parts[2::3], strict=True):
        if len(first) > 18 or len(last) > 18 or int(first) > int(last):
            wanted = "{000..123} counts up"
            raise InputError(f"{shown_path(path)}: {{{first}..{last}}} is not a range; {wanted}")
        total *= int(last) - int(first) + 1
        if total > MAX_FILES:
            raise InputError(f"{shown_path(path)}: means more than {MAX_FILES:,} files")
        ranges.append([f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)])
    texts = parts[0::3]
    return [
        texts[0] + "".join(number + text for number, text in zip(chosen, texts[1:], strict=True))
        for chosen in itertools.product(*ranges)
    ]


def _present(path: str) -> list[str]:
    """An existing file, or the files that match a pattern."""
    if os.path.isfile(path):
        return [path]
    if any(sign in path for sign in "*?["):
        files = [file for file in sorted(glob.glob(path)) if os.path.isfile(file)]
        if files:
            return files
        raise InputError(f"{shown_path(path)}: no such file")
    what = "not a file" if os.path.exists(path) else "no such file"
    raise InputError(f"{shown_path(path)}: {what}")


def short_names(paths: list[str]) -> list[str]:
    """The files' names, with as much of their directories as is needed to tell them apart."""
    names = [os.path.basename(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    top = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [os.path.relpath(path, top).replace(os.sep, "/") for path in paths]
