"""Numbers that only move when ``NUMERICS`` does."""

from pathlib import Path

import pytest
from conftest import MakeExperiment

from rescaler.chain import NUMERICS
from rescaler.ledger import Ledger
from rescaler.plan import plan
from rescaler.training import train

GOLDEN = [1.388174, 1.370968, 1.207783, 0.727875, 0.629355, 0.512899]
"""Mean training loss of each epoch."""


class Nobody:
    def batch(self, *_: object) -> None:
        pass

    def epoch(self, *_: object, **__: object) -> None:
        pass


def test_losses_are_those_of_this_numerics_version(make_experiment: MakeExperiment, tmp_path: Path) -> None:
    # If this fails, a change moved the numbers of training: raise NUMERICS, and note old -> new in the CHANGELOG.
    run = plan(make_experiment(schedule__batches_per_epoch=20))
    records = train(run, Ledger(tmp_path / "ledger"), tmp_path, Nobody())
    assert NUMERICS == 2
    assert [record.train_loss for record in records] == pytest.approx(GOLDEN, rel=1e-4)
