"""Records of benchmarks: one JSON object per line, appended as each measurement ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hyperinit.base.errors import InputError
from hyperinit.base.files import make_directory, shown_path

Line = dict[str, Any]


def read_lines(path: Path) -> list[Line]:
    """The lines of a record; empty if there is no file.

    A last line that is not JSON is left out: a run was interrupted while writing it.

    Raises:
        InputError: the file cannot be read, or another line is not a JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{shown_path(path)}: cannot be read ({error})") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):
                continue
            raise InputError(f"{shown_path(path)}, line {number}: not JSON") from None
        if not isinstance(record, dict):
            raise InputError(f"{shown_path(path)}, line {number}: not a JSON object")
        found.append(record)
    return found


def append_line(path: Path, line: Line) -> None:
    """Appends a line to a record, after removing an unfinished one."""
    make_directory(path.parent)
    with open(path, "a+b") as file:
        file.seek(0)
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
        file.write(json.dumps(line).encode() + b"\n")
