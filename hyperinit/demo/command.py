"""`hyperinit demo` and `hyperinit gallery`: a page where fits race, and a page of many fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyperinit.base.arguments import (
    COUNT,
    Parser,
    add_device,
    add_manner,
    add_threads,
    number,
    whole,
)
from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path
from hyperinit.base.outputs import check_output
from hyperinit.base.results import count, result

MIN_SIDE, MAX_SIDE = 8, 4096  # pixels; smaller is not worth a race, larger takes too long
GALLERY_NAME = "gallery.html"
GALLERY_SIZE = 100  # results, by default


def build(prog: str) -> Parser:
    """The command line."""
    parser = Parser(
        prog=prog,
        description="A local page: drop an image, watch its fits race (needs 'hyperinit[demo]').",
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        metavar="RUN",
        help="the trained init that takes part: a run directory or file of a hypernetwork or a"
        " learned init, hub:OWNER/NAME, or one that comes with the package (photo-96)",
    )
    sides, ports = whole(MIN_SIDE, MAX_SIDE), whole(1, 65535)
    add("--size", type=sides, metavar="N", help="side of images, pixels (the checkpoint's, or 96)")
    budget = number(above=True, most=1000.0)
    add("--budget-epochs", type=budget, default=64.0, metavar="X", help="(64)")
    add("--port", type=ports, metavar="N", help="port (the first free one from 7860)")
    add("--no-browser", action="store_true", help="only print the address")
    add_device(parser)
    add_threads(parser)
    add_manner(parser)
    return parser


def main(argv: Sequence[str], prog: str = "hyperinit demo") -> int:
    """Runs `hyperinit demo`, until Ctrl-C or SIGTERM."""
    arguments = build(prog).parse_args(argv)
    from hyperinit.demo.arena import DEFAULT_CHECKPOINT, arena
    from hyperinit.demo.server import serve
    from hyperinit.siren.device import choose_device, choose_threads, on_threads

    device = choose_device(arguments.device)
    with on_threads(choose_threads(arguments.threads, 0.0)):
        named = DEFAULT_CHECKPOINT if arguments.checkpoint is None else arguments.checkpoint
        place = arena(named, arguments.size, device)
        serve(place, arguments.budget_epochs, port=arguments.port, browser=not arguments.no_browser)
    return 0


def gallery_parser(prog: str) -> Parser:
    """The command line of `hyperinit gallery`."""
    parser = Parser(
        prog=prog,
        description="Shows the results of `hyperinit fit DIR -o OUT_DIR` on one page: each image"
        " beside its fit and a map of the error, the worst first.",
    )
    add = parser.add_argument
    add("results", type=Path, metavar="OUT_DIR", help="directory of fitted SIRENs")
    add("--images", type=Path, metavar="SET", help="the fitted images, for originals and errors")
    add("-o", "--out", type=Path, metavar="FILE", help=f"the page (OUT_DIR/{GALLERY_NAME})")
    add(
        "--limit",
        type=COUNT,
        default=GALLERY_SIZE,
        metavar="N",
        help=f"show the N worst ({GALLERY_SIZE})",
    )
    add_manner(parser)
    return parser


def gallery(argv: Sequence[str], prog: str = "hyperinit gallery") -> int:
    """Runs `hyperinit gallery`."""
    arguments = gallery_parser(prog).parse_args(argv)
    from hyperinit.demo.gallery import write_gallery
    from hyperinit.photos.load import is_set, open_source

    if arguments.images is not None and not is_set(arguments.images):
        raise InputError(
            f"--images {shown_path(arguments.images)}: no such directory or set of images"
        )
    out: Path = arguments.out or arguments.results / GALLERY_NAME
    if not arguments.results.is_dir():
        raise InputError(f"{shown_path(arguments.results)}: no such directory of fitted SIRENs")
    check_output(out, [".html", ".htm"], "another file")
    originals = None if arguments.images is None else open_source(arguments.images)
    images, left_out = write_gallery(arguments.results, originals, out, arguments.limit)
    text = f"{shown_path(out)}: {count(images, 'image')}"
    text += f", {left_out} left out" if left_out else ""
    result("gallery", text, out=str(out), images=images, left_out=left_out)
    return 0
