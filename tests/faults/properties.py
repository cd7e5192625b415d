"""What property-based tests have in common: how many examples, and the bounds on each.

In the gate there are few examples; `tests/fuzz.py` and HYPOTHESIS_EXAMPLES ask for more.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from hyperinit.base.errors import InputError

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]

SETTINGS = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "60")),
    deadline=None,
    print_blob=True,  # how to run a failure again
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HEAVY = settings(SETTINGS, max_examples=max(SETTINGS.max_examples // 4, 1))  # of slow readers
MAX_BYTES = 2**32  # of data of the process: what a hostile file must not get it to take
MAX_SEC = 60  # of a processor for one example, and ten times that by the clock


class TooSlow(BaseException):
    """An example took longer than MAX_SEC; no `except Exception` hides it."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Inside the block memory and time are bounded: beyond, a MemoryError or TooSlow is raised."""
    if resource is None:
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        # A machine that is busy with other work is not this one's fault.
        if time.process_time() - worked < MAX_SEC and time.monotonic() - began < 10 * MAX_SEC:
            signal.alarm(MAX_SEC)
        else:
            raise TooSlow

    worked, began = time.process_time(), time.monotonic()
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, limits[1]))
    signal.alarm(MAX_SEC)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def read_or_refuse(read: Callable[[Any], Any], source: Any) -> Any:
    """What a reader gives; None where it refuses, in one line that can be shown."""
    with bounded():
        try:
            return read(source)
        except InputError as error:
            line = str(error)
            assert line and line.isprintable() and len(line) < 1000, line
            return None


# Places and changes of a few bytes, and how much of the end is cut off.
FLIPS = st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), max_size=6)
CUTS = st.one_of(st.just(0), st.integers(0, 400))
# As many bytes of another file's beginning or of noise, in the middle.
SPLICES = st.one_of(st.none(), st.tuples(st.integers(0, 2**20), st.binary(max_size=40)))

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(10**8, 10**30),
        st.floats(),
        st.text(max_size=5),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def mutated(
    content: bytes,
    flips: Sequence[tuple[int, int]],
    cut: int,
    splice: tuple[int, bytes] | None = None,
) -> bytes:
    """A content with some bytes changed, some put in, and the end cut off."""
    changed = bytearray(content)
    for place, change in flips:
        if changed:
            changed[place % len(changed)] ^= change
    if splice is not None:
        at = splice[0] % (len(changed) + 1)
        changed[at:at] = splice[1]
    return bytes(changed[: len(changed) - cut] if cut else changed)


def put(path: Path, content: bytes) -> Path:
    """A file with this content; examples share a directory."""
    path.write_bytes(content)
    return path
