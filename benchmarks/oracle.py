"""What is a head start worth? Fits that start from real fits of the same image -> a CSV file.

    python benchmarks/oracle.py --images DIR --limit 4
    python benchmarks/oracle.py --images DIR --limit 4 --lr-factors 0.5      one more rate

An oracle start knows the image: its parameters are those of a fit from `identity-sized` with a
declared budget of 0.25, 0.5, 1, 2 or 4 epochs. The epochs that a fit from there still needs are a
lower bound for any learned start with equally good parameters. The control is `untrained`.

Every line is one fit over a declared budget, at a multiple of its default rate, with other seeds
than the head start. Budgets rise until the hardest target is reached. Fits in the file are not made
again, so an interrupted run continues. `scripts/learned_start.py` draws the results.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before any install

import torch
from torch import Tensor

from hyperinit.base.arguments import Parser
from hyperinit.base.errors import InputError
from hyperinit.fitting.config import FitConfig, rate_of, suited
from hyperinit.fitting.fit import fit
from hyperinit.hypernet.untrained import untrained
from hyperinit.inits.rules import named_init
from hyperinit.inits.start import SIZED_POWER, Start, sized_init
from hyperinit.photos.workload import images_to_test
from hyperinit.record.protocol import TARGETS

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "records" / "oracle.csv"
HEADS = (0.25, 0.5, 1.0, 2.0, 4.0)  # epochs of the fits that the starts are taken from
BUDGETS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
HEAD_SEED, SEED = 0, 1
CONTROL, ORACLE = "untrained", "oracle"


@dataclass(frozen=True)
class Row:
    """One fit.

    Attributes:
        image, sha256: Name and hash of the photograph's centre square.
        size: Its side in pixels.
        depth, width: Depth and width of the SIREN.
        start: CONTROL or ORACLE.
        head_epochs: Epochs of the fit that an oracle start comes from; 0 for the control.
        lr_factor: Factor on the learning rate that suits the fit.
        budget_epochs: The declared budget, including the cost of the control's start. 0 is the
            start itself.
        epochs: The epochs spent.
        mse: Final error over all pixels, in ImageNet-normalised units.
    """

    image: str
    sha256: str
    size: int
    depth: int
    width: int
    start: str
    head_epochs: float
    lr_factor: float
    budget_epochs: float
    epochs: float
    mse: float

    @property
    def ladder(self) -> tuple[str, int, int, int, str, float, float]:
        """What all budgets of one start at one rate have in common."""
        sizes = (self.size, self.depth, self.width)
        return (self.sha256, *sizes, self.start, self.head_epochs, self.lr_factor)


def read_rows(path: str | Path) -> list[Row]:
    """The fits in a file; empty if there is no file.

    Raises:
        InputError: a line was not written by `write_row`.
    """
    if not Path(path).exists():
        return []
    kinds = {"int": int, "float": float, "str": str}
    with Path(path).open(encoding="utf-8", newline="") as file:
        try:
            return [
                Row(
                    **{
                        field.name: kinds[str(field.type)](line[field.name])
                        for field in fields(Row)
                    }
                )
                for line in csv.DictReader(file)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not a file of benchmarks/oracle.py ({error})") from error


def write_row(path: str | Path, row: Row) -> None:
    """Appends a fit to a file, with a header if there is none."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(asdict(row))
        writer.writerow(f"{x:.6g}" if isinstance(x, float) else x for x in astuple(row))


def head_start(image: Tensor, depth: int, width: int, epochs: float) -> Start:
    """The end of a fit from `identity-sized` over `epochs` declared epochs, as a free start."""
    drawn = sized_init("identity-sized", named_init("identity"), width, depth, SIZED_POWER)
    start = drawn.start(image, HEAD_SEED)
    fitted = fit(start, image, FitConfig(budget_epochs=epochs, eval_epochs=(), seed=HEAD_SEED))
    return Start(fitted.params, lr_factor=start.lr_factor, prefers=start.prefers)


def ladder(
    start: Start, image: Tensor, lr_factor: float, done: Sequence[float], most_epochs: float
) -> Iterator[tuple[float, float, float]]:
    """(budget, epochs spent, error) of fits over rising budgets, until the hardest target.

    Args:
        start: The start; budgets below its own cost are left out.
        image: (3, H, W) in [0, 1].
        lr_factor: Factor on the suitable learning rate.
        done: Errors of the budgets that are known already, the smallest budget (0) first.
        most_epochs: The largest budget.
    """
    budgets = [0.0, *(b for b in BUDGETS if start.epochs < b <= most_epochs)]
    for i, budget in enumerate(budgets):
        if i < len(done):
            error = done[i]
        else:
            config = FitConfig(
                budget_epochs=max(budget, start.epochs), eval_epochs=(), max_restarts=0, seed=SEED
            )
            lr = lr_factor * rate_of(suited(config, start), start, image[0].numel())
            end = fit(start, image, config, lr=lr).curve[-1]
            error = end.mse
            yield budget, end.epochs, error
        if error <= min(TARGETS):
            return


def measure(arguments: argparse.Namespace, name: str, sha256: str, image: Tensor) -> Iterator[Row]:
    """All fits of one photograph that are not in the file, at all rates."""
    depth, width = arguments.depth, arguments.width
    known = read_rows(arguments.out)
    starts: dict[tuple[str, float], Start] = {}
    for lr_factor in arguments.lr_factors:
        for kind, head in [(CONTROL, 0.0), *((ORACLE, head) for head in arguments.heads)]:
            if (kind, head) not in starts:
                control = untrained(CONTROL, width, depth)
                starts[kind, head] = (
                    control.start(image, SEED)
                    if kind == CONTROL
                    else head_start(image, depth, width, head)
                )
            like = Row(
                *(name, sha256, arguments.size, depth, width, kind, head, lr_factor, 0.0, 0.0, 0.0)
            )
            mine = {row.budget_epochs: row.mse for row in known if row.ladder == like.ladder}
            done = [mine[budget] for budget in sorted(mine)]
            start = starts[kind, head]
            for budget, epochs, mse in ladder(start, image, lr_factor, done, arguments.most_epochs):
                yield Row(*astuple(like)[:-3], budget, epochs, mse)


def _parser() -> Parser:
    parser = Parser(
        prog="oracle.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", nargs="+", required=True, metavar="SOURCE", help="photographs, or a directory")
    add("--limit", type=int, help="use only this many photographs, the first ones")
    add("--size", type=int, default=96, help="centre square, in pixels (96)")
    add("--depth", type=int, default=4, help="sine layers (4)")
    add("--width", type=int, default=128, help="units of each (128)")
    add("--heads", type=float, nargs="+", default=list(HEADS), help="epochs of the head starts")
    add("--lr-factors", type=float, nargs="+", default=[1.0], help="factors on the rate (1)")
    add("--most-epochs", type=float, default=max(BUDGETS), help="largest budget (16)")
    add("--out", type=Path, default=OUT, help="CSV file (benchmarks/records/oracle.csv)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        images, skipped = images_to_test(arguments.images, arguments.size, arguments.limit)
        for source, reason in skipped:
            print(f"{source}: {reason}", file=sys.stderr)
        for image in images:
            for row in measure(arguments, image.name, image.hash, image.image):
                write_row(arguments.out, row)
                print(*astuple(row), file=sys.stderr, flush=True)
    except InputError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
