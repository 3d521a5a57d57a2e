"""The learning itself: the last layer on kept embeddings, then, where that is asked for, all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls import models
from edgecls.adapting.head import Head, fit_head, importance_of
from edgecls.errors import UsageError
from edgecls.evaluation.embeddings import embeddings_of
from edgecls.evaluation.inference import labels_of, prepared
from edgecls.models.last_layer import last_layer
from edgecls.models.torch_backend import MODEL_FILE
from edgecls.retraining.images import Mixture
from edgecls.runtime.pipeline import scores_of
from edgecls.runtime.store import Artifact
from edgecls.training import balance as balancing
from edgecls.training.balance import Counts
from edgecls.training.config import TrainConfig
from edgecls.training.history import Epoch, TrainingCallbacks
from edgecls.training.interrupt import deferred_signals
from edgecls.training.loop import Trainer
from edgecls.training.parallel import launched
from edgecls.training.prepare import prepare

if TYPE_CHECKING:
    import torch
    from numpy import float32
    from numpy.typing import NDArray

TOLERANCE = 1e-3
"""Of the largest score: how far the last layer's answers may lie from the network's to be the same."""


@dataclass(frozen=True)
class Learned:
    """A network of the new classes, its scores for validation and test images, and its epochs, if it had any."""

    network: torch.nn.Module
    val_scores: NDArray[float32]
    test_scores: NDArray[float32]
    history: Sequence[Epoch] = ()


class Learner:
    """Makes one run learn from a mixture of images. `config` holds the run's own settings."""

    def __init__(self, run: Artifact, mixture: Mixture, config: TrainConfig):
        self._run, self._mixture, self._config = run, mixture, config
        self._arch, self._prefix = run.card.arch, models.find(run.card.arch).head
        self._tensors = models.read_weights(run.path / MODEL_FILE)
        self._head = self._linear_head()

    @property
    def has_linear_head(self) -> bool:
        """Whether what the last layer gives are the scores, so that it can be fitted by itself."""
        return self._head is not None

    def parent_scores(self, split: str) -> NDArray[float32]:
        """The run's own scores (N, C before)."""
        if self._head is None:
            raise UsageError("the last layer's answers are not the scores")
        return self._head.scores(self._embeddings(split))

    def head(self) -> Learned:
        """With a last layer that learned from all training images, and all other layers as they are."""
        if self._head is None:
            raise UsageError(
                f"the last layer of {self._arch} does not give the scores, so it cannot learn by itself; give `freeze` "
                "none"
            )
        import numpy as np

        train = self._mixture.dataset.splits["train"]
        rows = self._mixture.changed.rows
        new = np.array([sample.key in self._mixture.new_keys for sample in train])
        labels, counts = labels_of(train), Counts.of(self._mixture.dataset)
        balance, _ = balancing.resolved(self._config.balance, self._config.select_by, counts)
        head = fit_head(
            self._head.for_classes(rows),
            self._embeddings("train"),
            labels,
            importance_of(labels, new, balanced=balance != "none"),
            np.array([row is None for row in rows]),
        )
        network = self._network(head)
        val, test = (head.scores(self._embeddings(split)) for split in ("val", "test"))
        return Learned(network, val, test)

    def fine_tuned(self, begun: Learned | None, epochs: int, callbacks: TrainingCallbacks, scratch: Path) -> Learned:
        """With all layers trained on, from what has `begun`, or from the run's weights."""
        weights = scratch / MODEL_FILE
        models.write_weights(begun.network if begun else self._network(None), weights)
        config = replace(self._config, weights=str(weights), epochs=epochs)
        dataset = self._mixture.dataset
        with launched(config.precision, config.deterministic) as fabric:
            import torch

            from edgecls.imaging.opencv import single_threaded

            torch.manual_seed(config.seed)
            setup = prepare(config, dataset, callbacks, fabric)
            with deferred_signals() as interruption, single_threaded():
                Trainer(setup, callbacks, None, interruption).fit()
            session = setup.model.session(setup.model.network)
            preprocess = self._run.card.preprocess
            val, test = (
                scores_of(session, prepared(dataset.source, dataset.splits[split], preprocess))
                for split in ("val", "test")
            )
            return Learned(setup.model.network, val, test, setup.progress.history)

    def _embeddings(self, split: str) -> NDArray[float32]:
        begin = 0
        for name, samples in self._mixture.dataset.splits.items():
            if name == split:
                return self._all_embeddings[begin : begin + len(samples)]
            begin += len(samples)
        raise KeyError(split)

    @cached_property
    def _all_embeddings(self) -> NDArray[float32]:
        """Those of all splits, in one piece, so that what is kept is kept for all of them."""
        dataset = self._mixture.dataset
        samples = [sample for split in dataset.splits.values() for sample in split]
        digests = [self._mixture.digests[sample.key] for sample in samples]
        return embeddings_of(self._run, dataset.source, samples, digests=digests)

    def _linear_head(self) -> Head | None:
        """The run's last layer; None where the network goes on behind it."""
        import numpy as np

        from edgecls.artifact.golden import Golden

        head, images = last_layer(self._arch, self._tensors), Golden.read(self._run.path, self._run.card).images
        if head is None:
            return None
        with self._run.open(tensors=("embedding",)) as session:
            scores, embeddings = session.infer_all(images)
        if embeddings.shape[1] != head.weight.shape[1]:
            return None
        close = np.abs(head.scores(embeddings) - scores).max() <= TOLERANCE * np.abs(scores).max()
        return head if close else None

    def _network(self, head: Head | None) -> torch.nn.Module:
        """The run's network for the new classes, with this last layer or with rows of its own."""
        import torch

        rows = self._mixture.changed.rows
        tensors = {
            name: torch.stack([tensor.float().mean(dim=0) if row is None else tensor[row] for row in rows])
            if name.startswith(self._prefix) and tensor.ndim
            else tensor
            for name, tensor in self._tensors.items()
        }
        if head:
            weight = tensors[f"{self._prefix}weight"]
            tensors[f"{self._prefix}weight"] = torch.from_numpy(head.weight).reshape(weight.shape)
            tensors[f"{self._prefix}bias"] = torch.from_numpy(head.bias)
        network = models.create(self._arch, len(rows))
        if models.find(self._arch).pruned:
            models.fit_layers(network, tensors, self._prefix)
        models.restore(network, tensors)
        return network
