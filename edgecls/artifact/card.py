"""The card: the one record that travels with every artifact and holds all that a runtime needs.

An artifact is a folder with `card.json`, the model file and `golden.npz`. The card is also embedded in the model file
itself, less what can only be known after the file is written (hashes, quality), so that a bare file still runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from edgecls.artifact.terms import InnerTensor, Output, Precision
from edgecls.errors import ArtifactError
from edgecls.fields import Fields, parse_json
from edgecls.files import read_text, sha256, write_text
from edgecls.imaging.preprocess import Preprocess

SCHEMA = 2
CARD_FILE = "card.json"
HEAD_FILE = "head.onnx"
"""Of a bundle that was exported with it: the last layers as a graph of their own, in float32."""
INPUT_NAME = "image"
OUTPUT_NAME = "scores"
EMBEDDED_KEY = "edgecls_card"
IMPORTED = "imported"
"""The architecture of networks that came as a graph."""
MIN_GAIN = 1.05
"""What lowered precision must gain over float32 to be recommended: less is within the noise of a measurement."""


@dataclass(frozen=True)
class Runtime:
    """What the artifact was built with, and for which device where that matters.

    `batch` and `workspace_mib` are what engines are built with: the smallest, most frequent and largest batch, and the
    memory that building may use.
    """

    name: str
    version: str
    device: str = ""
    note: str = ""
    batch: tuple[int, int, int] | None = None
    workspace_mib: int | None = None


@dataclass(frozen=True)
class Lineage:
    """Where the artifact comes from.

    `files` maps each model file's name to its SHA-256, the file to open first. `parent` is the SHA-256 of the parent's
    first file, `recipe` how precision was lowered, `calibration` the digest and size of the calibration manifest,
    `candidates` what else was tried, with its figures, `shrunk` which run this one was made smaller from, how, and
    what that brought and cost, and `relearned` what a run or bundle learned again from, with the verdict.
    """

    created: str = ""
    edgecls: str = ""
    machine: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    data: str | None = None
    recipe: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None
    candidates: Sequence[Mapping[str, Any]] | None = None
    shrunk: Mapping[str, Any] | None = None
    relearned: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Quality:
    """What was measured; None where it was not.

    `top1` and `agreement` are fractions of `images` held-out images from `split`, `drop_points` is the parent's top-1
    minus this one's in percentage points, with 95 % confidence from `drop_low_points` to `drop_high_points`, which are
    twice `drop_interval_points` apart, `max_score_difference` is the largest difference of a score from the parent's
    and `rms_score_difference` the root of their mean square. `verified_with` names the runtime that gave the answers,
    `latency_ms` is the median at batch 1 on `latency_machine`. `gain` says how many times as fast as float32 in the
    same runtime a lowered precision was there, timed in turn, and `recommended` whether it is to be preferred to
    float32. `note` says in plain words what the figures leave open.
    """

    split: str | None = None
    images: int | None = None
    top1: float | None = None
    macro_f1: float | None = None
    agreement: float | None = None
    drop_points: float | None = None
    drop_interval_points: float | None = None
    drop_low_points: float | None = None
    drop_high_points: float | None = None
    max_score_difference: float | None = None
    rms_score_difference: float | None = None
    verified_with: str | None = None
    latency_ms: float | None = None
    latency_machine: str | None = None
    gain: float | None = None
    recommended: bool | None = None
    note: str | None = None

    def with_verdict(self) -> Quality:
        """The same with `recommended` as the gain says."""
        return replace(self, recommended=None if self.gain is None else self.gain >= MIN_GAIN)


@dataclass(frozen=True)
class Confidence:
    """How scores become an answer: divided by `temperature` before they are made probabilities; an answer whose
    probability is below `threshold` is "unsure". A class in `thresholds` has one of its own in place of that. All are
    fitted on validation images.
    """

    temperature: float = 1.0
    threshold: float = 0.0
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def threshold_of(self, name: str) -> float:
        """The probability from which on the answer is this class."""
        return self.thresholds.get(name, self.threshold)

    def require_known(self, classes: Sequence[str], origin: str) -> None:
        """Raise `ArtifactError` for the threshold of a class that there is not."""
        if strange := sorted(set(self.thresholds) - set(classes)):
            raise ArtifactError(f"{origin}: confidence.thresholds names {strange[0]!r}, which is none of its classes")


@dataclass(frozen=True)
class Card:
    """The contract of one artifact; see the module's text. `target` names the backend that opens it.

    `output` says what the network's scores are; it is decided once, when a network is trained or imported.
    `inner_tensors` says what the graph calls its "embedding", which the last layer takes in, and its "feature_map", the
    last one before the pooling, where it has them.
    """

    arch: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    target: str
    precision: str = "fp32"
    confidence: Confidence = field(default_factory=Confidence)
    runtime: Runtime | None = None
    lineage: Lineage = field(default_factory=Lineage)
    quality: Quality = field(default_factory=Quality)
    schema: int = SCHEMA
    output: Output = "logits"
    inner_tensors: Mapping[str, str] = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one raw input image: (height, width, 3)."""
        return self.preprocess.height_px, self.preprocess.width_px, 3

    @property
    def device(self) -> str:
        """What it was built for, where the target asks; an empty text otherwise."""
        return self.runtime.device if self.runtime else ""

    @property
    def model_file(self) -> str:
        """Name of the file that a runtime opens first."""
        if not self.lineage.files:
            raise ArtifactError("the card names no model file; export the run again")
        return next(iter(self.lineage.files))

    @property
    def is_parent(self) -> bool:
        """Whether this is a trained run, which other artifacts are compared with."""
        return self.lineage.parent is None

    @property
    def verified(self) -> bool:
        """Whether the answers were compared with the parent's."""
        return self.quality.agreement is not None

    @property
    def name(self) -> str:
        """Target and precision, the name of a bundle's folder: `onnx-int8`."""
        return f"{self.target}-{self.precision}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, `io` included, in the order in which a person wants to read them."""
        height, width, channels = self.input_shape
        return {
            "schema": self.schema,
            "arch": self.arch,
            "target": self.target,
            "precision": self.precision,
            "classes": list(self.classes),
            "preprocess": self.preprocess.to_json(),
            "io": {
                "input": {
                    "name": INPUT_NAME,
                    "dtype": "uint8",
                    "layout": "NHWC",
                    "shape": [-1, height, width, channels],
                },
                "output": {"name": OUTPUT_NAME, "dtype": "float32", "layout": "NC", "shape": [-1, len(self.classes)]},
            },
            "output": self.output,
            "inner_tensors": dict(self.inner_tensors),
            "confidence": asdict(self.confidence),
            "runtime": asdict(self.runtime) if self.runtime else None,
            "lineage": asdict(self.lineage),
            "quality": asdict(self.quality),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], origin: str) -> Card:
        """Read what `to_json` wrote; `origin` names the place in errors. Unknown fields of the same schema are ignored.

        Raises `ArtifactError` for a newer schema or a record that is no card.
        """
        fields = Fields(record, origin)
        schema = record.get("schema")
        if not isinstance(schema, int) or isinstance(schema, bool):
            raise ArtifactError(f"{origin} is not an edgecls card: it has no schema number")
        if fields.schema(SCHEMA) < SCHEMA:
            fields = Fields(_migrated(record, origin), origin)
        card = cls(
            arch=fields.text("arch"),
            classes=fields.names("classes"),
            preprocess=Preprocess.from_fields(fields.within("preprocess")),
            target=_target(fields),
            precision=fields.choice("precision", get_args(Precision)),
            confidence=read_confidence(fields.within("confidence")),
            runtime=_runtime(fields.within("runtime")) if fields.has("runtime") else None,
            lineage=_lineage(fields.within("lineage")),
            quality=_quality(fields.within("quality")),
            output=fields.choice("output", get_args(Output), "logits"),
            inner_tensors=_inner_tensors(fields),
        )
        card.confidence.require_known(card.classes, origin)
        if card.arch == IMPORTED and not fields.has("output"):
            fields.fail("output", "logits or probabilities, which older programs guessed: import the network again")
        if fields.has("io") and record["io"] != card.to_json()["io"]:
            fields.fail("io", f"what classes and preprocess say ({card.to_json()['io']})")
        return card

    def embedded(self) -> str:
        """The card as text for inside the model file: without hashes of that file and without quality."""
        record = replace(self, lineage=replace(self.lineage, files={}), quality=Quality()).to_json()
        return json.dumps(record, separators=(",", ":"))

    @classmethod
    def from_embedded(cls, text: str | None, origin: str) -> Card:
        """Read what `embedded` wrote. Raises `ArtifactError` where there is nothing or something else."""
        if not text:
            raise ArtifactError(
                f"{origin} carries no edgecls card, so its classes and preprocessing are unknown; "
                "use a file that `edgecls export` wrote"
            )
        try:
            record = parse_json(text)
        except ValueError as error:
            raise ArtifactError(f"the card inside {origin} is damaged ({error})") from error
        return cls.from_json(record, f"the card inside {origin}")

    def model_info(self) -> dict[str, str]:
        """The keys under `model_info` by which OpenVINO Model API runs a bare file.

        Model API has no counterpart of `pyramid` and `area`, nor of a crop below 1: it interpolates linearly and keeps
        the whole region, so that its answers can differ on images more than twice as large as the network's input.

        Labels are separated by blanks there, so blanks inside a class name become underscores. See the
        `ClassificationModel` wrapper's parameters in Model API's documentation.
        """
        resize = {"crop": "crop", "stretch": "standard", "letterbox": "fit_to_window_letterbox"}
        interpolation = {"cubic": "CUBIC", "nearest": "NEAREST"}
        return {
            "model_type": "Classification",
            "labels": " ".join("_".join(name.split()) for name in self.classes),
            "multilabel": "False",
            "hierarchical": "False",
            "resize_type": resize[self.preprocess.resize],
            "interpolation_mode": interpolation.get(self.preprocess.interpolation, "LINEAR"),
            "reverse_input_channels": "True",
            "output_raw_scores": "True",
        }


def _migrated(record: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """A record of schema 1 as one of schema 2, which calls what an int8 export tried candidates, not rungs."""
    lineage = Fields(record, origin).within("lineage")
    tried = [_renamed(each, "rung", "candidate") for each in lineage.mappings("ladder") or ()]
    recipe = lineage.mapping("recipe")
    return {
        **record,
        "schema": SCHEMA,
        "lineage": {
            **(record.get("lineage") or {}),
            "candidates": tried or None,
            "recipe": _renamed(recipe, "rung", "candidate") if recipe else None,
        },
    }


def _renamed(record: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if key == old else key: value for key, value in record.items()}


def _target(fields: Fields) -> str:
    name = fields.text("target")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or name.startswith("."):
        fields.fail("target", "the name of a backend")
    return name


def _inner_tensors(fields: Fields) -> dict[str, str]:
    tensors = fields.mapping("inner_tensors") or {}
    for kind, name in tensors.items():
        if kind not in get_args(InnerTensor) or not isinstance(name, str) or not name:
            fields.fail("inner_tensors", f"names of tensors, under {' and '.join(get_args(InnerTensor))}")
    return dict(tensors)


def read_confidence(fields: Fields) -> Confidence:
    """Temperature and thresholds from the fields of an object."""
    by_class = fields.within("thresholds")
    return Confidence(
        fields.number("temperature", 1e-3, 1e3, 1.0),
        fields.number("threshold", 0.0, 1.0, 0.0),
        {name: by_class.number(name, 0.0, 1.0) for name, _ in fields.items("thresholds")},
    )


def _runtime(fields: Fields) -> Runtime:
    batch = None
    if fields.has("batch"):
        low, usual, high = sizes = fields.numbers("batch", 3, 1, 1 << 16)
        batch = int(low), int(usual), int(high)
        if sum(batch) != sum(sizes) or not low <= usual <= high:
            fields.fail("batch", "the smallest, most frequent and largest batch, in this order")
    return Runtime(
        fields.text("name", ""), fields.text("version", ""), fields.text("device", ""), fields.text("note", ""),
        batch, fields.optional_integer("workspace_mib", 1, 1 << 24),
    )  # fmt: skip


def _lineage(fields: Fields) -> Lineage:
    for name, digest in fields.items("files"):
        if not isinstance(digest, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
            fields.fail("files", "names of files in this folder, each with its SHA-256")
    return Lineage(
        created=fields.text("created", ""),
        edgecls=fields.text("edgecls", ""),
        machine=fields.text("machine", ""),
        files=fields.mapping("files") or {},
        parent=fields.optional_text("parent"),
        data=fields.optional_text("data"),
        recipe=fields.mapping("recipe"),
        calibration=fields.mapping("calibration"),
        candidates=fields.mappings("candidates"),
        shrunk=fields.mapping("shrunk"),
        relearned=fields.mapping("relearned"),
    )


def _quality(fields: Fields) -> Quality:
    return Quality(
        split=fields.optional_text("split"),
        images=fields.optional_integer("images", 0, 1 << 53),
        top1=fields.optional_number("top1", 0, 1),
        macro_f1=fields.optional_number("macro_f1", 0, 1),
        agreement=fields.optional_number("agreement", 0, 1),
        drop_points=fields.optional_number("drop_points", -100, 100),
        drop_interval_points=fields.optional_number("drop_interval_points", 0, 200),
        drop_low_points=fields.optional_number("drop_low_points", -100, 100),
        drop_high_points=fields.optional_number("drop_high_points", -100, 100),
        max_score_difference=fields.optional_number("max_score_difference", 0, 1e30),
        rms_score_difference=fields.optional_number("rms_score_difference", 0, 1e30),
        verified_with=fields.optional_text("verified_with"),
        latency_ms=fields.optional_number("latency_ms", 0, 1e9),
        latency_machine=fields.optional_text("latency_machine"),
        gain=fields.optional_number("gain", 0, 1e6),
        recommended=fields.flag("recommended"),
        note=fields.optional_text("note"),
    )


def read_card(folder: Path) -> Card:
    """Read `folder/card.json`. Raises `ArtifactError` where it is missing or unusable."""
    path = folder / CARD_FILE
    try:
        record = parse_json(read_text(path))
    except FileNotFoundError:
        raise ArtifactError(f"{folder} holds no {CARD_FILE}: it is neither a run nor a bundle of edgecls") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(f"{path} cannot be read ({reason}); export or train again") from error
    return Card.from_json(record, str(path))


def write_card(card: Card, folder: Path) -> None:
    """Write `folder/card.json` atomically."""
    write_text(folder / CARD_FILE, json.dumps(card.to_json(), indent=2) + "\n")


def with_files(card: Card, folder: Path, names: list[str]) -> Card:
    """The card with the hashes of `names` in `folder`, the file to open first at the front."""
    return replace(card, lineage=replace(card.lineage, files={name: sha256(folder / name) for name in names}))


def check_files(card: Card, folder: Path) -> None:
    """Compare every model file with its hash. Raises `ArtifactError` for a missing or changed one."""
    for name, expected in card.lineage.files.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{path} is missing, though the card names it; copy the whole folder or export again")
        if sha256(path) != expected:
            raise ArtifactError(f"{path} is not the file that its card describes (SHA-256 differs); export again")
