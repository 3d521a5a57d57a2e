"""The end of a training: evaluation on the test split, the temperature, and the run's files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from edgecls import models
from edgecls.artifact.card import Confidence, Quality, with_files, write_card
from edgecls.artifact.golden import Golden
from edgecls.evaluation.confidence import fit_temperature
from edgecls.evaluation.cross_validation import EVALUATION_FILE, CrossValidation
from edgecls.evaluation.inference import golden_images, labels_of, prepared
from edgecls.evaluation.metrics import Metrics, measure
from edgecls.files import write_text
from edgecls.models.torch_backend import MODEL_FILE
from edgecls.runtime.pipeline import scores_of
from edgecls.training.batches import TrainingBatches, write_preview
from edgecls.training.history import write_history
from edgecls.training.setup import TrainingSetup


def finish(setup: TrainingSetup, folder: Path | None, folds: CrossValidation | None = None) -> Metrics:
    """Evaluate on the test split, fit the temperature on the validation split, and write the run to `folder`.

    The figures of its cross-validation, if there was one, stand beside its own.
    """
    model, dataset = setup.model, setup.dataset
    session, source, preprocess = model.session(model.network), dataset.source, model.card.preprocess
    test, val = dataset.splits["test"], dataset.splits["val"]
    scores = scores_of(session, prepared(source, test, preprocess))
    metrics = measure(scores, labels_of(test))
    if folder is None:
        return metrics
    val_scores = scores_of(session, prepared(source, val, preprocess))
    confidence = Confidence(temperature=round(fit_temperature(val_scores, labels_of(val)), 4))
    models.write_weights(model.network, folder / MODEL_FILE)
    images = golden_images(dataset, preprocess)
    Golden(images, session.infer(images)).write(folder)
    figures = metrics.to_json(dataset.classes)
    if folds is not None:
        figures["cross_validation"] = folds.to_json()
    write_text(folder / EVALUATION_FILE, json.dumps(figures, indent=2) + "\n")
    quality = Quality(split="test", images=metrics.images, top1=metrics.top1, macro_f1=metrics.macro_f1)
    write_card(with_files(replace(model.card, quality=quality, confidence=confidence), folder, [MODEL_FILE]), folder)
    write_history(setup.progress.history, folder)
    dataset.write(folder)
    replace(setup.config, epochs=setup.epochs).write(folder)
    if isinstance(setup.batches, TrainingBatches):
        write_preview(next(setup.batches.epoch(1))[0], folder)
    return metrics
