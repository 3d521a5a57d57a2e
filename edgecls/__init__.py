"""edgecls: from a folder of photographs to a verified, fast classifier running on the device in front of you.

>>> import edgecls
>>> model = edgecls.load("runs/001-digits-mobilenet_v3_small")  # doctest: +SKIP
>>> model.predict("photo.jpg").label  # doctest: +SKIP
'seven'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecls.artifact.card import Card
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
    from edgecls.imaging.preprocess import Preprocess
    from edgecls.runtime.classifier import Classifier, Prediction, load

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022
    "Card", "Classifier", "Prediction", "Preprocess", "load", "__version__",
    "ArtifactError", "BackendError", "DataError", "EdgeclsError", "ImageError", "MissingExtraError", "OutputError",
    "SourceError", "UsageError", "VerificationError",
]  # fmt: skip
_HOMES = {
    "Card": "artifact.card",
    "Classifier": "runtime.classifier",
    "Prediction": "runtime.classifier",
    "Preprocess": "imaging.preprocess",
    "load": "runtime.classifier",
    **{name: "errors" for name in __all__ if name.endswith("Error")},
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import edgecls` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgecls' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"edgecls.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
