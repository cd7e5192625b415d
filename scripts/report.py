"""Turns records into a page, tables and charts, and keeps tables inside documents up to date.

    python scripts/report.py runs/benchmark-tuned.jsonl -o report

The command is `hyperinit report`; see its --help.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before any install

from hyperinit.app.report import main

if __name__ == "__main__":
    sys.exit(main(prog="report.py"))
