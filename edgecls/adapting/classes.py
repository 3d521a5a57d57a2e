"""Classes that were renamed, merged or removed, and new ones: what becomes of the last layer's rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgecls.errors import UsageError
from edgecls.fields import is_name

LEAST_CLASSES = 2


@dataclass(frozen=True)
class ClassChange:
    """`names` are the classes afterwards: those before in their order, then the new ones.

    `sources` are the positions, before, of what became each of them: none of a new one, several of a merged one.
    """

    names: tuple[str, ...]
    sources: tuple[tuple[int, ...], ...]
    renamed: dict[str, str]
    removed: frozenset[str]

    @classmethod
    def of(cls, before: Sequence[str], rename: Sequence[str], remove: Sequence[str]) -> ClassChange:
        """From "OLD=NEW" for each class that is called otherwise now, and the classes that are no more.

        Where NEW is there already, or two get the same name, they are merged. Raises `UsageError`.
        """
        renamed = {}
        for text in rename:
            old, separator, new = text.partition("=")
            if not separator or not is_name(new):
                raise UsageError(f"`rename` takes OLD=NEW, not {text!r}")
            if old in renamed:
                raise UsageError(f"`rename` names {old!r} twice")
            renamed[old] = new
        for setting, names in (("rename", list(renamed)), ("remove", list(remove))):
            for name in names:
                if name not in before:
                    raise UsageError(f"`{setting}`: there is no class {name!r}; there are {', '.join(before)}")
        if both := set(renamed) & set(remove):
            raise UsageError(f"{min(both)!r} is named by `rename` and by `remove`; leave one out")
        sources: dict[str, list[int]] = {}
        for position, name in enumerate(before):
            if name not in remove:
                sources.setdefault(renamed.get(name, name), []).append(position)
        if len(sources) < LEAST_CLASSES:
            raise UsageError(f"{len(sources)} of the classes would be left; a classifier needs two")
        return cls(tuple(sources), tuple(map(tuple, sources.values())), renamed, frozenset(remove))

    def with_new(self, names: Iterable[str]) -> ClassChange:
        """The same and what else there is, behind."""
        fresh = [name for name in dict.fromkeys(names) if name not in self.names]
        return ClassChange((*self.names, *fresh), (*self.sources, *((),) * len(fresh)), self.renamed, self.removed)

    def name_now(self, name: str) -> str | None:
        """What a class is called now; None for one that was removed."""
        return None if name in self.removed else self.renamed.get(name, name)

    @property
    def new(self) -> tuple[str, ...]:
        """The classes that were not there."""
        return tuple(name for name, sources in zip(self.names, self.sources, strict=True) if not sources)

    @property
    def rows(self) -> list[int | None]:
        """The row of the last layer from which each class begins; None for a new one."""
        return [sources[0] if sources else None for sources in self.sources]
