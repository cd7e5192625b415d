"""Hand-designed inits that a learned one is measured against: data only, nothing is drawn here."""

from __future__ import annotations

from baselines.table import ROWS, Row, row

__all__ = ["ROWS", "Row", "row"]
