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

# Activations a layer of all that are fitted together: larger ones leave the caches of a processor,
# and fits together become slower than one after the other.
MAX_ACTIVATIONS = 2**19
MIN_TOGETHER = 4  # two or three that large are not worth stacking either

# A GPU gains from company as long as its memory holds it; half of it is left for what is not
# counted. Beyond so many fits, what the host does for each takes as long as one after the other.
MEMORY_SHARE = 0.5
MAX_TOGETHER = 1024
# Bytes of a fit: numbers of 4 bytes that there are for each weight (values, gradient, moments,
# bases, copies) and for each activation (gradients included), and what belongs to a pixel of the
# image (its colours, its place in the queue, its turns when a pass is planned).
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
    """Fits B SIRENs to B images of one size together; as `fit` does one by one, but for rounding.

    Where a step of all B would work on more than MAX_ACTIVATIONS numbers a layer, fewer are taken
    together at a time: fits that large gain nothing from company. On a GPU its memory decides. Nor
    can starts of different cost be taken together, as less of the budget is left to some.

    Args:
        starts: B SIRENs of one kind, or their starts (or B stacked SIRENs); left as they are.
        images: As many images of one size, or signals; see `fit`.
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
    if not begun or len(begun) != len(images):
        raise InputError(f"fit_many has {len(images)} images for {len(begun)} SIRENs")
    loaded = [plain(to_samples(image, begun[0].params.config)) for image in images]
    for image in loaded:
        if image.shape != loaded[0].shape:
            sizes = " and ".join("x".join(map(str, i.shape[1:])) for i in (loaded[0], image))
            raise InputError(f"fit_many takes images of one size, not {sizes}")
    stack_params([start.params for start in begun])  # refuses different networks, before any work
    results: dict[int, FitResult] = {}
    for group in _groups(begun, loaded[0], config):
        chosen, stacked = [begun[i] for i in group], [loaded[i] for i in group]
        planned = max(planned_images, len(loaded))
        results.update(zip(group, _fit_or_halve(chosen, stacked, config, planned), strict=True))
    return [results[i] for i in range(len(loaded))]


@torch.no_grad()
def fit_unseen(start: Start, images: Tensor, config: FitConfig) -> Params:
    """Fits B stacked SIRENs without a look at any of them on the way, as training of starts does.

    As `fit_many`, but that nothing is watched, restarted or evaluated, and starts cost nothing.

    Args:
        start: Of B SIRENs on the device of the images, which is left as it is.
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
    """Indices of starts that are fitted together: of one cost, and not too many."""
    params, pixels = starts[0].params, image[0].numel()
    together = most_together(params.config, pixels, config.step_pixels(pixels), params.device)
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, start in enumerate(starts):
        alike.setdefault((start.epochs, start.lr_factor, start.prefers), []).append(i)
    for indices in alike.values():
        for i in range(0, len(indices), together):
            yield indices[i : i + together]


def most_together(siren: SirenConfig, pixels: int, batch_pixels: int, device: torch.device) -> int:
    """How many fits of a kind are best taken together on a device.

    Args:
        siren: The network.
        pixels: Pixels of each image.
        batch_pixels: Pixels a step of each.
        device: Its free memory decides where it is a GPU.
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
    """Fits starts of one cost together; in two halves where a GPU's memory is too small for all."""
    planned = math.ceil(planned_images / len(starts))
    try:
        stacked = torch.stack(tuple(images)).to(starts[0].params.device)
        return _fit_group(starts, stacked, config, planned)
    except torch.cuda.OutOfMemoryError:
        if len(starts) == 1:
            raise
    # Not above: there, what the failed fit had in memory is still held.
    torch.cuda.empty_cache()
    half, found = len(starts) // 2, []
    for part in (slice(half), slice(half, None)):
        found += _fit_or_halve(starts[part], images[part], config, planned_images)
    return found


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
