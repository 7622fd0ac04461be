"""Tables in words and cells: for the terminal, Markdown and LaTeX."""

from typing import Any

import pandas as pd
from pandas import DataFrame

from rescaler.results import paper
from rescaler.results.labels import headings
from rescaler.results.quantities import (
    ACCURACY,
    COUNT,
    HOURS,
    MORE,
    NONE,
    POINTS,
    SHARE,
    Quantity,
    interval,
    time_quantity,
)
from rescaler.results.statistics import MARGIN, over_seeds
from rescaler.results.tables import cost, paper_table, table
from rescaler.texttable import TextTable

_ESTIMATED = "~ estimated from the run's own target epochs; run resize_epoch=0 to measure"
_NOT_THE_SAME = (
    "Accuracies compare only on the same network and data; shares of time and differences to the target do in any case"
)
_WORDS = ("Of", "Accuracy", "Status")


def reports(runs: DataFrame, epochs: DataFrame, *, margin: float = MARGIN) -> list[TextTable]:
    """One table for each comparison among ``runs``, one row a run; arguments as for :func:`rescaler.results.table`."""
    everything = table(runs, epochs)
    seeds = over_seeds(everything, margin=margin)
    result = []
    places = epochs.groupby("comparison", observed=True).indices
    for comparison, heading in headings(everything).items():
        rows = everything[everything["comparison"] == comparison]
        time = time_quantity(rows["training_s"].max())
        cells = _cells(rows, time)
        notes = [_ESTIMATED] if rows["estimated"].any() else []
        notes += _seed_notes(seeds[seeds["comparison"] == comparison], time, margin)
        notes += _cost_notes(rows, epochs.iloc[places.get(comparison, [])])
        result.append(TextTable(heading, list(cells.columns), cells.to_numpy().tolist(), notes, _WORDS))
    return result


def seed_reports(runs: DataFrame, epochs: DataFrame, *, margin: float = MARGIN) -> list[TextTable]:
    """The same with one row for all seeds of a network, as :func:`rescaler.results.over_seeds` has them."""
    everything = table(runs, epochs)
    seeds = over_seeds(everything, margin=margin)
    result = []
    for comparison, heading in headings(everything).items():
        rows = everything[everything["comparison"] == comparison]
        time = time_quantity(rows["training_s"].max())
        lines = [
            {"Network": row["network"], "Finished": f"{row['n']} of {row['seeds']}", **_seed_cells(row, time)}
            for _, row in seeds[seeds["comparison"] == comparison].iterrows()
        ]
        notes = [_ESTIMATED] if rows["estimated"].any() else []
        notes += [f"Mean ± standard deviation over the finished seeds. {_against_the_target(margin)}"]
        notes += _cost_notes(rows, epochs[epochs["comparison"] == comparison])
        result.append(TextTable(heading, list(lines[0]), [list(line.values()) for line in lines], notes, _WORDS))
    return result


def paper_reports(
    number: paper.TableNumber, runs: DataFrame, epochs: DataFrame, *, margin: float = MARGIN
) -> list[TextTable]:
    """Table 2, 3 or 4, published and ours, one a comparison.

    Arguments as for :func:`rescaler.results.paper_table`.
    """
    everything = paper_table(number, runs, epochs, margin=margin)
    each = table(runs, epochs)
    titles = headings(each)
    places = epochs.groupby("comparison", observed=True).indices
    result = []
    for comparison, rows in everything.groupby("comparison", sort=False, dropna=False):
        time = time_quantity(rows["training_s"].max())
        lines = [line for _, row in rows.iterrows() for line in _paper_lines(row, time)]
        columns = ["Row", "Of", *["Extra epochs"] * (number == 3), "Best accuracy (epoch)", "Training time"]
        columns += ["Time saved", "Against the target", "Accuracy"]
        title = titles.get(str(comparison))
        notes = [f"Ours: {title}. {_NOT_THE_SAME}"] if title else ["Ours: none of these was run"]
        if title:
            theirs = epochs.iloc[places.get(comparison, [])]
            notes += _device_notes(each[each["comparison"] == comparison], theirs)
        notes += [_ESTIMATED] if rows["estimated"].eq(True).any() else []
        notes += [f"Ours: mean ± standard deviation of n seeds. {_against_the_target(margin)}"]
        cells = [[line[column] for column in columns] for line in lines]
        result.append(TextTable(paper.CAPTIONS[number], columns, cells, notes, _WORDS))
    return result


def _paper_lines(row: "pd.Series[Any]", time: Quantity) -> list[dict[str, str]]:
    """A published row, ours, and the differences that mean something."""
    published = {
        "Row": row["row"],
        "Of": "paper",
        "Extra epochs": COUNT.show(row["paper_extra_epochs"]),
        "Best accuracy (epoch)": f"{ACCURACY.show(row['paper_top1'])} ({row['paper_epoch']})",
        "Training time": HOURS.show(3600 * row["paper_h"]),
        "Time saved": SHARE.show(row["paper_saved_fraction"]),
        "Against the target": POINTS.show(row["paper_difference"]),
        "Accuracy": "",
    }
    if row["n"] == 0:
        return [published, dict.fromkeys(published, "") | {"Of": "ours", "Best accuracy (epoch)": "not run"}]
    ours = {
        "Row": f"[{row['distinction']}]" if row["distinction"] else "",
        "Of": f"ours, n = {row['n']}",
        "Extra epochs": COUNT.over_runs(row, "held_epochs"),
        **_seed_cells(row, time),
    }
    difference = {
        "Row": "",
        "Of": "difference",
        "Extra epochs": MORE.show(row["held_epochs"] - row["paper_extra_epochs"]),
        "Best accuracy (epoch)": POINTS.show(row["top1_difference"]),
        "Training time": "",  # hours of another machine
        "Time saved": POINTS.show(row["saved_difference"]),
        "Against the target": POINTS.show(row["difference"] - row["paper_difference"]),
        "Accuracy": "",
    }
    return [published, ours, difference]


def _seed_cells(row: "pd.Series[Any]", time: Quantity) -> dict[str, str]:
    """What runs that differ in their seed gave."""
    trained = row["n"] > 0
    judged = trained and row["resize_epoch"] != 0
    return {
        "Best accuracy (epoch)": f"{ACCURACY.over_runs(row, 'best_top1')} ({row['best_epoch']:.0f})"
        if trained
        else NONE,
        "Training time": time.over_runs(row, "training_s"),
        "Time saved": f"{'~' * bool(row['estimated'])}{SHARE.over_runs(row, 'saved_fraction')}",
        "Against the target": interval(row),
        "Accuracy": (row["verdict"] or "not compared") if judged else "",
    }


def _against_the_target(margin: float) -> str:
    return (
        "Against the target: difference in points to the target of the same seed, mean (95 % interval); accuracy is "
        f"preserved if all of the interval lies above −{100 * margin:g}, lost if all of it lies below"
    )


def _cells(rows: DataFrame, time: Quantity) -> DataFrame:
    def best(row: "pd.Series[Any]") -> str:
        return f"{ACCURACY.show(row['best_top1'])} ({row['best_epoch']:.0f})"

    def saved(row: "pd.Series[Any]") -> str:
        return f"{'~' * row['estimated']}{time.show(row['saved_s'])} ({SHARE.show(row['saved_fraction'])})"

    def status(row: "pd.Series[Any]") -> str:
        if row["complete"]:
            return "done"
        if row["status"] == "done":
            return f"done, but its metrics lack epochs ({row['epochs']} are there)"
        error = f": {row['error']}" if row["status"] == "failed" and isinstance(row["error"], str) else ""
        return f"{row['status']} ({row['epochs']}/{row['epochs_scheduled'] + row['held_epochs']} epochs){error}"

    cells = {"Network": rows["network"]}
    if rows["seed"].nunique() > 1:
        cells["Seed"] = rows["seed"].astype(str)
    trained = rows["epochs"] > 0
    cells["Best accuracy (epoch)"] = rows.apply(best, axis=1).where(rows["best_top1"].notna(), NONE)
    cells["Training time"] = rows["training_s"].map(time.show).where(trained, NONE)
    cells["Time saved"] = rows.apply(saved, axis=1).where(rows["saved_s"].notna(), NONE)
    if not rows["complete"].all():
        cells["Status"] = rows.apply(status, axis=1)
    return DataFrame(cells)


def _seed_notes(seeds: DataFrame, time: Quantity, margin: float) -> list[str]:
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
    return [*notes, _against_the_target(margin)] if seeds["pairs"].gt(1).any() else notes


def _cost_notes(rows: DataFrame, epochs: DataFrame) -> list[str]:
    notes = _device_notes(rows, epochs)
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


def _device_notes(rows: DataFrame, epochs: DataFrame) -> list[str]:
    if epochs["device"].nunique() < 2:
        return []
    networks = epochs["run"].astype(str).map(rows.set_index("run")["network"])
    by_device = networks.groupby(epochs["device"].astype(str)).unique().map(", ".join)
    devices = "; ".join(f"{device}: {names}" for device, names in by_device.items())
    return [f"Epochs ran on different devices, so their times do not compare. {devices}"]
