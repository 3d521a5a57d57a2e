"""The Open Inference Protocol (KServe v2): its requests and answers, and how JSON and binary tensors hold them.

Nothing here knows a web framework or a model. A tensor is not decoded before somebody has looked at its shape.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from edgecls.serving.errors import RequestError, invalid

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

MAX_ELEMENTS = 2**31
"""Of one tensor; what is more cannot be sent either."""
MAX_DIMENSIONS = 8
MAX_TENSORS = 64
"""Inputs or outputs that a request names."""
JSON_BYTES = 8 << 20
"""Of the JSON of a request, which is read while everybody else waits; tensors can come as binary data beside it."""
CONTENT_TYPE, BASE64 = "content_type", "base64"
"""How the text of a JSON tensor says that it holds bytes."""
Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class InputTensor:
    """A tensor as it came: `raw` bytes in little endian, or `values`, flat or nested lists of numbers, texts, bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | memoryview | None = None
    values: Sequence[Any] | None = None
    parameters: Parameters = field(default_factory=dict)

    @property
    def elements(self) -> int:
        """How many there are, by the shape."""
        return math.prod(self.shape)

    def to_uint8(self) -> NDArray[uint8]:
        """An array of the tensor's shape. Raises `RequestError` for other values, or another number of them."""
        import numpy as np

        if self.raw is not None:
            if len(self.raw) != self.elements:
                self._refuse(f"has {len(self.raw)} bytes of data for {self.elements} elements")
            return np.frombuffer(self.raw, np.uint8).reshape(self.shape)
        try:
            values = np.asarray(self.values)
        except (ValueError, OverflowError):
            self._refuse("has lists of different lengths, or numbers beyond 0 to 255")
        if values.size != self.elements:
            self._refuse(f"has {values.size} values for {self.elements} elements")
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
            self._refuse("takes whole numbers from 0 to 255")
        return values.astype(np.uint8).reshape(self.shape)

    def to_bytes(self) -> list[bytes]:
        """The elements of a tensor of bytes. Raises `RequestError` for another number of them."""
        elements = self._split(memoryview(self.raw)) if self.raw is not None else [*map(self._as_bytes, self._flat())]
        if len(elements) != self.elements:
            self._refuse(f"has {len(elements)} values for {self.elements} elements")
        return elements

    def _split(self, raw: memoryview) -> list[bytes]:
        """Elements that each come after their length, four bytes."""
        elements: list[bytes] = []
        position = 0
        while position < len(raw) and len(elements) < self.elements:
            end = position + 4
            if end <= len(raw):
                position, end = end, end + int(struct.unpack_from("<I", raw, position)[0])
            if end > len(raw):
                self._refuse("ends within an element")
            elements.append(bytes(raw[position:end]))
            position = end
        if position < len(raw):
            self._refuse(f"has more data than {self.elements} elements")
        return elements

    def _flat(self) -> list[Any]:
        values = [*(self.values or ())]
        while values and all(isinstance(each, list) for each in values):
            values = [inner for each in values for inner in each]
        return values

    def _as_bytes(self, value: Any) -> bytes:
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            self._refuse("takes text where its datatype is BYTES")
        if self.parameters.get(CONTENT_TYPE) != BASE64:
            return value.encode("utf-8", "surrogatepass")
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            self._refuse("is not base64, as its parameter content_type says")

    def _refuse(self, what: str) -> NoReturn:
        raise invalid(f"input {shown(self.name)} {what}")


@dataclass(frozen=True)
class RequestedOutput:
    """An output that a client asks for."""

    name: str
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class InferRequest:
    """What is asked of a model."""

    inputs: tuple[InputTensor, ...]
    outputs: tuple[RequestedOutput, ...] = ()
    id: str = ""
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class OutputTensor:
    """An array of numbers, or elements of bytes, with the shape that they have."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[float32] | Sequence[bytes]

    def to_raw(self) -> bytes:
        """Its binary form."""
        if isinstance(self.data, Sequence):
            return b"".join(struct.pack("<I", len(each)) + each for each in self.data)
        return self.data.astype("<f4", copy=False).tobytes()

    def to_values(self) -> list[Any]:
        """Its elements, flat, as JSON has them."""
        if isinstance(self.data, Sequence):
            return [each.decode("utf-8", "replace") for each in self.data]
        values: list[Any] = self.data.ravel().tolist()
        return values


@dataclass(frozen=True)
class InferResponse:
    """What a model answered."""

    model_name: str
    model_version: str
    outputs: tuple[OutputTensor, ...]
    id: str = ""


def checked_shape(name: str, dimensions: Sequence[Any]) -> tuple[int, ...]:
    """The shape of an input. Raises `RequestError` for what is none, or larger than anything that can be sent."""
    wrong = any(isinstance(each, bool) or not isinstance(each, int) or each < 0 for each in dimensions)
    if wrong or not 1 <= len(dimensions) <= MAX_DIMENSIONS:
        raise invalid(f"input {shown(name)} takes a shape of 1 to {MAX_DIMENSIONS} whole numbers from 0 on")
    if math.prod(dimensions) > MAX_ELEMENTS:
        raise RequestError("too_large", f"input {shown(name)} has more than {MAX_ELEMENTS} elements by its shape")
    return tuple(dimensions)


def parse_request(body: bytes, header_bytes: int | None = None) -> InferRequest:
    """A request of JSON, behind whose first `header_bytes` the data of binary tensors stand. Raises `RequestError`."""
    if header_bytes is not None and not 0 <= header_bytes <= len(body):
        raise invalid(f"Inference-Header-Content-Length is {header_bytes}, and the request has {len(body)} bytes")
    end = len(body) if header_bytes is None else header_bytes
    record = parse_object(body[:end])
    binary = memoryview(body)[end:]
    inputs = []
    for each in _objects(record, "inputs"):
        tensor, size = _input(each, binary)
        binary = binary[size:]
        inputs.append(tensor)
    if binary:
        raise invalid(f"the request has {len(binary)} bytes that belong to no input")
    if not inputs:
        raise invalid("the request has no inputs")
    outputs = tuple(RequestedOutput(_text(each, "name"), parameters_in(each)) for each in _objects(record, "outputs"))
    parameters = parameters_in(record)
    _require_flag(parameters, "binary_data_output")
    for output in outputs:
        _require_flag(output.parameters, "binary_data")
    return InferRequest(tuple(inputs), outputs, _text(record, "id", ""), parameters)


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object; an empty text is an empty one. Raises `RequestError`."""
    if len(text) > JSON_BYTES:
        message = f"the request has more than {JSON_BYTES >> 20} MiB of JSON; send tensors as binary data"
        raise RequestError("too_large", message)

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON number")

    try:
        record = json.loads(text, parse_constant=refuse) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise invalid(f"the request is not JSON: {str(error)[:100]}") from None
    if not isinstance(record, dict):
        raise invalid("the request is not a JSON object")
    return record


def format_response(response: InferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """An answer, and the bytes of its JSON where data of binary tensors follow it: as the request asks for."""
    asked = {each.name: each.parameters for each in request.outputs}
    every = request.parameters.get("binary_data_output", False)
    outputs: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for tensor in response.outputs:
        record: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": [*tensor.shape]}
        if asked.get(tensor.name, {}).get("binary_data", every):
            binary.append(tensor.to_raw())
            record["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            record["data"] = tensor.to_values()
        outputs.append(record)
    named = {"id": response.id} if response.id else {}
    head = {"model_name": response.model_name, "model_version": response.model_version, **named, "outputs": outputs}
    text = json.dumps(head, allow_nan=False).encode()
    return b"".join((text, *binary)), len(text) if binary else None


def shown(value: Any) -> str:
    """A value of a client as an error shows it: short and in one line."""
    text = json.dumps(value) if isinstance(value, (str, int, float)) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:56]}..."


def _input(record: dict[str, Any], binary: memoryview) -> tuple[InputTensor, int]:
    """An input, and how many bytes of the binary data are its own."""
    name, parameters = _text(record, "name"), parameters_in(record)
    dimensions = record.get("shape")
    if not isinstance(dimensions, list):
        raise invalid(f"input {shown(name)} needs a shape, a list of numbers")
    shape, datatype = checked_shape(name, dimensions), _text(record, "datatype")
    size = parameters.get("binary_data_size")
    if size is None:
        if not isinstance(values := record.get("data"), list):
            raise invalid(f"input {shown(name)} needs data, a list, or the parameter binary_data_size")
        return InputTensor(name, datatype, shape, values=values, parameters=parameters), 0
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary):
        raise invalid(f"input {shown(name)}: binary_data_size is {shown(size)}, and {len(binary)} bytes are left")
    if "data" in record:
        raise invalid(f"input {shown(name)} has data and binary_data_size; give one of them")
    return InputTensor(name, datatype, shape, raw=binary[:size], parameters=parameters), size


def _objects(record: dict[str, Any], name: str) -> list[dict[str, Any]]:
    values = record.get(name, [])
    if not isinstance(values, list) or not all(isinstance(each, dict) for each in values) or len(values) > MAX_TENSORS:
        raise invalid(f"the request's {name} must be a list of at most {MAX_TENSORS} objects")
    return values


def _text(record: dict[str, Any], name: str, default: str | None = None) -> str:
    value = record.get(name, default)
    if not isinstance(value, str):
        raise invalid(f"the request needs {name}, a text" if value is None else f"{name} must be a text")
    return value


def _require_flag(parameters: Parameters, name: str) -> None:
    if not isinstance(value := parameters.get(name, False), bool):
        raise invalid(f"{name} must be true or false, not {shown(value)}")


def parameters_in(record: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a JSON object, none where it has none. Raises `RequestError` for what is no object."""
    values = record.get("parameters", {})
    if not isinstance(values, dict):
        raise invalid("parameters must be an object")
    return values
