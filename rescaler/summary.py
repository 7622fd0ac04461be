"""Summary of a run: the object in its ``summary.json``."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NotRequired, TypedDict, cast, get_type_hints

from rescaler.record import CLOCKS, Record


class Identity(TypedDict):
    """What a run is, known before its first epoch; what is not required came with a later version."""

    run: str
    comparison: str
    name: str
    model: str
    data: str
    seed: int
    resize_epoch: int | str
    hold: bool
    variant: str
    device: str
    torch: str
    version: str
    commit: str | None
    arm: NotRequired[str]
    image_costs: NotRequired[dict[str, float]]
    """Cost of training on an image in each stage, in runs of the target."""
    reference_s: NotRequired[list[float]]
    host: NotRequired[str]
    started: NotRequired[str]


class Totals(TypedDict):
    """What the epochs of a run come to; times in seconds, as if the run had run alone."""

    epochs: int
    best_top1: NotRequired[float | None]
    best_epoch: NotRequired[int | None]
    final_top1: NotRequired[float | None]
    training_s: NotRequired[float]
    train_s: NotRequired[float]
    data_s: NotRequired[float]
    rescale_s: NotRequired[float]
    compile_s: NotRequired[float]
    evaluation_s: NotRequired[float]
    computed_s: NotRequired[float]
    """Training and evaluation of what the run did train itself."""
    reused_epochs: NotRequired[int]


class Standing(TypedDict):
    """How far a run is."""

    status: str
    """``running``, ``done`` or ``failed``."""
    error: str | None
    position: NotRequired[float]
    """Epochs done, in fractions."""
    requeues: NotRequired[int]


class Summary(Identity, Totals, Standing):
    """All that ``summary.json`` says."""

    epochs_planned: int
    left_s: NotRequired[float | None]
    updated: str


_TYPES = get_type_hints(Summary)


def checked(values: Mapping[str, Any]) -> Summary:
    """Tell a summary, of any version, from anything else; raises KeyError, TypeError or ValueError."""
    wrong = [name for name in sorted(Summary.__required_keys__) if not isinstance(values[name], _TYPES[name])]
    if wrong:
        raise ValueError(f"wrong type: {', '.join(wrong)}")
    if isinstance(values["resize_epoch"], str) and values["resize_epoch"] != "never":
        raise ValueError(f"resize_epoch is {values['resize_epoch']!r}: neither a number nor 'never'")
    datetime.fromisoformat(values["updated"])
    return cast(Summary, dict(values))


def totals(epochs: Sequence[tuple[Record, bool]]) -> Totals:
    """Add up the epochs of a run: records in order, each with whether the run read it back rather than trained it.

    Accuracies are the last and the best of the epochs with the last one's network, None without epochs.
    """
    records = [record for record, _ in epochs]
    computed = [record for record, reused in epochs if not reused]
    own = [record for record in records if record.stage == records[-1].stage]
    best = max(own, key=lambda record: record.test_top1, default=None)
    clocks = cast(Totals, {clock: sum(getattr(record, clock) for record in records) for clock in CLOCKS})
    return {
        **clocks,
        "epochs": len(records),
        "best_top1": best.test_top1 if best else None,
        "best_epoch": best.epoch if best else None,
        "final_top1": records[-1].test_top1 if records else None,
        "training_s": sum(record.training_s for record in records),
        "computed_s": sum(record.training_s + record.evaluation_s for record in computed),
        "reused_epochs": len(records) - len(computed),
    }


def now() -> str:
    """Return this moment, as summaries write it."""
    return iso(datetime.now(UTC).timestamp())


def iso(seconds: float) -> str:
    """Return a moment in seconds since 1970, as summaries write it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
