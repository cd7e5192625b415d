"""What the scripts that measure give the library, which knows neither baselines nor datasets."""

from __future__ import annotations

import datasets
from baselines import ROWS, RULES, untrained
from hyperinit.app.benchmark import Catalogue
from hyperinit.bench.sources import BY_NAME
from hyperinit.photos.workload import images_to_test, images_to_tune_on

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
