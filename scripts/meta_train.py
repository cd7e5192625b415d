"""`hyperinit meta-train` from a checkout: see its --help.

python scripts/meta_train.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before any install

from hyperinit.app.meta_train import main as meta_train


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 2 for bad input, 130 or 143 when stopped by a signal."""
    return meta_train(argv, prog="meta_train.py")


if __name__ == "__main__":
    sys.exit(main())
