"""What a comparison found, in a few words that claim no more than its runs show."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pandas import DataFrame

from rescaler.results import is_baseline
from rescaler.results.quantities import SHARE, interval
from rescaler.results.statistics import Verdict

TONES: Mapping[Verdict, str] = MappingProxyType({"preserved": "good", "lost": "bad", "not enough runs to tell": "open"})


@dataclass(frozen=True)
class Headline:
    """Time saved, and for each verdict on accuracy the networks that it holds for."""

    saving: str
    verdicts: Mapping[Verdict, list[str]]
    cautions: list[str]


def headline(seeds: DataFrame) -> Headline:
    """Sum up one comparison.

    Args:
        seeds: its rows of :func:`rescaler.results.over_seeds`.
    """
    resized = seeds[~is_baseline(seeds["resize_epoch"])]
    finished = resized[resized["n"] > 0]
    if finished.empty:
        return Headline("No resized run has finished yet" if len(resized) else "No run was resized", {}, [])
    judged = finished[finished["pairs"] > 0]
    verdicts: dict[Verdict, list[str]] = {}
    for verdict in TONES:
        rows = judged[judged["verdict"] == verdict]
        if len(rows):
            verdicts[verdict] = [f"{row['network']}: {interval(row)} points" for _, row in rows.iterrows()]
    return Headline(_saving(finished), verdicts, list(_cautions(finished, judged)))


def _saving(finished: DataFrame) -> str:
    known = finished[finished["saved_fraction"].notna()]
    if known.empty:
        return "Time saved: not known, for no epoch of the target was timed"
    runs = f"{_span(known['n'].min(), known['n'].max())} {'run' if known['n'].max() == 1 else 'runs'}"
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


def _span(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"
