"""From a run and new images to the next run, which is written only where it is no worse."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls import models
from edgecls.adapting.verdict import Verdict, scores_for
from edgecls.artifact.card import Card, check_files
from edgecls.artifact.golden import Golden
from edgecls.errors import VerificationError
from edgecls.evaluation.inference import golden_images, labels_of, scores_on
from edgecls.files import new_folder
from edgecls.models.torch_backend import BACKEND as REFERENCE
from edgecls.models.torch_backend import TorchSession
from edgecls.retraining.config import RetrainConfig
from edgecls.retraining.images import Mixture, mix
from edgecls.retraining.learn import Learned, Learner
from edgecls.runtime import machine, store
from edgecls.runtime.store import Artifact
from edgecls.shrinking.parent import settings_of_run
from edgecls.training.config import TrainConfig
from edgecls.training.finish import write_run
from edgecls.training.history import Epoch, TrainingCallbacks, write_history

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

HOW = {"backbone": "the last layer", "none": "the last layer, then all layers"}


@dataclass(frozen=True)
class Retrained:
    """The new run and how it compares with the one that learned again."""

    artifact: Artifact
    verdict: Verdict


class RetrainCallbacks:
    """What learning again tells about itself. The base is silent."""

    def step(self, line: str) -> None:
        """What is being done."""

    def remark(self, line: str) -> None:
        """Something that the person should know."""

    def epoch(self, epochs: int, epoch: Epoch) -> None:
        """One epoch of `epochs` was validated."""

    def judged(self, verdict: Verdict) -> None:
        """The verdict, before it decides whether anything is written."""


def retrain(config: RetrainConfig, callbacks: RetrainCallbacks | None = None) -> Retrained:
    """Let a run learn again from new images beside its own; returns the new run and the verdict.

    What the run held out stays held out, some new images are held out too, and on both the run before and after are
    compared. On any error, Ctrl-C included, nothing is left behind. Raises `VerificationError` where it got worse and
    that is not accepted, `UsageError` and `DataError` for a run or images that cannot be learned from.
    """
    config, callbacks = RetrainConfig.checked(config), callbacks or RetrainCallbacks()
    models.require_torch("learning again")
    run = store.find_run(config.run)
    check_files(run.card, run.path)
    settings = replace(settings_of_run(run), seed=config.seed)
    callbacks.step("reading the images")
    mixture = mix(run, config)
    for line in mixture.remarks:
        callbacks.remark(line)
    with tempfile.TemporaryDirectory(prefix="edgecls-") as scratch:
        learner = Learner(run, mixture, settings)
        learned = _learn(learner, config, callbacks, Path(scratch))
        callbacks.step("judging")
        verdict = _judge(run, mixture, learner, learned, config)
        callbacks.judged(verdict)
        if not config.accept_worse:
            verdict.require()
        reserved = nullcontext(config.out) if config.out else store.new_run(mixture.dataset.source.name, run.card.arch)
        with reserved as path, new_folder(path) as folder:
            card = _write(folder, path, run, mixture, learned, verdict, config, settings)
    return Retrained(Artifact(path, card), verdict)


def _learn(learner: Learner, config: RetrainConfig, callbacks: RetrainCallbacks, scratch: Path) -> Learned:
    callbacks.step("computing embeddings of images that are new to this machine")
    if config.freeze == "backbone":
        return learner.head()
    begun = learner.head() if learner.has_linear_head else None
    callbacks.step("training all layers")
    return learner.fine_tuned(begun, config.epochs, _Passing(callbacks, config.epochs), scratch)


class _Passing(TrainingCallbacks):
    def __init__(self, callbacks: RetrainCallbacks, epochs: int):
        self._callbacks, self._epochs = callbacks, epochs

    def remark(self, line: str) -> None:
        self._callbacks.remark(line)

    def epoch(self, epoch: Epoch) -> None:
        self._callbacks.epoch(self._epochs, epoch)


def _judge(run: Artifact, mixture: Mixture, learner: Learner, learned: Learned, config: RetrainConfig) -> Verdict:
    import numpy as np

    dataset = mixture.dataset
    test = dataset.splits["test"]
    if learner.has_linear_head:
        before = learner.parent_scores("test")
    else:
        before = scores_on(run, dataset.source, test)
    is_new = np.array([sample.key in mixture.new_keys for sample in test])
    return Verdict.of(
        scores_for(before, mixture.changed.sources), learned.test_scores, labels_of(test), is_new, dataset.classes,
        config.max_drop_points,
    )  # fmt: skip


def _write(
    folder: Path,
    path: Path,
    run: Artifact,
    mixture: Mixture,
    learned: Learned,
    verdict: Verdict,
    config: RetrainConfig,
    settings: TrainConfig,
) -> Card:
    lineage = machine.new_lineage(mixture.dataset.source.name)
    card = Card(run.card.arch, mixture.dataset.classes, run.card.preprocess, target=REFERENCE.name, lineage=lineage)
    relearned: dict[str, Any] = {
        "parent": run.card.lineage.files[run.card.model_file],
        "run": run.path.resolve().name,
        "how": HOW[config.freeze],
        "old_images": mixture.count(new=False),
        "new_images": mixture.count(new=True),
        "digest": mixture.digest_of_new(),
        **verdict.to_json(),
    }
    card = replace(card, lineage=replace(lineage, relearned=relearned))
    if verdict.word == "worse":
        card = replace(card, quality=replace(card.quality, note="worse than the run that it learned from"))
    module = models.channels_last(models.deployable(learned.network, card.preprocess)).eval()
    images = golden_images(mixture.dataset, card.preprocess)
    golden = Golden(images, TorchSession(card, module).infer(images))
    _require_same(golden, mixture, learned)
    weights = path if models.find(card.arch).pruned else run.path
    replayable = replace(
        settings, data=str(path.resolve()), weights=str(weights.resolve()), size_px=card.preprocess.height_px,
        epochs=settings.epochs if config.freeze == "backbone" else config.epochs, out=None,
    )  # fmt: skip
    card = write_run(
        folder, learned.network, card, mixture.dataset, replayable, learned.test_scores, learned.val_scores, golden,
        {"relearned": relearned},
    )  # fmt: skip
    if learned.history:
        write_history(learned.history, folder)
    return card


def _require_same(golden: Golden, mixture: Mixture, learned: Learned) -> None:
    """Raise `VerificationError` where the network that is written does not give the scores that were judged."""
    import numpy as np

    from edgecls.data.dataset import balanced
    from edgecls.evaluation.inference import GOLDEN_IMAGES

    test = list(mixture.dataset.splits["test"])
    drawn = balanced(test, GOLDEN_IMAGES, mixture.dataset.seed)
    position = {sample.key: index for index, sample in enumerate(test)}
    judged: NDArray[float32] = learned.test_scores[[position[sample.key] for sample in drawn]]
    if np.abs(judged - golden.scores).max() > 1e-2 * max(1.0, float(np.abs(judged).max())):
        raise VerificationError("the network's scores are not those that were judged; nothing was written")
