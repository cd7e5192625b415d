"""Inits that a learned one is measured against: the seed experiment's rows, and the rivals."""

from __future__ import annotations

from baselines.rules import RULES, Rule
from baselines.table import ROWS, Row, row
from baselines.untrained import untrained

__all__ = ["ROWS", "RULES", "Row", "Rule", "row", "untrained"]
