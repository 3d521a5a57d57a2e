from __future__ import annotations

from dataclasses import replace

import pytest

from edgecls import backends, env
from edgecls.errors import UsageError
from edgecls.export.recipe import recipe_for


@pytest.mark.parametrize(
    "name", [name for name, backend in backends.exportable().items() if "int8" in backend.precisions]
)
def test_every_int8_target_has_a_recipe(name: str):
    recipe = recipe_for(name)
    assert recipe.samples >= 100
    assert recipe.to_json()["activations"] in ("uint8", "int8")


def test_tensorrt_gets_signed_symmetric_activations_and_float_biases():
    recipe = recipe_for("tensorrt")
    assert (recipe.activations, recipe.symmetric, recipe.quantize_bias) == ("int8", True, False)
    assert not recipe.reduces_range()


def test_a_target_without_a_recipe_is_named():
    with pytest.raises(UsageError, match="no int8 recipe for target torch"):
        recipe_for("torch")


@pytest.mark.parametrize(
    ("architecture", "instruction_sets", "saturates"),
    [
        ("x86_64", ("AVX2",), True),
        ("x86_64", ("AVX2", "AVX-512"), True),
        ("x86_64", ("AVX2", "AVX-512", "AVX-512 VNNI"), False),
        ("AMD64", ("AVX2", "AVX-VNNI"), False),
        ("aarch64", ("NEON",), False),
    ],
)
def test_weights_get_seven_bits_where_eight_overflow(
    architecture: str, instruction_sets: tuple[str, ...], saturates: bool, monkeypatch: pytest.MonkeyPatch
):
    machine = replace(env.this_machine(), architecture=architecture, instruction_sets=instruction_sets)
    monkeypatch.setattr(env, "this_machine", lambda: machine)
    assert recipe_for("onnx").reduces_range() == saturates
    assert recipe_for("onnx").to_json()["reduced_range"] == saturates
