"""The one error that users can fix: bad input, a wrong file, an unknown option, no memory."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hyperinit.base.terminal import visible

MOST_QUOTED = 80  # characters of a wrong name that a message repeats


class InputError(ValueError):
    """Bad input, with a one-line message that names the file or field and what would be right.

    The command line prints the line and exits with code 2; any other exception is a bug. Messages
    may quote text from anywhere, so line breaks become spaces, and control characters escapes.
    """

    def __init__(self, line: str = "") -> None:
        super().__init__(visible(" ".join(line.splitlines())))


# Parts of torch's RuntimeError messages when memory runs out, on a CPU and on a GPU.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns the errors of Python and torch when memory runs out into an InputError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and not any(said in text for said in _NO_MEMORY):
            raise
        raise InputError(
            "there is not enough memory for this: take smaller images or networks, or fewer at a"
            f" time ({text[:200] or 'MemoryError'})"
        ) from error


@contextmanager
def machine_errors() -> Iterator[None]:
    """Like `memory_errors`, and for Python's error if nothing can be written for a while."""
    try:
        with memory_errors():
            yield
    except FileNotFoundError as error:
        if "temporary directory" not in str(error):
            raise
        raise InputError(
            "there is no directory for temporary files: set TMPDIR to one that can be written to"
        ) from error


# Below this, checking the free memory is not worth it.
SMALL_BYTES = 2**26


class MemoryShort(InputError):
    """Too little memory; something smaller, such as another image of a set, may still fit."""


def check_memory(needed: float, what: str, advice: str) -> None:
    """Refuses work that does not fit in memory, before Linux would kill the process.

    Args:
        needed: The least number of bytes that it takes.
        what: What takes them, as the start of the message.
        advice: What would be right, naming the fields: "take a smaller width or depth".

    Raises:
        MemoryShort: that much is not free.
    """
    free = free_memory() if needed >= SMALL_BYTES else None
    if free is not None and needed > free:
        raise MemoryShort(
            f"{what} takes {needed / 1e9:.3g} GB of memory or more, and {free / 1e9:.3g} GB are"
            f" free: {advice}"
        )


def check_room(what: str, advice: str) -> None:
    """Refuses to keep one more of many small things when almost no memory is left.

    Args:
        what: What is kept, as the start of the message.
        advice: See `check_memory`.

    Raises:
        InputError: less than SMALL_BYTES are free.
    """
    free = free_memory()
    if free is not None and free < SMALL_BYTES:
        raise InputError(f"{what}: only {free / 1e9:.2g} GB of memory are left: {advice}")


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take; None if the system does not say.

    On Linux, the minimum of the free memory, swap included, and what is left to each of the
    process's control groups (containers, batch systems); elsewhere the machine's total memory.
    """
    found = []
    with suppress(OSError, ValueError, IndexError):
        rows = [row.split() for row in (root / "proc/meminfo").read_text().splitlines()]
        kib = {name: int(count) for name, count, *_ in rows}
        found.append((kib["MemAvailable:"] + kib.get("SwapFree:", 0)) * 1024)
    with suppress(OSError):
        for row in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = row.split(":", 2)
            if controllers in ("", "memory"):
                found += _left_to_groups(root / "sys/fs/cgroup" / controllers, path)
    if not found:
        with suppress(AttributeError, OSError, ValueError):  # not on every system
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return max(min(found), 0) if found else None


def _left_to_groups(top: Path, path: str) -> Iterator[int]:
    """The memory left to a control group and to its parents, of version 1 or 2."""
    for below in (Path(path.lstrip("/")), *Path(path.lstrip("/")).parents):
        for most, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with suppress(OSError, ValueError):  # no such file, or "max"
                limit = int((top / below / most).read_text())
                taken = int((top / below / used).read_text())
                rows = (top / below / "memory.stat").read_text().splitlines()
                freed = [int(row.split()[1]) for row in rows if row.split()[0] == cache]
                yield limit - taken + sum(freed)


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The nearest known name as " (did you mean 'paper'?)".

    "" if none is as similar as `cutoff`, from 0 (anything counts) to 1 (only the name itself).
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]!r}?)" if near else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a name that is not in a table: suggests the nearest one and lists all."""
    names = [str(entry) for entry in known]
    said = str(name) if len(str(name)) <= MOST_QUOTED else f"{str(name)[:MOST_QUOTED]}..."
    hint = did_you_mean(said, names, cutoff=0.5)
    return InputError(f"unknown {kind} {said!r}{hint}; known: {', '.join(names)}")
