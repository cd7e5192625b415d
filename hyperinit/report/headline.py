"""Scores -> plain sentences: which init is fastest, by how much, how certainly, and on what."""

from __future__ import annotations

from math import isfinite

from hyperinit.base.results import count
from hyperinit.record.protocol import TARGETS
from hyperinit.report.names import shown
from hyperinit.score.costs import Cost, Ratio, number, ratio
from hyperinit.score.groups import THESE, TUNING
from hyperinit.score.score import GroupScore, InitScore

MEANINGS = {
    0.08: "low frequencies are there",
    0.02: "most of the structure is there",
    8e-4: "it largely looks like the image",
}


def headline(found: GroupScore) -> list[str]:
    """The sentences about a group, the most important one first."""
    target, (first, *rest) = found.target, found.fastest_first
    cost = first.targets[target].epochs
    name = shown(first.init)
    level = f"MSE {target:g} ({MEANINGS[target]})"
    if not cost.hits:
        top = max(record.budget_epochs for record in first.runs)
        lowest = f"The lowest error after {top:g} epochs is {number(first.final_mse)}, from {name}."
        diverged = "Every init has a fit whose largest budget diverged."
        known = lowest if isfinite(first.final_mse) else diverged
        sentences = [f"No init reaches even {level}. {known}"]
    elif not isfinite(cost.median):
        often = f"{name} gets there most often: " if rest else f"of {name}, "
        sentences = [
            f"No init gets most of its fits to {level} within the largest budget;"
            f" {often}{share(cost)}{'' if rest else ' do'}."
        ]
    elif not rest:
        sentences = [f"{name} reaches {level} after a median of {middle(cost)} {cost.unit}."]
    else:
        second = rest[0]
        sentences = [
            f"{name} is the fastest of {1 + len(rest)} inits: it reaches {level} after a median of"
            f" {middle(cost)} {cost.unit}; {shown(second.init)}, the runner-up, after"
            f" {middle(second.targets[target].epochs)}."
        ]
    if cost.hits:
        sentences += _comparisons(found)
        harder = [f"{t:g}" for t in TARGETS if t < target]
        if harder:
            run = (max(s.targets[target].epochs.limits.values()) for s in found.inits)
            most = f"{number(max(run))} {cost.unit}"
            sentences.append(
                f"No init gets most fits to {' or '.join(harder)} within the {most} that were run."
            )
    tests = found.group.tests
    images, photographs = found.group.images, found.group.photographs
    crops = f" of {count(photographs, 'photograph')}" if photographs < images else ""
    pairs = {record.pair for record in tests}
    fits = f"{count(images, 'test image')}{crops}, {count(len(pairs), 'pair')} of image and seed"
    workload = shown_workload(found)
    return [*sentences, f"Measured on {fits}; {workload}; learning rates {_rates(found)}."]


def _rates(found: GroupScore) -> str:
    """How learning rates were chosen, including inits without tuning runs among others."""
    tuned_on, on = found.group.tuned_on, found.chosen_on
    by = f"chosen {found.track.chosen_by}"
    if found.track.along_curve or not tuned_on or TUNING not in on.values():
        is_said = found.track.along_curve or THESE in on.values()
        return by if is_said else "as the records have them"
    text = f"chosen on {count(tuned_on, 'other image')}"
    for where, how in ((THESE, by), ("", "as the records have them")):
        if inits := [shown(s.init) for s in found.inits if on[s.init] == where]:
            text += f", of {', '.join(inits)} {how}"
    return text


def shown_workload(found: GroupScore) -> str:
    """The workload of a group, as in a title."""
    workload = found.group.workload
    return f"{workload.text}, protocol version {workload.version}"


def middle(cost: Cost) -> str:
    """The median without its unit, such as "12.3" or "> 64"."""
    return str(cost).partition(f" {cost.unit}")[0]


def share(cost: Cost) -> str:
    """How many pairs reach the target, such as "3 of 16"."""
    return f"{cost.hits} of {cost.n}"


def _comparisons(found: GroupScore) -> list[str]:
    """The first init against the runner-up and the reference, in epochs and in seconds."""
    first, *rest = found.fastest_first
    others = [*rest[:1], *(other for other in rest[1:] if other.init == found.reference)]
    sentences = [
        _compared(other, own.unit, ratio(other.init, own, theirs))
        for other in others
        for own, theirs in zip(
            first.targets[found.target].costs, other.targets[found.target].costs, strict=True
        )
    ]
    return [sentence for sentence in sentences if sentence]


def _compared(second: InitScore, unit: str, found: Ratio) -> str:
    other = shown(second.init)
    if found.mean is None:
        if found.at_most is not None:
            return f"It needs at most {number(found.at_most)} times the {unit} of {other}."
        return ""
    text = f"It needs {number(found.mean)} times the {unit} of {other}"
    if found.low is None or found.high is None:
        return f"{text} on a single photograph, the only one with a ratio; others may differ."
    text += f" (95 % interval over images {number(found.low)} to {number(found.high)}"
    text += ": a tie cannot be excluded)" if found.low <= 1 <= found.high else ")"
    if found.n < found.pairs:
        text += f", over the {found.n} of {found.pairs} pairs on which both costs are exact"
    text += f"; pairs that are {found.left_out} are left out" if found.left_out else ""
    return text + "."
