"""Show how the runs of a sweep stand, once or until all are over."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from rescaler.errors import InputError
from rescaler.sweeps.status import RunStatus, statuses
from rescaler.sweeps.sweep import Sweep
from rescaler.texttable import TextTable, clock, percent

_LOOK_S = 5.0
"""Seconds between looks: SLURM has other users too."""
_PATIENCE_S = 600.0
"""Seconds that a cluster may leave the watcher without an answer, once it has given one."""
_LINE_S = 60.0
"""Seconds between lines where there is no terminal and nothing new."""


def counts(found: Sequence[RunStatus]) -> str:
    """How many runs are in each state."""
    return ", ".join(f"{count} {state}" for state, count in Counter(one.state for one in found).most_common())


def status_table(sweep: Sweep, found: Sequence[RunStatus]) -> TextTable:
    """The states of a sweep's runs."""
    rows = [
        [
            one.name,
            f"{one.state}: {one.detail}" if one.detail else one.state,
            "–" if one.epochs is None else f"{round(one.position, 1):g} of {one.epochs}",
            "–" if one.top1 is None else percent(one.top1, 2),
            "–" if one.left_s is None else clock(one.left_s),
        ]
        for one in found
    ]
    heading = f"{sweep.folder}: {counts(found)}"
    return TextTable(heading, ["Run", "State", "Epoch", "Best accuracy", "Time left"], rows, words={"State"})


def watch(folder: Path, console: Console) -> None:
    """Look again at the sweep in ``folder`` every few seconds until all its runs are over.

    A live table in a terminal, lines elsewhere.

    Raises:
        InputError: the cluster does not answer.
    """
    if not console.is_terminal:
        _watch_in_lines(folder, console)
        return
    with Live(console=console, auto_refresh=False) as live:
        for sweep, found in _looks(folder):
            live.update(_view(sweep, found, console), refresh=True)


def _looks(folder: Path) -> Iterator[tuple[Sweep, list[RunStatus]]]:
    """The sweep, which may be cancelled or tried again by others meanwhile, and its runs, until they are over."""
    answered_at = -math.inf
    while True:
        sweep = Sweep.read(folder)
        try:
            found = statuses(sweep)
        except InputError:  # SLURM may be busy for a while, or restarted
            if time.monotonic() - answered_at > _PATIENCE_S:
                raise
            time.sleep(_LOOK_S)
            continue
        answered_at = time.monotonic()
        yield sweep, found
        if all(one.is_over for one in found):
            return
        time.sleep(_LOOK_S)


def _watch_in_lines(folder: Path, console: Console) -> None:
    said, said_at = "", 0.0
    for _, found in _looks(folder):
        now = counts(found)
        if now != said or time.monotonic() - said_at > _LINE_S:
            console.print(Text(now), soft_wrap=True)
            said, said_at = now, time.monotonic()


def _view(sweep: Sweep, found: Sequence[RunStatus], console: Console) -> Group:
    """What fits the terminal: those that run before those that wait or are through."""
    room = max(1, console.height - 4)
    order = ("failed", "lost", "cancelled", "running", "waiting", "done")
    shown = set(sorted(range(len(found)), key=lambda run: order.index(found[run].state))[:room])
    table = status_table(sweep, [one for run, one in enumerate(found) if run in shown])
    hidden = len(found) - len(shown)
    more = [Text(f"and {hidden} more", "dim")] if hidden else []
    return Group(Text(f"{sweep.folder}: {counts(found)}", "bold"), table.view(), *more)
