"""The record of one fit, and the points of its curve.

Scoring reads only records, so nothing is rerun when a rule of scoring changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Any

from hyperinit.record.labels import label
from hyperinit.record.protocol import PROTOCOL_VERSION
from hyperinit.record.tracks import stored_track


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation of the full pixel grid.

    Attributes:
        epochs: Pixel visits so far / pixels of the image, including making the start.
        steps: Optimiser steps so far.
        sec: Seconds on the clock so far.
        mse: MSE over all pixels, in ImageNet-normalised units; infinite after divergence.
        psnr: In dB on [0, 1]; NaN after divergence, when read from a file.
        train_mse: Exponential moving average of the training loss; NaN before the first step,
            which is read back from a file as infinite.
    """

    epochs: float
    steps: int
    sec: float
    mse: float
    psnr: float
    train_mse: float


@dataclass(frozen=True)
class Record:
    """One fit, with everything needed to score it and to run it again.

    Attributes:
        track: A name in tracks.TRACKS.
        init: Name of the init.
        init_facts: The init's resolved row, or its checkpoint's identity.
        image: Name of the image; `image_hash` identifies its content.
        seed: Seed of the init's draw and of the order of pixels.
        lr, budget_epochs: What the run declared.
        curve: The start, evaluations, and the end. In the file a point is a row of its six fields,
            and numbers that are not finite are null.
        init_epochs, init_sec: The part of the cost that went into making the start.
        params_hash: SHA-256 of the fitted parameters.
        diverged: Whether the error became non-finite.
        settings: Image size, network size and every field of FitConfig that can affect the result.
        environment: Commit, versions, threads, device.
        version: The protocol's version.
        changes: The changes of the fit that the entry declares, such as {"frozen_layers": [0]}; the
            values are also in the settings, or in `lr`.
        is_tuning: Whether it is a fit of a tuning image, which only serves to choose a learning
            rate; in the file the track then ends with "-lr".
        source_hash: `image_hash` of the photograph that the image is a crop of; "" if unknown.
    """

    track: str
    init: str
    init_facts: dict[str, Any]
    image: str
    image_hash: str
    seed: int
    lr: float
    budget_epochs: float
    curve: tuple[CurvePoint, ...]
    init_epochs: float
    init_sec: float
    params_hash: str
    diverged: bool
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    version: int = PROTOCOL_VERSION
    changes: dict[str, Any] = field(default_factory=dict)
    is_tuning: bool = False
    source_hash: str = ""

    @property
    def start(self) -> CurvePoint:
        """The evaluation before the first step; its costs are those of making the start."""
        return self.curve[0]

    @property
    def end(self) -> CurvePoint:
        """The last evaluation; its error is finite even if the fit diverged, see `mse`."""
        return self.curve[-1]

    @property
    def mse(self) -> float:
        """Final error; infinite for a run that diverged."""
        return inf if self.diverged else self.end.mse

    @property
    def epochs(self) -> float:
        """Pixel visits / pixels, including making the start."""
        return self.end.epochs

    @property
    def sec(self) -> float:
        """Seconds on the clock, including making the start."""
        return self.end.sec

    @property
    def start_mse(self) -> float:
        """Error at step 0."""
        return self.start.mse

    @property
    def start_psnr(self) -> float:
        """PSNR at step 0, in dB."""
        return self.start.psnr

    @cached_property
    def label(self) -> str:
        """What tables call the entry: the init and the changes of its fit."""
        return label(self.init, self.changes)

    @property
    def pair(self) -> tuple[str, int]:
        """The unit of every count: the image, by its hash, and the seed."""
        return self.image_hash, self.seed

    @cached_property
    def make(self) -> str:
        """What the label stands for: the init's facts and the settings, as JSON."""
        return make_text(self.init_facts, self.settings)

    @cached_property
    def trial(self) -> tuple[Any, ...]:
        """The identity of the trial: records that share it must have the same result."""
        return trial_key(self)


def trial_key(of: Any) -> tuple[Any, ...]:
    """Identity of a trial, known before it is run; the learning rate is its last entry.

    It contains the label, so that records of the first format keep their identity.

    Args:
        of: A `Record`, or a trial that will give one: anything with the same attributes.
    """
    track = stored_track(of.track, of.is_tuning)
    facts = make_text(of.init_facts, of.settings)
    return (of.version, track, of.label, facts, of.image_hash, of.seed, of.budget_epochs, of.lr)


def make_text(init_facts: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """An init and the settings of its fits as one text, which is equal if they are."""
    return json.dumps([init_facts, settings], sort_keys=True)
