"""The resolved table of 38 inits -> Markdown, for docs/reference/inits.md."""

from __future__ import annotations

from hyperinit.inits.rows import ROWS, Row
from hyperinit.inits.rules import BiasRule, WeightRule
from hyperinit.siren.network import param_shapes

LEGEND = """\
`U(g)` is uniform within g times the scale, `N(g)` normal with standard deviation g times the
scale; the scale is 1/fan_in in the first layer and 1/(omega_0 sqrt(fan_in)) in the hidden ones.
Bias `torch / d` is uniform within 1/(d sqrt(fan_in)), `U b` uniform within b, `even b` evenly
spaced over the same range. The phase is omega_0 times the largest bias, in the first and in the
hidden layers of a 5 x 256 network; pi reaches every phase of the sine. `unit` coordinates are
divided by their standard deviation. The output layer is always as nn.Linear has it.
"""

COLUMNS = (
    "row",
    "first",
    "hidden",
    "first bias",
    "bias",
    "omega_0",
    "coords",
    "weight decay",
    "image",
    "phase, first / hidden",
    "note",
)


def _weight(rule: WeightRule) -> str:
    power = f", {rule.power:.4g}" if rule.power != 1 else ""
    return f"{rule.dist[0].upper()}({rule.gain:.4g}{power})"


def _bias(rule: BiasRule | None) -> str:
    if rule is None:
        return "none"
    if rule.kind in ("torch", "waves"):
        return rule.kind if rule.scale == 1 else f"{rule.kind} / {rule.scale:.4g}"
    kind = {"uniform": "U", "even": "even", "zero": "zero"}[rule.kind]
    return kind if rule.kind == "zero" else f"{kind} {rule.scale:.4g}"


def _cells(row: Row) -> tuple[str, ...]:
    init, config = row.init, row.init.siren_config()
    first_bias = init.first_bias or init.bias
    shapes = param_shapes(config)
    phases = [
        "none" if rule is None else f"{config.omega_0 * rule.bound(shapes[name][1]):.4g}"
        for name, rule in (("layers.0.weight", first_bias), ("layers.1.weight", init.bias))
    ]
    return (
        row.name,
        _weight(init.first),
        _weight(init.hidden),
        _bias(first_bias),
        _bias(init.bias),
        f"{init.omega_0:g}",
        "unit" if init.unit_std_coords else "raw",
        f"{row.weight_decay:g}",
        row.image,
        " / ".join(phases),
        row.note,
    )


def inits_markdown() -> str:
    """A legend and a Markdown table with one line per row; ends in a newline."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(_cells, ROWS.values())]
    return LEGEND + "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
