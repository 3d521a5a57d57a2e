"""The end of a training: evaluation on the test split, the temperature, and the run's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls import models
from edgecls.artifact.card import Card, Confidence, with_files, write_card
from edgecls.artifact.golden import Golden
from edgecls.data.dataset import Dataset
from edgecls.evaluation.confidence import fit_temperature
from edgecls.evaluation.cross_validation import EVALUATION_FILE, CrossValidation
from edgecls.evaluation.inference import golden_images, labels_of, prepared
from edgecls.evaluation.metrics import Metrics, measure
from edgecls.files import write_text
from edgecls.models.torch_backend import MODEL_FILE
from edgecls.runtime.pipeline import scores_of
from edgecls.training.batches import TrainingBatches, write_preview
from edgecls.training.config import TrainConfig
from edgecls.training.history import write_history
from edgecls.training.setup import TrainingSetup

if TYPE_CHECKING:
    import torch
    from numpy import float32
    from numpy.typing import NDArray


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
    images = golden_images(dataset, preprocess)
    golden = Golden(images, session.infer(images))
    figures = {} if folds is None else {"cross_validation": folds.to_json()}
    config = replace(setup.config, epochs=setup.epochs)
    write_run(folder, model.network, model.card, dataset, config, scores, val_scores, golden, figures)
    write_history(setup.progress.history, folder)
    if isinstance(setup.batches, TrainingBatches):
        write_preview(next(setup.batches.epoch(1))[0], folder)
    return metrics


def write_run(
    folder: Path,
    network: torch.nn.Module,
    card: Card,
    dataset: Dataset,
    config: TrainConfig,
    scores: NDArray[float32],
    val_scores: NDArray[float32],
    golden: Golden,
    figures: Mapping[str, Any],
) -> Card:
    """Write a run's files to `folder` and what its scores (N, C) for test and validation images say; returns its card.

    `figures` stand in its evaluation.json beside its own.
    """
    metrics, val = measure(scores, labels_of(dataset.splits["test"])), dataset.splits["val"]
    temperature = round(fit_temperature(val_scores, labels_of(val)), 4)
    models.write_weights(network, folder / MODEL_FILE)
    golden.write(folder)
    record = {**metrics.to_json(dataset.classes), **figures}
    write_text(folder / EVALUATION_FILE, json.dumps(record, indent=2) + "\n")
    quality = replace(card.quality, split="test", images=metrics.images, top1=metrics.top1, macro_f1=metrics.macro_f1)
    card = with_files(replace(card, quality=quality, confidence=Confidence(temperature)), folder, [MODEL_FILE])
    write_card(card, folder)
    dataset.write(folder)
    config.write(folder)
    return card
