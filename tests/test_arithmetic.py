import pytest
import torch
from conftest import MakeExperiment

from rescaler.errors import InputError
from rescaler.measure import step_recipe
from rescaler.settings import StepSettings
from rescaler.training import arithmetic
from rescaler.training.arithmetic import autocast, computing, step_constants


def test_only_what_changes_numbers_here_is_in_the_recipe() -> None:
    plain = step_constants(StepSettings(), 128, "cpu")
    assert step_constants(StepSettings(precision="fp32", micro_batch_size=128), 128, "cpu") == plain
    assert step_constants(StepSettings(micro_batch_size=64), 128, "cpu") != plain
    assert step_constants(StepSettings(), 128, "cuda")["precision"] == "default", (
        "torch's own mixture of TF32 and float32"
    )
    assert step_constants(StepSettings(precision="fp32"), 128, "cuda")["precision"] == "fp32"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (StepSettings(precision="tf32"), "step.precision=tf32 needs a CUDA device; got device=cpu"),
        (StepSettings(cudnn_benchmark=True), "step.cudnn_benchmark=true needs a CUDA device; got device=cpu"),
        (StepSettings(compile=True, cuda_graphs=True), "step.cuda_graphs=true needs a CUDA device; got device=cpu"),
    ],
)
def test_what_only_a_gpu_can_do_is_refused_on_a_cpu(settings: StepSettings, message: str) -> None:
    with pytest.raises(InputError, match=message):
        step_constants(settings, 128, "cpu")


def test_a_compiler_that_does_not_work_is_named_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler\nfound")

    monkeypatch.setattr(torch, "compile", fails)
    monkeypatch.setattr(arithmetic, "cannot_compile", arithmetic.cannot_compile.__wrapped__)
    with pytest.raises(
        InputError, match="^step.compile=true, but torch.compile does not work here: no C.. compiler fo"
    ):
        step_constants(StepSettings(compile=True), 128, "cpu")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("default", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_is_of_the_precision_asked_for(precision: str, dtype: torch.dtype) -> None:
    with autocast(precision, "cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_settings_of_torch_are_put_back(make_experiment: MakeExperiment) -> None:
    cudnn = torch.backends.cudnn

    def state() -> list[object]:
        return [cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision, cudnn.benchmark]  # type: ignore[attr-defined]

    before = state()
    inside = {"fp32": ["ieee", "ieee", True], "tf32": ["tf32", "tf32", True], "bf16": [*before[:2], True]}
    for precision, expected in inside.items():
        recipe = step_recipe(make_experiment(step__precision=precision, step__cudnn_benchmark=True), "cuda")
        with computing(recipe):
            assert state() == expected
            with computing(step_recipe(make_experiment(), "cuda")):
                assert state()[2] is False
        assert state() == before
