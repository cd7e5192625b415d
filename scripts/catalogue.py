"""What the scripts that measure give the library, which knows neither baselines nor datasets."""

from __future__ import annotations

import datasets
from baselines import ROWS, RULES, untrained
from datasets.workload import images_to_test, images_to_tune_on
from hyperinit.benchmark_cli import Catalogue
from hyperinit.sources import BY_NAME

_ROWS = {row.name: (row.init, row.weight_decay) for row in ROWS.values()}

CATALOGUE = Catalogue(
    {"paper": _ROWS["1"], **_ROWS},
    images_to_test,
    images_to_tune_on,
    datasets.NAMES,
    {name: rule.init for name, rule in RULES.items()}
    | {name: BY_NAME[name] for name in ("33-sized", "identity", "identity-sized")}
    | {"untrained": untrained},
)
