"""SIREN: coordinates -> colours. What the network is, apart from how it is initialised or fitted.

`Params` is the currency of the package: a hand-designed init, a learned init and a hypernetwork
all end as `Params`, so a fit cannot tell them apart.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from hyperinit.base.arguments import MAX_DEPTH, MAX_WIDTH, check_positive
from hyperinit.base.errors import InputError, check_memory
from hyperinit.base.settings import as_recorded
from hyperinit.images.coords import COORD_STD, is_image, pixel_coords, rgb_to_image
from hyperinit.images.pixels import MAX_PIXELS, whole_sides
from hyperinit.siren.ambient import own_products
from hyperinit.siren.device import Linear, onednn_linear
from hyperinit.siren.sine import sin_

# Like MAX_WIDTH and MAX_DEPTH, far more than anyone fits: a file or a typing error that asks for
# more is refused before the sizes of its layers are even listed.
MAX_INPUTS = 16
MAX_NUMBERS = 2**31  # of all layers: 8 GB


@dataclass(frozen=True)
class SirenConfig:
    """A SIREN of `depth` sine layers sin(omega_0 (W x + b)) and one linear layer (SIREN sec. 3.1).

    Attributes:
        width: Units of each sine layer.
        depth: Number of sine layers; the paper's and the seed's "5 x 256" is depth 5, width 256.
        omega_0: Frequency of every sine layer.
        unit_std_coords: Divide coordinates by their std `COORD_STD` first (seed rows 14 to 38).
        bias: Whether sine layers have a bias (seed row 20 has none); the linear layer always has.
        in_features: Number of coordinates: 2 for images, 1 for sound, 3 for volumes.
        out_features: Number of values at each point: 3 for colours. `render` and hypernetworks
            need 2 coordinates and 3 colours; fits take other signals too.
    """

    width: int = 256
    depth: int = 5
    omega_0: float = 30.0
    unit_std_coords: bool = False
    bias: bool = True
    in_features: int = 2
    out_features: int = 3

    def __post_init__(self) -> None:
        limits = {"width": MAX_WIDTH, "depth": MAX_DEPTH, "in_features": MAX_INPUTS}
        for field, most in {**limits, "out_features": MAX_WIDTH}.items():
            value: Any = getattr(self, field)
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise InputError(f"siren {field} must be a whole number, not {value!r}")
            if not 1 <= int(value) <= most:
                raise InputError(f"siren {field} must be 1 to {most}, not {value}")
            object.__setattr__(self, field, int(value))  # JSON cannot hold numpy's
        if self.weights > MAX_NUMBERS:
            raise InputError(
                f"a siren of {self.depth} x {self.width} has {self.weights:.1e} numbers, more than"
                f" {MAX_NUMBERS:.1e}; take a smaller width or depth"
            )
        omega_0 = check_positive("siren omega_0", self.omega_0)
        if type(self.omega_0) is not int:
            object.__setattr__(self, "omega_0", omega_0)

    @property
    def weights(self) -> int:
        """The number of weights, without biases."""
        ends = self.width * (self.in_features + self.out_features)
        return ends + (self.depth - 1) * self.width**2

    @property
    def facts(self) -> dict[str, Any]:
        """The config as files and records store it, JSON-able; image defaults are left out."""
        return as_recorded(self, ["in_features", "out_features"])

    @property
    def is_image(self) -> bool:
        """Whether it maps two coordinates to three colours."""
        return is_image(self.in_features, self.out_features)

    def check_image(self) -> None:
        """Refuses a network that does not show an image.

        Raises:
            InputError: it does not have two coordinates in and three colours out.
        """
        if not self.is_image:
            raise InputError(
                f"an image needs a SIREN from 2 coordinates to 3 colours, not from"
                f" {self.in_features} to {self.out_features}"
            )


def param_shapes(config: SirenConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, input side first: `layers.<i>.weight` is (out, in)."""
    sizes = [config.in_features, *[config.width] * config.depth, config.out_features]
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        shapes[f"layers.{i}.weight"] = (fan_out, fan_in)
        if config.bias or i == config.depth:
            shapes[f"layers.{i}.bias"] = (fan_out,)
    return shapes


@dataclass(frozen=True, eq=False)
class Params(Mapping[str, Tensor]):
    """Weights and biases of one SIREN, or of B SIRENs stacked in a leading dimension.

    Attributes:
        config: The network these tensors are for.
        tensors: Name -> tensor, exactly the names and shapes of `param_shapes(config)`, all with
            or all without a leading B.

    Raises:
        InputError: a name is missing or unknown, or a shape is wrong.
    """

    config: SirenConfig
    tensors: dict[str, Tensor]

    def __post_init__(self) -> None:
        shapes = param_shapes(self.config)
        for name in (*shapes, *self.tensors):
            if name not in shapes or name not in self.tensors:
                state = "missing from" if name in shapes else "not a parameter of"
                raise InputError(f"{name} is {state} a SIREN with {self.config}")
        for name, value in self.tensors.items():
            if not isinstance(value, Tensor):
                raise InputError(f"{name} must be a tensor, not {type(value).__name__}")
        batch = self.batch_shape[:1]  # one leading dimension at most
        for name, shape in shapes.items():
            found = tuple(self.tensors[name].shape)
            if found != (*batch, *shape):
                raise InputError(f"{name} has shape {found}, expected {(*batch, *shape)}")
        # Always the same order, whatever order a file or a caller had.
        object.__setattr__(self, "tensors", {name: self.tensors[name] for name in shapes})

    # By identity: comparing tensors gives no single truth value.
    __eq__, __hash__ = object.__eq__, object.__hash__

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """() for one SIREN, (B,) for B of them."""
        return tuple(self.tensors["layers.0.weight"].shape[:-2])

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.tensors["layers.0.weight"].device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tensors."""
        return self.tensors["layers.0.weight"].dtype

    def layer(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Weight (..., out, in) and bias (..., out), or None, of a layer; 0 is the first."""
        return self.tensors[f"layers.{index}.weight"], self.tensors.get(f"layers.{index}.bias")

    def with_layer_scaled(self, index: int, factor: float | Tensor) -> Params:
        """A copy in which the weights, not the biases, of layer `index` are times a factor.

        If the factor is a tensor, it has one entry per input of the layer.
        """
        name = f"layers.{index}.weight"
        return Params(self.config, {**self.tensors, name: self.tensors[name] * factor})

    def map(self, function: Callable[[Tensor], Tensor]) -> Params:
        """The same network with `function` applied to every tensor."""
        return Params(self.config, {name: function(value) for name, value in self.items()})

    def unbatch(self) -> list[Params]:
        """B stacked SIRENs as a list of B single ones (views, no copies).

        Raises:
            InputError: this is a single SIREN.
        """
        if not self.batch_shape:
            raise InputError("these are Params of one SIREN; pass [params] if a list is expected")
        return [self.map(lambda value, i=i: value[i]) for i in range(self.batch_shape[0])]  # type: ignore[misc]


def check_params(params: Any, one_for: str = "") -> Params:
    """Refuses anything other than `Params`, and several SIRENs for what takes one (its name)."""
    if not isinstance(params, Params):
        own = ": give its .params" if isinstance(getattr(params, "params", None), Params) else ""
        raise InputError(f"params must be Params, not {type(params).__name__}{own}")
    if one_for and (batch := params.batch_shape):
        raise InputError(f"{one_for} takes one SIREN, not {batch[0]} (see unbatch, fit_many)")
    return params


def features(params: Params, coords: Tensor) -> Tensor:
    """The last sine layer's output (..., width), which `apply` combines into colours; see there."""
    return _run_layers(params, coords, params.config.depth)


def apply(
    params: Params,
    coords: Tensor,
    hidden_dtype: torch.dtype | None = None,
    sine: Callable[[Tensor], Tensor] = torch.sin,
) -> Tensor:
    """Evaluates one SIREN on many coordinates, or B SIRENs on B sets of coordinates.

    Args:
        params: One SIREN, or B stacked ones.
        coords: (..., 2) in [-1, 1] for one SIREN; (B, N, 2), or (N, 2) shared by all, for B.
        hidden_dtype: The dtype that the sine layers after the first compute in; None: that of
            `params`. The first layer sets the frequencies and the last one makes the colours, so
            both keep their precision.
        sine: The sine function to use, see sine.py.

    Returns:
        Normalised colours (..., 3), or (B, N, 3).
    """
    return _run_layers(params, coords, params.config.depth + 1, hidden_dtype, sine)


def _run_layers(
    params: Params,
    coords: Tensor,
    layers: int,
    hidden_dtype: torch.dtype | None = None,
    sine: Callable[[Tensor], Tensor] = torch.sin,
    linear: Linear = nn.functional.linear,
) -> Tensor:
    """The output of the first `layers` layers; `linear` computes the products of one SIREN."""
    config = params.config
    batched = bool(params.batch_shape)
    hidden = coords / COORD_STD if config.unit_std_coords else coords
    for i in range(layers):
        weight, bias = params.layer(i)
        if i < config.depth:
            # omega_0 (W x + b) = (omega_0 W) x + omega_0 b: scaling the few weights is cheaper
            # than scaling the activations of every pixel.
            weight = config.omega_0 * weight
            bias = None if bias is None else config.omega_0 * bias
        if hidden_dtype is not None and i > 0:
            dtype = hidden_dtype if i < config.depth else params.dtype
            hidden, weight = hidden.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        if batched and bias is not None:  # saves one pass over the activations
            hidden = hidden.expand(len(weight), -1, -1)
            hidden = torch.baddbmm(bias.unsqueeze(-2), hidden, weight.transpose(-1, -2))
        elif batched:
            hidden = torch.matmul(hidden, weight.transpose(-1, -2))  # (B, N, out)
        else:
            hidden = linear(hidden, weight, bias)
        if i < config.depth:
            hidden = sine(hidden)
    return hidden


class Layer(nn.Module):
    """The weight and the bias (or None) of one layer; `apply` does the arithmetic."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())


class Siren(nn.Module):
    """The same network as `apply`, as a module: its parameters are the entries of `Params`.

    Args:
        params: One SIREN; copied, so that training the module does not change it. To store what
            was trained, use `save_params` and `.params`: a state dict does not say omega_0.
    """

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.config = check_params(params, "Siren").config
        self.layers = nn.ModuleList(Layer(*params.layer(i)) for i in range(self.config.depth + 1))

    @classmethod
    def from_params(cls, params: Params) -> Siren:
        """A trainable module that starts at `params`."""
        return cls(params)

    @property
    def params(self) -> Params:
        """The module's parameters (live, not copied)."""
        # Read as attributes, not through named_parameters(), so that libraries which swap the
        # attributes of a module (higher) see their own tensors used.
        tensors = {}
        for name in param_shapes(self.config):
            _, layer, field = name.split(".")
            tensors[name] = getattr(self.layers[int(layer)], field)
        return Params(self.config, tensors)

    def forward(self, coords: Tensor) -> Tensor:
        """(..., 2) coordinates in [-1, 1] -> (..., 3) normalised colours."""
        return apply(self.params, coords)


# Pixels evaluated at a time by all SIRENs together, to bound memory; small chunks suit CPU caches.
CHUNK_PIXELS = {"cpu": 1024}
OTHER_CHUNK_PIXELS = 65536
ONEDNN_WIDTH = 128  # from this width on oneDNN's products are faster, if they are at all


def predict(params: Params, coords: Tensor, chunk_pixels: int | None = None) -> Tensor:
    """`apply` to coordinates (N, 2) without gradients, at most `chunk_pixels` at a time.

    By default, chunks suit the device. Computes in the precision of the parameters, even inside
    torch.autocast, but at least in float32: with less, neighbouring pixels would have the same
    coordinates.
    """
    wide = torch.promote_types(params.dtype, torch.float32)
    params = params if params.dtype == wide else params.map(lambda value: value.to(wide))
    suits = params.dtype == torch.float32 and coords.device.type == "cpu"
    faster = onednn_linear() if suits and params.config.width >= ONEDNN_WIDTH else None
    if faster is not None and params.batch_shape:  # it takes one SIREN after the other
        return torch.stack([predict(one, coords, chunk_pixels) for one in params.unbatch()])
    layers, linear = params.config.depth + 1, faster or nn.functional.linear
    if chunk_pixels is None:
        chunk_pixels = _chunk_pixels(params, coords.device)
    with torch.no_grad(), torch.autocast(coords.device.type, enabled=False), own_products():
        parts = (part.to(params.dtype) for part in coords.split(chunk_pixels))
        run = functools.partial(_run_layers, params, sine=sin_, linear=linear)
        return torch.cat([run(part, layers) for part in parts], dim=-2)


def _chunk_pixels(params: Params, device: torch.device) -> int:
    together = CHUNK_PIXELS.get(device.type, OTHER_CHUNK_PIXELS)
    return max(together // max(math.prod(params.batch_shape), 1), 1)


def render(
    params: Params,
    height: int,
    width: int,
    *,
    on_drawn: Callable[[int], object] = lambda count: None,
) -> Tensor:
    """The image of one SIREN at any size: (3, height, width) in [0, 1].

    Pixels are drawn in chunks, so apart from the image itself memory does not grow with its size.
    After every chunk, `on_drawn` gets the number of its pixels.

    Raises:
        InputError: a side is below 1, there are more than `MAX_PIXELS`, or this is not a SIREN of
            an image.
    """
    check_params(params).config.check_image()
    height, width = whole_sides((height, width))
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        most = f"at least 1 x 1 and at most {MAX_PIXELS / 1e6:g} million pixels"
        raise InputError(f"an image to draw must have {most}, not {height} x {width}")
    device, pixels = params.device, height * width
    check_drawing(params, pixels, "a smaller --size")
    chunk = _chunk_pixels(params, device)
    colours = torch.empty(*params.batch_shape, 3, pixels, device=device, dtype=params.dtype)
    for start in range(0, pixels, chunk):
        coords = pixel_coords(height, width, device, range(start, min(start + chunk, pixels)))
        drawn = rgb_to_image(predict(params, coords, chunk), len(coords), 1)
        colours[..., start : start + chunk] = drawn.squeeze(-1)
        on_drawn(len(coords))
    return colours.reshape(*params.batch_shape, 3, height, width)


def check_drawing(params: Params, count: int, smaller: str) -> None:
    """Refuses to draw `count` samples of whole numbers, or if there is not enough memory.

    Raises:
        InputError: see above; the message says what would be right.
    """
    for name, value in params.items():
        if not value.is_floating_point():
            raise InputError(f"{name} must be floating-point numbers, not {value.dtype}")
    siren = params.config
    if params.device.type == "cpu":
        chunk = min(count, CHUNK_PIXELS["cpu"])
        numbers = siren.out_features * count * math.prod(params.batch_shape)
        what = f"drawing {count} samples of a SIREN of {siren.depth} x {siren.width}"
        check_memory(4.0 * (numbers + chunk * siren.width), what, f"take {smaller}")
