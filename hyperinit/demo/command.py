"""`hyperinit demo`: a local page where the fits of an image race."""

from __future__ import annotations

from collections.abc import Sequence

from hyperinit.base.arguments import add_device, add_manner, add_threads
from hyperinit.base.settings import Parser


def build(prog: str) -> Parser:
    """The command line."""
    parser = Parser(
        prog=prog,
        description="A local page: drop an image, see its fits race (needs 'hyperinit[demo]').",
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        metavar="RUN",
        help="of the trained init that takes part: a run directory or file of a hypernetwork or a"
        " learned init, hub:OWNER/NAME, or one that comes with the package (photo-96)",
    )
    add("--size", type=int, help="images in pixels (the checkpoint's, or 96)")
    add("--budget-epochs", type=float, default=64.0, help="(64)")
    add("--port", type=int, help="(the first free one from 7860)")
    add("--no-browser", action="store_true", help="print the address alone")
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
        place = arena(arguments.checkpoint or DEFAULT_CHECKPOINT, arguments.size, device)
        serve(place, arguments.budget_epochs, port=arguments.port, browser=not arguments.no_browser)
    return 0
