"""The settings of every training run (`LoopConfig`) and of ours; the command line of a training.

Nothing here imports torch before a config is made, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hyperinit.base.arguments import MAX_EPOCHS, MAX_RATE, Parser, add_device, add_manner
from hyperinit.base.errors import InputError
from hyperinit.base.settings import Presets, build_parser, check, option

if TYPE_CHECKING:
    from hyperinit.fitting.config import FitConfig
    from hyperinit.hypernet.modulation import ModulationConfig
    from hyperinit.hypernet.network import HyperConfig
    from hyperinit.inits.start import Init
    from hyperinit.learn.loss import OuterLoss

# Far more than anyone uses, but still small enough for an error message about their memory.
MOST_SIDE, MOST_LAYERS, MOST_IMAGES, MOST_PIXELS = 2**14, 2**10, 2**16, 2**24

# Settings that presets of all kinds of training share: the seed experiment's problem, and one that
# takes seconds.
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
MOST_READ = 3072  # images.cosines.MOST_COSINES, which needs torch; learn.reptile compares them

# Pixels in evaluations of Reptile's fits; on all pixels they would take as long as the fits.
EVAL_PIXELS = 4096


def check_numbers(config: Any) -> None:
    """Refuses a config with an absurdly large number.

    Raises:
        InputError: a number is too large.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            most = MOST_OF_OTHERS if isinstance(number, int) else MAX_RATE
            if isinstance(number, (int, float)) and not -most <= number <= most:
                raise InputError(f"{field.name} must be at most {most:.15g}, not {number:.6g}")


@dataclass(frozen=True)
class LoopConfig:
    """The settings of every training run; a task's own config adds to them."""

    data: str = option(
        "builtin",
        "builtin, synthetic, torchvision:NAME, a directory of images, x-{000..123}.tar,"
        " FILE.parquet, FILE.npy or .npz, hf:NAME",
    )
    data_weights: tuple[str, ...] = option((), "sampling weight of sub-folders: clothing=0.1,...")
    data_limit: int | None = option(None, "use at most this many images", at_least=1)
    data_memory_mib: int = option(
        2048,
        "memory for decoded photographs, in MiB; others are read again when drawn",
        at_least=0,
        at_most=2**30,
    )
    data_workers: int = option(
        0, "threads that prepare the images of later steps", at_least=0, at_most=2**8
    )
    held_out_fraction: float | None = option(
        None, "share of the photographs to hold out; none: 0.05", at_least=0, below=1
    )
    split_by: Literal["content", "name"] = option(
        "content", "hash that decides whether a photograph is held out: of its content or its name"
    )
    group_tiles: bool = option(
        True, "files named as tiles of one photograph (000_01, 000_02) stay together"
    )
    color_profiles: bool = option(True, "apply the ICC profiles of the files in a directory")
    vary_colors: bool = option(
        False, "vary colours and contrasts of images at random, and overlay some of them"
    )
    size: int = option(
        96, "side of the square training images, in pixels", at_least=4, at_most=MOST_SIDE
    )
    width: int = option(128, "units of each sine layer of the SIREN", at_least=1, at_most=MOST_SIDE)
    depth: int = option(4, "number of the SIREN's sine layers", at_least=1, at_most=MOST_LAYERS)
    base_init: str = option("33", "hand-designed init that the learned base starts from")
    max_steps: int = option(
        1500, "outer steps of the run; learning rates decay over them", at_least=1, at_most=2**40
    )
    batch_images: int = option(4, "images per outer step", at_least=1, at_most=MOST_IMAGES)
    warmup_steps: int = option(50, "outer steps of learning rate warm-up", at_least=0)
    schedule: Literal["cosine", "linear", "linear-tenth", "step", "constant"] = option(
        "cosine",
        "decay of the learning rates: to 0, or to a tenth (linear-tenth; step: for the last fifth)",
    )
    clip_norm: float | None = option(
        1.0, "largest norm of the outer gradient; none: no clipping", above=0
    )
    skip_norm: float | None = option(
        5.0, "skip steps whose gradient is this many times its usual norm; none: never", at_least=1
    )
    time_limit_min: float | None = option(
        None,
        "stop (and compare) after this many minutes of training, resumed parts included",
        at_least=0,
    )
    checkpoint_sec: float = option(120.0, "seconds between checkpoints", above=0)
    eval_steps: int = option(100, "outer steps between evaluations on held-out images", at_least=1)
    compare_budgets: tuple[float, ...] = option((1.0, 4.0, 8.0), "budgets to compare at, epochs")
    compare_lrs: tuple[float, ...] = option((2e-4, 4e-4, 8e-4), "learning rates to compare at")
    compare_images: int = option(
        4,
        "held-out images for evaluations and the final comparison; 0: neither is made",
        at_least=0,
        at_most=MOST_IMAGES,
    )
    seed: int = option(0, "seed of base init, batches and pixels", at_least=0, below=2**63)
    threads: int | None = option(
        None, "CPU threads; none: torch's default", at_least=1, at_most=2**10
    )
    wandb: Literal["auto", "online", "offline", "disabled"] = option(
        "auto", "W&B mode; auto: online with an API key, else offline"
    )
    log: Literal["wandb", "tensorboard", "mlflow", "none"] = option(
        "wandb", "logger in addition to metrics.jsonl"
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
        named = [folder.strip("/") for folder in weights]
        if len({*named}) < len(self.data_weights):
            raise InputError("data_weights: a sub-folder is given twice; give each one weight")
        return weights


@dataclass(frozen=True)
class AdaptingConfig(LoopConfig):
    """The settings of a training whose loss is measured after inner steps on the image."""

    query_pixels: int = option(
        1024,
        "pixels per image on which the outer loss is measured",
        at_least=1,
        at_most=MOST_PIXELS,
    )
    inner_pixels: int = option(1024, "pixels per inner step", at_least=1, at_most=MOST_PIXELS)
    second_order: bool = option(True, "differentiate through the inner gradients (second order)")
    inner_loop: Literal["functional", "higher"] = option(
        "functional", "implementation of the inner loop; higher is the reference"
    )


@dataclass(frozen=True)
class TrainConfig(AdaptingConfig):
    """The settings of a meta-training run; its `config.toml` holds them, resolved."""

    lr: float = option(1e-3, "learning rate of the encoder and the heads", above=0)
    base_lr: float = option(1e-4, "learning rate of the learned base", above=0)
    step_size_lr: float = option(
        2e-2, "learning rate of the logarithms of the inner step sizes", above=0
    )
    encoder_size: int = option(
        32, "images are resized to this side before they are encoded", at_most=MOST_SIDE
    )
    channels: int = option(32, "channels of the encoder's first convolution", at_most=MOST_SIDE)
    code_size: int = option(256, "length of the image's code", at_most=MOST_SIDE)
    rank: int = option(8, "rank of the predicted residual of a weight matrix", at_most=MOST_SIDE)
    inner_steps: int = option(3, "gradient steps from the generated init (K); 0: none")
    normalized_steps: bool = option(False, "inner steps along gradients scaled to unit size")
    weight_before: float = option(0.2, "weight of the loss before the inner steps", at_least=0)
    weight_after: float = option(1.0, "weight of the loss after the inner steps", at_least=0)
    residual_penalty: float = option(0.0, "weight of the heads' mean squared residual", at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.hyper, self.outer  # noqa: B018  each checks its own fields

    @property
    def hyper(self) -> HyperConfig:
        """The hypernetwork to build."""
        from hyperinit.hypernet.network import HyperConfig
        from hyperinit.inits.rules import named_init

        base = named_init(self.base_init)
        fields = {k: v for k, v in asdict(self).items() if k in HyperConfig.__dataclass_fields__}
        siren = base.siren_config(self.width, self.depth)
        return HyperConfig(siren=siren, lr_factor=base.lr_factor, **fields)

    @property
    def outer(self) -> OuterLoss:
        """The loss to minimise."""
        from hyperinit.learn.loss import OuterLoss

        names = OuterLoss.__dataclass_fields__
        return OuterLoss(**{k: v for k, v in asdict(self).items() if k in names})


@dataclass(frozen=True)
class ReptileConfig(LoopConfig):
    """The settings of a training by real fits; its `config.toml` holds them, resolved."""

    base_init: str = option("identity-sized", "init that theta_0 is drawn from")
    max_steps: int = option(400, "outer steps of the run; eps decays over them")
    batch_images: int = option(1, "images fitted per outer step; their displacements are averaged")
    warmup_steps: int = option(0, "outer steps of warm-up, over which eps rises")
    schedule: Literal["cosine", "linear", "linear-tenth", "step", "constant"] = option(
        "linear-tenth", "decay of eps: to 0, or to a tenth (linear-tenth; step: for the last fifth)"
    )
    clip_norm: float | None = option(None, "largest norm of a displacement; none: no clipping")
    skip_norm: float | None = option(
        None, "skip steps whose displacement is this many times its usual norm; none: never"
    )
    eval_steps: int = option(50, "outer steps between fits of the held-out images")
    eps: float = option(
        0.15, "share of the way from theta_0 to a fit's end that a step takes", above=0
    )
    horizon_epochs: float = option(
        4.0, "budget of each fit, as in the fits it is for, in epochs", above=0, at_most=MAX_EPOCHS
    )
    read_numbers: int = option(
        0,
        "number of an image's lowest cosine coefficients on which the start depends; 0: none",
        at_least=0,
        at_most=MOST_READ,
    )
    memory_images: int = option(
        800,
        "with read_numbers: number of images after which older ones count less",
        at_least=1,
        at_most=MOST_PIXELS,
    )
    fit_lr: float | None = option(
        None, "learning rate of the fits; none: what suits the base init", above=0
    )
    gradient_steps: Literal["untrained", "waves-steps", "waves-few-steps"] | None = option(
        None, "begin as the draw of this start, take its steps before each fit; none: no steps"
    )
    learn_output: bool = option(True, "learn the output layer too; long fits gain without")
    patch_size: int = option(
        0,
        "side of the patches, in pixels, from which a transformer predicts a residual of all"
        " weights; 0: no transformer",
        at_least=0,
        at_most=MOST_SIDE,
    )
    weight_tokens: int = option(
        32, "transformer: rank of a layer's residual", at_least=1, at_most=MOST_SIDE
    )
    token_size: int = option(256, "transformer: numbers in a token", at_least=1, at_most=MOST_SIDE)
    transformer_layers: int = option(4, "transformer: layers", at_least=1, at_most=MOST_LAYERS)
    attention_heads: int = option(8, "transformer: heads per layer", at_least=1, at_most=MOST_SIDE)
    lr: float = option(5e-4, "transformer: learning rate of AdamW", above=0)
    start_weight: float = option(
        1.0,
        "transformer: weight of the gradient of the start's own error, relative to the"
        " displacement, both scaled to mean length 1",
        at_least=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.base, self.fit, self.modulation  # noqa: B018  each checks its own fields

    @property
    def modulation(self) -> ModulationConfig | None:
        """The transformer, if one is wanted."""
        if not self.patch_size:
            return None
        from hyperinit.hypernet.modulation import ModulationConfig

        return ModulationConfig.of("residual", self)

    @property
    def base(self) -> Init:
        """The hand-designed init that theta_0 is drawn from."""
        from hyperinit.inits.start import rule_init

        return rule_init(self.base_init, self.width, self.depth)

    @property
    def fit(self) -> FitConfig:
        """The fit in each step."""
        from hyperinit.fitting.config import SampledFit

        return SampledFit(
            budget_epochs=self.horizon_epochs,
            lr=self.fit_lr,
            eval_epochs=(),
            eval_pixels=EVAL_PIXELS,
        )


REPTILE_PRESETS: dict[str, dict[str, Any]] = {
    # 96x96, SIREN 4x128, built-in photographs.
    "default": {"time_limit_min": 2.0},
    # The seed experiment's own problem.
    "base": {**SEED_SIZES, "horizon_epochs": 2.0, "compare_lrs": (1.2e-4, 2e-4, 3.4e-4)},
    # One start for all images, from which gradient steps are taken, for the same problem.
    "steps": {
        **SEED_SIZES,
        "gradient_steps": "waves-few-steps",
        "eps": 0.5,
        "horizon_epochs": 1.0,
        "batch_images": 32,
        "max_steps": 160,
    },
    # A linear hypernetwork for 96x96, SIREN 4x128.
    "linear": {
        "base_init": "waves-sized",
        "read_numbers": 128,
        "eps": 1.0,
        "horizon_epochs": 1.0,
        "batch_images": 64,
        "max_steps": 200,
    },
    # A transformer for 96x96, SIREN 4x128: minutes of a GPU.
    "transformer": {
        "base_init": "waves-sized",
        "patch_size": 8,
        "transformer_layers": 6,
        "horizon_epochs": 1.0,
        "batch_images": 256,
        "max_steps": 3000,
        "warmup_steps": 50,
        "schedule": "cosine",
        "clip_norm": 1.0,
        "vary_colors": True,
        "eval_steps": 500,
    },
    # Takes seconds: a check that everything works.
    "tiny": {**TINY_SIZES, "horizon_epochs": 1.0, "max_steps": 6, "eval_steps": 3},
}


def training_parser(
    prog: str,
    description: str,
    config: type[LoopConfig],
    presets: Presets,
    methods: Sequence[str] = (),
) -> Parser:
    """The command line of a training: every setting of a config, and where the run goes.

    Args:
        prog: Name of the program.
        description: For `--help`.
        config: The dataclass whose fields become flags.
        presets: Name -> settings.
        methods: The choices of `--method`, if the command has it; the first is the default.
    """
    parser = Parser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="run directory (default: runs/PRESET-DATE-TIME)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="run directory to continue")
    if methods:
        parser.add_argument(
            "--method",
            choices=methods,
            help=f"training method ({methods[0]}); a resumed run keeps its own",
        )
    add_device(parser, what="where to train")
    add_manner(parser)
    parser.add_argument(
        *("--time-limit",),
        dest="time_limit_min",
        metavar="MINUTES",
        default=argparse.SUPPRESS,
        help="short for --time-limit-min",
    )
    return build_parser(config, presets, parser)
