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
    graph = builder.trace(half=precision == "fp16")
    bundle = verifier.verify_float(builder.build(graph, replace(builder.card, precision=precision)))
    if not builder.is_timed_here:
        return ExportResult(bundle, verifier)
    float32 = None
    if precision != "fp32":
        float32 = builder.build(builder.trace() if precision == "fp16" else graph, builder.card)
    [bundle] = timed([bundle], float32, builder.on_progress)
    return ExportResult(bundle, verifier, float32)
