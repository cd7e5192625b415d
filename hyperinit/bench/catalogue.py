"""The inits and images that can be measured by name. A checkout adds its rivals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hyperinit.base.errors import InputError
from hyperinit.bench.sources import BY_NAME, InitMaker, load_init, sized_makers
from hyperinit.hypernet.untrained import STEPPED
from hyperinit.inits.rows import ROWS
from hyperinit.inits.rules import NAMED_INITS, InitSpec
from hyperinit.photos.load import NAMES
from hyperinit.photos.workload import NamedImage, images_to_test, images_to_tune_on

Images = tuple[list[NamedImage], list[tuple[str, str]]]  # images, and (name, reason) if skipped

# Name -> description in one line.
OURS = {
    "33-sized": "row 33 with the first layer times (side / 224)^0.5",
    "identity": "every unit starts as a single wave, which the hidden layers pass on",
    "identity-sized": "identity with the first layer times (side / 224)^0.5",
    "waves": "identity with waves that are spread evenly, more of them long",
    "waves-sized": "waves with the first layer times (side / 224)^0.5; the default of"
    " `hyperinit fit` below 0.6 epochs",
    "waves-mid": "waves with fewer long ones: ahead of waves from two epochs on",
    "waves-mid-sized": "waves-mid with the first layer times (side / 224)^0.5",
    "untrained": "identity-sized after a few gradient steps on the image, which count as epochs",
    "waves-steps": "such steps from a draw like waves, finer if the network is large for the"
    " image; the default of `hyperinit fit` for long fits",
    "waves-few-steps": "fewer steps on fewer pixels, from waves-mid or, if the network is large"
    " for the image, from a finer draw; the default of `hyperinit fit` for shorter fits",
}


@dataclass(frozen=True)
class Catalogue:
    """Inits and images by name.

    Attributes:
        rows: Name -> (hand-designed init, its weight decay in the seed track).
        images_to_test: (sources, size in pixels, limit or None) -> images.
        images_to_tune_on: (sources, size in pixels, count) -> images.
        image_names: Data sets that can be given as sources.
        rules: Name -> further inits, which have a number to tune or look at the image.
    """

    rows: Mapping[str, tuple[InitSpec, float]]
    images_to_test: Callable[[Sequence[str], int, int | None], Images]
    images_to_tune_on: Callable[[Sequence[str], int, int], Images]
    image_names: Sequence[str]
    rules: Mapping[str, InitSpec | InitMaker] = field(default_factory=dict)

    @property
    def inits(self) -> dict[str, InitSpec | InitMaker]:
        """All inits, in the form that `load_init` accepts."""
        specs: dict[str, InitSpec | InitMaker] = {n: spec for n, (spec, _) in self.rows.items()}
        return {**specs, **self.rules}


_ROWS = {row.name: (row.init, row.weight_decay) for row in ROWS.values()}

_OWN: dict[str, InitSpec | InitMaker] = {**BY_NAME, **STEPPED}

# Everything that the installed package can measure.
PACKAGE = Catalogue(
    {"paper": _ROWS["1"], **_ROWS},
    images_to_test,
    images_to_tune_on,
    NAMES,
    {name: _OWN[name] for name in OURS},
)


def inits_for_fit(source: str, omega_0: float | None = None) -> dict[str, InitSpec | InitMaker]:
    """The inits by name that `hyperinit fit` knows, with another omega_0 if one is given.

    Args:
        source: The init that was asked for.
        omega_0: The network's omega_0; None: each init's own.

    Raises:
        InputError: omega_0 is not a positive number, or the init is not a rule.
    """
    if omega_0 is None:
        return {**PACKAGE.inits, **NAMED_INITS}  # these have preferences; rows are bare rules
    if not 0 < omega_0 < float("inf"):
        raise InputError(f"--omega-0 must be a positive number, not {omega_0}")
    specs = {**{name: spec for name, (spec, _) in PACKAGE.rows.items()}, **NAMED_INITS}
    changed = {name: replace(spec, omega_0=omega_0) for name, spec in specs.items()}
    known: dict[str, InitSpec | InitMaker] = {**changed, **sized_makers(changed)}
    if source.partition("@")[0] not in known:
        raise InputError(f"--omega-0 is for a hand-designed init by name, which {source} is not")
    return known


def ours_markdown() -> str:
    """A Markdown table of the package's own inits; ends in a newline."""
    rows = "".join(f"| {name} | {what} |\n" for name, what in OURS.items())
    return f"| init | what it is |\n| --- | --- |\n{rows}"


def inits_json(width: int = 256, depth: int = 5) -> dict[str, Any]:
    """All inits by name, JSON-able: the seed experiment's rows and ours.

    Args:
        width, depth: The network for which ours are described.

    Returns:
        "rows": name -> rules (see InitSpec), weight_decay, image, note;
        "ours": name -> note, and the init's facts in records.
    """
    rows = {
        row.name: {
            **row.init.facts,
            "weight_decay": row.weight_decay,
            "image": row.image,
            "note": row.note,
        }
        for row in ROWS.values()
    }
    ours = {
        name: {"note": what, **load_init(name, PACKAGE.inits, width, depth).facts}
        for name, what in OURS.items()
    }
    return {"rows": rows, "ours": ours}
