"""`hyperinit benchmark` in a checkout, including its rivals: see its --help.

    python scripts/benchmark.py --quick
    python scripts/benchmark.py --images DIR --inits 33 winner vi3nr@0.1

docs/reference/protocol.md explains it, docs/reference/rivals.md the rivals.
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
    return run_benchmark(argv, CATALOGUE, prog="benchmark.py")


if __name__ == "__main__":
    sys.exit(main())
