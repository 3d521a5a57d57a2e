"""Recipes: how a target wants its int8, and the candidates to try. One TOML file per target in `recipes/`.

The top level of a file is the recipe; `[on.CONDITION]` changes it for a kind of processor or a device; each
`[[candidate]]` is one candidate: a name, and what it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from edgecls.backends.base import PROCESSORS
from edgecls.errors import UsageError
from edgecls.files import parse_toml, read_text
from edgecls.runtime import machine

ESTIMATORS = {
    "onnxruntime": ("minmax", "average", "percentile", "entropy"),
    "nncf": ("minmax", "average", "percentile", "mse"),
}
"""The range estimators that each quantizer has."""
NOT_OF_THE_RECIPE = ("on", "candidate")


@dataclass(frozen=True)
class Recipe:
    """How a graph is quantized. Weights are always signed, symmetric and 8 bits wide.

    `quantizer` is the library that does the arithmetic. `activations` and `symmetric` are the scheme of activations;
    for NNCF, `activations` must be "auto": it chooses the sign tensor by tensor. `per_channel` is the granularity of
    weights, `estimator` how ranges are read off the `samples` calibration images. `bias_correction` shifts biases by
    the mean error that quantization makes: "fast" layer by layer, "full" in the order of computation. `reduce_range`
    gives weights 7 bits, `rounding` is that of weights (see `rounding.round_weights`), `quantize_bias` stores biases as
    int32, `quantize_outputs` rounds what layers give out and not only what they take in, `operators` are the ONNX
    operators to quantize (empty: all that the quantizer knows). `float_share` is the share of the layers left in float,
    the most sensitive first; `fine_tune_epochs` trains the weights with quantization simulated before they are
    quantized.
    """

    quantizer: Literal["onnxruntime", "nncf"]
    activations: Literal["uint8", "int8", "auto"]
    symmetric: bool
    estimator: Literal["minmax", "average", "percentile", "entropy", "mse"] = "minmax"
    per_channel: bool = True
    bias_correction: Literal["none", "fast", "full"] = "none"
    samples: int = 300
    reduce_range: bool = False
    rounding: Literal["nearest", "gptq"] = "nearest"
    quantize_bias: bool = True
    quantize_outputs: bool = True
    operators: tuple[str, ...] = ()
    float_share: float = 0.0
    fine_tune_epochs: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for the lineage."""
        return {**asdict(self), "operators": list(self.operators)}


@dataclass(frozen=True)
class RecipeCandidate:
    """One recipe to try. An `alternative` costs no more than the candidate before it: both are tried."""

    name: str
    recipe: Recipe
    alternative: bool = False


def candidates_for(target: str, device: str | None = None, file: Path | None = None) -> tuple[RecipeCandidate, ...]:
    """The candidates to try for a target, cheapest first, from its own recipe or from `file`.

    `device` is what is built for: a kind of processor of `PROCESSORS` or a target's own device; None means this
    machine. Raises `UsageError` for a target without a recipe and for a file that is not one.
    """
    source = Path(str(files("edgecls.quantization") / "recipes" / f"{target}.toml")) if file is None else file
    try:
        text = read_text(source)
    except OSError as error:
        if file is None:
            raise UsageError(f"`target`: there is no int8 recipe for target {target}") from error
        raise UsageError(f"`recipe`: {file} cannot be read ({error.strerror}); give a TOML file") from error
    return parse(text, source.name if file is None else str(file), conditions(device))


def conditions(device: str | None) -> tuple[str, ...]:
    """The names under `[on.…]` that apply: the kind of processor, and the device."""
    if device in PROCESSORS:
        return (device,)
    return (machine.int8_kind(machine.this_machine()), *((device,) if device else ()))


def parse(text: str, origin: str, applying: tuple[str, ...] = ()) -> tuple[RecipeCandidate, ...]:
    """Read a recipe's text; `origin` names it in errors, `applying` are the conditions that hold."""
    record = parse_toml(text, origin)
    if "rung" in record:
        raise UsageError(f"{origin}: [[rung]] is called [[candidate]] now")
    values = {name: value for name, value in record.items() if name not in NOT_OF_THE_RECIPE}
    for name, changes in _tables(record, "on", origin).items():
        if name in applying:
            values.update(changes)
    base = _recipe(values, origin)
    candidates = record.get("candidate", [{"name": "as written"}])
    if (
        not isinstance(candidates, list)
        or not candidates
        or not all(isinstance(candidate, dict) for candidate in candidates)
    ):
        raise UsageError(f"{origin}: candidates are written as [[candidate]] tables")
    return tuple(_candidate(base, values, candidate, origin) for candidate in candidates)


def _tables(record: Mapping[str, Any], name: str, origin: str) -> Mapping[str, Mapping[str, Any]]:
    tables = record.get(name, {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise UsageError(f"{origin}: {name} holds tables, [{name}.NAME]")
    return tables


def _candidate(base: Recipe, values: Mapping[str, Any], candidate: Mapping[str, Any], origin: str) -> RecipeCandidate:
    changes = dict(candidate)
    name, alternative = changes.pop("name", None), changes.pop("alternative", False)
    if not isinstance(name, str) or not name:
        raise UsageError(f"{origin}: each candidate needs a name")
    recipe = _recipe({**values, **changes}, f"{origin}, candidate {name!r}") if changes else base
    return RecipeCandidate(name, recipe, bool(alternative))


def _recipe(values: Mapping[str, Any], origin: str) -> Recipe:
    hints = get_type_hints(Recipe)
    known = {field.name for field in fields(Recipe)}
    if unknown := sorted(values.keys() - known):
        raise UsageError(f"{origin}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    for name, value in values.items():
        _check_value(name, value, hints[name], origin)
    try:
        recipe = Recipe(**{**values, "operators": tuple(values.get("operators", ()))})
    except TypeError as error:
        missing = [name for name in ("quantizer", "activations", "symmetric") if name not in values]
        raise UsageError(f"{origin} lacks {', '.join(missing)}") from error
    _check_together(recipe, origin)
    return replace(recipe, float_share=float(recipe.float_share))


def _check_value(name: str, value: Any, hint: Any, origin: str) -> None:
    if choices := [choice for choice in get_args(hint) if isinstance(choice, str)]:
        if value not in choices:
            raise UsageError(f"{origin}: {name} is one of {', '.join(choices)}, not {value!r}")
    elif name == "operators":
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UsageError(f"{origin}: operators is a list of ONNX operator names")
    elif isinstance(value, bool) != (hint is bool) or not isinstance(value, int if hint is int else (hint, int)):
        raise UsageError(f"{origin}: {name} is a {hint.__name__}, not {value!r}")


def _check_together(recipe: Recipe, origin: str) -> None:
    allowed = ESTIMATORS[recipe.quantizer]
    if recipe.estimator not in allowed:
        raise UsageError(
            f"{origin}: {recipe.quantizer} has no range estimator {recipe.estimator}; it has {', '.join(allowed)}"
        )
    if (recipe.activations == "auto") != (recipe.quantizer == "nncf"):
        raise UsageError(f'{origin}: activations = "auto" goes with quantizer = "nncf", and only with it')
    if recipe.quantizer == "nncf" and recipe.operators:
        raise UsageError(f"{origin}: nncf places its quantizers itself; leave operators out")
    if recipe.rounding == "gptq" and (recipe.quantizer == "nncf" or recipe.bias_correction != "none"):
        raise UsageError(f'{origin}: rounding = "gptq" goes with quantizer = "onnxruntime" and without bias_correction')
    if recipe.samples < 1 or recipe.fine_tune_epochs < 0 or not 0 <= recipe.float_share < 1:
        raise UsageError(f"{origin}: samples is at least 1, fine_tune_epochs at least 0, float_share within 0 and 1")
