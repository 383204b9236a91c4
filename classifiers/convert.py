"""BERT weights in safetensors to one fused ONNX graph, with numpy and onnx alone: no torch, no exporter.

Weights are 8-bit integers, symmetric, with a scale per block of `BLOCK` inputs. Activations are quantised inside the
kernel by the same blocks, row by row, so no text's vector depends on another's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from classifiers.encoder import MAX_PIECES

FUSED = "com.microsoft"
BLOCK = 32
HEADS = 12

Array = NDArray[Any]


class _Graph:
    """Nodes and weights, gathered in order; every method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, array: Array) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def linear(self, x: str, matrix: Array, bias: Array, output: str) -> str:
        """``x @ matrix.T + bias`` with ``matrix`` of shape (outputs, inputs) in 8-bit blocks."""
        rows, columns = matrix.shape
        blocks = matrix.reshape(rows, columns // BLOCK, BLOCK)
        scales = np.maximum(np.abs(blocks).max(axis=-1), np.finfo(np.float32).tiny) / 127
        levels = (np.rint(blocks / scales[..., None]) + 128).astype(np.uint8)
        inputs = [
            x,
            self.weight(f"{output}.levels", levels),
            self.weight(f"{output}.scales", scales.astype(np.float32).ravel()),
            "",
            "",
            self.weight(f"{output}.bias", bias),
        ]
        shape = {"N": rows, "K": columns, "bits": 8, "block_size": BLOCK, "accuracy_level": 4}
        return self.node("MatMulNBits", inputs, output, FUSED, **shape)

    def embed(self, table: Array, output: str) -> str:
        """Rows of ``table`` for ``input_ids``, kept as 8-bit integers with a scale per row."""
        scales = np.abs(table).max(axis=1, keepdims=True) / 127
        levels = self.weight(f"{output}.levels", np.rint(table / scales).astype(np.int8))
        row = self.node("Gather", [levels, "input_ids"], f"{output}.row")
        row = self.node("Cast", [row], f"{output}.float", to=TensorProto.FLOAT)
        scale = self.weight(f"{output}.scales", scales.astype(np.float32))
        scale = self.node("Gather", [scale, "input_ids"], f"{output}.scale")
        return self.node("Mul", [row, scale], output)


def to_onnx(tensors: Mapping[str, Array]) -> bytes:
    """The serialised graph ``input_ids (n, s) → embedding (n, d)`` of a BERT encoder with mean pooling, normalised.

    ``tensors`` has Hugging Face's names. Rows of one call have equal length: there is no mask, hence no padding.
    """
    graph = _Graph()
    x = _embeddings(graph, tensors)
    layers = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layer."))
    for number in range(layers):
        prefix = f"encoder.layer.{number}."
        layer = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
        x = _layer(graph, x, layer, f"layer{number}")
    mean = graph.node("ReduceMean", [x, graph.weight("pieces", np.array([1]))], "mean", keepdims=0)
    graph.node("LpNormalization", [mean], "embedding", axis=-1, p=2)
    dimension = tensors["embeddings.LayerNorm.weight"].shape[0]
    body = helper.make_graph(
        graph.nodes,
        "encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "s"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", dimension])],
        graph.weights,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(FUSED, 1)]
    serialised: bytes = helper.make_model(body, opset_imports=opsets, ir_version=9).SerializeToString()
    return serialised


def _embeddings(graph: _Graph, tensors: Mapping[str, Array]) -> str:
    words = graph.embed(tensors["embeddings.word_embeddings.weight"], "words")
    positions = tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
    length = graph.node("Shape", ["input_ids"], "length", start=1, end=2)
    first = graph.weight("first", np.array([0]))
    places = graph.node("Slice", [graph.weight("places.table", positions[:MAX_PIECES]), first, length], "places")
    total = graph.node("Add", [words, places], "embedded")
    gain = graph.weight("embeddings.gain", tensors["embeddings.LayerNorm.weight"])
    shift = graph.weight("embeddings.shift", tensors["embeddings.LayerNorm.bias"])
    return graph.node("LayerNormalization", [total, gain, shift], "embeddings", axis=-1, epsilon=1e-12)


def _layer(graph: _Graph, x: str, layer: Mapping[str, Array], name: str) -> str:
    parts = [f"attention.self.{part}" for part in ("query", "key", "value")]
    matrix = np.concatenate([layer[f"{part}.weight"] for part in parts])
    bias = np.concatenate([layer[f"{part}.bias"] for part in parts])
    joined = graph.linear(x, matrix, bias, f"{name}.qkv")
    split = [f"{name}.query", f"{name}.key", f"{name}.value"]
    graph.nodes.append(helper.make_node("Split", [joined], split, name=f"{name}.split", axis=-1, num_outputs=3))
    attended = graph.node("MultiHeadAttention", split, f"{name}.attended", FUSED, num_heads=HEADS)
    x = _residual(graph, attended, x, layer, "attention.output", f"{name}.attention")
    wide = graph.linear(x, layer["intermediate.dense.weight"], layer["intermediate.dense.bias"], f"{name}.wide")
    active = graph.node("Gelu", [wide], f"{name}.active", FUSED)
    return _residual(graph, active, x, layer, "output", f"{name}.output")


def _residual(graph: _Graph, x: str, skip: str, layer: Mapping[str, Array], part: str, name: str) -> str:
    dense = graph.linear(x, layer[f"{part}.dense.weight"], layer[f"{part}.dense.bias"], f"{name}.dense")
    gain = graph.weight(f"{name}.gain", layer[f"{part}.LayerNorm.weight"])
    shift = graph.weight(f"{name}.shift", layer[f"{part}.LayerNorm.bias"])
    return graph.node("SkipLayerNormalization", [dense, skip, gain, shift], name, FUSED, epsilon=1e-12)
