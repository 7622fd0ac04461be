"""How long a run will still take, from the last epoch that it trained."""

import math
from collections.abc import Sequence

from rescaler.chain import Chain, Stage
from rescaler.record import Record


def left_s(chain: Chain, done: float, measured: Stage, epoch_s: float) -> float:
    """Seconds to the end of the scheduled epochs.

    Args:
        chain: of the run.
        done: epochs behind it, in fractions.
        measured: the stage of an epoch whose time is known.
        epoch_s: that time.
    """
    total_s = 0.0
    for stage in chain.stages:
        total_s += max(0.0, stage.last_epoch - done) * epoch_s * _work(stage) / _work(measured)
        done = max(done, stage.last_epoch)
    return total_s


def recorded_left_s(chain: Chain, records: Sequence[Record], done: float) -> float | None:
    """As :func:`left_s`, going by the last record; None without one."""
    if not records:
        return None
    last = records[-1]
    return left_s(chain, done, chain.stage(last.epoch), last.training_s + last.evaluation_s - last.rescale_s)


def _work(stage: Stage) -> float:
    """Multiplications relative to the target network's, were all its layers equally wide."""
    if not stage.layers:
        return 1.0
    pretrain, target = (
        sum(math.prod(layer[f"{network}_kernel"]) * math.prod(layer[f"{network}_output"]) for layer in stage.layers)
        for network in ("pretrain", "target")
    )
    return float(pretrain / target)
