"""Compose Hydra configs into typed settings; explain what is wrong with them in one line."""

import contextlib
import copy
import dataclasses
import difflib
import functools
import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from hydra.core.utils import filter_overrides
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rescaler.config import (
    FOUND,
    LOOKED_AT,
    DataSettings,
    Experiment,
    InitSettings,
    OptimSettings,
    SlurmSettings,
    architecture,
    check,
    help_text,
)
from rescaler.errors import InputError, one_line
from rescaler.files import read_yaml
from rescaler.loggers import check_loggers
from rescaler.record import CONFIG_FILE
from rescaler.schedule import check_stages

log = logging.getLogger(__name__)

CONF = Path(__file__).with_name("conf")
NAME = "config"
"""Folder and name of the primary config."""

_RENAMED = {"rescale.momentum": "rescale.optimizer_state=resize or reset"}
"""Settings of earlier versions, and what to use now."""
_OPEN = {
    "model": "+model.KEY=VALUE",
    "optim.groups": "'+optim.groups={PATTERN: {lr_factor: 0.1}}'",
    "optim": "+optim.KEY=VALUE",
    "stages": "+stages.NAME.KEY=VALUE, NAME one of pretrain, middle, target",
    "data.augment": "+data.augment.KEY=VALUE",
    "data.train": "+data.train.KEY=VALUE",
    "data.test": "+data.test.KEY=VALUE",
    "shrink.table": "'+shrink.table={TARGET: PRETRAIN}'",
    "shrink.padding": "'+shrink.padding={LAYER: PIXELS}'",  # names of layers have dots, at which Hydra splits keys
}
"""Settings that take any entry, and how a command line adds one."""

MISTAKES = (InputError, HydraException, OmegaConfBaseException, yaml.YAMLError)
"""Exceptions of configs and overrides that cannot be composed."""


def register() -> None:
    """Register the schema and the resolvers that ``conf/config.yaml`` uses."""
    version.setbase("1.3")
    ConfigStore.instance().store(name="schema", node=Experiment, provider="rescaler")
    OmegaConf.register_new_resolver("architecture", architecture, replace=True)
    OmegaConf.register_new_resolver("settings", help_text, replace=True)


@contextlib.contextmanager
def hydra_over(config_dir: str | Path | None = None, config_path: str | None = None) -> Iterator[Hydra]:
    """Hydra, initialised over ``conf/`` and a folder of the user's own configs."""
    register()
    search_path = create_automatic_config_search_path(None, "rescaler.run", config_path or str(CONF.resolve()))
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise InputError(f"--config-dir must be a folder of configs; got {config_dir}")
        folder = f"file://{Path(config_dir).absolute()}"
        search_path.prepend(provider="command-line", path=folder, anchor=SearchPathQuery(provider="schema"))
    try:
        yield Hydra.create_main_hydra2(task_name="run", config_search_path=search_path)
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None


class Job(NamedTuple):
    """One run of a command line."""

    overrides: tuple[str, ...]
    experiment: Experiment
    number: int = 0
    """``hydra.job.num``."""
    folder: str = "0"
    """``hydra.sweep.subdir``."""


def jobs(
    overrides: Sequence[str],
    config_dir: str | Path | None = None,
    config_path: str | None = None,
    config_name: str | None = None,
) -> list[Job]:
    """Compose the runs of ``rescaler run -m OVERRIDES``, in its order; one if nothing is swept."""
    check_overrides(overrides)
    try:
        with hydra_over(config_dir, config_path) as hydra:
            master = hydra.compose_config(config_name or NAME, list(overrides), run_mode=RunMode.MULTIRUN)
            loader = hydra.config_loader
            return compose_jobs(loader, master, split(loader, master, _plain(master.hydra.overrides.task)))
    except MISTAKES as error:
        raise InputError(explain(error)) from error


def names_of(overrides: Sequence[Sequence[str]]) -> list[str]:
    """Name each job of a sweep by the overrides in which it differs from others; all of them if there are none."""
    words = [filter_overrides(own) for own in overrides]
    everywhere = set.intersection(*map(set, words)) if len(words) > 1 else set()
    return [" ".join(word for word in own if word not in everywhere) or " ".join(own) for own in words]


def compose_jobs(
    loader: ConfigLoader, master: DictConfig, job_overrides: Sequence[Sequence[str]], first: int = 0
) -> list[Job]:
    """Compose every job of a sweep."""
    composer, found = JobComposer(loader, master), list[Job]()
    for number, (overrides, name) in enumerate(zip(job_overrides, names_of(job_overrides), strict=True), start=first):
        try:
            config, folder = composer.compose(overrides, number)
            found.append(Job(tuple(overrides), to_experiment(config), number, folder))
        except MISTAKES as error:
            raise InputError(f"{name}: {explain(error)}" if len(job_overrides) > 1 else explain(error)) from error
    return found


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise where Hydra says nothing, or reports a fault of its own.

    Raises:
        InputError: the name of a config is a number or null, or a value is ``{}``, which Hydra merges.
    """
    parser = OverridesParser.create()
    for word in overrides:
        with contextlib.suppress(OverrideParseException):  # Hydra reports it
            (override,) = parser.parse_overrides([word])
            if override.is_delete():
                continue
            configs = sorted(path.stem for path in (CONF / override.key_or_group).glob("*.yaml"))
            value = override.value()
            if value == {} and override.type is OverrideType.CHANGE:
                key = override.key_or_group
                raise InputError(
                    f"{key}={{}} changes nothing: it keeps the entries that are there; ~{key}.KEY removes one"
                )
            values = value.list if isinstance(value, ChoiceSweep) else [value]
            if configs and any(isinstance(one, bool | int | float | None) for one in values):
                raise InputError(
                    f"{override.key_or_group} must be one of {', '.join(configs)}; got {override.get_value_string()}"
                )


def split(loader: ConfigLoader, master: DictConfig, overrides: Sequence[str]) -> list[list[str]]:
    """Overrides of each job of a sweep, all batches in one.

    They are multiplied out as Hydra's own sweeper does it. Where configs are swept (``sweep=table2,table3``), each
    brings the choices of its own ``hydra.sweeper.params``.
    """
    parser, params = OverridesParser.create(loader), _params(master)
    choices = []
    for word, override in zip(overrides, parser.parse_overrides(list(overrides)), strict=True):
        swept = override.is_discrete_sweep() and loader.get_group_options(override.key_or_group) != []
        key = override.get_key_element()
        choices.append([f"{key}={value}" for value in override.sweep_string_iterator()] if swept else [word])
    found, declared = [], list[dict[str, str]]()
    for words in itertools.product(*choices):
        own = params
        if any(len(each) > 1 for each in choices):
            names = [word for word, each in zip(words, choices, strict=True) if len(each) > 1]
            fixed = [word for word in words if word in names or not parser.parse_override(word).is_sweep_override()]
            config = loader.load_sweep_config(master, fixed)
            _check_common(master, config, " ".join(names))
            own = _params(config)
        declared.append(own)
        found += _multiplied(parser, own, words)
    return found if any(own != params for own in declared) else _multiplied(parser, params, overrides)


def _params(config: DictConfig) -> dict[str, str]:
    return _plain(config.hydra.sweeper).get("params") or {}


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=False)


def _multiplied(parser: OverridesParser, params: dict[str, str], overrides: Sequence[str]) -> list[list[str]]:
    parsed = parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *overrides])
    (batch,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return batch


def _check_common(master: DictConfig, config: DictConfig, words: str) -> None:
    one, other = _plain(master.hydra), _plain(config.hydra)
    for each in (one, other):
        each["sweeper"].pop("params", None)
        each["sweep"].pop("subdir")  # each job's own
    for key in ("launcher", "sweep", "sweeper"):
        if one[key] != other[key]:
            raise InputError(
                f"{words} sets hydra.{key}, which the runs of a sweep have in common: start one sweep for each, or "
                "set it on the command line"
            )


class JobComposer:
    """Composes the jobs of a sweep, many of which differ in values alone: Hydra takes a tenth of a second for each."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self._parse = functools.cache(OverridesParser.create(loader).parse_override)
        self._composed: dict[tuple[str, ...], tuple[DictConfig, bool]] = {}
        self._is_group = functools.cache(lambda key: loader.get_group_options(key) != [])

    def compose(self, overrides: Sequence[str], number: int) -> tuple[DictConfig, str]:
        """Settings of one job, without Hydra's own, and its ``hydra.sweep.subdir``."""
        parsed = [(word, self._parse(word)) for word in overrides]
        composing = tuple(word for word, override in parsed if self._composes(override))
        if composing not in self._composed:
            self._composed[composing] = self._base(composing)
        base, reads_hydra = self._composed[composing]
        if reads_hydra or any("$" in word for word in overrides):
            return self._whole(overrides, number)
        found = copy.deepcopy(base)
        for word, override in parsed:
            if word not in composing:
                OmegaConf.update(found, override.key_or_group, override.value())
        return found, str(number)

    def _base(self, overrides: Sequence[str]) -> tuple[DictConfig, bool]:
        config = self._loader.load_sweep_config(self._master, list(overrides))
        app = settings_of(config)
        return app, _plain(config.hydra.sweep)["subdir"] != "${hydra.job.num}" or "${hydra:" in OmegaConf.to_yaml(app)

    def _whole(self, overrides: Sequence[str], number: int) -> tuple[DictConfig, str]:
        config = self._loader.load_sweep_config(self._master, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        HydraConfig.instance().set_config(config)
        folder = str(config.hydra.sweep.subdir)
        set_output_dir(config, Path(config.hydra.sweep.dir, folder))
        return settings_of(config), folder

    def _composes(self, override: Override) -> bool:
        """Whether it decides what the config is composed of, or is Hydra's own; else it changes an existing value."""
        key = override.key_or_group
        changes = override.type is OverrideType.CHANGE and override.package is None
        return not changes or key.startswith("hydra.") or self._is_group(key)


def settings_of(config: DictConfig) -> DictConfig:
    """A copy of a composed config without Hydra's own part."""
    found = copy.deepcopy(config)
    with read_write(found), open_dict(found):
        del found["hydra"]
    return found


def stay(config: DictConfig) -> None:
    """Have Hydra run a job where the command was typed: there relative paths start, such as the ledger's."""
    if config.hydra.job.chdir:
        log.warning("hydra.job.chdir=true has no effect: relative paths start from where the command was typed")
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.chdir = False


def set_output_dir(config: DictConfig, folder: Path) -> None:
    """Set the job's context, so that ``${hydra:...}`` resolves."""
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder.absolute())
    HydraConfig.instance().set_config(config)


def to_experiment(config: DictConfig) -> Experiment:
    """Convert composed settings to typed ones, and check their values."""
    try:
        experiment = OmegaConf.to_object(_with_found(config))
    except OmegaConfBaseException as error:
        raise InputError(explain(error)) from error
    assert isinstance(experiment, Experiment)
    for key in _unknown(experiment):
        raise InputError(_explain_unknown(key))
    name = experiment.name
    if not name.isprintable() or name.startswith("/") or not {"", ".."}.isdisjoint(name.split("/")):
        raise InputError(f"name must be a folder below runs/, such as mine or team/mine; got {name!r}")
    check(experiment)
    check_stages(experiment)
    check_loggers(experiment.logger)
    return experiment


def _with_found(config: DictConfig) -> DictConfig:
    """Fill in what is null in ``data`` and follows from its pictures; other settings may refer to it."""
    is_looked_at = config.data.name in LOOKED_AT and any(config.data[key] is None for key in FOUND)
    if isinstance(config.data.image_px, int) and not is_looked_at:
        return config
    data = OmegaConf.to_object(config.data)
    assert isinstance(data, DataSettings)
    found: dict[str, Any] = {"image_px": data.image_px}  # two equal sides or a text are one number
    if is_looked_at:
        from rescaler.data.contents import found_in  # imports torch

        found |= found_in(data)
    filled = copy.deepcopy(config)
    with read_write(filled), open_dict(filled):
        filled.data.update(found)
    return filled


def read_experiment(folder: Path) -> Experiment:
    """Read the settings in a run's folder."""
    path = folder / CONFIG_FILE
    try:
        config = OmegaConf.merge(OmegaConf.structured(Experiment), OmegaConf.create(_literal(read_yaml(path))))
    except OmegaConfBaseException as error:
        raise InputError(f"{path}: {explain(error)}") from error
    assert isinstance(config, DictConfig)
    return to_experiment(config)


def _literal(value: Any) -> Any:
    """Escape what OmegaConf would take for an interpolation: the settings of a run are resolved."""
    if isinstance(value, dict):
        return {key: _literal(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_literal(entry) for entry in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def explain(error: BaseException) -> str:
    """Put an error of Hydra, OmegaConf or YAML in one line, with the key and the value."""
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
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override}: {text}"
    if "Could not find 'schedule/" in text:  # a data set of the user's: conf/config.yaml takes the one of its name
        text += "; choose one by schedule=NAME"
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
    if key in _RENAMED:
        return f"{key} is gone: use {_RENAMED[key]}"
    of_slurm = list(_keys(SlurmSettings, "hydra.launcher."))
    known = [*_keys(Experiment), *_keys(OptimSettings, "optim."), *_keys(InitSettings, "init."), *of_slurm]
    if addition := _addition(key):
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.9)
        return f"unknown key {key}: " + (f"did you mean {near[0]}, or {addition}" if near else addition)
    if key in of_slurm:
        return f"unknown key {key}: it needs hydra/launcher=slurm"
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key {key}" + (f": did you mean {near[0]}?" if near else "; --cfg job shows all keys")


def _addition(key: str) -> str:
    """How to add an entry to the setting that ``key`` is in, if it takes any."""
    open_to = next((setting for setting in _OPEN if key.startswith(f"{setting}.")), None)
    return f"to add an entry to {open_to}, write {_OPEN[open_to]}" if open_to else ""


def _keys(settings: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(settings):
        yield prefix + field.name.rstrip("_")
        if dataclasses.is_dataclass(field.type):
            yield from _keys(field.type, f"{prefix}{field.name}.")
