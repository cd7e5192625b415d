"""Starts + images of one size -> fitted SIRENs, B at a time.

B small fits together need fewer and larger matrix products than one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.fitting.config import FitConfig, rate_of, suited, with_options
from hyperinit.fitting.descent import FitResult, descend
from hyperinit.fitting.fit import as_start, restart_failed
from hyperinit.fitting.steps import make_steps
from hyperinit.images.decode import ImageSource
from hyperinit.inits.start import Start
from hyperinit.siren.ambient import plain, with_own_settings
from hyperinit.siren.device import free_bytes
from hyperinit.siren.network import Params, SirenConfig, param_shapes
from hyperinit.siren.signals import to_samples
from hyperinit.siren.vectors import stack_params
from hyperinit.stepping.schedule import DECAY_POWERS, rate_factor

# Activations per layer of all fits that run together. More do not fit in a processor's caches, and
# fitting together becomes slower than one after the other.
MAX_ACTIVATIONS = 2**19
MIN_TOGETHER = 4  # if only two or three fit, stacking is not worth it either

# A GPU gains from fitting more together as long as its memory holds them; half of it is left for
# what is not counted. Beyond this many fits, the host's work per fit leaves nothing to gain.
MEMORY_SHARE = 0.5
MAX_TOGETHER = 1024
# Bytes of a fit: 4 per number, times the numbers for each weight (value, gradient, moments, bases,
# copies) and for each activation (gradients included); and the bytes for each pixel of the image
# (colours, place in the queue, turns when a pass is planned).
WEIGHT_BYTES, PIXEL_BYTES = 4 * 16, 256


@with_own_settings
def fit_many(
    starts: Sequence[Params | Start] | Params,
    images: Sequence[ImageSource],
    config: FitConfig | None = None,
    *,
    planned_images: int = 0,
    **options: Any,
) -> list[FitResult]:
    """Fits B SIRENs to B images of one size together; equals `fit` one by one up to rounding.

    If a step of all B would work on more than MAX_ACTIVATIONS numbers per layer, fewer run together
    at a time, because fits that large gain nothing from it. On a GPU its memory decides. Starts of
    different cost do not run together either, because they leave different parts of the budget.

    Args:
        starts: B SIRENs of one kind, or their starts (or B stacked SIRENs); not modified.
        images: As many images of one size, or signals; see `fit`.
        config: See FitConfig. Fits that fail are restarted one by one (`max_restarts`).
        planned_images: How many images will be fitted like this in all, if more than B: with
            engine="auto" it decides whether compiling pays.
        **options: Fields of FitConfig to set.

    Returns:
        One result per image, in order. The seconds on a curve are those of all fits that ran
        together with it.

    Raises:
        InputError: an option or an image is unusable; images or SIRENs differ in size.
    """
    config = with_options(config, options)
    if isinstance(starts, Start):
        raise InputError("fit_many takes a list of starts, not one Start (see fit)")
    singles = starts.unbatch() if isinstance(starts, Params) else starts
    begun = [as_start(start) for start in singles]
    if not begun or len(begun) != len(images):
        raise InputError(f"fit_many has {len(images)} images for {len(begun)} SIRENs")
    loaded = [plain(to_samples(image, begun[0].params.config)) for image in images]
    for image in loaded:
        if image.shape != loaded[0].shape:
            sizes = " and ".join("x".join(map(str, i.shape[1:])) for i in (loaded[0], image))
            raise InputError(f"fit_many takes images of one size, not {sizes}")
    stack_params([start.params for start in begun])  # refuses different networks before any work
    results: dict[int, FitResult] = {}
    for group in _groups(begun, loaded[0], config):
        chosen, stacked = [begun[i] for i in group], [loaded[i] for i in group]
        planned = max(planned_images, len(loaded))
        results.update(zip(group, _fit_or_halve(chosen, stacked, config, planned), strict=True))
    return [results[i] for i in range(len(loaded))]


@torch.no_grad()
def fit_unseen(start: Start, images: Tensor, config: FitConfig) -> Params:
    """Fits B stacked SIRENs without any evaluation, for the training of starts.

    Like `fit_many`, except that fits are not watched, restarted or evaluated, and starts cost
    nothing.

    Args:
        start: B stacked SIRENs on the device of the images; not modified.
        images: (B, 3, H, W) in [0, 1].
        config: See FitConfig.

    Returns:
        B stacked SIRENs; those whose fit diverged are not finite.
    """
    pixels = images.shape[-2] * images.shape[-1]
    config = suited(config, start)
    batch_pixels, lr = config.step_pixels(pixels), rate_of(config, start, pixels)
    together = most_together(start.params.config, pixels, batch_pixels, images.device)
    steps = round(config.budget_epochs * pixels / batch_pixels)
    power, rising = DECAY_POWERS[config.schedule], config.warmup_steps or 0
    ended = []
    for i in range(0, len(images), together):
        part: slice | int = slice(i, i + together) if together > 1 else i
        begun = start.params.map(lambda value, part=part: value[part])  # type: ignore[misc]
        taker = make_steps(begun, images[part], config, work=0)
        for step in range(steps):
            taker.take(lr, rate_factor(step, steps, power, rising), step / steps)
        ended.append(taker.params if together > 1 else stack_params([taker.params]))
    return Params(start.params.config, {n: torch.cat([p[n] for p in ended]) for n in ended[0]})


def _groups(starts: Sequence[Start], image: Tensor, config: FitConfig) -> Iterator[list[int]]:
    """Groups of indices of starts to be fitted together: of equal cost, and not too many."""
    params, pixels = starts[0].params, image[0].numel()
    together = most_together(params.config, pixels, config.step_pixels(pixels), params.device)
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, start in enumerate(starts):
        alike.setdefault((start.epochs, start.lr_factor, start.prefers), []).append(i)
    for indices in alike.values():
        for i in range(0, len(indices), together):
            yield indices[i : i + together]


def most_together(siren: SirenConfig, pixels: int, batch_pixels: int, device: torch.device) -> int:
    """How many fits of one kind should run together on a device.

    Args:
        siren: The network.
        pixels: Pixels of each image.
        batch_pixels: Pixels per step of each fit.
        device: If it is a GPU, its free memory decides.
    """
    free = free_bytes(device)
    if free is None:
        together = MAX_ACTIVATIONS // (batch_pixels * siren.width)
        return together if together >= MIN_TOGETHER else 1
    weights = sum(math.prod(shape) for shape in param_shapes(siren).values())
    activations = 4 * batch_pixels * siren.width * 4 * (siren.depth + 1)
    each = WEIGHT_BYTES * weights + activations + PIXEL_BYTES * pixels
    return max(1, min(int(MEMORY_SHARE * free / each), MAX_TOGETHER))


def _fit_or_halve(
    starts: Sequence[Start], images: Sequence[Tensor], config: FitConfig, planned_images: int
) -> list[FitResult]:
    """Fits starts of equal cost together; in two halves if a GPU's memory is too small."""
    planned = math.ceil(planned_images / len(starts))
    try:
        stacked = torch.stack(tuple(images)).to(starts[0].params.device)
        return _fit_group(starts, stacked, config, planned)
    except torch.cuda.OutOfMemoryError:
        if len(starts) == 1:
            raise
    # Not inside the handler above, where the failed fit's memory is still held.
    torch.cuda.empty_cache()
    half, found = len(starts) // 2, []
    for part in (slice(half), slice(half, None)):
        found += _fit_or_halve(starts[part], images[part], config, planned_images)
    return found


def _fit_group(
    starts: Sequence[Start], images: Tensor, config: FitConfig, planned_fits: int
) -> list[FitResult]:
    """Fits B starts of equal cost to images (B, 3, H, W); restarts those that failed, alone."""
    first, alone = starts[0], len(starts) == 1
    sec = sum(start.sec for start in starts)
    params = first.params if alone else stack_params([start.params for start in starts])
    together = replace(first, params=params, sec=sec)
    found = descend(together, images[0] if alone else images, config, planned_fits=planned_fits)
    named = zip(found, starts, images, strict=True)
    return [restart_failed(result, start, image, config) for result, start, image in named]
