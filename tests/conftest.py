import functools
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from bench import Bench

from rescaler.config import (
    DataSettings,
    Experiment,
    LoggerSettings,
    OptimSettings,
    ScheduleSettings,
    ShrinkSettings,
)

if TYPE_CHECKING:
    from slurm_cluster import SlurmCluster

MakeExperiment = Callable[..., Experiment]
CompileWith = Callable[[Any], None]


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    """One for each test process and all that it starts: a process a core."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c() -> None:
    """A background shell ignores SIGINT, and what it starts inherits that: the tests' processes must not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def make_experiment() -> MakeExperiment:
    """An experiment that trains an epoch in a few hundredths of a second; ``a__b=value`` changes ``a.b``."""

    def make(**changes: Any) -> Experiment:
        experiment = Experiment(
            name="tiny",
            model={"_target_": "rescaler.models.overfeat_small", "widths": [4, 8, 8], "hidden": 16, "dropout": 0.5},
            shrink=ShrinkSettings(table={1: 1, 3: 2, 5: 3}),
            data=DataSettings(
                name="synthetic", image_px=28, classes=4, mean=[0.5], std=[0.25], train_images=200, test_images=100
            ),
            schedule=ScheduleSettings(
                epochs=6,
                batches_per_epoch=5,
                learning_rates=[0.03, 0.01],
                milestones=[4],
                weight_decay=1e-4,
                weight_decay_until=5,
            ),
            optim=OptimSettings(batch_size=16),
            logger=LoggerSettings(mode="disabled"),
            resize_epoch=3,
            device="cpu",
            progress=False,
        )
        for key, value in changes.items():
            *path, last = key.split("__")
            target: Any = experiment
            for part in path:
                target = getattr(target, part)
            if isinstance(target, OptimSettings) and last not in vars(target):
                target.arguments[last] = value
            elif isinstance(target, dict):
                target[last] = value
            else:
                setattr(target, last, value)
        return experiment

    return make


@pytest.fixture
def compile_with(monkeypatch: pytest.MonkeyPatch) -> CompileWith:
    """Make a backend that of ``torch.compile``, which is not asked first whether it compiles anything else."""

    def use(backend: Any) -> None:
        monkeypatch.setattr("rescaler.precision.cannot_compile", lambda _: None)
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))

    return use


@pytest.fixture(scope="session")
def cluster() -> Iterator["SlurmCluster"]:
    """A real SLURM: five nodes of four CPUs."""
    import slurm_cluster

    if lacking := slurm_cluster.missing():
        word = f"no {', '.join(lacking)} here: apt-get install slurmctld slurmd slurm-client munge"
        if os.environ.get("RESCALER_REQUIRE_SLURM") == "1":
            pytest.fail(word)
        pytest.skip(word)
    with tempfile.TemporaryDirectory(prefix="slurm", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        found = slurm_cluster.SlurmCluster(Path(folder))
        for name in ("SLURM_CONF", "PATH"):
            patch.setenv(name, found.environment[name])
        try:
            found.script("start", CLUSTER_NODES="5", CLUSTER_ARRAY=str(slurm_cluster.MAX_ARRAY))
            yield found
        finally:
            found.script("stop")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A ledger, and runs over it."""
    return Bench(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Bench:
    """One beside it."""
    (tmp_path / "other").mkdir()
    return Bench(tmp_path / "other")
