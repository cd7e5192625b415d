"""`hyperinit export`: a SIREN, ours or another program's, -> a file for another program."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperinit.base.arguments import (
    Parser,
    Size,
    add_index,
    add_manner,
    add_theirs,
    side_or_size,
    theirs_of,
)
from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.files import shown_path
from hyperinit.base.outputs import SIREN, check_output
from hyperinit.base.results import result

if TYPE_CHECKING:
    from torch import Tensor

    from hyperinit.siren.network import Params

LOSSY = ("fp16", "int8")
ERRORS = ("mse", "psnr", "reached", "runs")  # facts that are true only at full precision
FOREIGN_KIND = "a file of another program"  # as base/outputs.py calls a safetensors file
NO_COST: dict[str, float | None] = {
    "psnr_to_full": None,
    "psnr_before": None,
    "psnr_after": None,
}
PSNR_SIDE = 256  # pixels a side for measuring the cost of fewer bits, if no size is known


def build(prog: str) -> Parser:
    """The command line."""
    parser = Parser(
        prog=prog, description="Writes a SIREN, ours or another program's, for another program."
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="a SIREN of any program that `render` reads")
    add(
        "--to",
        required=True,
        metavar="FORMAT",
        help="siren-pytorch | siren | notebook | coin | sequential | npz | jax | onnx | "
        "torch-export | glsl | fp16 | int8 | hyperinit",
    )
    add(
        *("-o", "--out"),
        type=Path,
        help="the file to write (FILE-FORMAT with the format's suffix, beside FILE)",
    )
    add(
        "--size",
        type=side_or_size,
        metavar="N|HxW",
        help="size of the image in pixels, on which most programs' coordinates depend (as stored)",
    )
    add_index(parser)
    add_theirs(parser)
    add(
        "--conventions",
        nargs="+",
        default=[],
        metavar="K=V",
        help="conventions of the file to write that differ from its format's usual ones, as in"
        " --theirs",
    )
    add("--image", type=Path, help="the photograph, to print the PSNR to it at fewer bits")
    add_manner(parser)
    return parser


def main(argv: Sequence[str], prog: str = "hyperinit export") -> int:
    """Runs `hyperinit export`."""
    arguments = build(prog).parse_args(argv)
    from hyperinit.exchange.quantized import INT8_KIND
    from hyperinit.exchange.read import not_theirs, own_kind, read_any
    from hyperinit.exchange.write import FORMATS, write_siren
    from hyperinit.images.decode import load_sized
    from hyperinit.siren.network import check_drawing

    if arguments.to not in FORMATS:
        raise unknown_name("format", arguments.to, FORMATS)
    form = FORMATS[arguments.to]
    out: Path = arguments.out or _beside(arguments.file, arguments.to, form.suffixes[0])
    theirs = theirs_of(arguments.theirs)
    if not own_kind(arguments.file):
        theirs.setdefault("size", arguments.size)
    elif theirs:
        raise not_theirs(arguments.file)  # also for a size, which is --size here
    params, info = read_any(arguments.file, index=arguments.index, **theirs)
    size = arguments.size or theirs.get("size") or _stored_size(info)
    conventions = theirs_of(arguments.conventions, "--conventions")
    if {"layout", "size"} & set(conventions):
        raise InputError("--conventions takes no layout and no size; use --to and --size")
    if arguments.image and arguments.to not in LOSSY:
        raise InputError(f"--image is for --to {' and '.join(LOSSY)}; other formats are lossless")
    if arguments.image and not params.config.is_image:
        raise InputError(f"--image: {shown_path(arguments.file)} shows a signal, not an image")
    kind = SIREN if form.own else FOREIGN_KIND if out.suffix == ".safetensors" else "another file"
    kind = INT8_KIND if arguments.to == "int8" else kind
    check_output(out, form.suffixes, kind, inputs=[arguments.file])
    # At the size it was fitted at: the photograph itself may be wider than what the SIREN shows.
    image = None if arguments.image is None else load_sized(arguments.image, size)
    if arguments.to in LOSSY and params.config.is_image and image is None:
        check_drawing(params, prod(size or (PSNR_SIDE, PSNR_SIDE)), "a smaller --size")
    kept = info if arguments.to not in LOSSY else _without_errors(info)
    write_siren(out, params, arguments.to, size=size, info=kept, **conventions)
    facts = {"out": str(out), "format": arguments.to, "bytes": out.stat().st_size}
    text = f"{shown_path(out)}: {arguments.to}, {facts['bytes']} bytes"
    line, cost = "", NO_COST
    if arguments.to in LOSSY and params.config.is_image:
        line, cost = _cost(image, params, out, size)
    elif arguments.to in LOSSY and info.get("signal"):
        line, cost = _cost_of_signal(params, out, info["signal"]["sides"])
    result("exported", f"{text}\n{line}".rstrip("\n"), **facts, **cost)
    return 0


def _beside(path: Path, name: str, suffix: str) -> Path:
    return path.with_name(f"{path.stem}-{name}{suffix}")


def _without_errors(info: dict[str, Any]) -> dict[str, Any]:
    """Facts without those about the error of the full SIREN, which is larger with fewer bits."""
    return {name: fact for name, fact in info.items() if name not in ERRORS}


def _stored_size(info: dict[str, Any]) -> Size | None:
    """Height and width of the image, or of the two-dimensional signal, that the facts describe."""
    images = info.get("images") or [{}]
    shown, sides = images[0], (info.get("signal") or {}).get("sides", ())
    if len(sides) == 2:
        return sides[0], sides[1]
    return (shown["height"], shown["width"]) if {"height", "width"} <= set(shown) else None


def _cost(
    image: Tensor | None, params: Params, out: Path, size: Size | None
) -> tuple[str, dict[str, float | None]]:
    """The loss of quality in the written file, as a line and as fields."""
    from hyperinit.exchange.read import read_any
    from hyperinit.siren.network import render

    height, width = size or (PSNR_SIDE, PSNR_SIDE)
    if image is not None:
        height, width = image.shape[-2:]
    full, written = (render(p, height, width) for p in (params, read_any(out)[0]))
    cost = {**NO_COST, "psnr_to_full": _psnr(written, full)}
    line = f"{height}x{width}: PSNR to the full SIREN {cost['psnr_to_full']:.1f} dB"
    if image is not None:
        before, after = _psnr(full, image), _psnr(written, image)
        cost |= {"psnr_before": before, "psnr_after": after}
        line += f", to the image {before:.2f} -> {after:.2f} dB"
    return line, cost


def _cost_of_signal(
    params: Params, out: Path, sides: Sequence[int]
) -> tuple[str, dict[str, float | None]]:
    """Like `_cost`, for a signal, whose range is 2 wide (an image's is 1)."""
    from hyperinit.exchange.read import read_any
    from hyperinit.siren.signals import render_signal

    full, written = (render_signal(p, sides) / 2 for p in (params, read_any(out)[0]))
    psnr = _psnr(written, full)
    line = f"{'x'.join(map(str, sides))}: PSNR to the full SIREN {psnr:.1f} dB"
    return line, {**NO_COST, "psnr_to_full": psnr}


def _psnr(a: Any, b: Any) -> float:
    """PSNR in dB between two images, or signals scaled to a range of 1; 120 if they are equal."""
    return float(-10 * (a - b).square().mean().clamp_min(1e-12).log10())
