"""Records -> the places where they were measured: seconds of different places do not compare."""

from __future__ import annotations

from collections.abc import Iterable

from hyperinit.record.records import Record

# Entries of a record's environment. Earlier records do not state the machine.
SECONDS_DEPEND_ON = ("machine", "processor", "device", "threads", "workers", "torch")

Place = tuple[str, ...]


def place(record: Record) -> Place:
    """What the seconds of a record depend on; "None" for entries that it does not state."""
    return tuple(str(record.environment.get(name)) for name in SECONDS_DEPEND_ON)


def places(records: Iterable[Record]) -> list[Place]:
    """All places where records were measured, sorted."""
    return sorted({place(record) for record in records})


def shown_place(found: Place) -> str:
    """Such as "Xeon, 2 cores, cpu, threads 1, torch 2.14.1", without missing entries."""
    said = {n: text for n, text in zip(SECONDS_DEPEND_ON, found, strict=True) if text != "None"}
    if "machine" in said:
        said.pop("processor", None)
    plain = ("machine", "processor", "device")
    return ", ".join(text if name in plain else f"{name} {text}" for name, text in said.items())


def without_seconds(count: int) -> str:
    """The note on a group whose seconds are left out because they come from several places."""
    return f"Measured in {count} places, on different machines or settings: seconds are left out."
