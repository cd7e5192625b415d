"""Losses of a fit, step by step -> whether it has collapsed.

A fit whose learning rate is too high seldom ends in NaN. Its loss jumps by a factor and stays
there, or it never falls: the network shows only the image's mean colour, or stalls at the error of
a blurred picture until the rate has decayed, and ends 6 to 20 dB worse.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

# All constants but those of stalls come from the traces of 314 fits, 32 to 160 pixels a side, with
# rates up to 30 times the best: they find all dead fits and stop no healthy one. RISE_FACTOR (1.5
# stops healthy fits) and MIN_GAP_STEPS (8 stops small ones) matter most.

# The gap is the unit of time below. It has a minimum of steps, however few an epoch has, and of
# pixels, however few a step sees, because single batches say little.
GAP_EPOCHS = 1 / 4
MIN_GAP_STEPS, MIN_GAP_PIXELS = 16, 1024

# Time constant of the smoothed loss that is judged, and how many looks at it there are in a gap.
SMOOTHING_GAPS = 1 / 2
LOOKS_A_GAP = 16

# Number of looks whose losses are read together if reading means waiting for the device. A collapse
# is noticed at most half a gap later because of it.
READ_LOOKS = LOOKS_A_GAP // 2

# Risen: above RISE_FACTOR times its lowest value for RISE_GAPS gaps. The smoothing takes another
# seventh of a gap to show a rise by a factor of five, so a collapse is found within one gap.
RISE_FACTOR = 2.0
RISE_GAPS = 3 / 4

# Dead: after DEAD_GAPS gaps, above DEAD_VARIANCE times the image's variance (the error of its mean
# colour), and fallen by less than a share of DEAD_FALL in the last gap.
DEAD_GAPS = 2
DEAD_VARIANCE = 0.9
DEAD_FALL = 0.1

# Stalled: after STALL_GAPS gaps still above the error of a box blur of the image, and hardly
# falling. Not for networks with fewer weights per image value (3 x pixels) than
# STALL_WEIGHTS_RATIO, which may do no better. This finds 39 of 47 fits that end 6 dB worse, and
# none of 36 healthy ones: docs/research-log.md 46.
STALL_GAPS = 4
STALL_FALL = 0.12
STALL_WEIGHTS_RATIO = 0.8
BLUR_SIDE = 17

# A state is worth a snapshot if the loss is at most GOOD_FACTOR times its lowest value, and well
# below the variance: states shortly before an early collapse are already damaged by the rate.
GOOD_FACTOR = 1.3
GOOD_VARIANCE = 0.5


def detail(image: Tensor) -> Tensor:
    """Mean squared difference between images (..., 3, H, W) and their box blurs, (...)."""
    blurred = stacked = image.reshape(-1, *image.shape[-3:])
    for side in ((BLUR_SIDE, 1), (1, BLUR_SIDE)):  # axis by axis: the same as a box, but cheaper
        border = (side[0] // 2, side[1] // 2)
        blurred = avg_pool2d(blurred, side, stride=1, padding=border, count_include_pad=False)
    return (stacked - blurred).square().mean((-1, -2, -3)).reshape(image.shape[:-3])


class CollapseWatch:
    """Watches the loss of one fit, or of B fits that run together.

    Args:
        epoch_steps: Steps per epoch; need not be an integer.
        variances: Variance of each image, mean over the channels, in the units of the loss.
        device: The device of the losses.
        details: The `detail` of each image, in the same units; if empty, no fit counts as stalled.
        batch_pixels: Pixels per step.
    """

    def __init__(
        self,
        epoch_steps: float,
        variances: Sequence[float],
        device: torch.device | str = "cpu",
        details: Sequence[float] = (),
        batch_pixels: int = 64,
    ) -> None:
        gap = max(GAP_EPOCHS * epoch_steps, MIN_GAP_STEPS, MIN_GAP_PIXELS / batch_pixels)
        self.look_steps = max(1, int(gap / LOOKS_A_GAP))
        self._gap_looks = max(1, int(gap / self.look_steps))
        self._keep = math.exp(-self.look_steps / (SMOOTHING_GAPS * gap))
        self._sum = torch.zeros(len(variances), device=device)
        self._steps = 0
        reads = 1 if self._sum.device.type == "cpu" else READ_LOOKS
        self._means = torch.zeros(reads, len(variances), device=device)
        self._unread = 0  # number of looks in its first rows
        self._traces = [
            _Trace(variance, detail)
            for variance, detail in zip(
                variances, details or [math.inf] * len(variances), strict=True
            )
        ]

    def feed(self, losses: Tensor) -> bool:
        """Adds the mean losses of one step, () or (B,), detached.

        Returns:
            Whether it has looked, so that `collapsed`, `stalled` and `good` are up to date. Only
            then has it waited for the device.
        """
        self._sum += losses
        self._steps += 1
        if self._steps < self.look_steps:
            return False
        torch.div(self._sum, self._steps, out=self._means[self._unread])
        self._sum.zero_()
        self._steps = 0
        self._unread += 1
        if self._unread < len(self._means):
            return False
        for means in self._means.tolist():
            for trace, mean in zip(self._traces, means, strict=True):
                trace.look(mean, self._keep, self._gap_looks)
        self._unread = 0
        return True

    @property
    def collapsed(self) -> list[bool]:
        """For each fit, whether its loss is not finite, has risen for good, or never fell."""
        return [trace.collapsed(self._gap_looks) for trace in self._traces]

    @property
    def stalled(self) -> list[bool]:
        """For each fit, whether it has stalled; judged at a single look, so true only there."""
        return [trace.stalled(self._gap_looks) for trace in self._traces]

    @property
    def good(self) -> list[bool]:
        """For each fit, whether a snapshot of the current state is worth keeping."""
        return [trace.good for trace in self._traces]

    def restored(self, image: int = 0) -> None:
        """Starts watching a fit afresh after it was taken back to a snapshot or its start."""
        before = self._traces[image]
        self._traces[image] = _Trace(before.variance, before.detail)

    def state(self) -> dict[str, Any]:
        """Everything that the next looks depend on."""
        traces = [trace.state() for trace in self._traces]
        unread = self._means[: self._unread].clone()
        return {"sum": self._sum.clone(), "steps": self._steps, "traces": traces, "unread": unread}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores a `state()`."""
        self._sum.copy_(state["sum"])
        self._steps = state["steps"]
        self._unread = len(state["unread"])
        self._means[: self._unread] = state["unread"]
        for trace, saved in zip(self._traces, state["traces"], strict=True):
            trace.load_state(saved)


class _Trace:
    """The smoothed loss of one fit, at each look."""

    def __init__(self, variance: float, detail: float) -> None:
        self.variance, self.detail = variance, detail
        self.finite = True
        self.lowest = math.inf
        self.looks = self.looks_above = 0
        self.recent: deque[float] = deque()  # smoothed losses of the last gap, the newest last

    def look(self, mean: float, keep: float, gap_looks: int) -> None:
        self.finite = math.isfinite(mean)
        if not self.finite:
            return
        smooth = keep * self.recent[-1] + (1 - keep) * mean if self.recent else mean
        self.recent.append(smooth)
        if len(self.recent) > gap_looks + 1:
            self.recent.popleft()
        self.lowest = min(self.lowest, smooth)
        self.looks += 1
        self.looks_above = self.looks_above + 1 if smooth > RISE_FACTOR * self.lowest else 0

    def collapsed(self, gap_looks: int) -> bool:
        if not self.finite:
            return True
        if not self.recent:
            return False
        risen = self.looks_above > RISE_GAPS * gap_looks
        late = self.looks >= DEAD_GAPS * gap_looks
        return risen or (late and self._stays(DEAD_VARIANCE * self.variance, DEAD_FALL))

    def stalled(self, gap_looks: int) -> bool:
        at_last = self.finite and self.looks == STALL_GAPS * gap_looks
        return at_last and self._stays(self.detail, STALL_FALL)

    def _stays(self, level: float, fall: float) -> bool:
        """Whether the loss is above a level, and fell by less than a share in the last gap."""
        now, before = self.recent[-1], self.recent[0]
        return now > level and now >= (1 - fall) * before

    @property
    def good(self) -> bool:
        if not self.finite or not self.recent:
            return False
        return self.recent[-1] <= min(GOOD_FACTOR * self.lowest, GOOD_VARIANCE * self.variance)

    def state(self) -> dict[str, Any]:
        return {**vars(self), "recent": list(self.recent)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self.recent = deque(state["recent"])
