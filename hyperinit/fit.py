"""Params + image -> fitted Params and the curve of how they got there: the only SIREN fit loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from hyperinit.clock import Clock
from hyperinit.coords import grid_errors, image_coords, image_to_rgb
from hyperinit.errors import InputError, unknown_name
from hyperinit.images import ImageSource, to_image
from hyperinit.siren import Params, Siren, SirenConfig, apply, predict, render

# Per step; about the last 50 steps, as a chart's smoothing would show the training loss.
TRAIN_MSE_SMOOTHING = 0.98

# A fit that has come so far from an image (whose variance is about 1) will not come back.
DIVERGED_MSE = 1e3


@dataclass(frozen=True)
class FitConfig:
    """How a SIREN is fitted to an image: AdamW on random pixels, over a budget declared before.

    Attributes:
        budget_epochs: Pixel visits / pixels of the image.
        lr: Learning rate at the start; None takes `default_lr` of the network.
        batch_pixels: Pixels a step; never more than the image has.
        sampler: "pixels": drawn without replacement within an epoch; "points": uniformly random
            points between pixels, bilinearly interpolated (the seed experiment's).
        schedule: "linear" decay to 0 over the budget, or "constant".
        output_lr_factor: The output layer's learning rate relative to the others'.
        weight_decay: AdamW's.
        frozen_layers: Indices of layers that are not trained, 0 being the first.
        eval_epochs: When the full pixel grid is evaluated, off the clock, besides start and end.
        seed: Of the order in which pixels are visited.
        stop_mse: Stop at the first evaluation where the error and the smoothed training loss are
            both at or below this; None never does. Only for reproducing the seed experiment: the
            tuned track judges by the error after the whole declared budget.
    """

    budget_epochs: float = 8.0
    lr: float | None = None
    batch_pixels: int = 2048
    sampler: Literal["pixels", "points"] = "pixels"
    schedule: Literal["linear", "constant"] = "linear"
    output_lr_factor: float = 5.0
    weight_decay: float = 0.0
    frozen_layers: tuple[int, ...] = ()
    eval_epochs: tuple[float, ...] = (0.5, 1, 2, 4, 8, 16, 32, 64)
    seed: int = 0
    stop_mse: float | None = None

    def __post_init__(self) -> None:
        for field in ("budget_epochs", "lr", "batch_pixels", "output_lr_factor", "weight_decay"):
            value = getattr(self, field)
            if not isinstance(value, (int, float)) and not (field == "lr" and value is None):
                raise InputError(f"{field} must be a number, not {value!r}")
        for field in ("budget_epochs", "output_lr_factor", "weight_decay"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise InputError(f"{field} must be a number >= 0, not {getattr(self, field)}")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise InputError(f"lr must be a positive number, not {self.lr}")
        if self.batch_pixels < 1:
            raise InputError(f"batch_pixels must be at least 1, not {self.batch_pixels}")
        if self.schedule not in ("linear", "constant"):
            raise unknown_name("schedule", self.schedule, ("linear", "constant"))
        if self.sampler not in SAMPLERS:
            raise unknown_name("sampler", self.sampler, SAMPLERS)


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation of the full pixel grid.

    Attributes:
        epochs: Pixel visits so far / pixels of the image, making the start included.
        steps: Optimiser steps so far.
        sec: Seconds on the clock so far.
        mse: MSE over all pixels, in ImageNet-normalised units; infinite after divergence.
        psnr: In dB on [0, 1].
        train_mse: Exponential moving average of the training loss; NaN before the first step.
    """

    epochs: float
    steps: int
    sec: float
    mse: float
    psnr: float
    train_mse: float


@dataclass(frozen=True)
class FitResult:
    """What a fit ends with.

    Attributes:
        params: The fitted SIREN, detached from any graph.
        curve: Evaluations from the start to the end.
        lr: The learning rate used.
        diverged: Whether the error blew up (non-finite, or above DIVERGED_MSE); `params` are then
            those of the last evaluation before, and the curve ends with an infinite error.
    """

    params: Params
    curve: tuple[CurvePoint, ...]
    lr: float
    diverged: bool = False

    @property
    def mse(self) -> float:
        """Final MSE over all pixels, in ImageNet-normalised units."""
        return self.curve[-1].mse

    @property
    def psnr(self) -> float:
        """Final PSNR in dB on [0, 1]."""
        return self.curve[-1].psnr


def default_lr(config: SirenConfig) -> float:
    """A learning rate that suits networks of this width: 5e-4 at width 256, inverse in width."""
    return 0.128 / config.width


Batches = Callable[[], tuple[Tensor, Tensor]]  # the next step's coords (N, 2) and rgb (N, 3)


def _pixel_batches(image: Tensor, batch_pixels: int, generator: torch.Generator) -> Batches:
    """Pixels in one random permutation after the other: every epoch visits each exactly once."""
    coords, rgb = image_coords(image), image_to_rgb(image)
    queue = torch.empty(0, dtype=torch.long)

    def next_batch() -> tuple[Tensor, Tensor]:
        nonlocal queue
        if len(queue) < batch_pixels:
            queue = torch.cat((queue, torch.randperm(len(coords), generator=generator)))
        indices, queue = queue[:batch_pixels].to(image.device), queue[batch_pixels:]
        return coords[indices], rgb[indices]

    return next_batch


def _point_batches(image: Tensor, batch_pixels: int, generator: torch.Generator) -> Batches:
    """Uniformly random points with bilinearly interpolated colours, as the seed experiment has."""

    def next_batch() -> tuple[Tensor, Tensor]:
        coords = torch.rand(batch_pixels, 2, generator=generator).to(image.device) * 2 - 1
        # align_corners=False puts pixel centres where pixel_coords does
        colours = torch.nn.functional.grid_sample(
            image[None], coords[None, None], padding_mode="border", align_corners=False
        )
        return coords, image_to_rgb(colours[0])

    return next_batch


SAMPLERS: dict[str, Callable[[Tensor, int, torch.Generator], Batches]] = {
    "pixels": _pixel_batches,
    "points": _point_batches,
}


def fit(
    siren: Siren | Params,
    image: ImageSource,
    config: FitConfig | None = None,
    *,
    spent_epochs: float = 0.0,
    spent_sec: float = 0.0,
    on_eval: Callable[[CurvePoint], None] = lambda point: None,
    **options: Any,
) -> FitResult:
    """Fits one SIREN to one image.

    Args:
        siren: A module, which ends up fitted in place, or Params, which are left as they were.
        image: (3, H, W) in [0, 1], or anything else that `to_image` takes.
        config: See FitConfig.
        spent_epochs: What making the start has already cost in pixel visits; part of the budget.
        spent_sec: The same in seconds; added to the curve.
        on_eval: Called with each point of the curve, off the clock.
        **options: Fields of FitConfig to set, for example `budget_epochs=8`.

    Raises:
        InputError: an option or the image is unusable.
    """
    for name in options.keys() - FitConfig.__dataclass_fields__.keys():
        raise unknown_name("fit option", name, FitConfig.__dataclass_fields__)
    config = replace(config or FitConfig(), **options)
    start = (siren.params if isinstance(siren, Siren) else siren).map(Tensor.detach)
    if start.batch_shape:
        raise InputError(f"fit takes one SIREN, not {start.batch_shape[0]} (see Params.unbatch)")
    frozen = _layer_names(start, config.frozen_layers)
    device = start["layers.0.weight"].device
    image = to_image(image).to(device)
    coords, rgb = image_coords(image), image_to_rgb(image)
    pixels = len(coords)
    batch_pixels = min(config.batch_pixels, pixels)

    def steps_after(epochs: float) -> int:
        return round(max(epochs - spent_epochs, 0) * pixels / batch_pixels)

    steps = steps_after(config.budget_epochs)
    eval_steps = {0, steps, *(steps_after(epochs) for epochs in config.eval_epochs)}
    generator = torch.Generator().manual_seed(config.seed)
    next_batch = SAMPLERS[config.sampler](image, batch_pixels, generator)

    params = start.map(Tensor.clone)
    trained = [value.requires_grad_() for name, value in params.items() if name not in frozen]
    lr = config.lr or default_lr(params.config)
    optimizer = adamw(params, lr, config) if trained else None
    base_lrs = [group["lr"] for group in optimizer.param_groups] if optimizer else []
    clock = Clock(device)
    train_mse = torch.tensor(float("nan"), device=device)
    best, curve, diverged = start.map(Tensor.clone), [], False
    for step in range(steps + 1):
        if step in eval_steps:
            mse, psnr = (float(value) for value in grid_errors(predict(params, coords), rgb))
            diverged = not mse < (DIVERGED_MSE if step else float("inf"))
            epochs = spent_epochs + step * batch_pixels / pixels
            sec = spent_sec + clock.sec
            mse = float("inf") if diverged else mse
            curve.append(CurvePoint(epochs, step, sec, mse, psnr, float(train_mse)))
            on_eval(curve[-1])
            if diverged:
                break
            best = params.map(lambda value: value.detach().clone())
            stop = config.stop_mse
            if stop is not None and mse <= stop and float(train_mse) <= stop:
                break
        if step == steps or optimizer is None:
            continue
        with clock.running():
            decay = 1 - step / steps if config.schedule == "linear" else 1.0
            for group, base_lr in zip(optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = base_lr * decay
            batch_coords, batch_rgb = next_batch()
            loss = (apply(params, batch_coords) - batch_rgb).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss = loss.detach()
            train_mse = loss if step == 0 else train_mse.lerp(loss, 1 - TRAIN_MSE_SMOOTHING)
    if isinstance(siren, Siren):
        with torch.no_grad():
            for name, value in siren.params.items():
                value.copy_(best[name])
    return FitResult(best, tuple(curve), lr, diverged)


def _layer_names(params: Params, layers: tuple[int, ...]) -> set[str]:
    """Names of all parameters of some layers."""
    for layer in layers:
        if not 0 <= layer <= params.config.depth:
            raise InputError(
                f"frozen_layers: no layer {layer}; this SIREN has 0 to {params.config.depth}"
            )
    return {name for name in params if int(name.split(".")[1]) in layers}


def adamw(params: Params, lr: float, config: FitConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that are trained, the output layer in a group of its own."""
    output = _layer_names(params, (params.config.depth,))
    groups = [
        {"params": [p for n, p in params.items() if p.requires_grad and n not in output], "lr": lr},
        {
            "params": [p for n, p in params.items() if p.requires_grad and n in output],
            "lr": lr * config.output_lr_factor,
        },
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)


def preview(params: Params, image: Tensor) -> Tensor:
    """What `params` show at the image's size: (3, H, W) in [0, 1]."""
    height, width = image.shape[-2:]
    return render(params, height, width)
