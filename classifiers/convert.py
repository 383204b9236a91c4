"""BERT weights in safetensors to one fused ONNX graph, with numpy and onnx alone: no torch, no exporter.

Weights are 8-bit integers with a scale per output; activations are quantised to 8 bits as they come, with one scale per
text. A few input channels of each layer carry values several times larger than all others and would eat that scale:
they are found by running the vocabulary through the model once, and multiplied in float32 apart, as in LLM.int8()
(arXiv 2208.07339). Without that the worst cosine to the float32 model is 0.98, with it 0.995.
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
HEADS = 12
SPIKES = 4
"""Input channels of each matrix that stay in float32."""

SAMPLES = 32
"""Sequences of about as many pieces each, evenly spaced over the vocabulary, that find the spikes."""

LEVELS = 64
"""Weights are -64..64: the largest that no x86 without VNNI can overflow (2 × 255 × 64 < 2¹⁵)."""

Array = NDArray[Any]
Spikes = Mapping[str, Array]


class _Graph:
    """Nodes and weights, gathered in order; every method returns the name of its output.

    ``spikes`` has the channels to keep apart by the name of each matrix's output; without it matrices stay in float32.
    """

    def __init__(self, spikes: Spikes | None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.spikes = spikes

    def weight(self, name: str, array: Array) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def linear(self, x: str, matrix: Array, bias: Array, output: str) -> str:
        """``x @ matrix.T + bias`` with ``matrix`` of shape (outputs, inputs)."""
        shift = self.weight(f"{output}.bias", bias)
        if self.spikes is None:
            product = self.node("MatMul", [x, self.weight(f"{output}.matrix", matrix.T)], f"{output}.product")
            return self.node("Add", [product, shift], output)
        apart = self.spikes[output]
        rest = np.ones(matrix.shape[1], np.float32)
        rest[apart] = 0
        matrix_rest = matrix * rest
        scales = np.abs(matrix_rest).max(axis=1) / LEVELS
        levels = self.weight(f"{output}.levels", np.rint(matrix_rest / scales[:, None]).astype(np.int8).T)
        masked = self.node("Mul", [x, self.weight(f"{output}.rest", rest)], f"{output}.masked")
        inputs = [masked, levels, self.weight(f"{output}.scales", scales.astype(np.float32)), "", shift]
        product = self.node("DynamicQuantizeMatMul", inputs, f"{output}.product", FUSED)
        spikes = self.node("Gather", [x, self.weight(f"{output}.apart", apart)], f"{output}.spikes", axis=-1)
        exact = self.node("MatMul", [spikes, self.weight(f"{output}.exact", matrix[:, apart].T)], f"{output}.float")
        return self.node("Add", [product, exact], output)

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
    Rows of one call share a scale: give one text at a time where vectors have to be independent.
    """
    serialised: bytes = _model(tensors, _spikes(tensors)).SerializeToString()
    return serialised


def _spikes(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The channels of each matrix's input with the largest values, over sequences that cover the vocabulary thinly."""
    import onnxruntime

    model = _model(tensors, None)
    watched = {
        node.output[0].removesuffix(".product"): node.input[0] for node in model.graph.node if node.op_type == "MatMul"
    }
    names = sorted(set(watched.values()))
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    largest: dict[str, Array] = {}
    size = len(tensors["embeddings.word_embeddings.weight"])
    for first in range(SAMPLES):
        ids = np.arange(first, size, SAMPLES * max(size // SAMPLES**2, 1))[None]
        for name, values in zip(names, session.run(names, {"input_ids": ids}), strict=True):
            largest[name] = np.maximum(largest.get(name, 0), np.abs(values).max(axis=(0, 1)))
    return {output: np.sort(np.argsort(-largest[x])[:SPIKES]) for output, x in watched.items()}


def _model(tensors: Mapping[str, Array], spikes: Spikes | None) -> onnx.ModelProto:
    graph = _Graph(spikes)
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
    return helper.make_model(body, opset_imports=opsets, ir_version=9)


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
