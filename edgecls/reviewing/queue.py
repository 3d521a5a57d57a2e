"""Who looks at what, and what they decide: for any number of people at once, from any thread."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from edgecls.clock import milliseconds_since, now_ns
from edgecls.errors import UsageError
from edgecls.labels import typed_label
from edgecls.reviewing.choosing import Choice
from edgecls.reviewing.decisions import KINDS, Decisions, Verdict
from edgecls.reviewing.items import Item
from edgecls.reviewing.log import Event, Log

LEASE_S = 120.0
"""How long a group is kept from others when its reviewer's page is not heard of any more."""


@dataclass(frozen=True)
class Shown:
    """A picture as a reviewer sees it, and the version of its decision then. `others` are the next best guesses."""

    item: Item
    guess: str
    others: tuple[str, ...]
    verdict: Verdict | None
    version: int


@dataclass(frozen=True)
class Outcome:
    """What became of a decision: its event's number, the pictures that it counts for, and those that somebody else had
    decided meanwhile, which stay as they are.
    """

    n: int | None
    done: tuple[str, ...]
    conflicts: tuple[str, ...] = ()


@dataclass
class _Lease:
    who: str
    since_ns: int = field(default_factory=now_ns)


class Queue:
    """Pictures that wait, and decisions on them. Nobody's decision is replaced by somebody who has not seen it.

    `choice` says what is shown next, `exists` whether a picture is still there. What is decided is in `log` before it
    counts; `changed` hears of it. Raises `UsageError` for what makes no sense, and `OutputError` where the log cannot
    be written.
    """

    def __init__(
        self,
        items: Sequence[Item],
        log: Log,
        choice: Choice,
        classes: Iterable[str] = (),
        size: int = 24,
        exists: Callable[[str], bool] = lambda _: True,
    ):
        import numpy as np

        self.items = items
        self.changed: Callable[[], None] = lambda: None
        self._log, self._choice, self._size, self._exists = log, choice, size, exists
        self.lock = threading.RLock()
        self.decisions = Decisions(log.events)
        self._classes = [*classes]
        self.position_of = {item.path: at for at, item in enumerate(items)}
        self._free = np.ones(len(items), bool)
        self._leases: dict[int, _Lease] = {}
        self._later: dict[str, set[int]] = {}
        """Pictures that somebody wants to see after all others."""
        self._counted: tuple[int, Counter[str]] | None = None
        self._tell(self.decisions.decided())
        for event in self.decisions.renames.values():
            choice.renamed(event["old"], event["new"])

    # ── what there is ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def classes(self) -> list[str]:
        """All classes, in the order of their keys."""
        with self.lock:
            known = [label for label in self._classes if label not in self.decisions.old_names]
            return list(dict.fromkeys([*known, *self.decisions.classes]))

    def left(self) -> int:
        """Pictures that nobody has decided on."""
        with self.lock:
            return int(self._free.sum())

    def counts(self) -> Counter[str]:
        """Decided pictures by label, and by kind for the others."""
        with self.lock:
            if self._counted is None or self._counted[0] != self.version:
                found = Counter(each.label or each.kind for each in self.decisions.decided().values())
                self._counted = self.version, found
            return self._counted[1]

    @property
    def version(self) -> int:
        """The number of the last event."""
        return len(self._log.events)

    def shown(self, paths: Iterable[str]) -> list[Shown]:
        """Some pictures as they are now."""
        with self.lock:
            found = []
            for path in paths:
                at = self.position_of.get(path)
                item = Item(path) if at is None else self.items[at]
                guess, others = ("", ()) if at is None else (self._choice.guess(at), self._choice.others(at))
                found.append(Shown(item, guess, others, self.decisions.verdict(path), self.decisions.version(path)))
            return found

    def decided(self, label: str | None, page: int, size: int) -> tuple[list[Shown], int]:
        """One page of what was decided, the latest first, and how many there are: of one label or kind, or of all."""
        with self.lock:
            found = [
                (verdict.n, path)
                for path, verdict in self.decisions.decided().items()
                if label is None or (verdict.label or verdict.kind) == label
            ]
            found.sort(key=lambda each: -each[0])
            return self.shown(path for _, path in found[page * size : (page + 1) * size]), len(found)

    # ── what people do ──────────────────────────────────────────────────────────────────────────────────────────────

    def next(self, who: str) -> list[Shown]:
        """The group that somebody looks at next; the one that they have, where there is something left of it."""
        with self.lock:
            mine = [at for at, lease in self._leases.items() if lease.who == who and self._free[at]]
            mine = mine or self._lease(who)
            self.renew(who)
            return self.shown(self.items[at].path for at in mine)

    def _lease(self, who: str) -> list[int]:
        """A new group, without what others look at, and without pictures that are gone."""
        self._expire()
        free = self._free.copy()
        free[[at for at, lease in self._leases.items() if lease.who != who]] = False
        later = [*self._later.get(who, ())]
        sooner = free.copy()
        sooner[later] = False
        for among in (sooner, free):
            while group := self._choice.next(among, self._size):
                there = [at for at in group if self._exists(self.items[at].path)]
                for at in set(group) - set(there):
                    among[at] = self._free[at] = False
                if there:
                    self._leases.update({at: _Lease(who) for at in there})
                    return there
            if later:
                self._later[who] = set()
        return []

    def renew(self, who: str) -> None:
        """Hear that somebody still looks at their group."""
        with self.lock:
            for lease in self._leases.values():
                if lease.who == who:
                    lease.since_ns = now_ns()

    def later(self, who: str) -> None:
        """Put somebody's group off until they have seen all others."""
        with self.lock:
            mine = {at for at, lease in self._leases.items() if lease.who == who}
            self._later.setdefault(who, set()).update(mine)
            self._give_back(mine)

    def decide(self, who: str, seen: Mapping[str, int], kind: str, label: str = "") -> Outcome:
        """Decide on pictures, given with the versions that somebody saw."""
        if kind not in KINDS:
            raise UsageError(f"a decision is one of {', '.join(KINDS)}, not {kind!r}")
        with self.lock:
            label = typed_label(label, self.classes) if kind == "label" else ""
            known = [path for path in seen if path in self.position_of or self.decisions.version(path)]
            done = [path for path in known if self.decisions.version(path) == seen[path]]
            conflicts = tuple(path for path in known if path not in set(done))
            if not done:
                return Outcome(None, (), conflicts)
            more = self._before(done)
            if label and label not in self.classes:
                self._write("class", who, label=label)
                more["new_class"] = True
            event = self._write("decide", who, verdict=kind, label=label, items=done, **more)
            return Outcome(event["n"], tuple(done), conflicts)

    def _before(self, paths: Iterable[str]) -> dict[str, object]:
        """The rows of labelled images on which nothing was decided before, for the log."""
        rows = {path: self.items[self.position_of[path]].row for path in paths if path in self.position_of}
        new = {path: asdict(row) for path, row in rows.items() if row is not None and path not in self.decisions.rows}
        return {"rows": new} if new else {}

    def undo(self, who: str) -> tuple[Event, list[str]] | None:
        """Take somebody's last decision back, for the pictures that nobody else decided on since; None without one.
        A class that was new with it is none any more, unless others use it.

        Returns the decision and those pictures, which are theirs to look at now.
        """
        with self.lock:
            event = self.decisions.undoable(who)
            if event is None:
                return None
            items = self.decisions.still(event)
            self._write("undo", who, of=event["n"])
            mine = {at for at, lease in self._leases.items() if lease.who == who}
            self._give_back(mine)
            again = [self.position_of[path] for path in items if path in self.position_of]
            self._leases.update({at: _Lease(who) for at in again if self._free[at]})
            return event, items

    def add_class(self, who: str, label: str) -> str:
        """One class more, unless it is known; returns it as it is kept."""
        with self.lock:
            label = typed_label(label, self.classes)
            if label not in self.classes:
                self._write("class", who, label=label)
        return label

    def rename_class(self, who: str, old: str, new: str) -> str:
        """Call a class something else, in all that was decided; returns the name as it is kept. Where there is a class
        of that name both become one.
        """
        with self.lock:
            new = typed_label(new, [label for label in self.classes if label != old])
            if old not in self.classes:
                raise UsageError(f"there is no class {old!r}")
            if new != old:
                self._write("rename", who, old=old, new=new)
                self._choice.renamed(old, new)
                self._classes = list(dict.fromkeys(new if label == old else label for label in self._classes))
        return new

    def placed(self, paths: Mapping[str, str | None], versions: Mapping[str, int]) -> None:
        """Hear where the folder of labelled images has pictures now, and for which decisions."""
        with self.lock:
            self._write("placed", paths=dict(paths), versions=dict(versions))

    def renamed(self, n: int) -> None:
        """Hear that a class is renamed in the folder of labelled images."""
        with self.lock:
            self._write("renamed", of=n)

    # ── how it is done ──────────────────────────────────────────────────────────────────────────────────────────────

    def _write(self, do: str, who: str = "", **content: object) -> Event:
        """Log an event and take it in."""
        event = self._log.append(do, who, **content)
        items = self.decisions.apply(event)
        self._tell({path: self.decisions.verdict(path) for path in items})
        if do != "placed":
            self.changed()
        return event

    def _tell(self, verdicts: Mapping[str, Verdict | None]) -> None:
        """Let what is chosen next know of decisions."""
        labels: dict[int, str | None] = {}
        for path, verdict in verdicts.items():
            if (at := self.position_of.get(path)) is not None:
                self._free[at] = verdict is None
                labels[at] = None if verdict is None else verdict.label
                if verdict is not None:
                    self._leases.pop(at, None)
        self._choice.decided(labels)

    def _expire(self) -> None:
        late = {at for at, lease in self._leases.items() if milliseconds_since(lease.since_ns) > LEASE_S * 1000}
        self._give_back(late)

    def _give_back(self, positions: Iterable[int]) -> None:
        for at in positions:
            self._leases.pop(at, None)
