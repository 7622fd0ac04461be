import functools
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rescaler.errors import InputError
from rescaler.probe import Candidate, Setting, Spread, Step, measure, ratios

CPU = torch.device("cpu")


class Counting(nn.Module):
    """A small network that takes a while for each batch and keeps the order in which networks are called."""

    calls: list[str] = []

    def __init__(self, name: str, seconds: float = 0.0) -> None:
        super().__init__()
        self.name, self.seconds = name, seconds
        self.conv = nn.Conv2d(3, 4, 3)
        self.seen: set[tuple[Any, ...]] = set()

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(self.seconds)
        self.calls.append(self.name)
        output: Tensor = self.conv(images)
        self.seen.add(
            (images.shape, output.dtype, images.is_contiguous(memory_format=torch.channels_last), self.training)
        )
        return output.mean((2, 3))


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn is one step."""
    monkeypatch.setattr("rescaler.probe._ROUND_S", 0)
    Counting.calls.clear()


def candidate(network: nn.Module, image_px: int = 8) -> Candidate:
    return Candidate(network, image_px, channels=3, classes=4)


def test_the_slower_network_is_found_slower() -> None:
    slow, fast = Counting("slow", 0.05), Counting("fast")
    steps = measure({"slow": candidate(slow), "fast": candidate(fast)}, Setting(), device=CPU, batch_size=2, rounds=3)
    assert {name: len(rounds) for name, rounds in steps.items()} == {"slow": 3, "fast": 3}
    assert ratios(steps["slow"], steps["fast"]).low > 1
    assert all(step.forward_s >= 0.05 for step in steps["slow"])


def test_networks_take_turns_and_change_who_begins() -> None:
    networks = {name: candidate(Counting(name)) for name in ("a", "b")}
    measure(networks, Setting(), device=CPU, batch_size=2, rounds=3)
    turns = Counting.calls[-6:]
    assert turns == ["a", "b", "b", "a", "a", "b"]


def test_no_round_begins_after_the_budget_but_three_are_made() -> None:
    steps = measure({"a": candidate(Counting("a"))}, Setting(), device=CPU, batch_size=2, rounds=50, budget_s=0)
    assert len(steps["a"]) == 3


@pytest.mark.parametrize(
    ("setting", "dtype", "channels_last"),
    [
        (Setting(), torch.float32, True),
        (Setting("bf16", "contiguous"), torch.bfloat16, False),
        (Setting("fp32", "contiguous"), torch.float32, False),
    ],
)
def test_the_setting_is_what_is_computed(setting: Setting, dtype: torch.dtype, channels_last: bool) -> None:
    network = Counting("a")
    measure({"a": candidate(network)}, setting, device=CPU, batch_size=2, rounds=1)
    assert network.seen == {((2, 3, 8, 8), dtype, channels_last, True)}


def test_compiled_networks_are_compiled_for_their_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[int, ...]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled.extend(tuple(value.shape) for value in inputs if value.dim() == 4 and len(value) == 2)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    networks = {str(px): candidate(nn.Sequential(nn.Conv2d(3, 4, px), nn.Flatten()), px) for px in (8, 12)}
    for _ in range(2):
        measure(networks, Setting(compiled=True), device=CPU, batch_size=2, rounds=1)
    assert compiled == [(2, 3, 8, 8), (2, 3, 12, 12)] * 2, "neither for any size, nor left over from the first time"


def test_weights_stay_and_every_step_computes_gradients() -> None:
    network = Counting("a")
    before = network.conv.weight.clone()
    measure({"a": candidate(network)}, Setting(), device=CPU, batch_size=2, rounds=1)
    assert torch.equal(network.conv.weight, before)
    assert network.conv.weight.grad is not None


def test_float32_settings_of_torch_are_put_back() -> None:
    backends = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for precision in ("fp32", "tf32"):
        measure({"a": candidate(Counting("a"))}, Setting(precision), device=CPU, batch_size=2, rounds=1)
    assert [backend.fp32_precision for backend in backends] == before


def test_too_little_memory_is_one_line() -> None:
    class Greedy(Counting):
        def forward(self, images: Tensor) -> Tensor:
            raise torch.OutOfMemoryError(f"wanted {len(images)} more\nand much else")

    with pytest.raises(InputError, match="too small for batches of 2 images: wanted 2 more$"):
        measure({"a": candidate(Greedy("a"))}, Setting(), device=CPU, batch_size=2)


def test_progress_is_told() -> None:
    told: list[str] = []
    measure({"a": candidate(Counting("a"))}, Setting(), device=CPU, batch_size=2, rounds=2, progress=told.append)
    assert told == ["warming up a", "round 1 of 2", "round 2 of 2"]


def test_ratios_are_by_round() -> None:
    large, small = [Step(2, 4, 0), Step(4, 8, 0)], [Step(1, 2, 0), Step(1, 1, 0)]
    assert ratios(large, small) == Spread(4, 2, 6)
    assert ratios(large, small, "forward_s") == Spread(3, 2, 4)
    assert Step(1, 2, 3).step_s == 6


def test_a_spread_is_median_and_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["default", "fp32", "tf32", "bf16", "fp16"])
def test_cuda_is_timed_by_its_own_clock(precision: Any) -> None:
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Flatten(), nn.LazyLinear(4))
    network(torch.empty(1, 3, 64, 64))
    steps = measure(
        {"a": candidate(network, 64)}, Setting(precision), device=torch.device("cuda"), batch_size=8, rounds=3
    )
    assert all(0 < part < 1 for step in steps["a"] for part in step)
