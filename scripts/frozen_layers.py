"""Which layers have to be trained? Freezes sets of layers of an init and measures the rest's fit.

    python scripts/frozen_layers.py --quick
    python scripts/frozen_layers.py --inits 33 runs/NAME --images DIR --limit 4

For every init: no layer frozen, each alone (0 is the first), the first two, and all but the output
layer. Each is fitted as in the benchmark's tuned track, at its own best learning rate.

The same flags as benchmark.py, which docs/benchmark.md explains, and the same records; a chart of
final errors is written beside them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import datasets
from baselines import ROWS
from datasets.workload import images_to_test, images_to_tune_on
from hyperinit.benchmark_cli import Catalogue
from hyperinit.benchmark_cli import main as run_cli

_ROWS = {row.name: (row.init, row.weight_decay) for row in ROWS.values()}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    catalogue = Catalogue(
        {"paper": _ROWS["1"], **_ROWS}, images_to_test, images_to_tune_on, datasets.NAMES
    )
    return run_cli(
        argv,
        catalogue,
        prog="frozen_layers.py",
        description=__doc__ or "",
        inits=("33",),
        track="frozen",
    )


if __name__ == "__main__":
    sys.exit(main())
