"""The one error a user can mend: bad input, a wrong file, an unknown option."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, said in one line that names the file or field and what would be right.

    The command line prints the line and exits with code 2; anything else that is raised is a bug.
    """


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The nearest known name as " (did you mean 'paper'?)".

    "" if none is as similar as `cutoff`, between 0 (anything is) and 1 (only the name itself).
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]!r}?)" if near else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a name that is not in a table: suggests the nearest, then lists the known."""
    names = [str(entry) for entry in known]
    hint = did_you_mean(str(name), names, cutoff=0.5)
    return InputError(f"unknown {kind} {name!r}{hint}; known: {', '.join(names)}")
