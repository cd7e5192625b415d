"""Record files: JSONL, one record per line, appended as fits end and read for scoring.

Any file, whoever wrote it, is read, or refused in one line that names the file and the line in it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, fields
from math import isfinite
from pathlib import Path
from typing import Any

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path
from hyperinit.record.check import checked, no_constant, no_key_twice
from hyperinit.record.protocol import VERSIONS
from hyperinit.record.record import CurvePoint, Record
from hyperinit.record.tracks import stored_track

__all__ = ["CurvePoint", "Record", "append_record", "read_records", "repair_jsonl", "to_line"]

MAX_LINE_BYTES = 16 * 2**20  # the longest committed line has 34,157
SUBMISSION_START = b'{"submission": '  # first line of a submission, about its records; see publish


def beside(records: str | Path, suffix: str) -> Path:
    """A file or folder that belongs to a record file: NAME.jsonl -> NAME and a suffix.

    Other endings are kept, because otherwise "try.1" and "try.2" would share plans and chart.
    """
    path = Path(records)
    name = path.stem if path.suffix.lower() == ".jsonl" else path.name
    return path.with_name(name + suffix)


def is_submission(path: str | Path) -> bool:
    """Whether a file begins like a submission; False if it does not exist."""
    if not Path(path).is_file():
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(SUBMISSION_START)) == SUBMISSION_START
    except OSError as error:
        raise InputError(f"{shown_path(path)}: cannot be read ({error.strerror})") from error


def to_line(record: Record) -> str:
    """A record as one line of JSON, without the newline; non-finite numbers are null."""
    values = {f.name: getattr(record, f.name) for f in fields(record) if f.name != "is_tuning"}
    values["track"] = stored_track(record.track, record.is_tuning)
    if not record.source_hash:  # older records stay the same, byte for byte
        del values["source_hash"]
    values["curve"] = [
        [value if isfinite(value) else None for value in astuple(point)] for point in record.curve
    ]
    return json.dumps(values, allow_nan=False)


def append_record(path: str | Path, record: Record) -> None:
    """Appends one complete line, after removing a line that a killed run left unfinished.

    Raises:
        InputError: it cannot be written, such as on a full disk; the file is then unchanged.
    """
    try:
        repair_jsonl(path)
        with open(path, "ab", buffering=0) as file:
            length, line = file.tell(), to_line(record).encode() + b"\n"
            try:
                if file.write(line) < len(line):  # there was room for only part of it
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(length)
                raise
    except OSError as error:
        raise InputError(f"cannot write {shown_path(path)}: {error.strerror or error}") from error


def repair_jsonl(path: str | Path) -> None:
    """Removes an unfinished last line of a JSONL file, or adds a newline that alone is missing."""
    path = Path(path)
    if not path.exists():
        return
    with open(path, "rb+") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":  # read the whole file only then: this is done for every append
            file.seek(0)
            content = file.read()
            end = content.rfind(b"\n") + 1
            if _is_whole(content[end:]):
                file.write(b"\n")
            else:
                file.truncate(end)


def _is_whole(line: bytes) -> bool:
    """Whether a line lacks only its newline, as some editors leave it."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def read_records(paths: str | Path | Iterable[str | Path]) -> list[Record]:
    """Reads records; if a trial was written more than once, the first one counts.

    If its other records ended with different errors, a warning says how many such trials there are.
    Memory and time are bounded by the size of the files.

    Raises:
        InputError: a file is missing or not text, a line is not a record, or it has a protocol
            version that this program does not know; the message names the line.
    """
    return first_of_each(_each([paths] if isinstance(paths, (str, Path)) else paths))


def read_some_records(paths: Sequence[str | Path]) -> list[Record]:
    """Like `read_records`, but files without any record are an InputError too."""
    records = read_records(paths)
    if not records:
        raise InputError(f"{', '.join(map(shown_path, paths))}: no records")
    return records


def _each(paths: Iterable[str | Path]) -> Iterator[Record]:
    for path in paths:
        shown = shown_path(path)
        if not Path(path).is_file():
            raise InputError(f"{shown}: no such record file")
        try:
            for number, line in _lines(Path(path), shown):
                yield _record(line, f"{shown}:{number}")
        except OSError as error:
            raise InputError(f"{shown}: cannot be read ({error.strerror or error})") from error


def first_of_each(found: Iterable[Record]) -> list[Record]:
    """The first record of each trial; a warning says if others ended with different errors."""
    records: dict[tuple[Any, ...], Record] = {}
    others: set[tuple[Any, ...]] = set()
    for record in found:
        first = records.setdefault(record.trial, record)
        if first.curve[-1].mse != record.curve[-1].mse:
            others.add(record.trial)
    if others:
        logging.getLogger("hyperinit").warning(
            "%d trials have several records that end with different errors; the first counts, in"
            " the order of the files",
            len(others),
        )
    return list(records.values())


def _lines(path: Path, shown: str) -> Iterator[tuple[int, str]]:
    """The complete lines that are not blank, with their line numbers."""
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            where = f"{shown}:{number}"
            if line[-1:] != b"\n":
                if len(line) == MAX_LINE_BYTES:
                    raise InputError(f"{where}: not a record (longer than {MAX_LINE_BYTES} bytes)")
                # The run that wrote it was killed in mid-line; ignored if it looks like a record.
                if line.startswith(b"{") and not _is_whole(line):
                    return
                if not line.startswith(b"{") and not line.isspace():
                    raise InputError(f"{where}: not a record file")
            if line.isspace():
                continue
            if number == 1 and line.startswith(SUBMISSION_START):
                _check_submission(line, where)
                continue
            try:
                yield number, line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{where}: not a record file ({error})") from error


def _check_submission(line: bytes, where: str) -> None:
    """Refuses a damaged first line of a submission; `publish` judges its content."""
    try:
        json.loads(line, object_pairs_hook=no_key_twice, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: not the first line of a submission ({reason})") from error


def _record(line: str, where: str) -> Record:
    try:
        values = json.loads(line, object_pairs_hook=no_key_twice, parse_constant=no_constant)
        if not isinstance(values, dict):
            raise ValueError(f"a record has fields, this is {type(values).__name__}")
        version = values.get("version")
        if type(version) is not int:
            raise ValueError("version must be a whole number")
        if version in VERSIONS:
            return checked(values)
    except RecursionError as error:
        raise InputError(f"{where}: not a record (nested too deeply)") from error
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= 200 else reason[:199] + "…"
        raise InputError(f"{where}: not a record ({reason})") from error
    known = " and ".join(map(str, VERSIONS))
    if not 0 <= version < 10**6:
        raise InputError(f"{where}: not a record (version is out of range)")
    raise InputError(f"{where}: protocol version {version}, but this program scores {known}")
