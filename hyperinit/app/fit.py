"""`hyperinit fit`: an image, or a directory of images, -> fitted SIRENs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperinit.base.arguments import (
    add_device,
    add_ray,
    add_size,
    add_theirs,
    add_threads,
    theirs_of,
)
from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.files import shown_path, write_or_spare
from hyperinit.base.outputs import IMAGE, SIREN, check_directory, check_output
from hyperinit.base.settings import Parser
from hyperinit.base.terminal import Countdown, EpochBar

if TYPE_CHECKING:
    from torch import Tensor

    from hyperinit.fitting.config import FitConfig
    from hyperinit.fitting.fit import FitResult
    from hyperinit.inits.start import Init, Start
    from hyperinit.siren.network import Params

TARGET_BUDGET_EPOCHS = 200.0

# From most photographs the best that needs no training, unless its gradient steps take a large part
# of a short budget; then the draw that it begins as. docs/research-log.md 47.
DEFAULT_INIT, SHORT_DEFAULT_INIT = "untrained", "identity-sized"
DEFAULT_INIT_SHARE = 1 / 3

# Fields of FitConfig that have a flag of their own, or that a command line has no use for.
DECLARED = ("budget_epochs", "lr", "batch_pixels", "seed", "eval_epochs", "stop_mse")


def build(prog: str) -> Parser:
    """The command line."""
    parser = Parser(
        prog=prog,
        description="Fits a SIREN to an image, or to every image of a directory, from any init.",
        epilog="Exit code: 0; 1 if some images of a directory have no result; 2 for bad input or a"
        " fit that came to nothing; 130 after Ctrl-C.",
    )
    add = parser.add_argument
    add("image", type=Path, metavar="IMAGE", help="an image, or a directory")
    _add_init(parser)
    _add_fit(parser)
    add_size(parser)
    add("--seed", type=int, default=0, help="of the init and the order of pixels")
    add(
        "--batch-images",
        type=int,
        metavar="N",
        help="of a directory, fitted together (16; on a CUDA device as many as its memory holds)",
    )
    add_device(parser)
    add_threads(parser)
    add_ray(parser, "fit a directory")
    add(
        *("-o", "--out"),
        type=Path,
        help="write the SIREN: OUT.safetensors; for a directory of images another directory, "
        "where images that are finished are skipped",
    )
    add("--render", type=Path, help="write what the SIREN shows: OUT.png")
    return parser


def _add_init(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--init",
        help="paper | 1 to 38 | identity | identity-sized | 33-sized | untrained (`hyperinit inits`"
        " says what they are) | hyper (the pretrained hypernetwork of this width and depth) | "
        "photo-224 | photo-96 | linear-96 | CHECKPOINT or run directory of a trained init | FILE "
        "with a SIREN (.safetensors, or another program's .pt, .pth, .npz) | "
        "directory of fitted SIRENs | FILE.py:FUNCTION; 36@0.5 is 36 with the "
        "weights of its first layer, and so its frequencies, times 0.5 (not its omega_0, which is "
        f"--omega-0) (default: {DEFAULT_INIT}; {SHORT_DEFAULT_INIT} for a short budget)",
    )
    add("--width", type=int, help="of a hand-designed init (256; more for large images)")
    add("--depth", type=int, default=5, help="of a hand-designed init (5)")
    add("--omega-0", type=float, metavar="X", help="of a hand-designed init (its own, mostly 30)")
    add("--index", type=int, help="which SIREN of a FILE with several")
    add_theirs(parser)


def _add_fit(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--budget-epochs",
        type=float,
        help="pixel visits / pixels, generating the init included (8); "
        f"with --target-mse the most that may be spent ({TARGET_BUDGET_EPOCHS:g})",
    )
    add(
        "--target-mse",
        type=float,
        help="fit one image until its error is this (normalised; 8e-4 is 43.9 dB)",
    )
    add(
        "--lr",
        type=float,
        help="learning rate (what suits image, network, budget and init)",
    )
    add("--batch-pixels", type=int, help="pixels per step (a 64th of the image, 64 to 1024)")
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
    from hyperinit.images.decode import load_sized
    from hyperinit.siren.device import choose_device

    # Read once, though the init, the width and the fit all need it.
    image = None if arguments.image.is_dir() else load_sized(arguments.image, arguments.size)
    arguments.init = arguments.init or _default_init(arguments, config, image)
    named = inits_for_fit(arguments.init, arguments.omega_0)
    arguments.width = arguments.width or _width(arguments, image)
    sizes = arguments.width, arguments.depth
    theirs = theirs_of(arguments.theirs)
    init = load_init(arguments.init, named, *sizes, index=arguments.index, theirs=theirs)
    device = choose_device(arguments.device)
    if image is None:
        return fit_images(arguments, init, config, device)
    return fit_image(arguments, init, config, image, device)


def _default_init(arguments: argparse.Namespace, config: FitConfig, image: Tensor | None) -> str:
    """The init where none is named."""
    from hyperinit.hypernet.untrained import MOST_EPOCHS, cost_epochs

    cost = MOST_EPOCHS if image is None else cost_epochs(image)
    short = cost > DEFAULT_INIT_SHARE * config.budget_epochs
    return SHORT_DEFAULT_INIT if short or arguments.omega_0 is not None else DEFAULT_INIT


def _width(arguments: argparse.Namespace, image: Tensor | None) -> int:
    """The width that suits the image, or the size that all images of a directory are given."""
    from hyperinit.fitting.suits import MIN_WIDTH, suitable_width

    if arguments.size is not None:
        return suitable_width(arguments.size[0] * arguments.size[1], arguments.depth)
    if arguments.init == "hyper" or image is None:
        return MIN_WIDTH
    return suitable_width(image[0].numel(), arguments.depth)


def fit_config(arguments: argparse.Namespace, parser: Parser) -> FitConfig:
    """The fit that a command line asks for.

    Raises:
        InputError: an option is unknown, has a flag of its own, or its value is out of range.
    """
    from hyperinit.fitting.config import FitConfig, fit_options

    for pair in arguments.fit:
        name, _, value = pair.partition("=")
        flag = f"--{name.replace('_', '-')}"
        if name in DECLARED or name in FitConfig.__dataclass_fields__:
            continue
        if flag in parser._option_string_actions:
            raise InputError(f"--fit: {name} is no option of a fit: write {flag} {value}".rstrip())
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


def fit_image(
    arguments: argparse.Namespace, init: Init, config: FitConfig, image: Tensor, device: Any
) -> int:
    """Fits one image and writes what was asked for.

    Raises:
        InputError: bad input, or the fit is no better than its start; nothing is written.
    """
    from hyperinit.fitting.descent import suited
    from hyperinit.images.pixels import image_facts
    from hyperinit.images.save import SAVE_OPTIONS
    from hyperinit.siren.device import choose_threads, on_threads

    if arguments.ray is not None:
        raise InputError("--ray is for a directory: one image is one fit")
    # What can be known to fail is found out before the work is done.
    inputs = [arguments.image, arguments.init.rpartition("=")[2]]
    if arguments.out is not None:
        check_output(arguments.out, [".safetensors"], SIREN, inputs=inputs)
    if arguments.render is not None:
        check_output(arguments.render, list(SAVE_OPTIONS), IMAGE, inputs=inputs)
    image = image.to(device)
    start = init.start(image, arguments.seed)
    work = config.step_pixels(image[0].numel()) * start.params.config.width**2
    config = replace(config, batch_pixels=config.step_pixels(image[0].numel()))
    config = suited(config, start)
    facts: dict[str, Any] = {"init": init.name, "fit": asdict(config)}
    facts["images"] = [image_facts(arguments.image.name, image)]
    do = _fit_budget if arguments.target_mse is None else _fit_to_target
    with on_threads(choose_threads(arguments.threads, work)):
        print(do(arguments, start, image, config, facts))
    return 0


def _fit_budget(
    arguments: argparse.Namespace,
    start: Start,
    image: Tensor,
    config: FitConfig,
    facts: dict[str, Any],
) -> str:
    """Fits over the declared budget, writes the result, and returns the line about it."""
    from hyperinit.fitting.fit import failure, fit

    with EpochBar(config.budget_epochs) as bar:
        watched = replace(config, eval_epochs=looks(config)) if bar.is_shown else config
        result = fit(start, image, watched, on_eval=lambda point: bar.show(point.epochs, point.mse))
    name = shown_path(arguments.image)
    first, last, kept = result.curve[0], result.curve[-1], result.kept
    if not isfinite(first.mse):
        raise InputError(
            f"{name}: the start from {facts['init']} is no usable SIREN: its error is {first.mse}"
        )
    if result.diverged:
        reason = failure(result).replace("try lr", "try --lr").replace("max_r", "--fit max_r")
        raise InputError(f"{name}: {reason}")
    if first.steps == last.steps:
        raise InputError(
            f"{name}: --budget-epochs {config.budget_epochs:g} leaves nothing to fit with, as"
            f" making the start costs {start.epochs:.3g} epochs: raise it"
        )
    if not kept.mse < first.mse:
        raise InputError(
            f"{name}: after {last.epochs:.2f} epochs no better than its start (MSE"
            f" {first.mse:.3g}): try --lr below {result.lr:g}"
        )
    facts |= {"mse": kept.mse, "psnr": kept.psnr, "lr": result.lr, "restarts": result.restarts}
    facts |= {"collapses": list(result.collapses), "became": dict(result.became)}
    _write(arguments, result.params, image, facts)
    restarted = f", restarted with learning rate {result.lr:g}" if result.restarts else ""
    if result.collapses and not result.restarts:
        restarted = f", taken back after a collapse at {result.collapses[0]:.2f} epochs"
    return (
        f"{name}: from {facts['init']}, PSNR {first.psnr:.2f} -> {kept.psnr:.2f} dB, "
        f"MSE {kept.mse:.3g} (normalised), {last.epochs:.2f} epochs, {last.steps} steps, "
        f"{last.sec:.2f} s{restarted}"
    )


def _fit_to_target(
    arguments: argparse.Namespace,
    start: Start,
    image: Tensor,
    config: FitConfig,
    facts: dict[str, Any],
) -> str:
    """Fits until the error is as low as wanted; what improved is written even if it is not."""
    from hyperinit.fitting.suits import width_for
    from hyperinit.fitting.target import fit_to_target
    from hyperinit.images.coords import grid_errors, image_coords, image_to_rgb
    from hyperinit.siren.network import predict

    target, name = arguments.target_mse, shown_path(arguments.image)
    result = fit_to_target(start, image, target, config)
    mse, _ = grid_errors(predict(start.params, image_coords(image)), image_to_rgb(image))
    facts |= {"mse": result.mse, "psnr": result.psnr, "target_mse": target}
    facts["runs"] = [asdict(run) for run in result.runs]
    if result.reached or result.mse < float(mse):
        _write(arguments, result.params, image, facts)
    outcome = f"MSE {result.mse:.3g} (normalised), PSNR {result.psnr:.2f} dB"
    cost = f"{result.epochs:.2f} epochs, {result.sec:.2f} s in {len(result.runs)} runs"
    if not result.reached:
        width = width_for(result.params.config, result.mse, target)
        raise InputError(
            f"{name}: --target-mse {target:g} was not reached: {outcome} after {cost}; "
            f"raise --budget-epochs, or --width to about {width}"
        )
    return f"{name}: from {facts['init']}, {outcome}, {cost}"


def _write(
    arguments: argparse.Namespace, params: Params, image: Tensor, facts: Mapping[str, Any]
) -> None:
    from hyperinit.images.save import save_image
    from hyperinit.siren.network import preview
    from hyperinit.siren.store import save_params

    if arguments.out:
        write_or_spare(arguments.out, lambda path: save_params(path, params, **facts), "the SIREN")
    if arguments.render:
        try:
            save_image(preview(params, image), arguments.render)
        except InputError as error:
            kept = f"; the SIREN is in {shown_path(arguments.out)}" if arguments.out else ""
            raise InputError(f"{error}{kept}") from error


def looks(config: FitConfig) -> tuple[float, ...]:
    """When a fit that is watched is evaluated: often enough to see it move, and a few per cent of
    its time at most."""
    every = max(config.budget_epochs / 16, 2.0)
    return (0.5, *(every * (k + 1) for k in range(ceil(config.budget_epochs / every) - 1)))


def fit_images(arguments: argparse.Namespace, init: Init, config: FitConfig, device: Any) -> int:
    """Fits all images of a directory; 1 if some have no result.

    Raises:
        InputError: bad input, or no image has a result.
    """
    source = shown_path(arguments.image)
    if arguments.out is None:
        raise InputError(f"{source} is a directory: say where to with -o OUT_DIR")
    if arguments.render is not None:
        raise InputError("--render is for one image: use `hyperinit render` on the results")
    if arguments.target_mse is not None:
        raise InputError("--target-mse is for one image: directories take --budget-epochs")
    check_directory(arguments.out, may_be_made=True)
    from hyperinit.fitting.directory import BATCH_IMAGES, fit_directory
    from hyperinit.images.files import image_files
    from hyperinit.siren.device import choose_threads, on_threads
    from hyperinit.spread.engines import engine_of

    names, unread = image_files(arguments.image, follow_links=True)
    told = Told(Countdown(len(names) + len(unread)))
    height, width = arguments.size or (512, 512)
    work = config.step_pixels(height * width) * arguments.width**2
    work *= BATCH_IMAGES if arguments.batch_images is None else arguments.batch_images
    ray = engine_of(arguments.ray, threads=arguments.threads, gpus=arguments.ray_gpus)
    with ray as engine, on_threads(choose_threads(arguments.threads, work)):
        report = fit_directory(
            arguments.image,
            arguments.out,
            init,
            config,
            size=arguments.size,
            batch_images=arguments.batch_images,
            device=engine.device or device,
            spread=engine,
            eval_epochs=(),  # start and end alone
            on_fitted=told.fitted,
            on_failed=told.failed,
            on_finished=told.finished,
        )
    counts = f"{report.fitted} fitted, {report.finished} finished before"
    counts += f", {len(report.failed)} without a result" if report.failed else ""
    if not report.fitted and not report.finished:
        raise InputError(f"{source}: no image could be fitted; the reasons are above")
    print(f"{shown_path(arguments.out)}: {counts}; {report.images_per_hour:.0f} images per hour")
    return 1 if report.failed else 0


@dataclass
class Told:
    """Says of each image of a directory what became of it, how many are left and for how long."""

    count: Countdown

    def fitted(self, name: str, result: FitResult) -> None:
        """A file has been written."""
        kept = result.kept
        text = f"{shown_path(name)}: PSNR {kept.psnr:.2f} dB, MSE {kept.mse:.3g}"
        print(f"{text} ({self.count.worked()})", flush=True)

    def failed(self, name: str, reason: str) -> None:
        """There will be no file."""
        done = self.count.passed()
        print(f"{shown_path(name)}: {reason} ({done})", file=sys.stderr, flush=True)

    def finished(self, name: str) -> None:
        """A file was there."""
        self.count.passed()
