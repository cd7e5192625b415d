"""Bytes to be read again later, in a temporary file that is deleted together with its `Spool`."""

from __future__ import annotations

import os
import tempfile
from threading import Lock
from typing import IO

from hyperinit.base.errors import InputError


class Spool:
    """A temporary file that is appended to and read at any place, by several threads at a time."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._lock = Lock()

    def add(self, content: bytes) -> int:
        """Appends bytes; returns where they start.

        Raises:
            InputError: the disk is full or not writable.
        """
        try:
            with self._lock:
                if self._file is None:  # stays open as long as the spool exists
                    self._file = tempfile.TemporaryFile(prefix="hyperinit-")  # noqa: SIM115
                start = self._file.seek(0, os.SEEK_END)
                self._file.write(content)
                self._file.flush()
                return start
        except OSError as error:
            where = f"the directory for temporary files, {tempfile.gettempdir()}"
            reason = error.strerror or "cannot be written"
            raise InputError(
                f"{where}: {reason}; set TMPDIR to another directory, or take fewer images"
            ) from (error)

    def read(self, start: int, size: int) -> bytes:
        """Reads bytes that were added."""
        assert self._file is not None
        with self._lock:
            self._file.seek(start)
            return self._file.read(size)

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()
