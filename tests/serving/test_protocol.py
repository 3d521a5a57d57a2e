"""What a request of JSON, with binary tensors or without, means."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from edgecls.serving.errors import RequestError
from edgecls.serving.protocol import (
    JSON_BYTES,
    InferResponse,
    OutputTensor,
    checked_shape,
    format_response,
    parse_request,
)


def record(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6], **changes}]}


def parsed(values: Any, binary: bytes | None = None) -> Any:
    text = json.dumps(values).encode()
    return parse_request(text if binary is None else text + binary, None if binary is None else len(text))


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]])
def test_numbers_come_flat_or_nested(data: list[Any]):
    tensor = parsed(record(data=data)).inputs[0]
    assert tensor.to_uint8().tolist() == [[1, 2, 3], [4, 5, 6]]


def test_binary_data_stand_behind_the_json_in_the_order_of_inputs():
    values = record(parameters={"binary_data_size": 6})
    del values["inputs"][0]["data"]
    values["inputs"].append({"name": "b", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 11}})
    first, second = parsed(values, b"\1\2\3\4\5\6" + b"\2\0\0\0ab\1\0\0\0c").inputs
    assert first.to_uint8().tolist() == [[1, 2, 3], [4, 5, 6]]
    assert second.to_bytes() == [b"ab", b"c"]


def test_bytes_in_json_are_text_or_base64():
    text = parsed(record(datatype="BYTES", shape=[2], data=["a", "ü"])).inputs[0]
    assert text.to_bytes() == [b"a", "ü".encode()]
    data = [base64.b64encode(b"\xff\xd8").decode()]
    encoded = record(datatype="BYTES", shape=[1, 1], data=[data], parameters={"content_type": "base64"})
    assert parsed(encoded).inputs[0].to_bytes() == [b"\xff\xd8"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": [1, 2]}, "2 values for 6 elements"),
        ({"data": [[1, 2], [3]]}, "lists of different lengths"),
        ({"data": [1.5] * 6}, "whole numbers from 0 to 255"),
        ({"data": [True] * 6}, "whole numbers from 0 to 255"),
        ({"data": ["a"] * 6}, "whole numbers from 0 to 255"),
        ({"data": [{}] * 6}, "whole numbers from 0 to 255"),
        ({"data": [-1] * 6}, "whole numbers from 0 to 255"),
        ({"data": [256] * 6}, "whole numbers from 0 to 255"),
        ({"data": [10**40] * 6}, "from 0 to 255"),
        ({"data": "abc"}, "needs data, a list"),
        ({"data": None}, "needs data, a list"),
        ({"shape": 6}, "needs a shape"),
        ({"shape": []}, "shape of 1 to 8"),
        ({"shape": [-1, 3]}, "shape of 1 to 8"),
        ({"shape": [2.0, 3]}, "shape of 1 to 8"),
        ({"shape": [True, 3]}, "shape of 1 to 8"),
        ({"shape": [1] * 9}, "shape of 1 to 8"),
        ({"shape": [2**40]}, "more than 2147483648 elements"),
        ({"name": None}, "needs name"),
        ({"name": 5}, "name must be a text"),
        ({"datatype": []}, "datatype must be a text"),
        ({"parameters": []}, "parameters must be an object"),
        ({"parameters": {"binary_data_size": 6}}, "0 bytes are left"),
        ({"parameters": {"binary_data_size": -1}}, "binary_data_size is -1"),
        ({"parameters": {"binary_data_size": "6"}}, "binary_data_size"),
        ({"parameters": {"binary_data_size": 0}}, "has data and binary_data_size"),
        ({"datatype": "BYTES", "data": [1] * 6}, "takes text"),
        ({"datatype": "BYTES", "data": ["$"] * 6, "parameters": {"content_type": "base64"}}, "is not base64"),
        ({"datatype": "BYTES", "data": ["a"]}, "1 values for 6 elements"),
    ],
)  # fmt: skip
def test_a_tensor_that_makes_no_sense_is_one_clear_error(changes: dict[str, Any], message: str):
    with pytest.raises(RequestError, match=message):
        tensor = parsed(record(**changes)).inputs[0]
        tensor.to_bytes() if tensor.datatype == "BYTES" else tensor.to_uint8()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"5", b"\xff\xfe", b'{"inputs": NaN}', b"[" * 100_000, b'{"a":' * 100_000, b'{"inputs": {}}',
        b'{"inputs": [5]}', b'{"inputs": []}', b'{"inputs": [{}]}', json.dumps(record())[:-9].encode(),
        json.dumps({**record(), "outputs": 5}).encode(), json.dumps({**record(), "id": 5}).encode(),
        json.dumps({**record(), "parameters": {"binary_data_output": "false"}}).encode(),
        json.dumps({**record(), "outputs": [{"name": "scores", "parameters": {"binary_data": 1}}]}).encode(),
        json.dumps({"inputs": [{}] * 65}).encode(), b'{"a": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_what_is_no_request_is_one_clear_error(body: bytes):
    with pytest.raises(RequestError) as refused:
        parse_request(body)
    assert refused.value.reason == "invalid"
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\2\0\0\0a", "ends within an element"), (b"\2\0", "ends within an element"),
        (b"\xff\xff\xff\xffa", "ends within an element"), (b"\0\0\0\0" * 3, "more data than 2 elements"),
        (b"\0\0\0\0", "1 values for 2 elements"), (b"", "0 values for 2 elements"),
    ],
)  # fmt: skip
def test_bytes_that_do_not_come_to_their_end_are_refused(raw: bytes, message: str):
    values = {"name": "b", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(raw)}}
    with pytest.raises(RequestError, match=message):
        parsed({"inputs": [values]}, raw).inputs[0].to_bytes()


def test_data_of_no_input_and_a_wrong_length_of_the_json_are_refused():
    with pytest.raises(RequestError, match="3 bytes that belong to no input"):
        parsed(record(), b"abc")
    for size in (-1, 10**6):
        with pytest.raises(RequestError, match="Inference-Header-Content-Length"):
            parse_request(json.dumps(record()).encode(), size)


def test_json_beside_the_binary_data_is_limited():
    with pytest.raises(RequestError, match="send tensors as binary data") as refused:
        parse_request(b" " * (JSON_BYTES + 1))
    assert refused.value.reason == "too_large"


def test_a_shape_is_looked_at_before_anything_is_made_of_it():
    assert checked_shape("image", [3, 0]) == (3, 0)
    with pytest.raises(RequestError) as refused:
        checked_shape("image", [2**20, 2**20])
    assert refused.value.reason == "too_large"


@pytest.mark.parametrize("binary", [False, True])
def test_an_answer_has_its_data_where_the_request_wants_them(binary: bool):
    scores = np.array([[0.1, 2.5]], np.float32)
    response = InferResponse(
        "m", "1", (OutputTensor("scores", "FP32", (1, 2), scores), OutputTensor("label", "BYTES", (1,), [b"one"])), "x"
    )
    asked = [{"name": "scores", "parameters": {"binary_data": binary}}, {"name": "label"}]
    content, json_bytes = format_response(response, parsed({**record(), "outputs": asked}))
    head = json.loads(content[:json_bytes])
    assert (head["id"], head["model_name"], head["model_version"]) == ("x", "m", "1")
    assert head["outputs"][1] == {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["one"]}
    if binary:
        assert head["outputs"][0]["parameters"] == {"binary_data_size": 8}
        assert np.frombuffer(content[json_bytes:], "<f4").tolist() == scores[0].tolist()
    else:
        assert json_bytes is None
        assert np.array(head["outputs"][0]["data"], np.float32).tolist() == scores[0].tolist()
