"""What a benchmark measures, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from types import MappingProxyType
from typing import Any

from hyperinit.base.errors import InputError
from hyperinit.bench.trial import Trial
from hyperinit.inits.start import Init
from hyperinit.photos.workload import NamedImage
from hyperinit.record.labels import label
from hyperinit.record.protocol import Protocol
from hyperinit.record.tracks import Track, find_track


@dataclass(frozen=True)
class Entry:
    """One line of a comparison: an init, and any special settings of the fits from it.

    Attributes:
        init: The init of its fits.
        changes: Fields of FitConfig that it changes openly: they are part of its label.
        source_fit: Fields of FitConfig from the init's source; not part of the label.
    """

    init: Init
    changes: Mapping[str, Any] = field(default_factory=dict)
    source_fit: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What tables call it."""
        return label(self.init.name, self.changes)

    @property
    def lr(self) -> float | None:
        """The learning rate, if it is given and not to be chosen."""
        return self.changes.get("lr")


@dataclass(frozen=True)
class Plan:
    """What a benchmark measures.

    Attributes:
        track: A name in tracks.TRACKS.
        entries: The entries to compare; their labels differ.
        images: Test images, at the protocol's size.
        tuning_images: Images to choose learning rates on; none in a track without a ladder.
        seeds: Test seeds are 0 to seeds - 1.
        protocol: Everything that the trials share.
        stop_mse: For fits that are scored along their curve, see FitConfig.

    Raises:
        InputError: the plan would not measure what it says: an init was made from a test image,
            rates are chosen on one, the tuned track would change the fit, ...
    """

    track: str
    entries: tuple[Entry, ...]
    images: tuple[NamedImage, ...]
    tuning_images: tuple[NamedImage, ...]
    seeds: int
    protocol: Protocol
    stop_mse: float | None = None

    def __post_init__(self) -> None:
        row = find_track(self.track)
        if self.seeds < 1:
            raise InputError(f"seeds must be at least 1, not {self.seeds}")
        labels = [entry.label for entry in self.entries]
        _check_distinct("inits", labels, "are called {}: name one of them, as NAME=INIT")
        _check_distinct("images", [image.hash for image in self.images], "are the same: {}")
        for entry in self.entries:
            if entry.changes and not row.may_change_fit:
                raise InputError(
                    f"the {self.track} track fits every init alike, but {entry.label} would change"
                    " the fit: use the open track"
                )
            for image in self.images:
                if {image.hash, image.source_hash} & entry.init.train_hashes:
                    raise InputError(
                        f"init {entry.init.name} was trained on the test image {image.name};"
                        " leave one of them out"
                    )
        wanted = 0 if row.along_curve else self.protocol.lr_images
        if len(self.tuning_images) != wanted:
            raise InputError(
                f"learning rates are tuned on {wanted} images, not {len(self.tuning_images)}: give"
                f" {wanted} with --tuning-images, or another number as --lr-images"
            )
        tested = {h: i.name for i in self.images for h in (i.hash, i.source_hash) if h}
        for image in self.tuning_images:
            same = tested.get(image.hash) or tested.get(image.source_hash)
            if same:
                raise InputError(f"tuning image {image.name} is the test image {same}")

    @property
    def row(self) -> Track:
        """The track's row in the table."""
        return find_track(self.track)

    @property
    def total_epochs(self) -> float:
        """Pixel visits / pixels of all trials, at most."""
        pairs, budgets = len(self.images) * self.seeds, self.protocol.budgets_epochs
        if self.row.along_curve:  # one fit, that of the largest budget
            return len(self.entries) * pairs * max(budgets)
        tests = pairs * sum(budgets)
        first, *rest = self.protocol.tuned_budgets
        tuning = sum(
            most_fits(self.protocol, self.alternatives(entry), is_first=True) * first
            + most_fits(self.protocol, self.alternatives(entry), is_first=False) * sum(rest)
            for entry in self.entries
        )
        return len(self.entries) * tests + len(self.tuning_images) * tuning

    def alternatives(self, entry: Entry) -> dict[str, tuple[Any, ...]]:
        """Field of FitConfig -> the values tried for an entry, the protocol's own first."""
        given = self.protocol.alternatives.items()
        return {name: values for name, values in given if name not in entry.changes}

    def trial(
        self,
        entry: Entry,
        image: NamedImage,
        budget: float,
        lr: float | None,
        seed: int,
        *,
        chosen: Mapping[str, Any] = MappingProxyType({}),
        is_tuning: bool = False,
    ) -> Trial:
        """One of the plan's trials; `chosen` are the settings chosen on tuning images."""
        tried = self.alternatives(entry)
        own = {name: value for name, value in chosen.items() if name in tried}
        fit = {**entry.source_fit, **own, **entry.changes}
        if self.row.along_curve:
            fit |= self._curve_fit()
        return Trial(
            entry.init,
            image,
            self.protocol,
            budget,
            lr,
            seed,
            self.track,
            is_tuning=is_tuning,
            changes=entry.changes,
            fit_fields=fit,
        )

    def _curve_fit(self) -> dict[str, Any]:
        """When a fit that is scored along its curve is evaluated, and when it stops."""
        pixels = self.protocol.image_size**2
        full = {"batch_pixels": pixels} if self.row.full_batch else {}
        batch_pixels = min(full.get("batch_pixels", self.protocol.batch_pixels), pixels)
        every = self.row.eval_epochs * ceil(pixels / batch_pixels) * batch_pixels / pixels
        count = int(max(self.protocol.budgets_epochs) / every)
        evals = tuple(every * (k + 1) for k in range(count))
        return {"eval_epochs": evals, "stop_mse": self.stop_mse, **full}


def most_fits(
    protocol: Protocol, alternatives: Mapping[str, Sequence[Any]], *, is_first: bool
) -> int:
    """The most fits of each tuning image on one rung, see `tuning.tune`."""
    rates = len(protocol.lrs) if is_first else min(len(protocol.lrs), 3)
    others = sum(len(values) - 1 for values in alternatives.values())
    return rates + others + (2 if others else 0)


def _check_distinct(what: str, names: Sequence[str], twice: str) -> None:
    if not names:
        raise InputError(f"no {what} to measure")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two {what} {twice.format(name)}")


def with_changes(entry: Entry, changes: Mapping[str, Any]) -> Entry:
    """An entry whose fits differ in some options, stated in its label."""
    return replace(entry, changes={**entry.changes, **changes})


def frozen_variants(entry: Entry, depth: int) -> list[Entry]:
    """An entry with no layer frozen, each layer alone, the first two, and all but the output."""
    sets = [(), *((layer,) for layer in range(depth + 1)), (0, 1), tuple(range(depth))]
    return [
        with_changes(entry, {"frozen_layers": layers} if layers else {})
        for layers in dict.fromkeys(sets)
    ]
