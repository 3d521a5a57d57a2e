"""What was decided of each picture: the replay of a log.

Events and what they bring, besides who and when: `decide` (`verdict`, `label`, `items`, `rows` of labelled images, and
`new_class`, true where no class was called so before), `undo` (`of`, the number of what is taken back; a class that was
new with it goes, unless others use it), `class` (`label`), `rename` (`old`, `new`; into a class that is there,
both become one), `renamed` (`of`: it is done in the folder of labelled images), and `placed` (`paths` by item: where
that folder has them now, null where it does not; `versions` by item: the decision for which this was done).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from edgecls.collecting.table import Row
from edgecls.reviewing.log import Event

Kind = Literal["label", "reject", "unknown"]
KINDS: tuple[str, ...] = get_args(Kind)
"""It shows a class; it is no use; somebody does not know."""


@dataclass(frozen=True)
class Verdict:
    """A decision on one picture. `n` is its event's number."""

    kind: Kind
    label: str
    who: str
    n: int


class Decisions:
    """The state that events lead to. The same events lead to the same state."""

    def __init__(self, events: Iterable[Event] = ()):
        self._history: dict[str, list[Verdict]] = {}
        self._versions: dict[str, int] = {}
        self._made: dict[int, Event] = {}
        self.placed: dict[str, str | None] = {}
        """Where the folder of labelled images has a picture as far as it is known; see `unplaced`."""
        self.unplaced: dict[str, None] = {}
        """Pictures whose last decision is not done in the folder yet, in order."""
        self.rows: dict[str, Row] = {}
        """Labelled images on which something was decided: their rows before that."""
        self.renames: dict[int, Event] = {}
        """What is to be renamed in the folder yet."""
        self.old_names: set[str] = set()
        """What classes were called before they were renamed."""
        self.classes: list[str] = []
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> Sequence[str]:
        """Take an event in; returns the pictures whose decision changed."""
        changed: list[str] = getattr(self, f"_{event['do']}", lambda _: [])(event)
        return changed

    def verdict(self, item: str) -> Verdict | None:
        """What was last decided, and not taken back."""
        history = self._history.get(item)
        return history[-1] if history else None

    def version(self, item: str) -> int:
        """The number of the last event that changed the decision on a picture; 0 where there was none."""
        return self._versions.get(item, 0)

    def decided(self) -> dict[str, Verdict]:
        """The last decision on each picture that has one."""
        return {item: history[-1] for item, history in self._history.items() if history}

    def undoable(self, who: str) -> Event | None:
        """Somebody's last decision that can be taken back: one that still counts for some picture."""
        for n in reversed(self._made):
            event = self._made[n]
            if event["who"] == who and self.still(event):
                return event
        return None

    def still(self, event: Event) -> list[str]:
        """The pictures for which a decision is the last word."""
        return [item for item in event["items"] if self._versions.get(item) == event["n"]]

    def counts(self) -> Counter[str]:
        """Pictures by kind of their decision."""
        return Counter(verdict.kind for verdict in self.decided().values())

    def _decide(self, event: Event) -> list[str]:
        verdict = Verdict(event["verdict"], event.get("label") or "", event["who"], event["n"])
        self._made[event["n"]] = event
        self.rows.update({item: Row(**values) for item, values in event.get("rows", {}).items()})
        for item in event["items"]:
            self._history.setdefault(item, []).append(verdict)
            self._changed(item, event["n"])
        return list(event["items"])

    def _undo(self, event: Event) -> list[str]:
        made = self._made.pop(event["of"], None)
        changed = [] if made is None else self.still(made)
        for item in changed:
            self._history[item].pop()
            before = self._history[item]
            self._changed(item, before[-1].n if before and before[-1].n in self._made else event["n"])
        if made is not None and made.get("new_class") and made["label"] in self.classes:
            used = {verdict.label for history in self._history.values() for verdict in history}
            if made["label"] not in used:
                self.classes.remove(made["label"])
        return changed

    def _changed(self, item: str, n: int) -> None:
        self._versions[item] = n
        self.unplaced.pop(item, None)
        self.unplaced[item] = None

    def _class(self, event: Event) -> list[str]:
        if event["label"] not in self.classes:
            self.classes.append(event["label"])
        return []

    def _rename(self, event: Event) -> list[str]:
        old, new = event["old"], event["new"]
        names = [new if label == old else label for label in self.classes]
        self.classes = list(dict.fromkeys(names if new in names else [*names, new]))
        self.renames[event["n"]] = event
        self.old_names.add(old)
        self.rows |= {item: replace(row, label=new) for item, row in self.rows.items() if row.label == old}
        changed = []
        for item, history in self._history.items():
            if any(verdict.label == old for verdict in history):
                self._history[item] = [
                    Verdict(each.kind, new if each.label == old else each.label, each.who, each.n) for each in history
                ]
                changed.append(item)
        return changed

    def _placed(self, event: Event) -> list[str]:
        for item, path in event["paths"].items():
            self.placed[item] = path
            if self.version(item) == event["versions"].get(item):
                self.unplaced.pop(item, None)
        return []

    def _renamed(self, event: Event) -> list[str]:
        self.renames.pop(event["of"], None)
        return []
