"""Both protocols answer as `predict` does."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgecls
from edgecls.imaging.decode import decode_image
from edgecls.runtime.store import Artifact
from edgecls.serving.config import ServeConfig
from tests.serving.conftest import MODEL, Client, Running, running


def encoded(pixels: np.ndarray, mode: str, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def images() -> Iterator[tuple[str, bytes]]:
    """Photographs of every kind: formats, sizes, colour modes, and turned by EXIF."""
    generator = np.random.default_rng(7)
    for index in range(40):
        height, width = generator.integers(20, 400, 2)
        coarse = generator.integers(0, 256, (6, 8, 3), np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC))
        exif = Image.Exif()
        exif[0x0112] = 1 + index % 8
        yield f"jpeg turned {1 + index % 8}", encoded(pixels, "RGB", "JPEG", exif=exif, quality=90)
        for mode, kind in (
            ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("L", "PNG"), ("1", "PNG"),
            ("RGB", "WEBP"), ("RGBA", "WEBP"), ("RGB", "BMP"), ("RGB", "TIFF"), ("P", "GIF"),
        ):  # fmt: skip
            if index % 8 == 0:
                yield f"{mode} {kind}", encoded(pixels, mode, kind)


@pytest.fixture(scope="module")
def photographs() -> list[bytes]:
    return [content for _, content in images()]


@pytest.fixture(scope="module")
def expected(model: Artifact, photographs: list[bytes]) -> list[edgecls.Prediction]:
    with edgecls.load(model.path, streams=None) as classifier:
        return [classifier.predict(content) for content in photographs]


def test_encoded_images_get_the_same_probabilities_bit_by_bit(
    client: Client, photographs: list[bytes], expected: list[edgecls.Prediction]
):
    for begin in range(0, len(photographs), 25):
        part = expected[begin : begin + 25]
        result = client.infer(client.images(*photographs[begin : begin + 25]))
        np.testing.assert_array_equal(result.as_numpy("probabilities"), [each.probabilities for each in part])
        assert [label.decode() for label in result.as_numpy("label")] == [each.label for each in part]


def test_pixels_get_the_same_scores_bit_by_bit(client: Client, model: Artifact, photographs: list[bytes]):
    preprocess = model.card.preprocess
    pixels = np.stack([preprocess(decode_image(each, "", geometry=preprocess)) for each in photographs[:30]])
    with edgecls.load(model.path, streams=None) as classifier:
        scores = np.concatenate([classifier.session.infer(image[None]) for image in pixels])
    np.testing.assert_array_equal(client.infer(client.input(pixels)).as_numpy("scores"), scores)


def test_another_runtime_answers_as_it_does_in_predict(
    bundle: Callable[[str, str], Artifact], configured: Callable[..., ServeConfig], photographs: list[bytes]
):
    artifact = bundle("openvino", "fp32")
    with edgecls.load(artifact.path, streams=None) as classifier:
        expected = [classifier.predict(content) for content in photographs[:50]]
    with running(configured(models=(f"{MODEL}={artifact.path}",))) as server:
        client = Client("grpc", server)
        result = client.infer(client.images(*photographs[:50]))
    np.testing.assert_array_equal(result.as_numpy("probabilities"), [each.probabilities for each in expected])


def test_an_image_sent_as_it_is_is_answered_in_plain_words(
    server: Running, photographs: list[bytes], expected: list[edgecls.Prediction]
):
    for content, prediction in zip(photographs[::4], expected[::4], strict=True):
        reply = server.classify(content, "?top=3")
        assert reply.status == 200
        assert reply.json == {
            "model": MODEL, "version": "1", "label": prediction.label, "score": prediction.score,
            "top": [{"label": label, "score": score} for label, score in prediction.top(3)],
            "unsure": prediction.unsure, "unknown": False,
        }  # fmt: skip


def test_images_in_batches_get_the_same_answers_but_for_rounding(
    configured: Callable[..., ServeConfig], photographs: list[bytes], expected: list[edgecls.Prediction], protocol: str
):
    with running(configured(max_batch=8)) as server:
        client = Client(protocol, server)
        result = client.infer(client.images(*photographs))
        assert server.metric("edgecls_batch_executions", images="8") == len(photographs) // 8
    rows = np.stack([each.probabilities for each in expected])
    np.testing.assert_allclose(result.as_numpy("probabilities"), rows, atol=1e-5)
    assert [label.decode() for label in result.as_numpy("label")] == [each.label for each in expected]


def test_what_the_model_was_not_trained_for_is_unknown(
    configured: Callable[..., ServeConfig], model: Artifact, photographs: list[bytes]
):
    with edgecls.load(model.path, streams=None, unknown=True) as classifier:
        expected = [classifier.predict(content) for content in photographs]
    assert any(each.unknown for each in expected)
    with running(configured(unknown=True)) as server:
        for content, prediction in zip(photographs[:20], expected[:20], strict=True):
            answer = server.classify(content).json
            assert (answer["label"], answer["unknown"]) == (prediction.label, prediction.unknown)


def form(boundary: str, *parts: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
        for head, content in parts
    )
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def test_a_form_brings_an_image_and_its_wishes(server: Running, png: bytes):
    wishes = ('name="top"', b"2"), ('name="min_confidence"', b"1"), ('name="image"; filename="a.png"', png)
    reply = server.ask("POST", f"/v2/models/{MODEL}/classify", *form("xyz", *wishes))
    assert reply.status == 200, reply.body
    assert len(reply.json["top"]) == 2
    assert (reply.json["label"], reply.json["unsure"]) == ("unsure", True)
    assert server.classify(png, "?min_confidence=0").json["label"] == reply.json["top"][0]["label"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([('name="image"', b"x")], "no file"),
        ([('name="a"; filename="a"', b"x"), ('name="b"; filename="b"', b"x")], "Too many files"),
        ([('name="top"', b"0"), ('name="a"; filename="a"', b"x")], "top takes a whole number"),
        ([('name="tpo"', b"1"), ('name="a"; filename="a"', b"x")], 'no parameter "tpo"'),
        ([('name="a"; filename="a"', b"x")], "not an image"),
        ([('name="a"; filename="a"', b"")], "is empty"),
    ],
)
def test_a_form_that_brings_none_is_refused(server: Running, parts: list[tuple[str, bytes]], message: str):
    reply = server.ask("POST", f"/v2/models/{MODEL}/classify", *form("xyz", *parts))
    assert reply.status == 400
    assert message in reply.json["error"]


@pytest.mark.parametrize("query", ["?top=0", "?top=x", "?top=-1", "?min_confidence=2", "?min_confidence=nan", "?a=1"])
def test_wishes_that_make_no_sense_are_refused(server: Running, png: bytes, query: str):
    reply = server.classify(png, query)
    assert reply.status == 400
    assert query[1:].partition("=")[0] in reply.json["error"]


def test_what_is_no_image_is_said(server: Running, png: bytes):
    path = f"/v2/models/{MODEL}/classify"
    assert server.ask("POST", path, png, {"Content-Type": "text/plain"}).status == 415
    assert server.ask("POST", path, png).status == 415
    broken = server.ask("POST", path, png[:-20], {"Content-Type": "image/png"})
    assert (broken.status, broken.json["error"]) == (400, "the image is truncated: the file ends before the image does")


def test_an_image_fits_into_json_as_base64(server: Running, png: bytes):
    tensor = {
        "name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png).decode()],
        "parameters": {"content_type": "base64"},
    }  # fmt: skip
    reply = server.ask("POST", f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [tensor]}).encode())
    assert reply.status == 200
    assert [each["name"] for each in reply.json["outputs"]] == ["scores", "probabilities", "label"]
    assert reply.json["outputs"][2]["data"] == [server.classify(png).json["label"]]


def test_outputs_are_those_that_are_asked_for(client: Client, png: bytes, model: Artifact):
    asked = [client.module.InferRequestedOutput("label")]
    result = client.infer(client.images(png), outputs=asked, request_id="a-7")
    assert result.as_numpy("scores") is None
    response = result.get_response()
    assert (response["id"] if client.protocol == "http" else response.id) == "a-7"
    best = client.infer(
        client.images(png), outputs=[client.module.InferRequestedOutput("probabilities", class_count=2)]
    ).as_numpy("probabilities")
    assert best.shape == (1, 2)
    score, index, label = best[0, 0].decode().split(":")
    assert model.card.classes[int(index)] == label
    assert 0 < float(score) <= 1


def test_a_request_says_from_which_probability_on_an_answer_is_sure(client: Client, png: bytes):
    sure = client.infer(client.images(png), parameters={"min_confidence": 0.0}).as_numpy("label")
    unsure = client.infer(client.images(png), parameters={"min_confidence": 1.0}).as_numpy("label")
    assert unsure[0] == b"unsure"
    assert sure[0] != b"unsure"


def test_typed_contents_are_taken_as_raw_ones_are(server: Running, png: bytes, model: Artifact):
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(server.grpc))
    preprocess = model.card.preprocess
    pixels = preprocess(decode_image(png, "", geometry=preprocess))[None]
    answers = []
    for datatype, shape, contents in (
        ("UINT8", pixels.shape, {"uint_contents": pixels.ravel().tolist()}),
        ("BYTES", (1,), {"bytes_contents": [png]}),
    ):
        tensor = service_pb2.ModelInferRequest.InferInputTensor(
            name="image", datatype=datatype, shape=shape, contents=service_pb2.InferTensorContents(**contents)
        )
        answers.append(stub.ModelInfer(service_pb2.ModelInferRequest(model_name=MODEL, inputs=[tensor])))
    assert answers[0].raw_output_contents == answers[1].raw_output_contents


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_body_may_be_packed(server: Running, png: bytes, algorithm: str):
    client = Client("http", server)
    label = client.infer(client.images(png), request_compression_algorithm=algorithm).as_numpy("label")
    assert label[0].decode() == server.classify(png).json["label"]


def test_tensors_of_json_and_binary_ones_are_the_same(server: Running, model: Artifact):
    client = Client("http", server)
    pixels = np.random.default_rng(1).integers(0, 256, (2, *model.card.input_shape), np.uint8)
    results = [client.infer(client.input(pixels, binary_data=binary)).as_numpy("scores") for binary in (False, True)]
    np.testing.assert_array_equal(*results)
