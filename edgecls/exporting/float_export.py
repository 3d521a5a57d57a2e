"""A float bundle: traced, built, verified and timed."""

from __future__ import annotations

from dataclasses import replace

from edgecls.exporting.build import BundleBuilder, ExportResult
from edgecls.exporting.timing import timed
from edgecls.exporting.verification import Verifier


def export_float(builder: BundleBuilder, verifier: Verifier, precision: str) -> ExportResult:
    """A bundle of float precision, verified, and timed where it can run here.

    Raises `VerificationError` where its scores differ visibly from the run's.
    """
    graph = builder.shared.graph(half=precision == "fp16")
    card = replace(builder.card, precision=precision)
    bundle = verifier.verify_float(builder.float32() if precision == "fp32" else builder.build(graph, card), graph)
    if not builder.is_timed_here:
        return ExportResult(bundle, verifier)
    float32 = builder.float32() if precision != "fp32" else None
    [bundle] = timed([bundle], float32, builder.on_progress)
    return ExportResult(bundle, verifier, float32)
