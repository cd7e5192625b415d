"""What papers print beside our costs."""

from __future__ import annotations

from collections.abc import Iterable

from hyperinit.score.score import GroupScore, PsnrAfter


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
