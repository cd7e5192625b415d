"""The one error a user can mend: bad input, a wrong file, an unknown option."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hyperinit.base.terminal import visible

MOST_QUOTED = 80  # characters of a wrong name that a message repeats


class InputError(ValueError):
    """Bad input, said in one line that names the file or field and what would be right.

    The command line prints the line and exits with code 2; anything else that is raised is a bug.
    What a message quotes may come from anywhere: line breaks become spaces, and control characters
    are shown as escapes.
    """

    def __init__(self, line: str = "") -> None:
        super().__init__(visible(" ".join(line.splitlines())))


# What torch says in a RuntimeError where there is no memory, on a CPU and on a GPU.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns what Python and torch raise where memory does not suffice into an InputError."""
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


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The nearest known name as " (did you mean 'paper'?)".

    "" if none is as similar as `cutoff`, between 0 (anything is) and 1 (only the name itself).
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]!r}?)" if near else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a name that is not in a table: suggests the nearest, then lists the known."""
    names = [str(entry) for entry in known]
    said = str(name) if len(str(name)) <= MOST_QUOTED else f"{str(name)[:MOST_QUOTED]}..."
    hint = did_you_mean(said, names, cutoff=0.5)
    return InputError(f"unknown {kind} {said!r}{hint}; known: {', '.join(names)}")
