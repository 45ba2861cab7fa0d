"""Whether an ONNX file keeps weights in other files, told from its bytes.

onnxruntime would read them from wherever the graph says, unhashed and relative to the working directory.
"""

from __future__ import annotations

from collections.abc import Iterator

from casa_deepfocus.errors import ModelError

CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
"""The messages of onnx.proto that can hold tensors: kind -> number of the field -> kind of what it holds."""

EXTERNAL_DATA, DATA_LOCATION = 13, 14
"""TensorProto's fields: where the data are, and whether they are elsewhere (1) or in the tensor (0)."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Protocol Buffers' wire types that ONNX uses."""

DEEPEST = 64
"""Graphs within graphs that are followed [messages]; real networks have fewer than ten."""


def has_external_data(data: bytes) -> bool:
    """Whether any tensor of an ONNX model says that its data are in another file.

    Raises
    ------
    ModelError
        The bytes are no Protocol Buffers message.
    """
    try:
        return _external(memoryview(data), "model", 0)
    except IndexError as error:
        raise ModelError("it is cut short") from error


def _external(message: memoryview, kind: str, depth: int) -> bool:
    if depth > DEEPEST:
        raise ModelError("its graphs are nested too deeply")
    for number, value in _fields(message):
        if kind == "tensor":
            if number == EXTERNAL_DATA or (number == DATA_LOCATION and value != 0):
                return True
        elif number in CHILDREN[kind] and isinstance(value, memoryview):
            if _external(value, CHILDREN[kind][number], depth + 1):
                return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and values of a message's fields: an integer, or the bytes of anything longer."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if wire == BYTES:
            length, at = _varint(message, at)
        elif wire in (FIXED64, FIXED32):
            length = 8 if wire == FIXED64 else 4
        else:
            raise ModelError("it holds what ONNX does not have")
        if at + length > len(message):
            raise ModelError("it is cut short")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ModelError("it holds what ONNX does not have")
