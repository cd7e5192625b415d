"""What is to be measured, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from hyperinit.base.errors import InputError, unknown_name
from hyperinit.bench.trial import Trial
from hyperinit.inits.start import Init
from hyperinit.photos.workload import NamedImage
from hyperinit.record.protocol import Protocol

# Track -> whether an init may change the fit.
TRACKS = {"tuned": False, "seed": True, "open": True, "frozen": True}

SEED_EVAL_EPOCHS = 10  # seed epochs between evaluations


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        track: One of TRACKS.
        inits: Compared with each other; names differ.
        images: Test images, at the protocol's size.
        tuning_images: For the choice of learning rates; none in the seed track.
        seeds: Test seeds 0 to seeds - 1.
        protocol: Everything the trials share.
        stop_mse: Seed track only, see FitConfig.
        seed_lr: Seed track only: the learning rate; None: an LR range test's for each init.

    Raises:
        InputError: the plan would measure something else than it says: a test image an init was
            made from, or that rates are tuned on; the tuned track with an init's own fit; ...
    """

    track: str
    inits: tuple[Init, ...]
    images: tuple[NamedImage, ...]
    tuning_images: tuple[NamedImage, ...]
    seeds: int
    protocol: Protocol
    stop_mse: float | None = None
    seed_lr: float | None = None

    def __post_init__(self) -> None:
        if self.track not in TRACKS:
            raise unknown_name("track", self.track, TRACKS)
        if self.seeds < 1:
            raise InputError(f"seeds must be at least 1, not {self.seeds}")
        _check_distinct("inits", [init.name for init in self.inits])
        _check_distinct("images", [image.hash for image in self.images])
        for init in self.inits:
            if init.fit and not TRACKS[self.track]:
                raise InputError(
                    f"the {self.track} track fits every init alike, {init.name} has"
                    f" {_shown(init.fit)}: use the open track"
                )
            for image in self.images:
                if {image.hash, image.source_hash} & init.train_hashes:
                    raise InputError(
                        f"init {init.name} was trained on the test image {image.name}:"
                        " leave one of them out"
                    )
        wanted = 0 if self.track == "seed" else self.protocol.lr_images
        if len(self.tuning_images) != wanted:
            raise InputError(
                f"learning rates are tuned on {wanted} images (lr_images), not"
                f" {len(self.tuning_images)}"
            )
        tested = {h: i.name for i in self.images for h in (i.hash, i.source_hash) if h}
        for image in self.tuning_images:
            same = tested.get(image.hash) or tested.get(image.source_hash)
            if same:
                raise InputError(f"tuning image {image.name} is the test image {same}")

    @property
    def total_epochs(self) -> float:
        """Pixel visits / pixels of all trials, at most."""
        tests = len(self.images) * self.seeds * sum(self.protocol.budgets_epochs)
        if self.track == "seed":
            return len(self.inits) * tests
        first, *rest = self.protocol.tuned_budgets
        rates = len(self.protocol.lrs)
        tuning = len(self.tuning_images) * (rates * first + min(rates, 3) * sum(rest))
        return len(self.inits) * (tests + tuning)

    def trial(
        self, init: Init, image: NamedImage, budget: float, lr: float | None, seed: int, track: str
    ) -> Trial:
        """One of the plan's trials."""
        if self.track == "seed":
            init = self._seed_init(init)
        return Trial(init, image, self.protocol, budget, lr, seed, track)

    def _seed_init(self, init: Init) -> Init:
        pixels = self.protocol.image_size**2
        batch_pixels = min(self.protocol.batch_pixels, pixels)
        every = SEED_EVAL_EPOCHS * ceil(pixels / batch_pixels) * batch_pixels / pixels
        count = int(max(self.protocol.budgets_epochs) / every)
        evals = tuple(every * (k + 1) for k in range(count))
        return replace(init, fit={**init.fit, "eval_epochs": evals, "stop_mse": self.stop_mse})


def _shown(options: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


def _check_distinct(what: str, names: Sequence[str]) -> None:
    if not names:
        raise InputError(f"no {what} to measure")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two {what} are the same: {name}")


def with_fit(init: Init, options: Mapping[str, Any]) -> Init:
    """The same start with another fit, and a name that says so."""
    if not options:
        return init
    return replace(init, name=f"{init.name} {_shown(options)}", fit={**init.fit, **options})


def frozen_variants(init: Init, depth: int) -> list[Init]:
    """An init with no layer frozen, each alone, the first two, and all but the output layer."""
    sets = [(), *((layer,) for layer in range(depth + 1)), (0, 1), tuple(range(depth))]
    variants = []
    for layers in dict.fromkeys(sets):
        name = f"{init.name} frozen {','.join(map(str, layers))}" if layers else init.name
        variants.append(replace(init, name=name, fit={**init.fit, "frozen_layers": layers}))
    return variants
