import pytest
import torch
from torch import Tensor, nn

from rescaler.training.optimizer import SGD, Average


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))


def gradients(net: nn.Module, step: int) -> None:
    net.zero_grad()
    images = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(step))
    net(images).square().mean().backward()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, False), (0.9, True), (0.0, False)])
def test_it_is_torchs_sgd(fused: bool, momentum: float, nesterov: bool) -> None:
    ours, theirs = network(), network()
    weights = list(ours.parameters())
    buffers = [torch.zeros_like(weight) for weight in weights] if momentum else []
    optimizer = SGD(weights, buffers, coefficient=momentum, nesterov=nesterov, weight_decay=1e-2, fused=fused)
    wanted = torch.optim.SGD(
        theirs.parameters(), lr=1.0, momentum=momentum, nesterov=nesterov, weight_decay=1e-2, fused=fused
    )
    for step, rate in enumerate((0.1, 0.1, 0.05)):
        for net in (ours, theirs):
            gradients(net, step)
        optimizer.learning_rate = wanted.param_groups[0]["lr"] = rate
        optimizer.step()
        wanted.step()
    for ours_, theirs_ in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(ours_, theirs_)


def test_a_weight_without_a_gradient_stays() -> None:
    used, unused = (nn.Parameter(torch.ones(2)) for _ in range(2))
    used.sum().backward()  # type: ignore[no-untyped-call]
    optimizer = SGD([used, unused], weight_decay=0.5)
    optimizer.learning_rate = 0.1
    optimizer.step()
    assert torch.allclose(used, torch.full((2,), 1 - 0.1 * 1.5))
    assert torch.equal(unused, torch.ones(2))


@pytest.mark.parametrize("fused", [True, False])
def test_a_scaled_loss_makes_the_same_step_and_an_infinite_gradient_none(fused: bool) -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = SGD([weight], [torch.zeros(2)], coefficient=0.9, fused=fused)
    optimizer.learning_rate = 0.5
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    def step(factor: float) -> Tensor:
        weight.grad = None
        scaler.scale((factor * weight).sum()).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)  # type: ignore[arg-type]
        scaler.update()
        return weight.detach().clone()

    assert torch.equal(step(1.0), torch.tensor([0.5, 1.5]))
    assert torch.equal(step(float("inf")), torch.tensor([0.5, 1.5]))
    assert scaler.get_scale() == 4.0
    assert torch.allclose(step(0.0), torch.tensor([0.5 - 0.45, 1.5 - 0.45])), "the momentum was not touched"


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
