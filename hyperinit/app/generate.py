"""`hyperinit generate` and `hyperinit render`: images -> initial weights, SIRENs -> images."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperinit.app.fit import DEPTH, add_init
from hyperinit.base.arguments import (
    DATA_EXAMPLES,
    Parser,
    add_device,
    add_index,
    add_limit,
    add_manner,
    add_seed,
    add_size,
    add_theirs,
    add_threads,
    grid_size,
    named_source,
    theirs_of,
)
from hyperinit.base.errors import InputError, check_room
from hyperinit.base.files import make_directory, shown_path, written_place
from hyperinit.base.outputs import IMAGE, SIREN, check_directory, check_output
from hyperinit.base.results import count, result
from hyperinit.base.terminal import advising, progress

if TYPE_CHECKING:
    from torch import Tensor

    from hyperinit.inits.start import Init, Start
    from hyperinit.siren.network import Params

START_PIXELS = 1024  # most pixels that a start looks at together


def generate_parser(prog: str) -> Parser:
    """The command line of `hyperinit generate`."""
    parser = Parser(
        prog=prog, description="Writes initial weights for the SIRENs of images: starts of fits."
    )
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help=f"images, or a set of them: a directory, or other data, {DATA_EXAMPLES}",
    )
    add_init(parser, "hyper", "--checkpoint")
    parser.add_argument(
        *("-o", "--out"),
        required=True,
        type=Path,
        help="OUT.safetensors (several images: stacked, in the order given), or a directory; for a "
        "set a directory, in which finished images are skipped",
    )
    add_limit(parser)
    add_size(parser)
    add_seed(parser, "seed of the draw, and of the pixels that gradient steps see")
    add_device(parser)
    add_threads(parser)
    add_manner(parser)
    return parser


def main(argv: Sequence[str], prog: str = "hyperinit generate") -> int:
    """Runs `hyperinit generate`."""
    arguments = generate_parser(prog).parse_args(argv)
    from hyperinit.photos.load import is_set

    sets = [path for path in arguments.images if is_set(path)]
    if sets:
        return _generate_set(arguments, sets)
    if arguments.limit is not None:
        raise InputError("--limit is for a set of images")
    paths = _outputs(arguments)
    from hyperinit.siren.device import choose_device, on_threads

    device = choose_device(arguments.device)
    init, threads = _init_and_threads(arguments)
    # All images are read before anything is written, so a bad one changes nothing.
    images, facts = zip(*_read(arguments), strict=True)
    # Closed by hand: a bar ends only when asked for an item after the last one, which nobody does.
    shown = progress(images, desc="generating", leave=False)
    with on_threads(threads), shown:
        starts = (init.start(image.to(device), arguments.seed) for image in shown)
        if len(paths) == 1 and paths[0] == arguments.out:
            with advising("nothing was written"):
                made = list(starts)
            _write_one(paths[0], made, images=facts, init=init.name)
        else:
            make_directory(arguments.out)
            with advising(f"the files in {shown_path(arguments.out)} are complete"):
                for path, start, fact in zip(paths, starts, facts, strict=True):
                    _write_one(path, [start], images=[fact], init=init.name)
    text = f"{shown_path(arguments.out)}: initial weights for {count(len(images), 'image')}"
    text += f", from {init.name}"
    counts = {"images": len(images), "finished": 0, "failed": 0}
    result("generated", text, out=str(arguments.out), init=init.name, **counts)
    return 0


def _init_and_threads(arguments: argparse.Namespace) -> tuple[Init, int]:
    """The init, and the number of threads that pay off for making a start."""
    from hyperinit.bench.catalogue import inits_for_fit
    from hyperinit.bench.sources import load_init
    from hyperinit.fitting.command import check_own_sizes
    from hyperinit.fitting.suits import MIN_WIDTH
    from hyperinit.siren.device import choose_threads

    named = inits_for_fit(arguments.init, arguments.omega_0)
    asked = arguments.width, arguments.depth
    sizes = arguments.width or MIN_WIDTH, arguments.depth or DEPTH
    theirs = theirs_of(arguments.theirs)
    init = load_init(arguments.init, named, *sizes, index=arguments.index, theirs=theirs)
    threads = choose_threads(arguments.threads, START_PIXELS * sizes[0] ** 2)
    if arguments.init.partition("@")[0] not in named:
        check_own_sizes(asked, init, arguments.size)
    return init, threads


def _write_one(path: Path, starts: Sequence[Start], **facts: Any) -> None:
    """Writes a file with one start, or with several stacked ones."""
    from hyperinit.inits.start import start_facts
    from hyperinit.siren.store import save_params
    from hyperinit.siren.vectors import stack_params

    many = len(starts) > 1
    params = stack_params([one.params for one in starts]) if many else starts[0].params
    suits = [start_facts(one) for one in starts]
    save_params(path, params, start=suits if many else suits[0], **facts)


def _read(arguments: argparse.Namespace) -> Iterator[tuple[Tensor, dict[str, str | int]]]:
    """Reads the images in order, as long as there is memory to keep them; and facts about each."""
    from hyperinit.images.signals import read_image

    for path in arguments.images:
        check_room(f"{len(arguments.images)} images", "give a directory, or a smaller --size")
        yield read_image(path, arguments.size)


def _generate_set(arguments: argparse.Namespace, sets: Sequence[Path]) -> int:
    """Writes initial weights for all images of a set; returns 1 if some have none."""
    out: Path = arguments.out
    if len(arguments.images) > 1:
        raise InputError(f"{shown_path(sets[0])} is a set of images; give only that")
    if out.suffix == ".safetensors" and not out.is_dir():
        name = shown_path(sets[0])
        raise InputError(f"{name} is a set of images; give a directory for results: -o OUT_DIR")
    check_directory(out, may_be_made=True)
    from hyperinit.fitting.command import check_apart
    from hyperinit.photos.load import open_source
    from hyperinit.sets.command import tell_failed
    from hyperinit.sets.starts import generate_set
    from hyperinit.siren.device import choose_device, on_threads

    check_apart(arguments.init, out)
    init, threads = _init_and_threads(arguments)
    source = open_source(sets[0], arguments.limit)
    kept = advising("finished images are kept; the same command continues")
    with on_threads(threads), kept:
        report = generate_set(
            source,
            out,
            init,
            size=arguments.size,
            seed=arguments.seed,
            most_images=arguments.limit,
            device=choose_device(arguments.device),
            on_failed=tell_failed,
        )
    if not report.made and not report.finished:
        raise InputError(
            f"{shown_path(sets[0])}: no image has initial weights; the reasons are above"
        )
    text = f"{shown_path(out)}: initial weights for {count(report.made, 'image')}"
    text += f", from {init.name}, {report.finished} finished before"
    text += f", {len(report.failed)} without a result" if report.failed else ""
    result(
        "generated",
        text,
        out=str(out),
        init=init.name,
        images=report.made,
        finished=report.finished,
        failed=len(report.failed),
    )
    return 1 if report.failed else 0


def _outputs(arguments: argparse.Namespace) -> list[Path]:
    """The files to write, one per image or one for all; checked before any work."""
    from hyperinit.fitting.command import check_apart

    out: Path = arguments.out
    if out.suffix == ".safetensors" and not out.is_dir():
        paths = [out]
    else:
        paths = [out / f"{path.stem}.safetensors" for path in arguments.images]
        if len(set(paths)) < len(paths):
            raise InputError(
                f"{shown_path(out)}: two images have the same name; write them to two directories"
            )
        check_directory(out, may_be_made=True)
    inputs = [*arguments.images, named_source(arguments.init)[1]]
    for path in paths:
        check_output(path, [".safetensors"], SIREN, inputs=inputs, may_be_made=path != out)
        if path != out and _is_fitted(path):
            raise InputError(
                f"{shown_path(path)}: is there already and is a fitted SIREN, which would be lost:"
                " choose another directory"
            )
    check_apart(arguments.init, written_place(paths[0]).parent)
    return paths


def _is_fitted(path: Path) -> bool:
    """Whether a file was written by a fit, which took longer than making a start."""
    from hyperinit.siren.store import PARAMS_KIND, read_info

    try:
        return "fit" in read_info(path, PARAMS_KIND)
    except InputError:  # missing, empty or damaged
        return False


def render_parser(prog: str) -> Parser:
    """The command line of `hyperinit render`."""
    parser = Parser(
        prog=prog, description="Draws a SIREN at any size; signals as .npy, sound also as .wav."
    )
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="a SIREN: FILE.safetensors, or another program's .pt, .pth, .npz",
    )
    parser.add_argument(
        "--size",
        type=grid_size,
        metavar="HxW",
        help="size in pixels (as stored); for sound N, for a volume DxHxW",
    )
    add_index(parser)
    add_theirs(parser)
    parser.add_argument(
        *("-o", "--out"),
        required=True,
        type=Path,
        help="OUT.png or OUT.jpg; of a signal OUT.npy, of sound also OUT.wav",
    )
    add_manner(parser)
    return parser


def _siren(arguments: argparse.Namespace) -> tuple[Params, dict[str, Any]]:
    """The SIREN to draw; another program's is drawn as that program would draw it at this size."""
    from hyperinit.exchange.read import not_theirs, own_kind, read_any

    theirs = {"size": arguments.size, **theirs_of(arguments.theirs)}
    is_own = bool(own_kind(arguments.file))
    if is_own and arguments.theirs:
        raise not_theirs(arguments.file)  # also for a size, which means nothing here
    if is_own or len(arguments.size or (0, 0)) != 2:  # sound, a volume
        del theirs["size"]
    params, info = read_any(arguments.file, index=arguments.index, **theirs)
    if "size" in theirs and arguments.size is None and theirs["size"]:
        height, width = theirs["size"]
        info = {**info, "images": [{"height": height, "width": width}]}
    return params, info


def render_main(argv: Sequence[str], prog: str = "hyperinit render") -> int:
    """Runs `hyperinit render`."""
    arguments = render_parser(prog).parse_args(argv)
    from hyperinit.images.signals import check_holds, output_suffixes, save_samples
    from hyperinit.siren.signals import render_samples

    params, info = _siren(arguments)
    config = params.config
    suffixes = output_suffixes(config.in_features, config.out_features)
    check_output(arguments.out, suffixes, IMAGE, inputs=[arguments.file])
    size = arguments.size or _stored_size(arguments.file, info, config.is_image)
    if len(size) != config.in_features:
        example = ("8000", "480x640", "24x24x24")[config.in_features - 1]
        raise InputError(f"--size must look like {example} for this SIREN")
    rate_hz = info.get("signal", {}).get("rate_hz")
    if rate_hz is not None and arguments.size:  # other samples, but the same duration
        rate_hz = round(rate_hz * size[0] / info["signal"]["sides"][0])
    check_holds(arguments.out, config.out_features, size, rate_hz)
    with progress(total=prod(size), desc="drawing", unit="px", leave=False) as bar:
        samples = render_samples(params, size, on_drawn=bar.update)
    save_samples(samples, arguments.out, rate_hz)
    shown = "x".join(map(str, size))
    text = f"{shown_path(arguments.out)}: {shown}"
    result("rendered", text, out=str(arguments.out), size=shown)
    return 0


def _stored_size(path: Path, info: dict[str, Any], is_image: bool) -> tuple[int, ...]:
    """The sides of the image or signal that the SIREN was fitted to.

    Raises:
        InputError: its file does not state them.
    """
    shown = (info.get("images") or [{}])[0]
    if is_image and {"height", "width"} <= set(shown):
        return shown["height"], shown["width"]
    if not is_image and info.get("signal"):
        return tuple(info["signal"]["sides"])
    raise InputError(f"{shown_path(path)} does not state a size; give --size HxW")
