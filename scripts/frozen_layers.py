"""Which layers must be trained? Freezes sets of layers of an init and measures the rest's fit.

    python scripts/frozen_layers.py --quick
    python scripts/frozen_layers.py --inits 33 runs/NAME --images DIR --limit 4

For every init: no layer frozen, each alone (0 is the first), the first two, and all but the output
layer. Each is fitted as in the benchmark's tuned track, at its own best learning rate.

`hyperinit benchmark --track frozen` does this without the rivals of a checkout. The flags are
those of benchmark.py, which docs/reference/protocol.md explains; a chart of final errors is
written beside the records.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before any install

from hyperinit.app.benchmark import main as run_benchmark
from scripts.catalogue import CATALOGUE


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return run_benchmark(
        argv,
        CATALOGUE,
        prog="frozen_layers.py",
        description=__doc__ or "",
        inits=("33",),
        track="frozen",
    )


if __name__ == "__main__":
    sys.exit(main())
