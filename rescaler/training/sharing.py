"""What the runs of a sweep have in common: the trunk that is worth training before them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Part(NamedTuple):
    """The first epochs of one run, which others need too."""

    run: int
    """Index in the sweep."""
    last_epoch: int
    forks: tuple[int, ...]
    """Epochs whose states the branches go on from."""


class Trunk(NamedTuple):
    """Epochs that several runs have in common, to be trained before any of them."""

    parts: tuple[Part, ...]
    branches: tuple[int, ...]
    """Indices of the runs that go on from it."""


def trunks(keys: Sequence[Sequence[str]], has_state: Callable[[str], bool]) -> list[Trunk]:
    """The trunks of some runs, without those whose states are all there.

    Args:
        keys: of each run, those of its epochs, as far as they are known.
        has_state: whether the ledger has the state of a key.
    """
    shared = splits(keys)
    groups = defaultdict(list)
    for run, split in enumerate(shared):
        if split > 0:
            groups[keys[run][0]].append(run)  # who shares an epoch shares all before it
    found = []
    for runs in groups.values():
        ends = {keys[run][shared[run] - 1] for run in runs}
        if all(map(has_state, ends)):
            continue
        parts: list[Part] = []
        covered: set[str] = set()
        for run in sorted(runs, key=lambda run: -shared[run]):
            own = keys[run][: shared[run]]
            if own[-1] not in covered:
                parts.append(Part(run, len(own), tuple(i for i, key in enumerate(own, start=1) if key in ends)))
                covered.update(own)
        found.append(Trunk(tuple(parts), tuple(runs)))
    return found


def splits(keys: Sequence[Sequence[str]]) -> list[int]:
    """How many epochs of each run, from its first, some other run has too."""
    runs_with = Counter(key for own in keys for key in own)
    return [sum(runs_with[key] > 1 for key in own) for own in keys]
