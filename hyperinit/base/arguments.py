"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from hyperinit.base.errors import InputError
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


def add_ray(parser: Parser, what: str) -> None:
    """`--ray` and `--ray-gpus`: what `engine_of` takes."""
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help=f"{what} on a Ray cluster: auto, HOST:PORT or ray://HOST:PORT; without ADDRESS one of "
        "this machine's cores (needs hyperinit[ray])",
    )
    parser.add_argument(
        "--ray-gpus",
        type=float,
        default=0.0,
        metavar="X",
        help="GPUs of a Ray worker, such as 0.25 (0: it computes on --threads cores)",
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


def add_theirs(parser: Parser) -> None:
    """`--theirs`, for SIRENs of other programs."""
    parser.add_argument(
        "--theirs",
        nargs="+",
        default=[],
        metavar="K=V",
        help="of another program's SIREN: layout=NAME, first_omega=X, hidden_omega=X, order=xy|yx, "
        "grid=corners|centres|..., colours=unit|signed|imagenet, size=HxW (what its layout has)",
    )


def theirs_of(pairs: Sequence[str]) -> dict[str, Any]:
    """What `--theirs` says, as keyword arguments of `read_siren`.

    Raises:
        InputError: no K=V, or a value that is no number or size where one is wanted.
    """
    told: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--theirs takes K=V, such as grid=centres, not {pair!r}")
        try:
            told[name] = float(text) if name.endswith("omega") else text
            if name == "size":
                told[name] = side_or_size(text)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise InputError(f"--theirs {pair}: {error}") from error
    return told


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
