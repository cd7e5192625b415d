"""`hyperinit fit`: an image, a signal, or a set of images -> fitted SIRENs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperinit.base import arguments as typed
from hyperinit.base.arguments import Parser
from hyperinit.base.errors import InputError, unknown_name
from hyperinit.fitting.command import check_own_sizes, fit_image, pixels_of

if TYPE_CHECKING:
    from torch import Tensor

    from hyperinit.fitting.config import FitConfig

TARGET_BUDGET_EPOCHS = 200.0
DEPTH = 5

SIGNAL_INIT = "identity-sized"  # for sounds and volumes (docs/research-log.md 69)

# Fields of FitConfig that have a flag of their own.
DECLARED = ("budget_epochs", "lr", "batch_pixels", "seed")
# Fields that the command line does not take -> what to do instead.
UNUSED = {
    "eval_epochs": "the command evaluates at times that suit the budget; hyperinit.fit in Python"
    " takes eval_epochs",
    "stop_mse": "write --target-mse X to fit until the error is X",
}


def build(prog: str) -> Parser:
    """The command line."""
    parser = Parser(
        prog=prog,
        description="Fits a SIREN to an image, or to every image of a set, from any init.",
        epilog="Exit code: 0; 1 if some images of a set have no result or miss --target-mse; 2 for"
        " bad input, or if the fit of a single image fails or misses it; 130 after Ctrl-C,"
        " 143 SIGTERM, 129 SIGHUP.",
    )
    add = parser.add_argument
    add(
        "image",
        type=Path,
        metavar="IMAGE",
        help="an image, a signal (.wav, .npy), or a set of images: a directory, or anything that"
        f" `meta-train --data` takes, {typed.DATA_EXAMPLES}",
    )
    add_init(parser, None)
    _add_fit(parser)
    typed.add_size(parser)
    typed.add_seed(parser, "seed of the init and the order of pixels")
    add(
        "--batch-images",
        type=typed.COUNT,
        metavar="N",
        help="for a set: images fitted together (16; on a CUDA device as many as memory holds)",
    )
    add(
        "--learn",
        action=argparse.BooleanOptionalAction,
        help="for a set: learn the start of each image from the fits before it (default: if there "
        "are 100 images or more, no init is named, and fits are short)",
    )
    add(
        "--dry-run",
        action="store_true",
        help="for a set: print how long it will take and how much it will write",
    )
    typed.add_device(parser)
    typed.add_threads(parser)
    typed.add_limit(parser)
    typed.add_ray(parser, "fit a set")
    add(
        *("-o", "--out"),
        type=Path,
        help="write the SIREN: OUT.safetensors; for a set of images a directory, "
        "in which finished images are skipped",
    )
    add("--render", type=Path, help="write the SIREN's picture: OUT.png (for a signal .wav, .npy)")
    typed.add_manner(parser)
    return parser


def add_init(parser: Parser, default: str | None, *aliases: str) -> None:
    """Adds the flags that choose the init, for `fit` and `generate`.

    Args:
        parser: The parser to add them to.
        default: The init if none is named; None: what suits the image and the fit.
        aliases: Other flags for `--init`.
    """
    add = parser.add_argument
    suits = "waves-steps in long fits; in short ones steps-224, linear-96 or waves-few-steps, by"
    suits += " network and image; for very short ones, tiny images and signals waves-sized or"
    suits += " identity-sized"
    add(
        *("--init", *aliases),
        default=default,
        help="paper | 1 to 38 | identity | waves | waves-mid | identity-sized | waves-sized | "
        "waves-mid-sized | 33-sized | untrained | waves-steps | waves-few-steps (`hyperinit inits` "
        "describes them) | steps-224 | linear-96 | photo-224 | photo-96 | clothing-48 | "
        "clothing-96 (pretrained) | "
        "hyper (the best of these and waves-steps for this fit) | "
        "CHECKPOINT or run directory of a trained init | "
        "hub:OWNER/NAME | FILE with a SIREN (.safetensors, or another program's .pt, .pth, .npz) | "
        "directory of fitted SIRENs | FILE.py:FUNCTION; 36@0.5 is 36 with the "
        "weights of its first layer (its frequencies) times 0.5 (not omega_0, which is "
        f"--omega-0) (default: {default or suits})",
    )
    width = "units per sine layer of a hand-designed init (256"
    width += ("" if default else "; more for large images") + ")"
    add("--width", type=typed.WIDTH, metavar="N", help=width)
    depth = f"sine layers of a hand-designed init ({DEPTH})"
    add("--depth", type=typed.DEPTH, metavar="N", help=depth)
    omega_0 = "omega_0 of a hand-designed init (its own, mostly 30)"
    add("--omega-0", type=typed.OMEGA, metavar="X", help=omega_0)
    typed.add_index(parser)
    typed.add_theirs(parser)


def _add_fit(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--budget-epochs",
        type=typed.EPOCHS,
        metavar="X",
        help="pixel visits / pixels, including those of making the init (8); "
        f"with --target-mse the most that may be spent ({TARGET_BUDGET_EPOCHS:g})",
    )
    add(
        "--target-mse",
        type=typed.RATE,
        metavar="X",
        help="fit until the error is at most this (normalised; 8e-4 is 43.9 dB, 0.02 is 30 dB)",
    )
    rate = "learning rate (one that suits image, network, budget and init)"
    add("--lr", type=typed.RATE, metavar="X", help=rate)
    batch = "pixels per step (a 64th of the image, 32 to 1024)"
    add("--batch-pixels", type=typed.PIXELS, metavar="N", help=batch)
    add(
        "--fit",
        nargs="+",
        default=[],
        metavar="K=V",
        help="other fields of FitConfig, such as optimizer=soap or sampler=pixels",
    )


def main(argv: Sequence[str], prog: str = "hyperinit fit") -> int:
    """Runs `hyperinit fit`."""
    parser = build(prog)
    arguments = parser.parse_args(argv)
    config = fit_config(arguments, parser)
    from hyperinit.bench.catalogue import inits_for_fit
    from hyperinit.bench.sources import load_init
    from hyperinit.hypernet.pretrained import LEADS, hyper_for
    from hyperinit.hypernet.untrained import base_of_learning
    from hyperinit.images.signals import read_samples
    from hyperinit.photos.load import is_set
    from hyperinit.siren.device import choose_device

    image: Tensor | None = None
    about: dict[str, Any] = {}
    if not is_set(arguments.image):
        image, about = read_samples(arguments.image, arguments.size)
    is_named = arguments.init is not None
    asked = arguments.width, arguments.depth  # as typed: must not be silently ignored
    arguments.depth = arguments.depth or DEPTH
    arguments.width = arguments.width or _width(arguments, image)
    if not is_named:
        arguments.init = _default_init(arguments, config, image)
    sizes, length = (arguments.width, arguments.depth), (config.budget_epochs, arguments.target_mse)
    if arguments.init == "hyper" and arguments.omega_0 is None:
        arguments.init = hyper_for(*sizes, *length, pixels_of(arguments, image))
    named = inits_for_fit(arguments.init, arguments.omega_0)
    theirs = typed.theirs_of(arguments.theirs)
    device = choose_device(arguments.device)
    known = arguments.init.partition("@")[0]
    if device.type == "cpu" and known in named:
        prefers = getattr(named[known], "prefers", None)
        check_fit(arguments, config, image, prefers.optimizer if prefers else "auto")
    init = load_init(arguments.init, named, *sizes, index=arguments.index, theirs=theirs)
    if image is None:
        from hyperinit.sets.command import fit_images

        if known not in named:
            check_own_sizes(asked, init, arguments.size)
        best = base_of_learning(*length, takes_steps=arguments.omega_0 is None)
        is_best = arguments.init in LEADS and LEADS[arguments.init].beats_sets
        base = None if is_named or is_best else load_init(best, named, *sizes)
        return fit_images(arguments, init, base, config, device)
    said = {**vars(arguments), "no_learn": arguments.learn is False}
    for flag in ("learn", "no_learn", "dry_run", "limit", "batch_images", "ray_gpus"):
        if said[flag]:
            raise InputError(f"--{flag.replace('_', '-')} is for a set of images")
    return fit_image(arguments, init, config, image, about, device, asked=asked)


def check_fit(
    arguments: argparse.Namespace, config: FitConfig, image: Tensor | None, preferred: str
) -> None:
    """Refuses a fit from a hand-designed init that does not fit in memory, before it is drawn.

    For a directory (no image) it checks a fit of the smallest size. If the config leaves the
    optimizer open, it assumes the preferred one.
    """
    from hyperinit.fitting.suits import check_fit_memory
    from hyperinit.siren.network import SirenConfig

    pixels = 1 if image is None else image[0].numel()
    siren = SirenConfig(arguments.width, arguments.depth)
    optimizer = preferred if config.optimizer == "auto" else config.optimizer
    check_fit_memory(siren, pixels, config.step_pixels(pixels), optimizer=optimizer)


def _default_init(arguments: argparse.Namespace, config: FitConfig, image: Tensor | None) -> str:
    """The init if none is named: the one from which photographs end lowest."""
    from hyperinit.hypernet.pretrained import leading_start
    from hyperinit.hypernet.untrained import suitable_start
    from hyperinit.images.signals import shows_image

    if image is not None and image.ndim != 3:
        return SIGNAL_INIT
    suits_steps = arguments.omega_0 is None and (image is None or shows_image(image))
    sizes, length = (arguments.width, arguments.depth), (config.budget_epochs, arguments.target_mse)
    pixels = pixels_of(arguments, image)
    learned = leading_start(*sizes, *length, pixels) if suits_steps else None
    return learned or suitable_start(pixels, *sizes, *length, takes_steps=suits_steps)


def _width(arguments: argparse.Namespace, image: Tensor | None) -> int:
    """The width that suits the image, or the common size of a directory's images."""
    from hyperinit.fitting.suits import MIN_WIDTH, suitable_width

    pixels = pixels_of(arguments, image)
    return MIN_WIDTH if pixels is None else suitable_width(pixels, arguments.depth)


def fit_config(arguments: argparse.Namespace, parser: Parser) -> FitConfig:
    """The fit that a command line asks for.

    Raises:
        InputError: an option is unknown, has a flag of its own, or its value is out of range.
    """
    from hyperinit.fitting.config import FitConfig, fit_options

    for pair in arguments.fit:
        name, _, value = pair.partition("=")
        flag = f"--{name.replace('_', '-')}"
        if name in UNUSED:
            raise InputError(f"--fit: {name} is not an option of this command; {UNUSED[name]}")
        if name in DECLARED or name in FitConfig.__dataclass_fields__:
            continue
        if flag in parser._option_string_actions:
            raise InputError(f"--fit: {name} is not a fit option; use {flag} {value}".rstrip())
        raise unknown_name("fit option", name, FitConfig.__dataclass_fields__)
    budget_epochs = arguments.budget_epochs
    if budget_epochs is None:
        capped = arguments.target_mse is not None
        budget_epochs = TARGET_BUDGET_EPOCHS if capped else FitConfig().budget_epochs
    own = {
        "budget_epochs": budget_epochs,
        "lr": arguments.lr,
        "batch_pixels": arguments.batch_pixels,
        "seed": arguments.seed,
    }
    return FitConfig(**{**own, **fit_options(arguments.fit, DECLARED)})
