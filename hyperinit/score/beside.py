"""What may stand side by side: seconds of one place, and what papers print beside our costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hyperinit.record.records import Record
from hyperinit.score.score import GroupScore, PsnrAfter

# Of a record's environment. Earlier records do not say the machine.
SECONDS_DEPEND_ON = ("machine", "processor", "device", "threads", "workers", "torch")

Place = tuple[str, ...]


def place(record: Record) -> Place:
    """What the seconds of a record depend on; "None" for what it does not say."""
    return tuple(str(record.environment.get(name)) for name in SECONDS_DEPEND_ON)


def places(records: Iterable[Record]) -> list[Place]:
    """All places that records were measured in, sorted."""
    return sorted({place(record) for record in records})


def shown_place(found: Place) -> str:
    """Such as "Xeon, 2 cores, cpu, threads 1, torch 2.14.1", without what is not said."""
    said = {n: text for n, text in zip(SECONDS_DEPEND_ON, found, strict=True) if text != "None"}
    if "machine" in said:
        said.pop("processor", None)
    plain = ("machine", "processor", "device")
    return ", ".join(text if name in plain else f"{name} {text}" for name, text in said.items())


def without_mixed_seconds(found: GroupScore) -> GroupScore:
    """A group without its seconds where they are of several places; a note says so."""
    several = len(places(found.group.tests))
    if several < 2:
        return found
    inits = [
        replace(s, targets={t: replace(own, seconds=None) for t, own in s.targets.items()})
        for s in found.inits
    ]
    note = f"Measured in {several} places, on different machines or settings: seconds are left out."
    return replace(found, inits=tuple(inits), notes=(*found.notes, note), has_seconds=False)


def psnr_beside(found: GroupScore, scores: Iterable[GroupScore]) -> dict[str, PsnrAfter]:
    """Init -> steps -> mean PSNR in the track that the literature prints, for a group's inits.

    Of the group itself, or of the first other one with such columns that is of the same sizes.
    """
    sizes = _sizes(found)
    for other in [found, *scores]:
        if other.track.psnr_steps and other.inits and _sizes(other) == sizes:
            return {s.init: s.psnr_after for s in other.inits}
    return {}


def _sizes(found: GroupScore) -> tuple[int, ...]:
    workload = found.group.workload
    return workload.image_size, workload.width, workload.depth
