"""Settings of runs as columns of their frame, and runs selected by the value of a column."""

import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pandas import DataFrame, Series

from rescaler.config import Experiment, fields
from rescaler.errors import InputError, listed, one_line
from rescaler.record import CONFIG_FILE

log = logging.getLogger(__name__)

_COLUMNS = {
    "seed": "seed",
    "resize_epoch": "resize_epoch",
    "device": "device",
    "data.name": "data",
    "model._target_": "model",
    "schedule.hold_after_resize": "hold",
    "cost.reference": "reference_s",
}
"""Settings that the summary of a run has under a name of its own."""
_HIDDEN = ("checkpoint", "error", "folder", "image_costs", "mirrored", "source", "updated")
_BLOCK = re.compile(r"^(?=[^\s#\-])", re.MULTILINE)
"""Where a key of the top level begins, in a file that ``yaml.safe_dump`` wrote."""
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def flatten(config: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every setting, as the command line takes them."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read_settings(folders: Iterable[Path]) -> list[dict[str, Any] | None]:
    """Read runs' settings by dotted key; None where a ``config.yaml`` is missing, or damaged and named in the log.

    What many files have in common, key by key of the top level, is parsed once.
    """
    parsed: dict[str, dict[str, Any]] = {}

    def parse(text: str) -> dict[str, Any]:
        if text not in parsed:
            content = yaml.load(text, _LOADER)  # noqa: S506 - a safe loader
            if not isinstance(content, dict):
                raise ValueError("no settings")
            parsed[text] = {key: _hashable(value) for key, value in flatten(content) if value != {}}
        return parsed[text]

    def read(path: Path) -> dict[str, Any] | None:
        try:
            text = path.read_text(encoding="utf-8")
            try:
                parts = [parse(block) for block in _BLOCK.split(text) if block]
            except (ValueError, yaml.YAMLError):  # edited by hand: the whole may still be well-formed
                parts = [parse(text)]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            log.warning("a run's settings cannot be read: %s (%s)", path, one_line(error))
            return None
        return {key: value for part in parts for key, value in part.items()}

    return [read(folder / CONFIG_FILE) for folder in folders]


def _hashable(value: Any) -> Any:
    """Return numbers and words as they are, all else as text."""
    plain = value is None or isinstance(value, str | bool | int | float)
    return value if plain else json.dumps(value, ensure_ascii=False, default=str)


def add_settings(runs: DataFrame) -> DataFrame:
    """Add a column for every setting that differs among the runs, named as it is typed (``optim.lr_factor``).

    Left out: settings that change no number, and those that have a column already. A run whose ``config.yaml`` is not
    at hand, such as one of W&B's, has no value; one from before a setting existed has the value that means so.
    """
    local = ~runs["source"].astype(str).str.startswith("wandb:")
    own_settings = iter(read_settings(map(Path, runs["folder"][local])))
    found = [next(own_settings) if own else None for own in local]
    read = [settings for settings in found if settings is not None]
    declared = {key: about for key, _, about in fields(Experiment())}
    idle = tuple(key for key, about in declared.items() if about.get("affects") == "nothing")
    columns = {}
    for key in dict.fromkeys(key for settings in read for key in settings):
        if key in idle or key.startswith(tuple(f"{name}." for name in idle)) or _COLUMNS.get(key, key) in runs:
            continue
        absent = _hashable(declared.get(key, {}).get("absent"))
        values = [None if settings is None else settings.get(key, absent) for settings in found]
        own = {(type(value) is bool, value) for value, settings in zip(values, found, strict=True) if settings}
        if len(own) > 1:
            columns[key] = Series(values, runs.index, dtype=object)
    return runs.assign(**columns)


def setting_columns(runs: DataFrame) -> list[str]:
    """Return the columns of settings that differ, those of :func:`add_settings` last."""
    names = [name for name in ("arm", "resize_epoch", "hold", "seed") if name in runs]
    names += [name for name in map(str, runs) if "." in name or name == "resize_at"]
    return [name for name in names if runs[name].nunique(dropna=False) > 1]


def select(runs: DataFrame, conditions: Sequence[str]) -> DataFrame:
    """Return the runs for which all ``conditions``, ``KEY=VALUE`` of their columns, hold.

    Raises:
        InputError: no such column, or no run has the value.
    """
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if not equals:
            raise InputError(f"--where must be KEY=VALUE, such as data=cifar10; got {condition!r}")
        if key not in runs or key in _HIDDEN:
            names = listed((name for name in map(str, runs) if name not in _HIDDEN), most=100)
            raise InputError(f"--where {condition}: the runs have no column {key!r}; there are {names}")
        kept = runs[[_is(one, value) for one in runs[key]]]
        if kept.empty:
            values = listed(dict.fromkeys(map(shown, runs[key])), most=12)
            raise InputError(f"--where {condition}: no run has this value; {key} is {values}")
        runs = kept
    return runs.reset_index(drop=True)


def _is(value: Any, word: str) -> bool:
    """Return whether a word means a value: 0.50 is 0.5, null is None."""
    if shown(value) == word:
        return True
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return float(word) == value
    except ValueError:
        return False


def shown(value: Any) -> str:
    """Return a value as it is typed in a setting."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
