"""edgecls: from a folder of photographs to a verified, fast classifier running on the device in front of you.

>>> import edgecls
>>> run, metrics = edgecls.train(edgecls.TrainConfig(data="photographs", epochs=5))  # doctest: +SKIP
>>> bundle = edgecls.export(edgecls.ExportConfig(run=run, target="onnx", precision="int8"))  # doctest: +SKIP
>>> model = edgecls.load(bundle.path)  # doctest: +SKIP
>>> model.predict("photo.jpg").label  # doctest: +SKIP
'seven'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecls.adapting.adapt import Adapted, adapt
    from edgecls.adapting.config import AdaptConfig
    from edgecls.adapting.verdict import Verdict
    from edgecls.artifact.card import Card
    from edgecls.benchmarking.config import BenchmarkConfig, Constraints
    from edgecls.errors import (
        ArtifactError,
        BackendError,
        DataError,
        EdgeclsError,
        ImageError,
        MissingExtraError,
        OutputError,
        SourceError,
        UsageError,
        VerificationError,
    )
    from edgecls.evaluation.benchmark import benchmark
    from edgecls.evaluation.config import CompareConfig, EvaluateConfig
    from edgecls.evaluation.evaluation import evaluate
    from edgecls.exporting.bundle import ExportOutcome, export, export_all
    from edgecls.exporting.compare import compare
    from edgecls.exporting.config import ExportConfig
    from edgecls.imaging.preprocess import Preprocess
    from edgecls.importers.config import ImportConfig
    from edgecls.importers.model import import_model
    from edgecls.retraining.config import RetrainConfig
    from edgecls.retraining.retrain import Retrained, retrain
    from edgecls.runtime.classifier import Classifier, Prediction, load
    from edgecls.runtime.store import Artifact
    from edgecls.runtime.verification import verify
    from edgecls.serving.config import ServeConfig
    from edgecls.serving.run import serve
    from edgecls.shrinking.config import ShrinkConfig
    from edgecls.shrinking.search import shrink
    from edgecls.streaming.config import (
        CameraOptions,
        CaptureFormat,
        ReconnectPolicy,
        SinkConfig,
        Smoothing,
        StreamConfig,
    )
    from edgecls.streaming.frames import Geometry, Region
    from edgecls.streaming.run import stream
    from edgecls.training.config import TrainConfig
    from edgecls.training.loop import resume, train
    from edgecls.tuning.config import TuneConfig
    from edgecls.tuning.search import tune

__version__ = "0.1.0"

_NAMES = {
    "adapting.adapt": ("Adapted", "adapt"),
    "adapting.config": ("AdaptConfig",),
    "adapting.verdict": ("Verdict",),
    "artifact.card": ("Card",),
    "benchmarking.config": ("BenchmarkConfig", "Constraints"),
    "errors": (
        "ArtifactError", "BackendError", "DataError", "EdgeclsError", "ImageError", "MissingExtraError", "OutputError",
        "SourceError", "UsageError", "VerificationError",
    ),
    "evaluation.benchmark": ("benchmark",),
    "evaluation.config": ("CompareConfig", "EvaluateConfig"),
    "evaluation.evaluation": ("evaluate",),
    "exporting.bundle": ("ExportOutcome", "export", "export_all"),
    "exporting.compare": ("compare",),
    "exporting.config": ("ExportConfig",),
    "imaging.preprocess": ("Preprocess",),
    "importers.config": ("ImportConfig",),
    "importers.model": ("import_model",),
    "retraining.config": ("RetrainConfig",),
    "retraining.retrain": ("Retrained", "retrain"),
    "runtime.classifier": ("Classifier", "Prediction", "load"),
    "runtime.store": ("Artifact",),
    "runtime.verification": ("verify",),
    "serving.config": ("ServeConfig",),
    "serving.run": ("serve",),
    "shrinking.config": ("ShrinkConfig",),
    "shrinking.search": ("shrink",),
    "streaming.config": (
        "CameraOptions", "CaptureFormat", "ReconnectPolicy", "SinkConfig", "Smoothing", "StreamConfig",
    ),
    "streaming.frames": ("Geometry", "Region"),
    "streaming.run": ("stream",),
    "training.config": ("TrainConfig",),
    "training.loop": ("resume", "train"),
    "tuning.config": ("TuneConfig",),
    "tuning.search": ("tune",),
}  # fmt: skip
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [  # noqa: RUF022
    "load", "Classifier", "Prediction", "Artifact", "Card", "Preprocess", "__version__",
    "train", "resume", "TrainConfig", "tune", "TuneConfig", "shrink", "ShrinkConfig", "import_model", "ImportConfig",
    "retrain", "RetrainConfig", "Retrained", "adapt", "AdaptConfig", "Adapted", "Verdict",
    "export", "export_all", "ExportConfig", "ExportOutcome",
    "evaluate", "EvaluateConfig", "compare", "CompareConfig", "benchmark", "BenchmarkConfig", "Constraints", "verify",
    "stream", "StreamConfig", "CameraOptions", "CaptureFormat", "Geometry", "Region", "ReconnectPolicy", "Smoothing",
    "SinkConfig", "serve", "ServeConfig",
    "EdgeclsError", "UsageError", "DataError", "ImageError", "ArtifactError", "BackendError", "MissingExtraError",
    "VerificationError", "SourceError", "OutputError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import edgecls` costs nothing."""
    if name not in _MODULES:
        raise AttributeError(f"module 'edgecls' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"edgecls.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
