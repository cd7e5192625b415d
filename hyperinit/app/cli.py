"""The `hyperinit` command: images -> inits, images -> fitted SIRENs, SIRENs -> images."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.files import make_directory
from hyperinit.base.settings import Parser
from hyperinit.bench.sources import BY_NAME, load_init
from hyperinit.demo.race import BUDGET_EPOCHS
from hyperinit.demo.server import DEFAULT_CHECKPOINT, arena, serve
from hyperinit.fitting.config import FAST, FitConfig, fit_options
from hyperinit.fitting.directory import fit_directory
from hyperinit.fitting.fit import fit
from hyperinit.fitting.target import fit_to_target
from hyperinit.hypernet.checkpoint import load
from hyperinit.hypernet.pretrained import DEFAULT_PRETRAINED, PRETRAINED, load_pretrained
from hyperinit.images.decode import load_image
from hyperinit.images.pixels import image_hash, square_crop
from hyperinit.images.save import SAVE_OPTIONS, save_image
from hyperinit.inits.start import Init, Start
from hyperinit.siren.network import Params, preview, render
from hyperinit.siren.store import load_siren, save_params
from hyperinit.siren.vectors import stack_params

TARGET_BUDGET_EPOCHS = 200.0
DEFAULT_INIT = "identity-sized"  # the best hand-designed one; docs/benchmark.md


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; 0, 130 after Ctrl-C, or exits with 2 and one line for bad input."""
    parser = Parser(prog="hyperinit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    for add in (_add_generate, _add_fit, _add_render, _add_demo):
        add(commands)
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except InputError as error:
        parser.error(str(error))
    return 0


def _add_generate(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "generate", help="initial weights of the SIRENs of images, from a hypernetwork"
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument(
        "--checkpoint",
        default=DEFAULT_PRETRAINED,
        metavar="RUN",
        help=f"{' or '.join(PRETRAINED)}, which come with the package, or a run directory or "
        f"checkpoint (default: {DEFAULT_PRETRAINED})",
    )
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        type=Path,
        help="OUT.safetensors (several images: stacked, in the order given), or a directory",
    )
    _add_size(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the pixels the inner steps see")
    parser.set_defaults(run=_generate)


def _generate(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    into_directory = out.is_dir() or out.suffix != ".safetensors"
    names = [f"{path.stem}.safetensors" for path in arguments.images]
    if into_directory and len(set(names)) < len(names):
        raise InputError(f"{out}: two images have the same name; write them to two directories")
    source = arguments.checkpoint
    hyper = load_pretrained(source) if source in PRETRAINED else load(source)
    # All images are read before anything is written, so a bad one leaves everything as it was.
    images = [_load(path, arguments.size) for path in arguments.images]
    made = [hyper.generate(image, seed=arguments.seed) for image in images]
    facts = [_image_facts(p, image) for p, image in zip(arguments.images, images, strict=True)]
    if into_directory:
        make_directory(out)
        for name, params, fact in zip(names, made, facts, strict=True):
            save_params(out / name, params, images=[fact])
    else:
        save_params(out, made[0] if len(made) == 1 else stack_params(made), images=facts)
    print(f"{out}: initial weights for {len(made)} image{'s' if len(made) > 1 else ''}")


def _add_fit(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "fit", help="fit a SIREN to an image, or to every image of a directory, from any init"
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image, or a directory")
    parser.add_argument(
        "--init",
        default=DEFAULT_INIT,
        help=f"{' | '.join(BY_NAME)} | hyper (the pretrained hypernetwork of this width and "
        f"depth) | {' | '.join(PRETRAINED)} | CHECKPOINT or run directory of a trained init | "
        "FILE.safetensors with a SIREN | directory of fitted SIRENs | FILE.py:FUNCTION; "
        f"33@0.5 is 33 with its first layer times 0.5 (default: {DEFAULT_INIT})",
    )
    defaults = FitConfig()
    parser.add_argument(
        "--budget-epochs",
        type=float,
        help=f"pixel visits / pixels, generating the init included ({defaults.budget_epochs:g}); "
        f"with --target-mse the most that may be spent ({TARGET_BUDGET_EPOCHS:g})",
    )
    parser.add_argument(
        "--target-mse",
        type=float,
        help="fit one image until its error is this (normalised; 8e-4 is 43.9 dB)",
    )
    parser.add_argument(
        "--lr",
        type=float,
        help="learning rate (0.128 / width; half of it where that suits the init better)",
    )
    parser.add_argument(
        "--batch-pixels", type=int, help="pixels per step (an eighth of the image, 256 to 2048)"
    )
    parser.add_argument(
        "--fit",
        nargs="+",
        default=[],
        metavar="K=V",
        help="other fields of FitConfig, such as sampler=residual or engine=compiled "
        f"({' '.join(f'{k}={v}' for k, v in FAST.items())})",
    )
    parser.add_argument("--width", type=int, default=256, help="of a hand-designed init (256)")
    parser.add_argument("--depth", type=int, default=5, help="of a hand-designed init (5)")
    _add_size(parser)
    parser.add_argument("--index", type=int, help="which SIREN of a FILE with several")
    parser.add_argument("--seed", type=int, default=0, help="of the init and the order of pixels")
    parser.add_argument(
        "--batch-images", type=int, default=16, help="of a directory, fitted together (16)"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        help="write the SIREN: OUT.safetensors; for a directory of images another directory, "
        "where images that are finished are skipped",
    )
    parser.add_argument("--render", type=Path, help="write what the SIREN shows: OUT.png")
    parser.set_defaults(run=_fit)


def _fit(arguments: argparse.Namespace) -> None:
    budget_epochs = arguments.budget_epochs
    if budget_epochs is None and arguments.target_mse is None:
        budget_epochs = FitConfig().budget_epochs
    declared = ("budget_epochs", "lr", "batch_pixels", "seed", "eval_epochs", "stop_mse")
    own = {
        "budget_epochs": TARGET_BUDGET_EPOCHS if budget_epochs is None else budget_epochs,
        "lr": arguments.lr,
        "batch_pixels": arguments.batch_pixels,
        "seed": arguments.seed,
    }
    config = FitConfig(**{**FAST, **own, **fit_options(arguments.fit, declared)})
    init = _init(arguments)
    if arguments.image.is_dir():
        _fit_directory(arguments, init, config)
        return
    # What can be known to fail is found out before the work is done.
    written = ((arguments.out, [".safetensors"]), (arguments.render, list(SAVE_OPTIONS)))
    for path, suffixes in written:
        if path is not None and path.suffix.lower() not in suffixes:
            raise InputError(f"{path}: must end in {' or '.join(suffixes)}")
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{path}: no such directory as {path.parent}")
    image = _load(arguments.image, arguments.size)
    start = init.start(image, arguments.seed)
    facts: dict[str, Any] = {"init": init.name, "fit": asdict(config)}
    facts["images"] = [_image_facts(arguments.image, image)]
    if arguments.target_mse is not None:
        _fit_to_target(arguments, start, image, config, facts)
        return
    result = fit(start, image, config)
    if result.diverged:
        raise InputError(f"{arguments.image}: the fit diverged: try --lr below {result.lr:g}")
    first, last, kept = result.curve[0], result.curve[-1], result.kept
    facts |= {"mse": kept.mse, "psnr": kept.psnr, "lr": result.lr, "restarts": result.restarts}
    _write_fit(arguments, result.params, image, facts)
    restarted = f", restarted with learning rate {result.lr:g}" if result.restarts else ""
    print(
        f"{arguments.image}: from {init.name}, PSNR {first.psnr:.2f} -> {kept.psnr:.2f} dB, "
        f"MSE {kept.mse:.3g} (normalised), {last.epochs:.2f} epochs, {last.steps} steps, "
        f"{last.sec:.2f} s{restarted}"
    )


def _fit_to_target(
    arguments: argparse.Namespace,
    start: Start,
    image: Tensor,
    config: FitConfig,
    facts: dict[str, Any],
) -> None:
    target = arguments.target_mse
    result = fit_to_target(start, image, target, config)
    facts |= {"mse": result.mse, "psnr": result.psnr, "target_mse": target}
    facts["runs"] = [asdict(run) for run in result.runs]
    if isfinite(result.mse):
        _write_fit(arguments, result.params, image, facts)
    outcome = f"MSE {result.mse:.3g} (normalised), PSNR {result.psnr:.2f} dB"
    cost = f"{result.epochs:.2f} epochs, {result.sec:.2f} s in {len(result.runs)} runs"
    if not result.reached:
        raise InputError(
            f"{arguments.image}: --target-mse {target:g} was not reached: {outcome} after {cost}; "
            "raise --budget-epochs or --width"
        )
    print(f"{arguments.image}: from {facts['init']}, {outcome}, {cost}")


def _write_fit(
    arguments: argparse.Namespace, params: Params, image: Tensor, facts: Mapping[str, Any]
) -> None:
    if arguments.out:
        save_params(arguments.out, params, **facts)
    if arguments.render:
        save_image(preview(params, image), arguments.render)


def _fit_directory(arguments: argparse.Namespace, init: Init, config: FitConfig) -> None:
    if arguments.out is None:
        raise InputError(f"{arguments.image} is a directory: say where to with -o OUT_DIR")
    if arguments.render is not None:
        raise InputError("--render is for one image: use `hyperinit render` on the results")
    if arguments.target_mse is not None:
        raise InputError("--target-mse is for one image: directories take --budget-epochs")
    report = fit_directory(
        arguments.image,
        arguments.out,
        init,
        config,
        size=arguments.size,
        batch_images=arguments.batch_images,
        eval_epochs=(),  # start and end alone
        on_fitted=lambda name, result: print(
            f"{name}: PSNR {result.kept.psnr:.2f} dB, MSE {result.kept.mse:.3g}", flush=True
        ),
    )
    for name, reason in report.failed:
        print(f"{name}: {reason}", file=sys.stderr)
    counts = f"{report.fitted} fitted, {report.finished} finished before"
    counts += f", {len(report.failed)} without a result" if report.failed else ""
    if not report.fitted and not report.finished:
        raise InputError(f"{arguments.image}: no image could be fitted; the reasons are above")
    print(f"{arguments.out}: {counts}; {report.images_per_hour:.0f} images per hour")


def _init(arguments: argparse.Namespace) -> Init:
    width, depth = arguments.width, arguments.depth
    return load_init(arguments.init, BY_NAME, width, depth, index=arguments.index)


def _add_render(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser("render", help="draw a SIREN at any size")
    parser.add_argument("file", type=Path, metavar="FILE", help="a SIREN: FILE.safetensors")
    parser.add_argument("--size", type=_height_width, metavar="HxW", help="in pixels (as stored)")
    parser.add_argument("--index", type=int, help="which SIREN of a FILE with several")
    parser.add_argument("-o", "--out", required=True, type=Path, help="OUT.png or another format")
    parser.set_defaults(run=_render)


def _render(arguments: argparse.Namespace) -> None:
    params, info = load_siren(arguments.file, arguments.index)
    size = arguments.size
    if size is None:
        images = info.get("images") or []
        if not images:
            raise InputError(f"{arguments.file} does not say a size: give --size HxW")
        shown = images[arguments.index or 0]
        size = shown["height"], shown["width"]
    save_image(render(params, *size), arguments.out)
    print(f"{arguments.out}: {size[0]}x{size[1]}")


def _add_demo(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "demo", help="a local page: drop an image, see its fits race (needs 'hyperinit[demo]')"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=DEFAULT_CHECKPOINT,
        metavar="RUN",
        help="of the hypernetwork that takes part (photo-96, which comes with the package)",
    )
    parser.add_argument("--size", type=int, help="images in pixels (the checkpoint's, or 96)")
    parser.add_argument(
        "--budget-epochs", type=float, default=BUDGET_EPOCHS, help=f"({BUDGET_EPOCHS:g})"
    )
    parser.add_argument("--port", type=int, help="(the first free one from 7860)")
    parser.add_argument("--no-browser", action="store_true", help="print the address alone")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (torch's)")
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> None:
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise InputError(f"--threads must be at least 1, not {arguments.threads}")
        torch.set_num_threads(arguments.threads)
    serve(
        arena(arguments.checkpoint, arguments.size),
        arguments.budget_epochs,
        port=arguments.port,
        browser=not arguments.no_browser,
    )


def _add_size(parser: Parser) -> None:
    parser.add_argument(
        "--size", type=int, help="crop to the centre square, resize to so many pixels (as it is)"
    )


def _load(path: Path, size: int | None) -> Tensor:
    image = load_image(path)
    if size is not None and size < 1:
        raise InputError(f"--size must be at least 1, not {size}")
    return image if size is None else square_crop(image, size)


def _image_facts(path: Path, image: Tensor) -> dict[str, str | int]:
    height, width = image.shape[-2:]
    return {"name": path.name, "height": height, "width": width, "sha256": image_hash(image)}


def _height_width(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"must look like 480x640 (height x width), not {text!r}")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    sys.exit(main())
