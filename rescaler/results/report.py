"""Comparisons in words and cells, for the terminal and for Markdown."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pandas import DataFrame
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rescaler.results import cost, headings, table, time_unit

_ESTIMATED = "~ estimated from the run's own target epochs; run resize_epoch=0 to measure"


@dataclass(frozen=True)
class Report:
    """One comparison as the paper's Table 2: all text."""

    heading: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]

    def print(self, console: Console) -> None:
        """Print to a terminal."""
        view = Table(box=None, padding=(0, 2, 0, 0))
        for index, column in enumerate(self.columns):
            view.add_column(column, justify="left" if column in ("Network", "Status") else "right", no_wrap=index == 0)
        for row in self.rows:
            view.add_row(*map(Text, row))
        console.print(Text(self.heading, "bold"), soft_wrap=True)
        console.print(view)
        for note in self.notes:
            console.print(Text(note, "dim"), soft_wrap=True)
        console.print()

    def markdown(self) -> str:
        """The same in Markdown."""
        ruler = [":---" if column in ("Network", "Status") else "---:" for column in self.columns]
        lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (self.columns, ruler, *self.rows)]
        return "\n\n".join([f"### {self.heading}", "\n".join(f"| {line} |" for line in lines), *self.notes]) + "\n"


def reports(runs: DataFrame, epochs: DataFrame) -> list[Report]:
    """One report for each comparison among ``runs``; arguments as for :func:`rescaler.results.table`."""
    everything = table(runs, epochs)
    result = []
    for comparison, heading in headings(everything).items():
        rows = everything[everything["comparison"] == comparison]
        time = _time_format(rows["training_s"].max())
        cells = _cells(rows, time)
        notes = _notes(rows, epochs[epochs["comparison"] == comparison], time)
        result.append(Report(heading, list(cells.columns), cells.to_numpy().tolist(), notes))
    return result


def _time_format(longest_s: float) -> Callable[[float], str]:
    unit, unit_s = time_unit(longest_s)
    decimals = 1 if longest_s / unit_s >= 100 else 2
    return lambda seconds: f"{seconds / unit_s:.{decimals}f} {unit}"


def _cells(rows: DataFrame, time: Callable[[float], str]) -> DataFrame:
    def best(row: "pd.Series[Any]") -> str:
        return f"{row['best_top1']:.2%} ({row['best_epoch']:.0f})".replace("%", " %")

    def saved(row: "pd.Series[Any]") -> str:
        return f"{'~' * row['estimated']}{time(row['saved_s'])} ({row['saved_fraction']:.1%})".replace("%", " %")

    def status(row: "pd.Series[Any]") -> str:
        error = f": {row['error']}" if row["status"] == "failed" and isinstance(row["error"], str) else ""
        return f"{row['status']} ({row['epochs']}/{row['epochs_scheduled'] + row['held_epochs']} epochs){error}"

    cells = {"Network": rows["network"]}
    if rows["seed"].nunique() > 1:
        cells["Seed"] = rows["seed"].astype(str)
    trained = rows["epochs"] > 0
    cells["Best accuracy (epoch)"] = rows.apply(best, axis=1).where(trained, "–")
    cells["Training time"] = rows["training_s"].map(time).where(trained, "–")
    cells["Time saved"] = rows.apply(saved, axis=1).where(rows["saved_s"].notna(), "–")
    if (rows["status"] != "done").any():
        cells["Status"] = rows.apply(status, axis=1)
    return DataFrame(cells)


def _notes(rows: DataFrame, epochs: DataFrame, time: Callable[[float], str]) -> list[str]:
    notes = ([_ESTIMATED] if rows["estimated"].any() else []) + _over_seeds(rows, time)
    if epochs["device"].nunique() > 1:
        networks = epochs["run"].map(rows.set_index("run")["network"])
        by_device = networks.groupby(epochs["device"]).unique().map(", ".join)
        devices = "; ".join(f"{device}: {names}" for device, names in by_device.items())
        notes.append(f"Epochs ran on different devices, so their times do not compare. {devices}")
    spent = cost(epochs)
    if len(rows) > 1 and spent.alone_s > 0:
        less = 1 - spent.shared_s / spent.alone_s
        notes.append(
            f"Training time if each run had run alone: {time(spent.alone_s)}; "
            f"computed once with the shared trunk: {time(spent.shared_s)} ({100 * less:.1f} % less)"
        )
    if spent.shared_s > 0:
        share = spent.evaluation_s / (spent.shared_s + spent.evaluation_s)
        notes.append(f"Evaluation, not counted above: {time(spent.evaluation_s)} ({100 * share:.1f} % of all the time)")
    return notes


def _over_seeds(rows: DataFrame, time: Callable[[float], str]) -> list[str]:
    """A line for each network that finished with several seeds: mean ± standard deviation."""
    notes = []
    for network, runs in rows[rows["status"] == "done"].groupby("network", sort=False):
        if len(runs) > 1:
            top1, training_s = 100 * runs["best_top1"], runs["training_s"].mean()
            note = f"{network}, {len(runs)} seeds: {top1.mean():.2f} ± {top1.std():.2f} %, {time(training_s)}"
            if runs["saved_fraction"].notna().all():
                note += f", {100 * runs['saved_fraction'].mean():.1f} % saved"
            notes.append(note)
    return notes
