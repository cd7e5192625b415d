"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from math import inf, isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NoReturn

from hyperinit.base.errors import InputError, did_you_mean
from hyperinit.base.results import set_manner
from hyperinit.base.terminal import visible

Size = tuple[int, int]  # height and width in pixels

# Larger images are neither read nor drawn: 50 million pixels are 600 MB as float32, and no useful
# camera photograph is larger.
MAX_PIXELS = 50_000_000

# Far beyond any use: larger numbers are typing mistakes, and are refused before any work.
MAX_EPOCHS = 1e6
MAX_RATE = 1e30  # the largest number in records, so that even a diverging fit can be recorded
MAX_WIDTH, MAX_DEPTH = 2**16, 1000  # of a SIREN
MAX_THREADS = 1024
MAX_COUNT = 2**31
MIN_SEED, MAX_SEED = -(2**63), 2**63 - 1


# Field names in the library's reasons for a failed fit -> their flags on the command line.
FIT_FLAGS = {
    "try lr": "try --lr",
    "raise budget_epochs": "raise --budget-epochs",
    "raise target_mse": "raise --target-mse",
    "target_mse ": "--target-mse ",
    "max_restarts=": "--fit max_restarts=",
    "or width to": "or --width to",
    "out of frozen_layers": "out of --fit frozen_layers",
}


def in_flags(reason: str) -> str:
    """Translates the library's reason for a failed fit into flags of the command line."""
    for ours, flag in FIT_FLAGS.items():
        reason = reason.replace(ours, flag)
    return reason


def whole(least: int, most: int) -> Callable[[str], int]:
    """A type for `add_argument`: a whole number from `least` to `most`.

    Every number on a command line has this type or `number`, so none can be absurd, too large for
    torch, or not finite.
    """

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:  # also raised for too many digits
            raise argparse.ArgumentTypeError(
                f"must be a whole number, not {_quoted(text)}"
            ) from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"must be at least {least} and at most {most}, not {_cut(text)}"
            )
        return value

    return read


def number(*, least: float = 0.0, above: bool = False, most: float) -> Callable[[str], float]:
    """A type for `add_argument`: a finite number from `least`, or above it, to `most`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a number, not {_quoted(text)}") from None
        if not isfinite(value):
            raise argparse.ArgumentTypeError(f"must be a finite number, not {_cut(text)}")
        if value <= least if above else value < least:
            wanted = f"above {least:g}" if least else "a positive number"
            wanted = wanted if above else f"at least {least:g}"
            raise argparse.ArgumentTypeError(f"must be {wanted}, not {_cut(text)}")
        if value > most:
            raise argparse.ArgumentTypeError(f"must be at most {most:g}, not {_cut(text)}")
        return value

    return read


def _path(text: str) -> Path:
    """A path on a command line; "" (an unset shell variable) is refused, not read as "."."""
    if not text:
        raise argparse.ArgumentTypeError("must name a file or a directory, not ''")
    return Path(text)


def named_source(text: str) -> tuple[str, str]:
    """("NAME", "SOURCE") of an init typed as NAME=SOURCE; NAME may be "".

    An existing file of exactly that name takes precedence.
    """
    name, equals, source = text.partition("=")
    return (name, source) if equals and name and not os.path.exists(text) else ("", text)


def check_seed(seed: Any) -> int:
    """Checks a seed of the Python API for torch.

    Raises:
        InputError: it is not a 64-bit integer.
    """
    is_whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not is_whole or not MIN_SEED <= seed <= MAX_SEED:
        raise InputError(f"seed must be a whole number of 64 bits, not {seed!r:.60}")
    return int(seed)


def check_count(name: str, value: Any) -> None:
    """Refuses an argument of the Python API that is not a whole number of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, not {value!r:.60}")


def check_positive(name: str, value: Any) -> float:
    """Refuses an argument of the Python API that is not a finite number above 0."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 < float(value) < inf:
        raise InputError(f"{name} must be a positive number, not {value!r:.60}")
    return float(value)


def _quoted(text: str) -> str:
    return repr(_cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


# Examples of sets of images other than directories, for help texts.
DATA_EXAMPLES = "such as shards-{000..123}.tar, FILE.parquet, FILE.npz, hf:NAME, torchvision:NAME"

# Types of the arguments that several commands have.
COUNT = whole(1, MAX_COUNT)
WIDTH, DEPTH = whole(1, MAX_WIDTH), whole(1, MAX_DEPTH)
PIXELS = whole(1, MAX_PIXELS)
THREADS = whole(1, MAX_THREADS)
EPOCHS = number(most=MAX_EPOCHS)
RATE = number(above=True, most=MAX_RATE)  # and errors
OMEGA = number(above=True, most=1e6)


def add_device(
    parser: Parser, default: str = "auto", what: str = "where to compute", why: str = ""
) -> None:
    """Adds `--device`, see `choose_device`."""
    parser.add_argument(
        "--device",
        default=default,
        metavar="auto|cpu|cuda|mps",
        help=f"{what}; auto is the GPU if there is one (default: {default}{why})",
    )


class _SetManner(argparse.Action):
    """A switch that takes effect when it is parsed, and adds nothing to the namespace."""

    def __call__(self, *arguments: Any, **options: Any) -> None:
        set_manner(**{self.const: True})


def add_manner(parser: Parser) -> None:
    """Adds `--quiet` and `--json`: how the command prints, see results.py."""
    helps = {
        "quiet": "print only results and errors, no progress and no remarks",
        "json": "print results as JSON, one object per line (docs/reference/json.md)",
    }
    for name, help in helps.items():
        how: dict[str, Any] = {"nargs": 0, "const": name, "default": argparse.SUPPRESS}
        parser.add_argument(
            f"--{name}", action=_SetManner, dest=argparse.SUPPRESS, help=help, **how
        )


def add_threads(parser: Parser) -> None:
    """Adds `--threads`, see `choose_threads`."""
    parser.add_argument(
        "--threads",
        type=THREADS,
        metavar="N",
        help="CPU threads (as many as pay off for the work)",
    )


def add_seed(parser: Parser, what: str) -> None:
    """Adds `--seed`; `what` is its help."""
    seeds = whole(MIN_SEED, MAX_SEED)
    parser.add_argument("--seed", type=seeds, default=0, metavar="N", help=what)


def add_limit(parser: Parser) -> None:
    """Adds `--limit`, for a set of images."""
    parser.add_argument(
        "--limit", type=COUNT, metavar="N", help="for a set: use only its first N images"
    )


def add_index(parser: Parser) -> None:
    """Adds `--index`, for a file with several SIRENs."""
    what = "which SIREN of a FILE with several"
    parser.add_argument("--index", type=whole(0, MAX_COUNT), metavar="N", help=what)


def add_ray(parser: Parser, what: str) -> None:
    """Adds `--ray` and `--ray-gpus`, see `engine_of`."""
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help=f"{what} on a Ray cluster: auto, HOST:PORT or ray://HOST:PORT; without ADDRESS on "
        "this machine's cores (needs hyperinit[ray])",
    )
    parser.add_argument(
        "--ray-gpus",
        type=number(most=64),
        default=0.0,
        metavar="X",
        help="GPUs of a Ray worker, such as 0.25 (0: it computes on --threads cores)",
    )


def add_size(parser: Parser) -> None:
    """Adds `--size`, for images that are read."""
    parser.add_argument(
        "--size",
        type=side_or_size,
        metavar="N|HxW",
        help="crop to the centre and resize: N is a square of N pixels a side, HxW height x width "
        "(default: no change)",
    )


def add_theirs(parser: Parser) -> None:
    """Adds `--theirs`, for SIRENs of other programs."""
    parser.add_argument(
        "--theirs",
        nargs="+",
        default=[],
        metavar="K=V",
        help="for another program's SIREN: layout=NAME, first_omega=X, hidden_omega=X, "
        "order=xy|yx, grid=corners|centres|..., colours=unit|signed|imagenet, size=HxW "
        "(those of its layout)",
    )


def theirs_of(pairs: Sequence[str], flag: str = "--theirs") -> dict[str, Any]:
    """The K=V pairs of `--theirs`, or a flag like it, as keyword arguments of `read_siren`.

    Raises:
        InputError: a pair is not K=V, or its value is not the number or size that is needed.
    """
    told: dict[str, Any] = {}
    for name, text in pairs_of(pairs, flag, "grid=centres").items():
        try:
            told[name] = OMEGA(text) if name.endswith("omega") else text
            if name == "size":
                told[name] = side_or_size(text)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise InputError(f"{flag} {_cut(f'{name}={text}')}: {error}") from error
    return told


def pairs_of(pairs: Sequence[str], flag: str, example: str) -> dict[str, str]:
    """K=V pairs of a command line by their K.

    Raises:
        InputError: a pair is not K=V, or two have the same K.
    """
    told: dict[str, str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"{flag} takes K=V, such as {example}, not {_quoted(pair)}")
        if name in told:
            raise InputError(f"{flag}: {_cut(name)} is given twice; give it one value")
        told[name] = text
    return told


def side_or_size(text: str) -> Size:
    """ "96" -> (96, 96); "60x80" -> (60, 80)."""
    if re.fullmatch(r"[1-9][0-9]{0,4}", text):
        return _held((int(text), int(text)))
    if re.fullmatch(r"-?[0-9]+", text):
        raise argparse.ArgumentTypeError(f"must be at least 1 and at most 99999, not {_cut(text)}")
    return _height_width(text, "224 or 480x640")


def grid_size(text: str) -> tuple[int, ...]:
    """ "8000" -> (8000,); "480x640" -> (480, 640); "24x24x24" -> (24, 24, 24)."""
    if re.fullmatch(r"[1-9]\d{0,8}", text):
        return (int(text),)
    if re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4}){2}", text):
        return tuple(map(int, text.split("x")))
    return height_width(text)


def height_width(text: str) -> Size:
    """ "480x640" -> (480, 640)."""
    return _height_width(text, "480x640")


def _height_width(text: str, example: str) -> Size:
    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"must look like {example} (height x width), not {_quoted(text)}"
        )
    return _held((int(match[1]), int(match[2])))


def _held(size: Size) -> Size:
    if size[0] * size[1] > MAX_PIXELS:
        raise argparse.ArgumentTypeError(
            f"must be at most {MAX_PIXELS // 10**6} million pixels, not {size[0]} x {size[1]}"
        )
    return size


# Receives the parser for `parser_of`.
_seen: ContextVar[list[Parser] | None] = ContextVar("seen", default=None)


def parser_of(command: Callable[[], Any]) -> Parser:
    """The parser of a command, which is run only until it would parse its command line."""
    token = _seen.set([])
    try:
        with contextlib.suppress(SystemExit):
            command()
        (parser,) = _seen.get() or []
        return parser
    finally:
        _seen.reset(token)


class _Store(argparse.Action):
    """Like argparse's, but a flag with several values adds to those that it had before."""

    def __call__(self, parser: Any, namespace: Any, values: Any, flag: str | None = None) -> None:
        before = getattr(namespace, self.dest, self.default)
        is_again = flag and isinstance(values, list) and before is not self.default
        setattr(namespace, self.dest, [*before, *values] if is_again else values)


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line (exit code 2) and suggest the nearest flag.

    A flag with several values may be given several times, and then has all of them.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})
        self.register("type", Path, _path)
        self.register("action", None, _Store)

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.splitlines())
        line = re.sub(r"^argument (?:-\w/)?(--[\w-]+): must ", r"\1 must ", line)
        self.exit(2, f"{self.prog}: error: {visible(line)}\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Like argparse's, but refuses unknown arguments instead of returning them."""
        seen = _seen.get()
        if seen is not None:
            seen.append(self)
            raise SystemExit(0)
        namespace, rest = super().parse_known_args(args, namespace)
        if rest:
            flag = next((text for text in rest if text.startswith("-")), rest[0]).split("=")[0]
            known = [text for text in self._option_string_actions if text.startswith("--")]
            self.error(f"unknown argument {flag!r}{did_you_mean(flag, known) or '; see --help'}")
        return namespace, rest
