"""Content of the HTML report: a section for each comparison."""

import base64
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd
import yaml
from pandas import DataFrame

from rescaler.figures import accuracy_figure, clock_figure, cost_figure, saving_figure, to_svg
from rescaler.results import is_baseline, over_seeds, paper, paper_table, table
from rescaler.results.columns import read_settings, shown
from rescaler.results.report import NONE, SHARE, interval, paper_reports, reports, seed_reports
from rescaler.results.tables import Verdict, progress_label
from rescaler.text import TextTable, counted, natural

TONES: Mapping[Verdict, str] = MappingProxyType({"preserved": "good", "lost": "bad", "not enough runs to tell": "open"})


class Headline(NamedTuple):
    """Time saved, and for each verdict on accuracy the networks that it holds for."""

    saving: str
    verdicts: Mapping[Verdict, list[str]]
    cautions: list[str]


def headline(seeds: DataFrame) -> Headline:
    """Sum up one comparison, by its rows of :func:`rescaler.results.over_seeds`."""
    resized = seeds[~is_baseline(seeds["resize_epoch"])]
    finished = resized[resized["n"] > 0]
    if finished.empty:
        return Headline("No resized run has finished yet" if len(resized) else "No run was resized", {}, [])
    judged = finished[finished["pairs"] > 0]
    verdicts: dict[Verdict, list[str]] = {verdict: [] for verdict in TONES}
    for _, row in judged.iterrows():
        verdicts[row["verdict"]].append(f"{row['network']}: {interval(row)} points")
    told = {verdict: networks for verdict, networks in verdicts.items() if networks}
    return Headline(_saving(finished), told, _cautions(finished, judged))


def _saving(finished: DataFrame) -> str:
    known = finished[finished["saved_fraction"].notna()]
    if known.empty:
        return "Time saved: not known, for no epoch of the target was timed"
    fewest, most = int(known["n"].min()), int(known["n"].max())
    runs = counted(most, "run") if fewest == most else f"{fewest} to {most} runs"
    if len(known) == 1:
        row = known.iloc[0]
        return f"Training time saved: {SHARE.over_runs(row, 'saved_fraction')} ({row['network']}, {runs})"
    low, high = (SHARE.show(value) for value in (known["saved_fraction"].min(), known["saved_fraction"].max()))
    return f"Training time saved: {low} to {high} (means of {len(known)} resized networks, {runs} each)"


def _cautions(finished: DataFrame, judged: DataFrame) -> list[str]:
    cautions = []
    if finished["estimated"].any():
        cautions.append("Time saved is partly estimated: the target was not run with each seed on the same device.")
    if len(judged) < len(finished):
        cautions.append("Accuracy is not compared where no target of the same seed has finished.")
    if (judged["pairs"] == 1).any():
        cautions.append("A difference between single runs has no interval: it may be chance. Train further seeds.")
    if (judged["pairs"] > 1).sum() > 1:
        cautions.append("Each interval stands alone: the best of several networks, picked afterwards, looks too good.")
    return cautions


class Picture(NamedTuple):
    """A figure, as a data URI."""

    source: str
    alternative: str
    caption: str


def pictures(rows: DataFrame, seeds: DataFrame, epochs: DataFrame) -> Iterator[Picture]:
    """Draw what can be drawn; arguments as for :func:`rescaler.figures.saving_figure`, of one comparison."""
    if epochs.empty:
        return
    drawn = [
        (
            accuracy_figure(epochs),
            f"Line charts of the test accuracy of {counted(len(rows), 'run')} over epochs and over training time; the "
            "tables have the best.",
            "Test accuracy over epochs and over training time; dashed, the best of the baselines.",
        ),
        (
            saving_figure(rows, seeds, epochs),
            "Chart of best test accuracy against training time saved; the table by network has the numbers.",
            "Best test accuracy against training time saved: means over seeds, one standard deviation, Pareto front.",
        ),
        (
            clock_figure(epochs),
            "Stacked bars of each network’s time: training steps, waiting for data, rescaling, evaluation.",
            "Where the time goes, each network as if its runs had run alone.",
        ),
        (
            cost_figure(epochs),
            "Two bars: training time of all runs if each had run alone, and with common epochs trained once; "
            "the notes to the table by network have the numbers.",
            "What all runs together cost, without and with a shared trunk.",
        ),
    ]
    for figure, alternative, caption in drawn[: None if len(rows) > 1 else -1]:  # a single run shares nothing
        image = base64.b64encode(to_svg(figure).encode()).decode()
        yield Picture(f"data:image/svg+xml;base64,{image}", alternative, caption)


_SHORT = 8


class Comparison(NamedTuple):
    """Settings of several runs, as the command line takes them: what all share; how many runs have which value."""

    shared: Mapping[str, str]
    differing: Mapping[str, Mapping[str, int]]


def compare(each: Sequence[Mapping[str, Any]]) -> Comparison:
    """Tell what runs share from what differs; a run without a key has the value ``(none)``."""
    keys = dict.fromkeys(key for settings in each for key in settings)
    counts = {key: Counter(shown(settings[key]) if key in settings else "(none)" for settings in each) for key in keys}
    shared = {key: next(iter(values)) for key, values in counts.items() if len(values) == 1}
    return Comparison(shared, {key: values for key, values in counts.items() if len(values) > 1})


def read_command(folder: Path) -> str | None:
    """The command that trained a run, the whole sweep's if it was part of one; None where Hydra left no trace of it."""
    for path in (folder.parent / "multirun.yaml", folder / ".hydra" / "hydra.yaml"):
        try:
            overrides = yaml.safe_load(path.read_text(encoding="utf-8"))["hydra"]["overrides"]
            settings = [*overrides["hydra"], *overrides["task"]]
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            continue
        sweep = "hydra.mode=MULTIRUN" in settings
        settings = [setting for setting in settings if not setting.startswith("hydra.mode=")]
        return shlex.join(["python", "-m", "rescaler.run", *["-m"] * sweep, *settings])
    return None


def sections(runs: DataFrame, epochs: DataFrame, *, margin: float) -> list[dict[str, Any]]:
    """What the template shows of each comparison; arguments as for :func:`rescaler.page.render`."""
    all_rows = table(runs, epochs)
    all_seeds = over_seeds(all_rows, margin=margin)
    by_seeds, by_runs = (tell(all_rows, all_seeds, epochs) for tell in (seed_reports, reports))
    parts = []
    for comparison, by_seed, by_run in zip(all_rows["comparison"].unique(), by_seeds, by_runs, strict=True):
        own_runs, own_epochs, rows, seeds = (
            frame[frame["comparison"] == comparison] for frame in (runs, epochs, all_rows, all_seeds)
        )
        folders = [Path(folder) for folder in rows["folder"]]
        known = [settings for settings in read_settings(folders) if settings is not None]
        settings = compare(known) if known else None
        commands = [command for folder in folders if (command := read_command(folder)) is not None]
        parts.append(
            {
                "id": f"c-{comparison}",
                "heading": by_seed.heading,
                "facts": list(_facts(own_runs, own_epochs, settings)),
                "headline": headline(seeds),
                "unfinished": _unfinished(rows, own_runs),
                "by_network": replace(by_seed, heading="By network"),
                "tables": [
                    *_paper(rows, seeds, own_epochs),
                    replace(by_run, heading="By run", notes=()),  # they stand below the first table
                ],
                "pictures": list(pictures(rows, seeds, own_epochs)),
                "settings": settings,  # None where no run's are at hand
                "without_settings": len(own_runs) - len(known),
                "commands": list(dict.fromkeys(commands)),
                "provenance": _provenance(rows, own_runs, own_epochs),
            }
        )
    return parts


def between(parts: Sequence[Mapping[str, Any]]) -> TextTable | None:
    """The settings in which the comparisons differ from each other; None where there is nothing to say."""
    known = {part["heading"]: part["settings"].shared for part in parts if part["settings"] is not None}
    if len(known) < 2:
        return None
    rows = [
        [key, *(settings.get(key, "differs within") for settings in known.values())]
        for key in compare(list(known.values())).differing
    ]
    columns = ["Setting", *known]
    return TextTable("Settings in which the comparisons differ", columns, rows, words=columns)


def grouped(rows: Sequence[Sequence[str]]) -> list[tuple[str, list[list[str]]]]:
    """Rows of one name, or without one, below each other: the name, and the other cells of each."""
    groups: list[tuple[str, list[list[str]]]] = []
    for first, *others in rows:
        if not groups or first not in ("", groups[-1][0]):
            groups.append((first, []))
        groups[-1][1].append(others)
    return groups


def _paper(rows: DataFrame, seeds: DataFrame, epochs: DataFrame) -> Iterator[TextTable]:
    for number in paper.TABLES:
        beside = paper_table(number, seeds)
        if beside["comparison"].notna().any():
            for report in paper_reports(number, beside, rows, epochs):
                yield replace(report, heading=f"Beside the paper’s {report.heading}")


def _facts(runs: DataFrame, epochs: DataFrame, settings: Comparison | None) -> Iterator[tuple[str, str]]:
    shared = {} if settings is None else settings.shared
    statuses = runs["status"].value_counts()
    seeds = runs["seed"].nunique()
    yield "Runs", f"{', '.join(f'{n} {status}' for status, n in statuses.items())}; {counted(seeds, 'seed')}"
    yield "Network", _distinct(runs, "model")
    resized = runs[~is_baseline(runs["resize_epoch"])]  # which have what the pre-train baseline has, and more
    if (kernels := _distinct(runs if resized.empty else resized, "variant")) != NONE:
        yield "Kernels", kernels.replace("->", " → ")
    sides = " → ".join(f"{px} px" for px in sorted(map(str, epochs["image_px"].unique()), key=natural))
    yield "Data", f"{_distinct(runs, 'data')}{f', images of {sides}' if sides else ''}"
    planned, read = int(runs["epochs_planned"].min()), int(runs["last_epoch"].min())
    length = planned if epochs.empty or read < planned else epochs["epochs_scheduled"].max()
    read_early = [f"read after epoch {read}"] if read < planned else []
    named = (("batch size", "optim.batch_size"), ("momentum", "optim.momentum"))
    schedule = [f"{length} epochs", *read_early, *(f"{name} {shared[key]}" for name, key in named if key in shared)]
    yield "Schedule", ", ".join(schedule)
    if {"schedule.learning_rates", "schedule.milestones"} <= shared.keys():
        rates, milestones = (shared[f"schedule.{key}"].strip("[]") for key in ("learning_rates", "milestones"))
        rule = shared.get("schedule.rule", "milestones")
        how = f"{rule.replace('_', ' ')} from a peak of {rates}" if rule != "milestones" else rates
        yield "Learning rates", f"{how}; changed after epochs {milestones}" if milestones else how
    yield "Device", _distinct(runs, "device")
    yield "Versions", f"rescaler {_distinct(runs, 'version')}, torch {_distinct(runs, 'torch')}"
    yield "Commit", ", ".join(map(_commit, _values(runs, "commit"))) or NONE
    yield "Last written", _when(runs["updated"].max())


def _unfinished(rows: DataFrame, runs: DataFrame) -> list[str]:
    updated = runs.set_index("run")["updated"]
    lines = []
    for _, row in rows[~rows["complete"]].iterrows():
        how = progress_label(row)
        line = f"{row['network']}, seed {row['seed']}: {how}, last written {_when(updated[row['run']])}"
        lines.append(f"{line}: {row['error']}" if isinstance(row["error"], str) else line)
    return lines


def _provenance(rows: DataFrame, runs: DataFrame, epochs: DataFrame) -> TextTable:
    by_run = {str(run): part for run, part in epochs.groupby("run", observed=True)}
    recorded = runs.set_index("run")
    lines = []
    for _, row in rows.iterrows():
        run, keys = recorded.loc[row["run"]], _keys(by_run.get(str(row["run"])))
        named = [row["network"], str(row["run"])[:_SHORT], str(row["seed"])]
        lines.append([*named, *keys, _commit(run["commit"]), str(run["folder"])])
    columns = ["Network", "Run", "Seed", "Origin", "Before the rescale", "Last epoch", "Reused", "Commit", "Folder"]
    notes = ["Keys of the chain of epochs, shortened: runs that have a key in common share all epochs up to it"]
    words = set(columns) - {"Seed", "Reused"}
    return TextTable("Where the numbers are from", columns, lines, notes, words)


def _keys(epochs: DataFrame | None) -> list[str]:
    """Origin, last epoch before the rescale, last epoch; and how many epochs the run took over from others."""
    if epochs is None:
        return [NONE, NONE, NONE, NONE]
    keys, rescaled = [epochs["parent"].iloc[0], *epochs["key"]], [*epochs["rescaled"], False]
    before = [key for key, next_rescaled in zip(keys, rescaled, strict=True) if next_rescaled]
    shown = [str(key)[:_SHORT] for key in (keys[0], *(before[:1] or [NONE]), keys[-1])]
    return [*shown, f"{epochs['reused'].sum()} of {len(epochs)}"]


def _values(runs: DataFrame, name: str) -> list[Any]:
    return [value for value in runs[name].dropna().unique() if value != ""]


def _distinct(runs: DataFrame, name: str) -> str:
    return ", ".join(map(str, _values(runs, name))) or NONE


def _commit(commit: Any) -> str:
    if not isinstance(commit, str):
        return NONE
    return f"{commit[:_SHORT]}{' with local changes' * commit.endswith('+')}"


def _when(moment: pd.Timestamp) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
