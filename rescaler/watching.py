"""Show how the runs of a sweep stand, once or until all are over."""

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from rescaler.status import RunStatus, statuses
from rescaler.sweep import Sweep
from rescaler.texttable import TextTable, clock

_LOOK_S = 5.0
"""Seconds between looks: SLURM has other users too."""
_LINE_S = 60.0
"""Seconds between lines where there is no terminal and nothing new."""


def status_table(sweep: Sweep, found: Sequence[RunStatus]) -> TextTable:
    """The states of a sweep's runs."""
    rows = [
        [
            one.name,
            f"{one.state}: {one.detail}" if one.detail else one.state,
            "–" if one.epochs is None else f"{one.position:.3g} of {one.epochs}",
            "–" if one.top1 is None else f"{one.top1:.2%}".replace("%", " %"),
            "–" if one.left_s is None else clock(one.left_s),
        ]
        for one in found
    ]
    heading = f"{sweep.folder}: {_counts(found)}"
    return TextTable(heading, ["Run", "State", "Epoch", "Best accuracy", "Time left"], rows, words={"State"})


def watch(sweep: Sweep, console: Console) -> None:
    """Look again every few seconds until all runs are over; a live table in a terminal, lines elsewhere.

    Raises:
        InputError: the cluster does not answer.
    """
    found = statuses(sweep)
    if not console.is_terminal:
        _watch_in_lines(sweep, found, console)
        return
    with Live(_view(sweep, found, console), console=console, auto_refresh=False) as live:
        while not all(one.is_over for one in found):
            time.sleep(_LOOK_S)
            found = statuses(sweep)
            live.update(_view(sweep, found, console), refresh=True)


def _watch_in_lines(sweep: Sweep, found: Sequence[RunStatus], console: Console) -> None:
    said, said_at = "", 0.0
    while True:
        counts, ends = _counts(found), all(one.is_over for one in found)
        if counts != said or ends or time.monotonic() - said_at > _LINE_S:
            console.print(Text(counts), soft_wrap=True)
            said, said_at = counts, time.monotonic()
        if ends:
            return
        time.sleep(_LOOK_S)
        found = statuses(sweep)


def _view(sweep: Sweep, found: Sequence[RunStatus], console: Console) -> Group:
    """What fits the terminal: those that run before those that wait or are through."""
    room = max(1, console.height - 4)
    order = ("failed", "lost", "cancelled", "running", "waiting", "done")
    shown = set(sorted(range(len(found)), key=lambda run: order.index(found[run].state))[:room])
    table = status_table(sweep, [one for run, one in enumerate(found) if run in shown])
    hidden = len(found) - len(shown)
    more = [Text(f"and {hidden} more", "dim")] if hidden else []
    return Group(Text(f"{sweep.folder}: {_counts(found)}", "bold"), table.view(), *more)


def _counts(found: Sequence[RunStatus]) -> str:
    return ", ".join(f"{count} {state}" for state, count in Counter(one.state for one in found).most_common())
