"""The trained network as a file: written, loaded, evaluated, exported, and what it says of pictures."""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from bench import RESNET
from conftest import MakeExperiment
from PIL import Image
from safetensors.torch import load_file, save_file

import rescaler
from rescaler import cli
from rescaler.config import Experiment
from rescaler.errors import InputError
from rescaler.execution import execute
from rescaler.ledger import Ledger
from rescaler.modelfile import Model
from rescaler.plan import plan
from rescaler.results import load_epochs, load_runs

PLAIN = """
import sys
from safetensors.torch import load_file
from torchvision.models import resnet18
resnet18(num_classes=4).load_state_dict(load_file(sys.argv[1]), strict=True)
assert "rescaler" not in sys.modules
"""


@pytest.fixture
def make(make_experiment: MakeExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeExperiment:
    monkeypatch.chdir(tmp_path)
    return lambda **changes: make_experiment(schedule__epochs=2, schedule__milestones=[1], resize_epoch=1, **changes)


def run(experiment: Experiment, name: str = "run") -> Path:
    execute(experiment, Path(name), group="")
    return Path(name)


def command(*words: object) -> None:
    cli.main(list(map(str, words)))


def refusal(*words: object) -> str:
    with pytest.raises(SystemExit) as ended:
        command(*words)
    text = str(ended.value)
    assert "\n" not in text
    return text


def picture(path: Path, mode: str = "L", size: tuple[int, int] = (28, 28)) -> Path:
    Image.new(mode, size, 200 if mode == "L" else (200, 100, 50)).save(path)
    return path


def test_a_trained_file_loads_into_the_plain_network_without_rescaler(make: MakeExperiment) -> None:
    data = {"channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3, "image_px": 32, "train_images": 16, "test_images": 8}
    changes: dict[str, Any] = {f"data__{key}": value for key, value in data.items()}
    model = {"_target_": "torchvision.models.resnet18"}
    changes["shrink__table"] = {3: 2, 7: 5}
    folder = run(make(model=model, schedule__batches_per_epoch=1, optim__batch_size=8, **changes))
    subprocess.run([sys.executable, "-c", PLAIN, str(folder / "model.safetensors")], check=True)


def test_the_file_says_what_it_is(make: MakeExperiment) -> None:
    experiment = make()
    folder, planned = run(experiment), plan(experiment)
    with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        said = file.metadata()
    assert json.loads(said["model"]) == experiment.model
    assert (said["classes"], said["channels"], said["image_px"], said["run"]) == ("4", "1", "28", planned.id)
    assert (json.loads(said["class_names"]), said["mean"], said["std"]) == (["0", "1", "2", "3"], "[0.5]", "[0.25]")
    assert said["key"] == planned.chain.known_keys[-1]
    assert "shrink" not in said


def test_a_run_that_is_read_back_has_its_model_too(make: MakeExperiment) -> None:
    first, second = (Model.read(run(make(), name)) for name in ("run", "again"))
    assert first.key == second.key
    assert all(torch.equal(first.weights[name], value) for name, value in second.weights.items())
    (checkpoint,) = load_runs("again")["checkpoint"]
    assert checkpoint == Path("again", "model.safetensors")


def test_without_the_last_state_there_is_no_model(make: MakeExperiment, caplog: pytest.LogCaptureFixture) -> None:
    experiment = make()
    run(experiment)
    Ledger.of(experiment).state_path(plan(experiment).chain.known_keys[-1]).unlink()
    folder = run(experiment, "again")
    assert "no longer its state" in caplog.text
    assert load_runs(folder)["checkpoint"].to_list() == [None]
    assert "has no model.safetensors: the run is not done" in refusal("export", folder)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optim__ema_decay": 0.5},
        {"resize": "never"},
        {"step__precision": "bf16"},
        {"data__holdout": 0.25},
        {"model": RESNET, "data__test_px": 24},
    ],
)
def test_an_evaluation_at_its_own_settings_gives_the_recorded_numbers(
    make: MakeExperiment, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = make(**{key: value for key, value in changes.items() if key != "resize"})
    experiment.resize_epoch = changes.get("resize", 1)
    folder = run(experiment)
    record = load_epochs(load_runs(folder)).iloc[-1]
    command("evaluate", folder)
    shown = capsys.readouterr().out.splitlines()[0]
    test_px = experiment.data.test_px or record["image_px"]
    assert f"of {test_px} px: loss {record['test_loss']:.4f}, top-1 {100 * record['test_top1']:.2f} %" in shown
    if experiment.resize_epoch == "never":
        network: Any = rescaler.load(folder)
        assert network.conv1.kernel_size == (3, 3), "the pre-train network is rebuilt"
        assert network.preprocess(Image.new("L", (28, 28))).shape == (1, 17, 17)


def test_confusion_counts_every_image(make: MakeExperiment, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(make(model=RESNET))
    command("evaluate", folder / "model.safetensors", "data.image_px=40", "--csv", "-")
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines()[1:]]
    assert sum(int(row[2]) for row in rows) == 100
    assert {row[0] for row in rows} == {"0", "1", "2", "3"}
    assert all(float(row[3]) == int(row[2]) / 25 for row in rows), "25 images a class"
    command("evaluate", folder, "data.test_images=8", "--csv", "-")
    assert sum(int(line.split(",")[2]) for line in capsys.readouterr().out.splitlines()[1:]) == 8


def test_load_gives_a_network_to_use(make: MakeExperiment) -> None:
    folder = run(make(optim__ema_decay=0.5))
    network: Any = rescaler.load(folder)
    assert not network.training
    assert network.classes == ["0", "1", "2", "3"]
    pixels = network.preprocess(picture(folder / "grey.png"))
    assert torch.allclose(pixels, torch.full((1, 28, 28), (200 / 255 - 0.5) / 0.25))
    assert torch.equal(pixels, network.preprocess(Image.open(folder / "grey.png")))
    # Of all of its shorter side, in the brightness that Pillow gives it.
    grey = Image.new("RGB", (28, 28), (200, 100, 50)).convert("L").getpixel((0, 0))
    wide = network.preprocess(picture(folder / "wide.png", "RGB", (90, 56)))
    assert torch.allclose(wide, torch.full((1, 28, 28), (grey / 255 - 0.5) / 0.25))  # type: ignore[operator]
    assert set(network.state_dict()) == set(load_file(folder / "model.safetensors"))


def test_predict_names_the_likeliest_classes(make: MakeExperiment, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(make())
    pictures = folder / "pictures" / "below"
    pictures.mkdir(parents=True)
    picture(pictures / "b.png")
    (pictures / "a.jpg").write_bytes(b"no picture")
    words = "predict", folder, folder / "pictures", "--top", 2, "--csv", folder / "found.csv"
    assert refusal(*words) == f"error: cannot read the picture {pictures / 'a.jpg'}: no image, or of no known kind"
    assert capsys.readouterr().out.startswith(f"{pictures / 'b.png'}: ")
    rows = [line.split(",") for line in (folder / "found.csv").read_text().splitlines()]
    assert rows[0] == ["picture", "rank", "class", "probability"]
    network: Any = rescaler.load(folder)
    shares = network(network.preprocess(pictures / "b.png")[None]).softmax(1)[0]
    best = shares.argsort(descending=True)[:2].tolist()
    assert [row[1:3] for row in rows[1:]] == [["1", str(best[0])], ["2", str(best[1])]]
    assert [float(row[3]) for row in rows[1:]] == pytest.approx(shares[best].tolist(), abs=1e-5)


@pytest.mark.parametrize("form", ["safetensors", "torch", "torchscript", "onnx"])
def test_exported_networks_give_the_same_scores_and_a_full_disk_is_named(
    make: MakeExperiment, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(make(model=RESNET))
    command("export", folder, "--format", form, "-o", folder / "out")
    assert "images of 1x28x28; scores of a batch differ" in capsys.readouterr().out
    if form == "torch":
        weights = torch.load(folder / "out", weights_only=True)
        assert set(weights) == set(Model.read(folder).weights)
    if form == "safetensors":
        assert Model.read(folder / "out").run == Model.read(folder).run
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # a write beyond it fails as on a full disk
    try:
        said = refusal("export", folder, "--format", form, "-o", "full")
        assert re.fullmatch(r"error: cannot write \.?full\S*: File too large", said)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_cannot_be_done_is_said_in_one_line(make: MakeExperiment, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(make())
    Path("text.pt").write_text("no weights")
    save_file({"x": torch.zeros(1)}, "other.safetensors")
    assert "text.pt holds no weights: it is neither safetensors nor" in refusal("evaluate", "text.pt")
    assert "other.safetensors is no model that a run of rescaler wrote" in refusal("predict", "other.safetensors", "x")
    assert "nowhere: No such file" in refusal("export", "nowhere")
    assert "ledger is no folder of a run" in refusal("evaluate", "ledger")
    assert "--format must be one of safetensors, torch, torchscript, onnx; got h5" in refusal(
        "export", folder, "--format", "h5"
    )
    assert "evaluate takes settings of data alone; got seed" in refusal("evaluate", folder, "seed=1")
    assert "data.classes must be 4" in refusal("evaluate", folder, "data=synthetic")
    assert "data.image_px=20: the network cannot take such images" in refusal("evaluate", folder, "data.image_px=20")
    assert "--top must be at least 1" in refusal("predict", folder, "x.png", "--top", 0)
    assert "has no pictures" in refusal("predict", folder, "ledger")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "onnxscript is not installed: pip install 'rescaler[onnx]'" in refusal("export", folder, "--format", "onnx")


def test_a_flipped_bit_is_seen(make: MakeExperiment) -> None:
    path = run(make()) / "model.safetensors"
    whole = path.read_bytes()
    for place in (whole.index(b"28"), len(whole) - 1):  # of the texts, and of the weights
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert "model.safetensors is damaged: its content is not what was written" in refusal("evaluate", path)
        with pytest.raises(InputError, match=r"^init.from=run: .*run/model.safetensors is damaged"):
            plan(make(init__from_="run"))


def test_a_network_whose_code_changed_is_named(make: MakeExperiment) -> None:
    folder = run(make())
    model = Model.read(folder)
    model.model["hidden"] = 8
    model.write(folder / "model.safetensors")
    with pytest.raises(InputError, match="overfeat_small makes another network now: .*size mismatch"):
        rescaler.load(folder)


def test_the_doctor_has_one_screen(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command("doctor", "--folder", tmp_path / "none")
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("rescaler", "torch", "device", "cores", "SLURM", "W&B", "free disk"))
    assert f"{tmp_path / 'none'}: not there yet, writable" in shown
    assert not (tmp_path / "none").exists()
