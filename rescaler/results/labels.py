"""Names of runs and comparisons in tables, figures and legends."""

from typing import Any, Literal

import pandas as pd
from pandas import DataFrame

from rescaler.text import counted


def network_label(
    resize_epoch: int | Literal["never"],
    *,
    image_px: float | None = None,
    hold: bool = False,
    held_epochs: int | None = None,
    distinction: str = "",
) -> str:
    """A run's name, after the paper's.

    Args:
        resize_epoch: completed pre-train epochs; 0 is the target baseline, ``never`` the pre-train baseline.
        image_px: side of a baseline's images, where known.
        hold: the learning rule is held after the resize (section 5.2).
        held_epochs: how many epochs so far, where known.
        distinction: what tells the run from others of the same resize epoch.
    """
    if resize_epoch == "never" or resize_epoch == 0:
        label = "Target" if resize_epoch == 0 else "Pre-train"
        if image_px is not None and not pd.isna(image_px):
            label += f" ({image_px:.0f}×{image_px:.0f})"
    else:
        label = f"Resized at epoch {resize_epoch}"
        if hold and held_epochs is not None:
            label += f" (held, +{counted(held_epochs, 'epoch')})"
        elif hold:
            label += " (held)"
    return f"{label} [{distinction}]" if distinction else label


def progress_label(status: str, epochs: int, planned: int) -> str:
    """How a run stands whose recorded epochs are not all of a finished one's; ``planned`` includes those held."""
    return f"{status}, {epochs} of {planned} epochs{' in its metrics' if status == 'done' else ''}"


def is_baseline(resize_epochs: "pd.Series[Any]") -> "pd.Series[bool]":
    """Whether each is the target's or the pre-train baseline's."""
    return resize_epochs.isin([0, "never"])


def order(resize_epochs: "pd.Series[Any]") -> "pd.Series[int]":
    """Sort key of the paper's tables: pre-train, target, then resized by epoch."""
    return resize_epochs.map(lambda value: -1 if value == "never" else int(value)).astype(int)


def headings(frame: DataFrame) -> dict[str, str]:
    """What each comparison is of: name if one was given, model, data, epochs, devices; ``frame``: table or epochs."""
    titles = {}
    for comparison, rows in frame.groupby("comparison", sort=False, observed=True):
        names, models, data, devices = (", ".join(rows[key].unique()) for key in ("name", "model", "data", "device"))
        title = f"{models} on {data}, {rows['epochs_scheduled'].max()} epochs, {devices}"
        titles[str(comparison)] = title if names == f"{data}_{models}" else f"{names}: {title}"
    if len(titles) == 1:
        return titles
    return {comparison: f"{title} (comparison {comparison[:8]})" for comparison, title in titles.items()}


def time_unit(longest_s: float) -> tuple[str, int]:
    """The unit in which times up to ``longest_s`` seconds read best, and its seconds."""
    if longest_s >= 2 * 3600:
        return "h", 3600
    return ("min", 60) if longest_s >= 600 else ("s", 1)
