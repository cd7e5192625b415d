"""A set of images -> initial weights for the SIREN of each, one file per image."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hyperinit.base.errors import InputError
from hyperinit.base.files import exclusive, make_directory, shown_path
from hyperinit.base.terminal import progress
from hyperinit.data.source import Source
from hyperinit.images.pixels import centre_crop, check_size, image_facts, image_hash
from hyperinit.inits.start import Init, start_facts
from hyperinit.sets.results import (
    LOCK_NAME,
    Pending,
    result_name,
    save_result,
    stored_result,
)


@dataclass
class StartsReport:
    """The outcome of `generate_set`.

    Attributes:
        made: Number of images whose weights were made now.
        finished: Number of images whose weights were there already.
        failed: (name, why it has none).
    """

    made: int = 0
    finished: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


def generate_set(  # more than 60 lines: its docstring is long
    source: Source,
    out: str | os.PathLike[str],
    init: Init,
    *,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    most_images: int | None = None,
    device: torch.device | str = "cpu",
    on_failed: Callable[[str, str], None] = lambda name, reason: None,
) -> StartsReport:
    """Writes the start of every image, with one image in memory at a time.

    An image whose file is there, undamaged and made in the same way from the same image, is
    skipped, as in `fit_directory`, which uses the same file names.

    Args:
        source: The images.
        out: Where NAME-HASH.safetensors are written. Their metadata: images, source_sha256, start
            (see `start_facts`), init, init_facts, seed, size.
        init: The init that gives the starts.
        size: Crop to the shape of (height, width) and resize to it; None leaves images as they are.
        seed: Seed of every start.
        most_images: Use only this many images, the first ones; None: all.
        device: Where starts are made.
        on_failed: Called with (name, reason) if an image has no start.

    Raises:
        InputError: there are no images; or `out` cannot be written to, is in use by another
            process, or holds a result that was made differently.
    """
    if not source.names:
        raise InputError(f"{shown_path(source.title)}: no image files there")
    if size is not None:
        check_size(*size)
    target = Path(out)
    make_directory(target)
    how: dict[str, Any] = {"init": init.name, "init_facts": init.facts, "seed": seed, "size": size}
    how = json.loads(json.dumps(how))  # in the form in which it will be read back
    report = StartsReport()

    def fail(name: str, reason: str) -> None:
        report.failed.append((name, reason))
        on_failed(name, reason)

    for failure in source.skipped:
        fail(*failure)
    count = len(source.names) if most_images is None else min(most_images, len(source.names))
    with exclusive(target / LOCK_NAME):
        for index in progress(range(count), desc="generating", leave=False):
            name = source.names[index]
            path = target / result_name(name)
            stored = stored_result(path, how)
            try:
                pending = Pending(source, index)
                if stored is not None and stored[1].get("source_sha256") == pending.sha256:
                    report.finished += 1
                    continue
                image = pending.image if size is None else centre_crop(pending.image, *size)
                start = init.start(image.to(device), seed)
            except InputError as error:
                fail(name, str(error))
                continue
            shown = {**image_facts(name, image), "photo_sha256": image_hash(pending.image)}
            facts = {"images": [shown], "source_sha256": pending.sha256, **how}
            facts["start"] = start_facts(start)
            params = start.params.map(lambda value: value.cpu())
            save_result(path, params, facts)
            report.made += 1
    return report
