"""One SIREN -> a file for another program: one table of formats."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from hyperinit.base.errors import InputError, check_memory, unknown_name
from hyperinit.base.extras import need
from hyperinit.base.files import shown_path, write_atomically
from hyperinit.exchange.conventions import Conventions, Layers, Size, check_size, from_params
from hyperinit.exchange.glsl import page, shader
from hyperinit.exchange.layouts import LAYOUTS
from hyperinit.exchange.quantized import save_half, save_int8
from hyperinit.siren.ambient import plain, with_own_settings
from hyperinit.siren.network import Params, check_params
from hyperinit.siren.store import save_params

# For formats without conventions of their own: sin(W x + b) in every sine layer, x before y at the
# centres of pixels, colours in [0, 1].
PLAIN = Conventions(1.0, 1.0, "xy", "centres", "unit")


WEIGHT_BYTES = 12  # least memory that writing takes per weight; measured: 12 to 16

MAX_ONNX_BYTES = 2**31 - 2**20  # protobuf's limit, minus room for everything but the weights
OPSET = 13  # from 2020: every maintained runtime has it
IR_VERSION = 8


@dataclass(frozen=True)
class Job:
    """A file to write.

    Attributes:
        path: The file.
        params: One SIREN.
        size: Height and width of its image in pixels, if known.
        conventions: The user's changes of the format's conventions.
        info: Facts for our own formats.
    """

    path: Path
    params: Params
    size: Size | None = None
    conventions: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def layers(self, usual: Conventions) -> Layers:
        """Its layers under the format's conventions, with the user's changes.

        Only images have colours; the values of other signals are left as they are.
        """
        if not self.params.config.is_image:
            usual = usual.but(colours="imagenet")
        return from_params(self.params, usual.but(**self.conventions), self.size)


@dataclass(frozen=True)
class Format:
    """A kind of file that a SIREN can be written as.

    Attributes:
        about: A description in one line.
        suffixes: The suffixes of its files; the first is the usual one.
        write: Writes a job.
        own: Whether it is a format of ours, which takes no conventions.
    """

    about: str
    suffixes: tuple[str, ...]
    write: Callable[[Job], None]
    own: bool = False


def _write_own(save: Callable[..., None], job: Job) -> None:
    save(job.path, job.params, **job.info)


def _write_state_dict(name: str, job: Job) -> None:
    layout = LAYOUTS[name]
    usual, omega = layout.conventions, job.params.config.omega_0
    if layout.needs == "omega_0":
        usual = usual.but(first_omega=omega, hidden_omega=omega)
    told = usual.but(**job.conventions)
    tensors = layout.tensors(job.layers(usual))
    if layout.needs == "omega_0":
        if told.first_omega != told.hidden_omega:
            raise InputError(f"{name} has a single omega_0: hidden_omega must equal first_omega")
        tensors["omega_0"] = torch.tensor([float(told.first_omega)])
    write_atomically(job.path, _encoded(job.path.suffix.lower(), tensors))


def _encoded(suffix: str, tensors: dict[str, Tensor]) -> bytes:
    """A state dict as the content of a file."""
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    if suffix == ".safetensors":
        return save_safetensors(tensors)
    out = io.BytesIO()
    if suffix == ".npz":
        import numpy as np

        arrays: dict[str, Any] = {name: value.numpy() for name, value in tensors.items()}
        np.savez(out, **arrays)
    else:
        torch.save(tensors, out)
    return out.getvalue()


class _Exported(nn.Module):
    """The module for torch.export: coordinates (N, 2) -> colours (N, 3), or another signal's."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.net = nn.ModuleList()
        for weight, bias in layers:
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
            linear.load_state_dict(
                {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
            )
            self.net.append(linear)

    def forward(self, coords: Tensor) -> Tensor:
        hidden = coords
        for linear in self.net[:-1]:
            hidden = torch.sin(linear(hidden))
        rgb: Tensor = self.net[-1](hidden)
        return rgb


def _plain_layers(job: Job) -> Layers:
    if {"first_omega", "hidden_omega"} & set(job.conventions):
        raise InputError("this format has sin(W x + b) in every layer: omega_0 is in the weights")
    return job.layers(PLAIN)


def _write_torch_export(job: Job) -> None:
    module = _Exported(_plain_layers(job)).eval()
    points = torch.export.Dim("points", min=1)
    exported = torch.export.export(
        module,
        (torch.zeros(2, job.params.config.in_features),),
        dynamic_shapes={"coords": {0: points}},
    )
    out = io.BytesIO()
    torch.export.save(exported, out)
    write_atomically(job.path, out.getvalue())


def onnx_bytes(layers: Layers) -> bytes:
    """A model with one input, coords (points, 2), and one output, rgb (points, 3), float32.

    `points` is a free dimension. Opset 13: Gemm and Sin.

    Raises:
        InputError: the package `onnx` is not installed, or there are more weights than one file
            can hold.
    """
    need("export")
    size = 4 * sum(value.numel() for pair in layers for value in pair if value is not None)
    if size > MAX_ONNX_BYTES:
        raise InputError(
            f"an ONNX file holds at most {MAX_ONNX_BYTES / 1e9:.2g} GB, but this SIREN has"
            f" {size / 1e9:.3g} GB of weights; export a smaller one, or --to npz"
        )
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes, weights, hidden = [], [], "coords"
    for i, (weight, bias) in enumerate(layers):
        last = i == len(layers) - 1
        named = {f"layers.{i}.weight": weight, f"layers.{i}.bias": bias}
        inputs = [hidden, *(name for name, value in named.items() if value is not None)]
        weights += [
            numpy_helper.from_array(value.contiguous().numpy(), name)
            for name, value in named.items()
            if value is not None
        ]
        hidden = "rgb" if last else f"sum_{i}"
        nodes.append(helper.make_node("Gemm", inputs, [hidden], transB=1))
        if not last:
            nodes.append(helper.make_node("Sin", [hidden], [f"wave_{i}"]))
            hidden = f"wave_{i}"
    sides = (("coords", layers[0][0].shape[1]), ("rgb", layers[-1][0].shape[0]))
    coords, rgb = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["points", features])
        for name, features in sides
    )
    graph = helper.make_graph(nodes, "siren", [coords], [rgb], weights)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(
        graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="hyperinit"
    )
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _write_onnx(job: Job) -> None:
    write_atomically(job.path, onnx_bytes(_plain_layers(job)))


def _write_glsl(job: Job) -> None:
    if job.conventions:
        raise InputError("glsl takes no conventions; its shader draws the pixels itself")
    job.params.config.check_image()
    layers = from_params(job.params, PLAIN)
    text = page(layers, job.size) if job.path.suffix.lower() == ".html" else shader(layers)
    write_atomically(job.path, text.encode())


_STATE_DICTS = (".pt", ".pth", ".safetensors", ".npz")

FORMATS: dict[str, Format] = {
    "hyperinit": Format("our own", (".safetensors",), partial(_write_own, save_params), own=True),
    "fp16": Format(
        "our own, in half precision", (".safetensors",), partial(_write_own, save_half), own=True
    ),
    "int8": Format(
        "our own, with hidden layers' weights in 8 bits",
        (".safetensors",),
        partial(_write_own, save_int8),
        own=True,
    ),
    **{
        name: Format(
            layout.about,
            _STATE_DICTS if name not in ("npz", "jax") else (".npz",),
            partial(_write_state_dict, name),
        )
        for name, layout in LAYOUTS.items()
    },
    "onnx": Format("ONNX, for any number of coordinates", (".onnx",), _write_onnx),
    "torch-export": Format("a program of torch.export", (".pt2",), _write_torch_export),
    "glsl": Format(
        "a GLSL ES 3.00 fragment shader, alone or in a WebGL page",
        (".frag", ".glsl", ".html"),
        _write_glsl,
    ),
}


@with_own_settings
def write_siren(
    path: str | os.PathLike[str],
    params: Params,
    to: str,
    *,
    size: Size | None = None,
    info: Mapping[str, Any] | None = None,
    **conventions: Any,
) -> None:
    """Writes one SIREN in the format of another program.

    omega_0, coordinates and colours are converted to the format's conventions, see
    docs/siren-files.md. ONNX, torch.export, GLSL and Flax get sin(W x + b) in every sine layer, x
    before y at pixel centres in [-1, 1], and colours in [0, 1] that are not clipped.

    Args:
        path: The file; its suffix must be one of the format's. The write is atomic.
        params: One SIREN.
        to: A name in `FORMATS`: siren-pytorch, siren, notebook, coin, sequential, npz, jax, onnx,
            torch-export, glsl, fp16, int8 or hyperinit.
        size: (height, width) in pixels of its image, for grids that depend on it, and for the page
            of `glsl`.
        info: JSON-able facts for our own formats, written unchanged. Errors of the full SIREN
            (`psnr`, `mse`) are not true at fewer bits.
        **conventions: As in `read_siren`: changes of the format's conventions.

    Raises:
        InputError: a format, suffix or convention is unknown, there are several SIRENs, the size is
            needed and not given, the format cannot hold the numbers, or a package is missing.
    """
    path = Path(path)
    if to not in FORMATS:
        raise unknown_name("format", to, FORMATS)
    form = FORMATS[to]
    if path.suffix.lower() not in form.suffixes:
        raise InputError(f"{shown_path(path)}: {to} files end in {' or '.join(form.suffixes)}")
    check_params(params, "write_siren")
    told = {name: value for name, value in conventions.items() if value is not None}
    # The layers, the file's content, and a copy of it while it is made.
    what = f"a file of {params.config.weights} weights"
    check_memory(WEIGHT_BYTES * float(params.config.weights), what, "export a smaller SIREN")
    if form.own and told:
        raise InputError(f"{to} takes no conventions; it has our own")
    form.write(Job(path, params.map(plain), check_size(size), told, info or {}))
