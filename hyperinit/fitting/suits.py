"""Image size, network and budget -> the batch size, learning rate and width that suit a fit.

Power laws through 40 scans of the learning rate on training photographs, from 32 x 32 to 768 x 512
pixels, widths 48 to 256, depths 2 to 6, batches of 16 to 6,144 pixels, budgets of half an epoch to
16; docs/research-log.md 39 has the readings. A fit within a factor of 1.3 of its best rate is
within 1 dB of its best error.
"""

from __future__ import annotations

from math import ceil, log2, sqrt

from hyperinit.base.arguments import MAX_WIDTH as ABSURD_WIDTH
from hyperinit.base.errors import check_memory
from hyperinit.siren.network import SirenConfig

# A batch is one pixel from each cell, of at least 32 cells: smaller batches gain little per epoch
# and cost seconds (docs/research-log.md 92), and batches above 1,024 pixels do worse per epoch.
STEPS_AN_EPOCH = 64
MIN_BATCH_PIXELS, MAX_BATCH_PIXELS = 32, 1024

# NAdam's best rate from `identity-sized` on 96 x 96 pixels, SIREN 4 x 128, 8 epochs, batches of 144
# pixels, less 5 %, because too high a rate costs more than too low a one.
_LR, _LR_BATCH = 3.5e-4, 144
_BATCH_POWER = 0.45
# An init's `lr_factor` was found for AdamW, where init 33 takes twice the rate of `identity`. Here
# it takes 1.5 times the rate of `identity`, and less on images of fewer than 105 pixels a side, for
# which most of its first layer is too fine.
_FACTOR_OF_33, _SIDE_OF_33, _LEAST_OF_33 = 1.5, 70, 0.75

# A network with more than this many weights per image value takes a slightly lower rate
# (docs/research-log.md 57).
_LARGE_RATIO, _LARGE_POWER = 4.0, -0.12

# Weights per image value (3 x pixels) of a default network. The error after 8 epochs is about
# 1.5e-3 times this ratio to the power of -1.3, whatever the size.
_WEIGHTS_RATIO = 1.75
_ERROR_POWER = 1.3
MIN_WIDTH, MAX_WIDTH = 256, 384

# Twice the weights cost as much as twice the epochs. They reduce the error more if a fit has at
# least this many epochs times the root of that ratio (4 at 0.14, 8 at 0.6, 16 at 2.3), and less
# otherwise: docs/research-log.md 53. No photograph there needed a higher ratio than this for 40 dB.
_NETWORK_EPOCHS = 10.0
_MOST_WEIGHTS_RATIO = 4.0
GOOD_PSNR, GOOD_MSE = 40.0, 1.96e-3  # one error, in dB and in ImageNet-normalised units


# Optimizer -> bytes that a fit takes at least for each weight: value, gradient, moments, bases and
# copies. Measured at 8 x 1024, 4 x 1536, 3 x 2048: NAdam 30 to 37, AdamW 39 to 42, SOAP 42 to 50.
WEIGHT_BYTES = {"nadam": 28, "adamw": 36, "soap": 42}
# Every activation of a step twice, and the colours and turns of a pixel.
ACTIVATION_BYTES, PIXEL_BYTES = 8, 24


def default_lr(config: SirenConfig) -> float:
    """AdamW's learning rate for networks of this width: 5e-4 at width 256, ~ 1 / width."""
    return 0.128 / config.width


def weight_bytes(optimizer: str) -> int:
    """The entry of `WEIGHT_BYTES`; for "auto", the smallest one."""
    return WEIGHT_BYTES.get(optimizer, min(WEIGHT_BYTES.values()))


def check_fit_memory(
    siren: SirenConfig, pixels: int, batch_pixels: int, fits: int = 1, *, optimizer: str = "auto"
) -> None:
    """Refuses fits that do not fit in this machine's memory, before any work.

    Args:
        siren: The network.
        pixels: Pixels of the image.
        batch_pixels: Pixels per step.
        fits: Number of fits at a time.
        optimizer: See FitConfig.

    Raises:
        InputError: there is not enough memory; the message says what to make smaller.
    """
    weights = weight_bytes(optimizer) * siren.weights
    step = ACTIVATION_BYTES * batch_pixels * siren.width * (siren.depth + 1)
    parts = {"width or depth": weights, "batch_pixels": step, "size": PIXEL_BYTES * pixels}
    what = f"a SIREN of {siren.depth} x {siren.width} to {pixels} pixels, {batch_pixels} a step"
    what = f"fitting {what}" if fits == 1 else f"{fits} at a time: fitting {what},"
    what += f" by {optimizer}" if optimizer in WEIGHT_BYTES else ""
    smaller = f"take a smaller {max(parts, key=lambda part: parts[part])}"
    smaller += ", or fewer fits at a time" if fits > 1 else ""
    check_memory(fits * float(sum(parts.values())), what, smaller)


def suitable_batch(pixels: int) -> int:
    """Pixels per step for an image with `pixels`: about 64 steps per epoch where possible."""
    batch = min(max(pixels // STEPS_AN_EPOCH, MIN_BATCH_PIXELS), MAX_BATCH_PIXELS)
    return min(batch, pixels)


def suitable_lr(
    siren: SirenConfig,
    pixels: int,
    batch_pixels: int,
    budget_epochs: float,
    lr_factor: float = 1.0,
) -> float:
    """The learning rate at the start of a fit by NAdam with credit sampling.

    Args:
        siren: The network.
        pixels: Pixels of the image.
        batch_pixels: Pixels per step.
        budget_epochs: Budget of the whole fit.
        lr_factor: See `Start`.
    """
    budget = max(budget_epochs, 0.25)
    size = batch_lr_factor(batch_pixels, _LR_BATCH) * (pixels / 9216) ** -0.25
    network = (siren.width / 128) ** -0.75 * (siren.depth / 4) ** -1.5
    network *= max(_weights_ratio(siren, pixels) / _LARGE_RATIO, 1.0) ** _LARGE_POWER
    return float(_LR * size * network * (budget / 8) ** -0.1 * _init_factor(pixels, lr_factor))


def _weights_ratio(siren: SirenConfig, pixels: int) -> float:
    """Weights of the hidden layers per image value."""
    return (siren.depth - 1) * siren.width**2 / (3 * pixels)


def batch_lr_factor(batch_pixels: int, than: int) -> float:
    """The rate that suits batches of `batch_pixels`, relative to that for batches of `than`."""
    return float((batch_pixels / than) ** _BATCH_POWER)


def _init_factor(pixels: int, lr_factor: float) -> float:
    """An init's `lr_factor`, converted to a factor on the rate of `identity-sized` (its 0.5)."""
    of_33 = _FACTOR_OF_33
    if lr_factor > 0.5:
        of_33 = min(of_33, max(sqrt(pixels) / _SIDE_OF_33, _LEAST_OF_33))
    return float(of_33 ** (1 + log2(min(lr_factor, 1.0))) * max(lr_factor, 1.0))


def suitable_width(pixels: int, depth: int = 5) -> int:
    """Default units per sine layer for an image with this many pixels."""
    width = sqrt(_WEIGHTS_RATIO * 3 * pixels / max(depth - 1, 1))
    return min(max(32 * round(width / 32), MIN_WIDTH), MAX_WIDTH)


def width_for(siren: SirenConfig, mse: float, target_mse: float) -> int:
    """The width with which a fit that ended at `mse` would have reached about `target_mse`.

    A result above ABSURD_WIDTH means that no network would.
    """
    more_weights = min((mse / target_mse) ** (1 / _ERROR_POWER), float(ABSURD_WIDTH) ** 2)
    return max(32 * ceil(siren.width * sqrt(max(more_weights, 1.0)) / 32), siren.width)


def enough_width(siren: SirenConfig, pixels: int, epochs: float, mse: float) -> int | None:
    """The width with which a fit would have reached about 40 dB; None if width would not help.

    Width helps if the network and not the budget limits the error, that is, if more weights reduce
    it more than the same multiple of epochs.

    Args:
        siren: The network that was fitted.
        pixels: Pixels of the image.
        epochs: Epochs of the fit, at a suitable learning rate.
        mse: Its final error.
    """
    numbers = 3 * pixels
    ratio = _weights_ratio(siren, pixels)
    if siren.depth == 1 or mse <= GOOD_MSE or epochs < _NETWORK_EPOCHS * sqrt(ratio):
        return None
    most = 32 * ceil(sqrt(_MOST_WEIGHTS_RATIO * numbers / (siren.depth - 1)) / 32)
    width = min(width_for(siren, mse, GOOD_MSE), most)
    return width if width > siren.width else None
