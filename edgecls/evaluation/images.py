"""Which images a report looks at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgecls.data.dataset import open_for_classes, open_recorded
from edgecls.data.layout import names_splits
from edgecls.data.sources import FolderSource, Source
from edgecls.data.splits import Sample
from edgecls.errors import ArtifactError, DataError
from edgecls.imaging.decode import find_images
from edgecls.runtime.store import Artifact, find

UNLABELLED = -1


def images_for(artifact: Artifact, data: Path | None) -> tuple[Source, Sequence[Sample]]:
    """The images of a folder, or the held-out split of the run that an artifact belongs to.

    A manifest that names splits, or a folder with `train/` inside, gives its test split, or the images that stand in
    for one; any other gives all of its images, in a folder labelled where it holds one folder per class. Raises
    `DataError`.
    """
    if data is None:
        dataset = open_recorded(run_of(artifact).path)
        return dataset.source, dataset.splits["test"]
    if data.is_dir() and not any(path.is_dir() and not path.name.startswith(".") for path in data.iterdir()):
        source = FolderSource(data)
        loose = [Sample(str(path.relative_to(source.root)), UNLABELLED) for path in find_images(source.root)]
        if not loose:
            raise DataError(f"{data} holds no images")
        return source, loose
    dataset = open_for_classes(str(data), artifact.card.classes, seed=0)
    splits = ["test"] if names_splits(data) else list(dataset.splits)
    return dataset.source, sorted((s for split in splits for s in dataset.splits[split]), key=lambda s: s.key)


def run_of(artifact: Artifact) -> Artifact:
    """The run that an artifact is, or in whose folder it lies."""
    if artifact.is_run:
        return artifact
    folder = artifact.path if artifact.path.is_dir() else artifact.path.parent
    for path in (folder.parent.parent, folder):
        try:
            run = find(path)
        except ArtifactError:
            continue
        if run.is_run:
            return run
    raise DataError(
        f"{artifact.path} lies in no run, so its held-out images are not known; give a folder of images with `data`"
    )
