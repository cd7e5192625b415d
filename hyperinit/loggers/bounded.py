"""Calls that must not hold up a run, whatever a logger or its server does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


def bounded(work: Callable[[], _Result], limit_sec: float) -> _Result:
    """Runs `work` in a thread that is left behind, with a TimeoutError, after `limit_sec`.

    Raises:
        Exception: whatever `work` raised.
    """
    results: list[_Result] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="hyperinit-logger", daemon=True)
    thread.start()
    thread.join(limit_sec)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {limit_sec:g} s")
    return results[0]
