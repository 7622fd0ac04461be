"""From a command line, or a run's folder, to typed settings."""

from pathlib import Path

import pytest
from conftest import MakeExperiment
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError

from rescaler import compose
from rescaler.compose import jobs, read_experiment
from rescaler.errors import InputError
from rescaler.runfolder import write_config


def resize_epochs(*overrides: str) -> list[object]:
    return [job.experiment.resize_epoch for job in jobs(overrides)]


def test_one_run_where_nothing_is_swept() -> None:
    (job,) = jobs(["model=resnet_small", "seed=3"])
    assert job.experiment.model["_target_"].endswith("resnet_small")
    assert job.experiment.seed == 3
    assert job.overrides == ("model=resnet_small", "seed=3")


def test_choices_are_multiplied() -> None:
    found = [(job.experiment.resize_epoch, job.experiment.seed) for job in jobs(["resize_epoch=0,never", "seed=1,2"])]
    assert found == [(0, 1), (0, 2), ("never", 1), ("never", 2)]


def test_a_group_can_be_swept() -> None:
    models = [job.experiment.model["_target_"].rpartition(".")[2] for job in jobs(["model=resnet18,resnet34"])]
    assert models == ["resnet18", "resnet34"]


def test_a_sweep_file_brings_its_choices_and_yields_to_the_command_line() -> None:
    assert resize_epochs("sweep=table2_imagenet") == ["never", 0, 17, 18, 19, 20]
    assert resize_epochs("sweep=table2", "resize_epoch=3,4") == [3, 4]


def test_a_list_is_one_value() -> None:
    (job,) = jobs(["data.mean=[0.1]", "+model.widths=[4,8,8]"])
    assert job.experiment.model["widths"] == [4, 8, 8]


def test_entries_are_added_as_the_errors_say() -> None:
    padding, table = "+shrink.padding={layer4.0.conv1: 0, layer4.*: 1}", "+shrink.table={17: 11}"
    (job,) = jobs([padding, table, "+model.hidden=64"])
    assert job.experiment.shrink.padding == {"layer4.0.conv1": 0, "layer4.*": 1}
    assert job.experiment.shrink.table[17] == 11
    assert job.experiment.model["hidden"] == 64


def test_a_group_can_be_left_out() -> None:
    (job,) = jobs(["~experiment", "model=resnet_small"])
    assert job.experiment.model["_target_"] == "rescaler.models.resnet_small"


@pytest.mark.parametrize(
    "overrides",
    [
        ["resize_epoch=3", "seed=2"],
        ["model=resnet_small", "+model.widths=[4,8]", "schedule.epochs=12"],
        ["experiment=fashion_resnet", "resize_epoch=28", "rescale.optimizer_state=resize"],
        ["+model.widths=[4,8]", "model.widths=[8]", "~model.image_px", "data.std=[0.5]", "++name=other"],
        ["shrink=three_stages", "resize_epoch=[9,17]", "shrink.table={5: 3, 3: 2}"],
        ["schedule={epochs: 5, milestones: [2], learning_rates: [0.1, 0.01]}", "schedule.epochs=6"],
    ],
)
def test_jobs_are_composed_as_hydra_composes_them(overrides: list[str]) -> None:
    compose.register()
    with initialize_config_dir(str(compose.CONF.resolve()), version_base="1.3"):
        base = hydra_compose(compose.NAME, return_hydra_config=True)
        composer = compose.JobComposer(GlobalHydra.instance().config_loader(), base)
        composer.compose(["seed=1"], 0)  # another job of the sweep leaves nothing behind
        found, folder = composer.compose(overrides, 7)
        assert OmegaConf.to_container(found) == OmegaConf.to_container(hydra_compose(compose.NAME, overrides))
        assert folder == "7"
        with pytest.raises(ConfigAttributeError, match="Key 'resize_epoc' not in 'Experiment'"):
            composer.compose(["resize_epoc=3"], 0)


def test_each_job_is_composed_in_its_own_context_of_hydra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = jobs(["data.folder=${hydra:runtime.cwd}/x", "seed=${hydra:job.num}", "resize_epoch=5,6"])
    assert [job.experiment.seed for job in found] == [0, 1]
    assert found[1].experiment.data.folder == f"{tmp_path}/x"
    named = jobs(["seed=5,6", "hydra.sweep.subdir=s${seed}"])
    assert [job.folder for job in named] == ["s5", "s6"]


def test_swept_sweep_files_bring_their_own_choices() -> None:
    assert resize_epochs("sweep=table2,table3") == ["never", 0, 17, 18, 19, 20, "never", 0, 18, 29, 43]
    held = [job.experiment.schedule.hold_after_resize for job in jobs(["sweep=table2,table3", "seed=1"])]
    assert held == [False] * 6 + [True] * 5
    assert resize_epochs("sweep=table2,table3", "resize_epoch=3,4") == [3, 4, 3, 4]
    models = [job.overrides for job in jobs(["seed=1,2", "model=resnet18,resnet34"])]
    assert [words[1][-2:] for words in models] == ["18", "34", "18", "34"], "in the command line's order"


def test_a_swept_config_cannot_set_what_a_sweep_has_in_common(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /hydra/launcher: slurm\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match="^experiment=mine sets hydra.launcher, which the runs of a sweep have in com"):
        jobs(["experiment=fashion_overfeat,mine"], tmp_path)


def test_a_frozen_config_comes_back_whole(tmp_path: Path, make_experiment: MakeExperiment) -> None:
    words = [
        "1e3",
        "1",
        "0x10",
        "2024-01-01",
        "12:30",
        "yes",
        "null",
        "~",
        "",
        "${a}",
        "\\x",
        "ü\n",
        " x",
        "1_000",
        ".5",
    ]
    tags: dict[str, object] = {f"tag{number}": word for number, word in enumerate(words)}
    tags |= {"number": 1e3, "small": 1e-7, "none": None, "flag": True, "list": ["1e3", 1, {"a": "no"}]}
    experiment = make_experiment(logger__tags=words, name="1e3")
    experiment.model |= tags
    write_config(tmp_path, experiment)
    assert read_experiment(tmp_path) == experiment


@pytest.mark.parametrize("content", [b"\xff", b"[]", b"a: [", b"seed: x", b"sed: 1"])
def test_a_damaged_config_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match="config.yaml|unknown key sed") as raised:
        read_experiment(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["name=../../x"], "^name must be a folder below runs/, such as mine or team/mine; got '../../x'$"),
        (["name=/x"], "^name must be a folder below runs/"),
        (["name='a\nb'"], r"^name must be .*; got 'a\\nb'$"),
        (["resize_epoc=3"], "unknown key resize_epoc: did you mean resize_epoch"),
        (["resize_epoch=70"], '^resize_epoch must be between 0 and epochs .=55., "never" or "auto"; got 70$'),
        (["resize_epoch=3,70"], "^resize_epoch=70: resize_epoch must be between"),
        (["resize_epoch"], "missing EQUAL"),
        (["name=Größe"], """^cannot read name=Größe: quote a value .*: 'KEY="VALUE"'$"""),
        (["hydra.launcher.mem_gb=3"], "^unknown key hydra.launcher.mem_gb: it needs hydra/launcher=slurm$"),
        (["hydra.launcher.men_gb=3"], "^unknown key hydra.launcher.men_gb: did you mean hydra.launcher.mem_gb"),
        (["model=none"], "Could not find 'model/none'.*overfeat_fast overfeat_small resnet18 resnet34 resnet_small"),
        (["+colour=red"], "^unknown key colour; --cfg job shows all keys$"),
        (["schedule.epoch=3"], r"^unknown key schedule.epoch: did you mean schedule.epochs\?$"),
        (["optim.batch_size=many"], "^optim.batch_size must be of type int; got 'many'$"),
        (["model.width=3"], r"^unknown key model.width: to add an entry to model, write \+model.KEY=VALUE$"),
        (["shrink.padding={layer4.*: 1}"], r"^unknown key shrink.padding.layer4.\*: to add .*LAYER: PIXELS}'$"),
        (["+shrink.padding.layer4.0.conv1=1"], r"^shrink.padding.layer4: .* write '\+shrink.padding={LAYER: PIXELS}'$"),
        (["+shrink.padding.layer4.*=1"], r"^cannot read \+shrink.padding.layer4.\*=1: to add .*={LAYER: PIXELS}'$"),
        (["shrink.table={}"], r"^shrink\.table={} changes nothing: it keeps the entries that are there"),
        (["experiment={a:"], "^cannot read experiment={a:: no viable alternative"),
        (["name=it's"], "^cannot read name=it's: quote a value of other than plain characters"),
        (["step=nan"], "^step must be one of .*bf16.*, default.*; got nan$"),
        (["model=resnet_small,2"], "^model must be one of .*vgg_small; got resnet_small,2$"),
        (["model=null"], "^model must be one of .*overfeat_small.*; got null$"),
        (["resize_epoch=1,2", "experiment=3"], "^experiment must be one of .*fashion_overfeat.*; got 3$"),
    ],
)
def test_a_mistake_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        jobs(overrides)
    assert "\n" not in str(raised.value)
