import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import CompileWith, MakeExperiment
from torch import Tensor, nn

from rescaler.chain import Recipe
from rescaler.config import StepSettings
from rescaler.errors import InputError
from rescaler.measuring import Spread
from rescaler.training.probe import Candidate, measure, step_recipe

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
    monkeypatch.setattr("rescaler.training.probe._ROUND_S", 0)
    Counting.calls.clear()


@pytest.fixture
def recipe(make_experiment: MakeExperiment) -> Callable[..., Recipe]:
    """How to compute steps of two images, by the settings of ``step``."""

    def make(**step: Any) -> Recipe:
        experiment = make_experiment(optim__batch_size=2, step=StepSettings(**step))
        return step_recipe(experiment, "cpu")

    return make


MakeRecipe = Callable[..., Recipe]


def candidate(network: nn.Module, image_px: int = 8) -> Candidate:
    return Candidate(network, image_px, channels=3, classes=4)


def test_the_slower_network_is_found_slower(recipe: MakeRecipe) -> None:
    slow, fast = Counting("slow", 0.05), Counting("fast")
    steps = measure({"slow": candidate(slow), "fast": candidate(fast)}, recipe(), device=CPU, rounds=3)
    assert {name: len(rounds) for name, rounds in steps.items()} == {"slow": 3, "fast": 3}
    assert Spread.of_ratios(steps["slow"], steps["fast"]).low > 1
    assert all(step_s >= 0.05 for step_s in steps["slow"])


def test_networks_take_turns_and_change_who_begins(recipe: MakeRecipe) -> None:
    networks = {name: candidate(Counting(name)) for name in ("a", "b")}
    measure(networks, recipe(), device=CPU, rounds=3)
    turns = Counting.calls[-6:]
    assert turns == ["a", "b", "b", "a", "a", "b"]


def test_no_round_begins_after_the_budget_but_three_are_made(recipe: MakeRecipe) -> None:
    steps = measure({"a": candidate(Counting("a"))}, recipe(), device=CPU, rounds=50, budget_s=0)
    assert len(steps["a"]) == 3


@pytest.mark.parametrize(
    ("step", "images", "dtype", "channels_last"),
    [
        ({}, 2, torch.float32, True),
        ({"precision": "bf16", "memory_format": "contiguous"}, 2, torch.bfloat16, False),
        ({"precision": "fp16"}, 2, torch.float16, True),
        ({"precision": "fp32", "memory_format": "contiguous", "micro_batch_size": 1}, 1, torch.float32, False),
    ],
)
def test_the_settings_are_what_is_computed(
    recipe: MakeRecipe, step: dict[str, Any], images: int, dtype: torch.dtype, channels_last: bool
) -> None:
    network = Counting("a")
    measure({"a": candidate(network)}, recipe(**step), device=CPU, rounds=1)
    assert network.seen == {((images, 3, 8, 8), dtype, channels_last, True)}


def test_compiled_networks_are_compiled_for_their_own_size(recipe: MakeRecipe, compile_with: CompileWith) -> None:
    compiled: list[tuple[int, ...]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled.extend(tuple(value.shape) for value in inputs if value.dim() == 4 and len(value) == 2)
        return graph.forward

    compile_with(backend)
    networks = {str(px): candidate(nn.Sequential(nn.Conv2d(3, 4, px), nn.Flatten()), px) for px in (8, 12)}
    for _ in range(2):
        measure(networks, recipe(compile=True), device=CPU, rounds=1)
    assert compiled == [(2, 3, 8, 8), (2, 3, 12, 12)] * 2, "neither for any size, nor left over from the first time"


def test_weights_stay_and_every_step_computes_gradients(recipe: MakeRecipe) -> None:
    network = Counting("a")
    before = network.conv.weight.clone()
    measure({"a": candidate(network)}, recipe(), device=CPU, rounds=1)
    assert torch.equal(network.conv.weight, before)
    assert network.conv.weight.grad is not None


def test_too_little_memory_is_one_line(recipe: MakeRecipe) -> None:
    class Greedy(Counting):
        def forward(self, images: Tensor) -> Tensor:
            raise torch.OutOfMemoryError(f"wanted {len(images)} more\nand much else")

    with pytest.raises(InputError, match="too small for batches of 2 images: wanted 2 more$"):
        measure({"a": candidate(Greedy("a"))}, recipe(), device=CPU)


def test_progress_is_told(recipe: MakeRecipe) -> None:
    told: list[str] = []
    measure({"a": candidate(Counting("a"))}, recipe(), device=CPU, rounds=2, progress=told.append)
    assert told == ["warming up a", "round 1 of 2", "round 2 of 2"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["default", "fp32", "tf32", "bf16", "fp16"])
def test_cuda_is_waited_for(make_experiment: MakeExperiment, precision: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Flatten(), nn.LazyLinear(4))
    network(torch.empty(1, 3, 64, 64))
    asked = step_recipe(make_experiment(step__precision=precision), "cuda")
    steps = measure({"a": candidate(network, 64)}, asked, device=torch.device("cuda"), rounds=3)
    assert all(0 < step_s < 1 for step_s in steps["a"])
