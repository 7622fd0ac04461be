"""Starting from weights: where they come from, what must fit, what is in the key, how trained kernels shrink."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import RESNET, Bench
from conftest import MakeExperiment
from safetensors.torch import save_file
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

from rescaler import rescale, shrink
from rescaler.compose import jobs, read_experiment
from rescaler.config import Experiment, InitSettings, check, fields, identity
from rescaler.errors import InputError
from rescaler.execution import execute
from rescaler.method.kernels import rescale_kernel, shrink_kernel
from rescaler.networks import initial_target
from rescaler.plan import plan
from rescaler.runfolder import write_config


@pytest.fixture
def given(make_experiment: MakeExperiment, tmp_path: Path) -> Path:
    """Weights of the small network, saved as training scripts do."""
    weights = {name: value.clone() for name, value in initial_target(make_experiment(seed=7)).state_dict().items()}
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, tmp_path / "given.pt")
    return tmp_path / "given.pt"


def weights(experiment: Experiment) -> dict[str, torch.Tensor]:
    return dict(initial_target(experiment).state_dict())


def test_a_network_starts_from_a_file_but_for_excluded_names(make_experiment: MakeExperiment, given: Path) -> None:
    found = weights(make_experiment(init=InitSettings(str(given))))
    assert all(torch.equal(found[name], value) for name, value in weights(make_experiment(seed=7)).items())
    init = InitSettings(str(given), ["conv1.*"])
    found, own, wanted = (weights(make_experiment(**change)) for change in ({"init": init}, {}, {"seed": 7}))
    same = {name for name, value in found.items() if torch.equal(value, own[name])}
    assert {name for name in same if name.endswith("weight")} == {"conv1.weight"}
    assert torch.equal(found["conv2.weight"], wanted["conv2.weight"])


def test_names_of_torchvision_are_found_in_its_cache(
    make_experiment: MakeExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_HUB", raising=False)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    wanted = resnet18().state_dict()
    torch.save(wanted, cache / Path(ResNet18_Weights.IMAGENET1K_V1.url).name)
    init = InitSettings("torchvision:ResNet18_Weights.IMAGENET1K_V1", ["fc.*"])
    more: dict[str, Any] = {"data__channels": 3, "model": {"_target_": "torchvision.models.resnet18"}}
    found = weights(make_experiment(init=init, **more))
    assert torch.equal(found["layer1.0.conv1.weight"], wanted["layer1.0.conv1.weight"])
    assert found["fc.weight"].shape == (4, 512)


def test_names_of_timm_are_found_where_it_is_installed(
    make_experiment: MakeExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = initial_target(make_experiment(seed=5))
    made = types.SimpleNamespace(create_model=lambda name, *, pretrained: target if name == "net" and pretrained else 0)
    monkeypatch.setitem(sys.modules, "timm", made)
    found = weights(make_experiment(init=InitSettings("timm:net")))
    assert torch.equal(found["conv1.weight"], target.state_dict()["conv1.weight"])
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="init.from=timm:other: timm is not installed: pip install timm"):
        initial_target(make_experiment(init=InitSettings("timm:other")))


def test_weights_that_do_not_fit_are_named(make_experiment: MakeExperiment, tmp_path: Path) -> None:
    own = weights(make_experiment())
    path = tmp_path / "w.safetensors"

    def refusal(tensors: dict[str, torch.Tensor], *exclude: str) -> str:
        save_file(tensors, path)
        with pytest.raises(InputError) as raised:
            initial_target(make_experiment(init=InitSettings(str(path), list(exclude))))
        return str(raised.value).replace(str(path), "FILE")

    odd = {f"other{number}": torch.zeros(1) for number in range(7)}
    text = refusal(odd)
    assert text.startswith("init.from=FILE lacks conv1.weight, ")
    assert "it has other0, other1, other2, other3, other4 and 2 more: init.exclude=[PATTERN]" in text
    text = refusal({**own, "conv1.weight": torch.zeros(4, 3, 5, 5)})
    assert "does not fit: conv1.weight is (4, 3, 5, 5) there and (4, 1, 5, 5) in the network: leave" in text
    assert "init.exclude: nothing.* fits no name" in refusal(own, "nothing.*")
    assert "values of conv1.bias are not finite" in refusal({**own, "conv1.bias": torch.full((4,), torch.nan)})
    save_file({**own, **odd}, path)
    run = plan(make_experiment(init=InitSettings(str(path))))
    assert any("not used, as the network lacks it: other0, other1" in note for note in run.notes)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "init.from=nowhere: No such file or directory; allowed: a file of weights, a run's folder, torch"),
        ("torchvision:ResNet18_Weights.NONE", "torchvision cannot give them .*NONE"),
        (str(Path(__file__)), "test_weights.py holds no weights: it is neither safetensors nor of torch.save"),
        (str(Path(__file__).parent), "tests is no folder of a run: it has no model.safetensors"),
    ],
)
def test_what_is_no_weights_is_refused(make_experiment: MakeExperiment, source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(make_experiment(init=InitSettings(source)))


def test_the_content_of_the_weights_is_in_the_key(make_experiment: MakeExperiment, given: Path, tmp_path: Path) -> None:
    def key(source: Path | None, *exclude: str) -> str:
        init = InitSettings(str(source) if source else None, list(exclude))
        return plan(make_experiment(init=init, ledger__folder=str(tmp_path / "ledger"))).chain.origin

    content = given.read_bytes()
    moved = tmp_path / "moved.pt"
    moved.write_bytes(content)
    first = key(given)
    assert key(moved) == first, "wherever it lies"
    assert len({first, key(None), key(given, "conv1.*")}) == 3
    tensors = torch.load(given)["state_dict"]
    tensors["module.conv1.weight"][0, 0, 0, :2] = tensors["module.conv1.weight"][0, 0, 0, :2].flip(0)
    torch.save(tensors, moved)
    assert key(moved) != first, "even where two values are exchanged"


def test_settings_have_the_keys_that_yaml_has(make_experiment: MakeExperiment, tmp_path: Path, given: Path) -> None:
    (job,) = jobs([f"init.from={given}", "init.exclude=[conv1.*]"])
    assert job.experiment.init == InitSettings(str(given), ["conv1.*"])
    write_config(tmp_path, job.experiment)
    assert f"init:\n  from: {given}\n  exclude:\n  - conv1.*\n" in (tmp_path / "config.yaml").read_text()
    assert read_experiment(tmp_path).init == job.experiment.init
    assert "init" not in identity(make_experiment()), "as before there was such a setting"
    assert {"init.from", "init.exclude"} <= {key for key, _, _ in fields(make_experiment())}
    check(make_experiment())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("init.form=x", "unknown key init.form: did you mean init.from"),
        ("+init.foo=1", "init.foo must be left out"),
        ("init.from=3", "init.from must be a text or null; got 3"),
        ("init.exclude=fc", r"init.exclude must be a list of patterns, such as \[fc.\*\]"),
        ("init.exclude=[fc.*]", "init.exclude must be empty without init.from"),
    ],
)
def test_bad_settings_are_refused(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        jobs([word])


@pytest.mark.parametrize(("small", "large"), [((2, 2), (3, 3)), ((3, 3), (5, 5)), ((2, 3), (3, 3)), ((5, 5), (7, 7))])
def test_a_rescaled_kernel_shrinks_to_what_it_was(small: tuple[int, int], large: tuple[int, int]) -> None:
    kernel = torch.randn(3, 2, *small)
    torch.testing.assert_close(shrink_kernel(rescale_kernel(kernel, large), small), kernel)


def test_a_trained_network_shrinks_to_what_it_was_rescaled_from() -> None:
    torch.manual_seed(0)
    target = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 3))
    small = shrink(target, 10)
    again = shrink(rescale(small.network, target), 10, trained=True).network
    for value, wanted in zip(again.parameters(), small.network.parameters(), strict=True):
        torch.testing.assert_close(value, wanted)


def test_given_weights_are_kept_and_their_accuracy_is_said(
    bench: Bench, make_experiment: MakeExperiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    learnt = make_experiment(model=RESNET, resize_epoch=0, ledger__folder=str(tmp_path / "first"), seed=3)
    execute(learnt, tmp_path / "learnt", group="")
    init = InitSettings(str(tmp_path / "learnt"))
    bench.train(make_experiment(model=RESNET, init=init))
    (line,) = [record.getMessage() for record in caplog.records if "test accuracy" in record.getMessage()]
    assert line.startswith(f"init.from={tmp_path / 'learnt'}: test accuracy ")
    assert line.endswith("px after its kernels were shrunk")
    bench.train(make_experiment(model=RESNET, init=InitSettings(str(tmp_path / "learnt"), ["fc.*"])), name="head")
    assert caplog.text.count("test accuracy") == 1, "a new head tells nothing"


def test_a_network_starts_from_a_run(make_experiment: MakeExperiment, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    execute(make_experiment(), Path("run"), group="")
    found = weights(make_experiment(init=InitSettings("run")))
    assert not torch.equal(found["conv1.weight"], weights(make_experiment())["conv1.weight"])
