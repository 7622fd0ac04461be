import copy
import math
from typing import Any

import pytest
import torch
from bench import RESNET, Bench
from conftest import MakeExperiment
from test_train import Ending, digests
from torch import Tensor, nn

from rescaler import shrink
from rescaler.config import OptimSettings, StepSettings
from rescaler.errors import InputError
from rescaler.method.kernels import rescale_kernel
from rescaler.optim import (
    Average,
    Update,
    load_state_tensors,
    make_optimizer,
    rescale_optimizer,
    rescale_state,
    state_tensors,
)

ADAMW = {"_target_": "torch.optim.AdamW", "betas": [0.9, 0.99]}
RMSPROP = {"_target_": "torch.optim.RMSprop", "momentum": 0.5}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))


def gradients(net: nn.Module, step: int) -> None:
    net.zero_grad()
    images = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(step))
    net(images).square().mean().backward()


def update_of(net: nn.Module, implementation: str = "fused", **options: Any) -> Update:
    settings = OptimSettings.of(options)
    return Update(make_optimizer(net, settings, StepSettings(optimizer=implementation)), settings)


@pytest.mark.parametrize("implementation", ["fused", "foreach"])
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"momentum": 0.9, "nesterov": True}, torch.optim.SGD),
        ({"_target_": "torch.optim.SGD"}, torch.optim.SGD),
        (ADAMW, torch.optim.AdamW),
        (RMSPROP, torch.optim.RMSprop),
    ],
)
def test_it_is_torchs_own(implementation: str, options: dict[str, Any], wanted: Any) -> None:
    ours, theirs = network(), network()
    update = update_of(ours, implementation, **options)
    arguments = {name: value for name, value in options.items() if name != "_target_"}
    known = {implementation: True} if wanted is not torch.optim.RMSprop or implementation == "foreach" else {}
    optimizer = wanted(theirs.parameters(), lr=1.0, weight_decay=1e-2, **arguments, **known)
    for step, rate in enumerate((0.1, 0.1, 0.05)):
        for net in (ours, theirs):
            gradients(net, step)
        optimizer.param_groups[0]["lr"] = rate
        update(rate, 1e-2, step)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_weight_without_a_gradient_stays() -> None:
    net = nn.Linear(2, 2)
    before = net.bias.detach().clone()
    net.weight.sum().backward()  # type: ignore[no-untyped-call]
    update_of(net, momentum=0.0)(0.1, 0.5, 1)
    assert torch.equal(net.bias, before)


def test_norms_and_biases_do_not_decay_where_asked() -> None:
    net = network()
    before = {name: tensor.detach().clone() for name, tensor in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    update_of(net, no_decay="norm_and_bias", momentum=0.0)(0.1, 0.5, 1)
    for name, tensor in net.named_parameters():
        torch.testing.assert_close(tensor, before[name] * (0.95 if tensor.dim() > 1 else 1.0))


def test_groups_have_learning_rates_and_arguments_of_their_own() -> None:
    net = network()
    before = {name: tensor.detach().clone() for name, tensor in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    groups = {"3.*": {"lr_factor": 0.1}, "*.bias": {"lr_factor": 0.5, "momentum": 0.3}}
    update = update_of(net, groups=groups, lr_factor=2.0)
    update(0.1, 0.0, 1)
    for name, tensor in net.named_parameters():
        factor = (0.1 if name.startswith("3.") else 1.0) * (0.5 if name.endswith(".bias") else 1.0)
        torch.testing.assert_close(before[name] - tensor, torch.full_like(tensor, 0.2 * factor))
    with pytest.raises(InputError, match=r"optim.groups: 'conv\*' fits no parameter of the network"):
        update_of(net, groups={"conv*": {"lr_factor": 0.1}})


def test_clipped_gradients_have_the_norm_asked_for() -> None:
    net = nn.Linear(3, 1, bias=False)
    before = net.weight.detach().clone()
    net.weight.grad = torch.tensor([[3.0, 0.0, 4.0]])
    update_of(net, clip_norm=1.0, momentum=0.0)(1.0, 0.0, 1)
    torch.testing.assert_close(before - net.weight, torch.tensor([[0.6, 0.0, 0.8]]))


@pytest.mark.parametrize("implementation", ["fused", "foreach"])
def test_a_scaled_loss_makes_the_same_step_and_an_infinite_gradient_none(implementation: str) -> None:
    net = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 2.0]]))
    settings = OptimSettings()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    update = Update(make_optimizer(net, settings, StepSettings(optimizer=implementation)), settings, scaler)

    def step(factor: float) -> Tensor:
        update.zero_grad()
        scaler.scale((factor * net.weight).sum()).backward()  # type: ignore[no-untyped-call]
        update(0.5, 0.0, 1)
        return net.weight.detach().clone()

    assert torch.equal(step(1.0), torch.tensor([[0.5, 1.5]]))
    assert torch.equal(step(float("inf")), torch.tensor([[0.5, 1.5]]))
    assert scaler.get_scale() == 4.0
    assert torch.allclose(step(0.0), torch.tensor([[0.5 - 0.45, 1.5 - 0.45]])), "the momentum was not touched"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"_target_": "torch.optim.Adamm"}, "optim._target_=torch.optim.Adamm cannot be imported .*Adamm"),
        ({"_target_": "torch.optim.AdamW", "momentum": 0.9}, "optim._target_=torch.optim.AdamW: .*'momentum'"),
        ({"_target_": "torch.optim.AdamW", "betas": [2, 0.9]}, "Invalid beta parameter"),
        (
            {"_target_": "torch.nn.ReLU"},
            "optim._target_=torch.nn.ReLU must make .*Optimizer; it made a ReLU",
        ),
    ],
)
def test_what_is_no_optimizer_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_optimizer(network(), OptimSettings.of(options), StepSettings())


class Notes(torch.optim.SGD):
    """A third party's, which keeps numbers beside its tensors."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        for group in self.param_groups:
            group["distance"] = group.get("distance", 0.5) * 0.9
            for parameter in group["params"]:
                self.state[parameter]["count"] = self.state[parameter].get("count", 0) + 1


@pytest.mark.parametrize("target", ["torch.optim.SGD", "torch.optim.AdamW", "torch.optim.NAdam", f"{__name__}.Notes"])
def test_state_comes_back_from_its_tensors(target: str) -> None:
    options: dict[str, Any] = {"_target_": target} | ({"momentum": 0.9} if "dam" not in target else {})
    one = network()
    update = update_of(one, **options)
    for step in range(2):
        gradients(one, step)
        update(0.1, 0.0, step)
    two = copy.deepcopy(one)
    settings = OptimSettings.of(options)
    again = make_optimizer(two, settings, StepSettings())
    load_state_tensors(again, two, state_tensors(update._optimizer, one))
    for net, each in ((one, update), (two, Update(again, settings))):
        gradients(net, 5)
        each(0.1, 0.0, 5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    before, after = state_tensors(update._optimizer, one), state_tensors(again, two)
    assert all(torch.equal(before[name], after[name]) for name in before.keys() | after.keys())


def test_means_of_gradients_are_resized_and_means_of_squares_by_the_square() -> None:
    target = nn.Sequential(
        nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(400, 3)
    )
    pretrain = shrink(target, image_px=10, channels=1).network
    small, large = pretrain.get_parameter("0.weight"), target.get_parameter("0.weight")
    state = {
        "0.weight.exp_avg": torch.randn_like(small),
        "0.weight.exp_avg_sq": torch.rand_like(small),
        "0.weight.step": torch.tensor(7.0),
        "2.weight.exp_avg_sq": torch.rand(4, 4, 1, 1),
        "4.weight.odd": torch.zeros_like(pretrain.get_parameter("4.weight")),
        "4.weight.step": torch.tensor(7.0),
        "#0.distance#": torch.tensor(0.5),
    }
    grown = rescale_state(state, pretrain, target, "bilinear")
    size, gain = (5, 5), small.numel() / large.numel()
    torch.testing.assert_close(grown["0.weight.exp_avg"], rescale_kernel(state["0.weight.exp_avg"], size))
    torch.testing.assert_close(grown["0.weight.exp_avg_sq"], gain * rescale_kernel(state["0.weight.exp_avg_sq"], size))
    assert (grown["0.weight.exp_avg_sq"] >= 0).all()
    assert torch.equal(grown["2.weight.exp_avg_sq"], state["2.weight.exp_avg_sq"])
    assert grown["0.weight.step"] == 7
    assert grown.keys() == state.keys() - {"4.weight.odd", "4.weight.step"}, "unknown state starts anew"


def test_an_optimizer_moves_to_the_target_with_its_groups_its_state_and_other_parameters() -> None:
    target, other = network(), nn.Parameter(torch.ones(3))
    pretrain = shrink(target, image_px=6).network
    groups: list[dict[str, Any]] = [{"params": list(pretrain.parameters()), "lr": 0.5}, {"params": [other]}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    pretrain(torch.randn(8, 1, 4, 4)).square().sum().backward()
    other.grad = torch.ones(3)
    optimizer.step()
    kernel, scale = (pretrain.get_parameter(name).grad for name in ("0.weight", "1.weight"))
    assert kernel is not None
    rescale_optimizer(optimizer, pretrain, target)
    found = {name: optimizer.state[parameter]["momentum_buffer"] for name, parameter in target.named_parameters()}
    torch.testing.assert_close(found["0.weight"], rescale_kernel(kernel, (3, 3)))
    torch.testing.assert_close(found["1.weight"], scale)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1]
    assert {*optimizer.state} == {*target.parameters(), other}
    with pytest.raises(InputError, match="the optimizer has no parameter of the pre-train network"):
        rescale_optimizer(optimizer, pretrain, target)
    with pytest.raises(InputError, match="must have the same parameters; not in both: 0.bias, 0.weight"):
        rescale_optimizer(optimizer, target, nn.DataParallel(target))


@pytest.mark.parametrize("optimizer", [ADAMW, RMSPROP], ids=["adamw", "rmsprop"])
@pytest.mark.parametrize(("precision", "chance"), [("fp32", 3), ("fp16", 21)])
def test_any_optimizer_resumes_to_the_same_bits(
    bench: Bench, other: Bench, make_experiment: MakeExperiment, optimizer: dict[str, Any], precision: str, chance: int
) -> None:
    options = {**optimizer, "batch_size": 16, "ema_decay": 0.9, "lr_factor": 0.1, "clip_norm": 1.0}
    experiment = make_experiment(model=RESNET, step__precision=precision, optim=OptimSettings.of(options))
    with pytest.raises(KeyboardInterrupt):
        bench.train(experiment, saver=Ending(bench.ledger, chance))
    resumed, whole = bench.train(experiment), other.train(experiment)
    assert digests(resumed) == digests(whole)
    assert all(math.isfinite(record.train_loss) for record in whole)


def test_the_average_forgets_as_fast_as_its_decay_says_and_faster_at_first() -> None:
    averaged, net = (nn.BatchNorm1d(1) for _ in range(2))
    with torch.no_grad():
        net.weight.fill_(3.0)
        net.running_mean.fill_(6.0)  # type: ignore[union-attr]
    net.num_batches_tracked.fill_(5)  # type: ignore[union-attr]
    average = Average(averaged, net, decay=0.9)
    average.update(1000)
    assert averaged.weight.item() == pytest.approx(0.9 * 1 + 0.1 * 3)
    assert averaged.running_mean.item() == pytest.approx(0.1 * 6)  # type: ignore[union-attr]
    assert averaged.num_batches_tracked == 5
    with torch.no_grad():
        averaged.weight.fill_(1.0)
    average.update(2)  # (1 + 2) / (10 + 2): a quarter is kept
    assert averaged.weight.item() == pytest.approx(0.25 * 1 + 0.75 * 3)


def test_tied_weights_are_averaged_once() -> None:
    layer, averaged = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        averaged.weight.fill_(1.0)
    Average(nn.Sequential(averaged, averaged), nn.Sequential(layer, layer), decay=0.5).update(1000)
    assert averaged.weight.item() == 1.5
