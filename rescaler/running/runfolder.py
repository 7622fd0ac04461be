"""The folder of a run: what was asked, what was done, how it went. Enough to rebuild any table without the ledger.

config.yaml    the experiment, resolved
chain.json     keys of the epochs in the ledger
metrics.csv    one row an epoch
summary.json   the run in one object; its status is ``running``, ``done`` or ``failed``
"""

import csv
import dataclasses
import io
import json
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from rescaler import provenance
from rescaler.files import write_text
from rescaler.record import (
    CONFIG_FILE,
    EPOCH_FIELDS,
    METRICS_FILE,
    SUMMARY_FILE,
    VARIANT_SEPARATOR,
    Record,
    totals,
)
from rescaler.running.trainingfolder import TrainingFolder
from rescaler.settings import Experiment, architecture
from rescaler.training.chain import Stage
from rescaler.training.pace import epochs_planned, left_s
from rescaler.training.plan import Run


class RunFolder(TrainingFolder):
    """Writes the files of one run; every file is whole at any moment.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, path: Path, run: Run) -> None:
        super().__init__(path)
        self._run = run
        self._started = _now()
        self._records: list[tuple[Record, bool]] = []
        write_config(path, run.experiment)
        self.note("running")

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Add an epoch to the files."""
        self._records.append((record, reused))
        super().epoch(record, reused=reused)

    def write(self, standing: dict[str, Any]) -> None:
        """Write the files as they stand now."""
        self.summary = self._summary(standing)
        write_text(self.path / METRICS_FILE, self._metrics())
        write_text(self.path / "chain.json", json.dumps(self._chain(), indent=1))
        write_text(self.path / SUMMARY_FILE, json.dumps(self.summary, indent=1))

    def _variant(self) -> str:
        """How the run may differ from others of its comparison, beside the resize epoch."""
        chain = self._run.chain
        stages = [stage for stage in chain.stages if stage.layers]
        parts = [f"{_kernels(stage)} at {stage.image_px} px" for stage in stages]
        if len(stages) > 1:
            parts = [f"{part} to epoch {stage.last_epoch}" for part, stage in zip(parts, stages, strict=True)]
        for settings in self._run.experiment.shrink.stages[: len(stages)]:
            parts += [f"padding {layer}={pixels}" for layer, pixels in sorted(settings.padding.items())]
        if chain.forks:
            recipe = chain.rescale
            parts += [recipe["interpolation"], f"momentum {recipe['momentum']}"]
            parts += ["BatchNorm recalibrated"] if "recalibrate" in recipe else []
            counts = ("calibration_batches", "warmup_batches")
            parts += [f"{recipe[key]} {key.replace('_', ' ')}" for key in counts if key in recipe]
            parts += [f"at most {chain.schedule.hold_limit} epochs held"] if chain.holds else []
        return VARIANT_SEPARATOR.join(parts)

    def _metrics(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, EPOCH_FIELDS, lineterminator="\n")
        writer.writeheader()
        for record, reused in self._records:
            writer.writerow({**dataclasses.asdict(record), "reused": reused})
        return text.getvalue()

    def _chain(self) -> dict[str, Any]:
        chain = self._run.chain
        return {"origin": chain.origin, "forks": chain.forks, "epochs": [record.key for record, _ in self._records]}

    def _summary(self, standing: dict[str, Any]) -> dict[str, Any]:
        run, experiment = self._run, self._run.experiment
        return {
            "run": run.id,
            "comparison": run.comparison,
            "name": experiment.name,
            "model": architecture(experiment.model),
            "data": experiment.data.name,
            "seed": experiment.seed,
            "resize_epoch": run.resize_epoch,
            "hold": run.chain.holds,
            "variant": self._variant(),
            **standing,
            "left_s": left_s(run.chain, self._records, self.position),
            "epochs_planned": epochs_planned(run.chain, self._records),
            **totals(self._records),
            "device": provenance.device_name(run.device),
            "torch": provenance.torch_version(),
            "version": provenance.version(),
            "commit": provenance.commit(),
            "host": socket.gethostname(),
            "started": self._started,
            "updated": _now(),
        }


def write_config(folder: Path, experiment: Experiment) -> None:
    """Keep what a run is to do in its folder.

    Raises:
        InputError: the folder cannot be written.
    """
    write_text(folder / CONFIG_FILE, yaml.safe_dump(dataclasses.asdict(experiment), sort_keys=False))


def _kernels(stage: Stage) -> str:
    """The kernel sides that change, as ``3->2, 5->3``."""
    changes = {
        pair
        for layer in stage.layers
        if layer["kind"] == "convolution"
        for pair in zip(layer["target_kernel"], layer["pretrain_kernel"], strict=True)
    }
    return ", ".join(f"{large}->{small}" for large, small in sorted(changes) if large != small) or "input only"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
