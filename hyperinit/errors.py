"""The one error a user can mend: bad input, a wrong file, an unknown option."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, said in one line that names the file or field and what would be right.

    The command line prints the line and exits with code 2; anything else that is raised is a bug.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a name that is not in a table: suggests the nearest, then lists the known."""
    names = [str(entry) for entry in known]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return InputError(f"unknown {kind} {name!r}{hint}; known: {', '.join(names)}")
