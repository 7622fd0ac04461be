"""Hydra's sweeper, without its check of each job where the launcher makes a stricter one anyway.

Hydra finds and instantiates sweepers in the namespace ``hydra_plugins`` alone: this one cannot live in ``rescaler``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore


class RunSweeper(BasicSweeper):
    """Splits a command line into jobs."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose every job, a tenth of a second each, for the launchers that do not."""
        if not hasattr(self.launcher, "checks_jobs"):
            super().validate_batch_is_legal(batch)


@dataclass
class RunSweeperConfig(BasicSweeperConf):
    """``hydra/sweeper=runs``."""

    _target_: str = f"{__name__}.RunSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="runs", node=RunSweeperConfig, provider="rescaler")
