"""From a configuration to a page that people review by, and from what they decide to labelled images."""

from __future__ import annotations

import hashlib
import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edgecls.backends import OnProgress
from edgecls.collecting.labelled import LabelledFolder, unlisted
from edgecls.collecting.labels import file_part
from edgecls.errors import DataError, EdgeclsError, UsageError, first_line
from edgecls.files import printable
from edgecls.imaging.folders import DATA_FILE, holds_labels
from edgecls.labels import typed_label
from edgecls.reviewing.choosing import Alike, Choice, Ranked
from edgecls.reviewing.config import ReviewConfig
from edgecls.reviewing.features import FeatureExtractor, Features, Thumbnails
from edgecls.reviewing.items import Item, doubted, read_pool
from edgecls.reviewing.log import Log
from edgecls.reviewing.placing import ORIGIN, FromPool, InPlace, origin
from edgecls.reviewing.queue import Queue
from edgecls.runtime.classifier import Classifier, load
from edgecls.web.server import Server

logger = logging.getLogger(__name__)

REVIEWS_FOLDER = ".reviews"
LOG_FILE = "log.jsonl"
RETRY_S = 5.0
"""After the folder of labelled images refused."""
LABELLED = 1000
"""Images of the folder that are looked at before the first group is shown, at most."""


@dataclass(frozen=True)
class Reviewed:
    """What stands in the log at the end: pictures by label or kind of decision, those that are left, and those that
    were gone before they could be copied.
    """

    counts: Mapping[str, int]
    left: int
    gone: int
    moved: int
    log: Path


class Review:
    """A review that is under way: its queue, and the threads that compute features and do what was decided."""

    def __init__(self, config: ReviewConfig, items: Sequence[Item], model: Classifier | None, in_place: bool):
        self.config, self.in_place = config, in_place
        self.pictures = config.data if in_place or config.pool is None else config.pool
        own = review_folder(config, in_place)
        self.folder = LabelledFolder(config.data)
        self._log = Log(own / LOG_FILE)
        self.thumbnails = Thumbnails(self.pictures, own / "thumbnails")
        self._from_pool = FromPool(self.folder, self.pictures, pool_name(self.pictures))
        self._labelled = {} if in_place else self._labelled_images()
        self._choice: Choice = Ranked(items) if in_place else Alike(items, [*self._labelled.values()])
        known = [*self.folder.counts(), *_suggested(items)]
        labels = [*(typed_label(label, known) for label in config.classes), *known]
        self.queue = Queue(
            items,
            self._log,
            self._choice,
            dict.fromkeys(labels),
            config.group,
            lambda path: (self.pictures / path).is_file(),
        )
        self.features = FeatureExtractor(self.pictures, own, self.thumbnails, model)
        self._labelled_features = FeatureExtractor(config.data, own / "labelled", None, model)
        self.known = len(items) if in_place else 0
        """Pictures whose features are known."""
        self.gone: set[str] = set()
        self._errors: dict[str, str] = {}
        """What failed the last time that it was tried, by what it is for."""
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._seen: dict[str, Features] = {}
        self._seen_labelled: dict[str, Features] = {}
        self._threads = [threading.Thread(target=self._work, name="edgecls-review-work", daemon=True)]
        if not in_place:
            self._threads.append(threading.Thread(target=self._extract, name="edgecls-review-features", daemon=True))
        self.queue.changed = self._wake.set

    @property
    def error(self) -> str | None:
        """What does not work now, in one line."""
        return next(iter([*self._errors.values()]), None)

    def start(self) -> None:
        """Begin to compute features, and to do what was decided and not done when the last program ended."""
        self._wake.set()
        for thread in self._threads:
            thread.start()

    def close(self) -> int:
        """Do what is left to do, and end; returns how many pictures were taken out of the pool. Raises `OutputError`
        and `DataError` where that cannot be done: it is in the log, and done when the review is begun again.
        """
        self._stop.set()
        self._wake.set()
        try:
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join()
            self.settle()
            return self._move() if self.config.move and not self.in_place else 0
        finally:
            self._log.close()

    # ── doing what was decided ──────────────────────────────────────────────────────────────────────────────────────

    def settle(self) -> None:
        """Bring the folder of labelled images to what was decided."""
        queue = self.queue
        with queue.lock:
            renames = [*queue.decisions.renames.values()]
        for event in renames:
            named = [row.path for row in self.folder.rows() if row.label == event["old"]]
            self.folder.relabel(named, event["new"], as_is=True)
            queue.renamed(event["n"])
        with queue.lock:
            wanted = {item: queue.decisions.verdict(item) for item in queue.decisions.unplaced}
            versions = {item: queue.decisions.version(item) for item in wanted}
            before, seen = dict(queue.decisions.rows), dict(queue.decisions.placed)
        if not wanted:
            return
        known = {item: queue.items[queue.position_of[item]] for item in wanted if item in queue.position_of}
        placer = InPlace(self.folder, before, seen) if self.in_place else self._from_pool
        placed = placer.place(wanted, known)
        self.gone.update(placed.gone)
        queue.placed(placed.paths, versions)

    def _work(self) -> None:
        """Do what was decided, and learn from it, whenever there is something new."""
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            learned = self._try("learning", self._choice.learn)
            if not (self._try("labelling", self.settle) and learned) and not self._stop.wait(RETRY_S):
                self._wake.set()

    def _try(self, name: str, work: Callable[[], None]) -> bool:
        """Whether something could be done; where not, the page says why. No thread ends of it."""
        try:
            work()
        except (EdgeclsError, OSError) as error:
            self._errors[name] = first_line(error)
        except Exception as error:
            if self._errors.get(name) != first_line(error):  # not each time that it is tried again
                logger.exception("%s failed", name)
            self._errors[name] = first_line(error)
        else:
            self._errors.pop(name, None)
            return True
        return False

    def _move(self) -> int:
        """Take pictures out of the pool that the folder of labelled images has; returns how many."""
        there = {row.further.get(ORIGIN) for row in self.folder.rows()}
        name, moved = pool_name(self.pictures), 0
        for item, verdict in self.queue.decisions.decided().items():
            file = self.pictures / item
            if verdict.kind == "label" and origin(name, item) in there and file.is_file():
                file.unlink(missing_ok=True)
                moved += 1
        return moved

    # ── looking at pictures ─────────────────────────────────────────────────────────────────────────────────────────

    def _labelled_images(self) -> dict[str, str]:
        """Labels by path of images of the folder from which the first suggestions are learned: of many a sample, and
        none that came from this pool, since the log has those.
        """
        own = origin(pool_name(self.pictures), "")
        rows = [row for row in self.folder.rows() if not row.further.get(ORIGIN, "").startswith(own)]
        drawn = random.Random(0).sample(rows, min(LABELLED, len(rows)))
        return {row.path: row.label for row in drawn}

    def _extract(self) -> None:
        paths = [item.path for item in self.queue.items]
        labelled, heard, stop = [*self._labelled], self._seen_labelled.update, self._stop.is_set
        self._try("computing features", lambda: self._labelled_features.find(labelled, heard, stop))
        self._try("computing features", lambda: self.features.find(paths, self._heard, stop))
        self._try("showing", self._show)

    def _heard(self, features: Mapping[str, Features]) -> None:
        """Show pictures as soon as there are some, and then whenever there are half as many again."""
        before = self.known
        self._seen.update(features)
        if before == 0 or len(self._seen) >= 1.5 * before:
            self._show()

    def _show(self) -> None:
        if not self._seen or len(self._seen) == self.known:
            return
        positions = [self.queue.position_of[path] for path in self._seen]
        at_labelled = {path: at for at, path in enumerate(self._labelled, start=len(self.queue.items))}
        positions += [at_labelled[path] for path in self._seen_labelled]
        assert isinstance(self._choice, Alike)
        self._choice.see(positions, [*self._seen.values(), *self._seen_labelled.values()], self.queue.lock)
        self.known = len(self._seen)
        self._wake.set()


def review(
    config: ReviewConfig,
    suspects: Sequence[Item] | None = None,
    stop: threading.Event | None = None,
    announce: Callable[[Server, str], None] = lambda _server, _url: None,
    on_progress: OnProgress = lambda _: None,
    *,
    replay: bool = False,
) -> Reviewed:
    """Serve the page of a review until `stop` is set: of a pool, or of labelled images that are doubted (`suspects`).

    With `replay` nothing is served: what stands in the log is done in the folder of labelled images, as far as it is
    not done yet. Raises `DataError`, `UsageError`, and `OutputError` where the log or the folder cannot be written.
    """
    config.check()
    stop, in_place = stop or threading.Event(), suspects is not None
    _require(config, in_place)
    with ExitStack() as stack:
        server = None if replay else Server(config.web, config.token())
        items = _items(config, suspects)
        model = None
        if config.model is not None and not in_place and not replay:
            model = _loaded(config.model, on_progress)
            if model is not None:
                stack.enter_context(model)
        under_way = Review(config, items, model, in_place)
        try:
            if server is not None:
                _serve(server, under_way, stop, announce)
        finally:
            moved = under_way.close()
        queue = under_way.queue
        log = review_folder(config, in_place) / LOG_FILE
        return Reviewed(queue.counts(), queue.left(), len(under_way.gone), moved, log)


def _serve(server: Server, review: Review, stop: threading.Event, announce: Callable[[Server, str], None]) -> None:
    from edgecls.reviewing.page import build

    server.announce = lambda url: announce(server, url)
    try:
        server.serve(lambda: build(review, lambda: server.closing, server.token, server.limits))
        review.start()
        stop.wait()
    finally:
        server.close()


def _loaded(path: Path, on_progress: OnProgress) -> Classifier | None:
    """The model with embeddings; None where it is one that gives none, and colours have to do."""
    try:
        return load(path, on_progress=on_progress, spinning=False, tensors=("embedding",))
    except UsageError as error:
        on_progress(f"pictures are grouped by colours: {first_line(error)}")
        return None


def _items(config: ReviewConfig, suspects: Sequence[Item] | None) -> list[Item]:
    if suspects is None:
        assert config.pool is not None
        return read_pool(config.pool)
    return doubted(LabelledFolder(config.data).rows(), suspects)


def _require(config: ReviewConfig, in_place: bool) -> None:
    """Raise `UsageError` or `DataError` for folders that a review would make a mess of."""
    if config.pool is None and not in_place:
        raise UsageError("name a pool, or a folder of images; `suspects` reviews labelled images again")
    if config.pool is not None and in_place:
        raise UsageError("labelled images are looked at again (`suspects`), or those of a pool; not both")
    if config.pool is not None and config.pool.resolve() == config.data.resolve():
        raise UsageError("the pool and the folder of labelled images are the same; give another `data`")
    where = config.data
    if not holds_labels(where) and (in_place or (where.is_dir() and unlisted(where, ()))):
        raise DataError(
            f"{printable(where)} has no {DATA_FILE}, which says what its images show; make one: edgecls data import "
            f"{printable(where)} --out {printable(where / DATA_FILE)}"
        )


def review_folder(config: ReviewConfig, in_place: bool) -> Path:
    """Where a review keeps its log and small copies: hidden in the folder of labelled images."""
    assert in_place or config.pool is not None
    return config.data / REVIEWS_FOLDER / ("suspects" if config.pool is None or in_place else pool_name(config.pool))


def pool_name(pool: Path) -> str:
    """What a pool is called among the labelled images: its name, and which folder of that name."""
    place = hashlib.sha256(bytes(pool.resolve())).hexdigest()[:8]
    return f"{file_part(pool.resolve().name)}-{place}"


def _suggested(items: Sequence[Item]) -> list[str]:
    """Classes that pictures may show, as somebody or a model said, by name."""
    return sorted({name for item in items for name in (item.suggested, *item.probabilities) if name})
