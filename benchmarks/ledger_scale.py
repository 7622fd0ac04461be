"""A ledger of 100,000 epochs: finding where a run goes on, planning a sweep over it, removing what nobody needs.

    python -m benchmarks.ledger_scale [--epochs 100000] [--out FILE]

The entries are made in a temporary folder, with records of the usual size and states of a kilobyte: what is measured is
the file system and the bookkeeping, not the loading of weights. Times are of repeated calls in one process, median and
range.
"""

import dataclasses
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from rich.progress import track

from benchmarks.reporting import parser, provenance, write
from rescaler import checkpoint
from rescaler.checkpoint import digest
from rescaler.compose import jobs
from rescaler.config import DataSettings, Experiment, OptimSettings, ScheduleSettings, ShrinkSettings
from rescaler.ledger import Ledger
from rescaler.networks import Networks
from rescaler.plan import Run, plan
from rescaler.record import Record
from rescaler.resume import RunLedger, pin_states

EPOCHS = 55
"""Epochs of a run, as in the paper's Table 2."""


def experiment(seed: int) -> Experiment:
    """The demo's network, resized at epoch 17."""
    return Experiment(
        model={"_target_": "rescaler.models.overfeat_small"},
        shrink=ShrinkSettings(table={1: 1, 3: 2, 5: 3}),
        data=DataSettings(name="synthetic", mean=[0.5], std=[0.5], train_images=1000, test_images=100),
        schedule=ScheduleSettings(epochs=EPOCHS, batches_per_epoch=5, learning_rates=[0.03]),
        optim=OptimSettings(batch_size=64),
        resize_epoch=17,
        seed=seed,
        device="cpu",
    )


def fill(ledger: Ledger, run: Run, folder: Path, *, last_epoch: int = EPOCHS) -> None:
    """Enter the first epochs of a run; its last state, and that at its resize, are held by ``folder``."""
    tensors = {"network.weight": torch.rand(256)}
    records: list[Record] = []
    while len(records) < last_epoch and (epoch := run.chain.next(records)) is not None:
        record = Record(epoch.key, epoch.parent, epoch.number, epoch.stage.name, test_top1=0.5, device="a device")
        records.append(ledger.publish(dataclasses.replace(record, digest=digest(tensors)), tensors))
        if epoch.number in (17, last_epoch):
            ledger.hold(epoch.key, run.id, folder)


def find_state(run: Run, ledger: Ledger, folder: Path) -> None:
    """What a started run does before its first batch: find the deepest state, load it, hold what it wants kept."""
    records, state = RunLedger(run, ledger, folder, pin_states(run, ledger, folder)).load_cached([], None)
    assert len(records) == 40
    assert state is not None


def plan_sweep(ledger: Ledger) -> None:
    """What happens to a sweep of 1,000 jobs before the first is trained: composed, checked, looked up in the ledger."""
    networks: dict[str, Networks] = {}
    sweep = jobs(["data=synthetic", "seed=range(1000,1200)", "resize_epoch=0,17,18,19,never"])
    runs = [plan(job.experiment, networks=networks) for job in sweep]
    assert len({run.id for run in runs}) == 1000
    assert not any(run.chain.recorded(ledger) for run in runs)


def timed_ms(calls: Iterable[Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of calls: median and range."""
    found = []
    for call in calls:
        start = time.perf_counter()
        call()
        found.append(1000 * (time.perf_counter() - start))
    return {"median": statistics.median(found), "min": min(found), "max": max(found), "n": len(found)}


def main() -> None:
    """Print the figures, and write them with what they were measured on."""
    command_line = parser(__doc__)
    command_line.add_argument("--epochs", type=int, default=100_000, help="default: %(default)s")
    arguments = command_line.parse_args()
    origin = provenance("ledger_scale")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        ledger, alive = Ledger(root / "ledger"), root / "run"
        alive.mkdir()
        ledger.check_writable()
        for seed in track(range(1, arguments.epochs // EPOCHS + 1), "entering epochs", transient=True):
            fill(ledger, plan(experiment(seed)), alive if seed % 2 else root / "gone")
        started = plan(experiment(0))
        fill(ledger, started, alive, last_epoch=40)
        tensors = started.network(started.chain.stage(40)).state_dict()
        key = started.chain.known_keys[39]
        state = {f"network.{name}": value.contiguous() for name, value in tensors.items()}
        checkpoint.write(ledger.state_path(key), state, more={"key": key})
        fresh = [plan(experiment(0)) for _ in range(21)]  # as at the start of a process: no key is known yet
        results = origin | {
            "epochs": arguments.epochs,
            "deepest_state_ms": timed_ms(partial(find_state, run, ledger, alive) for run in fresh),
            "records_of_a_run_ms": timed_ms(partial(run.chain.recorded, ledger) for run in fresh),
            "plan_1000_runs_ms": timed_ms([partial(plan_sweep, ledger)] * 3),
            "dry_prune_ms": timed_ms([partial(ledger.prune, dry_run=True)] * 3),
            "prune_ms": timed_ms([partial(ledger.prune, force=True)]),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        }
    print(json.dumps(results, indent=1))
    write(arguments.out, results)


if __name__ == "__main__":
    main()
