import pytest

from rescaler.compose import jobs
from rescaler.errors import InputError


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
    ("overrides", "message"),
    [
        (["resize_epoc=3"], "unknown key resize_epoc: did you mean resize_epoch"),
        (["resize_epoch=70"], '^resize_epoch must be between 0 and epochs .=55., "never" or "auto"; got 70$'),
        (["resize_epoch=3,70"], "^resize_epoch=70: resize_epoch must be between"),
        (["resize_epoch"], "missing EQUAL"),
        (["name=Größe"], """^cannot read name=Größe: quote a value .*: 'KEY="VALUE"'$"""),
        (["hydra.launcher.mem_gb=3"], "^unknown key hydra.launcher.mem_gb: it needs hydra/launcher=slurm$"),
        (["hydra.launcher.men_gb=3"], "^unknown key hydra.launcher.men_gb: did you mean hydra.launcher.mem_gb"),
        (["model=none"], "Could not find 'model/none'"),
        (["model.width=3"], r"^unknown key model.width: to add an entry to model, write \+model.KEY=VALUE$"),
        (["shrink.padding={layer4.*: 1}"], r"^unknown key shrink.padding.layer4.\*: to add .*LAYER: PIXELS}'$"),
        (["+shrink.padding.layer4.0.conv1=1"], r"^shrink.padding.layer4: .* write '\+shrink.padding={LAYER: PIXELS}'$"),
        (["+shrink.padding.layer4.*=1"], r"^cannot read \+shrink.padding.layer4.\*=1: to add .*={LAYER: PIXELS}'$"),
        (["name=it's"], "^cannot read name=it's: quote a value of other than plain characters"),
        (["step=nan"], "^step must be one of .*bf16.*, default.*; got nan$"),
        (["model=resnet_small,2"], "^model must be one of .*resnet_small; got resnet_small,2$"),
        (["model=null"], "^model must be one of .*overfeat_small.*; got null$"),
        (["resize_epoch=1,2", "experiment=3"], "^experiment must be one of .*fashion_overfeat.*; got 3$"),
    ],
)
def test_a_mistake_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        jobs(overrides)
    assert "\n" not in str(raised.value)
