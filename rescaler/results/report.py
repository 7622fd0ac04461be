"""Tables in words and cells: for the terminal, Markdown and LaTeX."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pandas import DataFrame

from rescaler.results import paper
from rescaler.results.tables import cost, headings, progress_label, time_unit
from rescaler.text import TextTable

NONE = "–"


@dataclass(frozen=True)
class Quantity:
    """How numbers of a kind are written."""

    scale: float
    decimals: int
    unit: str
    sign: str = ""

    def show(self, value: float) -> str:
        """One number, or :data:`NONE` where it is missing."""
        return NONE if pd.isna(value) else f"{self._number(value)}{self.unit}"

    def over_runs(self, row: "pd.Series[Any]", key: str) -> str:
        """Mean, with its standard deviation where several runs have the quantity."""
        if pd.isna(row[f"{key}_sd"]):
            return self.show(row[key])
        return f"{self._number(row[key])} ± {self._number(row[f'{key}_sd'])}{self.unit}"

    def interval(self, row: "pd.Series[Any]", key: str, *more: str) -> str:
        """A difference, with its interval unless that is infinite, and what else is to be said of it."""
        if pd.isna(row[key]):
            return NONE
        low, high = row[f"{key}_low"], row[f"{key}_high"]
        said = [*([] if math.isinf(low) else [f"{self.show(low)} to {self.show(high)}"]), *more]
        return self.show(row[key]) + (f" ({'; '.join(said)})" if said else "")

    def _number(self, value: float) -> str:
        return f"{self.scale * value:{self.sign}z.{self.decimals}f}".replace("-", "−")


ACCURACY = Quantity(100, 2, " %")
SHARE = Quantity(100, 1, " %")
POINTS = Quantity(100, 2, "", "+")
HOURS = Quantity(1 / 3600, 1, " h")
COUNT = Quantity(1, 0, "")
MORE = Quantity(1, 1, "", "+")


def time_quantity(longest_s: float) -> Quantity:
    """Times of up to ``longest_s`` seconds, given in seconds."""
    unit, unit_s = time_unit(longest_s)
    return Quantity(1 / unit_s, 1 if longest_s / unit_s >= 100 else 2, f" {unit}")


def best_and_epoch(top1: float, epoch: float) -> str:
    """Accuracy and the epoch that had it."""
    return NONE if pd.isna(top1) else f"{ACCURACY.show(top1)} ({epoch:.0f})"


def interval(row: "pd.Series[Any]") -> str:
    """Difference to the target of the same seed, with its 95 % interval, and of how many seeds where some have none."""
    pairs, n = row["pairs"], row["n"]
    return POINTS.interval(row, "difference", *([f"{pairs} of {n} seeds"] if pairs < n else []))


_ESTIMATED = "~ estimated from the run's own target epochs; run resize_epoch=0 to measure"
_NOT_THE_SAME = (
    "Accuracies compare only on the same network and data; shares of time and differences to the target do in any case"
)
_UNSTEADY = 0.1
"""By how much more the epochs of a network may take in one run than in another, before it is said."""
_TELLING = 3
"""Epochs whose median tells how fast a run was."""
_WORDS = ("Of", "Accuracy", "Status")


def reports(rows: DataFrame, seeds: DataFrame, epochs: DataFrame, columns: Sequence[str] = ()) -> list[TextTable]:
    """One table for each comparison, one row a run, with further ``columns`` of :func:`rescaler.results.table`."""
    result = []
    for heading, own, own_seeds, own_epochs in _comparisons(rows, seeds, epochs):
        time = time_quantity(own["training_s"].max())
        idle = {"Seed"} if own["seed"].nunique() == 1 else set()
        idle |= {"Status"} if own["complete"].all() else set()
        lines = [
            {key: cell for key, cell in _run_cells(row, time).items() if key not in idle}
            | {name: _shown(row[name]) for name in columns}
            for _, row in own.iterrows()
        ]
        notes = [*_estimate_notes(own), *_seed_notes(own_seeds, time), *_cost_notes(own, own_epochs)]
        result.append(_table(heading, lines, notes))
    return result


def seed_reports(rows: DataFrame, seeds: DataFrame, epochs: DataFrame) -> list[TextTable]:
    """One table for each comparison, one row for all seeds of a network."""
    result = []
    for heading, own, own_seeds, own_epochs in _comparisons(rows, seeds, epochs):
        time = time_quantity(own["training_s"].max())
        lines = [
            {"Network": row["network"], "Finished": f"{row['n']} of {row['seeds']}", **_seed_cells(row, time)}
            for _, row in own_seeds.iterrows()
        ]
        spread = f"Mean ± standard deviation over the finished seeds. {_against_the_target(own_seeds)}"
        notes = [*_estimate_notes(own), spread, *_cost_notes(own, own_epochs)]
        result.append(_table(heading, lines, notes))
    return result


def _table(heading: str, lines: Sequence[Mapping[str, str]], notes: Sequence[str]) -> TextTable:
    return TextTable(heading, list(lines[0]), [list(line.values()) for line in lines], notes, _WORDS)


def paper_reports(number: paper.TableNumber, beside: DataFrame, rows: DataFrame, epochs: DataFrame) -> list[TextTable]:
    """Table 2, 3 or 4, published and ours (:func:`rescaler.results.paper_table`), one a comparison."""
    titles = headings(rows)
    result = []
    for comparison, lines in beside.groupby("comparison", sort=False, dropna=False):
        time = time_quantity(lines["training_s"].max())
        cells = [line for _, row in lines.iterrows() for line in _paper_lines(row, time)]
        if number != 3:
            cells = [{key: cell for key, cell in line.items() if key != "Extra epochs"} for line in cells]
        notes = ["Ours: none of these was run"]
        if title := titles.get(str(comparison)):
            notes = [f"Ours: {title}. {_NOT_THE_SAME}"]
            notes += _timing_notes(rows, epochs[epochs["comparison"] == comparison])
            notes += _estimate_notes(lines)
            notes += [f"Ours: mean ± standard deviation of n seeds. {_against_the_target(lines)}"]
        result.append(_table(paper.CAPTIONS[number], cells, notes))
    return result


def _comparisons(
    rows: DataFrame, seeds: DataFrame, epochs: DataFrame
) -> Iterator[tuple[str, DataFrame, DataFrame, DataFrame]]:
    """Each comparison's heading, and what of the frames is its own."""
    places = epochs.groupby("comparison", observed=True).indices
    for comparison, heading in headings(rows).items():
        own, own_seeds = (frame[frame["comparison"] == comparison] for frame in (rows, seeds))
        yield heading, own, own_seeds, epochs.iloc[places.get(comparison, [])]


def _paper_lines(row: "pd.Series[Any]", time: Quantity) -> list[dict[str, str]]:
    """A published row, ours, and the differences that mean something."""
    published = {
        "Row": row["row"],
        "Of": "paper",
        "Extra epochs": COUNT.show(row["paper_extra_epochs"]),
        "Best accuracy (epoch)": best_and_epoch(row["paper_top1"], row["paper_epoch"]),
        "Training time": HOURS.show(3600 * row["paper_h"]),
        "Time saved": SHARE.show(row["paper_saved_fraction"]),
        "Against the target": POINTS.show(row["paper_difference"]),
        "Accuracy": "",
    }
    empty = dict.fromkeys(published, "")
    if row["n"] == 0:
        return [published, empty | {"Of": "ours", "Best accuracy (epoch)": "not run"}]
    ours = {
        "Row": f"[{row['distinction']}]" if row["distinction"] else "",
        "Of": f"ours, n = {row['n']}",
        "Extra epochs": COUNT.over_runs(row, "held_epochs"),
        **_seed_cells(row, time),
    }
    difference = empty | {  # but for the hours, of another machine
        "Of": "difference",
        "Extra epochs": MORE.show(row["held_epochs"] - row["paper_extra_epochs"]),
        "Best accuracy (epoch)": POINTS.show(row["top1_difference"]),
        "Time saved": POINTS.show(row["saved_difference"]),
        "Against the target": POINTS.show(row["difference"] - row["paper_difference"]),
    }
    return [published, ours, difference]


def _seed_cells(row: "pd.Series[Any]", time: Quantity) -> dict[str, str]:
    """What runs that differ in their seed gave."""
    best = f"{ACCURACY.over_runs(row, 'best_top1')} ({row['best_epoch']:.0f})"
    judged = row["n"] > 0 and row["resize_epoch"] != 0
    return {
        "Best accuracy (epoch)": best if row["n"] > 0 else NONE,
        "Training time": time.over_runs(row, "training_s"),
        "Time saved": f"{'~' * bool(row['estimated'])}{SHARE.over_runs(row, 'saved_fraction')}",
        "Against the target": interval(row),
        "Accuracy": (row["verdict"] or "not compared") if judged else "",
    }


def _against_the_target(seeds: DataFrame) -> str:
    margin_points = 100 * seeds["margin"].max()
    return (
        "Against the target: difference in points to the target of the same seed, mean (95 % interval); accuracy is "
        f"preserved if all of the interval lies above −{margin_points:g}, lost if all of it lies below"
    )


def _run_cells(row: "pd.Series[Any]", time: Quantity) -> dict[str, str]:
    saved = f"{'~' * row['estimated']}{time.show(row['saved_s'])} ({SHARE.show(row['saved_fraction'])})"
    error = f": {row['error']}" if isinstance(row["error"], str) and not row["complete"] else ""
    return {
        "Network": row["network"],
        "Seed": str(row["seed"]),
        "Last accuracy": ACCURACY.show(row["final_top1"]),
        "Best accuracy (epoch)": best_and_epoch(row["best_top1"], row["best_epoch"]),
        "Training time": time.show(row["training_s"]),
        "Time saved": NONE if pd.isna(row["saved_s"]) else saved,
        "Status": progress_label(row) + error,
    }


def _estimate_notes(rows: DataFrame) -> list[str]:
    return [_ESTIMATED] if rows["estimated"].eq(True).any() else []


def _seed_notes(seeds: DataFrame, time: Quantity) -> list[str]:
    """A line for each network that finished with several seeds."""
    notes = []
    for _, row in seeds[seeds["n"] > 1].iterrows():
        note = f"{row['network']}, {row['n']} seeds: {ACCURACY.over_runs(row, 'best_top1')}, "
        note += time.over_runs(row, "training_s")
        if not pd.isna(row["saved_fraction"]):
            note += f", {SHARE.over_runs(row, 'saved_fraction')} saved"
        if row["pairs"] > 1:
            note += f"; accuracy: {row['verdict']}, {interval(row)} against the target"
        notes.append(note)
    return [*notes, _against_the_target(seeds)] if seeds["pairs"].gt(1).any() else notes


def _cost_notes(rows: DataFrame, epochs: DataFrame) -> list[str]:
    notes = _timing_notes(rows, epochs)
    spent = cost(epochs)
    time = time_quantity(max(spent.alone_s, spent.evaluation_s))
    if len(rows) > 1 and spent.alone_s > 0:
        less = 1 - spent.shared_s / spent.alone_s
        notes.append(
            f"Training time if each run had run alone: {time.show(spent.alone_s)}; "
            f"computed once with the shared trunk: {time.show(spent.shared_s)} ({SHARE.show(less)} less)"
        )
    if spent.shared_s > 0:
        share = spent.evaluation_s / (spent.shared_s + spent.evaluation_s)
        evaluation = time.show(spent.evaluation_s)
        notes.append(f"Evaluation, not counted above: {evaluation} ({SHARE.show(share)} of all the time)")
    return notes


def _timing_notes(rows: DataFrame, epochs: DataFrame) -> list[str]:
    """Why the times of these runs compare badly, if they do."""
    if epochs["device"].nunique() < 2:
        return _speed_notes(epochs)
    networks = epochs["run"].astype(str).map(rows.set_index("run")["network"])
    by_device = networks.groupby(epochs["device"].astype(str)).unique().map(", ".join)
    devices = "; ".join(f"{device}: {names}" for device, names in by_device.items())
    return [f"Epochs ran on different devices, so their times do not compare. {devices}"]


def _speed_notes(epochs: DataFrame) -> list[str]:
    """All runs of a comparison train the same target network: its epochs tell whether the device was equally fast."""
    target = epochs[epochs["stage"] == "target"].drop_duplicates("key")
    by_run = (target["train_s"] + target["data_s"]).groupby(target["run"].astype(str)).agg(["median", "size"])
    epoch_s = by_run["median"][by_run["size"] >= _TELLING]
    if len(epoch_s) < 2 or epoch_s.max() < (1 + _UNSTEADY) * epoch_s.min():
        return []
    time = time_quantity(epoch_s.max())
    return [
        f"The device was not equally fast in all runs: an epoch of the target network took {time.show(epoch_s.min())} "
        f"in one and {time.show(epoch_s.max())} in another ({SHARE.show(epoch_s.max() / epoch_s.min() - 1)} more), "
        "medians; times saved are no surer than that, `rescaler plan` measures the networks side by side"
    ]


def _shown(value: Any) -> str:
    if pd.isna(value):
        return NONE
    return f"{value:.4g}" if isinstance(value, float) else str(value)
