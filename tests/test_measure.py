"""Timing of training steps and of loading."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CompileWith, MakeExperiment
from image_tree import plant
from torch import Tensor, nn

from rescaler import measure
from rescaler.chain import Recipe
from rescaler.config import DataSettings, StepSettings
from rescaler.data.order import EpochImages
from rescaler.errors import InputError
from rescaler.measure import Candidate, Spread, batch_loading_s, step_recipe, time_steps
from rescaler.method import height_width

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
    monkeypatch.setattr("rescaler.measure._ROUND_S", 0)
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
    steps = time_steps({"slow": candidate(slow), "fast": candidate(fast)}, recipe(), device=CPU, rounds=3)
    assert {name: len(rounds) for name, rounds in steps.items()} == {"slow": 3, "fast": 3}
    assert Spread.of_ratios(steps["slow"], steps["fast"]).low > 1
    assert all(step_s >= 0.05 for step_s in steps["slow"])


def test_networks_take_turns_and_change_who_begins(recipe: MakeRecipe) -> None:
    networks = {name: candidate(Counting(name)) for name in ("a", "b")}
    time_steps(networks, recipe(), device=CPU, rounds=3)
    turns = Counting.calls[-6:]
    assert turns == ["a", "b", "b", "a", "a", "b"]


def test_no_round_begins_after_the_budget_but_three_are_made(recipe: MakeRecipe) -> None:
    steps = time_steps({"a": candidate(Counting("a"))}, recipe(), device=CPU, rounds=50, budget_s=0)
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
    time_steps({"a": candidate(network)}, recipe(**step), device=CPU, rounds=1)
    assert network.seen == {((images, 3, 8, 8), dtype, channels_last, True)}


def test_compiled_networks_are_compiled_for_their_own_size(recipe: MakeRecipe, compile_with: CompileWith) -> None:
    compiled: list[tuple[int, ...]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled.extend(tuple(value.shape) for value in inputs if value.dim() == 4 and len(value) == 2)
        return graph.forward

    compile_with(backend)
    networks = {str(px): candidate(nn.Sequential(nn.Conv2d(3, 4, px), nn.Flatten()), px) for px in (8, 12)}
    for _ in range(2):
        time_steps(networks, recipe(compile=True), device=CPU, rounds=1)
    assert compiled == [(2, 3, 8, 8), (2, 3, 12, 12)] * 2, "neither for any size, nor left over from the first time"


def test_weights_stay_and_every_step_computes_gradients(recipe: MakeRecipe) -> None:
    network = Counting("a")
    before = network.conv.weight.clone()
    time_steps({"a": candidate(network)}, recipe(), device=CPU, rounds=1)
    assert torch.equal(network.conv.weight, before)
    assert network.conv.weight.grad is not None


def test_too_little_memory_is_one_line(recipe: MakeRecipe) -> None:
    class Greedy(Counting):
        def forward(self, images: Tensor) -> Tensor:
            raise torch.OutOfMemoryError(f"wanted {len(images)} more\nand much else")

    with pytest.raises(InputError, match="too small for batches of 2 images: wanted 2 more$"):
        time_steps({"a": candidate(Greedy("a"))}, recipe(), device=CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["default", "fp32", "tf32", "bf16", "fp16"])
def test_cuda_is_waited_for(make_experiment: MakeExperiment, precision: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Flatten(), nn.LazyLinear(4))
    network(torch.empty(1, 3, 64, 64))
    asked = step_recipe(make_experiment(step__precision=precision), "cuda")
    steps = time_steps({"a": candidate(network, 64)}, asked, device=torch.device("cuda"), rounds=3)
    assert all(0 < step_s < 1 for step_s in steps["a"])


def settings(folder: Path, workers: int = 0) -> DataSettings:
    mean, std = [0.5] * 3, [0.25] * 3
    return DataSettings(
        name="imagenet", folder=str(folder), image_px=28, classes=2, channels=3, mean=mean, std=std, workers=workers
    )


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_LOADING_ROUND_S", 0.02)
    monkeypatch.setattr(measure, "_MOST_IMAGES", 2000)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_size_is_measured(tmp_path: Path, workers: int) -> None:
    sizes_px = {"pre-train": 16, "target": 28}
    found = batch_loading_s(settings(plant(tmp_path), workers), sizes_px, batch_size=4, device=CPU)
    assert found is not None
    assert found.keys() == sizes_px.keys()
    assert all(0 < spread.low <= spread.median <= spread.high for spread in found.values())


def test_the_time_of_a_batch_is_what_it_takes_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        def train_batches(self, images: EpochImages) -> Iterator[int]:
            for number in range(images.batches):
                time.sleep(0.001 * height_width(images.image_px)[0])
                yield number

    monkeypatch.setattr(measure, "load_data", lambda *_: Slow())
    sizes_px = {"pre-train": 10, "middle": 10, "target": 30}
    found = batch_loading_s(settings(plant(tmp_path)), sizes_px, batch_size=4, device=CPU)
    assert found is not None
    assert found["pre-train"] is found["middle"], "measured once"
    assert found["pre-train"].low >= 0.01
    assert found["target"].low >= 0.03


def test_what_is_in_memory_or_not_here_is_not_loaded(tmp_path: Path) -> None:
    assert batch_loading_s(DataSettings(name="fashion_mnist"), {"target": 28}, batch_size=4, device=CPU) is None
    assert batch_loading_s(settings(tmp_path), {"target": 28}, batch_size=4, device=CPU) is None
    assert batch_loading_s(settings(tmp_path / "nowhere"), {"target": 28}, batch_size=4, device=CPU) is None


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for path in (plant(tmp_path) / "train").rglob("*.JPEG"):
        path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot read the image"):
        batch_loading_s(settings(tmp_path), {"target": 28}, batch_size=4, device=CPU)


def test_a_spread_is_median_and_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of_ratios([6.0, 12.0], [3.0, 2.0]) == Spread(4.0, 2.0, 6.0), "by round"
