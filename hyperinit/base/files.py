"""Atomic writes, directories, locks, and paths in messages."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import itertools
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from hyperinit.base.errors import InputError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

# The answers of a file system without locks, such as some network mounts. Any other answer, except
# "held by another process", is an error to report.
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}

# If temporary files cannot be locked, one not written to for this long is a left-over.
LEFT_OVER_SEC = 3600.0


def in_forked_processes(function: Callable[[], object]) -> None:
    """Has every process that is forked from this one call a function first.

    Such a process has only the thread that forked it; what other threads held, they hold forever.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=function)


def numbered(stem: str) -> Iterator[str]:
    """STEM, STEM-2, STEM-3, ...: names for what is made again without replacing the first."""
    yield stem
    yield from (f"{stem}-{k}" for k in itertools.count(2))


def shown_path(path: str | os.PathLike[str]) -> str:
    """The path in a form that fits in a one-line message."""
    text = os.fsdecode(path)
    return text if text.isprintable() else repr(text)


def recorded_name(name: str) -> str:
    """A name that any file can hold: bytes of a file's name that are not UTF-8 become escapes."""
    return name.encode(errors="backslashreplace").decode()


@contextlib.contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """The path of a file, or of a link to it, for libraries that open only UTF-8 names."""
    if recorded_name(str(path)) == str(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="hyperinit-") as folder:
        link = Path(folder) / "file"
        link.symlink_to(path.absolute())
        yield link


def read_small(path: str | os.PathLike[str], most_bytes: int = 2**24) -> bytes:
    """The content of a file that is not meant to be large, such as settings or a document.

    Raises:
        InputError: it is not a file (a pipe or a device might never end), larger, or unreadable.
    """
    name = shown_path(path)
    if os.path.exists(path) and not os.path.isfile(path):
        what = "is a directory" if os.path.isdir(path) else "is a pipe or a device"
        raise InputError(f"{name}: {what}, expected a file")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size  # checked before memory is taken
            content = b"" if size > most_bytes else file.read(most_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: {reason}") from error
    if max(size, len(content)) > most_bytes:
        raise InputError(f"{name}: larger than {most_bytes} bytes")
    return content


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, read in parts.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def written_place(path: str | os.PathLike[str]) -> Path:
    """The file to write for a path: its target, if it is a link.

    Raises:
        OSError: the links form a circle.
    """
    place = Path(path)
    if place.is_symlink():
        place = Path(os.path.realpath(place))
        if place.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return place


def write_atomically(path: str | Path, content: bytes) -> None:
    """Replaces a file with new content, or leaves it exactly as it was.

    A link is kept, and its target is written. The new file has the mode that the process's umask
    gives. A process that is killed in here leaves a hidden temporary file, which the next write to
    the same path removes.

    Raises:
        InputError: the directory is missing, read-only or full, or the path is a directory, or a
            pipe or a device, which would be replaced; no partial file stays behind.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        place = written_place(path)
        if place.exists() and not place.is_file():
            what = "a directory" if place.is_dir() else "a pipe or a device"
            raise InputError(f"cannot write {shown_path(path)}: is {what}")
        temporary, file = _open_temporary(place)
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # before its lock is released
                os.replace(temporary, place)
        if fcntl is None:  # Windows cannot rename open files
            os.replace(temporary, place)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if isinstance(error, InputError):
            raise
        if isinstance(error, (OSError, ValueError)):  # ValueError: no name, or a zero byte in it
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot write {shown_path(path)}: {reason}") from error
        raise


def temporary_start(name: str) -> str:
    """The start of the names of temporary files that `write_atomically` makes for a file."""
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    return f".{name[:32]}-{digest}-"


def _open_temporary(path: Path) -> tuple[Path, IO[bytes]]:
    """Creates a hidden file beside `path`, locked while it is open.

    Its name depends only on `path`, so that the left-over of a killed process is found again. The
    lock distinguishes it from a file that is being written; then the next free number is used.
    """
    start, number = temporary_start(path.name), 0
    while True:
        temporary = path.with_name(f"{start}{number}.tmp")
        try:
            file = open(temporary, "xb")  # noqa: SIM115  the caller closes it
        except FileExistsError:
            if not _remove_left_over(temporary):
                number += 1
            continue
        # Another writer may have removed the file as a left-over before it was locked.
        if _lock(file) is not False and _is_at(file, temporary):
            return temporary, file
        file.close()


def _remove_left_over(temporary: Path) -> bool:
    """Removes a temporary file unless a process is writing it; False if one is."""
    if os.path.exists(temporary) and not os.path.isfile(temporary):
        return False  # a pipe would never end
    try:
        with open(temporary, "rb") as file:
            locked = _lock(file)
            if locked is None:
                locked = time.time() - os.fstat(file.fileno()).st_mtime > LEFT_OVER_SEC
            # Its writer may have renamed it since, and another one created the next file.
            if locked and fcntl is not None and _is_at(file, temporary):
                temporary.unlink()
        if locked and fcntl is None:  # Windows cannot remove open files
            temporary.unlink()
        return locked
    except FileNotFoundError:
        return True
    except OSError:  # perhaps another user's
        return False


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(file: IO[bytes]) -> bool | None:
    """Locks an open file until it is closed; False if it is locked, None if there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def write_or_spare(path: str | Path, write: Callable[[Path], None], what: str) -> None:
    """Writes an expensive result; if its place fails, such as a full disk, elsewhere.

    Args:
        path: Where it should go.
        write: Writes it to a path, or raises InputError.
        what: Its name in the message: "the SIREN".

    Raises:
        InputError: it could not be written there; the message says where it is instead, if
            anywhere.
    """
    try:
        write(Path(path))
    except InputError as error:
        try:
            spare = Path(tempfile.mkdtemp(prefix="hyperinit-")) / Path(path).name
        except OSError:
            raise error from None
        try:
            write(spare)
        except InputError:
            spare.parent.rmdir()
            raise error from None
        raise InputError(f"{error}; {what} is in {shown_path(spare)}") from error


def make_directory(path: str | Path) -> None:
    """Creates a directory and its parents, unless it exists.

    Raises:
        InputError: it cannot be created.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create {shown_path(path)}: {error.strerror or error}") from error


@contextlib.contextmanager
def exclusive(path: str | Path) -> Iterator[None]:
    """Holds a lock file during the block, so that two processes never write to one place.

    The lock is released when the process ends, however it ends; the empty file stays. On a file
    system without locks the block runs without one, after one warning to the logger "hyperinit",
    which Python prints on stderr by default.

    Raises:
        InputError: another process holds the lock, or it cannot be created.
    """
    path = Path(path)
    if not path.parent.is_dir():  # filelock would create it
        raise InputError(f"cannot write {shown_path(path)}: no such directory")
    # Marker files instead of locks would stay after a process was killed, and block the next one.
    lock = FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"{shown_path(path)}: another process is writing here") from error
    except NotImplementedError:
        _warn_of_no_locks(path)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            reason = error.strerror or error
            raise InputError(f"cannot write {shown_path(path)}: {reason}") from error
        _warn_of_no_locks(path)
    try:
        yield
    finally:
        if lock.is_locked:
            lock.release()


@functools.cache  # once per path
def _warn_of_no_locks(path: Path) -> None:
    logging.getLogger("hyperinit").warning(
        "%s: this file system has no locks; make sure that no other process writes here",
        shown_path(path),
    )
