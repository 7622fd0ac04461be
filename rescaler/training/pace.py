"""How long a run will still take, from the last epochs that it trained."""

import math
from collections.abc import Sequence
from statistics import median

from rescaler.record import Record
from rescaler.training.chain import Chain, Stage

_RECENT = 5
"""Epochs: one alone may have waited for a disk or a neighbour."""


def epochs_planned(chain: Chain, epochs: Sequence[tuple[Record, bool]]) -> int:
    """Epochs that a run will have, as far as is known: those held so far (section 5.2) come on top of the scheduled.

    Args:
        chain: the run's.
        epochs: records so far, each with whether the run read it back.
    """
    return chain.stages[-1].last_epoch + sum(record.held for record, _ in epochs)


def left_s(chain: Chain, epochs: Sequence[tuple[Record, bool]], done: float) -> float | None:
    """Seconds to the end of the planned epochs, going by the median of the last; None before there is one.

    Args:
        chain: the run's.
        epochs: records in order, each with whether the run read it back: that may have been trained on another machine.
        done: epochs behind it, in fractions.
    """
    records = [record for record, reused in epochs if not reused]
    if not records:
        return None
    measured = chain.stage(records[-1].epoch)
    recent = [record for record in records[-_RECENT:] if chain.stage(record.epoch) == measured]
    epoch_s = median(record.train_s + record.data_s + record.evaluation_s for record in recent)
    total_s = 0.0
    ends = [*chain.forks, epochs_planned(chain, epochs)]
    for stage, end in zip(chain.stages, ends, strict=True):
        total_s += max(0.0, end - done) * epoch_s * _work(stage) / _work(measured)
        done = max(done, end)
    return total_s


def _work(stage: Stage) -> float:
    """Multiplications relative to the target network's, were all its layers equally wide."""
    if not stage.layers:
        return 1.0
    pretrain, target = (
        sum(math.prod(layer[f"{network}_kernel"]) * math.prod(layer[f"{network}_output"]) for layer in stage.layers)
        for network in ("pretrain", "target")
    )
    return float(pretrain / target)
