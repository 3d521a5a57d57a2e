"""Bring your own model: somebody's checkpoint or ONNX classifier becomes a run that every other command takes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgecls import backends, models
from edgecls.artifact.card import IMPORTED, Card, Lineage, Quality, with_files, write_card
from edgecls.artifact.golden import Golden
from edgecls.backends.inner_tensors import find_inner_tensors
from edgecls.data.dataset import Dataset, open_for_classes
from edgecls.errors import ArtifactError, MissingExtraError, first_line
from edgecls.evaluation.inference import GOLDEN_IMAGES, golden_images, labels_of, prepared
from edgecls.evaluation.metrics import measure
from edgecls.files import new_folder
from edgecls.imaging.preprocess import Preprocess
from edgecls.importers.classifier import read_classifier
from edgecls.importers.config import NO_ARCH, ImportConfig
from edgecls.importers.embedding import embed_preprocessing
from edgecls.importers.labels import read_classes
from edgecls.models.torch_backend import BACKEND as REFERENCE
from edgecls.models.torch_backend import MODEL_FILE
from edgecls.runtime import machine, store
from edgecls.runtime.pipeline import scores_of
from edgecls.runtime.store import Artifact

if TYPE_CHECKING:
    import torch
    from numpy import uint8
    from numpy.typing import NDArray

SEED = 0


def import_model(config: ImportConfig, on_progress: Callable[[str], None] = lambda _: None) -> Artifact:
    """Turn a checkpoint or an ONNX classifier into a run; returns it, with its accuracy where `data` was given.

    `on_progress` hears what was assumed. Nothing is left behind on an error. Raises `ArtifactError` for a file that
    does not fit what was said about it.
    """
    config = ImportConfig.checked(config)
    classes = read_classes(config.classes)
    dataset = open_for_classes(config.data, classes, SEED) if config.data else None
    kind = "onnx" if config.arch == NO_ARCH else config.arch
    reserved = nullcontext(config.out) if config.out else store.new_run(config.file.stem, kind)
    with reserved as path, new_folder(path) as folder:
        lineage = machine.new_lineage(dataset.source.name if dataset else None)
        bring = _graph if config.arch == NO_ARCH else _checkpoint
        card = bring(config, classes, lineage, folder, on_progress)
        run = Artifact(folder, card)
        quality = _examine(run, dataset)
        card = replace(card, quality=quality)
        if dataset:
            dataset.write(folder)
        write_card(card, folder)
    return Artifact(path, card)


def _preprocess(config: ImportConfig, defaults: Preprocess) -> Preprocess:
    height, width = config.size_px or (defaults.height_px, defaults.width_px)
    resize = config.resize or defaults.resize
    return replace(
        defaults,
        height_px=height,
        width_px=width,
        resize=resize,
        mean=config.mean or defaults.mean,
        std=config.std or defaults.std,
        crop=config.crop or (defaults.crop if resize == defaults.resize else 1.0),
    )


def _checkpoint(
    config: ImportConfig, classes: tuple[str, ...], lineage: Lineage, folder: Path, on_progress: Callable[[str], None]
) -> Card:
    network = models.create(config.arch, len(classes))
    weights = models.read_weights_for(network, config.arch, config.file, on_progress)
    if not models.load_weights(network, config.arch, weights, str(config.file)):
        raise ArtifactError(_misfit(network, weights, config, len(classes)))
    preprocess = _preprocess(config, models.published_preprocess(config.arch))
    assumed = [
        name
        for name, value in (("`size_px`", config.size_px), ("`mean`", config.mean), ("`std`", config.std))
        if not value
    ]
    if assumed:
        on_progress(
            f"assumed what is usual for {config.arch}, because {', '.join(assumed)} was not given: {_said(preprocess)}"
        )
    models.write_weights(network, folder / MODEL_FILE)
    card = Card(config.arch, classes, preprocess, target=REFERENCE.name, lineage=lineage)
    return with_files(card, folder, [MODEL_FILE])


def _said(preprocess: Preprocess) -> str:
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (preprocess.mean, preprocess.std))
    resize = f"crop {preprocess.crop:g}" if preprocess.resize == "crop" else preprocess.resize
    return f"{preprocess.width_px}x{preprocess.height_px} pixels, {resize}, mean {mean}, std {std}"


def _misfit(network: torch.nn.Module, weights: dict[str, Any], config: ImportConfig, classes: int) -> str:
    """Why the last layers of a checkpoint are not this network's."""
    head = models.find(config.arch).head
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name.startswith(head)}
    name, shape = next((n, s) for n, s in own.items() if n not in weights or tuple(weights[n].shape) != s)
    if name not in weights:
        return f"{config.file} lacks {name}, a part of the last layers of {config.arch}"
    held = tuple(weights[name].shape)
    if len(held) == len(shape) and shape[0] == classes and held[1:] == shape[1:]:
        return f"{config.file} has {held[0]} classes and {config.classes} names {classes}; they must be the same"
    return f"{config.file} does not fit {config.arch}: {name} wants shape {shape}, the file has shape {held}"


def _graph(
    config: ImportConfig, classes: tuple[str, ...], lineage: Lineage, folder: Path, on_progress: Callable[[str], None]
) -> Card:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("onnx", "train", "importing an ONNX file") from error
    theirs = read_classifier(config.file, config.output)
    pixels = theirs.pixels(config.mean, config.std)
    height, width = size_px = theirs.size_px(config.size_px)
    graph = folder / "raw.onnx"
    output = embed_preprocessing(theirs, pixels, size_px, len(classes), graph)
    known = replace(config, size_px=size_px, mean=pixels.mean, std=pixels.std)
    preprocess = _preprocess(known, Preprocess(height, width))
    if theirs.takes_raw_pixels:
        on_progress("the graph takes pixels as they are, 0 to 255")
    if theirs.channels == 1:
        on_progress("the graph takes grey images; colour is converted inside, as OpenCV does")
    if config.size_px is None:
        on_progress(f"the graph takes images of {width}x{height} pixels")
    backend = backends.of_every_install()
    card = Card(
        IMPORTED, classes, preprocess, target=backend.name, lineage=lineage, output=output,
        inner_tensors=find_inner_tensors(graph),
    )  # fmt: skip
    card = backend.build(graph, card, folder)
    graph.unlink()
    return card


def _examine(run: Artifact, dataset: Dataset | None) -> Quality:
    """Run the network, write the golden inputs, and measure its accuracy where there are images.

    Raises `ArtifactError` where its scores are no numbers or are not one per class.
    """
    import numpy as np

    card = run.card
    images = golden_images(dataset, card.preprocess) if dataset else _noise(card)
    with run.open() as session:
        try:
            scores = session.infer(images)
        except Exception as error:
            # Whatever a runtime raises for a graph that does not compute, told in its first line.
            message = f"the network does not run on {len(images)} images at once"
            raise ArtifactError(f"{message}: {first_line(error)}") from error
        if scores.shape != (len(images), len(card.classes)):
            shape = f"scores {scores.shape} for {len(images)} images"
            raise ArtifactError(f"the network gives {shape}; with {len(card.classes)} classes they cannot be its own")
        if not np.isfinite(scores).all():
            raise ArtifactError("the network's scores are not finite numbers; check `mean` and `std`")
        Golden(images, scores).write(run.path)
        if dataset is None:
            return Quality()
        test = dataset.splits["test"]
        metrics = measure(scores_of(session, prepared(dataset.source, test, card.preprocess)), labels_of(test))
    return Quality(split="test", images=metrics.images, top1=metrics.top1, macro_f1=metrics.macro_f1)


def _noise(card: Card) -> NDArray[uint8]:
    """Golden inputs where no image was given: patches of random colours."""
    import numpy as np

    from edgecls.imaging.opencv import cv2

    generator = np.random.default_rng(SEED)
    height, width, _ = card.input_shape
    coarse = generator.integers(0, 256, (GOLDEN_IMAGES, 8, 8, 3), dtype=np.uint8)
    return cast(
        "NDArray[uint8]",
        np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC) for image in coarse]),
    )
