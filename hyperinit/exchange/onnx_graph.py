"""Linear layers with sines between them -> an ONNX graph, with the `onnx` package alone."""

from __future__ import annotations

from hyperinit.base.errors import InputError
from hyperinit.exchange.conventions import Layers

OPSET = 13  # of 2020: every runtime that is kept has it
IR_VERSION = 8


def onnx_bytes(layers: Layers) -> bytes:
    """A model with one input, coords (points, 2), and one output, rgb (points, 3), float32.

    `points` is free. Opset 13: Gemm and Sin.

    Raises:
        InputError: the package `onnx` is not installed.
    """
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError as error:
        raise InputError("ONNX files need onnx: pip install 'hyperinit[export]'") from error
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
