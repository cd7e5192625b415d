"""The names of a SIREN's tensors in other programs: one table, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from torch import Tensor

from hyperinit.base.arguments import MAX_DEPTH, MAX_WIDTH
from hyperinit.base.errors import InputError, unknown_name
from hyperinit.exchange.conventions import OURS, USUAL, Conventions, Layers, Size
from hyperinit.images.signals import MAX_DIMS

ABOUT = "docs/siren-files.md"  # the page where layouts and conventions are


@dataclass(frozen=True)
class Layout:
    """The names that one program gives to the layers of a SIREN.

    Attributes:
        about: The program; one line.
        sine: Name of a sine layer; "{i}" is its index.
        last: Name of the final linear layer; with "{i}" the indices continue.
        prefix: Written before every name. When reading, any prefix is accepted.
        conventions: The program's conventions unless its user changes them.
        weight: "weight", (out, in) as in torch, or "kernel", (in, out) as in Flax.
        joint: The separator between the parts of a name.
        needs: A tensor that distinguishes files of this layout from others.
        step: The difference between the indices of two layers when written.
    """

    about: str
    sine: str
    last: str
    prefix: str = ""
    conventions: Conventions = USUAL
    weight: str = "weight"
    joint: str = "."
    needs: str = ""
    step: int = 1

    @property
    def bias(self) -> str:
        """The name of biases."""
        return "bias"

    def keys(self, depth: int) -> list[tuple[str, str]]:
        """Names of the weight and the bias of every layer, input side first, as written."""
        names = [self.sine.format(i=i * self.step) for i in range(depth)]
        names.append(self.last.format(i=depth * self.step))
        ends = (self.joint + self.weight, self.joint + self.bias)
        return [(self.prefix + name + ends[0], self.prefix + name + ends[1]) for name in names]

    def tensors(self, layers: Layers) -> dict[str, Tensor]:
        """Layers under these names, weights in this layout."""
        named = {}
        keys = self.keys(len(layers) - 1)
        for (weight, bias), (weight_key, bias_key) in zip(layers, keys, strict=True):
            turned = weight if self.weight == "weight" else weight.T.contiguous()
            named[weight_key] = turned
            if bias is not None:
                named[bias_key] = bias
        return named


_UNIT = Conventions(first_omega=1.0, hidden_omega=1.0, order="xy", grid="centres")

# If none is named, the first that fits is used, so layouts with distinctive names come first.
LAYOUTS: dict[str, Layout] = {
    "npz": Layout(
        "numpy arrays as `hyperinit export --to npz` writes them",
        *("layers.{i}", "layers.{i}"),
        conventions=OURS.but(colours="unit"),
        needs="omega_0",
    ),
    "jax": Layout(
        "Flax's Dense layers, Dense_0 to Dense_N, in a flat .npz",
        *("Dense_{i}", "Dense_{i}"),
        prefix="params/",
        conventions=_UNIT,
        weight="kernel",
        joint="/",
    ),
    "siren-pytorch": Layout(
        "SirenNet of the package siren-pytorch, alone or in its SirenWrapper",
        *("layers.{i}", "last_layer"),
        conventions=Conventions(hidden_omega=1.0),
    ),
    "coin": Layout(
        "COIN, compression with implicit neural representations",
        *("net.{i}.linear", "last_layer.linear"),
        conventions=Conventions(grid="coin"),
    ),
    "siren": Layout(
        "the SIREN authors' modules.py: SingleBVPNet, or an FCBlock alone",
        *("{i}.0", "{i}.0"),
        prefix="net.net.",
        conventions=Conventions(colours="signed"),
    ),
    "notebook": Layout(
        "the SIREN authors' explore_siren.ipynb, and the many that follow it",
        *("{i}.linear", "{i}"),
        prefix="net.",
        conventions=Conventions(colours="signed"),
    ),
    "sequential": Layout(
        "Linear layers in an nn.Sequential or a list, with sines between them",
        *("{i}", "{i}"),
        step=2,
    ),
}


@dataclass(frozen=True)
class Found:
    """The layers of a SIREN in a state dict.

    Attributes:
        name: The layout's name, a key of `LAYOUTS`.
        keys: Names of the weight and the bias of every layer, input side first; "" for no bias.
    """

    name: str
    keys: tuple[tuple[str, str], ...]

    @property
    def layout(self) -> Layout:
        """The layout's row in the table."""
        return LAYOUTS[self.name]

    def layers(self, tensors: Mapping[str, Tensor]) -> Layers:
        """Weights (out, in) and biases, after a check of all shapes."""
        turned = self.layout.weight == "kernel"
        return [
            (tensors[weight].T if turned else tensors[weight], tensors[bias] if bias else None)
            for weight, bias in self.keys
        ]


# Tensors that programs store beside the layers and that can be ignored.
_BESIDE = re.compile(r"(^|[./])(grid|coords|coordinates|omega_0|w0|num_batches_tracked)$")


def find(tensors: Mapping[str, Any], name: str = "auto") -> Found:
    """Finds the layers of a SIREN among the tensors of a file or a module.

    Args:
        tensors: Name -> tensor, or anything with a shape.
        name: A layout in `LAYOUTS`, or "auto" for the first that fits.

    Raises:
        InputError: the layout is unknown, a key belongs to no layer, a layer is missing, or a shape
            does not fit; the message names the key.
    """
    if name != "auto" and name not in LAYOUTS:
        raise unknown_name("layout", name, ["auto", *LAYOUTS])
    keys = [key for key in tensors if not _BESIDE.search(key)]
    names = LAYOUTS if name == "auto" else [name]
    tried = {known: _match(LAYOUTS[known], keys) for known in names}
    fitting = [k for k, match in tried.items() if match.fits and _has(tensors, LAYOUTS[k].needs)]
    if not fitting:
        raise InputError(_nothing_fits(keys, tried, name))
    found = Found(fitting[0], tried[fitting[0]].pairs)
    check_shapes(found, tensors)
    return found


def _has(tensors: Collection[str], needed: str) -> bool:
    return not needed or needed in tensors


@dataclass(frozen=True)
class _Match:
    """The keys of a file, matched with one layout.

    Attributes:
        pairs: Names of the weight and the bias of each layer, in order.
        left: Keys that belong to no layer.
        end: The last layer's weight, if the layout cannot end with it.
        missing: A layer whose index is skipped, if the layout numbers all of them.
    """

    pairs: tuple[tuple[str, str], ...]
    left: tuple[str, ...]
    end: str = ""
    missing: str = ""

    @property
    def fits(self) -> bool:
        """Whether every key belongs to a layer, and there are at least two layers."""
        return len(self.pairs) > 1 and not (self.left or self.end or self.missing)


def _match(layout: Layout, keys: list[str]) -> _Match:
    """Finds the layers of one layout, under any single prefix."""
    sine, last = (
        re.compile(
            r"(?P<prefix>(?:[^./]+[./])*?)"
            + re.escape(template).replace(r"\{i\}", r"(?P<i>\d{1,4})")
            + rf"{re.escape(layout.joint)}(?P<field>{layout.weight}|{layout.bias})"
        )
        for template in (layout.sine, layout.last)
    )
    rows: dict[tuple[str, float], dict[str, str]] = {}  # (prefix, place) -> field -> key
    left = []
    for key in keys:
        match = last.fullmatch(key) or sine.fullmatch(key)
        if match is None:
            left.append(key)
            continue
        place = float(match.groupdict().get("i") or inf)  # without an index: the last
        rows.setdefault((match["prefix"], place), {})[match["field"]] = key
    first_prefix = min((prefix for prefix, _ in rows), key=len, default="")
    pairs = []
    for (prefix, _), row in sorted(rows.items(), key=lambda item: item[0][1]):
        if prefix == first_prefix and layout.weight in row:
            pairs.append((row[layout.weight], row.get(layout.bias, "")))
        else:
            left += row.values()
    if layout.sine != layout.last:
        left += [weight for weight, _ in pairs[:-1] if not sine.fullmatch(weight)]
    end = pairs[-1][0] if pairs and not last.fullmatch(pairs[-1][0]) else ""
    places = sorted(place for _, place in rows)
    numbered = places if layout.sine == layout.last else places[:-1]
    return _Match(tuple(pairs), tuple(left), end, _skipped(layout, numbered))


def _skipped(layout: Layout, places: list[float]) -> str:
    """The first layer that is missing between two others; "" if none is."""
    if layout.step > 1 or not places or places[-1] == inf:
        return ""
    gaps = (i for i in range(int(places[0]), int(places[-1])) if i not in places)
    return next((layout.sine.format(i=i) for i in gaps), "")


def _nothing_fits(keys: list[str], tried: Mapping[str, _Match], name: str) -> str:
    """The error message: what does not fit the nearest layout."""
    if not keys:
        return f"holds no tensors of a SIREN; see {ABOUT}"
    nearest = min(tried, key=lambda known: len(tried[known].left) - len(tried[known].pairs))
    layout, match = LAYOUTS[nearest], tried[nearest]
    (sine, _), (last, _) = layout.keys(2)[1:]
    if match.left:
        why = f"{match.left[0][:80]!r} is not a layer of the layout {nearest!r}"
        why += f" ({sine}, ..., {last})"
    elif match.end:
        why = f"{match.end!r} cannot end the layout {nearest!r}, whose linear layer is {last}"
    elif match.missing:
        why = f"{match.missing!r} is missing for the layout {nearest!r}"
    elif len(match.pairs) < 2:
        why = f"{keys[0][:80]!r} is the only layer; a SIREN has at least two"
    else:
        why = f"{layout.needs!r} is missing for the layout {nearest!r}"
    known = "" if name != "auto" else f"; known layouts: {', '.join(LAYOUTS)}"
    return f"{why}{known}; see {ABOUT}"


def check_shapes(found: Found, tensors: Mapping[str, Any]) -> None:
    """Refuses layers that do not form a chain of one width.

    Raises:
        InputError: they do not; the message names the key and its shape.
    """
    turned = found.layout.weight == "kernel"
    fan_in = width = 0
    for i, (weight_key, bias_key) in enumerate(found.keys):
        shape = tuple(tensors[weight_key].shape)
        if len(shape) != 2 or not all(0 < side <= MAX_WIDTH for side in shape):
            raise InputError(f"{weight_key} has shape {shape}: expected a matrix; see {ABOUT}")
        out, into = shape[::-1] if turned else shape
        if i and into != fan_in:
            raise InputError(
                f"{weight_key} has shape {shape}: expected {fan_in} inputs, the outputs of the"
                " layer before"
            )
        if 0 < i < len(found.keys) - 1 and out != width:
            raise InputError(
                f"{weight_key} has shape {shape}: all sine layers must have {width} units"
            )
        fan_in, width = out, out if i == 0 else width
        if bias_key and tuple(tensors[bias_key].shape) != (out,):
            found_shape = tuple(tensors[bias_key].shape)
            raise InputError(f"{bias_key} has shape {found_shape}, expected ({out},)")
    if len(found.keys) - 1 > MAX_DEPTH:
        raise InputError(f"{len(found.keys) - 1} sine layers are more than {MAX_DEPTH}")


def check_signal(found: Found, layers: Layers) -> None:
    """Refuses inputs other than 1 to 3 coordinates: of sound, of a pixel or of a volume.

    Raises:
        InputError: there are others; the message names the key and its shape.
    """
    first, _ = layers[0]
    if not 1 <= first.shape[1] <= MAX_DIMS:
        key, shape = found.keys[0][0], tuple(first.shape)
        raise InputError(f"{key} has shape {shape}: expected 1 to {MAX_DIMS} coordinates as inputs")


def size_of_grid(tensors: Mapping[str, Tensor]) -> Size | None:
    """Height and width from siren-pytorch's buffer of coordinates (H * W, 2), y before x."""
    for key, grid in tensors.items():
        if key.split(".")[-1] == "grid" and grid.ndim == 2 and grid.shape[1] == 2 and len(grid):
            width = int((grid[:, 0] == grid[0, 0]).sum())
            if len(grid) % width == 0:
                return len(grid) // width, width
    return None
