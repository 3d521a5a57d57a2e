"""Recipes: how a target wants its int8. One TOML file per target stands in `recipes/`."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal

from edgecls import env
from edgecls.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Recipe:
    """How a graph is quantized.

    `activations` and `symmetric` are the scheme of activations (weights are always signed and symmetric), `per_channel`
    the granularity of weights, `estimator` how ranges are read off the calibration images, `samples` how many of these
    are used, `operators` the ONNX operators to quantize (empty: all that can be).
    """

    activations: Literal["uint8", "int8"]
    symmetric: bool
    per_channel: bool
    estimator: Literal["minmax", "percentile", "entropy"]
    samples: int
    reduce_range: Literal["auto", "always", "never"]
    quantize_bias: bool
    operators: tuple[str, ...]

    def reduces_range(self) -> bool:
        """Whether weights get 7 bits on this machine."""
        return self.reduce_range == "always" or (self.reduce_range == "auto" and env.saturates_u8s8(env.this_machine()))

    def to_json(self) -> dict[str, Any]:
        """Plain values for the lineage, with what "auto" came to."""
        return {**asdict(self), "operators": list(self.operators), "reduced_range": self.reduces_range()}


def recipe_for(target: str) -> Recipe:
    """The recipe of a target. Raises `UsageError` where it has none."""
    text = files("edgecls.export") / "recipes" / f"{target}.toml"
    if not text.is_file():
        raise UsageError(f"there is no int8 recipe for target {target}")
    values = tomllib.loads(text.read_text(encoding="utf-8"))
    return Recipe(**{**values, "operators": tuple(values["operators"])})
