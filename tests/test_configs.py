"""Every config file composes to an experiment that passes its checks."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from image_tree import plant
from omegaconf import DictConfig

from rescaler.compose import jobs, register, to_experiment
from rescaler.config import Experiment
from rescaler.errors import InputError
from rescaler.method.kernels import KERNEL_TABLE
from rescaler.models.factory import build
from rescaler.networks import shrunk_stages
from rescaler.schedule import resolve_resize_epoch, stage_epochs

CONF = Path(__file__).parent.parent / "conf"
GROUPS = ("model", "shrink", "data", "schedule", "optim", "step", "logger", "experiment", "sweep")
OPTIONS = [f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def composed(*overrides: str, with_hydra: bool = False) -> DictConfig:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=with_hydra)


def experiment(*overrides: str) -> Experiment:
    return to_experiment(composed(*overrides))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes(option: str, tmp_path: Path) -> None:
    own = "{_target_: torchvision.datasets.FakeData, size: 8, image_size: [3, 32, 32]}"
    more = {"data=folder": [f"data.folder={plant(tmp_path)}"], "data=custom": [f"data.train={own}", f"data.test={own}"]}
    assert isinstance(experiment(option, *more.get(option, [])), Experiment)


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")) + sorted((CONF / "sweep").glob("*.yaml")))
def test_every_experiment_and_sweep_says_how_to_run_it(path: Path) -> None:
    group = path.parent.name
    assert f"# python -m rescaler.run {group}={path.stem}" in path.read_text().splitlines()[1]


@pytest.mark.parametrize("name", [path.stem for path in (CONF / "model").glob("*.yaml")])
def test_every_model_config_makes_a_network(name: str) -> None:
    with torch.device("meta"):
        network = build(experiment(f"model={name}", "data.image_px=231").model, classes=10, channels=1)
        assert network.eval()(torch.empty(2, 1, 231, 231)).shape == (2, 10)


def test_the_default_is_the_papers_table_2_in_miniature() -> None:
    made = experiment()
    assert made.name == "fashion_mnist_overfeat_small"
    assert resolve_resize_epoch(made) == 17
    assert (made.schedule.epochs, made.schedule.milestones) == (55, [18, 29, 43, 52])
    assert made.schedule.weight_decay_until == 29
    assert made.shrink.table == KERNEL_TABLE


def test_the_default_is_experiment_fashion_overfeat() -> None:
    assert experiment() == experiment("experiment=fashion_overfeat")


@pytest.mark.parametrize(
    ("overrides", "epochs", "batches_per_epoch", "learning_rates", "milestones", "batch_size"),
    [
        (["data=cifar10"], 164, None, [0.1, 0.01, 0.001], [82, 123], 128),  # He et al. (2016), section 4.2
        (["data=cifar100"], 164, None, [0.1, 0.01, 0.001], [82, 123], 128),
        (["data=imagenet"], 90, None, [0.1, 0.01, 0.001], [30, 60], 128),  # section 5.3
        (["data=cifar10", "schedule=linear"], 30, None, [0.1], [], 128),
        (["data=cifar10", "arm=target"], 30, None, [0.1], [], 128),
        (["data=synthetic"], 55, 120, [0.05, 0.025, 0.005, 0.0025, 0.0005], [18, 29, 43, 52], 64),
        (["experiment=fashion_resnet"], 90, 30, [0.1, 0.01, 0.001], [30, 60], 128),
        (["experiment=fashion_resnet", "data=cifar10"], 90, 30, [0.1, 0.01, 0.001], [30, 60], 128),
        (["experiment=fair_cifar10"], 10, None, [0.1], [], 64),
        (["sweep=table4_imagenet"], 90, None, [0.1, 0.01, 0.001], [30, 60], 128),
    ],
)
def test_the_schedule_follows_the_data_unless_another_is_chosen(
    overrides: list[str],
    epochs: int,
    batches_per_epoch: int | None,
    learning_rates: list[float],
    milestones: list[int],
    batch_size: int,
) -> None:
    made = experiment(*overrides)
    found = made.schedule
    assert (found.epochs, found.batches_per_epoch, found.learning_rates) == (epochs, batches_per_epoch, learning_rates)
    assert (found.milestones, made.optim.batch_size) == (milestones, batch_size)


def test_a_folder_is_trained_in_whole_passes(tmp_path: Path) -> None:
    schedule = experiment("data=folder", f"data.folder={plant(tmp_path)}").schedule
    assert (schedule.epochs, schedule.batches_per_epoch, schedule.rule) == (90, None, "cosine")


def test_data_without_a_schedule_of_its_name_take_any_other(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(CONF / "data" / "cifar10.yaml", tmp_path / "data" / "mine.yaml")
    with pytest.raises(
        InputError, match=r"\A[^\n]*Could not find 'schedule/mine'.* linear .*; choose one by schedule=NAME\Z"
    ):
        jobs(["data=mine"], tmp_path)
    (job,) = jobs(["data=mine", "schedule=linear"], tmp_path)
    assert job.experiment.schedule.rule == "linear"


def test_the_imagenet_experiments_are_the_papers() -> None:
    overfeat, resnet = experiment("experiment=imagenet_overfeat"), experiment("experiment=imagenet_resnet")
    assert (overfeat.data.image_px, resnet.data.image_px) == (231, 224)
    assert overfeat.schedule.learning_rates == [1e-2, 5e-3, 1e-3, 5e-4, 1e-4]
    assert overfeat.schedule.batches_per_epoch == 10_000
    assert overfeat.optim.batch_size == resnet.optim.batch_size == 128
    assert (resnet.schedule.epochs, resnet.schedule.learning_rates) == (90, [1e-1, 1e-2, 1e-3])
    assert resolve_resize_epoch(resnet) == 29


@pytest.mark.parametrize(
    ("sweep", "resize_epochs"),
    [
        ("table2", "never,0,17,18,19,20"),
        ("figure6", "never,0,17,18,19,20,28,29,30,31,42,43,44,45,51,52,53,54"),
        ("table3", "never,0,18,29,43"),
        ("table4", "never,0,28,29,58,59"),
    ],
)
@pytest.mark.parametrize("suffix", ["", "_imagenet"])
def test_the_sweeps_are_the_papers(sweep: str, suffix: str, resize_epochs: str) -> None:
    config: Any = composed(f"sweep={sweep}{suffix}", with_hydra=True)
    assert config.hydra.sweeper.params.resize_epoch == resize_epochs
    assert config.hydra.mode.name == "MULTIRUN"
    assert config.schedule.hold_after_resize == (sweep == "table3")


@pytest.mark.parametrize(
    ("options", "images_px"),
    [
        (("shrink=input_only",), [17, 28]),
        (("shrink=three_stages",), [17, 22, 28]),
        (("experiment=imagenet_overfeat", "shrink=three_stages"), [147, 189, 231]),
        (("experiment=imagenet_resnet", "shrink=three_stages"), [160, 192, 224]),
        (("experiment=fashion_resnet", "shrink=three_stages", "shrink.middle.0.image_px=23"), [20, 23, 28]),
        (("experiment=fashion_resnet", "shrink=kernels_first"), [20, 20, 28]),
    ],
)
def test_the_stages_of_each_shrink_config(options: tuple[str, ...], images_px: list[int]) -> None:
    made = experiment(*options)
    with torch.device("meta"):
        target = build(made.model, classes=made.data.classes, channels=made.data.channels)
    assert [shrunk.image_px for shrunk in shrunk_stages(made, target)] == images_px[:-1]
    assert made.data.image_px == images_px[-1]


def test_resize_epochs_of_several_stages_are_a_list() -> None:
    assert stage_epochs(experiment("shrink=three_stages", "resize_epoch=[9,17]")) == [9, 8, 38]


def test_three_stages_of_a_network_of_3x3_kernels_need_an_image_size() -> None:
    made = experiment("experiment=fashion_resnet", "shrink=three_stages")
    target = build(made.model, classes=10, channels=1)
    with pytest.raises(InputError, match=r"shrink.middle\[0\] must differ .* or an image_px up to data.image_px=28"):
        shrunk_stages(made, target)


def test_an_experiment_yields_to_the_command_line() -> None:
    assert experiment("experiment=fashion_resnet", "model=overfeat_small").model["_target_"].endswith("overfeat_small")
