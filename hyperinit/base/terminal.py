"""Lines and progress bars for the user, and output that never ends or fails the work behind it."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

# What a reader that has gone away, a full disk or a terminal that was closed make of a write.
_LOST = {errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT, errno.ECONNRESET}


class ForgivingStream:
    """A text stream whose writes never fail: from the first that does, output is thrown away.

    Everything else is the stream's own.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As a file's."""
        with self._forgiving():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """As a file's."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """As a file's."""
        with self._forgiving():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _LOST:
                raise
            self._throw_away()
        except ValueError:  # a file that has been closed
            if not self._stream.closed:
                raise

    def _throw_away(self) -> None:
        """Points the stream's descriptor at nothing, so that what is buffered fails no more."""
        with contextlib.suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)
            self._stream.flush()


@contextlib.contextmanager
def forgiving_output() -> Iterator[None]:
    """Inside the block nothing that is printed can raise.

    Characters that the terminal's encoding lacks are shown as backslash escapes. When the reader
    of a pipe has gone (`| head -1`) or the disk behind stdout is full, what is still printed is
    lost and the work continues. The streams of before are put back at the end.
    """
    before = sys.stdout, sys.stderr
    errors = [getattr(stream, "errors", None) for stream in before]
    for stream in before:
        _show_unknown(stream, "backslashreplace")
    sys.stdout, sys.stderr = (
        stream if stream is None else ForgivingStream(stream) for stream in before
    )
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before
        for stream, how in zip(before, errors, strict=True):
            _show_unknown(stream, how)


def _show_unknown(stream: Any, errors: str | None) -> None:
    """Sets what a stream does about characters that it cannot encode, where that can be set."""
    if errors is not None and hasattr(stream, "reconfigure"):
        with contextlib.suppress(OSError, ValueError):
            stream.reconfigure(errors=errors)


def progress(*arguments: Any, **settings: Any) -> Any:
    """A progress bar on stderr; a line every half minute where that is not a terminal."""
    from tqdm import tqdm

    return tqdm(*arguments, mininterval=0.5 if sys.stderr.isatty() else 30, **settings)


def say(text: str) -> None:
    """A line for the user, beside the progress bar."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def shown_sec(sec: float) -> str:
    """Seconds as people read them: 7 s, 1:05, 2:03:04."""
    minutes, seconds = divmod(round(sec), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02}"
    return f"{minutes}:{seconds:02}" if minutes else f"{seconds} s"
