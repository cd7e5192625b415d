"""The conventions of other programs, folded into the weights and out again.

The frequency of a sine, the positions of pixels and the meaning of colours differ by affine maps,
so one network can be converted to the other exactly: the first layer absorbs a change of
coordinates, every sine layer one of omega_0, the last layer one of colours. Sums are in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.errors import InputError, unknown_name
from hyperinit.images.coords import COORD_STD, RGB_MEAN, RGB_STD
from hyperinit.siren.network import Params, SirenConfig, param_shapes

Size = tuple[int, int]  # height and width in pixels
Layers = Sequence[
    tuple[Tensor, Tensor | None]
]  # weight (out, in) and bias (out,), input side first
Axis = tuple[float, float]  # (a, b): theirs = a * ours + b, along one axis

MAX_OMEGA = 1e6


def _corners(height: int, width: int) -> tuple[Axis, Axis]:
    return (width / (width - 1), 0.0), (height / (height - 1), 0.0)


def _coin(height: int, width: int) -> tuple[Axis, Axis]:
    # Both axes are divided by height - 1, so only a square image ends at 1.
    rows = height - 1
    return (width / rows, (width - 1) / rows - 1), (height / rows, 0.0)


def _half(axes: tuple[Axis, Axis]) -> tuple[Axis, Axis]:
    (a, b), (c, d) = axes
    return (a / 2, (b + 1) / 2), (c / 2, (d + 1) / 2)


# Name -> (height, width) -> the maps from our x and y to theirs. Ours are the centres of pixels, in
# the interval [-1, 1] from border to border.
GRIDS: dict[str, Callable[[int, int], tuple[Axis, Axis]]] = {
    "centres": lambda height, width: ((1.0, 0.0), (1.0, 0.0)),
    "corners": _corners,
    "centres01": lambda height, width: _half(((1.0, 0.0), (1.0, 0.0))),
    "corners01": lambda height, width: _half(_corners(height, width)),
    "coin": _coin,
}
SIZELESS = ("centres", "centres01")  # grids that are the same for every image

# Name -> (std, mean) for R, G, B: a colour in [0, 1] is theirs * std + mean.
COLOURS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "unit": ((1.0,) * 3, (0.0,) * 3),
    "signed": ((0.5,) * 3, (0.5,) * 3),
    "imagenet": (RGB_STD, RGB_MEAN),
}
# Outputs that are not colours but the values of a signal; they are left as they are.
VALUES = "values"
ORDERS = ("xy", "yx")


@dataclass(frozen=True)
class Conventions:
    """The meaning of a program's numbers.

    Attributes:
        first_omega: omega_0 of the first sine layer, sin(omega_0 (W x + b)).
        hidden_omega: omega_0 of the other sine layers.
        order: Which coordinate comes first: "xy" (x to the right) or "yx" (y down).
        grid: The positions of pixels, a name in `GRIDS`: "corners" is linspace(-1, 1, W), "centres"
            has the image's borders at -1 and 1; "corners01" and "centres01" are these in [0, 1];
            "coin" divides both axes by H - 1.
        colours: The meaning of the outputs, a name in `COLOURS`: "unit" is [0, 1], "signed"
            [-1, 1], "imagenet" normalised by the ImageNet statistics; or "values" for a signal.

    Raises:
        InputError: a name is unknown, or an omega_0 is not a positive number.
    """

    first_omega: float = 30.0
    hidden_omega: float = 30.0
    order: str = "yx"
    grid: str = "corners"
    colours: str = "unit"

    def __post_init__(self) -> None:
        for field in ("first_omega", "hidden_omega"):
            value = getattr(self, field)
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not 0 < value <= MAX_OMEGA:
                raise InputError(
                    f"{field} must be a positive number of at most {MAX_OMEGA:g}, not {value!r}"
                )
        tables: dict[str, Any] = {"order": ORDERS, "grid": GRIDS, "colours": [*COLOURS, VALUES]}
        for field, known in tables.items():
            if getattr(self, field) not in known:
                raise unknown_name(field, str(getattr(self, field)), known)

    def but(self, **changes: Any) -> Conventions:
        """These conventions with some changes; None leaves a field as it is.

        Raises:
            InputError: a field is unknown; or as the constructor.
        """
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                raise unknown_name("convention", name, known)
        return replace(self, **{name: v for name, v in changes.items() if v is not None})

    def axes(self, size: Size | None) -> tuple[Axis, Axis]:
        """The maps from our x and y to theirs, for images of this height and width in pixels.

        Raises:
            InputError: the grid depends on the size, which is missing or too small.
        """
        if size is None and self.grid not in SIZELESS:
            raise InputError(
                f"the grid {self.grid!r} depends on the image; give its height and width as size,"
                " or grid='centres'"
            )
        height, width = size or (2, 2)
        if self.grid not in SIZELESS and min(height, width) < 2:
            raise InputError(f"the grid {self.grid!r} needs at least 2 x 2 pixels, not {size}")
        return GRIDS[self.grid](height, width)


USUAL = Conventions()
OURS = Conventions(order="xy", grid="centres", colours="imagenet")


def to_params(layers: Layers, theirs: Conventions, size: Size | None = None) -> Params:
    """Linear layers of another program -> the SIREN of ours that shows the same.

    Args:
        layers: From 2 coordinates through sine layers of one width to 3 colours, or to 1, a grey
            that becomes all three; the last layer is linear. The caller checks the shapes. For
            another signal (see `shows_colours`) the outputs are left as they are, and so are the
            coordinates if there are not two.
        theirs: The meaning of their numbers.
        size: Height and width of the image, for grids that depend on it.

    Returns:
        Float32 on the CPU; omega_0 is that of their first layer.
    """
    weights = [weight.detach().cpu().double() for weight, _ in layers]
    biases = [None if bias is None else bias.detach().cpu().double() for _, bias in layers]
    shift = torch.zeros((), dtype=torch.float64)
    if weights[0].shape[1] == 2:  # other coordinates than those of pixels stay as they are
        (ax, bx), (ay, by) = theirs.axes(size)
        columns = [0, 1] if theirs.order == "xy" else [1, 0]
        first = weights[0][:, columns]  # of x, then of y
        shift = first @ torch.tensor([bx, by], dtype=torch.float64)
        weights[0] = first * torch.tensor([ax, ay], dtype=torch.float64)
    if biases[0] is not None or bool(shift.any()):
        biases[0] = shift + (0.0 if biases[0] is None else biases[0])
    ratio = theirs.hidden_omega / theirs.first_omega
    for i in range(1, len(layers) - 1):
        weights[i], biases[i] = _scaled(weights[i], biases[i], ratio)
    if shows_colours(layers, theirs):
        weights[-1], biases[-1] = _last_layer(weights[-1], biases[-1], theirs.colours, "imagenet")
    return _as_params(weights, biases, theirs.first_omega)


def shows_colours(layers: Layers, theirs: Conventions) -> bool:
    """Whether the layers show a picture: from two coordinates to 3 colours, or to 1, a grey."""
    is_picture = layers[0][0].shape[1] == 2 and len(layers[-1][0]) in (1, 3)
    return is_picture and theirs.colours != VALUES


def from_params(params: Params, theirs: Conventions, size: Size | None = None) -> Layers:
    """The inverse of `to_params`: one SIREN -> linear layers of another program.

    Returns:
        Weights and biases in float32 on the CPU. If there are not 2 coordinates, or not 3 outputs,
        these are not an image's and are left as they are.

    Raises:
        InputError: a value is not finite, or not in float32 under these conventions; or as
            `Conventions.axes`.
    """
    config = params.config
    layers = [params.layer(i) for i in range(config.depth + 1)]
    weights = [weight.detach().cpu().double() for weight, _ in layers]
    biases = [None if bias is None else bias.detach().cpu().double() for _, bias in layers]
    first, shift = weights[0] / (COORD_STD if config.unit_std_coords else 1.0), torch.zeros(())
    if config.in_features == 2:  # other coordinates than those of pixels stay as they are
        (ax, bx), (ay, by) = theirs.axes(size)
        first = first / torch.tensor([ax, ay], dtype=torch.float64)
        shift = first @ torch.tensor([bx, by], dtype=torch.float64)
        first = first if theirs.order == "xy" else first[:, [1, 0]]
    weights[0] = first
    if biases[0] is not None or bool(shift.any()):
        biases[0] = (0.0 if biases[0] is None else biases[0]) - shift
    for i in range(config.depth):
        ratio = config.omega_0 / (theirs.first_omega if i == 0 else theirs.hidden_omega)
        weights[i], biases[i] = _scaled(weights[i], biases[i], ratio)
    if config.is_image and theirs.colours != VALUES:
        weights[-1], biases[-1] = _last_layer(weights[-1], biases[-1], "imagenet", theirs.colours)
    layers = [
        (weight.float(), None if bias is None else bias.float())
        for weight, bias in zip(weights, biases, strict=True)
    ]
    for i, pair in enumerate(layers):
        if not all(value is None or bool(value.isfinite().all()) for value in pair):
            raise InputError(f"layers.{i} has values that are not finite, or too large for float32")
    return layers


def _scaled(weight: Tensor, bias: Tensor | None, factor: float) -> tuple[Tensor, Tensor | None]:
    return weight * factor, None if bias is None else bias * factor


def _last_layer(weight: Tensor, bias: Tensor | None, have: str, want: str) -> tuple[Tensor, Tensor]:
    """The last layer, converted to another kind of colours: (3, in) and (3,)."""
    if len(weight) == 1:
        weight, bias = weight.repeat(3, 1), None if bias is None else bias.repeat(3)
    bias = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias
    if have == want:
        return weight, bias
    (std, mean), (new_std, new_mean) = (
        torch.tensor(COLOURS[name], dtype=torch.float64) for name in (have, want)
    )
    factor = std / new_std
    return weight * factor[:, None], bias * factor + (mean - new_mean) / new_std


def _as_params(weights: list[Tensor], biases: list[Tensor | None], omega_0: float) -> Params:
    """Float64 layers -> float32 `Params`; if one sine layer has a bias, all get one."""
    depth = len(weights) - 1
    has_bias = any(bias is not None for bias in biases[:-1])
    config = SirenConfig(
        len(weights[0]),
        depth,
        float(omega_0),
        bias=has_bias,
        in_features=weights[0].shape[1],
        out_features=len(weights[-1]),
    )
    tensors = {}
    for name, shape in param_shapes(config).items():
        _, index, field = name.split(".")
        value = weights[int(index)] if field == "weight" else biases[int(index)]
        tensors[name] = torch.zeros(shape) if value is None else value.float()
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise InputError(f"{name} has values that are not finite, or too large for float32")
    return Params(config, tensors)


def check_size(size: Any) -> Size | None:
    """Checks a (height, width) in pixels, or None.

    Raises:
        InputError: it is something else.
    """
    if size is None:
        return None
    if (
        not isinstance(size, (tuple, list))
        or len(size) != 2
        or not all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) > 0 for n in size)
    ):
        raise InputError(f"size must be (height, width) in pixels, not {size!r}")
    return int(size[0]), int(size[1])
