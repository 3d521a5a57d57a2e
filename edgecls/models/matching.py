"""Which of the tensors in a file are a network's: by name under a prefix that they share, or by order and shape."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
_AVERAGED = re.compile(r"(?<![a-z])(ema|swa|avg|averaged?)|(ema|swa|avg|averaged?)(?![a-z])")
_BESIDE = re.compile(
    r"criterion|loss|metric|accuracy|confmat|(class|pos|label)_?weight|(?<![a-z])(acc|ema|swa)(?![a-z])|^(mean|std)$"
)
"""The modules of a network's trainer: objectives, measurements, averages, and the normalization of the images."""


@dataclass(frozen=True)
class Group:
    """The tensors under one prefix of one mapping, without the prefix.

    `names` are their names in the mapping; `fitting` have a name and shape of the network, `foreign` are of another.
    """

    key: str
    prefix: str
    tensors: dict[str, torch.Tensor]
    names: frozenset[str]
    fitting: int
    foreign: int

    @property
    def label(self) -> str:
        """The keys and the prefix that lead to the tensors."""
        return (self.key + self.prefix).rstrip(".") or "the top"

    @property
    def averaged(self) -> bool:
        """Whether these are averages over training, which trainers evaluate with."""
        return bool(_AVERAGED.search((self.key + self.prefix).lower()))


def choose(
    mappings: Sequence[tuple[str, dict[str, torch.Tensor]]],
    own: Mapping[str, torch.Tensor] | None,
    origin: str,
    on_progress: Callable[[str], None],
) -> Group:
    """Of all tensors in a file those that fit the network with the tensors `own` best; without one, the most.

    Of groups that fit equally well the averaged are taken. Tensors of the group that the network lacks stay in it, for
    they say that it is of another network. `on_progress` hears what was taken and what was not. `mappings` holds one at
    least.
    """
    groups = [group for key, tensors in mappings for group in _named(key, tensors, own)] if own else []
    if own and 2 * max((group.fitting for group in groups), default=0) < _parameters(own):
        groups = [group for key, tensors in mappings for group in _in_order(key, tensors, own)] or groups
        if groups and not groups[0].fitting:
            on_progress(
                f"the tensors in {origin} have other names than this architecture's; matched by order and shape, so "
                "check with `data`"
            )
    if not groups:
        groups = [Group(key, "", tensors, frozenset(tensors), len(tensors), 0) for key, tensors in mappings]
    most = max(group.fitting for group in groups)
    alternatives = [group for group in groups if 2 * group.fitting >= most]
    taken = max(alternatives, key=lambda group: (group.fitting - group.foreign, group.averaged))
    _tell_rest(mappings, taken, alternatives, origin, on_progress)
    return taken


def foreign(name: str, tensor: torch.Tensor, own: Mapping[str, torch.Tensor]) -> bool:
    """Whether a tensor says that the file is of another network than the one with the tensors `own`."""
    if name in own or name.endswith(COUNTERS) or tensor.dim() == 0:
        return False
    module = name.split(".")[0]
    if any(each == module or each.startswith(f"{module}.") for each in own):
        return True
    return tensor.is_floating_point() and not _BESIDE.search(module.lower())


def _parameters(own: Mapping[str, torch.Tensor]) -> int:
    return sum(not name.endswith(COUNTERS) for name in own)


def _prefixes(name: str) -> list[str]:
    """What may stand before a tensor's own name: "", "a.", "a.b." of "a.b.weight"."""
    return ["", *(name[: dot.end()] for dot in re.finditer(r"\.", name))]


def _named(key: str, tensors: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> Iterator[Group]:
    """The groups of a mapping with the network's names. A group inside another one is no part of that."""
    fitting: dict[str, int] = defaultdict(int)
    for name, tensor in tensors.items():
        for prefix in _prefixes(name):
            wanted = own.get(name.removeprefix(prefix))
            if wanted is not None and wanted.shape == tensor.shape and not name.endswith(COUNTERS):
                fitting[prefix] += 1
    most = max(fitting.values(), default=0)
    whole = [prefix for prefix, count in fitting.items() if 2 * count >= most]
    for prefix in whole:
        inner = tuple(each for each in whole if each != prefix and each.startswith(prefix))
        within = {n.removeprefix(prefix): n for n in tensors if n.startswith(prefix) and not n.startswith(inner)}
        others = {short for short, name in within.items() if foreign(short, tensors[name], own)}
        mine = {short: name for short, name in within.items() if short in own or short in others}
        matched = {short: tensors[name] for short, name in mine.items()}
        yield Group(key, prefix, matched, frozenset(mine.values()), fitting[prefix], len(others))


def _in_order(key: str, tensors: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> Iterator[Group]:
    """The group of another implementation of the network, which named every tensor differently.

    They are matched one by one in order, and only where all shapes agree.
    """
    shapes = [tensor.shape for tensor in own.values()]
    under: dict[str, list[str]] = defaultdict(list)
    for name in tensors:
        for prefix in _prefixes(name):
            under[prefix].append(name)
    seen = set()
    for prefix, names in under.items():
        known = any(name.removeprefix(prefix) in own for name in names)
        if not known and [tensors[name].shape for name in names] == shapes and frozenset(names) not in seen:
            seen.add(frozenset(names))
            matched = {wanted: tensors[name] for wanted, name in zip(own, names, strict=True)}
            yield Group(key, prefix, matched, frozenset(names), 0, 0)


def _tell_rest(
    mappings: Sequence[tuple[str, dict[str, torch.Tensor]]],
    taken: Group,
    alternatives: list[Group],
    origin: str,
    on_progress: Callable[[str], None],
) -> None:
    """Say which other weights there are, and which tensors stand beside them."""
    if len(alternatives) > 1:
        others = ", ".join(group.label for group in alternatives if group is not taken)
        on_progress(f"{origin} holds several sets of weights; taken: {taken.label}, not {others}")
    grouped = {(group.key, name) for group in alternatives for name in group.names}
    beside = [
        key + name
        for key, tensors in mappings
        for name, tensor in tensors.items()
        if (key, name) not in grouped and tensor.dim() and not name.endswith(COUNTERS)
    ]
    if beside:
        more = f" and {len(beside) - 3} more" if len(beside) > 3 else ""
        on_progress(f"{origin}: left out, as no part of the network: {', '.join(beside[:3])}{more}")
