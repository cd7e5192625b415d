"""Import paths of version 0.1, when the package was one flat folder: they still work.

`import hyperinit.images.coords` gives `hyperinit.images.coords` itself, with a DeprecationWarning.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

# Names that are subpackages or functions today (images, siren, fit, ...) cannot be old paths too.
MOVED = {
    "benchmark": "bench.run",
    "benchmark_cli": "app.benchmark",
    "charts": "report.charts",
    "cli": "app.cli",
    "clock": "base.clock",
    "compare": "app.compare",
    "config": "base.settings",
    "coords": "images.coords",
    "costs": "score.costs",
    "engine": "stepping.engine",
    "errors": "base.errors",
    "fit_config": "fitting.config",
    "init": "inits.rules",
    "inner": "hypernet.inner",
    "learned": "hypernet.learned",
    "lr_range": "fitting.lr_range",
    "many": "fitting.many",
    "meta": "learn.loss",
    "modulation": "hypernet.modulation",
    "neighbours": "inits.neighbours",
    "outer": "learn.loop",
    "page": "report.page",
    "param_dataset": "siren.dataset",
    "pretrained": "hypernet.pretrained",
    "protocol": "record.protocol",
    "race": "demo.race",
    "samplers": "stepping.samplers",
    "sine": "siren.sine",
    "sources": "bench.sources",
    "store": "siren.store",
    "svg": "report.svg",
    "target": "fitting.target",
    "thumbnails": "record.thumbnails",
    "tracking": "learn.tracking",
    "training": "learn.task",
    "trial": "bench.trial",
    "wandb_report": "report.wandb_report",
}


class MovedFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module by its old path and returns the one at its new path."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        package, _, name = fullname.partition(".")
        if package != "hyperinit" or name not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The module at its new path; `exec_module` restores its own spec."""
        new = f"hyperinit.{MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(f"{spec.name} is now {new}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        self._specs = getattr(self, "_specs", {})
        self._specs[id(module)] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Runs nothing, because the module has been imported."""
        module.__spec__ = self._specs.pop(id(module))
        module.__loader__ = module.__spec__.loader if module.__spec__ else None


def install() -> None:
    """Makes old paths importable, once per process."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())
