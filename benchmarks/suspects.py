"""How many wrong labels `edgecls data suspects` finds, where it is known which are wrong.

    python benchmarks/suspects.py MODEL PHOTOS [--flipped 0.05] [--seeds 5] [--out FILE]

Gives that share of the images, drawn anew for each seed, another label at random. Prints how many labels are taken for
wrong, and precision and recall of that list, of its first images (as many as were flipped), and of as many images
ranked by self-confidence and by the normalized margin alone: mean and range over the seeds. Labels that were wrong
before count as found in error.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("photos")
    parser.add_argument("--flipped", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()

    from edgecls.data.layout import index_dataset
    from edgecls.evaluation.embeddings import embeddings_on
    from edgecls.evaluation.inference import labels_of
    from edgecls.runtime import machine

    layout = index_dataset(given.photos)
    samples = [sample for members in layout.splits.values() for sample in members]
    features, labels = embeddings_on(given.model, layout.source, samples), labels_of(samples)
    measured = [found(features, labels, given.flipped, seed) for seed in range(given.seeds)]
    print(f"{machine.this_machine().cpu}, {layout.source.name}: {len(labels)} images, {given.flipped:.0%} flipped")
    figures = {name: [each[name] for each in measured] for name in measured[0]}
    for name, values in figures.items():
        print(f"{name:44s} {sum(values) / len(values):.3f}  ({min(values):.3f} to {max(values):.3f})")
    if given.out:
        result = {"machine": machine.this_machine().to_json(), "versions": machine.versions(),
                  "data": layout.source.name, "images": len(labels), "flipped": given.flipped, **figures}  # fmt: skip
        given.out.write_text(json.dumps(result, indent=1) + "\n")


def found(features: NDArray[float32], labels: NDArray[int64], share: float, seed: int) -> dict[str, float]:
    """Figures for one draw of wrong labels."""
    import numpy as np

    from edgecls.evaluation.confident_learning import likely_wrong, out_of_fold, self_confidence

    generator, classes = np.random.default_rng(seed), int(labels.max()) + 1
    count = round(share * len(labels))
    flipped = generator.choice(len(labels), count, replace=False)
    noisy = labels.copy()
    noisy[flipped] = (labels[flipped] + generator.integers(1, classes, count)) % classes
    probabilities = out_of_fold(features, noisy, seed=seed)
    confidence, others = self_confidence(probabilities, noisy), probabilities.copy()
    others[np.arange(len(noisy)), noisy] = -np.inf
    listed = likely_wrong(probabilities, noisy)
    by_confidence = np.argsort(confidence)[:count]
    by_margin = np.argsort(confidence - others.max(axis=1))[:count]

    def right(positions: object) -> float:
        return float(np.isin(positions, flipped).sum())

    return {
        "top-1 of the folds on the true labels": float((probabilities.argmax(axis=1) == labels).mean()),
        "length of the list / flipped": len(listed) / count,
        "precision of the list": right(listed) / len(listed),
        "recall of the list": right(listed) / count,
        "precision of its first, as many as flipped": right(listed[:count]) / len(listed[:count]),
        "recall of its first, as many as flipped": right(listed[:count]) / count,
        "both, ranked by self-confidence alone": right(by_confidence) / count,
        "both, ranked by normalized margin": right(by_margin) / count,
    }


if __name__ == "__main__":
    main()
