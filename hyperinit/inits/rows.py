"""The seed experiment's 38 variants: differences from one another -> full, frozen rows.

A row of `_TABLE` says what it changes in another row, as the source does ("(33) but on patio").
`ROWS` holds them resolved, so nothing else needs to know about inheritance. Rows 24, 25, 26 and 34
repeat an init on another image or without weight decay, so 34 settings of (init, omega_0,
coordinate scale) are distinct.

What the source leaves open for all rows (comments at single rows say what it leaves open there):

- Output layer: never mentioned. Its code leaves nn.Linear's default, and so does `InitSpec`, even
  if a row changes "all" biases or, as row 20, removes them.
- Weight decay: mentioned only in row 26, which turns it off. The optimiser is AdamW, so the other
  rows have AdamW's default, 0.01.
- Rows 14 to 22 and 27 to 38 say "stddev 1/fan_in" for the first layer, but not which distribution.
  Read as normal, as in rows 4 to 13, which ask the same question, and as in the source's code.
- Biases "+-pi/30" and the like, in rows 22 to 32, are uniform within that bound; 30 is omega_0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import pi, sqrt
from typing import Any

from hyperinit.base.errors import unknown_name
from hyperinit.inits.rules import PAPER_INIT, BiasRule, InitSpec, WeightRule


@dataclass(frozen=True)
class Row:
    """One variant of the seed experiment, complete.

    Attributes:
        id: Its number in the source, 1 to 38.
        init: How weights are drawn and for which network.
        weight_decay: AdamW's.
        image: What it was fitted to in the source: "cat" or "patio".
        note: Its purpose, its finding or how we read it; one line.
        base: The row that it is defined as a change of; None for the first.
    """

    id: int
    init: InitSpec
    weight_decay: float
    image: str
    note: str
    base: int | None

    @property
    def name(self) -> str:
        """What users type: the number."""
        return str(self.id)


@dataclass(frozen=True)
class _Change:
    """A row as a change of row `base`: fields of InitSpec or Row -> new values."""

    base: int
    note: str
    fields: dict[str, Any]


def _but(base: int, note: str = "", **fields: Any) -> _Change:
    return _Change(base, note, fields)


def _uniform(gain: float) -> WeightRule:
    return WeightRule("uniform", gain)


def _normal(gain: float) -> WeightRule:
    return WeightRule("normal", gain)


def _torch(divisor: float) -> BiasRule:
    return BiasRule("torch", divisor)


def _within(bound: float) -> BiasRule:
    return BiasRule("uniform", bound)


_ZERO = BiasRule("zero")
_ROOT_6 = sqrt(6)  # SIREN sec. 3.2
_HALF_PI = pi / 2

_FIRST = Row(1, PAPER_INIT, 0.01, "cat", "as the SIREN paper; source: 8e-4 in 1250 epochs", None)

_TABLE: dict[int, _Change] = {
    2: _but(1, first=_normal(1), hidden=_normal(_ROOT_6)),
    # The source has "stddev 1/3fan_in/3", read as 1 / (3 fan_in): row 2 divided by 3 throughout.
    3: _but(
        1,
        'first std "1/3fan_in/3" read as 1/(3 fan_in)',
        first=_normal(1 / 3),
        hidden=_normal(_ROOT_6 / 3),
    ),
    4: _but(1, "is it the first layer that matters?", first=_normal(1)),
    5: _but(1, "source: with 6, the first of 1 to 13 at 8e-4", first=_uniform(3)),
    6: _but(1, "as fast as 5, more stable", first=_normal(1.5)),
    7: _but(6, hidden=_normal(_ROOT_6 / 3)),
    8: _but(6, hidden=_normal(_ROOT_6 / 2)),
    9: _but(8, first=_normal(4.5)),
    10: _but(6, hidden=_normal(sqrt(_HALF_PI))),
    11: _but(10, first=_normal(_HALF_PI)),
    # 1.73 is the source's rounding of 1 / COORD_STD = 1.7303...
    12: _but(1, "1.73 = 1/std of the coordinates: row 14 in raw ones", first=_normal(1.73)),
    13: _but(1, "slightly past row 12", first=_normal(2)),
    14: _but(1, "unit-variance coordinates from here on", first=_normal(1), unit_std_coords=True),
    15: _but(14, "source: fast, then diverges", bias=_ZERO),
    16: _but(14, bias=_torch(2)),
    17: _but(14, bias=_torch(10)),
    18: _but(
        14, "source: the fastest start, plateaus above 8e-4", bias=_torch(10), first_bias=_ZERO
    ),
    19: _but(14, first_bias=_torch(10)),
    # "No bias parameters" is read as applying to the sine layers: the source's code keeps the
    # output bias, and without it not even the mean colour could be fitted.
    20: _but(14, "odd up to the output bias: a ghost image, rotated and inverted", bias=None),
    21: _but(14, "source: later than 17, then a lower loss", bias=_torch(30)),
    22: _but(14, "every phase equally likely; source: the lowest loss", bias=_within(pi / 30)),
    # Unlike in its neighbours, the source says "First layer uniform bounds +- 1/fan_in" here. We
    # take it literally, although it compares the row with 22, whose first layer is normal.
    23: _but(
        14,
        "evenly spaced, not random; uniform first layer as written",
        bias=BiasRule("even", pi / 30),
        first=_uniform(1),
    ),
    24: _but(23, image="patio"),
    25: _but(17, image="patio"),
    26: _but(23, "no weight decay; source: no real impact", weight_decay=0.0),
    27: _but(14, "22 modulo full turns of the sine", bias=_within(pi * 30)),
    28: _but(27, first_bias=_within(pi / 60)),
    29: _but(14, bias=_within(pi / 60)),
    30: _but(14, bias=_within(2.5 / 30)),
    31: _but(14, bias=_within(3 * pi / 4 / 30)),
    32: _but(14, bias=_within(2 / 30)),
    33: _but(14, "source: 8e-4 in 450 epochs", bias=_torch(15)),
    34: _but(33, image="patio"),
    35: _but(33, "source: slow, similar losses", omega_0=10.0),
    36: _but(33, "source: fast, plateaus early", omega_0=50.0),
    37: _but(33, "source: still plateaus early", omega_0=40.0),
    38: _but(37, bias=_torch(20)),
}


def _resolve(first: Row, table: dict[int, _Change]) -> dict[int, Row]:
    """Applies the changes in order of the ids; a row's base comes before it."""
    rows = {first.id: first}
    for id, change in table.items():
        base = rows[change.base]
        of_init = {k: v for k, v in change.fields.items() if k in InitSpec.__dataclass_fields__}
        of_row = {k: v for k, v in change.fields.items() if k not in of_init}
        init = replace(base.init, **of_init)
        rows[id] = replace(base, id=id, init=init, note=change.note, base=base.id, **of_row)
    return rows


ROWS: dict[int, Row] = _resolve(_FIRST, _TABLE)


def row(name: str | int) -> Row:
    """Looks a row up by number, or "paper" for row 1.

    Raises:
        InputError: no such row; the known names are listed.
    """
    names = {"paper": ROWS[1]} | {known.name: known for known in ROWS.values()}
    if str(name) not in names:
        raise unknown_name("baseline", str(name), names)
    return names[str(name)]
