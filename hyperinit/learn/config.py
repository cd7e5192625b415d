"""What every training run has to decide: one checked `LoopConfig`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hyperinit.base.errors import InputError, check_at_least
from hyperinit.base.settings import option

# Far beyond any use, and still within the memory that a message about it takes.
MOST = {
    "size": 2**14,
    "width": 2**14,
    "depth": 2**10,
    "batch_images": 2**16,
    "max_steps": 2**40,
    "compare_images": 2**16,
    "threads": 2**10,
    "seed": 2**63 - 1,
}


def check_positive(config: object, fields: Sequence[str]) -> None:
    """Fields of a config that must be positive, where they are not None.

    Raises:
        InputError: one is not.
    """
    for field in fields:
        value = getattr(config, field)
        if value is not None and not value > 0:
            raise InputError(f"{field} must be positive, not {value}")


def check_at_most(config: object, most: Mapping[str, float]) -> None:
    """Fields of a config that must not be above a number, where they are not None.

    Raises:
        InputError: one is.
    """
    for field, maximum in most.items():
        if (getattr(config, field) or 0) > maximum:
            raise InputError(f"{field} must be at most {maximum}, not {getattr(config, field)}")


@dataclass(frozen=True)
class LoopConfig:
    """What every training run has to decide; a task's own config adds to it."""

    data: str = option("builtin", "builtin, synthetic, torchvision:NAME, or a directory of images")
    data_weights: tuple[str, ...] = option((), "sampling weight of sub-folders: clothing=0.1,...")
    data_limit: int | None = option(None, "use at most this many images")
    held_out_fraction: float | None = option(None, "of a directory's photographs; none: 0.05")
    group_tiles: bool = option(
        True, "files whose names say so are tiles of one photograph and stay together"
    )
    size: int = option(96, "side of the square training images, in pixels")
    width: int = option(128, "units of the SIREN's sine layers")
    depth: int = option(4, "number of the SIREN's sine layers")
    base_init: str = option("33", "hand-designed init that the learned base starts from")
    max_steps: int = option(1500, "outer steps of the whole run; the rates decay over these")
    batch_images: int = option(4, "images per outer step")
    warmup_steps: int = option(50, "outer steps over which the rates rise")
    schedule: Literal["cosine", "linear", "linear-tenth", "step", "constant"] = option(
        "cosine", "of the rates: down to 0, or to a tenth (linear-tenth; step: for the last fifth)"
    )
    clip_norm: float | None = option(1.0, "largest norm of the outer gradient; none: any")
    skip_norm: float | None = option(
        5.0, "skip steps whose gradient is so many times its usual norm; none: never"
    )
    time_limit_min: float | None = option(
        None, "stop (and compare) after so many minutes of training, resumed parts included"
    )
    checkpoint_sec: float = option(120.0, "seconds between checkpoints")
    eval_steps: int = option(100, "outer steps between evaluations on held-out images")
    compare_budgets: tuple[float, ...] = option((1.0, 4.0, 8.0), "budgets of the comparison")
    compare_lrs: tuple[float, ...] = option((2e-4, 4e-4, 8e-4), "its learning rates")
    compare_images: int = option(4, "its held-out images; 0: no comparison")
    seed: int = option(0, "of the base init, the batches and the pixels")
    threads: int | None = option(None, "CPU threads; none: torch's default")
    wandb: Literal["auto", "online", "offline", "disabled"] = option(
        "auto", "auto: online with a key, else offline"
    )

    log: Literal["wandb", "tensorboard", "mlflow", "none"] = option(
        "wandb", "logger beside metrics.jsonl"
    )

    def __post_init__(self) -> None:
        least = {"max_steps": 1, "batch_images": 1, "size": 4, "eval_steps": 1}
        check_at_least(self, {**least, "warmup_steps": 0, "compare_images": 0})
        check_at_least(self, {"width": 1, "depth": 1, "seed": 0})
        check_positive(self, ("clip_norm", "skip_norm", "checkpoint_sec"))
        check_positive(self, ("threads", "data_limit"))
        check_at_most(self, MOST)
        self.folder_weights  # noqa: B018  checks its own fields

    @property
    def folder_weights(self) -> dict[str, float]:
        """`data_weights`, parsed."""
        weights = {}
        for entry in self.data_weights:
            folder, _, weight = entry.rpartition("=")
            try:
                weights[folder] = float(weight)
            except ValueError:
                weights[folder] = -1.0
            if not folder or not weights[folder] >= 0:
                raise InputError(f"data_weights: {entry!r} is not of the form clothing=0.1")
        return weights
