"""Lines and progress bars for the user, on stderr."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress(*arguments: Any, **settings: Any) -> Any:
    """A progress bar on stderr; a line every half minute where that is not a terminal."""
    return tqdm(*arguments, mininterval=0.5 if sys.stderr.isatty() else 30, **settings)


def say(text: str) -> None:
    """A line for the user, beside the progress bar."""
    tqdm.write(text, file=sys.stderr)
