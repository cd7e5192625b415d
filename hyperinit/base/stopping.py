"""Ctrl-C, SIGTERM and SIGHUP -> an orderly end: one line, and the exit code that shells expect."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from hyperinit.base.terminal import say

_HANG_UP = getattr(signal, "SIGHUP", None)  # not on every system


class Stopped(KeyboardInterrupt):
    """The process was asked to end.

    It is a KeyboardInterrupt, so that whatever tidies up after Ctrl-C does so after other signals.

    Attributes:
        number: Of the signal.
        advice: What was kept and how to go on, for the line that says that work was stopped.
    """

    def __init__(self, number: int = signal.SIGINT, advice: str = "") -> None:
        super().__init__()
        self.number = number
        self.advice = advice


def exit_code(error: KeyboardInterrupt) -> int:
    """What a process that was stopped exits with: 130 after Ctrl-C, 143 SIGTERM, 129 SIGHUP."""
    return 128 + int(getattr(error, "number", signal.SIGINT))


@contextlib.contextmanager
def advising(advice: str) -> Iterator[None]:
    """What is stopped inside the block says this, unless something inside has said it better."""
    try:
        yield
    except KeyboardInterrupt as error:
        better = getattr(error, "advice", "")
        raise Stopped(exit_code(error) - 128, better or advice) from error


def stoppable(work: Callable[[], int], *, owns_process: bool = False) -> int:
    """Does the work of a command, and returns its exit code.

    The first Ctrl-C, SIGTERM or SIGHUP raises `Stopped` in it, which becomes one line and 128 + the
    number of the signal. A second one ends the process at once, as kill -9 would: files are written
    whole or not at all, and locks go with their process. Signals that the process ignores (nohup)
    stay ignored, and so does a terminal that says more than once that it closes.

    Args:
        work: What may raise anything else, which is passed on.
        owns_process: Whether the process ends with the work: where it was stopped, what other
            threads still compute is then not waited for.
    """
    handler = _Handler()
    with handler.installed():
        try:
            code = work()
        except KeyboardInterrupt as error:
            advice = getattr(error, "advice", "")
            code = exit_code(error)
            handler.tell(f"stopped; {advice}" if advice else "stopped")
        if owns_process and handler.number is not None:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)
    return code


class _Handler:
    """Of signals, inside `installed`.

    Attributes:
        number: Of the first signal that came.
        telling: Whether the line about it is being printed.
        told: Whether it has been.
        hurried: Whether another signal came in the meantime.
    """

    number: int | None = None
    telling = told = hurried = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
            raise Stopped(number)
        if number == _HANG_UP == self.number:
            return
        if self.telling and not self.hurried:
            self.hurried = True
            return
        if not self.told:
            with contextlib.suppress(OSError):
                os.write(2, b"stopped at once\n")
        os._exit(128 + self.number)

    def tell(self, line: str) -> None:
        """Prints what the user is told; another signal waits for that."""
        self.telling = True
        say(line)
        self.telling, self.told = False, True
        if self.hurried and self.number is not None:
            os._exit(128 + self.number)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Catches signals inside the block; those that an outer block catches are left to it."""
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, _HANG_UP):
                found = None if number is None else signal.getsignal(number)
                if number is None or found in (None, signal.SIG_IGN) or isinstance(found, _Handler):
                    continue
                before[number] = signal.signal(number, self)
        try:
            yield
        finally:
            for number, found in before.items():
                # Not where training has ignored a terminal that closes, to the end of the process.
                if signal.getsignal(number) is self:
                    signal.signal(number, found)
