"""Lines and progress bars for the user; output that can never stop the work; and an orderly end on
Ctrl-C, SIGTERM and SIGHUP, with one line and the exit code that shells expect."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.dummy import DummyProcess
from types import FrameType
from typing import Any

from hyperinit.base.results import bar_class, manner, own_manner

BAR_AFTER_SEC = 2.0  # of work, before a bar is shown
BAR_EVERY_SEC = 0.1  # shortest time between two updates of a bar
LOG_LINE_SEC = 30.0  # if stderr is not a terminal: before the first line, and between lines

_HANG_UP = getattr(signal, "SIGHUP", None)  # not on every system

# Errors of writes when the reader has gone away, the disk is full or the terminal was closed.
_LOST = {errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT, errno.ECONNRESET}


class ForgivingStream:
    """A text stream whose writes never fail: after the first failure, output is discarded.

    All other attributes are the stream's own.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Like a file's."""
        with self._forgiving():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Like a file's."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Like a file's."""
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
        """Points the stream's descriptor at /dev/null, so that buffered output cannot fail."""
        with contextlib.suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)
            self._stream.flush()


@contextlib.contextmanager
def forgiving_output() -> Iterator[None]:
    """Inside the block printing cannot raise.

    Characters that the terminal's encoding lacks are shown as backslash escapes. If the reader of a
    pipe has gone (`| head -1`) or the disk behind stdout is full, further output is lost and the
    work continues. At the end, the previous streams, and how the command prints (see results.py),
    are restored.
    """
    _fill_closed_descriptors()
    before = sys.stdout, sys.stderr
    errors = [getattr(stream, "errors", None) for stream in before]
    for stream in before:
        _show_unknown(stream, "backslashreplace")
    nothing = open(os.devnull, "w")  # noqa: SIM115  for a stream that was closed (`>&-`)
    sys.stdout, sys.stderr = (ForgivingStream(stream or nothing) for stream in before)
    try:
        with own_manner():
            yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        nothing.close()
        sys.stdout, sys.stderr = before
        for stream, how in zip(before, errors, strict=True):
            _show_unknown(stream, how)


def _fill_closed_descriptors() -> None:
    """Opens descriptors 0 to 2 on /dev/null if the process was started without them (`>&-`).

    Otherwise the next opened file would get the number of stderr, and libraries would print into
    it.
    """
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


def _show_unknown(stream: Any, errors: str | None) -> None:
    """Sets how a stream handles characters that it cannot encode, if that can be set."""
    if errors is not None and hasattr(stream, "reconfigure"):
        with contextlib.suppress(OSError, ValueError):
            stream.reconfigure(errors=errors)


def progress(*arguments: Any, **settings: Any) -> Any:
    """A progress bar with the time left, on stderr, for work that takes longer than two seconds.

    If stderr is not a terminal, it prints a line every half minute, which long logs need and short
    pipes never see.
    """
    shown = sys.stderr.isatty()
    every, delay = (0.5, BAR_AFTER_SEC) if shown else (LOG_LINE_SEC, LOG_LINE_SEC)
    settings = {"mininterval": every, "delay": delay, "disable": manner().quiet, **settings}
    return bar_class()(*arguments, **settings)


def say(text: str) -> None:
    """Prints a line for the user on stderr, without disturbing a progress bar."""
    if manner().quiet:
        return
    from tqdm import tqdm

    tqdm.write(visible(text), file=sys.stderr)


def visible(text: str) -> str:
    """A text that is safe to print: names in it cannot colour a terminal, move its cursor or change
    the direction of writing. Line breaks are kept."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def defused(text: object) -> str:
    """A name that other programs show as plain text: one line, no link, no markup."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    line = re.sub(r"(?i)\b(javascript|data|vbscript|https?|ftp|mailto):", r"\1 :", line)
    return line.replace("](", "] (").replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}")


class EpochBar:
    """A progress bar on stderr for a fit that takes longer than two seconds; none in a pipe."""

    def __init__(self, budget_epochs: float) -> None:
        self.is_shown = sys.stderr.isatty() and not manner().quiet
        self._seen = ""
        self._bar = bar_class()(
            total=budget_epochs,
            delay=BAR_AFTER_SEC,
            mininterval=BAR_EVERY_SEC,
            disable=not self.is_shown,
            leave=False,
            bar_format="{percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} epochs, {remaining} left"
            "{postfix}",
        )

    def __enter__(self) -> EpochBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self, epochs: float, mse: float, planned_epochs: float | None = None) -> None:
        """Shows the progress of the fit, its error over all pixels, and its end if that moves."""
        self._seen = f"MSE {mse:.3g}"
        self._move(epochs, self._seen, planned_epochs)

    def step(self, epochs: float, loss: float) -> None:
        """Shows the progress between two evaluations of all pixels, and the training loss."""
        self._move(epochs, f"{self._seen}, training loss {loss:.3g}")

    def _move(self, epochs: float, text: str, planned_epochs: float | None = None) -> None:
        total = planned_epochs or self._bar.total
        self._bar.total = max(total, epochs)  # restarts exceed the budget
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(epochs - self._bar.n)


@dataclass
class Countdown:
    """Counts the things that are done, and estimates the time for the rest.

    Attributes:
        total: Number of things.
        done: Number of things that are done.
        timed: How many of these took time; the others were already done.
        clock: Returns seconds since an arbitrary moment.
    """

    total: int
    done: int = 0
    timed: int = 0
    clock: Callable[[], float] = time.monotonic
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def worked(self) -> str:
        """Counts one more that took time: "3 of 10, 1:05 left"."""
        self.timed += 1
        return self.passed()

    def passed(self) -> str:
        """Counts one more."""
        self.done += 1
        left = self.total - self.done
        sec = max(self.clock() - self.began, 0.0) / max(self.timed, 1) * left
        ahead = f", {shown_sec(sec)} left" if left > 0 and self.timed else ""
        return f"{self.done} of {self.total}{ahead}"


def shown_sec(sec: float) -> str:
    """Seconds in readable form: 7 s, 1:05, 2:03:04."""
    minutes, seconds = divmod(round(sec), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02}"
    return f"{minutes}:{seconds:02}" if minutes else f"{seconds} s"


def shown_bytes(count: float) -> str:
    """Bytes in readable form: 900 kB, 1.2 GB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


class Stopped(KeyboardInterrupt):
    """The process was asked to end.

    It is a KeyboardInterrupt, so that cleanup for Ctrl-C also happens for other signals.

    Attributes:
        number: The number of the signal.
        advice: What was kept and how to continue, for the line that says that work was stopped.
    """

    def __init__(self, number: int = signal.SIGINT, advice: str = "") -> None:
        super().__init__()
        self.number = number
        self.advice = advice


def exit_code(error: KeyboardInterrupt) -> int:
    """The exit code of a stopped process: 130 after Ctrl-C, 143 SIGTERM, 129 SIGHUP."""
    return 128 + int(getattr(error, "number", signal.SIGINT))


@contextlib.contextmanager
def advising(advice: str) -> Iterator[None]:
    """Work stopped inside the block prints this advice, unless an inner block gave its own."""
    try:
        yield
    except BaseException as error:
        stop = _stop_behind(error)
        if stop is None:
            raise
        better = getattr(stop, "advice", "")
        raise Stopped(exit_code(stop) - 128, better or advice) from error


def _stop_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C or signal that caused an exception; None if it has another reason.

    Interrupted work may fail during its cleanup (a lock that was not taken yet cannot be released).
    An InputError about a file or a value is kept, because it is worth more to the user.
    """
    while error is not None and not isinstance(error, (KeyboardInterrupt, ValueError)):
        error = error.__context__
    return error if isinstance(error, KeyboardInterrupt) else None


def stoppable(work: Callable[[], int], *, owns_process: bool = False) -> int:
    """Runs the work of a command, and returns its exit code.

    The first Ctrl-C, SIGTERM or SIGHUP raises `Stopped` in it, which becomes one line and exit code
    128 + the signal's number. A second one ends the process at once, like kill -9: writes are
    atomic, and locks end with their process. Signals that the process ignores (nohup) stay ignored,
    and so do repeated signals from a terminal that closes.

    Args:
        work: The work; any other exception is passed on.
        owns_process: Whether the process ends with the work. If so, and the work was stopped or
            failed, it does not wait for what other threads still compute.
    """
    handler, failed = _Handler(), False
    with handler.installed():
        try:
            code = work()
        except BaseException as error:
            stop = _stop_behind(error)
            failed = stop is None
            if failed and not (owns_process and _others_compute()):
                raise
            code = exit_code(stop) if stop else _told(error)
            if stop:
                handler.tell("; ".join(filter(None, ["stopped", getattr(stop, "advice", "")])))
        if owns_process and (failed or handler.number is not None):
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)
    return code


def _others_compute() -> bool:
    """Whether pool threads still compute: Python aborts if it ends while they are inside C++."""
    return any(isinstance(thread, DummyProcess) for thread in threading.enumerate())


def _told(error: BaseException) -> int:
    """The exit code of an error, which is printed here unless it was printed already."""
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    sys.excepthook(type(error), error, error.__traceback__)
    return 1


class _Handler:
    """Handles signals inside `installed`.

    Attributes:
        number: The number of the first signal.
        telling: Whether the line about it is being printed.
        told: Whether it has been printed.
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
        """Prints the line for the user; another signal waits until it is printed."""
        self.telling = True
        try:
            say(line)
        except Exception:  # the signal came while the progress display was being set up
            with contextlib.suppress(OSError):
                os.write(2, f"{line}\n".encode(errors="replace"))
        self.telling, self.told = False, True
        if self.hurried and self.number is not None:
            os._exit(128 + self.number)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Catches signals inside the block, except those that an outer block already catches."""
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
                # Unless training has set the signal of a closing terminal to be ignored for good.
                if signal.getsignal(number) is self:
                    signal.signal(number, found)
