"""The experiment as typed settings: the schema of ``conf/`` and the input of everything below it.

Plain dataclasses, so that nothing below the Hydra application needs Hydra. Value checks live in
:mod:`rescaler.experiment`; types and unknown keys are refused by OmegaConf, which reads these classes as its schema.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class StageSettings:
    """How one pre-train network follows from the target network."""

    table: dict[int, int] = field(default_factory=dict)
    """Kernel table: target kernel side -> pre-train kernel side, in pixels (the paper's Table 1)."""
    image_px: int | None = None
    """Side of the pre-train images; ``null``: the data's ``image_px`` divided by the first shrunk kernel's scale."""
    padding: dict[str, int] = field(default_factory=dict)
    """Padding of single layers of the pre-train network by module name, where the safe rule is not wanted."""
    input_only: bool = False
    """Progressive resizing, a baseline: the kernels stay the target's, and only the images are smaller."""


@dataclass
class ShrinkSettings(StageSettings):
    """The pre-train networks: the smallest, and those that come between it and the target network."""

    middle: list[StageSettings] = field(default_factory=list)
    """Further pre-train networks, each larger than the one before it."""

    @property
    def stages(self) -> list[StageSettings]:
        """All pre-train networks, the smallest first."""
        return [self, *self.middle]


@dataclass
class RescaleSettings:
    """How the state goes from the pre-train network to the target network."""

    interpolation: str = "bilinear"
    """How kernels are enlarged; ``fit``: ``pinv``, then those that best repeat the pre-train network's responses."""
    recalibrate: bool = False
    """Measure the BatchNorm statistics anew."""
    calibration_batches: int = 8
    """Mini-batches of training images that the fit and the recalibration look at."""
    momentum: str = "rescale"
    """What becomes of the optimizer's momentum: ``rescale`` it as the kernels, or ``reset`` it."""
    warmup_batches: int = 0
    """Mini-batches over which the learning rate rises again from zero; 0: it is kept."""


@dataclass
class DataSettings:
    """A data set and how its images are fed."""

    name: str = "fashion_mnist"
    folder: str | None = None
    """Where the images are, or where to put them; ``null``: ``data/`` below the working directory."""
    image_px: int = 28
    """Side of the target network's images."""
    classes: int = 10
    channels: int = 1
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    """Per channel, of pixel values in [0, 1]."""
    pad_px: int = 0
    """Largest random shift in training, in pixels of the target's image (small sets; zero padding)."""
    flip: bool = True
    """Random horizontal flip in training."""
    workers: int = 2
    """Processes that decode image files (ImageNet); changes no number."""
    train_images: int = 0
    test_images: int = 0
    """Sizes of the synthetic set; the real sets have their own."""

    def that_change_numbers(self) -> dict[str, Any]:
        """All of it but where the files are and how many processes read them."""
        settings = asdict(self)
        del settings["folder"], settings["workers"]
        return settings


@dataclass
class ScheduleSettings:
    """Learning rules by epoch. An epoch is ``batches_per_epoch`` mini-batches."""

    epochs: int = 55
    batches_per_epoch: int | None = None
    """``null``: one pass over the training set."""
    rule: str = "milestones"
    """``milestones``: one learning rate after the other; ``cosine`` and ``one_cycle``: from a single one, the peak."""
    learning_rates: list[float] = field(default_factory=list)
    milestones: list[int] = field(default_factory=list)
    """The next learning rate is taken at the end of these epochs."""
    warmup_epochs: int = 0
    """Epochs over which the learning rate rises at the start; 0: it does not."""
    weight_decay: float = 1e-4
    weight_decay_until: int | None = None
    """Last epoch with weight decay; ``null``: all epochs have it."""
    auto_resize_before: int = 1
    """How many epochs before the first milestone ``resize_epoch=auto`` resizes."""
    hold_after_resize: bool = False
    """Section 5.2: hold the learning rule from the resize until test accuracy drops; lengthens the run."""
    hold_limit: int = 20
    """The most epochs that are held."""


@dataclass
class OptimSettings:
    """Stochastic gradient descent with momentum."""

    batch_size: int = 128
    momentum: float = 0.9
    nesterov: bool = False
    label_smoothing: float = 0.0
    """Share of a label that goes to all classes alike, in training."""
    ema_decay: float | None = None
    """What the weights' exponential moving average keeps of itself in a step; it is then tested in their place."""


@dataclass
class StepSettings:
    """How a training step is computed."""

    precision: str = "default"
    """``default``: float32 as torch is set up (on CUDA with TF32 in convolutions alone); ``fp32``: without TF32;
    ``tf32``: with it everywhere; ``bf16`` and ``fp16``: autocast, ``fp16`` with a scaled loss."""
    memory_format: str = "channels_last"
    cudnn_benchmark: bool = False
    """Have cuDNN try out its algorithms at each new shape and take the fastest, which is not the same in each run."""
    optimizer: str = "fused"
    """``fused``: one kernel for an update; ``foreach``: one for each operation."""
    compile: bool = False
    """``torch.compile``, once for each network."""
    cuda_graphs: bool = False
    """Have what is compiled replayed by the GPU itself."""
    micro_batch_size: int | None = None
    """Images at once, shared by the processes; gradients add up to those of the batch. ``null``: the whole batch."""


@dataclass
class LoggerSettings:
    """Weights & Biases: a mirror of the run's own files."""

    mode: str = "auto"
    """``auto``: WANDB_MODE if set, else online when logged in, else offline. Or online, offline, disabled."""
    project: str = "rescaler"
    entity: str | None = None
    group: str | None = None
    """``null``: the sweep's folder name."""
    tags: list[str] = field(default_factory=list)


@dataclass
class LedgerSettings:
    """Where states and records of epochs are kept, and which states stay."""

    folder: str = "ledger"
    keep: str = "forks"
    """States kept once later epochs exist: ``last`` of a run, ``forks`` (last and before each rescale) or ``all``."""


@dataclass
class Experiment:
    """Everything that one run needs."""

    name: str = "run"
    model: dict[str, Any] = field(default_factory=dict)
    """``_target_``: import path of a function or class that makes the network; other keys are its arguments."""
    shrink: ShrinkSettings = field(default_factory=ShrinkSettings)
    rescale: RescaleSettings = field(default_factory=RescaleSettings)
    data: DataSettings = field(default_factory=DataSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    step: StepSettings = field(default_factory=StepSettings)
    logger: LoggerSettings = field(default_factory=LoggerSettings)
    ledger: LedgerSettings = field(default_factory=LedgerSettings)
    resize_epoch: Any = "auto"
    """Completed pre-train epochs before the target network takes over: 0 .. epochs, ``never`` or ``auto``; several
    pre-train networks share them evenly, or each has its last epoch in a list."""
    seed: int = 0
    device: str = "auto"
    checkpoint_every_min: float = 10.0
    """Minutes between saves in the middle of an epoch; 0: only when a signal ends the process."""
    progress: bool = True


def architecture(model: Mapping[str, Any]) -> str:
    """The last part of a network's import path, by which tables and folders name it."""
    return str(model.get("_target_")).rpartition(".")[2]


@dataclass
class SlurmSettings:
    """What each job of a sweep asks SLURM for, and how the launcher goes about it (``hydra/launcher=slurm``)."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: int = 1
    gpus_per_node: int = 1
    processes_per_node: int | None = None
    """Processes that train a run together, over torch's DistributedDataParallel; ``null``: one a GPU."""
    cpus_per_task: int = 8
    """Cores of each process."""
    mem_gb: float | None = None
    """Memory of each node; ``null``: what the cluster gives."""
    timeout_min: int = 24 * 60
    """Time limit of a job; a run that needs longer is requeued and goes on, any number of times."""
    signal_delay_s: int = 120
    """How long before the limit, or a preemption, a job is told to save."""
    array_parallelism: int = 256
    """Jobs of one array that run at the same time, at most."""
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
    """Train the epochs that runs have in common in a job of their own, before them; false: each run trains alone."""
    detach: bool = False
    """Return when all is submitted."""
    dry_run: bool = False
    """Show what would be submitted, and submit nothing."""
    epoch_hours: list[float] = field(default_factory=list)
    """Hours of an epoch of each network on the cluster, the smallest first, for the dry run; empty: measured here."""

    @property
    def tasks_per_node(self) -> int:
        """Processes on a node."""
        return max(1, self.gpus_per_node) if self.processes_per_node is None else self.processes_per_node

    @property
    def device_type(self) -> str:
        """What ``device=auto`` means on the nodes."""
        return "cuda" if self.gpus_per_node > 0 else "cpu"
