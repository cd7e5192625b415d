"""A command line -> a `Plan`, and its estimated cost."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from typing import Any

import torch

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path
from hyperinit.base.settings import resolve
from hyperinit.base.terminal import say
from hyperinit.bench.catalogue import Catalogue
from hyperinit.bench.plan import Entry, Plan, frozen_variants, with_changes
from hyperinit.bench.run import epoch_sec
from hyperinit.bench.sources import load_init
from hyperinit.bench.trial import FITS
from hyperinit.fitting.config import fit_options
from hyperinit.fitting.suits import check_fit_memory
from hyperinit.photos.workload import NamedImage
from hyperinit.record.protocol import PROTOCOLS, Protocol
from hyperinit.record.tracks import Track, find_track
from hyperinit.siren.device import choose_device
from hyperinit.siren.network import SirenConfig

ALL_ROWS = "all-rows"
# Settings of the protocol for choosing rates and the like on each rung. Curves have no rungs.
LADDER_SETTINGS = ("lrs", "lr_images", "lr_budget_epochs", "batch_factors", "level_rates")
SEED_WEIGHT_DECAY = 0.01  # AdamW's default, for inits that are not in the source's table


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def set_threads(threads: int, workers: int | None, device: str) -> int:
    """Sets torch's number of threads and returns the number of fits to run at a time.

    Layers are small, so two fits at a time on one thread each are faster than two in a row on two
    threads. The number of fits must not change the results, so threads do not depend on it.

    Raises:
        InputError: one of the numbers is below 1.
    """
    _check(threads >= 1, f"--threads must be at least 1, not {threads}")
    cores = torch.get_num_threads()
    if workers is None:
        workers = max(cores // threads, 1) if choose_device(device).type == "cpu" else 1
    _check(workers >= 1, f"--workers must be at least 1, not {workers}")
    torch.set_num_threads(threads)
    return workers


def make_plan(arguments: argparse.Namespace, catalogue: Catalogue, workers: int = 1) -> Plan:
    """The plan that a command line asks for.

    Args:
        workers: Number of fits at a time, which must fit in memory.

    Raises:
        InputError: an argument is unknown or unusable, or contradicts another.
    """
    track = find_track(arguments.track)
    protocol = _protocol(arguments, track)
    entries = _entries(arguments.inits, track, catalogue, protocol)
    if arguments.lr is not None:
        entries = [with_changes(entry, {"lr": arguments.lr}) for entry in entries]
    # Scores need every point of a curve to be over all pixels, up to the declared budget.
    declared = ("budget_epochs", "lr", "seed", "eval_epochs", "eval_pixels", "stop_mse")
    options = fit_options(arguments.fit or (), declared, "the protocol")
    entries = [with_changes(entry, options) for entry in entries]
    if track.freezes_layers:
        entries = [v for entry in entries for v in frozen_variants(entry, protocol.depth)]
    check_fits_memory(arguments, protocol, entries, workers)
    tested, skipped = catalogue.images_to_test(
        arguments.images, protocol.image_size, arguments.limit
    )
    if track.psnr_steps:
        _check_not_enlarged(tested, track, protocol.image_size)
    tuned: list[NamedImage] = []
    if not track.along_curve:
        tuned, more = catalogue.images_to_tune_on(
            arguments.tuning_images, protocol.image_size, protocol.lr_images
        )
        skipped = [*skipped, *more]
    for name, reason in skipped:
        say(f"skipped {shown_path(name)}: {reason}")
    check_fits_memory(arguments, protocol, entries, workers)  # in addition to the images
    on_device = _mover(arguments.device)
    return Plan(
        track=track.name,
        entries=tuple(entries),
        images=tuple(map(on_device, tested)),
        tuning_images=tuple(map(on_device, tuned)),
        seeds=arguments.seeds,
        protocol=protocol,
        stop_mse=arguments.stop_mse,
    )


def _check_not_enlarged(images: Sequence[NamedImage], track: Track, size: int) -> None:
    """Refuses images smaller than the protocol's size: enlarged images are easier to fit.

    Raises:
        InputError: there is one; the message names the first.
    """
    for image in images:
        if 0 < image.source_side < size:
            raise InputError(
                f"{shown_path(image.name)}: {image.source_side} pixels on its short side, fewer"
                f" than the {size} of the {track.name} track; give larger images, or --image-size"
                f" {image.source_side}"
            )


def check_fits_memory(
    arguments: argparse.Namespace, protocol: Protocol, entries: Sequence[Entry], workers: int
) -> None:
    """Refuses a benchmark whose fits do not fit in this machine's memory, if they run here.

    Raises:
        InputError: they do not; the message says what to make smaller.
    """
    if arguments.ray is not None or choose_device(arguments.device).type != "cpu":
        return
    pixels, siren = protocol.image_size**2, SirenConfig(protocol.width, protocol.depth)
    for entry in entries:
        fit = {**asdict(protocol), **FITS[protocol.version], **entry.source_fit, **entry.changes}
        batch_pixels = min(fit["batch_pixels"], pixels)
        check_fit_memory(siren, pixels, batch_pixels, workers, optimizer=fit["optimizer"])


def _protocol(arguments: argparse.Namespace, track: Track) -> Protocol:
    """The protocol that a command line asks for, checked as a whole."""
    usual = "quick" if arguments.quick else track.preset
    _check(
        not (arguments.quick and (arguments.preset or track.along_curve)),
        "--quick is a preset for tracks with a ladder; leave out --preset or --track seed",
    )
    arguments.preset = arguments.preset or usual
    protocol = resolve(Protocol, arguments, PROTOCOLS)
    _check(arguments.limit is None or arguments.limit >= 1, "--limit must be at least 1")
    _check(not arguments.fit or track.takes_options, "--fit is for the open track")
    _check(arguments.stop_mse is None or track.along_curve, "--stop-mse is for the seed track")
    lr = arguments.lr
    _check(lr is None or track.along_curve, "--lr is for the seed track; others have --lrs")
    _check(lr is None or 0 < lr < inf, f"--lr must be positive, not {lr}")
    if track.along_curve:  # one fit
        protocol = replace(protocol, budgets_epochs=(max(protocol.budgets_epochs),))
    return protocol


def idle_flags(arguments: argparse.Namespace) -> list[str]:
    """Protocol flags that were typed but have no effect in the track."""
    track = find_track(arguments.track)
    idle = ["tuning_images", *LADDER_SETTINGS] if track.along_curve else []
    idle += ["batch_pixels"] if track.full_batch else []
    flags = ["--" + name.replace("_", "-") for name in idle if name in arguments]
    several = track.along_curve and "," in getattr(arguments, "budgets_epochs", "")
    return [*flags, *["--budgets-epochs but for the largest"] * several]


def _entries(
    sources: Sequence[str], track: Track, catalogue: Catalogue, protocol: Protocol
) -> list[Entry]:
    """All inits of a command line, each row once, with its source's fit settings."""
    names: list[str] = []
    for source in sources:
        if source != ALL_ROWS:
            names.append(source)
            continue
        # Rows that differ only in their image, or in a weight decay that the track does not use,
        # are the same trials.
        distinct = {
            (s, decay if track.source_weight_decay else 0): n
            for n, (s, decay) in _reversed(catalogue.rows)
        }
        names += [name for name in catalogue.rows if name in distinct.values()]
    found = []
    for name in dict.fromkeys(names):
        init = load_init(name, catalogue.inits, protocol.width, protocol.depth)
        source_fit = {}
        if track.source_weight_decay:
            row = name.rpartition("=")[2].partition("@")[0]
            decay = catalogue.rows[row][1] if row in catalogue.rows else SEED_WEIGHT_DECAY
            source_fit = {"weight_decay": decay}
        found.append(Entry(init, source_fit=source_fit))
    return found


def _reversed(rows: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Last item first, so that the first of several equal ones stays in a dict."""
    return list(rows.items())[::-1]


def _mover(device: str) -> Callable[[NamedImage], NamedImage]:
    chosen = choose_device(device)
    return lambda image: replace(image, image=image.image.to(chosen))


def describe(plan: Plan, out: Path, workers: int) -> str:
    """Describes what is about to run, and the most it will cost on this machine."""
    hours = plan.total_epochs * epoch_sec(plan, workers) / 3600
    cost = f"{hours:.1f} hours" if hours >= 1.5 else f"{hours * 60:.1f} minutes"
    budgets = ", ".join(f"{budget:g}" for budget in plan.protocol.budgets_epochs)
    tried = [
        f"{name} {', '.join(map(str, values[1:]))}"
        for name, values in plan.protocol.alternatives.items()
        if plan.tuning_images and len(values) > 1
    ]
    others = f"also tried on tuning images: {'; '.join(tried)}\n" if tried else ""
    inits, tested, tuned = (
        ", ".join(map(shown_path, names))
        for names in (
            [entry.label for entry in plan.entries],
            [image.name for image in plan.images],
            [image.name for image in plan.tuning_images],
        )
    )
    return (
        f"{plan.track} track: inits {inits}\n"
        f"test images {tested}; seeds {plan.seeds}\n"
        f"tuning images {tuned or 'none'}\n"
        f"{others}budgets {budgets} epochs; at most {plan.total_epochs:.0f} epochs, {cost} here;"
        f" records in {shown_path(out)}"
    )
