"""Tables 2 to 4 of Gusmão et al., "Fast Training of Convolutional Neural Networks via Kernel Rescaling"."""

import math
from typing import Literal, NamedTuple

from pandas import DataFrame, Series

from rescaler.results.tables import is_baseline

TableNumber = Literal[2, 3, 4]


class PublishedRun(NamedTuple):
    """A row of Tables 2 to 4, and which of our runs stands beside it.

    Our ``resize_epoch`` counts completed pre-train epochs. So do Table 2's labels; those of Table 4, and Table 3's 19
    and 30, name the first target epoch (section 5.2 resizes at the end of epochs 18, 29 and 43; the hours of Tables 2
    and 4 are sums of the baselines' epochs only if they are read so).
    """

    label: str
    resize_epoch: int | Literal["never"]
    best_top1_percent: float
    best_epoch: int
    training_h: float
    extra_epochs: int | None = None
    """Held epochs (Table 3)."""


TABLES: dict[TableNumber, tuple[PublishedRun, ...]] = {
    2: (
        PublishedRun("Pre-train (147×147)", "never", 55.55, 53, 106.8),
        PublishedRun("Target (231×231)", 0, 59.25, 55, 269.1),
        PublishedRun("Resized at Epoch 17", 17, 59.25, 54, 220.0),
        PublishedRun("Resized at Epoch 18", 18, 59.01, 55, 217.0),
        PublishedRun("Resized at Epoch 19", 19, 58.84, 55, 213.9),
        PublishedRun("Resized at Epoch 20", 20, 58.91, 54, 210.9),
    ),
    3: (
        PublishedRun("Resized at Epoch 19 (Continued)", 18, 59.36, 59, 238.4, 5),
        PublishedRun("Resized at Epoch 30 (Continued)", 29, 58.52, 64, 224.4, 9),
        PublishedRun("Resized at Epoch 43 (Continued)", 43, 55.80, 64, 186.6, 10),
    ),
    4: (
        PublishedRun("Pre-train (160×160)", "never", 69.05, 85, 70.09),
        PublishedRun("Target (224×224)", 0, 72.61, 89, 179.33),
        PublishedRun("Resized at Epoch 29", 28, 72.91, 86, 145.60),
        PublishedRun("Resized at Epoch 30", 29, 72.79, 86, 144.32),
        PublishedRun("Resized at Epoch 59", 58, 71.36, 90, 110.02),
        PublishedRun("Resized at Epoch 60", 59, 71.01, 85, 107.82),
    ),
}

CAPTIONS: dict[TableNumber, str] = {
    2: "Table 2: OverFeat-fast on ImageNet, 55 epochs",
    3: "Table 3: OverFeat-fast on ImageNet, learning rule held after the resize",
    4: "Table 4: ResNet-34 on ImageNet, 90 epochs",
}


def resize_epochs(number: TableNumber) -> tuple[int, ...]:
    """When the resized networks of a table are resized, as our runs count."""
    epochs = (run.resize_epoch for run in TABLES[number])
    return tuple(epoch for epoch in epochs if epoch not in (0, "never"))  # type: ignore[misc]


def target(number: TableNumber) -> PublishedRun:
    """The target baseline that a table is measured against; Table 3's stands in Table 2."""
    return next(run for run in TABLES[2 if number == 3 else number] if run.resize_epoch == 0)


def residual(models: "Series[str]") -> "Series[bool]":
    """Whether networks stand beside Table 4 and Figures 9-10 (section 5.3); all others stand beside Tables 2 and 3."""
    return models.astype(str).str.startswith("resnet")


def paper_table(number: TableNumber, seeds: DataFrame) -> DataFrame:
    """Table 2, 3 or 4: each published row, and our runs beside it.

    A comparison (network, data, schedule) that has one of the table's resized runs fills the whole table, further ones
    follow below it; networks called ``resnet...`` stand in Table 4, all others in Tables 2 and 3. A row that no
    finished run fills has ``n = 0``.

    Returns:
        ``row`` (the published label), ``paper_top1``, ``paper_epoch``, ``paper_h``, ``paper_saved_fraction``,
        ``paper_difference`` (against the published target), ``paper_extra_epochs``; ours as
        :func:`rescaler.results.over_seeds` has them; ``top1_difference``, ours less the published, and
        ``saved_difference``. Accuracies and shares are fractions; hours of other machines do not compare.
    """
    published = _published(number)
    seeds = seeds[residual(seeds["model"]) == (number == 4)].astype({"resize_epoch": object})
    baseline = is_baseline(seeds["resize_epoch"])
    ours = seeds[baseline | (seeds["hold"] == (number == 3))]
    fits = ours["resize_epoch"].isin(published["resize_epoch"]) & ~baseline
    comparisons = Series(ours["comparison"][fits].unique() if fits.any() else [None], name="comparison", dtype=object)
    rows = comparisons.to_frame().merge(published, how="cross")
    rows = rows.merge(ours, on=["comparison", "resize_epoch"], how="left")
    rows[["n", "pairs"]] = rows[["n", "pairs"]].fillna(0).astype(int)
    rows["top1_difference"] = rows["best_top1"] - rows["paper_top1"]
    rows["saved_difference"] = rows["saved_fraction"] - rows["paper_saved_fraction"]
    return rows


def _published(number: TableNumber) -> DataFrame:
    baseline = target(number)
    rows = DataFrame(
        {
            "row": row.label,
            "resize_epoch": row.resize_epoch,
            "paper_top1": row.best_top1_percent / 100,
            "paper_epoch": row.best_epoch,
            "paper_h": row.training_h,
            "paper_saved_fraction": 1 - row.training_h / baseline.training_h,
            "paper_difference": (row.best_top1_percent - baseline.best_top1_percent) / 100,
            "paper_extra_epochs": math.nan if row.extra_epochs is None else row.extra_epochs,
        }
        for row in TABLES[number]
    ).astype({"resize_epoch": object})
    against_itself = rows["resize_epoch"] == 0
    rows.loc[against_itself, ["paper_saved_fraction", "paper_difference"]] = math.nan
    return rows
