"""OpenVINO computes in the precision that the card names, whatever the processor would like best."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from edgecls import backends
from edgecls.backends import openvino as backend
from edgecls.errors import BackendError
from edgecls.runtime.store import Artifact

pytest.importorskip("openvino")


@pytest.mark.parametrize(("precision", "computes_in"), [("fp32", "f32"), ("int8", "f32"), ("bf16", "bf16")])
def test_float_layers_are_computed_in_the_named_precision(
    bundle: Callable[[str, str], Artifact], precision: str, computes_in: str
):
    with bundle("openvino", precision).open() as session:
        hint = session._single.compiled.get_property("INFERENCE_PRECISION_HINT")
    assert hint.get_type_name() == computes_in


@pytest.mark.parametrize(
    ("precision", "device", "able", "hint"),
    [
        ("fp32", "CPU", True, "f32"),
        ("fp16", "CPU", False, "f32"),  # told f16, a processor with bfloat16 alone takes that
        ("fp16", "CPU", True, "f16"),
        ("bf16", "CPU", True, "bf16"),
        ("bf16", "CPU", False, "f32"),  # a bundle from a machine that has it
        ("int8", "CPU", True, "f32"),
        ("fp32", "GPU", True, "f32"),
        ("int8", "GPU", True, None),
        ("fp32", "NPU", True, None),
    ],
)
def test_the_hint_follows_precision_device_and_ability(
    monkeypatch: pytest.MonkeyPatch, precision: str, device: str, able: bool, hint: str | None
):
    monkeypatch.setattr(backend, "_computes_in", lambda *_: able)
    assert backend._float_precision(precision, device) == hint


def test_bfloat16_is_refused_where_the_processor_lacks_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backend, "_computes_in", lambda *_: False)
    with pytest.raises(BackendError, match="has no bfloat16 arithmetic"):
        backends.find("openvino").check_request("bf16")


def test_a_signal_after_models_were_closed_in_any_order_ends_the_process_as_it_should(
    bundle: Callable[[str, str], Artifact],
):
    """OpenVINO's cores replace the stack that signals run on; see `backend._core`."""
    places = [str(bundle("openvino", precision).path) for precision in ("fp32", "int8")]
    script = f"""
import faulthandler, os, signal
faulthandler.enable()
from pathlib import Path
from edgecls.runtime import store
first, second = (store.find(Path(place)).open() for place in {places})
for session in (first, second):
    session.close()
del first, second, session
import gc; gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
