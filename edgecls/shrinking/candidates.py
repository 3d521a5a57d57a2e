"""What a run can be made smaller by, and how fast each of them is before anything is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls import backends, models
from edgecls.artifact.card import Card
from edgecls.artifact.golden import Golden
from edgecls.benchmarking.run import gain_over, time_artifacts
from edgecls.errors import MissingExtraError, UsageError, first_line
from edgecls.exporting import timing
from edgecls.exporting.graph import float_graph
from edgecls.models.torch_backend import BACKEND as REFERENCE
from edgecls.runtime.store import Artifact
from edgecls.shrinking.attempts import Candidate, ShrinkCallbacks, Timed
from edgecls.shrinking.config import Goal, ShrinkConfig
from edgecls.shrinking.pruning import prune
from edgecls.training.config import MIN_SIZE_PX

if TYPE_CHECKING:
    import torch

SIZES = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8)
"""Sides of smaller inputs as shares of the run's."""
SHARES = (0.25, 0.4, 0.5, 0.6, 0.7)
"""Of the channels of each layer that go."""
PRUNED_SIZE = 3 / 4
"""Pruned networks are tried at the run's size and at this share of it."""
WIDTHS = (1 / 2, 1 / 4)
"""Of a simple_cnn, as shares of its own."""
SMALL = ("mobilenet_v3_small", "mobilenet_v2", "mnasnet0_5", "shufflenet_v2_x0_5")
"""Networks that are tried for runs of every family, beside the smaller ones of the run's own."""
NETWORKS = 3
"""Of another architecture that are trained at most: each costs more than all that comes before."""
HEADROOM = 1.03
"""By how much a candidate must be faster than asked for: what it is trained for is measured again afterwards."""


class CandidateBuilder:
    """Makes the candidates of one run, and bundles of them, in folders below `scratch`."""

    def __init__(self, run: Artifact, scratch: Path, config: ShrinkConfig, callbacks: ShrinkCallbacks):
        self._run, self._scratch, self._config, self._callbacks = run, scratch, config, callbacks
        self._size, self._weights = run.card.preprocess.height_px, run.path / run.card.model_file

    @cached_property
    def parent(self) -> Artifact:
        """The run's own float32 bundle."""
        return self.bundle(self._weights, self._run.card)

    def candidates(self) -> list[Candidate]:
        """All candidates of the levers that are asked for."""
        levers = {"size": self._smaller_inputs, "prune": self._pruned, "network": self._networks}
        return [candidate for lever in self._config.levers for candidate in levers[lever]()]

    def bundle(self, weights: Path, card: Card) -> Artifact:
        """The float32 bundle of a network, to be timed and not to be kept: its golden input is blank."""
        import numpy as np

        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        graph = folder.with_suffix(".onnx")
        float_graph(weights, card, graph)
        card = backends.find(self._config.target).build(graph, card, folder)
        blank, scores = np.zeros((1, *card.input_shape), np.uint8), np.zeros((1, len(card.classes)), np.float32)
        Golden(blank, scores).write(folder)
        return Artifact(folder, card)

    def card(self, arch: str, size_px: int) -> Card:
        """What a run of that architecture and size would say of its input."""
        preprocess = models.usual_preprocess(arch, size_px)
        return Card(arch, self._run.card.classes, preprocess, target=REFERENCE.name)

    def _smaller_inputs(self) -> Iterator[Candidate]:
        for size in _sizes(self._size):
            yield Candidate("size", f"{size} px", self._run.card.arch, size, self._weights)

    def _pruned(self) -> Iterator[Candidate]:
        arch = models.unpruned(self._run.card.arch)
        for share in SHARES:
            network = models.create(self._run.card.arch, len(self._run.card.classes))
            models.load_weights(network, self._run.card.arch, models.read_weights(self._weights), str(self._weights))
            try:
                narrow = prune(network, arch, self._size, share)
            except (MissingExtraError, UsageError) as error:
                self._callbacks.remark(f"not pruned: {error}")
                return
            file = self._write(narrow)
            smaller = _sizes(self._size, [PRUNED_SIZE]) if "size" in self._config.levers else []
            for size in (self._size, *smaller):
                at = "" if size == self._size else f", {size} px"
                yield Candidate("prune", f"{100 * share:.0f} % pruned{at}", arch + models.PRUNED, size, file)

    def _networks(self) -> Iterator[Candidate]:
        for arch in _smaller_networks(models.unpruned(self._run.card.arch)):
            file = self._write(models.create(arch, len(self._run.card.classes)))
            yield Candidate("network", arch, arch, self._size, file, learned=False)

    def _write(self, network: torch.nn.Module) -> Path:
        file = Path(tempfile.mkdtemp(dir=self._scratch)) / "model.safetensors"
        models.write_weights(network, file)
        return file


def time_candidates(
    builder: CandidateBuilder, candidates: Sequence[Candidate], callbacks: ShrinkCallbacks
) -> tuple[float, list[Timed]]:
    """The run's latency in ms and that of each candidate that its runtime takes, all timed in turn.

    Each is that of its best round, for a busy machine only ever slows down.
    """
    built: list[tuple[Candidate, Artifact]] = []
    for candidate in candidates:
        callbacks.step(f"building {candidate.name}")
        try:
            card = builder.card(candidate.arch, candidate.size_px)
            built.append((candidate, builder.bundle(candidate.weights, card)))
        except Exception as error:
            # Networks that want larger images, and whatever tracing and runtimes say of others.
            callbacks.remark(f"{candidate.name} is left out: {first_line(error)}")
    callbacks.step(f"timing {len(built)} candidates and the run" if built else "timing the run")
    own, *rows = time_artifacts([builder.parent, *(bundle for _, bundle in built)], timing.TIMING)
    timed = [
        Timed(candidate, min(row.round_p50_ms), gain_over(row, own) or 0.0)
        for (candidate, _), row in zip(built, rows, strict=True)
    ]
    return min(own.round_p50_ms), timed


def worth_training(timed: Sequence[Timed], goal: Goal) -> list[Timed]:
    """The candidates that are fast enough, the cheapest to train first.

    Of each lever the mildest, which loses least: a harsher one need not be tried where it loses too much. Of other
    networks, which are not ordered so, there are several.
    """
    fast = [each for each in timed if goal.reached(each.latency_ms * HEADROOM, each.latency_ms * each.speedup)]
    fast.sort(key=lambda each: -each.latency_ms)
    smaller = [each for each in fast if each.candidate.lever == "size"]
    pruned = [each for each in fast if each.candidate.lever == "prune"]
    networks = [each for each in fast if each.candidate.lever == "network"]
    sizes = sorted({each.candidate.size_px for each in pruned}, reverse=True)
    mildest = [next(each for each in pruned if each.candidate.size_px == size) for size in sizes]
    return [*smaller[:1], *mildest, *networks[:NETWORKS]]


def _sizes(size_px: int, shares: Sequence[float] = SIZES) -> list[int]:
    """Smaller sides, largest first, in steps that suit what networks halve."""
    step = 16 if size_px >= 128 else 8
    sizes = {int(size_px * share / step + 0.5) * step for share in shares}
    return sorted((size for size in sizes if MIN_SIZE_PX <= size < size_px), reverse=True)


def _smaller_networks(arch: str) -> list[str]:
    """Architectures that may be faster than this one: the timing says which are."""
    name, _, settings = arch.partition(":")
    if name == models.SIMPLE_CNN:
        widths = models.SimpleCnn.parse(settings).widths
        others = [part for part in settings.split(",") if part and not part.startswith("widths=")]
        narrower = ["-".join(str(max(1, int(width * share))) for width in widths) for share in WIDTHS]
        return [f"{name}:{','.join([f'widths={each}', *others])}" for each in narrower]
    family = models.family_of(arch)
    before = family[: family.index(arch)] if family else ()
    return [each for each in dict.fromkeys([*reversed(before), *SMALL]) if each != arch]
