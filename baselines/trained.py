"""Trained rivals, as rows: NAME -> its loss, its training images and its published settings.

All of them train a `LearnedInit` in the same loop as hypernetworks, so their run directories are
inits for a benchmark too. A rival is a row of `RIVALS`, which cites its source.

The sources fit colours in [0, 1], but SIRENs here fit normalised ones. With `unit_colors`, rates
are converted so that a step changes the picture as in the source. On [0, 1] the output layer is
COLOR_STD times as large, so Adam must move it 1 / COLOR_STD times as far here. The squared error is
COLOR_STD^2 times as large there, so plain gradient steps are equally long in the output layer, and
COLOR_STD^2 times as long in the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor

from baselines.losses import (
    heads_loss,
    noise_images,
    predicted_loss,
    reptile_loss,
    unrolled_loss,
)
from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.settings import option
from hyperinit.hypernet.learned import LEARNED_KIND, LearnedConfig, LearnedInit, load_learned
from hyperinit.hypernet.modulation import ModulationConfig, TrunkConfig
from hyperinit.images.coords import RGB_STD
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.learn.config import MOST_SIDE, AdaptingConfig
from hyperinit.learn.images import crops, fixed_squares
from hyperinit.learn.state import StepResult, Task, TrainingImages
from hyperinit.photos.photographs import Photographs
from hyperinit.siren.network import Params

COLOR_STD = sum(RGB_STD) / len(RGB_STD)  # one unit of normalised colour, on [0, 1]


@dataclass(frozen=True)
class BaselineConfig(AdaptingConfig):
    """The settings of a rival's training; its `config.toml` holds them, resolved."""

    rival: str = option("", "the rival; set by NAME on the command line")
    base_init: str = option("paper", "hand-designed init that the learned one starts from")
    omega_0: float | None = option(None, "omega_0 of the SIREN; none: the base init's own")
    warmup_steps: int = option(0, "outer steps of learning rate warm-up", at_least=0)
    schedule: Literal["cosine", "linear", "linear-tenth", "step", "constant"] = option(
        "constant",
        "decay of the learning rates: to 0, or to a tenth (linear-tenth; step: for the last fifth)",
    )
    lr: float = option(1e-3, "learning rate of the outer loop", above=0)
    step_size_lr: float = option(2e-2, "learning rate of the inner step sizes, if learned", above=0)
    unit_colors: bool = option(True, "rates as for colours in [0, 1]; false: for normalised ones")
    clip_norm: float | None = option(
        None, "largest norm of the outer gradient; none: no clipping", above=0
    )
    skip_norm: float | None = option(
        None, "skip steps whose gradient is this many times its usual norm; none: never"
    )
    noise: Literal["uniform", "gaussian", "spectrum", "dead-leaves"] = option(
        "uniform", "snp: the kind of pictures"
    )
    noise_power: float | None = option(
        None, "snp: power of 1/f^power (none: 1) or of disc radii r^-power (none: 3)", at_least=0
    )
    inner_steps: int = option(2, "maml, meta-sgd: gradient steps (K); reptile: Adam steps")
    inner_lr: float = option(1e-2, "step size of the inner steps; meta-sgd: at the start", above=0)
    patch_size: int = option(
        9, "transinr, ipc: side of an image token, in pixels of `size`", at_most=MOST_SIDE
    )
    weight_tokens: int = option(64, "transinr: tokens per layer; ipc: the rank")
    token_size: int = option(
        768, "transinr, ipc: numbers in a token of the transformer", at_most=MOST_SIDE
    )
    transformer_layers: int = option(6, "transinr, ipc: layers", at_most=MOST_SIDE)
    attention_heads: int = option(12, "transinr, ipc: attention heads", at_most=MOST_SIDE)
    trunk_width: int = option(
        64, "seed-hyper: width of the residual network; ResNet-50 has 64", at_most=MOST_SIDE
    )
    code_size: int = option(256, "seed-hyper: length of the image's code", at_most=MOST_SIDE)
    code_penalty: float = option(0.1, "seed-hyper: weight of the code's mean square", at_least=0)
    norm_penalty: float = option(
        100.0, "seed-hyper: weight of errors in layers' means and deviations", at_least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rival not in RIVALS:
            raise unknown_name("rival", self.rival, RIVALS)
        if RIVALS[self.rival].loss is reptile_loss and self.inner_steps < 1:
            raise InputError(f"inner_steps of {self.rival} must be at least 1")
        if RIVALS[self.rival].predicts and self.batch_images < 2:
            raise InputError(
                f"batch_images of {self.rival} must be at least 2, because it normalises batches"
            )
        if self.data_weights and RIVALS[self.rival].images is not crops:
            raise InputError(
                f"data_weights does nothing for {self.rival}, which draws no photographs"
            )
        self.learned  # noqa: B018  checks its own fields

    @property
    def learned(self) -> LearnedConfig:
        """The learned init to build."""
        spec = named_init(self.base_init)
        spec = spec if self.omega_0 is None else replace(spec, omega_0=self.omega_0)
        row = RIVALS[self.rival]
        return LearnedConfig(
            siren=spec.siren_config(self.width, self.depth),
            heads=self.batch_images if row.heads else 0,
            output_gain=sqrt(6) / spec.omega_0 if row.heads else 1.0,
            inner_steps=self.inner_steps if row.unrolled else 0,
            inner_pixels=self.inner_pixels,
            inner_lr=self.inner_lr,
            inner_hidden_factor=self.output_lr_factor**-2,
            learned_step_sizes=row.learned_step_sizes,
            adapts=row.adapts,
            modulation=self._modulation,
            trunk=TrunkConfig(self.size, self.trunk_width, self.code_size)
            if row.predicts
            else None,
        )

    @property
    def output_lr_factor(self) -> float:
        """Adam's learning rate for the output layer, relative to the others'."""
        return 1 / COLOR_STD if self.unit_colors else 1.0

    @property
    def _modulation(self) -> ModulationConfig | None:
        kind = RIVALS[self.rival].modulation
        if kind is None:
            return None
        return ModulationConfig.of(kind, self)


Loss = Callable[[LearnedInit, BaselineConfig, Tensor, torch.Generator], StepResult]


@dataclass(frozen=True)
class Rival:
    """One trained rival.

    Attributes:
        source: Paper, repository file, and the published setting; one line.
        loss: (model, config, images, generator) -> the outer step's loss.
        images: (photographs, config) -> its training images.
        settings: Published settings of BaselineConfig, besides the sizes.
        sizes: Published sizes of the images and the network.
        scaled: Replacements for settings that a CPU cannot reach, except in the published preset.
        optimizer: Parameter groups -> the outer optimiser.
        heads: Whether it has one output layer per training image, and a fresh one at test time.
        unrolled: Whether the loss is measured after `inner_steps`.
        learned_step_sizes: See LearnedConfig.
        adapts: Whether the source fits a new image by the inner steps; otherwise it fits from the
            learned parameters with Adam, and the steps only serve to train them.
        modulation: How a transformer turns the learned weights into an image's, see
            ModulationConfig.
        predicts: Whether a residual network predicts all of an image's weights.
    """

    source: str
    loss: Loss
    images: Callable[[Photographs, BaselineConfig], TrainingImages]
    settings: Mapping[str, Any]
    sizes: Mapping[str, Any] = field(default_factory=dict)
    scaled: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] = lambda groups: (
        torch.optim.AdamW(groups, weight_decay=0.0)
    )
    heads: bool = False
    unrolled: bool = False
    learned_step_sizes: bool = False
    adapts: bool = False
    modulation: Literal["columns", "low-rank"] | None = None
    predicts: bool = False


# The table ---------------------------------------------------------------------------------------

_STRAINER = Rival(
    "arXiv 2409.09566, kushalvyas/alpine examples/strainer.ipynb, alpine/models/strainer.py: 5"
    " shared sine layers and a head each of 10 faces, full batch, Adam 1e-4, 5001 steps; test:"
    " fresh head, all layers fitted, Adam 1e-4",
    heads_loss,
    fixed_squares,
    {"batch_images": 10, "query_pixels": 178**2, "lr": 1e-4, "max_steps": 5001, "omega_0": 30.0},
    {"size": 178, "width": 178, "depth": 5},
    heads=True,
)
_MAML = Rival(
    "arXiv 2012.02189 (learnit), in the coordinates and the network of arXiv 2110.14678,"
    " jaeho-lee/MetaSparseINR main.py: omega 200, 2 inner SGD steps of 1e-2, outer Adam 1e-5, 3"
    " images, 150k steps; test: Adam 1e-4 from theta_0",
    unrolled_loss,
    crops,
    {
        "omega_0": 200.0,
        "inner_steps": 2,
        "inner_lr": 1e-2,
        "inner_pixels": 178**2,
        "query_pixels": 178**2,
        "lr": 1e-5,
        "batch_images": 3,
        "max_steps": 150_000,
    },
    {"size": 178, "width": 256, "depth": 4},
    unrolled=True,
)
# Scaled down so that 3,000 steps at 224 x 224 and 5 x 256 take two hours of two cores: the
# transformer, its patches and the pixels per step, but not tokens per layer, batch and rate.
_TRANSINR = Rival(
    "arXiv 2208.02801, yinboc/trans-inr cfgs/imgrec_imagenette.yaml, models/trans_inr.py: patches"
    " of 9, 64 tokens per layer, transformer 6 x 768 with 12 heads, all pixels of 16 images, Adam"
    " 1e-4 times 0.1 after 80 %, 400 epochs of 9469 images",
    unrolled_loss,
    crops,
    {
        "lr": 1e-4,
        "schedule": "step",
        "batch_images": 16,
        "query_pixels": 178**2,
        "max_steps": 236_800,
        "patch_size": 9,
        "weight_tokens": 64,
        "token_size": 768,
        "transformer_layers": 6,
        "attention_heads": 12,
    },
    {"size": 178, "width": 256, "depth": 4},
    scaled={
        "query_pixels": 2048,
        "max_steps": 3000,
        "patch_size": 16,
        "token_size": 192,
        "transformer_layers": 4,
        "attention_heads": 6,
    },
    modulation="columns",
)

RIVALS: dict[str, Rival] = {
    "strainer": _STRAINER,
    "snp": replace(
        _STRAINER,
        source="arXiv 2603.29034: STRAINER on 10 pictures of noise, Adam 1e-4, 5000 steps",
        images=noise_images,
        settings={**_STRAINER.settings, "max_steps": 5000},
    ),
    "maml": _MAML,
    "fomaml": replace(
        _MAML,
        source="maml without second-order gradients (arXiv 1703.03400, sec. 5.2)",
        settings={**_MAML.settings, "second_order": False},
    ),
    "meta-sgd": Rival(
        "arXiv 1707.09835, as vsitzmann/metasdf MetaSDF.ipynb has it for CIFAR-10: a step size per"
        " parameter and step from 1e-5, 3 steps, outer Adam 5e-5, 32 images, some hundred steps;"
        " test: the 3 steps",
        unrolled_loss,
        crops,
        {
            "inner_steps": 3,
            "inner_lr": 1e-5,
            "inner_pixels": 32**2,
            "query_pixels": 32**2,
            "lr": 5e-5,
            "step_size_lr": 5e-5,
            "batch_images": 32,
            "max_steps": 1000,
        },
        {"size": 32, "width": 128, "depth": 4},
        unrolled=True,
        learned_step_sizes=True,
        adapts=True,
    ),
    # Not published for SIRENs on photographs; the values are those of its own few-shot tasks.
    "reptile": Rival(
        "arXiv 1803.02999, openai/supervised-reptile supervised_reptile/args.py: 20 inner Adam"
        " steps of 1e-3 (its beta1 0 is 0.9 here), outer step 0.1 falling linearly; test: Adam",
        reptile_loss,
        crops,
        {
            "inner_steps": 20,
            "inner_lr": 1e-3,
            "lr": 0.1,
            "schedule": "linear",
            "batch_images": 5,
            "max_steps": 100_000,
        },
        {"size": 178, "width": 256, "depth": 5},
        optimizer=torch.optim.SGD,
    ),
    "transinr": _TRANSINR,
    "ipc": replace(
        _TRANSINR,
        source="arXiv 2211.13223, kakaobrain/ginr-ipc configs/image/low_rank_modulated_transinr/"
        "imagenette178_low_rank_modulated_transinr.yaml: transinr's transformer, second layer"
        " alone, of rank 256, Adam 1e-4, 16 images, 4000 epochs",
        settings={
            **_TRANSINR.settings,
            "schedule": "constant",
            "weight_tokens": 256,
            "max_steps": 2_368_000,
        },
        modulation="low-rank",
    ),
    # Its source never minimised the penalties, and reports no result. It has normalised colours
    # too. The number of steps is not stated, and the rate was searched for, starting from 2e-3.
    "seed-hyper": Rival(
        "BrianPugh/pugh_torch experiments/siren/model.py, hyper_siren_imagenet.yaml: ResNet-50, a"
        " code of 256, two hidden layers of 256, one head a layer, AdamW 2e-3, 26 images, 8192"
        " pixels of each, penalties 0.1 on the code and 100 on the weights",
        predicted_loss,
        crops,
        {
            "unit_colors": False,
            "batch_images": 26,
            "query_pixels": 8192,
            "lr": 2e-3,
            "max_steps": 100_000,
        },
        {"size": 224, "width": 256, "depth": 5},
        scaled={"query_pixels": 1024, "trunk_width": 16},
        predicts=True,
    ),
}


# The task ----------------------------------------------------------------------------------------


def _build(config: BaselineConfig) -> LearnedInit:
    generator = torch.Generator().manual_seed(config.seed)
    spec = named_init(config.base_init)
    base = sample_params(spec, config.learned.siren, generator=generator)
    return LearnedInit(config.learned, base, generator)


def _optimizer(model: LearnedInit, config: BaselineConfig) -> torch.optim.Optimizer:
    row, output = RIVALS[config.rival], (f"base.layers.{config.depth}.", "head_")
    # Reptile's step goes a fraction of the way, whatever the units.
    factor = 1.0 if row.loss is reptile_loss else config.output_lr_factor
    names = dict(model.named_parameters())
    rates = names.pop("rates", None)
    groups: list[dict[str, Any]] = [
        {"params": [v for n, v in names.items() if not n.startswith(output)], "lr": config.lr},
        {"params": [v for n, v in names.items() if n.startswith(output)], "lr": factor * config.lr},
    ]
    groups += [] if rates is None else [{"params": [rates], "lr": config.step_size_lr}]
    return row.optimizer(groups)


def _loss(
    model: LearnedInit,
    config: BaselineConfig,
    images: Tensor,
    generator: torch.Generator,
    part: slice = slice(None),
) -> StepResult:
    if part not in (slice(None), slice(0, len(images))):
        raise InputError(f"{config.rival} is trained by one process; start it without torchrun")
    return RIVALS[config.rival].loss(model, config, images, generator)


def _starts(
    model: LearnedInit, config: BaselineConfig, held_out: Tensor
) -> tuple[dict[str, Sequence[Params]], dict[str, float]]:
    """The inits before any inner step, and after the inner steps, if there are any."""
    before = [model.unadapted(image, seed=seed) for seed, image in enumerate(held_out)]
    starts: dict[str, Sequence[Params]] = {"before": before}
    if model.config.inner_steps:
        pairs = enumerate(zip(before, held_out, strict=True))
        starts["after"] = [model.adapted(p, image, seed=seed) for seed, (p, image) in pairs]
    metrics = {f"weights/{name}_std": float(value.std()) for name, value in before[0].items()}
    if model.rates is not None:
        for k, sizes in enumerate(model.step_sizes()):
            for name, size in sizes.items():
                metrics[f"step_sizes/{k}/{name}"] = float(size.detach().mean())
    return starts, metrics


LEARNED = Task(
    name="learned-init",
    kind=LEARNED_KIND,
    load=load_learned,
    prefix="model",
    config=BaselineConfig,
    build=_build,
    optimizer=_optimizer,
    loss=_loss,
    starts=_starts,
)
