"""What people write by hand: `python command_peer.py TOOL MODEL PLACE SIDE` prints a class for each image or frame."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2


def images(place: str) -> Iterator[Any]:
    """BGR pictures of a folder or of a video."""
    if Path(place).is_dir():
        yield from (cv2.imread(str(path)) for path in sorted(Path(place).glob("*.jpg")))
        return
    video = cv2.VideoCapture(place)
    while (frame := video.read())[0]:
        yield frame[1]


def with_onnxruntime(model: str, side: int) -> Callable[[Any], object]:
    """On edgecls' file, which normalizes inside."""
    import onnxruntime

    session = onnxruntime.InferenceSession(f"{model}/model.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: _resized(image, side)})[0].argmax()


def with_openvino(model: str, side: int) -> Callable[[Any], object]:
    """On edgecls' file, which normalizes inside."""
    import openvino

    compiled = openvino.Core().compile_model(f"{model}/model.xml", "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    return lambda image: compiled(_resized(image, side))[0].argmax()


def with_model_api(model: str, _side: int) -> Callable[[Any], object]:
    """Its synchronous call."""
    from model_api.models import ClassificationModel

    classifier = ClassificationModel.create_model(f"{model}/model.xml")
    return lambda image: classifier(image).top_labels[0].name


def with_torchvision(model: str, side: int) -> Callable[[Any], object]:
    """A TorchScript network behind torchvision's transforms."""
    import torch
    from torchvision.transforms import v2

    network = torch.jit.load(model)
    transform = v2.Compose([v2.Resize(side), v2.CenterCrop(side), v2.ToDtype(torch.float32, scale=True)])

    def classify(image: Any) -> object:
        picture = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)
        with torch.inference_mode():
            return int(network(transform(picture)[None]).argmax())

    return classify


def _resized(image: Any, side: int) -> Any:
    return cv2.resize(image, (side, side))[None, :, :, ::-1].copy()


TOOLS = {
    "onnxruntime": with_onnxruntime,
    "openvino": with_openvino,
    "Model API": with_model_api,
    "torchvision": with_torchvision,
}

if __name__ == "__main__":
    tool, model, place, side = sys.argv[1:]
    classify = TOOLS[tool](model, int(side))
    for image in images(place):
        print(classify(image))
