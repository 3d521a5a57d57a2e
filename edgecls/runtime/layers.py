"""What a runtime makes of a model: layers, their precision, and whether int8 is where it should be."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgecls.backends.base import Layer
from edgecls.backends.onnx_graph import NORMALIZE_PREFIX
from edgecls.runtime.store import Artifact


@dataclass(frozen=True)
class LayerProfile:
    """The layers of an artifact. `shares` are the fractions of the time, or where no time was measured of the layers
    with weights, that each precision has; `unquantized` names layers with weights that an int8 artifact computes in
    float though its recipe does not leave them out. `total_ms` is the sum of the layers' times, None where none was
    measured.
    """

    layers: list[Layer]
    shares: dict[str, float]
    unquantized: list[str]
    total_ms: float | None
    warnings: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """The shares in words."""
        weighted = [layer for layer in self.layers if layer.weighted]
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in self.shares.items())
        counted = f"{len(self.layers)} layers, {len(weighted)} with weights"
        if self.total_ms is None:
            return f"{counted}, of these {shares}: what the graph asks for; there is no GPU here to look into an engine"
        return f"{counted}; of {self.total_ms:.2f} ms: {shares}"


def profile_layers(artifact: Artifact) -> LayerProfile:
    """Ask the artifact's runtime what it computes on one image. Raises what `Backend.layers` raises."""
    import numpy as np

    image = np.zeros((1, *artifact.card.input_shape), np.uint8)
    layers = artifact.backend.layers(artifact.path, artifact.card, image)
    times_ms = [layer.time_ms for layer in layers if layer.time_ms is not None]
    total_ms = sum(times_ms) if times_ms else None
    unquantized = _unquantized(artifact, layers)
    warnings = (
        [
            f"{len(unquantized)} layers with weights compute in float though the recipe says int8: "
            f"{', '.join(unquantized[:5])}"
        ]
        if unquantized
        else []
    )
    return LayerProfile(layers, _shares(layers, timed=total_ms is not None), unquantized, total_ms, warnings)


def _shares(layers: list[Layer], timed: bool) -> dict[str, float]:
    weights = [(layer.precision, (layer.time_ms or 0.0) if timed else float(layer.weighted)) for layer in layers]
    total = sum(weight for _, weight in weights) or 1.0
    sums: dict[str, float] = {}
    for precision, weight in weights:
        sums[precision] = sums.get(precision, 0.0) + weight
    return {name: weight / total for name, weight in sorted(sums.items(), key=lambda item: -item[1]) if weight}


def _unquantized(artifact: Artifact, layers: list[Layer]) -> list[str]:
    if artifact.card.precision != "int8":
        return []
    kept = (artifact.card.lineage.recipe or {}).get("float_layers")
    left_out = (NORMALIZE_PREFIX, *(map(str, kept) if isinstance(kept, list) else ()))
    return [
        layer.name
        for layer in layers
        if layer.weighted and layer.precision != "int8" and not any(name in layer.name for name in left_out)
    ]
