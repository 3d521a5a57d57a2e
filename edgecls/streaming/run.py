"""From a configuration to a running stream: cameras and model are opened, sinks are made."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from edgecls.artifact.card import HEAD_FILE
from edgecls.artifact.golden import Golden
from edgecls.artifact.reference import Reference
from edgecls.backends import OnProgress, Parallelism
from edgecls.errors import UsageError
from edgecls.runtime import store
from edgecls.runtime.classifier import load
from edgecls.runtime.explanation import open_explainer
from edgecls.runtime.first_opening import first_verified
from edgecls.streaming.config import StreamConfig, split_name
from edgecls.streaming.loop import Stream, Summary
from edgecls.streaming.sinks.base import Sink
from edgecls.streaming.sinks.choose import make_sinks
from edgecls.streaming.sinks.keep import KeepSink
from edgecls.streaming.sources import Source, open_source
from edgecls.streaming.sources.choose import DEMO

logger = logging.getLogger(__name__)
BESIDE_A_STREAM = Parallelism(threads=1, spinning=False)
"""How the model is opened once more, for pictures of what it looks at: the stream's own inferences come first."""


def stream(
    config: StreamConfig | None = None, sinks: Sequence[Sink] = (), stop: threading.Event | None = None
) -> Summary:
    """Classify cameras, streams or videos until they end, the configuration says so, or `stop` is set.

    Decisions go to the configuration's sinks and to `sinks`. Raises `SourceError` where no source can go on, and
    `OutputError` where a sink cannot begin.
    """
    with open_stream(config, lambda _: sinks) as running:
        return running.run(stop or threading.Event())


@contextmanager
def open_stream(
    config: StreamConfig | None = None,
    more_sinks: Callable[[str], Sequence[Sink]] = lambda _: (),
    beat: Callable[[], None] = lambda: None,
    on_progress: OnProgress = lambda _: None,
) -> Iterator[Stream]:
    """A stream that is ready to run. `more_sinks` come on top, for a title that names the cameras and the model.

    `beat` is called many times a second as long as the stream is alive, `on_progress` hears what the runtime builds
    first.
    """
    config = StreamConfig.checked(config)
    with ExitStack() as stack:
        artifacts = store.candidates(config.model)
        artifact = first_verified(artifacts, on_progress=on_progress) if config.golden_check else artifacts[0]
        demo = any(split_name(camera)[1] == DEMO for camera in config.cameras) and artifact.path.is_dir()
        golden = Golden.read(artifact.path, artifact.card) if demo else None
        sources: list[Source] = [
            stack.enter_context(open_source(camera, golden, config.camera_options)) for camera in config.cameras
        ]
        title = " · ".join([*(source.name for source in sources), artifact.card.name])
        reference = Reference.read(artifact.path, artifact.card) if artifact.path.is_dir() else None
        _require_reference(config, artifact, reference)
        keep = KeepSink(config.keeping, artifact.card.name, reference) if config.keeping.keep_to else None
        explain = (
            partial(open_explainer, artifact, BESIDE_A_STREAM) if HEAD_FILE in artifact.card.lineage.files else None
        )
        sinks = [*make_sinks(config.sinks, sources, keep, explain), *more_sinks(title)]
        # A camera wants its answer soon, and the processor for others in between; a file wants all of its answers.
        live = sources[0].live
        streams, spinning = (1, config.spin) if live else (None, True)
        watched = reference if config.drift else None
        looks_inside = reference is not None and reference.measure == "distance" and (config.drift or keep)
        classifier = load(
            artifact.path, config.threads, on_progress, streams, spinning, check=False,
            tensors=("embedding",) if looks_inside else (),
            unknown=config.unknown or "unknown" in config.keeping.reasons(), false_refusals=config.false_refusals,
        )  # fmt: skip
        classifier.says_unknown = config.unknown
        yield Stream(sources, stack.enter_context(classifier), sinks, config, beat, watched)


def _require_reference(config: StreamConfig, artifact: store.Artifact, reference: Reference | None) -> None:
    """Raise `UsageError` for frames to keep that nothing could be known of."""
    wanted = set(config.keeping.reasons())
    if reference is None and (lacking := sorted(wanted & {"drifted", "unknown"})):
        raise UsageError(
            f"`keep` {lacking[0]}: {artifact.path} has no record of validation images to compare with; export again"
        )
    confidence, least = artifact.card.confidence, config.smoothing.min_confidence
    if "unsure" in wanted and not (least or confidence.threshold or confidence.thresholds):
        logger.warning(
            "nothing is unsure for this model, so that no frame is kept for it: fit a threshold with edgecls evaluate, "
            "or give one as `min_confidence`"
        )
    if "drifted" in wanted and not config.drift:
        raise UsageError("`keep` drifted, without watching for drift: give one of them")
