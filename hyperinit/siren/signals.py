"""SIRENs of signals other than images: which signals fit a network, and how it is rendered."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.images.coords import grid_coords
from hyperinit.images.decode import ImageSource, to_image
from hyperinit.images.pixels import MAX_PIXELS, whole_sides
from hyperinit.images.signals import MAX_DIMS, is_signal_path, to_signal
from hyperinit.siren.network import (
    Params,
    SirenConfig,
    check_drawing,
    check_params,
    predict,
    render,
)

_CHUNK_SAMPLES = 65536
_SIDES = {1: "N", 2: "H, W", 3: "D, H, W"}


def to_samples(source: ImageSource, config: SirenConfig) -> Tensor:
    """Reads what a SIREN is to be fitted to: an image (3, H, W) in [0, 1], or a signal in [-1, 1].

    Args:
        source: Anything that `to_image` accepts for a SIREN of an image, or `to_signal` for others.
        config: The network.

    Raises:
        InputError: as those, or the SIREN has other numbers of coordinates or values.
    """
    if config.is_image and not is_signal_path(source):
        return to_image(source)
    dims, channels = config.in_features, config.out_features
    if dims > MAX_DIMS:
        raise InputError(f"fits take SIRENs from 1, 2 or 3 coordinates, not from {dims}")
    samples = to_signal(source)
    if (samples.ndim - 1, len(samples)) == (dims, channels):
        return samples
    if samples.ndim == 3 and len(samples) == 3:
        config.check_image()
    raise InputError(
        f"a SIREN from {dims} to {channels} takes a signal ({channels}, {_SIDES[dims]}), not"
        f" {tuple(samples.shape)}"
    )


def render_signal(
    params: Params, sides: Sequence[int], *, on_drawn: Callable[[int], object] = lambda count: None
) -> Tensor:
    """The signal of one SIREN on a grid of any size: (C, *sides) in [-1, 1], clipped.

    Args:
        params: One SIREN, with as many coordinates as there are sides.
        sides: Samples along each dimension: (N,), (H, W) or (D, H, W).
        on_drawn: Called after every chunk with the number of its samples.

    Raises:
        InputError: the number of sides is wrong, a side is below 1, there are more than
            `MAX_PIXELS` samples, the SIREN is of an image (see `render`), or there are several.
    """
    config = check_params(params, "render_signal").config
    if config.is_image:
        raise InputError("a SIREN from 2 coordinates to 3 colours is of an image; use render")
    sides = whole_sides(sides)
    count = math.prod(sides)
    if len(sides) != config.in_features or min(sides) < 1 or count > MAX_PIXELS:
        raise InputError(
            f"a SIREN from {config.in_features} coordinates takes as many sides, each at least 1,"
            f" of {MAX_PIXELS / 1e6:g} million samples at most, not {tuple(sides)}"
        )
    check_drawing(params, count, "smaller sides (--size)")
    parts = []
    for start in range(0, count, _CHUNK_SAMPLES):
        part = range(start, min(start + _CHUNK_SAMPLES, count))
        parts.append(predict(params, grid_coords(sides, params.device, part)))
        on_drawn(len(part))
    return torch.cat(parts).T.clamp(-1, 1).reshape(config.out_features, *sides)


def render_samples(
    params: Params, sides: Sequence[int], *, on_drawn: Callable[[int], object] = lambda count: None
) -> Tensor:
    """`render` for a SIREN of an image, `render_signal` for any other."""
    if params.config.is_image:
        height, width = sides
        return render(params, height, width, on_drawn=on_drawn)
    return render_signal(params, sides, on_drawn=on_drawn)


def preview(params: Params, image: Tensor) -> Tensor:
    """The rendering of `params` at the image's size: (3, H, W) in [0, 1]."""
    height, width = image.shape[-2:]
    return render(params, height, width)
