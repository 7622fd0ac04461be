"""The folders of runs and trunks: settings, metrics, status. Enough for any table without the ledger.

config.yaml    the experiment, resolved
chain.json     keys of the epochs in the ledger; the other two are rebuilt from there if they are damaged
metrics.csv    one row an epoch
summary.json   the run in one object; its status is ``running``, ``done`` or ``failed``
trunk.json     of a trunk: status, epochs, error
"""

import json
import math
import os
import socket
import time
from pathlib import Path
from typing import Literal

import yaml

from rescaler.chain import Epoch, Stage
from rescaler.config import Experiment, architecture
from rescaler.files import write_text
from rescaler.method import RIDGE, size_text
from rescaler.plan import Run
from rescaler.progress import epochs_planned, left_s
from rescaler.record import (
    CHAIN_FILE,
    CONFIG_FILE,
    METRICS_FILE,
    SUMMARY_FILE,
    TRUNK_FILE,
    VARIANT_SEPARATOR,
    Record,
    commit,
    device_name,
    metrics_text,
    sealed,
    torch_version,
    version,
)
from rescaler.summary import Identity, Standing, Summary, now, totals

Status = Literal["running", "done", "failed"]
_WRITE_S = 15.0
"""Seconds between two writings within an epoch."""


class TrunkFolder:
    """Writes how far a trunk is, or one part of it, after every epoch and now and then within one.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, path: Path, last_epoch: int) -> None:
        self.path = path
        self.position = 0.0
        """Epochs done, in fractions."""
        self._last_epoch = last_epoch
        self._written = -math.inf
        self.note("running")

    def batch(self, epoch: Epoch, done: int) -> None:
        """Note the position within the epoch."""
        self.position = epoch.number - 1 + done / epoch.recipe.batches
        if time.monotonic() - self._written > _WRITE_S:
            self.note("running")

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Count an epoch."""
        self.position = record.epoch
        if not reused:
            self.note("running")

    def note(self, status: Status, error: str | None = None) -> None:
        """Write the status.

        Raises:
            InputError: the folder cannot be written.
        """
        requeues = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self._write({"status": status, "error": error, "position": self.position, "requeues": requeues})
        self._written = time.monotonic()

    def _write(self, standing: Standing) -> None:
        write_text(self.path / TRUNK_FILE, json.dumps({**standing, "epochs_planned": self._last_epoch}, indent=1))


class RunFolder(TrunkFolder):
    """Writes the files of one run; every file is whole at any moment.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, path: Path, run: Run) -> None:
        self._run = run
        self._identity = _identity(run)
        self._records: list[tuple[Record, bool]] = []
        write_config(path, run.experiment)
        super().__init__(path, run.chain.epochs)

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Add an epoch to the files."""
        self._records.append((record, reused))
        super().epoch(record, reused=reused)

    def objective(self, name: str) -> float:
        """Return a result of the run: one of its summary, or ``cost``, in runs of the target over all epochs."""
        if name == "cost":
            costs = self._identity["image_costs"]
            return sum(costs[record.stage] * record.images for record, _ in self._records)
        return float(self.summary[name])  # type: ignore[literal-required]

    def _write(self, standing: Standing) -> None:
        chain, folder = self._run.chain, self.path.absolute()
        planned = epochs_planned(chain, self._records)
        self.summary: Summary = {
            **self._identity,
            **standing,
            "left_s": left_s(chain, self._records, self.position),
            "epochs_planned": planned,
            **totals(self._records),
            "updated": now(),
        }
        keys = {
            "origin": chain.origin,
            "forks": chain.forks,
            "epochs": [record.key for record, _ in self._records],
            "reused": [reused for _, reused in self._records],
            "ledger": os.path.relpath(self._run.ledger.folder, folder),
            "summary": {**self._identity, "epochs_planned": planned},
        }
        write_text(self.path / METRICS_FILE, metrics_text(self._records))
        write_text(self.path / CHAIN_FILE, json.dumps(sealed(keys), indent=1))
        write_text(self.path / SUMMARY_FILE, json.dumps(sealed(self.summary), indent=1))


def _identity(run: Run) -> Identity:
    """Return what a run's summary says of it before its first epoch."""
    experiment = run.experiment
    return {
        "run": run.id,
        "comparison": run.comparison,
        "name": experiment.name,
        "model": architecture(experiment.model),
        "data": experiment.data.name,
        "seed": experiment.seed,
        "resize_epoch": run.resize_epoch,
        "hold": run.chain.holds,
        "variant": variant(run),
        "arm": experiment.arm,
        "image_costs": _image_costs(run),
        "reference_s": experiment.cost.reference,
        "device": device_name(run.device),
        "torch": torch_version(),
        "version": version(),
        "commit": commit(),
        "host": socket.gethostname(),
        "started": now(),
    }


def _image_costs(run: Run) -> dict[str, float]:
    """Return the cost of training on an image in each stage, in runs of the target; nothing where it is not known."""
    chain = run.chain
    if not run.experiment.cost.reference and any(stage.layers for stage in chain.stages):
        return {}
    whole = chain.schedule.epochs * chain.stages[-1].stretch.batches
    return {stage.name: stage.stretch.step_cost / stage.optim.batch_size / whole for stage in chain.stages}


def variant(run: Run) -> str:
    """Return how the run may differ from others of its comparison, beside the resize epoch and the seed."""
    chain = run.chain
    stages = [stage for stage in chain.stages if stage.layers]
    parts = [f"{_kernels(stage)} at {size_text(stage.image_px)} px" for stage in stages]
    if len(stages) > 1:
        parts = [f"{part} to epoch {end}" for part, end in zip(parts, chain.ends, strict=False)]
    for settings in run.experiment.shrink.stages[: len(stages)]:
        parts += [f"padding {layer}={pixels}" for layer, pixels in sorted(settings.padding.items())]
    if chain.forks:
        rescale = chain.rescale
        parts += [rescale.interpolation, f"{rescale.optimizer_state} optimizer"]
        parts += ["BatchNorm recalibrated"] if rescale.recalibrate else []
        if rescale.ridge != RIDGE:
            parts.append("ridge by held-out responses" if rescale.ridge is None else f"ridge {rescale.ridge:g}")
        parts += ["half pixels undone"] if rescale.align else []
        counts = {key: getattr(rescale, key) for key in ("calibration_batches", "warmup_batches", "distill_batches")}
        parts += [f"{count} {key.replace('_', ' ')}" for key, count in counts.items() if count]
        parts += [f"at most {chain.schedule.hold_limit} epochs held"] if chain.holds else []
    return VARIANT_SEPARATOR.join(parts)


def _kernels(stage: Stage) -> str:
    """Return the kernel sides that change, as ``3->2, 5->3``."""
    changes = {
        pair
        for layer in stage.layers
        if layer["kind"] == "convolution"
        for pair in zip(layer["target_kernel"], layer["pretrain_kernel"], strict=True)
    }
    return ", ".join(f"{large}->{small}" for large, small in sorted(changes) if large != small) or "input only"


def write_config(folder: Path, experiment: Experiment) -> None:
    """Write the settings of a run to its folder.

    Raises:
        InputError: the folder cannot be written.
    """
    write_text(folder / CONFIG_FILE, yaml.safe_dump(experiment.to_dict(), sort_keys=False))
