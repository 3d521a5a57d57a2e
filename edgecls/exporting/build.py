"""The bundles of one run for one target, in scratch space."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from edgecls import backends
from edgecls.artifact.card import HEAD_FILE, Card, Quality, with_files
from edgecls.artifact.golden import Golden
from edgecls.backends.base import BuildOptions
from edgecls.backends.inner_tensors import find_inner_tensors
from edgecls.exporting.shared import SharedSteps
from edgecls.exporting.verification import Verifier
from edgecls.runtime import machine
from edgecls.runtime.store import Artifact
from edgecls.runtime.verification import is_for_here


@dataclass(frozen=True)
class BundleBuilder:
    """Builds bundles of one run for one target in folders below `scratch`, and `float32` where exports share it.

    `card` is that of the float32 bundle; the others' differ from it in precision and recipe. With `explain` the last
    layers stand in a file of their own.
    """

    shared: SharedSteps
    card: Card
    options: BuildOptions
    scratch: Path
    explain: bool = False

    @property
    def run(self) -> Artifact:
        """What is exported."""
        return self.shared.run

    def on_progress(self, step: str) -> None:
        """Tell what is being done."""
        self.shared.on_progress(step)

    def float32(self) -> Artifact:
        """The float32 bundle, not verified yet, that lower precision is timed against."""
        key = ("float32", self.card.target, self.options, self.explain)
        return self.shared.once(
            key, lambda: replace(self, scratch=self.shared.scratch).build(self.shared.graph(), self.card)
        )

    def build(self, graph: Path, card: Card) -> Artifact:
        """The bundle of a graph, not verified yet, with the run's golden inputs."""
        self.on_progress(f"building for {card.target}")
        folder = self.scratch_folder()
        card = replace(card, inner_tensors=find_inner_tensors(graph))
        card = backends.find(card.target).build(graph, card, folder, self.options)
        if self.explain:
            shutil.copyfile(self.shared.head(), folder / HEAD_FILE)
            card = with_files(card, folder, [*card.lineage.files, HEAD_FILE])
        Golden.read(self.run.path, self.run.card).write(folder)
        return Artifact(folder, card)

    def scratch_folder(self) -> Path:
        """A new folder."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        folder.chmod(0o755)  # copied with the folder's content; others on the device may read it
        return folder

    @property
    def is_timed_here(self) -> bool:
        """Whether what is built can run on this machine, and is meant for its kind of processor and devices."""
        backend = backends.find(self.card.target)
        return backend.available() is None and is_for_here(backend, self.options.device)


@dataclass(frozen=True)
class ExportResult:
    """A bundle in scratch space. `float32` is the bundle that it was timed against, None where it was not."""

    bundle: Artifact
    verifier: Verifier
    float32: Artifact | None = None


def float32_card(run: Artifact, target: str) -> Card:
    """The card of a run's float32 bundle before anything is measured."""
    lineage = machine.new_lineage(run.card.lineage.data, parent=run.card.lineage.files[run.card.model_file])
    return replace(run.card, target=target, precision="fp32", quality=Quality(), runtime=None, lineage=lineage)
