"""The catalogue of a checkout: the package's inits and images, and the rivals' rules."""

from __future__ import annotations

from dataclasses import replace

from baselines import RULES
from hyperinit.bench.catalogue import PACKAGE

CATALOGUE = replace(
    PACKAGE, rules={**{name: rule.init for name, rule in RULES.items()}, **PACKAGE.rules}
)
