"""Another last layer in an ONNX file, without the onnx package: a device has none.

Protocol buffers are lists of numbered fields, so that what is not touched is copied as it is; the numbers are those of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from edgecls.artifact.card import OUTPUT_NAME
from edgecls.errors import ArtifactError

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    from edgecls.adapting.head import Head

WEIGHT, BIAS = "edgecls_head_weight", "edgecls_head_bias"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH, _METADATA = 7, 14
_NODE, _INITIALIZER, _OUTPUT = 1, 5, 12
_NODE_INPUT, _NODE_OUTPUT, _ATTRIBUTE, _ATTRIBUTE_GRAPH = 1, 2, 5, 6
_TENSOR_NAME = 8
_FLOAT = 1
Field = tuple[int, bytes, bytes]
"""Number, content of a length-delimited field (else empty), and the whole field as it is stored."""


def with_head(model: bytes, embedding: str, head: Head, metadata: Mapping[str, str]) -> bytes:
    """An ONNX file's content with `head`, in float, on the tensor called `embedding`, and these entries of metadata.

    What only the layer before led to is left out. Raises `ArtifactError` for what is no ONNX file.
    """
    try:
        parts = list(_fields(model))
        kept = [
            whole for number, content, whole in parts if number != _GRAPH and not _replaced(number, content, metadata)
        ]
        graph = b"".join(content for number, content, _ in parts if number == _GRAPH)  # which parsers merge
        changed = _graph_with_head(graph, embedding, head)
    except (IndexError, ValueError, struct.error) as error:
        raise ArtifactError("the model file cannot be read as ONNX; export it again") from error
    entries = [_bytes(_METADATA, _text(1, name) + _text(2, value)) for name, value in metadata.items()]
    return b"".join([*kept, _bytes(_GRAPH, changed), *entries])


def _replaced(number: int, content: bytes, metadata: Mapping[str, str]) -> bool:
    return number == _METADATA and _first_text(content, 1) in metadata


def _graph_with_head(graph: bytes, embedding: str, head: Head) -> bytes:
    parts = list(_fields(graph))
    nodes = [content for number, content, _ in parts if number == _NODE]
    used = _used(nodes, embedding)
    classes, width = head.weight.shape
    gemm = b"".join(
        [_text(1, name) for name in (embedding, WEIGHT, BIAS)]
        + [_text(2, OUTPUT_NAME), _text(3, "edgecls_head"), _text(4, "Gemm")]
        + [_bytes(_ATTRIBUTE, _text(1, "transB") + _number(3, 1) + _number(20, 2))]
    )
    kept = []
    for number, content, whole in parts:
        dead_node = number == _NODE and not used.intersection(_texts(content, _NODE_OUTPUT))
        dead_tensor = number == _INITIALIZER and _first_text(content, _TENSOR_NAME) not in used
        scores = number == _OUTPUT and _first_text(content, 1) == OUTPUT_NAME
        if not (dead_node or dead_tensor or scores):
            kept.append(whole)
    return b"".join(
        [
            *kept,
            _bytes(_NODE, gemm),
            _bytes(_INITIALIZER, _tensor(WEIGHT, (classes, width), head.weight)),
            _bytes(_INITIALIZER, _tensor(BIAS, (classes,), head.bias)),
            _bytes(_OUTPUT, _scores_output(classes)),
        ]
    )


def _used(nodes: Iterable[bytes], embedding: str) -> set[str]:
    """The tensors that the embedding is computed from, and itself. Raises `ArtifactError` where it is not there."""
    producers: dict[str, bytes] = {name: node for node in nodes for name in _texts(node, _NODE_OUTPUT)}
    if embedding not in producers:
        raise ArtifactError(f"the model file has no tensor {embedding!r}, which its card names; export it again")
    used: set[str] = set()
    open_ends = [embedding]
    while open_ends:
        name = open_ends.pop()
        if name in used:
            continue
        used.add(name)
        if name in producers:
            node = producers[name]
            attributes = [content for number, content, _ in _fields(node) if number == _ATTRIBUTE]
            if any(number == _ATTRIBUTE_GRAPH for each in attributes for number, _, _ in _fields(each)):
                raise ArtifactError("the network has branches or loops, which cannot be adapted; retrain its run")
            open_ends += _texts(node, _NODE_INPUT)
    return used


def _scores_output(classes: int) -> bytes:
    """(N, classes) float32 under the name that all backends ask for."""
    shape = _bytes(1, _text(2, "N")) + _bytes(1, _number(1, classes))
    return _text(1, OUTPUT_NAME) + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, shape)))


def _tensor(name: str, shape: tuple[int, ...], values: NDArray[float32]) -> bytes:
    dims = b"".join(_number(1, size) for size in shape)
    return dims + _number(2, _FLOAT) + _text(_TENSOR_NAME, name) + _bytes(9, values.astype("<f4").tobytes())


def _fields(message: bytes) -> Iterator[Field]:
    """The fields of a message. Raises `IndexError` or `ValueError` where it is none."""
    offset = 0
    while offset < len(message):
        begun = offset
        key, offset = _read_varint(message, offset)
        kind, content = key & 7, b""
        if kind == _VARINT:
            _, offset = _read_varint(message, offset)
        elif kind == _BYTES:
            size, offset = _read_varint(message, offset)
            content, offset = message[offset : offset + size], offset + size
        elif kind in (_FIXED64, _FIXED32):
            offset += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if offset > len(message):
            raise ValueError("a field is cut off")
        yield key >> 3, content, message[begun:offset]


def _read_varint(message: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[offset]
        value |= (byte & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 0x80:
            return value, offset


def _texts(message: bytes, number: int) -> list[str]:
    return [content.decode() for found, content, _ in _fields(message) if found == number]


def _first_text(message: bytes, number: int) -> str:
    return next(iter(_texts(message, number)), "")


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _text(number: int, text: str) -> bytes:
    return _bytes(number, text.encode())
