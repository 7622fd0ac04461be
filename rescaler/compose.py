"""Between Hydra's configs and typed settings: the schema, and errors in one line."""

import contextlib
import copy
import dataclasses
import difflib
import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rescaler.config import Experiment, SlurmSettings, architecture, check
from rescaler.errors import InputError, one_line
from rescaler.record import CONFIG_FILE
from rescaler.tracking import resolve_mode

CONF = Path(__file__).with_name("conf")
NAME = "config"
"""Folder and name of the config that all others are composed into."""

_OPEN = {
    "model": "+model.KEY=VALUE",
    "shrink.table": "'+shrink.table={TARGET: PRETRAIN}'",
    "shrink.padding": "'+shrink.padding={LAYER: PIXELS}'",  # names of layers have dots, at which Hydra parts keys
}
"""Settings that take any entry, and how a command line adds one."""


MISTAKES = (InputError, HydraException, OmegaConfBaseException, yaml.YAMLError)
"""What is raised where a person has written what cannot be composed."""


def register() -> None:
    """Make the schema, and how a network is named, known to Hydra as ``conf/config.yaml`` calls them."""
    ConfigStore.instance().store(name="schema", node=Experiment, provider="rescaler")
    OmegaConf.register_new_resolver("architecture", architecture, replace=True)


class Job(NamedTuple):
    """One run of a command line."""

    overrides: tuple[str, ...]
    experiment: Experiment


def jobs(overrides: Sequence[str], config_dir: Path | None = None) -> list[Job]:
    """The runs that ``python -m rescaler.run -m OVERRIDES`` would make, in its order; one if nothing is swept.

    Args:
        overrides: settings and sweeps.
        config_dir: folder of more configs, which take the place of ``conf/``'s of the same names.

    Raises:
        InputError: an override or a value is impossible; of a sweep's runs, says which.
    """
    register()
    refuse_unnamed_choices(overrides)
    if config_dir is not None:
        if not config_dir.is_dir():
            raise InputError(f"--config-dir must be a folder of configs; got {config_dir}")
        overrides = [f"hydra.searchpath=['file://{config_dir.absolute()}']", *overrides]
    try:
        with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
            composer = SweepComposer(
                GlobalHydra.instance().config_loader(), hydra.compose(NAME, return_hydra_config=True)
            )
            composed = [(split, composer.settings(split)) for split in _split(overrides)]
    except MISTAKES as error:
        raise InputError(explain(error)) from error
    found = []
    for split, config in composed:
        try:
            found.append(Job(tuple(split), to_experiment(config)))
        except InputError as error:
            raise InputError(f"{' '.join(split)}: {error}" if len(composed) > 1 else str(error)) from error
    return found


def distinctions(found: Sequence[Job]) -> list[str]:
    """What tells each run from the others of its sweep, beside when it is resized: `` [seed=1]``, or nothing."""
    everywhere = set.intersection(*(set(job.overrides) for job in found))
    words = []
    for job in found:
        own = [word for word in job.overrides if word not in everywhere and not word.startswith("resize_epoch=")]
        words.append(f" [{' '.join(own)}]" if own else "")
    return words


def refuse_unnamed_choices(overrides: Sequence[str]) -> None:
    """Refuse a number or null where the name of a config is wanted, which Hydra takes for a fault of its own.

    Raises:
        InputError: there is one; names those to choose from.
    """
    parser = OverridesParser.create()
    for word in overrides:
        with contextlib.suppress(OverrideParseException):  # for Hydra to refuse
            (override,) = parser.parse_overrides([word])
            if override.is_delete():
                continue
            configs = sorted(path.stem for path in (CONF / override.key_or_group).glob("*.yaml"))
            value = override.value()
            values = value.list if isinstance(value, ChoiceSweep) else [value]
            if configs and any(isinstance(one, bool | int | float | None) for one in values):
                raise InputError(
                    f"{override.key_or_group} must be one of {', '.join(configs)}; got {override.get_value_string()}"
                )


def _split(overrides: Sequence[str]) -> list[list[str]]:
    """One list of overrides a job, as Hydra's own sweeper makes them; a ``sweep=`` file brings choices of its own."""
    parser = OverridesParser.create()
    fixed = [
        word
        for word, parsed in zip(overrides, parser.parse_overrides(list(overrides)), strict=True)
        if not parsed.is_sweep_override()
    ]
    params = hydra.compose(NAME, fixed, return_hydra_config=True).hydra.sweeper.params or {}
    swept = parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *overrides])
    (batch,) = BasicSweeper.split_arguments(swept, max_batch_size=None)
    return batch


class SweepComposer:
    """Composes the jobs of a sweep, many of which differ in values alone: Hydra takes a tenth of a second for each.

    Args:
        loader: Hydra's.
        config: of the sweep.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self._loader, self._config = loader, config
        self._parser = OverridesParser.create(loader)
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._is_group = functools.cache(lambda key: loader.get_group_options(key) != [])

    def settings(self, overrides: Sequence[str]) -> DictConfig:
        """The settings of one job, as Hydra composes them; without Hydra's own.

        Raises:
            HydraException: an override is impossible.
            OmegaConfBaseException: it does not fit the schema.
        """
        parsed = [(word, self._parser.parse_override(word)) for word in overrides]
        composing = tuple(word for word, override in parsed if self._composes(override))
        if composing not in self._composed:
            base = self._loader.load_sweep_config(self._config, list(composing))
            with open_dict(base):
                del base["hydra"]
            self._composed[composing] = base
        found = copy.deepcopy(self._composed[composing])
        for word, override in parsed:
            if word not in composing:
                OmegaConf.update(found, override.key_or_group, override.value())
        return found

    def _composes(self, override: Override) -> bool:
        """Whether it says what the config is composed of, or is Hydra's own; else it changes a value that is there."""
        key = override.key_or_group
        changes = override.type is OverrideType.CHANGE and override.package is None
        return not changes or key.startswith("hydra.") or self._is_group(key)


def to_experiment(config: DictConfig) -> Experiment:
    """The composed config, without Hydra's own part, as typed settings whose values are possible.

    Raises:
        InputError: a value is missing, of the wrong type or impossible; names its key and what is allowed.
    """
    try:
        experiment = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise InputError(explain(error)) from error
    assert isinstance(experiment, Experiment)
    for key in _unknown(experiment):
        raise InputError(_explain_unknown(key))
    check(experiment)
    resolve_mode(experiment.logger.mode, os.environ)
    return experiment


def read_experiment(folder: Path) -> Experiment:
    """The settings that a run's folder has kept.

    Raises:
        InputError: there are none, or they are impossible.
    """
    path = folder / CONFIG_FILE
    try:
        config = OmegaConf.merge(OmegaConf.structured(Experiment), OmegaConf.load(path))
    except OmegaConfBaseException as error:
        raise InputError(f"{path}: {explain(error)}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
    assert isinstance(config, DictConfig)
    return to_experiment(config)


def explain(error: BaseException) -> str:
    """What Hydra, OmegaConf or YAML objects to, in one line that names the key and the value."""
    if isinstance(error, InputError | yaml.YAMLError):
        return one_line(error)
    if isinstance(error, OverrideParseException) and "Lexer" in str(error):  # says nothing more
        word = str(error.override)
        how = _addition(word.lstrip("+~")) or """quote a value of other than plain characters: 'KEY="VALUE"'"""
        return f"cannot read {word}: {how}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        return _explain_unknown(str(cause.full_key))
    text = str(cause).partition("\nConfig search path:")[0]
    full_key = re.search(r"^\s*full_key: (\S+)", text, flags=re.MULTILINE)
    text = " ".join(re.sub(r"^\s*(full_key|object_type|reference_type)[:=].*$", "", text, flags=re.MULTILINE).split())
    if full_key is None:
        return text
    addition = _addition(full_key[1])
    return f"{full_key[1]}: {text}" + (f"; {addition}" if addition else "")


def _unknown(settings: Any, prefix: str = "") -> Iterator[str]:
    """Keys that ``+key=value`` has added to settings of a fixed form."""
    names = {field.name for field in dataclasses.fields(settings)}
    for name, value in vars(settings).items():
        if name not in names:
            yield prefix + name
        for part in value if isinstance(value, list) else [value]:
            if dataclasses.is_dataclass(part):
                yield from _unknown(part, f"{prefix}{name}.")


def _explain_unknown(key: str) -> str:
    if addition := _addition(key):
        return f"unknown key {key}: {addition}"
    of_slurm = list(_keys(SlurmSettings, "hydra.launcher."))
    if key in of_slurm:
        return f"unknown key {key}: it needs hydra/launcher=slurm"
    near = difflib.get_close_matches(key, [*_keys(Experiment), *of_slurm], n=1)
    return f"unknown key {key}" + (f": did you mean {near[0]}?" if near else "; --cfg job shows all keys")


def _addition(key: str) -> str:
    """How to add an entry to the setting that ``key`` is in, if that takes any."""
    open_to = next((setting for setting in _OPEN if key.startswith(f"{setting}.")), None)
    return f"to add an entry to {open_to}, write {_OPEN[open_to]}" if open_to else ""


def _keys(settings: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(settings):
        yield prefix + field.name
        if dataclasses.is_dataclass(field.type):
            yield from _keys(field.type, f"{prefix}{field.name}.")
