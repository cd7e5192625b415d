"""What tables show beside our costs: the numbers that papers print, and the reference init."""

from __future__ import annotations

from collections.abc import Iterable

from hyperinit.base.errors import unknown_name
from hyperinit.record.records import Record
from hyperinit.score.score import GroupScore, PsnrAfter, score_groups

USUAL_REFERENCE = "33"


def related_scores(
    records: Iterable[Record], asked: str | None, *, tune_on_test: bool = False, strict: bool = True
) -> list[GroupScore]:
    """`score_groups` with ratios to a given init; if none is given, to 33 if that is there.

    Raises:
        InputError: no group has the init that was asked for; or see `score_groups`.
    """
    scores = score_groups(
        records, asked or USUAL_REFERENCE, tune_on_test=tune_on_test, strict=strict
    )
    known = dict.fromkeys(own.init for found in scores for own in found.inits)
    if asked and known and asked not in known:
        raise unknown_name("init to relate others to", asked, known)
    return scores


def psnr_beside(found: GroupScore, scores: Iterable[GroupScore]) -> dict[str, PsnrAfter]:
    """Init -> steps -> mean PSNR in the published track, for a group's inits.

    From the group itself, or the first other group with such columns and the same sizes. An init
    that has the same name there but is another one is left out.
    """
    sizes, facts = _sizes(found), {s.init: s.runs[0].init_facts for s in found.inits}
    for other in [found, *scores]:
        if other.track.psnr_steps and other.inits and _sizes(other) == sizes:
            own = [s for s in other.inits if s.runs[0].init_facts == facts.get(s.init)]
            return {s.init: s.psnr_after for s in own}
    return {}


def _sizes(found: GroupScore) -> tuple[int, ...]:
    workload = found.group.workload
    return workload.image_size, workload.width, workload.depth
