"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import re

from hyperinit.base.settings import Parser

Size = tuple[int, int]  # height and width in pixels


def add_device(
    parser: Parser, default: str = "auto", what: str = "where to compute", why: str = ""
) -> None:
    """`--device`: what `choose_device` takes."""
    parser.add_argument(
        "--device",
        default=default,
        metavar="auto|cpu|cuda|mps",
        help=f"{what}; auto is the GPU where there is one (default: {default}{why})",
    )


def add_threads(parser: Parser) -> None:
    """`--threads`: what `choose_threads` takes."""
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (as many as the work is worth)"
    )


def add_size(parser: Parser) -> None:
    """`--size`, for images that are read."""
    parser.add_argument(
        "--size",
        type=side_or_size,
        metavar="N|HxW",
        help="crop to the centre and resize: N is a square of N pixels a side, HxW height x width "
        "(default: as it is)",
    )


def side_or_size(text: str) -> Size:
    """ "96" -> (96, 96); "60x80" -> (60, 80)."""
    if re.fullmatch(r"[1-9]\d{0,4}", text):
        return int(text), int(text)
    if re.fullmatch(r"-?\d+", text):
        raise argparse.ArgumentTypeError(f"must be at least 1 and at most 99999, not {text}")
    try:
        return height_width(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"must look like 224 or 480x640 (height x width), not {text!r}"
        ) from error


def height_width(text: str) -> Size:
    """ "480x640" -> (480, 640)."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"must look like 480x640 (height x width), not {text!r}")
    return int(match[1]), int(match[2])
