"""How a run is laid out in W&B, both directions: what :mod:`rescaler.tracking` writes, others can read back whole.

config     the frozen configuration, and below ``identity`` what of ``summary.json`` stands before the first epoch
history    one row an epoch, its number the step: every field of its record, the x axes, the resize as an event
summary    ``summary.json`` as it ended, the time saved, and W&B's own: the last value of every metric
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rescaler.config import LoggerSettings
from rescaler.record import CLOCKS, EPOCH_FIELDS, Record, totals

_SHOWN = {
    **{name: name for name in ("epoch", "stage", "image_px", "rescaled", "learning_rate", "weight_decay")},
    **{name: name for name in ("held", "images", "reused")},
    **{f"{split}_{metric}": f"{split}/{metric}" for split in ("train", "test") for metric in ("loss", "top1")},
    "test_top5": "test/top5",
    **{clock: f"seconds/{clock.removesuffix('_s')}" for clock in CLOCKS},
}
NAMES = {field: _SHOWN.get(field, f"record/{field}") for field in EPOCH_FIELDS}
"""Field of an epoch -> its metric. What tells where an epoch came from is for reading back, in no chart."""

HOURS = "training_h"
_OVER_HOURS = {f"over_hours/{name}": name for name in ("train_loss", "train_top1", "test_loss", "test_top1")}
_RESIZE = ("resize/training_h", "resize/top1_change")

AXES: dict[str, str | None] = {
    "epoch": None,
    HOURS: None,
    **dict.fromkeys((name for name in NAMES.values() if name != "epoch" and not name.startswith("record/")), "epoch"),
    **dict.fromkeys(_OVER_HOURS, HOURS),
    **dict.fromkeys(_RESIZE, "epoch"),
}
"""Metric that has a chart -> its x axis; W&B knows one for each, so those over both stand there twice."""
HIDDEN = [name for name in NAMES.values() if name not in AXES]

_CHANGING = {"status", "error", "updated", "epochs_planned", "position", "left_s", "requeues", *totals([])}
_LONGEST_TAG = 64


def opening(
    summary: Mapping[str, Any], config: Mapping[str, Any], settings: LoggerSettings, *, group: str, folder: Path
) -> dict[str, Any]:
    """What a run is in W&B before its first epoch.

    Args:
        summary: of the run, as ``summary.json`` has it; its ``run`` is the id, so that a resumed run is the same run.
        config: the frozen configuration; what JSON has no type for is shown as text.
        settings: the configuration's ``logger``.
        group: of the sweep, where the settings name none.
        folder: the run's; the client keeps its files in ``wandb/`` below it.

    Returns:
        Arguments of ``wandb.init``.
    """
    resize_epoch = summary["resize_epoch"]
    baselines = {"0": "target baseline", "never": "pre-train baseline"}
    role = baselines.get(str(resize_epoch), "resized")
    identity = {key: value for key, value in summary.items() if key not in _CHANGING}
    tags = [summary["model"], summary["data"], role, *(["held"] if summary["hold"] else []), *settings.tags]
    return {
        "id": summary["run"],
        "name": f"{summary['name']} resize_epoch={resize_epoch} seed={summary['seed']}",
        "group": settings.group or group,
        "tags": list(dict.fromkeys(tag[:_LONGEST_TAG] for tag in tags if tag)),
        "project": settings.project,
        "entity": settings.entity,
        "dir": str(folder),
        "config": json.loads(json.dumps({**config, "identity": identity}, default=str)),
    }


class History:
    """Turns the epochs of one run, in order from the first, into rows."""

    def __init__(self) -> None:
        self._training_s = 0.0
        self._top1: float | None = None

    def row(self, record: Record, *, reused: bool) -> dict[str, Any]:
        """What is shown of one epoch; ``epoch`` and ``training_h`` are its x axes (the paper's Figures 4 and 5).

        The first epoch after a rescale is an event: its row alone has the hours at which it began, and by how much
        the test accuracy changed in it, a fraction. W&B's charts then have one point there, and its summary keeps it.

        Args:
            record: the epoch.
            reused: the epoch was read back from the ledger, not trained by this run.

        Returns:
            Metrics by name, accuracies in [0, 1]; ``training_h`` are hours of training to the end of this epoch, as
            if the run had run alone.
        """
        began_s, before = self._training_s, self._top1
        self._training_s, self._top1 = began_s + record.training_s, record.test_top1
        values = {**record.to_dict(), "reused": reused}
        row = {NAMES[field]: int(value) if isinstance(value, bool) else value for field, value in values.items()}
        row |= {HOURS: self._training_s / 3600} | {name: values[field] for name, field in _OVER_HOURS.items()}
        if record.rescaled and before is not None:
            row |= dict(zip(_RESIZE, (began_s / 3600, record.test_top1 - before), strict=True))
        return row


def epoch(values: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch from the text of a ``metrics.csv`` or from the JSON of a row: the fields with their types.

    Raises:
        KeyError: a field is missing.
        ValueError: a value is not of its field's type.
    """
    return {
        field: values[field] in (1, "True") if kind is bool else kind(values[field])
        for field, kind in EPOCH_FIELDS.items()
    }


def epoch_of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The epoch that :meth:`History.row` made a row of; raises as :func:`epoch` does."""
    return epoch({field: row[name] for field, name in NAMES.items()})


def summary_of(
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    epochs: Sequence[Mapping[str, Any]],
    *,
    state: str,
    updated_s: float | None,
) -> dict[str, Any]:
    """``summary.json`` again, from what W&B holds.

    What follows from the epochs is computed from those that are there: a run that was killed or is still training has
    no whole summary in W&B.

    Args:
        config: of the run in W&B.
        summary: of the run in W&B.
        epochs: of the run, as :func:`epoch_of_row` gives them.
        state: of the run in W&B: ``running``, ``finished``, or how it failed.
        updated_s: when the newest row was written, in seconds since 1970; None without rows.

    Raises:
        KeyError: this is no run of ours.
    """
    pairs = [(Record(**{key: epoch[key] for key in epoch if key != "reused"}), epoch["reused"]) for epoch in epochs]
    identity, status, error = config["identity"], summary.get("status", "running"), summary.get("error")
    if status == "running" and state not in ("running", "finished"):  # nobody was left to say how it ended
        status, error = "failed", f"{state}, says W&B"
    if summary.get("epochs", 0) > len(pairs):
        status, error = "failed", f"W&B has {len(pairs)} of its {summary['epochs']} epochs"
    updated = identity["started"]
    if updated_s is not None:
        updated = datetime.fromtimestamp(updated_s, UTC).isoformat(timespec="seconds")
    return {
        **identity,
        "status": status,
        "error": error,
        **totals(pairs),
        "epochs_planned": config["schedule"]["epochs"] + sum(record.held for record, _ in pairs),
        "updated": summary.get("updated", updated),
    }
