"""Between Hydra's configs and typed settings: the schema, and errors in one line."""

import dataclasses
import difflib
import os
import re
from collections.abc import Iterator
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rescaler.errors import InputError
from rescaler.experiment import check
from rescaler.settings import Experiment
from rescaler.tracking import resolve_mode

_OPEN = {
    "model": "model.KEY=VALUE",
    "shrink.table": "shrink.table={TARGET: PRETRAIN}",
    "shrink.padding": "shrink.padding.LAYER=PADDING",
}
"""Settings that take any entry, and how a command line adds one."""


def register() -> None:
    """Make the schema known to Hydra, under the name that ``conf/config.yaml`` starts from."""
    ConfigStore.instance().store(name="schema", node=Experiment, provider="rescaler")


def to_experiment(config: DictConfig) -> Experiment:
    """The composed config as typed settings whose values are possible.

    Raises:
        InputError: a value is missing, of the wrong type or impossible; names its key and what is allowed.
    """
    settings = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        experiment = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Experiment), settings))
    except OmegaConfBaseException as error:
        raise InputError(explain(error)) from error
    assert isinstance(experiment, Experiment)
    check(experiment)
    resolve_mode(experiment.logger.mode, os.environ)
    return experiment


def explain(error: BaseException) -> str:
    """What Hydra or OmegaConf objects to, in one line that names the key and the value."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        key = str(cause.full_key)
        parent = key.rpartition(".")[0]
        if parent in _OPEN:
            return f"unknown key {key}: to add an entry to {parent}, write +{_OPEN[parent]}"
        near = difflib.get_close_matches(key, list(_keys(Experiment)), n=1)
        return f"unknown key {key}" + (f": did you mean {near[0]}?" if near else "; --cfg job shows all keys")
    text = str(cause).partition("\nConfig search path:")[0]
    full_key = re.search(r"^\s*full_key: (\S+)", text, flags=re.MULTILINE)
    text = " ".join(re.sub(r"^\s*(full_key|object_type|reference_type)[:=].*$", "", text, flags=re.MULTILINE).split())
    return f"{full_key[1]}: {text}" if full_key else text


def _keys(settings: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(settings):
        yield prefix + field.name
        if dataclasses.is_dataclass(field.type):
            yield from _keys(field.type, f"{prefix}{field.name}.")
