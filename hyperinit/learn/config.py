"""What every training run has to decide: one checked `LoopConfig`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from hyperinit.base.arguments import MAX_RATE
from hyperinit.base.errors import InputError
from hyperinit.base.settings import check, option

# Far beyond any use, and still within the memory that a message about it takes.
MOST_SIDE, MOST_LAYERS, MOST_IMAGES, MOST_PIXELS = 2**14, 2**10, 2**16, 2**24

# What presets of all kinds of training share: the seed experiment's problem, and one of seconds.
SEED_SIZES: dict[str, Any] = {"size": 224, "width": 256, "depth": 5}
TINY_SIZES: dict[str, Any] = {
    "size": 16,
    "width": 16,
    "depth": 2,
    "compare_images": 1,
    "compare_budgets": (1.0, 2.0),
    "compare_lrs": (1e-3,),
}
MOST_OF_OTHERS = 2**63 - 1


def check_numbers(config: Any) -> None:
    """No number of a config, where it is not None, is beyond any use.

    Raises:
        InputError: one is.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            most = MOST_OF_OTHERS if isinstance(number, int) else MAX_RATE
            if isinstance(number, (int, float)) and not -most <= number <= most:
                raise InputError(f"{field.name} must be at most {most:.15g}, not {number:.6g}")


@dataclass(frozen=True)
class LoopConfig:
    """What every training run has to decide; a task's own config adds to it."""

    data: str = option(
        "builtin",
        "builtin, synthetic, torchvision:NAME, a directory of images, x-{000..123}.tar,"
        " FILE.parquet, FILE.npy or .npz, hf:NAME",
    )
    data_weights: tuple[str, ...] = option((), "sampling weight of sub-folders: clothing=0.1,...")
    data_limit: int | None = option(None, "use at most this many images", at_least=1)
    data_memory_mib: int = option(
        2048,
        "memory for decoded photographs; others are read again when they are drawn",
        at_least=0,
        at_most=2**30,
    )
    data_workers: int = option(
        0, "threads that make the images of later steps meanwhile", at_least=0, at_most=2**8
    )
    held_out_fraction: float | None = option(
        None, "of a directory's photographs; none: 0.05", at_least=0, below=1
    )
    split_by: Literal["content", "name"] = option(
        "content", "which hash of a photograph decides whether it is held out"
    )
    group_tiles: bool = option(
        True, "files whose names say so are tiles of one photograph and stay together"
    )
    color_profiles: bool = option(True, "apply the ICC profiles of the files in a directory")
    size: int = option(
        96, "side of the square training images, in pixels", at_least=4, at_most=MOST_SIDE
    )
    width: int = option(128, "units of the SIREN's sine layers", at_least=1, at_most=MOST_SIDE)
    depth: int = option(4, "number of the SIREN's sine layers", at_least=1, at_most=MOST_LAYERS)
    base_init: str = option("33", "hand-designed init that the learned base starts from")
    max_steps: int = option(
        1500, "outer steps of the whole run; the rates decay over these", at_least=1, at_most=2**40
    )
    batch_images: int = option(4, "images per outer step", at_least=1, at_most=MOST_IMAGES)
    warmup_steps: int = option(50, "outer steps over which the rates rise", at_least=0)
    schedule: Literal["cosine", "linear", "linear-tenth", "step", "constant"] = option(
        "cosine", "of the rates: down to 0, or to a tenth (linear-tenth; step: for the last fifth)"
    )
    clip_norm: float | None = option(1.0, "largest norm of the outer gradient; none: any", above=0)
    skip_norm: float | None = option(
        5.0, "skip steps whose gradient is so many times its usual norm; none: never", above=0
    )
    time_limit_min: float | None = option(
        None,
        "stop (and compare) after so many minutes of training, resumed parts included",
        at_least=0,
    )
    checkpoint_sec: float = option(120.0, "seconds between checkpoints", above=0)
    eval_steps: int = option(100, "outer steps between evaluations on held-out images", at_least=1)
    compare_budgets: tuple[float, ...] = option((1.0, 4.0, 8.0), "budgets of the comparison")
    compare_lrs: tuple[float, ...] = option((2e-4, 4e-4, 8e-4), "its learning rates")
    compare_images: int = option(
        4, "its held-out images; 0: no comparison", at_least=0, at_most=MOST_IMAGES
    )
    seed: int = option(0, "of the base init, the batches and the pixels", at_least=0, below=2**63)
    threads: int | None = option(
        None, "CPU threads; none: torch's default", at_least=1, at_most=2**10
    )
    wandb: Literal["auto", "online", "offline", "disabled"] = option(
        "auto", "auto: online with a key, else offline"
    )

    log: Literal["wandb", "tensorboard", "mlflow", "none"] = option(
        "wandb", "logger beside metrics.jsonl"
    )

    def __post_init__(self) -> None:
        check(self)
        check_numbers(self)
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
            if not folder or not 0 <= weights[folder] <= MAX_RATE:
                raise InputError(f"data_weights: {entry!r} is not of the form clothing=0.1")
        return weights


@dataclass(frozen=True)
class AdaptingConfig(LoopConfig):
    """Of a training whose loss is measured after inner steps on the image."""

    query_pixels: int = option(
        1024,
        "pixels per image on which the outer loss is measured",
        at_least=1,
        at_most=MOST_PIXELS,
    )
    inner_pixels: int = option(1024, "pixels per inner step", at_least=1, at_most=MOST_PIXELS)
    second_order: bool = option(True, "differentiate through the inner gradients")
    inner_loop: Literal["functional", "higher"] = option("functional", "higher is the reference")
