"""Cuts a smaller graph out of an ONNX model, on the wire format of protobuf.

An ONNX file is a message of fields, each a key (number and wire type) and a value
(https://protobuf.dev/programming-guides/encoding, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). Nodes, weights and type
annotations are copied byte for byte, so a piece computes what the whole does: onnxruntime fuses the same nodes in both.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

FLOAT, INT64 = 1, 7
"""Element types of a tensor, as ONNX numbers them."""

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_WEIGHT, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUE = 1, 2, 5, 11, 12, 13
_NODE_INPUT, _NODE_OUTPUT = 1, 2
_WEIGHT_NAME, _VALUE_NAME = 8, 1
_VARINT, _EIGHT_BYTES, _LENGTH_DELIMITED, _FOUR_BYTES = 0, 1, 2, 5


class TensorType(NamedTuple):
    """The element type of a tensor, and its dimensions: a size, or a name where the size varies."""

    element: int
    dimensions: tuple[int | str, ...]


class _WireField(NamedTuple):
    """One field of a message: its number, its value, and all its bytes. The value of a number is empty."""

    number: int
    value: memoryview
    whole: memoryview


class _Node(NamedTuple):
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    whole: memoryview


class OnnxGraph:
    """The graph of an ONNX model.

    Raises:
        ValueError: the data is not an ONNX model.
    """

    def __init__(self, data: bytes) -> None:
        self._head: list[memoryview] = []
        self._nodes: list[_Node] = []
        self._weights: dict[str, memoryview] = {}
        self._values: dict[str, memoryview] = {}
        graph = None
        for field in _fields(memoryview(data)):
            if field.number == _MODEL_GRAPH:
                graph = field.value
            else:
                self._head.append(field.whole)
        if graph is None:
            raise ValueError("the file holds no graph")
        for field in _fields(graph):
            if field.number == _GRAPH_NODE:
                parts = list(_fields(field.value))
                self._nodes.append(_Node(_texts(parts, _NODE_INPUT), _texts(parts, _NODE_OUTPUT), field.whole))
            elif field.number == _GRAPH_WEIGHT:
                self._weights[_texts(_fields(field.value), _WEIGHT_NAME)[0]] = field.whole
            elif field.number == _GRAPH_VALUE:
                self._values[_texts(_fields(field.value), _VALUE_NAME)[0]] = field.whole
        self._makers = {output: index for index, node in enumerate(self._nodes) for output in node.outputs}

    def cut(self, inputs: Mapping[str, TensorType], outputs: Mapping[str, TensorType]) -> bytes:
        """Return a serialised model that computes ``outputs`` from ``inputs``, both tensors of this graph.

        Raises:
            ValueError: an output needs a tensor that is neither given nor computed.
        """
        nodes, tensors = self._needed(inputs, outputs)
        graph = [self._nodes[index].whole for index in sorted(nodes)]
        graph.append(memoryview(_delimited(_GRAPH_NAME, b"piece")))
        graph += [whole for name, whole in self._weights.items() if name in tensors]
        graph += [memoryview(_delimited(_GRAPH_INPUT, _value_info(name, kind))) for name, kind in inputs.items()]
        graph += [memoryview(_delimited(_GRAPH_OUTPUT, _value_info(name, kind))) for name, kind in outputs.items()]
        inner = tensors - set(inputs) - set(outputs)
        graph += [whole for name, whole in self._values.items() if name in inner]
        return b"".join(self._head) + _delimited(_MODEL_GRAPH, b"".join(graph))

    def _needed(self, inputs: Collection[str], outputs: Collection[str]) -> tuple[set[int], set[str]]:
        """Return the nodes and the tensors that lie between ``inputs`` and ``outputs``."""
        nodes: set[int] = set()
        tensors: set[str] = set()
        waiting = list(outputs)
        while waiting:
            name = waiting.pop()
            if name in tensors:
                continue
            tensors.add(name)
            if name in inputs or name in self._weights:
                continue
            if name not in self._makers:
                raise ValueError(f"nothing computes the tensor {name!r}")
            index = self._makers[name]
            if index not in nodes:
                nodes.add(index)
                waiting += [source for source in self._nodes[index].inputs if source]  # an input left out has no name
        return nodes, tensors


def _fields(message: memoryview) -> Iterator[_WireField]:
    position = 0
    while position < len(message):
        start = position
        key, position = _read_varint(message, position)
        wire_type = key & 7
        value = message[:0]
        if wire_type == _VARINT:
            _, position = _read_varint(message, position)
        elif wire_type in (_FOUR_BYTES, _EIGHT_BYTES):
            position += 4 if wire_type == _FOUR_BYTES else 8
        elif wire_type == _LENGTH_DELIMITED:
            length, position = _read_varint(message, position)
            value = message[position : position + length]
            position += length
        else:
            raise ValueError(f"wire type {wire_type} at byte {start}")
        if position > len(message):
            raise ValueError(f"the field at byte {start} is cut short")
        yield _WireField(key >> 3, value, message[start:position])


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return the number at ``position`` and the position after it."""
    number = shift = 0
    while position < len(message):
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, position
    raise ValueError("a number is cut short")


def _texts(fields: Iterator[_WireField] | list[_WireField], number: int) -> tuple[str, ...]:
    return tuple(bytes(field.value).decode() for field in fields if field.number == number)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _delimited(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(value)) + value


def _value_info(name: str, kind: TensorType) -> bytes:
    """Return a ValueInfoProto: the name of a tensor, its element type and its shape."""

    def dimension(size: int | str) -> bytes:
        return _varint(1 << 3 | _VARINT) + _varint(size) if isinstance(size, int) else _delimited(2, size.encode())

    shape = b"".join(_delimited(1, dimension(size)) for size in kind.dimensions)
    tensor = _varint(1 << 3 | _VARINT) + _varint(kind.element) + _delimited(2, shape)
    return _delimited(1, name.encode()) + _delimited(2, _delimited(1, tensor))
