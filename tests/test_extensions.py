"""What a user adds from outside the package, by import path and without a patch."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from bench import RESNET, Bench
from conftest import MakeExperiment
from fake_runs import FakeRun
from pandas import DataFrame, read_csv
from test_train import Ending, digests
from torch import Tensor, nn

from rescaler.cli import main
from rescaler.compose import jobs
from rescaler.config import AUGMENTATIONS, OptimSettings
from rescaler.data.order import Augment
from rescaler.errors import InputError
from rescaler.execution import execute
from rescaler.loggers import check_loggers
from rescaler.models import loss_and_scores
from rescaler.plan import plan
from rescaler.record import Record
from rescaler.state import State
from rescaler.train import Step

HERE = __name__


class Invert:
    """An augmentation: half of the images, inverted."""

    def __call__(self, image: Tensor) -> Tensor:
        return 1 - image if torch.rand(()) < 0.5 else image


class SignSGD(torch.optim.Optimizer):
    """An optimizer that keeps a momentum."""

    def __init__(self, params: Any, lr: float, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                mean = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
                mean.mul_(group["momentum"]).add_(weight.grad)
                weight.sub_(mean.sign(), alpha=group["lr"])


def corners(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """An interpolation: the small kernel in the upper left of the large one."""
    large = weight.new_zeros(*weight.shape[:2], *size)
    large[:, :, : weight.shape[2], : weight.shape[3]] = weight
    return large


def network(num_classes: int, in_channels: int, activation: nn.Module) -> nn.Module:
    """A network with an activation of the user's choice."""
    layers = [nn.Conv2d(in_channels, 4, 5, padding=2), activation, nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, num_classes))


class Notes:
    """A logger."""

    seen: ClassVar[list[str]] = []

    def start(self, summary: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self.seen.append(f"{summary['status']} {config['seed']}")

    def epoch(self, record: Record, *, reused: bool) -> None:
        self.seen.append(f"{record.epoch} {reused}")

    def finish(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        self.seen.append(f"{summary['status']} {failed}")


def mean_loss(epochs: DataFrame) -> float:
    """A column."""
    return float(epochs["train_loss"].mean())


ALL = {
    "model": {"_target_": f"{HERE}.network", "activation": {"_target_": "torch.nn.GELU"}},
    "data__augment": {"_target_": f"{HERE}.Invert"},
    "optim": OptimSettings(arguments={"_target_": f"{HERE}.SignSGD"}, batch_size=16, lr_factor=0.1),
    "rescale__interpolation": f"{HERE}.corners",
}


def test_network_optimizer_interpolation_and_augmentation_by_import_path(
    bench: Bench, other: Bench, make_experiment: MakeExperiment
) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench.train(make_experiment(**ALL), saver=Ending(bench.ledger, 22))
    assert digests(bench.train(make_experiment(**ALL))) == digests(other.train(make_experiment(**ALL)))


@pytest.mark.parametrize("key", ALL)
def test_each_of_them_is_in_the_key(make_experiment: MakeExperiment, key: str) -> None:
    assert plan(make_experiment(**{key: ALL[key]})).id != plan(make_experiment()).id


def test_transforms_draw_by_image_and_keep_their_place(make_experiment: MakeExperiment) -> None:
    run = plan(make_experiment(data__augment=ALL["data__augment"]))
    epoch = run.chain.next([])
    assert epoch is not None
    whole = [images for images, _ in run.batches(epoch, 28)]
    plain = [images for images, _ in plan(make_experiment()).batches(epoch, 28)]
    inverted = [
        not torch.allclose(a, b) for one, two in zip(whole, plain, strict=True) for a, b in zip(one, two, strict=True)
    ]
    assert 0.3 < sum(inverted) / len(inverted) < 0.7
    rest = [images for images, _ in run.batches(epoch, 28, start=3)]
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[3:], strict=True))
    halves = [[images for images, _ in run.batches(epoch, 28, share=slice(part, None, 2))] for part in (0, 1)]
    assert torch.equal(halves[1][2], whole[2][1::2])


def test_torchvisions_transforms_take_the_images(make_experiment: MakeExperiment) -> None:
    options = {"_target_": "torchvision.transforms.v2.RandomErasing", "p": 1.0}
    run = plan(make_experiment(data__augment=options))
    epoch = run.chain.next([])
    assert epoch is not None
    images, _ = next(run.batches(epoch, 28))
    black = (images == -2.0).flatten(1).any(1)  # (0 - mean) / std
    assert black.float().mean() > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"_target_": "torchvision.transforms.v2.Nothing"}, "data.augment._target_=torchvision.*Nothing cannot"),
        ({"_target_": f"{HERE}.Invert", "share": 3}, "data.augment._target_=.*Invert: .*takes no arguments"),
        ({"_target_": "os.getcwd"}, "data.augment fails on an image: TypeError: 'str' object is not callable"),
        ({"_target_": "torchvision.transforms.v2.Resize", "size": 5}, "data.augment must keep the size of images"),
    ],
)
def test_what_is_no_augmentation_is_refused(
    make_experiment: MakeExperiment, options: dict[str, Any], message: str
) -> None:
    data = make_experiment(data__augment=options).data
    with pytest.raises(InputError, match=message):
        Augment(data, torch.device("cpu"))(torch.zeros(2, 1, 8, 8), [0, 1])


LIST = ["rand_augment", {"_target_": f"{HERE}.Invert"}, "random_erasing", "mixup", "cutmix"]


def test_a_list_of_augmentations_goes_on_to_the_same_bits(
    bench: Bench, other: Bench, make_experiment: MakeExperiment
) -> None:
    made = make_experiment(data__augment=LIST, optim__label_smoothing=0.1, step__micro_batch_size=8)
    with pytest.raises(KeyboardInterrupt):
        bench.train(made, saver=Ending(bench.ledger, 22))
    assert digests(bench.train(made)) == digests(other.train(made))


def test_mixed_images_and_labels_are_the_same_mixture(make_experiment: MakeExperiment) -> None:
    experiment = make_experiment(data__augment="mixup", data__flip=False)
    run, plain = plan(experiment), plan(make_experiment(data__flip=False))
    epoch = run.chain.next([])
    assert epoch is not None
    shares = set()
    for (images, labels), (one, own) in zip(run.batches(epoch, 28), plain.batches(epoch, 28), strict=True):
        assert labels.shape == (16, 4)
        assert torch.allclose(labels.sum(1), torch.ones(16))
        partner = one.roll(1, 0)
        share = ((images - partner) * (one - partner)).sum() / ((one - partner) ** 2).sum()
        assert torch.allclose(images, share * one + (1 - share) * partner, atol=1e-5)
        classes = torch.eye(4)
        assert torch.allclose(labels, share * classes[own] + (1 - share) * classes[own.roll(1)], atol=1e-5)
        shares.add(round(share.item(), 6))
    assert len(shares) == 5, "each batch draws its own"


def test_a_process_has_its_share_of_what_one_would_mix(make_experiment: MakeExperiment) -> None:
    run = plan(make_experiment(data__augment=LIST))
    epoch = run.chain.next([])
    assert epoch is not None
    whole = list(run.batches(epoch, 28))
    rest = list(run.batches(epoch, 28, start=3, share=slice(1, None, 2)))
    for one, part in zip(whole[3:], rest, strict=True):
        assert all(torch.equal(tensor[1::2], own) for tensor, own in zip(one, part, strict=True))


def test_hits_are_of_the_larger_label_and_the_loss_of_both(make_experiment: MakeExperiment) -> None:
    """Scores log(3/4, 1/4) on labels (3/4, 1/4): the entropy of the labels, and a hit."""
    scores, labels = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.75, 0.25]])
    loss, _ = loss_and_scores(scores, labels)
    assert loss.item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    run = plan(make_experiment(data__augment="mixup"))
    epoch = run.chain.next([])
    assert epoch is not None
    state = State(run.network(epoch.stage))
    state.prepare(epoch.recipe)
    state.network.eval()
    images, _ = next(run.batches(epoch, epoch.recipe.stage.image_px))
    with torch.no_grad():
        best = state.network(images).argmax(1)
    step = Step(state, epoch.recipe)
    state.network.eval()  # without dropout, so that the step has these scores too
    mostly = 0.6 * torch.eye(4)[best] + 0.4 * torch.eye(4)[(best + 1) % 4]
    assert step(images, mostly, 0.0, 0)[1].item() == 16


@pytest.mark.parametrize("one", [ALL["data__augment"], "cutmix"])
def test_a_list_of_one_augmentation_has_its_key(make_experiment: MakeExperiment, one: Any) -> None:
    data = make_experiment().data
    keys = {plan(make_experiment(data=replace(data, augment=each))).id for each in (one, [one])}
    assert len(keys) == 1
    without = plan(make_experiment(data=replace(data, augment=[]))).id
    assert without == plan(make_experiment()).id not in keys


def test_weights_of_classes_change_a_run_which_resumes_to_the_same_bits(
    bench: Bench, other: Bench, make_experiment: MakeExperiment
) -> None:
    plain = make_experiment(model=RESNET)
    weights = [1.0, 2.0, 0.5, 2.0]
    runs = [
        make_experiment(model=RESNET, data__class_weights=weights),
        make_experiment(model=RESNET, data__sampling_weights=weights),
        make_experiment(model=RESNET, data__class_weights=weights[::-1], data__sampling_weights=weights),
    ]
    assert len({plan(one).id for one in (plain, *runs)}) == 4
    with pytest.raises(KeyboardInterrupt):
        bench.train(runs[2], saver=Ending(bench.ledger, 3))
    assert digests(bench.train(runs[2])) == digests(other.train(runs[2]))
    assert len({bench.train(one)[-1].train_loss for one in (plain, *runs)}) == 4


@pytest.mark.parametrize("value", ["equal", "[1,2]", "[0,0,0,0,0,0,0,0,0,0]", "3"])
@pytest.mark.parametrize("key", ["data.class_weights", "stages.pretrain.data.sampling_weights"])
def test_wrong_weights_of_classes_are_one_line(key: str, value: str) -> None:
    with pytest.raises(InputError, match=rf"\A{key} must be balanced, or a number [^\n]* for each class[^\n]*; got"):
        jobs(["data=synthetic", f"+{key}={value}"])


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_name_is_a_transform_of_grey_and_colour(make_experiment: MakeExperiment, name: str, channels: int) -> None:
    levels = {"data__mean": [0.5] * channels, "data__std": [0.25] * channels, "data__channels": channels}
    run, plain = plan(make_experiment(data__augment=name, **levels)), plan(make_experiment(**levels))
    epoch = run.chain.next([])
    assert epoch is not None
    images = torch.cat([images for images, _ in run.batches(epoch, 28)])
    changed = (images - torch.cat([images for images, _ in plain.batches(epoch, 28)])).abs().amax((1, 2, 3)) > 1e-3
    assert 0.1 < changed.float().mean() <= 1
    assert (images.min().item(), images.max().item()) == pytest.approx((-2, 2), abs=1)  # still normalised


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["data.augment=randaugment"],
            r"data\.augment must be rand_augment, trivial_augment, .* list of them; got 'rand",
        ),
        (["data.augment=[mixup,3]"], r"data\.augment must be rand_augment, .*; got \['mixup', 3\]"),
        (
            ["+stages.target.data.augment=[nothing]"],
            r"stages\.target\.data\.augment must be rand_augment, .*got \['not",
        ),
    ],
)
def test_unknown_names_of_augmentations_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=rf"\A{message}[^\n]*\Z"):
        jobs(["data=synthetic", *words])[0].experiment.of_stage("target")


def test_a_command_line_gives_lists_and_the_older_form() -> None:
    made = jobs(["data=synthetic", "data.augment=[rand_augment,{_target_:torch.nn.Identity},cutmix]"])[0].experiment
    assert made.data.augment == ["rand_augment", {"_target_": "torch.nn.Identity"}, "cutmix"]
    (job,) = jobs(["data=synthetic", "+data.augment._target_=torch.nn.Identity", "+stages.target.data.augment=[]"])
    assert job.experiment.data.augment == {"_target_": "torch.nn.Identity"}
    assert job.experiment.of_stage("target").data.augment is None


def test_a_missing_transform_of_a_list_is_named_by_its_place(make_experiment: MakeExperiment) -> None:
    data = make_experiment(data__augment=["mixup", {"_target_": "no.such.Transform"}]).data
    with pytest.raises(InputError, match=r"\Adata\.augment\[1\]\._target_=no\.such\.Transform cannot be imported"):
        Augment(data, torch.device("cpu"))


def test_an_interpolation_is_tried_before_training(make_experiment: MakeExperiment) -> None:
    with pytest.raises(InputError, match=r"^rescale\.interpolation=math\.sqrt: TypeError: .* one argument \(2 given\)"):
        plan(make_experiment(rescale__interpolation="math.sqrt"))


def test_a_logger_by_import_path(make_experiment: MakeExperiment, tmp_path: Path) -> None:
    settings = {"ledger__folder": str(tmp_path / "ledger"), "schedule__epochs": 4}
    execute(make_experiment(logger__more=[{"_target_": f"{HERE}.Notes"}], **settings), tmp_path / "run", group="")
    assert Notes.seen == ["running 0", *(f"{epoch} False" for epoch in (1, 2, 3, 4)), "done False"]
    for options, message in (
        ({"_target_": f"{HERE}.Nothing"}, "Nothing"),
        ({"_target_": "os.getcwd"}, "lacks the methods of a logger: start, epoch, finish"),
        (3, "a _target_"),
        ({"a": 1}, "import path"),
    ):
        with pytest.raises(InputError, match=f"logger.more.0.*{message}"):
            check_loggers(make_experiment(logger__more=[options]).logger)


def test_a_column_by_import_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FakeRun(0, [0.5, 0.75]).write(tmp_path / "run")
    main(["tables", str(tmp_path), "--column", f"{HERE}.mean_loss", "--csv", str(tmp_path / "all.csv")])
    assert "mean_loss" in capsys.readouterr().out
    assert read_csv(tmp_path / "all.csv")["mean_loss"].tolist() == [0.5]
    with pytest.raises(SystemExit, match=f"error: --column {HERE}.no_such: "):
        main(["tables", str(tmp_path), "--column", f"{HERE}.no_such"])
    with pytest.raises(SystemExit, match=r"TypeError: it must give a number or a text; got a list"):
        main(["tables", str(tmp_path), "--column", "builtins.list"])
