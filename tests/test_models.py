import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import Bench
from conftest import MakeExperiment
from torch import nn

from rescaler.errors import InputError
from rescaler.method.rescaling import rescale
from rescaler.method.shrinking import Shrunk, shrink
from rescaler.models import Teacher, loss_and_scores, overfeat_fast, overfeat_small, resnet18, resnet_small
from rescaler.models.factory import build, code_digest


def _sides(shrunk: Shrunk) -> list[tuple[int, int]]:
    return [
        (layer.target_output[0], layer.pretrain_output[0]) for layer in shrunk.layers if layer.kind == "convolution"
    ]


def test_overfeat_fast_shrinks_as_in_the_paper() -> None:
    with torch.device("meta"):
        shrunk = shrink(overfeat_fast(), 231)
    assert all(parameter.is_meta for parameter in shrunk.network.parameters())  # on the target's device
    assert shrunk.image_px == 147
    assert _sides(shrunk) == [(56, 36), (24, 16), (12, 9), (12, 10), (12, 9)]
    assert [layer.name for layer in shrunk.layers] == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6"]
    kernels = [(layer.target_kernel[0], layer.pretrain_kernel[0]) for layer in shrunk.layers]
    assert kernels == [(11, 7), (5, 3), (3, 2), (3, 2), (3, 2), (6, 4)]


def test_overfeat_starts_uniform_in_one_over_root_of_the_fan_in() -> None:
    torch.manual_seed(0)
    network = overfeat_small(widths=(32, 64, 64))
    for name, fan_in in (("conv1", 25), ("conv2", 32 * 9), ("conv3", 64 * 9), ("fc4", 64 * 36), ("fc5", 128)):
        layer, bound = network.get_submodule(name), fan_in**-0.5
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        assert layer.bias is not None
        weight = layer.weight.detach()
        assert 0.98 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert layer.bias.abs().max() <= bound


@pytest.mark.parametrize(
    ("image_px", "pretrain_px", "sides", "interface"),
    [(28, 17, [(24, 15), (12, 8), (12, 9)], (6, 4)), (32, 19, [(28, 17), (14, 9), (14, 10)], (7, 5))],
)
def test_overfeat_small_shrinks(
    image_px: int, pretrain_px: int, sides: list[tuple[int, int]], interface: tuple[int, int]
) -> None:
    shrunk = shrink(overfeat_small(image_px=image_px), image_px)
    assert shrunk.image_px == pretrain_px
    assert _sides(shrunk) == sides
    last = shrunk.layers[-1]
    assert (last.name, last.target_kernel[0], last.pretrain_kernel[0]) == ("fc4", *interface)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (overfeat_small, {"image_px": 7}, r"^image_px=7 is too small: nothing is left of it at conv3"),
        (overfeat_small, {"widths": [8]}, r"model\.widths must be the channels of 3 convolutions; got \[8\]"),
        (resnet_small, {"blocks": 0}, r"model\.blocks must be at least 1; got 0"),
        (resnet_small, {"widths": []}, r"model\.widths must name the channels of at least one group"),
    ],
)
def test_arguments_that_make_no_network_are_refused(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**options)


def test_resnet_takes_images_of_other_channels() -> None:
    network = resnet18(num_classes=10, in_channels=1)
    stem = network.get_parameter("conv1.weight").detach()
    assert stem.shape == (64, 1, 7, 7)
    assert stem.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)  # torchvision: fan out
    assert network.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_resnet_small_shrinks_with_all_shortcuts() -> None:
    target = resnet_small(num_classes=10)
    shrunk = shrink(target, 28)
    assert shrunk.image_px == 20
    assert set(_sides(shrunk)) == {(28, 20), (28, 19), (14, 11), (14, 10), (14, 9), (7, 6), (7, 5), (7, 4)}
    assert shrunk.network(torch.randn(2, 1, 20, 20)).shape == (2, 10)
    assert sum(isinstance(module, nn.Conv2d) for module in target.modules()) == 1 + 3 * 2 * 2 + 2
    assert rescale(shrunk.network, target)(torch.randn(2, 1, 28, 28)).shape == (2, 10)


# From the configuration.


SMALL = "rescaler.models.overfeat_small"
USERS_NETS = """
from torch import nn
def net(num_classes, in_channels, width): return nn.Conv2d(in_channels, num_classes, width)
constant = 3
class Fixed(nn.Conv2d):
    def __init__(self): super().__init__(3, 5, 3)
def any_channels(in_channels): return nn.Conv2d(in_channels, 5, 3)
def typo(num_classes, in_channels): return nn.Conv2d(in_channels, num_classes, 3, strid=2)
def blocks(num_classes, in_channels, act, norm_layer, widths):
    assert type(widths) is list
    return nn.Sequential(nn.Conv2d(in_channels, widths[0], 3), norm_layer(widths[0]), act)
"""


@pytest.fixture(autouse=True)
def _users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Modules of the user's."""
    for name, text in {
        "users_nets": USERS_NETS,
        "users_mistakes": "def net(num_classes):\n    return Conv2d(\n",
        "users_crash": "table = {}\ntable[3]\n",
        "users_exit": "import argparse\n\nraise SystemExit(2)\n",
        "users_import": "import no_such_package\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("users_nets", None)


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({"_target_": "users_nets.net", "width": 3}, 2),
        ({"_target_": "users_nets.Fixed"}, 3),
        ({"_target_": "users_nets.any_channels"}, 2),
    ],
    ids=str,
)
def test_build_passes_the_arguments_that_the_function_takes(options: dict[str, Any], channels: int) -> None:
    assert build(options, classes=5, channels=channels).get_parameter("weight").shape == (5, channels, 3, 3)


def test_nested_targets_reach_the_network_as_objects() -> None:
    options = {
        "_target_": "users_nets.blocks",
        "act": {"_target_": "torch.nn.ReLU", "inplace": True},
        "norm_layer": {"_target_": "torch.nn.BatchNorm2d", "_partial_": True, "eps": 0.5},
        "widths": [6, 7],
    }
    _, norm, act = build(options, classes=5, channels=2).children()
    assert isinstance(act, nn.ReLU)
    assert isinstance(norm, nn.BatchNorm2d)
    assert (act.inplace, norm.eps, norm.num_features) == (True, 0.5, 6)


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet"])
def test_build_torchvisions_own(name: str) -> None:
    options: dict[str, Any] = {"init_weights": False} if name == "googlenet" else {}
    options["image_px"] = 64  # of the default model, where only `_target_` is overridden
    network = build({"_target_": f"torchvision.models.{name}", **options}, classes=7, channels=3)
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        (None, {}, r"model\._target_ must be an import path; got None; ours: rescaler\.models\."),
        ("rescaler.models.alexnet", {}, r"model\._target_=.*\.alexnet cannot be imported .* ours:"),
        ("users_mistakes.net", {}, r"=users_mistakes\.net cannot be imported \(.* \(users_mistakes.py, line 2\)"),
        ("users_crash.net", {}, r"imported \(KeyError: 3 \(users_crash.py, line 2\)\)"),
        ("users_exit.net", {}, r"imported \(SystemExit: 2 \(users_exit.py, line 3\)\)"),
        ("users_import.net", {}, r"imported \(No module named 'no_such_package' \(users_import.py, line 1\)\)"),
        ("users_nets.constant", {}, "is no function or class; ours: rescaler"),
        (SMALL, {"width": 3}, rf"model\._target_={SMALL}: fails .* unexpected keyword argument 'width'"),
        (SMALL, {"hidden": {"_target_": "torch.nn.Nothing"}}, rf"={SMALL}: model\.hidden fails: .*torch\.nn\.Nothing"),
        (SMALL, {"num_classes": 3}, r"model\.num_classes follows from data\.classes: set that; got 3"),
        (SMALL, {"dropout": 2}, "fails with the arguments .*'dropout': 2.*: dropout probability .* between 0 and 1"),
        (SMALL, {"image_px": 3}, "^image_px=3 is too small"),
        (
            "torch.nn.Sequential",
            {"_args_": [{"_target_": "torch.nn.ReLU", "inplace": "???"}]},
            r"model\._args_\[0\]\.inplace fails: .* mandatory value",
        ),
        ("os:mkdir", {"path": "made"}, r"must make a torch\.nn\.Module; it is of Python's own library; ours: "),
        ("shutil.rmtree", {"path": "made"}, r"must make a torch\.nn\.Module; it is of Python's own library; ours: "),
        ("rescaler.errors.one_line", {"error": 1}, r"must make a torch\.nn\.Module; it made a str; ours: "),
        ("users_nets.net", {}, "users_nets.net: fails with the arguments .*'width'"),
        ("users_nets.typo", {}, "users_nets.typo: fails with the arguments .*'strid'"),
        (
            "torchvision.models.resnet18",
            {},
            r"^model\._target_=torchvision\.models\.resnet18 makes a network for images of 3 channels, but "
            r"data\.channels=1: choose other data, or name a function of your own that takes in_channels$",
        ),
    ],
)
def test_build_refuses(target: str | None, arguments: dict[str, Any], message: str) -> None:
    options = {"_target_": target, **arguments} if target else arguments
    with pytest.raises(InputError, match=message):
        build(options, classes=10, channels=1)


# Auxiliary classifiers.


def test_auxiliary_losses_count_three_tenths() -> None:
    """Equal scores of c classes lose ln(c) each."""
    labels = torch.tensor([0, 1])
    scores = [torch.zeros(2, 4), torch.full((2, 4), 2.0), torch.ones(2, 4)]
    loss, main = loss_and_scores(tuple(scores), labels)
    assert loss.item() == pytest.approx(1.6 * math.log(4))
    assert main is scores[0]
    loss, main = loss_and_scores(scores[0], labels)
    assert loss.item() == pytest.approx(math.log(4))
    assert main is scores[0]


def test_class_weights_multiply_the_loss_of_each_image() -> None:
    """Equal scores of 4 classes lose ln(4) each; the mean is over images, so halves of a batch add up."""
    scores, weights = torch.zeros(4, 4), torch.tensor([0.5, 3.0, 1.0, 1.0])
    labels = torch.tensor([0, 0, 1, 1])
    whole, first, second = (
        loss_and_scores(scores[part], labels[part], class_weights=weights)[0].item()
        for part in (slice(4), slice(2), slice(2, 4))
    )
    assert [first, second] == pytest.approx([0.5 * math.log(4), 3 * math.log(4)])
    assert whole == pytest.approx((first + second) / 2)
    shares = torch.nn.functional.one_hot(labels, 4).float()
    assert loss_and_scores(scores, shares, class_weights=weights)[0].item() == pytest.approx(whole)


@pytest.mark.parametrize("output", [{"out": torch.zeros(2, 4)}, (), (torch.zeros(2, 4), None)], ids=str)
def test_outputs_that_are_no_scores_are_refused(output: object) -> None:
    with pytest.raises(InputError, match=f"a tuple of scores and auxiliary scores; got a {type(output).__name__}"):
        loss_and_scores(output, torch.tensor([0, 1]))


# After a rescale the network follows the small one's scores for some batches.


class Mean(nn.Module):
    """Scores of an image are multiples of its mean, whatever its size; in training they are noise."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = images.mean((1, 2, 3))[:, None] * torch.arange(3.0)
        return torch.rand_like(scores) if self.training else scores


def test_loss_is_the_mean_of_the_labels_and_the_divergence_from_the_teacher() -> None:
    torch.manual_seed(0)
    images, scores, labels = torch.rand(4, 1, 8, 8), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    teacher, loss = Teacher(Mean(), 4), torch.nn.functional.cross_entropy(scores, labels)
    wanted, given = torch.softmax(Mean().eval()(images) / 2, dim=1), torch.softmax(scores / 2, dim=1)
    divergence = (wanted * (wanted / given).log()).sum(1).mean()  # Kullback and Leibler's
    found = teacher.distill(loss, scores, images)
    torch.testing.assert_close(found, 0.5 * loss + 0.5 * 4 * divergence, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(teacher.distill(loss, Mean().eval()(images), images), 0.5 * loss, rtol=1e-3, atol=1e-4)


def test_only_what_follows_the_rescale_learns_from_the_small_network(
    bench: Bench, make_experiment: MakeExperiment
) -> None:
    plain, taught = (
        bench.train(make_experiment(rescale__distill_batches=count, schedule__epochs=4, resize_epoch=3))
        for count in (0, 2)
    )
    assert [one.key for one in taught[:3]] == [one.key for one in plain[:3]]
    assert taught[3].train_loss != plain[3].train_loss


# The digest of a network's code.

HELPER = """
def width():
    return 3
"""
NET = """
'''Networks.'''
from torch import nn
from users_layers import width

class Mine(nn.Conv2d):
    '''A convolution.'''
    def forward(self, x):
        return super().forward(x) * 2

def net(num_classes, act=None):
    return nn.Sequential(Mine(3, num_classes, width()), *([act] if act else []))
"""


def digest_of(folder: Path, options: dict[str, Any], hash_seed: int = 0, **files: str) -> list[Any]:
    """Digest and names without source, in another process, of a network made by files in a folder."""
    folder.mkdir()
    for name, text in {"users_layers": HELPER, "users_net": NET, **files}.items():
        (folder / f"{name}.py").write_text(text)
    code = (
        "import json; from rescaler.models.factory import build, code_digest\n"
        f"options = {options!r}\n"
        "print(json.dumps(code_digest(build(options, classes=5, channels=3), options)))"
    )
    env = os.environ | {"PYTHONPATH": str(folder), "PYTHONHASHSEED": str(hash_seed)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    found: list[Any] = json.loads(done.stdout)
    return found


def test_the_digest_of_code_ignores_comments_and_docstrings(tmp_path: Path) -> None:
    options = {"_target_": "users_net.net"}
    commented = NET.replace("return super", "# a comment\n\n        return super").replace("Networks.", "Other.")
    changes: list[dict[str, str]] = [
        {},
        {"users_net": commented},
        {"users_net": NET.replace("* 2", "* 3")},
        {"users_layers": HELPER.replace("3", "5")},
    ]
    found = [digest_of(tmp_path / str(n), options, n, **change) for n, change in enumerate(changes)]
    assert all(hidden == [] for _, hidden in found)
    assert found[0] == found[1]
    assert len({digest for digest, _ in found}) == 3


def test_the_digest_of_code_covers_nested_targets_and_lists_objects_without_source(tmp_path: Path) -> None:
    act = "from torch import nn\ndef make():\n    return nn.ReLU()\n"
    options = {"_target_": "users_net.net", "act": {"_target_": "users_act.make"}}
    changed = [
        digest_of(tmp_path / str(n), options, users_act=act.replace("nn.ReLU()", made))[0]
        for n, made in enumerate(("nn.ReLU()", "nn.ReLU(True)"))
    ]
    assert changed[0] != changed[1]
    for path in ("rescaler.models.resnet18", "torchvision.models.alexnet"):
        assert code_digest(build({"_target_": path}, classes=5, channels=3), {"_target_": path}) == ("", ())
    made: dict[str, Any] = {"__name__": "typed_in"}
    exec("from torch import nn\nclass Typed(nn.Identity): ...", made)
    assert code_digest(made["Typed"](), {"_target_": "torch.nn.Identity"}) == ("", ("typed_in.Typed",))
