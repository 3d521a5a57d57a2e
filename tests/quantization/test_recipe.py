from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgecls import backends
from edgecls.errors import UsageError
from edgecls.quantization.recipe import RecipeCandidate, candidates_for, parse
from edgecls.runtime import machine

INT8_TARGETS = [name for name, backend in backends.exportable().items() if "int8" in backend.precisions]
BASE = 'quantizer = "onnxruntime"\nactivations = "uint8"\nsymmetric = false\n'


@pytest.mark.parametrize("target", INT8_TARGETS)
def test_every_int8_target_has_candidates_that_end_with_fine_tuning(target: str):
    candidates = candidates_for(target)
    assert candidates[0].recipe.samples >= 100
    assert candidates[0].recipe.float_share == candidates[0].recipe.fine_tune_epochs == 0
    assert candidates[-1].recipe.fine_tune_epochs == 1
    assert len({candidate.name for candidate in candidates}) == len(candidates) >= 5


def test_tensorrt_gets_signed_symmetric_activations_and_float_biases_on_every_candidate():
    for candidate in candidates_for("tensorrt"):
        recipe = candidate.recipe
        assert (recipe.activations, recipe.symmetric, recipe.quantize_bias, recipe.reduce_range) == (
            "int8", True, False, False,
        )  # fmt: skip


def test_a_target_without_a_recipe_is_named():
    with pytest.raises(UsageError, match="no int8 recipe for target torch"):
        candidates_for("torch")


@pytest.mark.parametrize(
    ("architecture", "instruction_sets", "kind"),
    [
        ("x86_64", ("AVX2",), "x86"),
        ("x86_64", ("AVX2", "AVX-512"), "x86"),
        ("x86_64", ("AVX2", "AVX-512", "AVX-512 VNNI"), "x86-vnni"),
        ("AMD64", ("AVX2", "AVX-VNNI"), "x86-vnni"),
        ("aarch64", ("NEON",), "arm"),
    ],
)
def test_the_recipe_follows_the_processor(
    architecture: str, instruction_sets: tuple[str, ...], kind: str, monkeypatch: pytest.MonkeyPatch
):
    described = replace(machine.this_machine(), architecture=architecture, instruction_sets=instruction_sets)
    monkeypatch.setattr(machine, "this_machine", lambda: described)
    assert candidates_for("onnx") == candidates_for("onnx", kind)


def test_weights_get_seven_bits_where_eight_overflow_and_arm_gets_signed_activations():
    assert [candidates_for("onnx", kind)[0].recipe.reduce_range for kind in ("x86", "x86-vnni", "arm")] == [
        True, False, False,
    ]  # fmt: skip
    assert [candidates_for("onnx", kind)[0].recipe.activations for kind in ("x86-vnni", "arm")] == ["uint8", "int8"]
    assert candidates_for("openvino", "NPU")[0].recipe.quantizer == "nncf"


def test_a_file_of_ones_own_replaces_the_recipe(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text(
        BASE + '[[candidate]]\nname = "first"\n[[candidate]]\nname = "second"\nestimator = "entropy"\nsamples = 32\n'
    )
    first, second = candidates_for("onnx", file=file)
    assert (first.name, first.recipe.estimator, first.recipe.samples) == ("first", "minmax", 300)
    assert (second.name, second.recipe.estimator, second.recipe.samples) == ("second", "entropy", 32)


def test_a_recipe_without_candidates_is_one_candidate():
    [candidate] = parse(BASE, "mine.toml")
    assert isinstance(candidate, RecipeCandidate)
    assert candidate.name == "as written"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quantizer = ", "not valid TOML"),
        (BASE + "colour = 1", "unknown key 'colour'; known are activations,"),
        ('quantizer = "onnxruntime"', "lacks activations, symmetric"),
        (BASE.replace("uint8", "uint4"), "activations is one of uint8, int8, auto, not 'uint4'"),
        (BASE + "samples = true", "samples is a int, not True"),
        (BASE + "samples = 0", "samples is at least 1"),
        (BASE + 'per_channel = "yes"', "per_channel is a bool, not 'yes'"),
        (BASE + 'operators = "Conv"', "operators is a list"),
        (BASE + 'estimator = "mse"', "onnxruntime has no range estimator mse; it has minmax,"),
        (BASE.replace("onnxruntime", "nncf"), 'activations = "auto" goes with quantizer = "nncf"'),
        (BASE + '[[rung]]\nname = "x"', r"\[\[rung\]\] is called \[\[candidate\]\] now"),
        (BASE + "candidate = 1", "candidates are written as"),
        (BASE + "[[candidate]]\nsamples = 5", "each candidate needs a name"),
        (BASE + '[[candidate]]\nname = "x"\nsample = 5', "candidate 'x': unknown key 'sample'"),
        (BASE + "on = 3", r"on holds tables, \[on.NAME\]"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused_in_one_line(text: str, message: str):
    with pytest.raises(UsageError, match=message) as caught:
        parse(text, "mine.toml")
    assert str(caught.value).startswith("mine.toml")


def test_a_recipe_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be read"):
        candidates_for("onnx", file=tmp_path / "none.toml")
