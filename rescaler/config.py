"""Settings of an experiment: the schema of ``conf/``.

Each field says once its meaning, unit, allowed values and what it affects. Checks, keys of epochs, run ids, what may
stand in one table, and the help all follow from that.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from rescaler.errors import InputError
from rescaler.method import (
    MAX_IMAGE_PX,
    RIDGE,
    SIZE_RULE,
    ImageSize,
    height_width,
    image_size,
    is_image_size,
    size_text,
)

Affects = Literal["training", "evaluation", "nothing"]


class Check(NamedTuple):
    """A test of a value, and what it allows, in words."""

    passes: Callable[[Any], bool]
    allowed: str


def at_least(least: float, otherwise: str = "") -> Check:
    """Numbers from ``least``; ``otherwise`` says what null means."""
    words = "0 or more" if least == 0 else f"at least {least}"
    return Check(lambda value: value >= least, f"{words}, or null {otherwise}" if otherwise else words)


def one_of(*names: str) -> Check:
    """Words to choose from."""
    return Check(lambda value: value in names, f"one of {', '.join(names)}")


def each(check: Check) -> Check:
    """Lists whose every entry passes."""
    return Check(lambda values: all(map(check.passes, values)), check.allowed)


_SIZE = Check(is_image_size, f"{SIZE_RULE} {MAX_IMAGE_PX:,}")
_FRACTION = Check(lambda value: 0 <= value < 1, "in [0, 1)")
_POSITIVE = Check(lambda value: value > 0, "positive")
_FOLDER = Check(lambda value: value.strip() != "", "a folder")
_WEIGHTS = Check(_FOLDER.passes, "a file of weights, a run's folder, torchvision:NAME or timm:NAME")
_POSITIVE_OR_NULL = Check(_POSITIVE.passes, "positive, or null for none")


def setting(
    default: Any,
    help: str = "",  # noqa: A002 - as argparse calls it
    *,
    unit: str = "",
    check: Check | None = None,
    affects: Affects = "training",
    absent: Any = dataclasses.MISSING,
    method: bool = False,
    by_stage: bool = False,
) -> Any:
    """Declare a setting.

    Args:
        default: its value; a class or function without arguments makes a new one for each experiment.
        help: what it means.
        unit: of its value.
        check: what it may be; null passes where the field's type has it.
        affects: the numbers of training, those of evaluation alone, or none.
        absent: the value that means "as before this setting existed": it is in no key.
        method: runs that differ in it are what a table compares; others stand in tables of their own.
        by_stage: ``stages`` may give it another value for one network.
    """
    metadata = {"help": help, "unit": unit, "check": check, "affects": affects, "absent": absent, "method": method}
    metadata["by_stage"] = by_stage
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


if TYPE_CHECKING:
    _SizeOrNull = ImageSize | None
    _Found = int
    _FoundSize = ImageSize
    _FoundList = list[float]
    _FoundBool = bool
else:  # null with LOOKED_AT until their pictures are looked at, before anything is checked: rescaler.data.contents
    _Found, _FoundList, _FoundBool = int | None, list[float] | None, bool | None
    _FoundSize = _SizeOrNull = Any  # OmegaConf has no union with a list


@dataclass
class StageSettings:
    """How one pre-train network follows from the target network."""

    table: dict[int, int] = setting(
        dict, "target kernel side -> pre-train kernel side (Table 1)", unit="px", method=True
    )
    image_px: _SizeOrNull = setting(
        None,
        "side, or [height, width], of the images; null: by the first shrunk kernel's scale",
        unit="px",
        check=_SIZE,
        method=True,
    )
    padding: dict[str, int] = setting(dict, "padding of single layers by name", unit="px", method=True)
    input_only: bool = setting(False, "progressive resizing: the target's kernels, smaller images", method=True)

    def __post_init__(self) -> None:
        self.image_px = image_size(self.image_px)


@dataclass
class ShrinkSettings(StageSettings):
    """The pre-train networks: the smallest, and those between it and the target network."""

    middle: list[StageSettings] = setting(list, "further pre-train networks, each larger than the last", method=True)

    @property
    def stages(self) -> list[StageSettings]:
        """All pre-train networks, the smallest first."""
        return [self, *self.middle]


INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "area", "pinv", "embed", "fit")


@dataclass
class RescaleSettings:
    """How the state is carried from the pre-train network to the target network."""

    interpolation: str = setting(
        "bilinear",
        "how kernels grow; fit: pinv, then fitted to the small network's responses",
        check=Check(
            lambda value: value in INTERPOLATIONS or "." in value,
            f"one of {', '.join(INTERPOLATIONS)}, or the import path of a function",
        ),
        method=True,
    )
    recalibrate: bool = setting(False, "measure the BatchNorm statistics anew", absent=False, method=True)
    calibration_batches: int = setting(
        8, "training batches that fit and recalibrate use", check=at_least(1), absent=0, method=True
    )
    ridge: float | None = setting(
        RIDGE,
        "of the fit: how strongly it keeps to the resized kernels; null: of each layer by held-out responses",
        check=Check(_POSITIVE.passes, "positive, or null to choose it by held-out responses"),
        absent=RIDGE,
        method=True,
    )
    align: bool = setting(
        False,
        "of the fit: undo the half pixel by which even kernels move their maps, where held-out responses say so",
        absent=False,
        method=True,
    )
    optimizer_state: str = setting(
        "resize",
        "resize momentum and moments with the kernels, or start anew",
        check=one_of("resize", "reset"),
        method=True,
    )
    warmup_batches: int = setting(
        0, "batches over which the learning rate rises again from 0", check=at_least(0), absent=0, method=True
    )
    distill_batches: int = setting(
        0,
        "batches in which the network follows the smaller one's scores, too",
        check=at_least(0),
        absent=0,
        method=True,
    )


DATA_SETS = ("fashion_mnist", "cifar10", "cifar100", "imagenet", "folder", "custom", "synthetic")
LOOKED_AT = ("folder", "custom")
"""Data sets whose images say what is null in their settings."""


def _is_target(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


AUGMENTATIONS = ("rand_augment", "trivial_augment", "random_erasing", "mixup", "cutmix")


def _are_augmentations(value: Any) -> bool:
    entries = value if isinstance(value, list) else [value] if value else []
    return all(entry in AUGMENTATIONS if isinstance(entry, str) else isinstance(entry, Mapping) for entry in entries)


def _are_weights(value: Any) -> bool:
    numbers = isinstance(value, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in value)
    return value == "balanced" or (numbers and all(x >= 0 for x in value) and sum(value) > 0)


_CLASS_WEIGHTS = Check(_are_weights, "balanced, or a number from 0 on for each class, not all 0")


@dataclass
class DataSettings:
    """A data set and how its images are fed."""

    name: str = setting("fashion_mnist", "which data set", check=one_of(*DATA_SETS))
    folder: str | None = setting(
        None, "where the images are, or are put; null: data/ here", check=_FOLDER, affects="nothing"
    )
    image_px: _FoundSize = setting(
        28, "side, or [height, width], of the target network's images", unit="px", check=_SIZE
    )
    classes: _Found = setting(10, "number of classes", check=at_least(2))
    channels: _Found = setting(1, "colour channels", check=at_least(1))
    mean: _FoundList = setting(
        list,
        "of pixels in [0, 1], by channel",
        check=Check(lambda v: all(0 <= x <= 1 for x in v), "in [0, 1], by channel"),
    )
    std: _FoundList = setting(
        list,
        "of pixels in [0, 1], by channel",
        check=Check(lambda v: all(0 < x <= 1 for x in v), "in (0, 1], by channel"),
    )
    pad_px: int = setting(
        0, "largest random shift in training", unit="px of the target's image", check=at_least(0), by_stage=True
    )
    flip: bool = setting(True, "random horizontal flip in training", by_stage=True)
    resize: str = setting(
        "bilinear",
        "how training images in memory are made smaller: bilinear, or their low frequencies",
        check=one_of("bilinear", "fourier"),
        absent="bilinear",
        by_stage=True,
    )
    augment: Any = setting(
        None,
        "transforms of images, or of a whole batch (mixup, cutmix): names, or _target_ and arguments; one or a list",
        check=Check(
            _are_augmentations, f"{', '.join(AUGMENTATIONS)}, a _target_ with its arguments, or a list of them"
        ),
        absent=None,
        by_stage=True,
    )
    class_weights: Any = setting(
        None,
        "of each class in the training loss; balanced: by the inverse of its number of training images",
        check=_CLASS_WEIGHTS,
        absent=None,
        by_stage=True,
    )
    sampling_weights: Any = setting(
        None,
        "chance of an image, by class, to be drawn, with replacement; balanced: all classes as often",
        check=_CLASS_WEIGHTS,
        absent=None,
        by_stage=True,
    )
    test_px: _SizeOrNull = setting(
        None,
        "side, or [height, width], of test images; null: that of the training images",
        unit="px",
        check=_SIZE,
        affects="evaluation",
        absent=None,
        by_stage=True,
    )
    holdout: float = setting(
        0.0,
        "share of each class's training images that is kept from training and tested on instead of the test set",
        check=Check(lambda value: 0 <= value <= 0.5, "in [0, 0.5]"),
        absent=0.0,
    )
    in_memory: _FoundBool = setting(
        False,
        "data=folder, custom: all images in memory, shifted by pad_px; else read in training, cut at random",
        absent=False,
    )
    workers: int = setting(2, "processes that decode image files", check=at_least(0), affects="nothing")
    train_images: int = setting(0, "size of the synthetic training set", check=at_least(0))
    test_images: int = setting(0, "size of the synthetic test set", check=at_least(0), affects="evaluation")
    train: Any = setting(
        None,
        "for data=custom: a map-style set of (image, label) to train on",
        check=Check(_is_target, "a _target_ with its arguments"),
        absent=None,
    )
    test: Any = setting(
        None,
        "for data=custom: a map-style set to test on; null: a hold-out",
        check=Check(_is_target, "a _target_ with its arguments"),
        absent=None,
    )

    def __post_init__(self) -> None:
        self.image_px, self.test_px = image_size(self.image_px), image_size(self.test_px)
        if isinstance(self.augment, list) and len(self.augment) == 1:
            self.augment = self.augment[0]  # whose key is from before there were lists
        self.augment = self.augment or None


RULES = ("milestones", "cosine", "one_cycle", "linear", "constant")


@dataclass
class ScheduleSettings:
    """Learning rate and weight decay by epoch."""

    epochs: int = setting(
        55, "length of the run", check=Check(lambda value: 1 <= value <= 100_000, "at least 1 and at most 100,000")
    )
    batches_per_epoch: int | None = setting(
        None, "mini-batches in an epoch", check=at_least(1, "for one pass over the training set")
    )
    budget: float | None = setting(
        None,
        "cost at which the run ends, in runs of the target network over all epochs",
        check=_POSITIVE_OR_NULL,
        absent=None,
        method=True,
    )
    clock: str = setting(
        "epochs",
        "what warm-up and decay run over: epochs, or the cost spent",
        check=one_of("epochs", "cost"),
        absent="epochs",
        method=True,
    )
    rule: str = setting("milestones", "how the learning rate changes", check=one_of(*RULES))
    learning_rates: list[float] = setting(
        list, "one after the other (milestones), or the peak", unit="per step", check=each(_POSITIVE)
    )
    milestones: list[int] = setting(list, "the next learning rate is taken after these epochs", unit="epochs")
    warmup_epochs: int = setting(0, "over which the learning rate rises from 0", unit="epochs", absent=0)
    weight_decay: float = setting(1e-4, "strength of the weight decay", check=at_least(0), by_stage=True)
    weight_decay_until: int | None = setting(None, "last epoch with weight decay", check=at_least(0, "for all epochs"))
    auto_resize_before: int = setting(
        1, "epochs from resize_epoch=auto to the first milestone", check=at_least(0), affects="nothing", method=True
    )
    hold_after_resize: bool = setting(
        False,
        "section 5.2: hold the learning rule after the resize until test accuracy drops",
        absent=False,
        method=True,
    )
    hold_limit: int = setting(20, "most epochs that are held", check=at_least(1), method=True)
    recalibration_batches: int = setting(
        0, "training batches to measure the BatchNorm statistics anew after the last epoch", check=at_least(0), absent=0
    )


@dataclass
class InitSettings:
    """Weights that the target network starts from; without them, its own initial ones."""

    from_: str | None = setting(
        None, "FILE of weights, folder of a RUN, torchvision:WEIGHTS_NAME or timm:NAME", check=_WEIGHTS, absent=None
    )
    exclude: list[str] = setting(list, "patterns of names that keep their own initial values", absent=[])

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "InitSettings":
        """Read the ``init`` of a config, whose key ``from`` is no name in Python.

        Raises:
            InputError: a key is unknown, or a value has the wrong type.
        """
        for key in options:
            require(key in ("from", "exclude"), f"init.{key}", options[key], "left out: init has from and exclude")
        source, patterns = options.get("from"), options.get("exclude") or []
        require(source is None or isinstance(source, str), "init.from", source, "a text or null")
        texts = isinstance(patterns, list) and all(isinstance(one, str) for one in patterns)
        require(texts, "init.exclude", patterns, "a list of patterns, such as [fc.*]")
        require(not patterns or source is not None, "init.exclude", patterns, "empty without init.from")
        return cls(source, list(patterns))


SGD: Mapping[str, Any] = {"_target_": "torch.optim.SGD", "momentum": 0.9, "nesterov": False}


@dataclass
class OptimSettings:
    """Optimizer, and what else a step does to the weights."""

    arguments: dict[str, Any] = setting(lambda: dict(SGD), "_target_: import path of an optimizer; its arguments")
    batch_size: int = setting(128, "images in a step", check=at_least(1), by_stage=True)
    label_smoothing: float = setting(0.0, "share of a label spread over all classes", check=_FRACTION, by_stage=True)
    ema_decay: float | None = setting(
        None,
        "test the weights' exponential moving average, with this decay a step",
        check=Check(lambda value: 0 < value < 1, "between 0 and 1, or null for none"),
    )
    lr_factor: float = setting(
        1.0, "the schedule's learning rates times this", check=_POSITIVE, absent=1.0, by_stage=True
    )
    no_decay: str | None = setting(
        None, "parameters without weight decay: norm_and_bias", check=one_of("norm_and_bias"), absent=None
    )
    groups: dict[str, dict[str, Any]] = setting(
        dict, "by pattern of parameter names: lr_factor, decay_factor, arguments of the optimizer", absent={}
    )
    clip_norm: float | None = setting(None, "largest norm of the gradient", check=_POSITIVE, absent=None)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "OptimSettings":
        """Split the ``optim`` of a config into our fields and the optimizer's arguments.

        Raises:
            InputError: a value has the wrong type.
        """
        names = set(cls.__dataclass_fields__) - {"arguments"}
        own = {name: value for name, value in options.items() if name in names}
        rest = {name: value for name, value in options.items() if name not in {*names, "arguments"}}
        own = {name: typed(cls, name, value, f"optim.{name}") for name, value in own.items()}
        arguments = {**options.get("arguments", {}), **rest}
        return cls(arguments=arguments if "_target_" in arguments else {**SGD, **arguments}, **own)


@dataclass
class StepSettings:
    """How a training step is computed."""

    precision: str = setting(
        "default",
        "default: float32 as torch is set up; fp32: without TF32; tf32: with it everywhere; bf16, fp16: autocast",
        check=one_of("default", "fp32", "tf32", "bf16", "fp16"),
    )
    memory_format: str = setting("channels_last", "layout of images", check=one_of("channels_last", "contiguous"))
    cudnn_benchmark: bool = setting(False, "let cuDNN time its algorithms (CUDA)", absent=False)
    optimizer: str = setting("fused", "one kernel an update, or one an operation", check=one_of("fused", "foreach"))
    compile: bool = setting(False, "torch.compile, once for each network", absent=False)
    cuda_graphs: bool = setting(False, "replay what is compiled as CUDA graphs", absent=False)
    micro_batch_size: int | None = setting(
        None,
        "images at once, gradients accumulated",
        check=at_least(1, "for whole batches"),
        absent=None,
        by_stage=True,
    )
    dropout: float | None = setting(
        None,
        "probability of every dropout layer; null: the network's own",
        check=_FRACTION,
        absent=None,
        by_stage=True,
    )


@dataclass
class CostSettings:
    """What a mini-batch of each network costs, where a budget or the schedule's clock needs it."""

    reference: list[float] = setting(
        list, "of a step of each network, the smallest first; empty: measured", unit="s", check=each(_POSITIVE)
    )


@dataclass
class LoggerSettings:
    """Weights & Biases, other loggers of ours and custom ones: mirrors of the run's own files."""

    mode: str = setting(
        "disabled",  # conf/logger/wandb.yaml turns it on: other loggers may be chosen without it
        "of W&B; auto: WANDB_MODE, else online when logged in, else offline",
        check=one_of("auto", "online", "offline", "disabled"),
        affects="nothing",
    )
    project: str = setting("rescaler", "W&B project", affects="nothing")
    entity: str | None = setting(None, "W&B user or team", affects="nothing")
    group: str | None = setting(None, "null: the sweep's folder name", affects="nothing")
    tags: list[str] = setting(list, "more tags", affects="nothing")
    others: dict[str, Any] = setting(
        dict, "loggers of ours by name, each a _target_ and its arguments", affects="nothing"
    )
    more: list[Any] = setting(list, "further loggers, each a _target_ and its arguments", affects="nothing")


@dataclass
class LedgerSettings:
    """Where records and states of epochs are kept, and which states stay."""

    folder: str = setting("ledger", "folder of the ledger", check=_FOLDER, affects="nothing")
    keep: str = setting(
        "forks",
        "states that stay: the last, those before a rescale too, or all",
        check=one_of("last", "forks", "all"),
        affects="nothing",
    )


if TYPE_CHECKING:
    _Optim = OptimSettings
    _Init = InitSettings
else:  # for OmegaConf: an optimizer takes arguments of its own, beside our fields; init has a key `from`
    _Optim = dict[str, Any]
    _Init = dict[str, Any]


@dataclass
class Experiment:
    """All settings of one training."""

    name: str = setting("run", "of the experiment", affects="nothing")
    model: dict[str, Any] = setting(dict, "_target_: import path of what makes the network; its arguments")
    shrink: ShrinkSettings = field(default_factory=ShrinkSettings)
    rescale: RescaleSettings = field(default_factory=RescaleSettings)
    data: DataSettings = field(default_factory=DataSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    optim: _Optim = field(default_factory=dict)  # type: ignore[assignment]
    init: _Init = field(default_factory=dict, metadata={"absent": InitSettings()})  # type: ignore[assignment]
    step: StepSettings = field(default_factory=StepSettings)
    stages: dict[str, Any] = setting(
        dict, "settings of one network: NAME.KEY=VALUE; names: pretrain, middle, middle2 ..., target", absent={}
    )
    cost: CostSettings = field(default_factory=CostSettings, metadata={"absent": CostSettings()})
    logger: LoggerSettings = field(default_factory=LoggerSettings)
    ledger: LedgerSettings = field(default_factory=LedgerSettings)
    resize_epoch: Any = setting(
        "auto",
        "completed pre-train epochs before the target takes over: 0 to epochs, never, auto, or the last epoch of each "
        "pre-train network",
        method=True,
    )
    resize_at: Any = setting(
        None,
        "in place of resize_epoch: share of schedule.budget when the target takes over, or for each pre-train network",
        absent=None,
        method=True,
    )
    arm: str = setting("", "name of the run's arm in a comparison (rescaler fair)", affects="nothing")
    objective: str = setting(
        "final_top1",
        "result of a run that a sweeper of Hydra's gets, such as hydra/sweeper=optuna",
        check=one_of("final_top1", "best_top1", "cost", "training_s"),
        affects="nothing",
    )
    seed: int = setting(0, "of all random numbers", method=True)
    device: str = setting("auto", "what trains", check=one_of("auto", "cpu", "cuda"))
    checkpoint_every_min: float = setting(
        10.0,
        "between saves in an epoch; 0: only before the process ends",
        unit="min",
        check=at_least(0),
        affects="nothing",
    )
    progress: bool = setting(True, "show a progress bar", affects="nothing")

    def __post_init__(self) -> None:
        if isinstance(self.optim, Mapping):
            self.optim = OptimSettings.of(self.optim)
        if isinstance(self.init, Mapping):
            self.init = InitSettings.of(self.init)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as ``config.yaml`` and W&B show them."""
        values = dataclasses.asdict(self)
        values["optim"] = {**values["optim"].pop("arguments"), **values["optim"]}
        values["init"] = {"from": values["init"].pop("from_"), **values["init"]}
        return values

    def of_stage(self, name: str) -> "Experiment":
        """Return the settings with which one network is trained.

        Raises:
            InputError: ``stages`` has a value of a wrong type or out of its range.
        """
        return _with(self, self.stages[name], f"stages.{name}.") if name in self.stages else self


@dataclass
class SlurmSettings:
    """What each job of a sweep asks SLURM for, and how the launcher works (``hydra/launcher=slurm``)."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: int = 1
    gpus_per_node: int = 1
    processes_per_node: int | None = None
    """Processes that train a run together (DistributedDataParallel); ``null``: one a GPU."""
    cpus_per_task: int = 8
    """Cores of each process."""
    mem_gb: float | None = None
    """Memory of each node; ``null``: what the cluster gives."""
    timeout_min: int = 24 * 60
    """Time limit of a job; a longer run is requeued and resumes, any number of times."""
    signal_delay_s: int = 120
    """Seconds before the limit, or a preemption, at which a job is warned and saves."""
    array_parallelism: int = 256
    """Most jobs of one array that run at the same time."""
    setup: list[str] = field(default_factory=list)
    """Shell lines before the run starts, such as ``module load cuda``."""
    python: str | None = None
    """Command that starts Python on a node, such as ``apptainer exec --nv image.sif python``; ``null``: this one."""
    mail_type: str | None = None
    mail_user: str | None = None
    srun_args: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    """Any other option of sbatch, by its long name."""
    share_trunk: bool = True
    """Train shared epochs in a job of their own, first; false: each run trains alone."""
    detach: bool = False
    """Return when all is submitted."""
    dry_run: bool = False
    """Show what would be submitted, and submit nothing."""
    epoch_hours: list[float] = field(default_factory=list)
    """Hours of an epoch of each network, the smallest first, for the dry run; empty: measured here."""

    @property
    def tasks_per_node(self) -> int:
        """Processes on a node."""
        return max(1, self.gpus_per_node) if self.processes_per_node is None else self.processes_per_node

    @property
    def device_type(self) -> str:
        """What ``device=auto`` means on the nodes."""
        return "cuda" if self.gpus_per_node > 0 else "cpu"


def architecture(model: Mapping[str, Any]) -> str:
    """Return the last part of a network's import path, by which tables and folders name it."""
    return str(model.get("_target_")).rpartition(".")[2]


def identity(settings: Any, *, compared: bool = False) -> dict[str, Any]:
    """Return the settings that can change a number, by name, without those at their ``absent`` value.

    Args:
        settings: any of the classes here.
        compared: leave out what a table compares (``method``).
    """
    found = {}
    for one in dataclasses.fields(settings):
        value, about = getattr(settings, one.name), one.metadata
        if about.get("affects") == "nothing" or (compared and about.get("method")) or value == about.get("absent", ()):
            continue
        found[one.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return identity(value)
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def stage_names(count: int) -> list[str]:
    """Return the names of an experiment's networks, ``count`` pre-train networks and the target.

    The smallest is called the same however many follow, as runs share its epochs.
    """
    return [*["pretrain", "middle", *(f"middle{number}" for number in range(2, count))][:count], "target"]


def _with(settings: Any, changes: Any, prefix: str) -> Any:
    """Return a copy of settings with those of ``stages``."""
    if not isinstance(changes, Mapping):
        raise InputError(f"{prefix[:-1]} must hold settings by name; got {changes!r}")
    values = {}
    for name, value in changes.items():
        about: dict[str, Any] = {one.name: dict(one.metadata) for one in dataclasses.fields(settings)}
        own = getattr(settings, name, None)
        if name in about and dataclasses.is_dataclass(own):
            values[name] = _with(own, value, f"{prefix}{name}.")
            continue
        if not about.get(name, {}).get("by_stage"):
            allowed = [key for key, _, each in fields(Experiment()) if each.get("by_stage")]
            raise InputError(f"{prefix}{name} is no setting of a single network; allowed: {', '.join(allowed)}")
        values[name], rule = typed(settings, name, value, f"{prefix}{name}"), about[name]["check"]
        if rule is not None and value is not None:
            require(rule.passes(value), f"{prefix}{name}", value, rule.allowed)
    return dataclasses.replace(settings, **values)


def typed(settings: Any, name: str, value: Any, key: str) -> Any:
    """Return a value of a setting, an integer as the float that the setting wants.

    Raises:
        InputError: it has the wrong type.
    """
    hint = get_type_hints(settings if isinstance(settings, type) else type(settings))[name]
    if hint is Any:
        return value
    parts = (hint,) if get_origin(hint) is dict else get_args(hint) or (hint,)
    kinds = tuple(get_origin(kind) or kind for kind in parts)
    if isinstance(value, int) and float in kinds and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        words = " or ".join(kind.__name__.replace("NoneType", "null") for kind in kinds)
        raise InputError(f"{key} must be of type {words}; got {value!r}")
    return value


def fields(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield key, value and declaration of every setting, those of nested settings too."""
    for one in dataclasses.fields(settings):
        key, value = f"{prefix}{one.name.rstrip('_')}", getattr(settings, one.name)
        for part in [value] if not isinstance(value, list) else value:
            if dataclasses.is_dataclass(part):
                nested = key if part is value else f"{key}[{value.index(part)}]"
                yield from fields(part, f"{nested}.")
        if not dataclasses.is_dataclass(value):
            yield key, value, one.metadata


def help_text() -> str:
    """Return a line for each setting: key, meaning, unit, allowed values."""
    lines = []
    for key, _, about in fields(Experiment()):
        unit = f" [{about['unit']}]" if about.get("unit") else ""
        allowed = f" ({about['check'].allowed})" if about.get("check") else ""
        key = "optim._target_" if key == "optim.arguments" else key
        lines.append(f"  {key:<27} {about.get('help', '')}{unit}{allowed}")
    return "\n".join(lines)


def check(experiment: Experiment) -> None:
    """Check every value, before anything is loaded.

    Raises:
        InputError: a value is impossible; the message has its key and what is allowed.
    """
    for key, value, about in fields(experiment):
        for name, number in _floats(value, key):
            require(math.isfinite(number), name, number, "finite")
        rule = about.get("check")
        if rule is not None and value is not None:
            require(rule.passes(value), key, value, rule.allowed)
    _check_data(experiment.data)
    _check_weights(experiment.data)
    _check_optim(experiment)
    _check_schedule(experiment.schedule)
    names = stage_names(len(experiment.shrink.stages))
    for name in experiment.stages:
        if name not in names:
            raise InputError(f"stages.{name} names no network; allowed: {', '.join(names)}")
        own = experiment.of_stage(name)
        try:
            _check_data(own.data)
            _check_weights(own.data)
            _check_optim(own)
        except InputError as error:
            raise InputError(f"stages.{name}.{error}") from error
    reference, allowed = experiment.cost.reference, f"empty, or {len(names)} numbers ({', '.join(names)})"
    require(len(reference) in (0, len(names)), "cost.reference", reference, allowed)


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raise InputError for ``key`` unless ``condition`` holds."""
    if not condition:
        shown = repr(value) if isinstance(value, str) else list(value) if isinstance(value, tuple) else value
        raise InputError(f"{key} must be {allowed}; got {shown}")


def _floats(value: Any, key: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _floats(entry, f"{key}.{name}")
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _floats(entry, f"{key}[{index}]")
    elif isinstance(value, float):
        yield key, value


FOUND = ("image_px", "classes", "channels", "mean", "std", "in_memory")
"""Settings of ``data`` that are looked up in the pictures where they are null."""


def _check_data(data: DataSettings) -> None:
    for key in FOUND:
        require(getattr(data, key) is not None, f"data.{key}", "null", f"a value with data={data.name}")
    anyway = "false but with data=folder or custom: small sets are in memory anyway, imagenet never is"
    require(data.name in LOOKED_AT or not data.in_memory, "data.in_memory", data.in_memory, anyway)
    if data.name != "custom":
        for key in ("train", "test"):
            require(getattr(data, key) is None, f"data.{key}", getattr(data, key), f"null with data={data.name}")
    most = f"at most data.image_px (={size_text(data.image_px)})"
    require(data.pad_px <= min(height_width(data.image_px)), "data.pad_px", data.pad_px, most)
    if data.name != "synthetic":
        for key in ("train_images", "test_images"):
            value = getattr(data, key)
            require(value == 0, f"data.{key}", value, f"0 with data={data.name}, which is always used whole")


def _check_weights(data: DataSettings) -> None:
    allowed = f"balanced, or a number from 0 on for each class (data.classes={data.classes})"
    for key in ("class_weights", "sampling_weights"):
        value = getattr(data, key)
        require(not isinstance(value, list) or len(value) == data.classes, f"data.{key}", value, allowed)


def _check_optim(experiment: Experiment) -> None:
    optim, step = experiment.optim, experiment.step
    for key in ("lr", "weight_decay"):
        require(key not in optim.arguments, f"optim.{key}", optim.arguments.get(key), "left to schedule")
    momentum = optim.arguments.get("momentum", 0.0)
    if isinstance(momentum, int | float):
        require(0 <= momentum < 1, "optim.momentum", momentum, "in [0, 1)")
        nesterov = optim.arguments.get("nesterov", False)
        require(momentum > 0 or not nesterov, "optim.momentum", momentum, "above 0 with optim.nesterov")
    for pattern, values in optim.groups.items():
        fits = isinstance(values, Mapping) and not {"lr", "weight_decay"} & values.keys()
        require(
            fits, f"optim.groups.{pattern}", values, "lr_factor, decay_factor or arguments of the optimizer by name"
        )
    size = step.micro_batch_size
    most = f"at most optim.batch_size (={optim.batch_size})"
    require(size is None or size <= optim.batch_size, "step.micro_batch_size", size, most)
    # The gradients are in the graphs' own memory, which the next part of the batch takes again.
    require(size is None or not step.cuda_graphs, "step.micro_batch_size", size, "null with step.cuda_graphs")
    require(step.compile or not step.cuda_graphs, "step.compile", step.compile, "true with step.cuda_graphs")


def _check_schedule(schedule: ScheduleSettings) -> None:
    rates, milestones, rule = schedule.learning_rates, schedule.milestones, schedule.rule
    by_epochs = schedule.budget is None and schedule.clock == "epochs"
    allowed = "false with schedule.budget or schedule.clock=cost"
    require(by_epochs or not schedule.hold_after_resize, "schedule.hold_after_resize", True, allowed)
    count, allowed = schedule.recalibration_batches, "0 with schedule.hold_after_resize, which moves the last epoch"
    require(count == 0 or not schedule.hold_after_resize, "schedule.recalibration_batches", count, allowed)
    allowed = f"one more than schedule.milestones (={milestones})"
    require(len(rates) == len(milestones) + 1, "schedule.learning_rates", rates, allowed)
    rising = all(a < b for a, b in zip([0, *milestones], milestones, strict=False))
    require(rising, "schedule.milestones", milestones, "positive and rising")
    if rule == "milestones":
        last = min([schedule.epochs, *milestones])
    else:
        require(not milestones, "schedule.milestones", milestones, f"empty with schedule.rule={rule}")
        last = schedule.epochs - 1
    first = 1 if rule == "one_cycle" else 0
    allowed = f"from {first} to {last} with schedule.rule={rule}"
    require(first <= schedule.warmup_epochs <= last, "schedule.warmup_epochs", schedule.warmup_epochs, allowed)
