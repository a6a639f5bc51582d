"""A GPT-2 with its label rows as a graph for onnxruntime, written on the wire format of protocol buffers.

The graph computes what the label logits need and no more: the first layer's projection once for a text and its copy, which begin as
the same vectors, and all of the last layer but keys and values only at the ends of words.
"""

import os
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.weights import ACTIVATIONS, Floats, Gpt2Config, Gpt2Weights

OPSET, IR_VERSION = 20, 9
MICROSOFT = "com.microsoft"
"""Domain of operators that onnxruntime has beyond the standard."""
INLINE_BYTES = 1024
"""Constants up to this size stand in the graph; onnxruntime reads larger ones where they are."""
ONNX_TYPES = {"float32": 1, "int64": 7}
HIDDEN = -1e9
"""Added to the attention score of a token that must not be seen."""

Value = str
"""The name of a value in the graph."""


class GraphWriter:
    """Writes nodes and constants of a graph; each method returns the name of a new value."""

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        self.constants: list[bytes] = []
        self.external: dict[str, NDArray[Any]] = {}

    def node(self, kind: str, *inputs: Value, outputs: int = 1, domain: str = "", **attributes: Any) -> list[Value]:
        """Write a node with several outputs."""
        names = [f"n{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(
            b"".join(_field(1, name) for name in inputs)
            + b"".join(_field(2, name) for name in names)
            + _field(4, kind)
            + b"".join(_field(5, _attribute(name, value)) for name, value in attributes.items())
            + _field(7, domain)
        )
        return names

    def op(self, kind: str, *inputs: Value, domain: str = "", **attributes: Any) -> Value:
        """Write a node with one output."""
        return self.node(kind, *inputs, domain=domain, **attributes)[0]

    def constant(self, array: NDArray[Any]) -> Value:
        """Write a constant, float32 or int64."""
        name = f"c{len(self.constants)}"
        array = np.ascontiguousarray(array)
        head = b"".join(_field(1, size) for size in array.shape) + _field(2, ONNX_TYPES[array.dtype.name]) + _field(8, name)
        if array.nbytes <= INLINE_BYTES:
            self.constants.append(head + _field(9, array.tobytes()))
        else:
            place = {"location": name, "offset": "0", "length": str(array.nbytes)}
            pairs = b"".join(_field(13, _field(1, key) + _field(2, value)) for key, value in place.items())
            self.constants.append(head + pairs + _field(14, 1))
            self.external[name] = array
        return name

    def integers(self, *values: int) -> Value:
        """Write a list of integers."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: int | float) -> Value:
        """Write a number."""
        return self.constant(np.array(value, np.int64 if isinstance(value, int) else np.float32))

    def model(self, inputs: Mapping[str, tuple[str, ...]], types: Mapping[str, str], output: Value) -> bytes:
        """Return the model. ``inputs`` have the names of their dimensions, ``types`` those of their numbers."""
        graph = (
            b"".join(_field(1, node) for node in self.nodes)
            + _field(2, "gpt2")
            + b"".join(_field(5, constant) for constant in self.constants)
            + b"".join(_field(11, _value_info(name, types[name], dimensions)) for name, dimensions in inputs.items())
            + _field(12, _value_info(output, "float32", ("rows", "labels")))
        )
        domains = b"".join(_field(8, _field(1, name) + _field(2, version)) for name, version in (("", OPSET), (MICROSOFT, 1)))
        return _field(1, IR_VERSION) + domains + _field(7, graph)


class Gpt2Graph:
    """The graph of one GPT-2.

    Its inputs, for texts that are laid out as rows ``text <SEP> text`` of one width:
        embedded: [vectors, dimensions], the embedded tokens of ``text <SEP>``, text after text.
        spread: [texts, width], for each token of the rows the number of its vector in ``embedded``.
        ends: [texts, words], the columns of the tokens at which logits are wanted.
    Its output is [texts * words, labels].
    """

    def __init__(self, weights: Gpt2Weights, label_rows: Floats) -> None:
        self.config: Gpt2Config = weights.config
        self.tensors = weights.tensors
        self.writer = GraphWriter()
        op, scalar, integers = self.writer.op, self.writer.scalar, self.writer.integers
        self.shape = op("Shape", "spread")
        self.end_shape = op("Shape", "ends")
        texts, width = (op("Gather", self.shape, scalar(axis), axis=0) for axis in (0, 1))
        self.columns = op("Range", scalar(0), width, scalar(1))
        self.spread = op("Reshape", "spread", integers(-1))
        first_rows = op("Mul", op("Range", scalar(0), texts, scalar(1)), width)
        self.end_rows = op("Reshape", op("Add", "ends", op("Unsqueeze", first_rows, integers(1))), integers(-1))
        self.causal = self._mask(self.columns)
        self.causal_at_ends = op("Unsqueeze", self._mask("ends"), integers(1))
        logits = op("MatMul", self._last_hidden(), self.writer.constant(label_rows.T))
        inputs = {"embedded": ("vectors", "dimensions"), "spread": ("texts", "width"), "ends": ("texts", "words")}
        self.output = logits
        self.model = self.writer.model(inputs, {"embedded": "float32", "spread": "int64", "ends": "int64"}, logits)

    def _mask(self, queries: Value) -> Value:
        """What is added to the scores of each query, given its column: a token sees itself and what stands before it."""
        op, scalar = self.writer.op, self.writer.scalar
        visible = op("LessOrEqual", self.columns, op("Unsqueeze", queries, self.writer.integers(-1)))
        return op("Where", visible, scalar(0.0), scalar(HIDDEN))

    def _last_hidden(self) -> Value:
        op, constant, config = self.writer.op, self.writer.constant, self.config
        weight, bias = (constant(self.tensors[f"h.0.ln_1.{name}"]) for name in ("weight", "bias"))
        hidden: Value = "embedded"
        normed = op("LayerNormalization", hidden, weight, bias, axis=-1, epsilon=config.layer_norm_epsilon)
        for layer in range(config.n_layer):
            block = f"h.{layer}"
            if layer == 0:
                hidden = op("Gather", hidden, self.spread, axis=0)
            attended, hidden = self._attention(layer, normed, hidden)
            normed, hidden = self._add_and_norm(hidden, self._linear(attended, f"{block}.attn.c_proj"), f"{block}.ln_2")
            inner = self._activation(self._linear(normed, f"{block}.mlp.c_fc"))
            after = "ln_f" if layer == config.n_layer - 1 else f"h.{layer + 1}.ln_1"
            normed, hidden = self._add_and_norm(hidden, self._linear(inner, f"{block}.mlp.c_proj"), after)
        return normed

    def _attention(self, layer: int, normed: Value, hidden: Value) -> tuple[Value, Value]:
        """Return what the heads of a layer give, and the hidden states to add it to: in the last layer those of the ends alone."""
        op, config, name = self.writer.op, self.config, f"h.{layer}.attn.c_attn"
        width = config.n_embd
        scale = 1.0
        if config.scale_attn_weights:
            scale /= (width // config.n_head) ** 0.5
        if config.scale_attn_by_inverse_layer_idx:
            scale /= layer + 1
        factors = np.repeat(np.array([scale, 1, 1], np.float32), width)  # of queries, keys and values
        weight, bias = self.tensors[f"{name}.weight"] * factors, self.tensors[f"{name}.bias"] * factors
        is_last = layer == config.n_layer - 1

        def project(vectors: Value, part: slice) -> Value:
            return op("Gemm", vectors, self.writer.constant(weight[:, part]), self.writer.constant(bias[part]))

        def rows(vectors: Value) -> Value:
            return op("Gather", vectors, self.spread, axis=0) if layer == 0 else vectors

        if is_last:
            keys, values = self._split(rows(project(normed, slice(width, None))), 2)
            queries = project(op("Gather", rows(normed), self.end_rows, axis=0), slice(width))
            hidden = op("Gather", hidden, self.end_rows, axis=0)
        else:
            queries, keys, values = self._split(rows(project(normed, slice(None))), 3)
        shape, mask = (self.end_shape, self.causal_at_ends) if is_last else (self.shape, self.causal)
        scores = op("MatMul", self._heads(queries, shape, [0, 2, 1, 3]), self._heads(keys, self.shape, [0, 2, 3, 1]))
        weights = op("Softmax", op("Add", scores, mask), axis=-1)
        joined = op("Transpose", op("MatMul", weights, self._heads(values, self.shape, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        return op("Reshape", joined, self.writer.integers(-1, width)), hidden

    def _split(self, vectors: Value, count: int) -> list[Value]:
        return self.writer.node("Split", vectors, outputs=count, axis=-1, num_outputs=count)

    def _heads(self, vectors: Value, shape: Value, order: list[int]) -> Value:
        """Vectors of tokens, [texts * width, dimensions], as [texts, width, heads, dimensions of a head], and then transposed."""
        heads = self.writer.integers(self.config.n_head, self.config.n_embd // self.config.n_head)
        return self.writer.op(
            "Transpose", self.writer.op("Reshape", vectors, self.writer.op("Concat", shape, heads, axis=0)), perm=order
        )

    def _linear(self, vectors: Value, name: str) -> Value:
        constant = self.writer.constant
        return self.writer.op("Gemm", vectors, constant(self.tensors[f"{name}.weight"]), constant(self.tensors[f"{name}.bias"]))

    def _add_and_norm(self, hidden: Value, change: Value, norm: str) -> tuple[Value, Value]:
        """The normalised sum, and the sum."""
        weight, bias = (self.writer.constant(self.tensors[f"{norm}.{name}"]) for name in ("weight", "bias"))
        outputs = self.writer.node(
            "SkipLayerNormalization",
            *(hidden, change, weight, bias),
            outputs=4,
            domain=MICROSOFT,
            epsilon=self.config.layer_norm_epsilon,
        )
        return outputs[0], outputs[3]

    def _activation(self, vectors: Value) -> Value:
        op = self.writer.op
        match ACTIVATIONS[self.config.activation_function]:
            case "gelu":
                return op("Gelu", vectors, approximate="none")
            case "gelu with tanh":
                return op("Gelu", vectors, approximate="tanh")
            case "silu":
                return op("Mul", vectors, op("Sigmoid", vectors))
            case name:  # relu, tanh
                return op(name.title(), vectors)


def thread_count() -> int:
    """Return the number of threads of one pass: OMP_NUM_THREADS if it is set, else the processors that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_session(graph: Gpt2Graph) -> Any:
    """Return an onnxruntime session of the graph; several threads may run it at once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads would take processor time
    # The graph is written as it should run; looking for something to improve only costs time at the start.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in graph.writer.external.values()]
    options.add_external_initializers(list(graph.writer.external), values)
    return onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def _field(number: int, value: int | float | str | bytes) -> bytes:
    """Return a field of a message: an integer, a 32-bit float, a text or a message."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _attribute(name: str, value: float | int | str | list[int]) -> bytes:
    """Return an `AttributeProto`."""
    if isinstance(value, list):
        return _field(1, name) + b"".join(_field(8, item) for item in value) + _field(20, 7)
    number, kind = {float: (2, 1), int: (3, 2), str: (4, 3)}[type(value)]
    return _field(1, name) + _field(number, value) + _field(20, kind)


def _value_info(name: str, kind: str, dimensions: tuple[str, ...]) -> bytes:
    shape = b"".join(_field(1, _field(2, dimension)) for dimension in dimensions)
    return _field(1, name) + _field(2, _field(1, _field(1, ONNX_TYPES[kind]) + _field(2, shape)))
