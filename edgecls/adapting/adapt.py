"""A bundle learns again where it runs: its last layer is fitted to new images, without torch and without the run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.adapting.classes import ClassChange
from edgecls.adapting.config import AdaptConfig
from edgecls.adapting.head import Head, fit_head, importance_of
from edgecls.adapting.memory import MAX_IMAGES, SEED, Memory, evenly, short_digest
from edgecls.adapting.onnx_head import with_head
from edgecls.adapting.photos import Photo, held_out, labelled_photos, near
from edgecls.adapting.verdict import Verdict, scores_for
from edgecls.artifact.card import EMBEDDED_KEY, HEAD_FILE, Card, Quality, check_files, with_files, write_card
from edgecls.artifact.golden import Golden
from edgecls.artifact.reference import FEWEST_IMAGES, MOST_IMAGES, Reference
from edgecls.artifact.terms import Output
from edgecls.concurrency import ordered_map
from edgecls.errors import DataError, ImageError, UsageError, VerificationError
from edgecls.files import new_folder, read_bytes, sha256, write_bytes
from edgecls.imaging.decode import read_image
from edgecls.runtime import machine, store
from edgecls.runtime.pipeline import outputs_of, scores_of
from edgecls.runtime.scores import as_logits
from edgecls.runtime.store import Artifact
from edgecls.runtime.verification import compared

if TYPE_CHECKING:
    from numpy import bool_, float32, int64, uint8
    from numpy.typing import NDArray

TARGET = "onnx"
HOW = "the last layer, on the device"
LEAST_NEW = 4
NEW_GOLDEN = 8
"""Held-out new images among the golden inputs, beside those of the bundle."""
TOLERANCE = 1e-3
"""Of the largest score: how far the written graph's answers may lie from what was judged."""


@dataclass(frozen=True)
class Adapted:
    """The new bundle and how it compares with the one that was adapted."""

    artifact: Artifact
    verdict: Verdict


class AdaptCallbacks:
    """What adapting tells about itself. The base is silent."""

    def step(self, line: str) -> None:
        """What is being done."""

    def remark(self, line: str) -> None:
        """Something that the person should know."""

    def judged(self, verdict: Verdict) -> None:
        """The verdict, before it decides whether anything is written."""


@dataclass(frozen=True)
class _NewImages:
    """New images: their embeddings (N, D), labels (N,) among the classes afterwards, and which are held out (N,)."""

    photos: Sequence[Photo]
    digests: Sequence[str]
    embeddings: NDArray[float32]
    labels: NDArray[int64]
    held_out: NDArray[bool_]


def adapt(config: AdaptConfig, callbacks: AdaptCallbacks | None = None) -> Adapted:
    """Fit the last layer of an ONNX bundle to new images and what it remembers of old ones; returns the new bundle.

    A quarter of the new images is held out, and on these and the old held-out ones that it remembers the bundle before
    and after are compared. On any error, Ctrl-C included, nothing is left behind. Raises `VerificationError` where it
    got worse and that is not accepted, `ArtifactError` for a bundle that cannot be adapted, and `DataError`.
    """
    config, callbacks = AdaptConfig.checked(config), callbacks or AdaptCallbacks()
    bundle = store.find(config.bundle)
    if bundle.is_run or not bundle.path.is_dir() or bundle.card.target != TARGET:
        raise UsageError(f"{config.bundle} is no ONNX bundle; a run learns again with: edgecls retrain", "bundle")
    check_files(bundle.card, bundle.path)
    memory = Memory.read(bundle.path, bundle.card)
    changed = ClassChange.of(bundle.card.classes, config.rename, config.remove)
    callbacks.step("reading the images")
    photos = _without_copies(_named_now(labelled_photos(config.data), changed), callbacks)
    photos = _without_known(photos, memory, callbacks)
    callbacks.step("computing embeddings")
    changed, images = _looked_at(bundle, memory, changed, photos, config, callbacks)
    callbacks.step("fitting the last layer")
    old = _renamed(memory, changed)
    head = _fitted(old, changed, images)
    callbacks.remark(_basis(old, images))
    verdict = _judged(memory, old, changed, images, head, config.max_drop_points)
    callbacks.judged(verdict)
    if not config.accept_worse:
        verdict.require()
    path = config.out or _free_path(bundle.path)
    with new_folder(path) as folder:
        _record_reference(folder, bundle.card.output, replace(old, head=head), images, callbacks)
        card = _write(folder, bundle, changed, replace(old, head=head), images, verdict)
    return Adapted(Artifact(path, card), verdict)


def _named_now(photos: Sequence[Photo], changed: ClassChange) -> list[Photo]:
    """The photos under the names that their classes have now, without those of classes that are no more."""
    named = [(photo, changed.name_now(photo.label)) for photo in photos]
    return [replace(photo, label=name) for photo, name in named if name is not None]


def _without_copies(photos: Sequence[Photo], callbacks: AdaptCallbacks) -> list[tuple[Photo, str]]:
    """Each image once, with its SHA-256. Raises `DataError` for one that stands in two classes."""

    def digest(photo: Photo) -> str | None:
        try:
            return sha256(photo.path)
        except OSError:
            return None

    found: dict[str, Photo] = {}
    for photo, known in zip(photos, ordered_map(digest, photos), strict=True):
        if known is None:
            callbacks.remark(f"skipped: {photo.path} cannot be read")
        elif known in found and found[known].label != photo.label:
            raise DataError(f"{photo.path} is the same image as {found[known].path}, in another class; remove one")
        else:
            found.setdefault(known, photo)
    return [(photo, known) for known, photo in found.items()]


def _without_known(
    found: Sequence[tuple[Photo, str]], memory: Memory, callbacks: AdaptCallbacks
) -> list[tuple[Photo, str]]:
    """The images that the bundle has neither learned from nor been judged by: only on these it can be judged."""
    fresh = [(photo, digest) for photo, digest in found if short_digest(digest) not in memory.known]
    if known := len(found) - len(fresh):
        callbacks.remark(
            f"{known} of {len(found)} images are known to the bundle already, which learned from them or was judged by "
            "them; they are left out (a corrected label of one is learned by: edgecls retrain)"
        )
    if not memory.knows_all:
        callbacks.remark(
            "the bundle does not say which images its run learned from, as it was exported by an earlier version: if "
            "some of these are among them, the verdict on new images is too good; export the run again to have such "
            "images left out"
        )
    return fresh


def _looked_at(
    bundle: Artifact,
    memory: Memory,
    changed: ClassChange,
    found: Sequence[tuple[Photo, str]],
    config: AdaptConfig,
    callbacks: AdaptCallbacks,
) -> tuple[ClassChange, _NewImages]:
    """The images as the network sees them, without those that show what remembered held-out ones show."""
    import numpy as np

    preprocess = bundle.card.preprocess

    def raw(each: tuple[Photo, str]) -> tuple[tuple[Photo, str], NDArray[uint8] | None, str]:
        try:
            return each, preprocess(read_image(each[0].path, geometry=preprocess)), ""
        except ImageError as error:
            return each, None, str(error)

    kept: list[tuple[Photo, str]] = []

    def readable() -> Iterator[NDArray[uint8]]:
        for each, image, reason in ordered_map(raw, found):
            if image is None:
                callbacks.remark(f"skipped: {reason}")
            else:
                kept.append(each)
                yield image

    with bundle.open(tensors=("embedding",)) as session:
        _, embeddings = outputs_of(session, readable())
    embeddings = embeddings if kept else memory.test[:0]
    if embeddings.shape[1] != memory.test.shape[1]:
        raise DataError(f"{bundle.path}: its memory is another network's; export the run again")
    copies = near(embeddings, memory.test)
    if copies.any():
        callbacks.remark(f"{copies.sum()} new images show nearly what held-out old ones show; they are left out")
    kept = [each for each, copy in zip(kept, copies, strict=True) if not copy]
    if len(kept) < LEAST_NEW:
        raise DataError(f"{config.data} holds {len(kept)} new images; {LEAST_NEW} are the least to learn from")
    photos = [photo for photo, _ in kept]
    changed = changed.with_new(sorted({photo.label for photo in photos}))
    labels = np.array([changed.names.index(photo.label) for photo in photos], np.int64)
    embeddings = embeddings[~copies]
    chosen = held_out(photos, embeddings, config.seed, near(embeddings, memory.train))
    if missing := [name for name in changed.new if name not in {photos[i].label for i in np.flatnonzero(~chosen)}]:
        raise DataError(f"no image of the new class {missing[0]} is left to learn from; photograph more series of it")
    return changed, _NewImages(photos, [digest for _, digest in kept], embeddings, labels, chosen)


def _basis(old: Memory, images: _NewImages) -> str:
    """What the verdict rests on."""
    count = int(images.held_out.sum())
    new = f"{count} of {len(images.photos)} new ones"
    line = f"judged by {len(old.test)} held-out old images that the bundle remembers and {new}"
    if count:
        return line
    return (
        f"{line}: nothing tells how well the new is learned, as all new images look nearly like learned ones or like "
        "each other, or their splits hold none out; collect more series"
    )


def _renamed(memory: Memory, changed: ClassChange) -> Memory:
    """What is remembered, for the classes afterwards; images of removed classes are forgotten."""
    import numpy as np

    now = np.full(len(memory.head.bias), -1)
    for position, sources in enumerate(changed.sources):
        now[list(sources)] = position
    train, test = now[memory.train_labels], now[memory.test_labels]
    return replace(
        memory,
        head=memory.head.for_classes(changed.rows),
        train=memory.train[train >= 0], train_labels=train[train >= 0],
        test=memory.test[test >= 0], test_labels=test[test >= 0],
    )  # fmt: skip


def _fitted(old: Memory, changed: ClassChange, images: _NewImages) -> Head:
    import numpy as np

    learned = ~images.held_out
    embeddings = np.concatenate([old.train, images.embeddings[learned]])
    labels = np.concatenate([old.train_labels, images.labels[learned]])
    new = np.arange(len(labels)) >= len(old.train_labels)
    free = np.array([row is None for row in changed.rows])
    return fit_head(old.head, embeddings, labels, importance_of(labels, new), free)


def _judged(
    before: Memory, old: Memory, changed: ClassChange, images: _NewImages, head: Head, max_drop_points: float
) -> Verdict:
    import numpy as np

    embeddings, labels = _all_held_out(old, images)
    scores = scores_for(before.head.scores(embeddings), changed.sources)
    is_new = np.arange(len(labels)) >= len(old.test_labels)
    return Verdict.of(scores, head.scores(embeddings), labels, is_new, changed.names, max_drop_points)


def _all_held_out(old: Memory, images: _NewImages) -> tuple[NDArray[float32], NDArray[int64]]:
    """Embeddings (N, D) and labels (N,) of the old images and of the new ones that are held out, in this order."""
    import numpy as np

    return (
        np.concatenate([old.test, images.embeddings[images.held_out]]),
        np.concatenate([old.test_labels, images.labels[images.held_out]]),
    )


def _free_path(bundle: Path) -> Path:
    """The first name beside a bundle that is not taken: NAME-adapted, NAME-adapted-2 and so on."""
    name, _, number = bundle.resolve().name.partition("-adapted")
    count = int(number[1:]) + 1 if number[1:].isdecimal() else 2 if "-adapted" in bundle.resolve().name else 1
    while True:
        path = bundle.resolve().with_name(f"{name}-adapted" if count == 1 else f"{name}-adapted-{count}")
        if not path.exists():
            return path
        count += 1


def _write(
    folder: Path, bundle: Artifact, changed: ClassChange, memory: Memory, images: _NewImages, verdict: Verdict
) -> Card:
    """Write the bundle with the last layer of `memory`, after its graph has given the answers that were judged."""
    import numpy as np

    parent = bundle.card.lineage.files[bundle.card.model_file]
    relearned = {
        "parent": parent,
        "run": bundle.path.resolve().name,
        "how": HOW,
        "old_images": len(memory.train) + len(memory.test),
        "new_images": len(images.photos),
        "digest": hashlib.sha256("".join(sorted(images.digests)).encode()).hexdigest(),
        **verdict.to_json(),
    }
    before = bundle.card.lineage
    lineage = replace(
        machine.new_lineage(before.data, parent=parent), relearned=relearned, recipe=before.recipe,
        calibration=before.calibration,
    )  # fmt: skip
    thresholds = {name: value for name, value in bundle.card.confidence.thresholds.items() if name in changed.names}
    confidence = replace(bundle.card.confidence, thresholds=thresholds)
    card = replace(bundle.card, classes=changed.names, quality=Quality(), lineage=lineage, confidence=confidence)
    card = _write_graph(folder, bundle, card, memory.head)
    paths = [photo.path for photo, held in zip(images.photos, images.held_out, strict=True) if held]
    raw = [card.preprocess(read_image(path, geometry=card.preprocess)) for path in paths]
    golden = np.stack([*Golden.read(bundle.path, bundle.card).images, *raw[:NEW_GOLDEN]])
    with Artifact(folder, card).open() as session:
        Golden(golden, scores_of(session, golden)).write(folder)
        scores = scores_of(session, raw)
    card = replace(card, quality=_quality(scores, memory.head, images, verdict, bundle.backend.package))
    _remembering(memory, images).write(folder)
    write_card(card, folder)
    return card


def _write_graph(folder: Path, bundle: Artifact, card: Card, head: Head) -> Card:
    """Write the network, and its last layers alone where the bundle has these too, with the new last layer."""
    entries = {EMBEDDED_KEY: card.embedded(), **{f"model_info {k}": v for k, v in card.model_info().items()}}
    names = [name for name in (bundle.card.model_file, HEAD_FILE) if name in bundle.card.lineage.files]
    for name in names:
        own = entries if name == bundle.card.model_file else {}
        content = with_head(read_bytes(bundle.path / name), card.inner_tensors["embedding"], head, own)
        write_bytes(folder / name, content)
    return with_files(card, folder, names)


def _record_reference(
    folder: Path, output: Output, memory: Memory, images: _NewImages, callbacks: AdaptCallbacks
) -> None:
    """Write what the last layer of `memory` answers to all held-out images; the old reference is of another layer."""
    import numpy as np

    embeddings, labels = _all_held_out(memory, images)
    if len(labels) < FEWEST_IMAGES:
        callbacks.remark(
            f"{len(labels)} images are held out and {FEWEST_IMAGES} are the least for a reference: the new bundle "
            "neither tells what is unknown nor watches for drift; add images"
        )
        return
    chosen = np.random.default_rng(SEED).permutation(len(labels))[:MOST_IMAGES]
    logits = as_logits(memory.head.scores(embeddings[chosen]), output)
    Reference.recorded(logits, embeddings[chosen], labels[chosen]).write(folder)


def _quality(scores: NDArray[float32], head: Head, images: _NewImages, verdict: Verdict, runtime: str) -> Quality:
    """What the written graph's scores (N, C) for the held-out new images say. Raises `VerificationError`."""
    import numpy as np

    if not len(scores):
        return Quality(verified_with=runtime)
    expected, labels = head.scores(images.embeddings[images.held_out]), images.labels[images.held_out]
    quality = compared(scores, expected, "new", runtime)
    if not (quality.max_score_difference or 0.0) <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise VerificationError("the written graph does not answer as the fitted layer does; nothing was written")
    note = "worse than the bundle that it learned from" if verdict.word == "worse" else None
    return replace(quality, top1=float((scores.argmax(axis=1) == labels).mean()), note=note)


def _remembering(memory: Memory, images: _NewImages) -> Memory:
    """What the new bundle remembers: the new images too, and of each class as many as of the others at most."""
    import numpy as np

    def thinned(
        old: NDArray[float32], old_labels: NDArray[int64], chosen: NDArray[bool_]
    ) -> tuple[NDArray[float32], NDArray[int64]]:
        embeddings = np.concatenate([old, images.embeddings[chosen]])
        labels = np.concatenate([old_labels, images.labels[chosen]])
        kept = evenly(labels, np.arange(len(labels)), 2 * MAX_IMAGES)
        return embeddings[kept], labels[kept]

    return Memory(
        memory.head,
        *thinned(memory.train, memory.train_labels, ~images.held_out),
        *thinned(memory.test, memory.test_labels, images.held_out),
        memory.known | {short_digest(digest) for digest in images.digests},
        memory.knows_all,
    )
