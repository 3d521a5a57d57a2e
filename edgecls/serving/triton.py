"""What stands beside a model in Triton's repository: `config.pbtxt`, in the text format of its protocol buffers
(`model_config.proto` of triton-inference-server/common), and labels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from edgecls.artifact.card import INPUT_NAME, OUTPUT_NAME, Card
from edgecls.errors import UsageError

ENCODED = "encoded"
"""The tensor of encoded images: bytes of files."""
LABELS_FILE = "labels.txt"
PREPROCESS_INSTANCES = 2
"""Processes that decode: Triton's Python backend runs one request at a time in each."""
PREPROCESS = '''"""Decodes images as edgecls does. The server's Python needs edgecls (`pip install edgecls`)."""

from edgecls.serving.triton_preprocess import TritonPythonModel  # noqa: F401
'''


@dataclass(frozen=True)
class Options:
    """How the server runs a model."""

    max_batch: int
    batch_delay_us: int
    gpu: bool


def model_files(name: str, card: Card, runtime: str, options: Options) -> dict[str, str]:
    """The files of a network in one of Triton's runtimes: it takes uint8 RGB images of its own size, (N, h, w, 3), and
    gives its scores.
    """
    delay = f"{{ max_queue_delay_microseconds: {options.batch_delay_us} }}"
    return {
        LABELS_FILE: _labels(card),
        "config.pbtxt": _lines(
            f"name: {_text(name)}",
            f"backend: {_text(runtime)}",
            f"default_model_filename: {_text(card.model_file)}",
            f"max_batch_size: {options.max_batch}",
            f"input [ {_image(card)} ]",
            f"output [ {_scores(card)} ]",
            f"instance_group [ {{ count: 1 kind: {'KIND_GPU' if options.gpu else 'KIND_CPU'} }} ]",
            f"dynamic_batching {delay}",
            *(_parameter(key, value) for key, value in _decided_by(card).items()),
        ),
    }


def preprocess_files(name: str, card: Card, options: Options) -> dict[str, str]:
    """The files of the step that decodes: bytes of image files (N, 1) become the network's images (N, h, w, 3)."""
    return {
        "config.pbtxt": _lines(
            f"name: {_text(name)}",
            'backend: "python"',
            f"max_batch_size: {options.max_batch}",
            f"input [ {{ name: {_text(ENCODED)} data_type: TYPE_STRING dims: [ 1 ] }} ]",
            f"output [ {_image(card)} ]",
            f"instance_group [ {{ count: {PREPROCESS_INSTANCES} kind: KIND_CPU }} ]",
        )
    }


def ensemble_files(name: str, model: str, step: str, card: Card, options: Options) -> dict[str, str]:
    """The files of both steps in one: bytes of image files (N, 1) become scores (N, C)."""
    first = _step(step, ENCODED, INPUT_NAME)
    second = _step(model, INPUT_NAME, OUTPUT_NAME)
    return {
        LABELS_FILE: _labels(card),
        "config.pbtxt": _lines(
            f"name: {_text(name)}",
            'platform: "ensemble"',
            f"max_batch_size: {options.max_batch}",
            f"input [ {{ name: {_text(ENCODED)} data_type: TYPE_STRING dims: [ 1 ] }} ]",
            f"output [ {_scores(card)} ]",
            f"ensemble_scheduling {{\n  step [\n    {first},\n    {second}\n  ]\n}}",
            *(_parameter(key, value) for key, value in _decided_by(card).items()),
        ),
    }


def _step(model: str, takes: str, gives: str) -> str:
    """A step of an ensemble, whose tensors keep their names; the newest version of the model."""
    maps = [f"{kind}_map {{ key: {_text(each)} value: {_text(each)} }}" for kind, each in
            (("input", takes), ("output", gives))]  # fmt: skip
    return f"{{ model_name: {_text(model)} model_version: -1 {' '.join(maps)} }}"


def _image(card: Card) -> str:
    """The network's image; Triton adds the batch to a shape."""
    dims = ", ".join(map(str, card.input_shape))
    return f"{{ name: {_text(INPUT_NAME)} data_type: TYPE_UINT8 dims: [ {dims} ] }}"


def _scores(card: Card) -> str:
    labels = f"label_filename: {_text(LABELS_FILE)}"
    return f"{{ name: {_text(OUTPUT_NAME)} data_type: TYPE_FP32 dims: [ {len(card.classes)} ] {labels} }}"


def _decided_by(card: Card) -> dict[str, str]:
    """What clients need to make an answer of scores."""
    confidence = card.confidence
    return {
        "scores": card.output, "temperature": repr(confidence.temperature), "threshold": repr(confidence.threshold),
    }  # fmt: skip


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}"


def _labels(card: Card) -> str:
    if odd := [name for name in card.classes if len(name.splitlines()) != 1]:
        raise UsageError(f"the class name {odd[0]!r} is not one line, as Triton's labels are; rename the class")
    return "\n".join(card.classes) + "\n"


def _text(text: str) -> str:
    """Quoted and escaped: JSON's escapes of what is in names are those of the text format too."""
    return json.dumps(text, ensure_ascii=False)


def _lines(*lines: str) -> str:
    return "\n".join(lines) + "\n"
