"""Files that are written whole or not at all, directories, locks, paths in messages."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hyperinit.base.errors import InputError


def shown_path(path: str | os.PathLike[str]) -> str:
    """The path as it can stand in a one-line message."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


try:
    import fcntl
except ImportError:  # not a POSIX system: no locks there
    fcntl = None  # type: ignore[assignment]


def write_atomically(path: str | Path, content: bytes) -> None:
    """Replaces a file with new content, or leaves it exactly as it was.

    Raises:
        InputError: the directory is missing, read-only or full; no partial file stays behind.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:64]}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's own mode is for secrets
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def make_directory(path: str | Path) -> None:
    """Creates a directory and those above it, unless it is there.

    Raises:
        InputError: it cannot be created.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def exclusive(path: str | Path) -> Iterator[None]:
    """Holds a lock file for the block, so that two processes never write to one place.

    The lock goes with the process that holds it, however that ends; the empty file stays.

    Raises:
        InputError: another process holds it, or it cannot be created.
    """
    try:
        file = open(path, "ab")  # noqa: SIM115  closed below
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"{path}: another process is writing here") from error
        yield
