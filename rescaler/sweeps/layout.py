"""The runs of a sweep, checked and laid out: which go on from a trunk, and what each finds in its folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rescaler.ledger import Ledger
from rescaler.plan import Run
from rescaler.resume import pin_states
from rescaler.runfolder import write_config
from rescaler.sweeps.sweep import SweepRun
from rescaler.training.sharing import Trunk, splits, trunks


class Planned(NamedTuple):
    """A run of a sweep, checked and laid out."""

    entry: SweepRun
    run: Run
    folder: Path

    @property
    def ledger(self) -> Ledger:
        """Where the run's epochs are found and entered."""
        return Ledger(Path(self.run.experiment.ledger.folder))


class Group(NamedTuple):
    """Runs that go on from one trunk, or from none."""

    trunk: Trunk | None
    members: tuple[int, ...]
    """Indices of the runs."""


def groups(planned: Sequence[Planned], *, share_trunk: bool = True) -> list[Group]:
    """Each trunk with its branches, then the runs without one. Runs that the ledger has are among the latter."""
    found = trunks(_missing(planned), lambda path: Path(path).exists()) if share_trunk else []
    branches = {run for trunk in found for run in trunk.branches}
    alone = tuple(run for run in range(len(planned)) if run not in branches)
    return [*(Group(trunk, trunk.branches) for trunk in found), *([Group(None, alone)] if alone else [])]


def freeze(planned: Sequence[Planned]) -> None:
    """Write each run's settings into its folder, and have the ledger keep the states where runs part.

    That is before these states exist: in whatever order the runs are trained, each finds its trunk.

    Raises:
        InputError: a run's folder or its ledger cannot be written.
    """
    for one in planned:
        one.ledger.check_writable()
        write_config(one.folder, one.run.experiment)
    for one, split in zip(planned, splits(_missing(planned)), strict=True):
        pin_states(one.run, one.ledger, one.folder, (split,) if split else ())


def _missing(planned: Sequence[Planned]) -> list[list[str]]:
    """Paths of the states of each run's epochs; none of a run that is complete."""
    paths = []
    for one in planned:
        chain = one.run.chain
        keys = [] if chain.is_complete(one.ledger) else chain.known_keys
        paths.append([str(one.ledger.state_path(key)) for key in keys])
    return paths
