"""From a configuration to pictures in a folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import takewhile

from edgecls.artifact.golden import Golden
from edgecls.backends import OnProgress
from edgecls.clock import milliseconds_since, now_ns
from edgecls.collecting.config import CollectConfig
from edgecls.collecting.labelled import Counts, LabelledFolder
from edgecls.collecting.recorded import Recorded
from edgecls.collecting.session import Session, newest_frames
from edgecls.collecting.taking import Taking
from edgecls.errors import UsageError
from edgecls.runtime import store
from edgecls.runtime.classifier import load
from edgecls.streaming.config import split_name
from edgecls.streaming.frames import Frame
from edgecls.streaming.sources import LiveSource, Source, open_source
from edgecls.streaming.sources.choose import DEMO
from edgecls.web.server import Server

EVERY_S = 1.0
"""Of a camera without a page, unless told otherwise."""
SLACK_S = 1e-3
"""Of times in a video, which are not exact."""


@dataclass(frozen=True)
class Collected:
    """What a run of collecting did, and what the folder holds now, by class.

    `left_out` are pictures in which nothing had changed, `known` those that were in the folder before, by label.
    """

    taken: int
    left_out: int
    undone: int
    counts: dict[str, Counts]
    known: Mapping[str, int] = field(default_factory=dict)


def collect(
    config: CollectConfig | None = None,
    stop: threading.Event | None = None,
    announce: Callable[[Server, str], None] = lambda _server, _url: None,
    on_progress: OnProgress = lambda _: None,
) -> Collected:
    """Collect labelled pictures of a camera, through a page or, with a `label`, without one.

    Ends where the source does, the configuration says so, or `stop` is set. `announce` hears the page's address,
    `on_progress` what the runtime builds for the model. Raises `SourceError` where the source cannot go on, and
    `OutputError` where the folder cannot be written or the page not be served.
    """
    config, stop = CollectConfig.checked(config), stop or threading.Event()
    folder = LabelledFolder(config.out)
    with ExitStack() as stack:
        page = None if config.label is not None else _Page(config, stack, announce, on_progress)
        source = stack.enter_context(_open(config))
        taking = Taking(folder, source.name, config.classes, config.keep_still)
        taking.counts()  # what cannot be read or written is said before anybody presses a button
        if page is not None:
            page.run(source, taking, stop)
        else:
            _take_by_itself(config, source, taking, folder, stop)
        left_out = sum(taking.left_out.values())
        return Collected(taking.taken, left_out, taking.undone, taking.counts(), dict(taking.known))


class _Page:
    """What a page needs, made before the camera is opened: its server and the model."""

    def __init__(
        self,
        config: CollectConfig,
        stack: ExitStack,
        announce: Callable[[Server, str], None],
        on_progress: OnProgress,
    ):
        self._config, self._announce = config, announce
        self._server = Server(config.web, config.token())
        self._model = None
        if config.model is not None:
            self._model = stack.enter_context(load(config.model, on_progress=on_progress, spinning=False))

    def run(self, source: Source, taking: Taking, stop: threading.Event) -> None:
        """Serve the page until the end."""
        from edgecls.collecting.page import build

        if not isinstance(source, LiveSource):
            raise UsageError(
                "the page shows a camera or a video; give `label` for pictures of a folder or of standard input"
            )
        server = self._server
        session = Session(source, taking, self._config, self._model)
        session.closing = lambda: server.closing
        server.announce = lambda url: self._announce(server, url)
        try:
            server.serve(lambda: build(session, server.token, server.limits))
            session.run(stop)
        finally:
            server.close()


def _open(config: CollectConfig) -> Source:
    options = config.camera_options
    if config.label is None:
        options = replace(options, realtime=True)
    golden = None
    if split_name(config.camera)[1] == DEMO:
        artifact = store.candidates(config.model)[0]
        golden = Golden.read(artifact.path, artifact.card) if artifact.path.is_dir() else None
    return open_source(config.camera, golden, options)


def _take_by_itself(
    config: CollectConfig, source: Source, taking: Taking, folder: LabelledFolder, stop: threading.Event
) -> None:
    """Take pictures of one class as the configuration says, each series for itself; of a file what is not there yet."""
    label = config.label or ""
    taking.add_class(label)
    due_s = begun_s = recorded = file = None
    for frame in _frames(source, stop, config.duration_s):
        begun_s = frame.pts_s if begun_s is None else begun_s
        every_s = config.every_s or (EVERY_S if source.live else 0.0)
        if source.sequence and due_s is not None and frame.pts_s < due_s - SLACK_S:
            continue
        due_s = frame.pts_s + every_s if due_s is None else max(due_s, frame.pts_s - every_s) + every_s
        # Images that do not follow each other are a series each.
        series = str(int((frame.pts_s - begun_s) // config.series_s) if source.sequence else frame.index)
        group = None
        if frame.path is not None:
            recorded = recorded or Recorded(folder, source.name)
            if not source.sequence:
                file = recorded.image(frame.path)
            elif file is None:
                file = recorded.video(frame.path)
            series = group = file.group(frame.pts_s, config.series_s)
        taking.take(frame, label, series, client=series, group=group, recorded=file)
        if config.frames is not None and taking.taken >= config.frames:
            return


def _frames(source: Source, stop: threading.Event, duration_s: float | None) -> Iterator[Frame]:
    """Frames of any source until its end, `stop`, or so many seconds."""
    begun_ns = now_ns()

    def over() -> bool:
        return stop.is_set() or (duration_s is not None and milliseconds_since(begun_ns) >= duration_s * 1000)

    if isinstance(source, LiveSource):
        return newest_frames(source, over)
    return takewhile(lambda _: not over(), source)
