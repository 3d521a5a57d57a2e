"""Which score tells images of things that a model was not trained for: AUROC and false positives on real pairs.

    python benchmarks/unknown.py BUNDLE=OTHERS [BUNDLE=OTHERS ...] [--images N] [--json FILE]

Each pair is a bundle inside of its run's folder, whose test images are the known ones, and a folder of images that show
other things. Everything is fitted on the run's validation images, as an export does: K principal components of their
embeddings, and thresholds at 1 % false refusals, cross-fitted. For each score: the area under the ROC curve (AUROC),
the share of others that pass where 95 % of the known do (FPR95), and, at the threshold, the share of known test images
that are refused and of others that are found. For the score that is used, also what it takes an image, in milliseconds
of one thread's processor time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from edgecls.artifact import reference as reference_module
from edgecls.artifact.reference import FALSE_REFUSALS, Reference, cross_fitted, refusal_threshold
from edgecls.runtime.pipeline import outputs_of
from edgecls.runtime.scores import as_logits, softmax
from edgecls.vectors import directions

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    Scores = NDArray[float32]
    Scorer = Callable[[Reference, Scores, Scores], Scores]


def energy(_reference: Reference, logits: Scores, _embeddings: Scores) -> Scores:
    """The negative logarithm of the sum of exponentials of logits (Liu et al. 2020)."""
    return reference_module.energy(logits)


def max_softmax(_reference: Reference, logits: Scores, _embeddings: Scores) -> Scores:
    """One minus the best class' probability (Hendrycks and Gimpel 2017)."""
    return 1 - softmax(logits).max(axis=1)


def max_logit(_reference: Reference, logits: Scores, _embeddings: Scores) -> Scores:
    """The negative of the best class' logit (Hendrycks et al. 2022)."""
    return -logits.max(axis=1)


def nearest(count: int) -> Scorer:
    """The distance to the `count`-th nearest reference image, directions of embeddings only (Sun et al. 2022)."""

    def score(reference: Reference, _logits: Scores, embeddings: Scores) -> Scores:
        known, asked = directions(reference.points), directions(reference.project(embeddings))
        distances = np.sqrt(np.maximum(0, 2 - 2 * asked @ known.T))
        place = min(count, len(known)) - 1
        return np.partition(distances, place, axis=1)[:, place]

    return score


def mahalanobis(reference: Reference, _logits: Scores, embeddings: Scores) -> Scores:
    """The squared distance to the nearest class' mean under one shrunk covariance (Lee et al. 2018)."""
    return reference.to_classes(reference.project(embeddings)).min(axis=1)


def relative_mahalanobis(reference: Reference, _logits: Scores, embeddings: Scores) -> Scores:
    """The same less the distance to all images under their covariance (Ren et al. 2021)."""
    return reference.relative(embeddings)


def virtual_logit(reference: Reference, logits: Scores, embeddings: Scores) -> Scores:
    """What lies outside of the components, scaled to the logits, against the energy (ViM, Wang et al. 2022)."""
    scale = -reference.energies.mean() / max(float(reference.residuals.mean()), 1e-9)
    return reference.residual(embeddings) * scale + energy(reference, logits, embeddings)


def residual(reference: Reference, _logits: Scores, embeddings: Scores) -> Scores:
    """What lies outside of the principal components alone."""
    return reference.residual(embeddings)


def mahalanobis_with_residual(reference: Reference, _logits: Scores, embeddings: Scores) -> Scores:
    """Mahalanobis over all directions: those outside of the components share one variance."""
    return reference.distance(embeddings)


SCORERS: dict[str, Scorer | None] = {
    "max softmax": max_softmax,
    "max logit": max_logit,
    "energy": energy,
    "KNN, k = 1": nearest(1),
    "KNN, k = 5": nearest(5),
    "Mahalanobis": mahalanobis,
    "ViM": virtual_logit,
    "residual": residual,
    "relative Mahalanobis": relative_mahalanobis,
    "Mahalanobis and residual": mahalanobis_with_residual,
    "nearest, energy, residual, relative": None,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="BUNDLE=OTHERS")
    parser.add_argument("--images", type=int, default=1000, help="Of each kind at most.")
    parser.add_argument("--json", type=Path, help="Write the figures to this file too.")
    given = parser.parse_args()

    from edgecls.runtime import machine

    print(machine.this_machine().cpu)
    rows = [row for pair in given.pairs for row in measured(*map(Path, pair.split("=", 1)), given.images)]
    if given.json:
        record = {**environment(), "false_refusals": FALSE_REFUSALS, "rows": rows}
        given.json.write_text(json.dumps(record, indent=1) + "\n")


def measured(bundle: Path, others: Path, count: int) -> list[dict[str, Any]]:
    """The figures of one pair."""
    from edgecls.data.dataset import balanced, open_recorded
    from edgecls.imaging.decode import find_images, read_image
    from edgecls.runtime import store

    artifact = store.find(bundle)
    preprocess = artifact.card.preprocess
    dataset = open_recorded(bundle.parents[1])
    parts = {name: balanced(dataset.splits[name], count, dataset.seed) for name in ("val", "test")}
    paths = find_images(others)
    paths = [paths[index] for index in np.random.default_rng(0).permutation(len(paths))[:count]]
    with artifact.open(tensors=("embedding",)) as session:
        val, test = (
            outputs_of(session, (preprocess(dataset.source.read_for(each.key, preprocess)) for each in parts[name]))
            for name in ("val", "test")
        )
        strange = outputs_of(session, (preprocess(read_image(path, None, preprocess)) for path in paths))
    labels = np.array([sample.label for sample in parts["val"]])
    known_top1 = (test[0].argmax(axis=1) == [sample.label for sample in parts["test"]]).mean()
    name = f"{bundle.parents[1].name}/{bundle.name} against {others.name}"
    print(f"\n{name}: {len(val[0])} validation, {len(test[0])} test (top-1 {known_top1:.1%}), {len(paths)} others")
    print(f"{'':36s}   AUROC   FPR95  refused   found")
    rows = []
    val, test, strange = ((as_logits(scores, artifact.card.output), inner) for scores, inner in (val, test, strange))
    reference = Reference.recorded(*val, labels)
    for title, scorer in SCORERS.items():
        threshold = refusal_threshold(cross_fitted(*val, labels, scorer)) if scorer else reference.threshold()
        known, other = (
            scorer(reference, *asked) if scorer else reference.together(reference.measured(*asked))
            for asked in (test, strange)
        )
        row = {
            "pair": name, "score": title, "auroc": auroc(known, other),
            "fpr95": float((other <= np.quantile(known, 0.95)).mean()),
            "refused": float((known > threshold).mean()), "found": float((other > threshold).mean()),
        }  # fmt: skip
        rows.append(row)
        print(f"{title:36s}  {row['auroc']:6.3f}  {row['fpr95']:6.1%}   {row['refused']:6.1%}  {row['found']:6.1%}")
    print(f"{processor_ms(reference, *test):.3f} ms of processor time an image")
    return rows


def processor_ms(reference: Reference, logits: Scores, embeddings: Scores) -> float:
    """What telling the unknown takes one thread, image by image: the median."""
    taken_ns = []
    for each in zip(logits, embeddings, strict=True):
        begun_ns = time.thread_time_ns()
        reference.strangeness(*each)
        taken_ns.append(time.thread_time_ns() - begun_ns)
    return statistics.median(taken_ns) / 1e6


def auroc(known: Scores, other: Scores) -> float:
    """The chance that one of the others scores higher than one of the known (Mann and Whitney), ties half."""
    _, inverse, counts = np.unique(np.concatenate([known, other]), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]
    above = ranks[len(known) :].sum() - len(other) * (len(other) + 1) / 2
    return float(above / (len(known) * len(other)))


def environment() -> dict[str, Any]:
    """What was measured on, and with what."""
    from edgecls.runtime import machine

    return {"machine": machine.this_machine().to_json(), "versions": machine.versions()}


if __name__ == "__main__":
    main()
