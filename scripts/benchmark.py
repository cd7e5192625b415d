"""Measures inits: fits images from each, and says how many epochs and seconds a target error takes.

    python scripts/benchmark.py --quick                        three minutes, small images
    python scripts/benchmark.py --images DIR --limit 8         paper, 22 and 33; about an hour
    python scripts/benchmark.py --images DIR --inits all-rows  the seed experiment's whole table
    python scripts/benchmark.py --images DIR --inits 33 runs/NAME my_init.py:start
    python scripts/benchmark.py --track seed --images cat.jpg --inits 33 --seeds 1
    python scripts/benchmark.py --track open --inits 33 --fit sampler=points
    python scripts/benchmark.py --images DIR --verify 3        reruns three stored trials

tuned  every init is fitted alike, each at its own best learning rate, on a ladder of budgets that
       are declared before; rates are chosen on tuning images
seed   as the seed experiment ran it: constant rate from an LR range test, random points
open   as tuned, with --fit to change the fit; names of inits then say how

Every fit is one line in a file of records. Fits that are there are not run again, so the same
command goes on after an interruption. scripts/report.py makes a page, tables and charts from the
file, with pictures of the fits if they were kept (--thumbnails); docs/benchmark.md explains it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hyperinit.app.benchmark import main as run_cli
from scripts.catalogue import CATALOGUE


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return run_cli(argv, CATALOGUE, prog="benchmark.py", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
