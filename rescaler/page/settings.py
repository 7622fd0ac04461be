"""What runs were asked to do, from the files that Hydra and the run itself left in its folder."""

import json
import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rescaler.errors import one_line
from rescaler.record import CONFIG_FILE
from rescaler.results.columns import flatten

log = logging.getLogger(__name__)

Settings = Mapping[str, str]
"""Dotted key -> value, as the command line takes it."""


@dataclass(frozen=True)
class Comparison:
    """Settings of several runs: what all share, and for what differs, how many runs have which value."""

    shared: Settings
    differing: Mapping[str, Mapping[str, int]]


def read_settings(folder: Path) -> Settings | None:
    """The resolved experiment of a run; None where its ``config.yaml`` is not at hand or damaged."""
    config = _read(folder / CONFIG_FILE)
    return _flat(config) if isinstance(config, dict) else None


def read_command(folder: Path) -> str | None:
    """The command that trained a run, the whole sweep's if it was part of one; None where Hydra left no trace of it."""
    for path in (folder.parent / "multirun.yaml", folder / ".hydra" / "hydra.yaml"):
        try:
            overrides = _read(path)["hydra"]["overrides"]
            settings = [*overrides["hydra"], *overrides["task"]]
        except (KeyError, TypeError):
            continue
        sweep = "hydra.mode=MULTIRUN" in settings
        settings = [setting for setting in settings if not setting.startswith("hydra.mode=")]
        return shlex.join(["python", "-m", "rescaler.run", *["-m"] * sweep, *settings])
    return None


def compare(each: Sequence[Settings]) -> Comparison:
    """Tell what runs share from what differs; a run without a key has the value ``(none)``."""
    shared: dict[str, str] = {}
    differing: dict[str, Mapping[str, int]] = {}
    for key in dict.fromkeys(key for settings in each for key in settings):
        values = Counter(settings.get(key, "(none)") for settings in each)
        if len(values) == 1:
            (shared[key],) = values
        else:
            differing[key] = values
    return Comparison(shared, differing)


def differing(each: Sequence[Settings]) -> list[str]:
    """The keys that some have otherwise than others, or not at all."""
    keys = dict.fromkeys(key for settings in each for key in settings)
    return [key for key in keys if len({settings.get(key) for settings in each}) > 1]


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        log.warning("left out %s, which cannot be read (%s)", path, one_line(error))
        return None


def _flat(config: Mapping[Any, Any]) -> dict[str, str]:
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        for key, value in flatten(config)
    }
