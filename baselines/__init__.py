"""Inits that learned ones are measured against: the seed experiment's rows, and the rivals."""

from __future__ import annotations

from baselines.rules import RULES, Rule
from hyperinit.hypernet.untrained import untrained
from hyperinit.inits.rows import ROWS, Row, row

__all__ = ["ROWS", "RULES", "Row", "Rule", "row", "untrained"]
