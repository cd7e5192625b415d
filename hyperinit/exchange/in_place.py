"""Our inits for the network modules of other programs, in place."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hyperinit.base.arguments import check_seed
from hyperinit.base.errors import InputError, check_memory
from hyperinit.exchange.conventions import Conventions, Layers, Size, check_size, from_params
from hyperinit.exchange.layouts import Found, find, size_of_grid
from hyperinit.hypernet.pretrained import PRETRAINED, hyper_for, load_pretrained
from hyperinit.hypernet.untrained import STEPPED
from hyperinit.images.decode import ImageSource, to_image
from hyperinit.inits.rules import InitSpec, named_init, sample_params
from hyperinit.inits.start import Init
from hyperinit.siren.ambient import with_own_settings
from hyperinit.siren.network import Params, Siren

Net = TypeVar("Net", bound=nn.Module)

# Names of omega_0 in other programs, on a layer, on its activation or on their parent module.
_OMEGA_NAMES = ("w0", "omega_0", "omega0", "omega", "w_0")

# Modules after the last layer that do not change its outputs.
_LINEAR_ENDS = (nn.Identity, nn.Dropout)

# None of torch's activations is a sine, so any of them shows that a network is not a SIREN.
_OTHERS = tuple(getattr(nn.modules.activation, name) for name in nn.modules.activation.__all__)


@with_own_settings
def init_(  # more than 60 lines: its docstring is long
    net: Net,
    image: ImageSource | None = None,
    init: str | InitSpec | Params | Init | Any = "waves",
    *,
    seed: int = 0,
    layout: str = "auto",
    size: Size | None = None,
    **conventions: Any,
) -> Net:
    """Initialises another program's SIREN in place: `hyperinit.init_(net)`.

    It gets the weights of one of our inits, with its omega_0, coordinates and colours folded in, so
    that it starts like a SIREN of ours.

    Args:
        net: siren-pytorch's SirenNet, alone or in a wrapper, the SIREN authors' or COIN's network,
            or any module whose layers a layout of docs/siren-files.md recognises. A hand-designed
            init takes up to 16 inputs and any number of outputs.
        image: (3, H, W) in [0, 1], a path or anything else that `to_image` accepts; needed by inits
            that look at it.
        init: A hand-designed init by name ("waves", "33", "33@0.5") or as an InitSpec;
            "waves-steps", the name of a pretrained hypernetwork, or "hyper", the best of these for
            this width and depth; a HyperNetwork, an `Init` or `Params`.
        seed: Seed of the draw.
        layout: As in `read_siren`.
        size: (height, width) in pixels of the grid; by default the image's.
        **conventions: As in `read_siren`; omega_0 is read from the modules if they have it. A
            network that ends in a sigmoid or another function keeps our last layer as drawn.

    Returns:
        The network, on its device and in its precision.

    Raises:
        InputError: a layer does not fit (the message names it), an activation is not a sine, the
            init is for another width, depth, or number of inputs or outputs, an image is missing,
            or the seed is not a 64-bit integer. Then nothing has been changed.
    """
    if not isinstance(net, nn.Module):
        raise InputError(f"init_ takes a module, not {type(net).__name__}")
    seed = check_seed(seed)
    if any(isinstance(module, Siren) for module in net.modules()):
        raise InputError("a Siren of ours has our conventions: make it from Params, Siren(params)")
    state = net.state_dict()
    found = find(state, layout)
    numbers = sum(state[key].numel() for pair in found.keys for key in pair if key)
    check_memory(8.0 * numbers, f"an init of {numbers} weights", "take a smaller network")
    picture = None if image is None else to_image(image)
    grid = check_size(size) or size_of_grid(state)
    if picture is not None:
        grid = grid or (picture.shape[-2], picture.shape[-1])
    theirs = conventions_of(net, found, state).but(**conventions)
    if grid is None and not isinstance(init, Params):
        # For a random draw, a shift within a pixel does not matter.
        theirs = theirs.but(grid="centres01" if theirs.grid.endswith("01") else "centres")
    params = _params_for(found, state, init, picture, seed)
    if "colours" not in conventions and not found.keys[-1][1]:
        theirs = theirs.but(colours="imagenet")  # without a bias the mean cannot be shifted
    values = _placed(found, from_params(params, theirs, grid), state)
    # A network that was made in inference mode can only be changed in inference mode.
    inference = any(state[key].is_inference() for key in values)
    with torch.inference_mode() if inference else torch.no_grad():
        for key, value in values.items():
            state[key].copy_(value)  # a state dict shares the module's memory
    return net


def _placed(found: Found, layers: Layers, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Layers under the network's parameter names.

    Raises:
        InputError: a layer without a bias would need one.
    """
    values: dict[str, Tensor] = {}
    for keys, pair in zip(found.keys, layers, strict=True):
        turned = pair[0].T if found.layout.weight == "kernel" else pair[0]
        for key, value in zip(keys, (turned, pair[1]), strict=True):
            if key and value is None:
                value = torch.zeros_like(state[key])
            if key:
                values[key] = value  # type: ignore[assignment]
            elif value is not None and keys != found.keys[-1] and bool(value.any()):
                raise InputError(f"{keys[0]} has no bias, and these conventions need one")
    return values


def _params_for(
    found: Found, state: dict[str, Tensor], init: Any, image: Tensor | None, seed: int
) -> Params:
    """The init for a network of these sizes."""
    weights = [pair[0] for pair in found.layers(state)]
    width, into = weights[0].shape
    depth, out = len(weights) - 1, weights[-1].shape[0]
    bias = any(bias for _, bias in found.keys[:-1])
    if init == "hyper":
        init = hyper_for(width, depth)
    if isinstance(init, str) and init in STEPPED:
        init = STEPPED[init](init, width, depth)
    elif isinstance(init, str) and init in PRETRAINED:
        init = load_pretrained(init)
    if isinstance(init, str):
        init = named_init(init)
    if isinstance(init, InitSpec):
        config = init.siren_config(width, depth, into, out)
        if config.bias != bias:
            config = type(config)(
                width, depth, config.omega_0, config.unit_std_coords, bias, into, out
            )
        return sample_params(init, config, generator=torch.Generator().manual_seed(seed))
    looks = not isinstance(init, (Params, type)) and callable(getattr(init, "start", None))
    if looks and image is None:
        raise InputError("this init looks at the image; call init_(net, image, ...)")
    if looks:
        made = init.start(image, seed)
        init = getattr(made, "params", made)
    if not isinstance(init, Params) or init.batch_shape:
        raise InputError(f"init must be a name, an InitSpec, an Init or Params, not {init!r:.80}")
    config = init.config
    have = (config.in_features, config.width, config.depth, config.out_features)
    if have != (into, width, depth, out):
        raise InputError(
            f"the init is for {have[0]} inputs, {have[2]} x {have[1]} units and {have[3]} outputs,"
            f" but the network has {into}, {depth} x {width} and {out}"
        )
    return init.map(lambda value: value.detach().cpu())


def conventions_of(net: nn.Module, found: Found, state: dict[str, Tensor]) -> Conventions:
    """The conventions of a layout, with those that can be read from the modules.

    Raises:
        InputError: hidden layers have different omega_0, or an activation that is not a sine.
    """
    theirs = found.layout.conventions
    paths = [weight.rpartition(".")[0] for weight, _ in found.keys]
    for path in paths[:-1]:
        for module in _around(net, path):
            if isinstance(module, _OTHERS):
                raise InputError(f"{path} has a {type(module).__name__}, so this is not a SIREN")
    omegas = [_omega_of(net, path) for path in paths[:-1]]
    hidden = {omega for omega in omegas[1:] if omega is not None}
    if len(hidden) > 1:
        raise InputError(f"{paths[1]} and later layers have several omega_0: {sorted(hidden)}")
    theirs = theirs.but(first_omega=omegas[0], hidden_omega=next(iter(hidden), None))
    ends = list(_around(net, paths[-1]))
    plain = all(isinstance(module, _LINEAR_ENDS) for module in ends)
    return theirs if plain else theirs.but(colours="imagenet")


def _around(net: nn.Module, path: str) -> Iterator[nn.Module]:
    """Candidates for a layer's activation: modules inside it, or the one that follows it."""
    layer = net.get_submodule(path)
    yield from layer.children()
    above, _, own = path.rpartition(".")
    names = [name for name, _ in net.get_submodule(above).named_children()]
    for name in names[names.index(own) + 1 :][:1]:
        yield net.get_submodule(f"{above}.{name}" if above else name)


def _omega_of(net: nn.Module, path: str) -> float | None:
    """omega_0 of a sine layer, if it, its activation or their parent module has it."""
    holder = net.get_submodule(path.rpartition(".")[0])
    for module in (net.get_submodule(path), *_around(net, path), holder):
        for name in _OMEGA_NAMES:
            value = getattr(module, name, None)
            if isinstance(value, Tensor) and value.numel() == 1:
                value = float(value)
            if isinstance(value, Real) and not isinstance(value, bool):
                return float(value)
    return None
