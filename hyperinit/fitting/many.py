"""Starts + images of one size -> fitted SIRENs, B at a time.

B small fits together take fewer and larger matrix products than one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.fitting.config import FitConfig, with_options
from hyperinit.fitting.descent import FitResult, descend
from hyperinit.fitting.fit import as_start, restart_failed
from hyperinit.images.decode import ImageSource, to_image
from hyperinit.inits.start import Start
from hyperinit.siren.ambient import plain, with_own_settings
from hyperinit.siren.network import Params
from hyperinit.siren.vectors import stack_params

# Activations a layer of all that are fitted together: larger ones leave the caches of a processor,
# and fits together become slower than one after the other.
MAX_ACTIVATIONS = 2**19
MIN_TOGETHER = 4  # two or three that large are not worth stacking either


@with_own_settings
def fit_many(
    starts: Sequence[Params | Start] | Params,
    images: Sequence[ImageSource],
    config: FitConfig | None = None,
    *,
    planned_images: int = 0,
    **options: Any,
) -> list[FitResult]:
    """Fits B SIRENs to B images of one size together; as `fit` does one by one, but for rounding.

    Where a step of all B would work on more than MAX_ACTIVATIONS numbers a layer, fewer are taken
    together at a time: fits that large gain nothing from company. Nor can starts of different cost
    be taken together, as less of the budget is left to some.

    Args:
        starts: B SIRENs of one kind, or their starts (or B stacked SIRENs); left as they are.
        images: As many images of one size; see `to_image`.
        config: See FitConfig. Fits that fail are restarted one by one (`max_restarts`).
        planned_images: How many are to be fitted like these in all, where that is more than B: with
            engine="auto" it decides whether compiling pays.
        **options: Fields of FitConfig to set.

    Returns:
        One result an image, in order. The seconds on a curve are those of all that were taken
        together with it.

    Raises:
        InputError: an option or an image is unusable; images or SIRENs differ in size.
    """
    config = with_options(config, options)
    singles = starts.unbatch() if isinstance(starts, Params) else starts
    begun = [as_start(start) for start in singles]
    loaded = [plain(to_image(image)) for image in images]
    if not begun or len(begun) != len(loaded):
        raise InputError(f"fit_many has {len(loaded)} images for {len(begun)} SIRENs")
    for image in loaded:
        if image.shape != loaded[0].shape:
            sizes = " and ".join("x".join(map(str, i.shape[-2:])) for i in (loaded[0], image))
            raise InputError(f"fit_many takes images of one size, not {sizes}")
    stack_params([start.params for start in begun])  # refuses different networks, before any work
    results: dict[int, FitResult] = {}
    for group in _groups(begun, loaded[0], config):
        planned = math.ceil(max(planned_images, len(loaded)) / len(group))
        chosen = [begun[i] for i in group]
        stacked = torch.stack([loaded[i] for i in group]).to(chosen[0].params.device)
        found = _fit_group(chosen, stacked, config, planned)
        results.update(zip(group, found, strict=True))
    return [results[i] for i in range(len(loaded))]


def _groups(starts: Sequence[Start], image: Tensor, config: FitConfig) -> Iterator[list[int]]:
    """Indices of starts that are fitted together: of one cost, and not too many."""
    batch_pixels = config.step_pixels(image.shape[-2] * image.shape[-1])
    together = MAX_ACTIVATIONS // (batch_pixels * starts[0].params.config.width)
    together = together if together >= MIN_TOGETHER else 1
    alike: dict[tuple[float, float], list[int]] = {}
    for i, start in enumerate(starts):
        alike.setdefault((start.epochs, start.lr_factor), []).append(i)
    for indices in alike.values():
        for i in range(0, len(indices), together):
            yield indices[i : i + together]


def _fit_group(
    starts: Sequence[Start], images: Tensor, config: FitConfig, planned_fits: int
) -> list[FitResult]:
    """Fits B starts of one cost to images (B, 3, H, W), and those that failed once more, alone."""
    first, alone = starts[0], len(starts) == 1
    sec = sum(start.sec for start in starts)
    params = first.params if alone else stack_params([start.params for start in starts])
    together = replace(first, params=params, sec=sec)
    found = descend(together, images[0] if alone else images, config, planned_fits=planned_fits)
    named = zip(found, starts, images, strict=True)
    return [restart_failed(result, start, image, config) for result, start, image in named]
