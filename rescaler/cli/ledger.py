"""``rescaler ledger``: what the ledger holds, how much disk it takes; remove what no run needs; verify."""

import argparse

from rich.console import Console
from rich.progress import track

from rescaler.errors import InputError
from rescaler.ledger import Ledger


def run(arguments: argparse.Namespace) -> None:
    """Show, prune or verify."""
    ledger, console = Ledger(arguments.folder), Console()
    if ledger.id is None:
        raise InputError(f"--folder: no ledger at {arguments.folder}")
    if arguments.action == "prune":
        removal = ledger.prune(dry_run=arguments.dry_run, force=arguments.force)
        verb = "would remove" if arguments.dry_run else "removed"
        console.print(f"{verb} {removal.states} states that no run needs: {removal.size_bytes / 1e6:,.1f} MB")
    if arguments.action == "verify":
        _verify(ledger, console)
    _show(ledger, console)


def _show(ledger: Ledger, console: Console) -> None:
    records = list(ledger.records())
    states = sum(ledger.state_path(record.key).exists() for record in records)
    hours = sum(record.training_s + record.evaluation_s for record in records) / 3600
    console.print(
        f"{ledger.folder}: {len(records)} epochs ({hours:,.2f} h of work), {states} with their state, "
        f"{ledger.size_bytes() / 1e6:,.1f} MB"
    )


def _verify(ledger: Ledger, console: Console) -> None:
    found = list(track(ledger.verify(), "verifying", console=console))
    problems = [problem for problem in found if problem]
    for problem in problems:
        console.print(problem, markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise InputError(
            f"{len(problems)} of {len(found)} entries are damaged: a run that needs them trains their epochs again; "
            "prune removes what was set aside as *.damaged"
        )
    console.print(f"all {len(found)} entries are whole")
