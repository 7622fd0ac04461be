"""The application as a user starts it, in processes of its own."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from processes import started, wait_until

from rescaler import cli
from rescaler.ledger import Ledger
from rescaler.run import main
from rescaler.sweep import Sweep

TINY = [
    "data=synthetic",
    "data.train_images=200",
    "data.test_images=100",
    "+model.widths=[4,8,8]",
    "schedule.epochs=6",
    "schedule.batches_per_epoch=5",
    "schedule.milestones=[4]",
    "schedule.learning_rates=[0.03,0.01]",
    "optim.batch_size=16",
    "device=cpu",
    "logger=none",
]
CLOCKS = ["train_s", "data_s", "rescale_s", "evaluation_s"]


def command(*arguments: str, module: str = "rescaler.run") -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def run(folder: Path, *arguments: str, module: str = "rescaler.run") -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.run(command(*arguments, module=module), cwd=folder, capture_output=True, text=True, check=False)


def runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("summary.json"))


def summary(folder: Path) -> Any:
    return json.loads((folder / "summary.json").read_text())


def metrics(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metrics.csv").drop(columns="check")


def final_digests(folder: Path) -> list[str]:
    return [metrics(path)["digest"].iloc[-1] for path in runs(folder)]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The sweep of the README, tiny, in an order that trains the longest trunk first."""
    folder = tmp_path_factory.mktemp("sweep")
    return folder, run(folder, "-m", "resize_epoch=0,4,2,never", *TINY)


def test_a_sweep_ends_with_a_table_and_a_plot(sweep: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, finished = sweep
    assert finished.returncode == 0, finished.stderr
    assert re.findall(r"^(Pre-train|Target|Resized at epoch \d)", finished.stdout, flags=re.MULTILINE) == [
        "Pre-train",
        "Target",
        "Resized at epoch 2",
        "Resized at epoch 4",
    ]
    plot = re.search(r"Accuracy over epochs and over time: (\S+)", finished.stdout)
    assert plot is not None
    assert (folder / plot[1]).read_bytes().startswith(b"\x89PNG")


def test_a_sweep_trains_its_trunk_once(sweep: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = sweep
    computed = {summary(path)["resize_epoch"]: 6 - summary(path)["reused_epochs"] for path in runs(folder)}
    # 4 trains its trunk, 2 goes on from the fork on the way, never goes on from 4.
    assert computed == {0: 6, 4: 6, 2: 4, "never": 2}
    assert len(list(Ledger(folder / "ledger").records())) == 6 + 6 + 4 + 2


def test_a_runs_folder_says_all_about_it(sweep: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = sweep
    path = next(path for path in runs(folder) if summary(path)["resize_epoch"] == 2)
    found, rows = summary(path), metrics(path)
    assert found["status"] == "done"
    assert found["best_top1"] == rows["test_top1"].max()
    assert found["best_epoch"] == rows.sort_values("test_top1", kind="stable", ascending=False)["epoch"].iloc[0]
    assert found["training_s"] == pytest.approx(rows[["train_s", "data_s", "rescale_s"]].to_numpy().sum())
    assert found["torch"]
    assert found["device"]
    assert rows["reused"].tolist() == [True, True, False, False, False, False]
    chain = json.loads((path / "chain.json").read_text())
    assert chain["epochs"] == rows["key"].tolist()
    assert chain["forks"] == [2]
    assert "resize_epoch: 2" in (path / "config.yaml").read_text()


def test_the_tables_and_ledger_commands_read_it(sweep: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, finished = sweep
    tables = run(folder, "tables", module="rescaler")
    assert tables.returncode == 0, tables.stderr
    assert "Resized at epoch 4" in tables.stdout
    ledger = run(folder, "ledger", "verify", module="rescaler")
    assert "all 18 entries are whole" in ledger.stdout
    assert "18 epochs" in " ".join(ledger.stdout.split())


Application = Callable[..., str | None]


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Application:
    """Calls the application in this process, which spares it torch's import; returns the line it ends with, if any."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def call(*arguments: str) -> str | None:
        monkeypatch.setattr(sys, "argv", ["rescaler.run", *arguments])
        code: object = None
        try:
            main()
        except SystemExit as ended:
            code = ended.code or None  # Hydra ends its help with 0
        assert "Traceback" not in capsys.readouterr().err
        assert code is None or isinstance(code, str)  # which Python prints to stderr, and exits with 1
        assert "\n" not in (code or "")
        return code

    return call


def test_a_killed_run_ends_with_the_same_bits(
    tmp_path: Path, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["resize_epoch=3", *TINY]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()
    for epochs in (2, 4):
        with started(command(*arguments), cwd=killed, stderr=subprocess.DEVNULL) as process:

            def trained(epochs: int = epochs, process: subprocess.Popen[Any] = process) -> bool:
                records = killed.glob("ledger/entries/??/*/record.json")
                return len(list(records)) >= epochs or process.poll() is not None

            wait_until(trained, f"{epochs} epochs", every_s=0.001)
    for folder in (killed, whole):
        monkeypatch.chdir(folder)
        assert application(*arguments) is None

    resumed, undisturbed = max(runs(killed)), runs(whole)[0]
    assert len(runs(killed)) == 3
    assert summary(resumed)["reused_epochs"] >= 4
    assert summary(resumed)["run"] == summary(undisturbed)["run"]
    drop = [*CLOCKS, "reused"]
    pd.testing.assert_frame_equal(metrics(resumed).drop(columns=drop), metrics(undisturbed).drop(columns=drop))


@pytest.mark.parametrize("hides", [False, True])  # the interrupt, as OmegaConf's errors do
def test_ctrl_c_inside_of_a_library_is_one_line(
    application: Application, monkeypatch: pytest.MonkeyPatch, hides: bool
) -> None:
    def interrupted(_: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            error = AttributeError("of a library's cleaning up")
            error.__suppress_context__ = hides
            raise error

    monkeypatch.setattr("rescaler.run.run", interrupted)
    assert application("resize_epoch=3") == "interrupted"


def test_relative_paths_start_where_the_command_was_typed(tmp_path: Path, application: Application) -> None:
    for more in ([], ["-m"]):
        assert application("resize_epoch=3", "hydra.job.chdir=true", *TINY, *more) is None
    assert list(tmp_path.rglob("ledger")) == [tmp_path / "ledger"]


@pytest.mark.parametrize(
    ("folder", "error"),
    [
        ("${oc.env:HOME}", "the path of the working folder must be without ${, an interpolation for Hydra; got "),
        (b"caf\xe9", "paths and settings must be UTF-8; got "),
    ],
)
def test_a_folder_that_hydra_or_yaml_cannot_name_is_refused(
    tmp_path: Path, application: Application, monkeypatch: pytest.MonkeyPatch, folder: str | bytes, error: str
) -> None:
    odd = tmp_path / os.fsdecode(folder)
    odd.mkdir()
    monkeypatch.chdir(odd)
    assert (application("resize_epoch=3", *TINY) or "").startswith(f"error: {error}")
    assert list(odd.iterdir()) == []


def test_a_diverging_run_says_so_and_the_others_finish(tmp_path: Path, application: Application) -> None:
    rates = "schedule.learning_rates=[1e9,1.0],[0.03,0.01]"
    error = application("-m", rates, *(setting for setting in TINY if "learning_rates" not in setting))
    assert error is not None
    assert error.startswith("error: 1 of 2 runs failed: schedule.learning_rates=[1000000000.0,1.0]")
    assert "the loss became nan in epoch 1 at learning rate 1e+09: training stopped" in error
    assert sorted(summary(path)["status"] for path in runs(tmp_path)) == ["done", "failed"]


def test_a_sweep_whose_runs_have_names_of_their_own_has_one_folder(tmp_path: Path, application: Application) -> None:
    tiny = [setting for setting in TINY if "widths" not in setting]
    folder = """hydra.sweep.dir="it's/${name}\""""
    assert application("-m", "model=resnet_small,overfeat_small", "resize_epoch=0", folder, *tiny) is None
    sweep = tmp_path / "it's" / "synthetic_overfeat_small"
    assert runs(tmp_path) == [sweep / "0", sweep / "1"]
    assert [summary(run)["name"] for run in runs(tmp_path)] == ["synthetic_resnet_small", "synthetic_overfeat_small"]


def test_a_config_that_yaml_cannot_read_is_named(tmp_path: Path, application: Application) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "broken.yaml").write_text("_target_: networks.slow\nwidths: [8\n")
    error = application(*TINY, "--config-dir", "mine", "model=broken")  # options may stand behind settings
    assert error is not None
    assert error.startswith("error: while parsing a flow sequence")
    assert f'{tmp_path / "mine" / "model" / "broken.yaml"}", line 2' in error


def test_a_ledger_that_is_a_file_is_named(tmp_path: Path, application: Application) -> None:
    (tmp_path / "afile").write_text("")
    error = application(*TINY, "ledger.folder=afile")
    assert (
        error == f"error: ledger.folder={tmp_path / 'afile'}: cannot write {tmp_path}/afile/tmp/probe: Not a directory"
    )


def test_an_error_that_names_no_file_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("of the training")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr("rescaler.execution.execute", fail)
    monkeypatch.setattr(sys, "argv", ["rescaler.run", *TINY])
    with pytest.raises(OSError, match="^of the training$"):
        main()


def test_a_disk_that_is_full_when_hydra_writes_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rescaler.run._run", write)
    monkeypatch.setattr(sys, "argv", ["rescaler.run", *TINY])
    with pytest.raises(SystemExit, match="^error: cannot write the folder of the run: No space left on device$"):
        main()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resize_epoc=3"], "unknown key resize_epoc: did you mean resize_epoch?"),
        (["resize_epoch=70"], 'resize_epoch must be between 0 and epochs (=55), "never" or "auto"; got 70'),
        (["shrink.table={1: 1, 3: 3, 5: 5}"], "shrinks none of the network's kernels"),
        (["shrink.table={16: 11}"], "unknown key shrink.table.16: to add an entry to shrink.table, write '+shrink"),
        (["data.mean=[nan]"], "data.mean[0] must be finite; got nan"),
        (["hydra.run.dir=file/run"], "Not a directory"),
        (["data.image_px=6"], "image_px=6 is too small"),
        (["data=imagenet", "data.folder=nowhere"], "nowhere must hold train/<class>/*.JPEG"),
        (["ledger.folder=file/ledger"], "cannot write"),
        (["hydra/launcher=slurm"], "hydra/launcher must be local without -m; got slurm: add -m, for a single run too"),
        (["model._target_=no.such.network"], "model._target_=no.such.network cannot be imported"),
    ],
)
def test_a_mistake_ends_with_one_line_and_nothing_trained(
    tmp_path: Path, application: Application, arguments: list[str], message: str
) -> None:
    (tmp_path / "file").write_text("")
    error = application("data=synthetic", "logger=none", *arguments)
    assert error is not None
    assert error.startswith("error: ")
    assert message in error
    assert runs(tmp_path) == []


def test_a_mistake_is_all_that_a_user_sees(tmp_path: Path) -> None:
    finished = run(tmp_path, "resize_epoch=70")
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert finished.stderr == ('error: resize_epoch must be between 0 and epochs (=55), "never" or "auto"; got 70\n')


def test_a_refused_run_leaves_nothing_behind(tmp_path: Path, application: Application) -> None:
    for arguments in (["resize_epoch=70"], ["data.image_px=6"], ["-m", "data.image_px=6,28"], ["-m", "seed=1,x"]):
        assert application("logger=none", "data=synthetic", "hydra.run.dir=a/b", "hydra.sweep.dir=c/d", *arguments)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert application("logger=none", "data=synthetic", "hydra.run.dir=a/b", "data.image_px=6")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_is_one_process_alone(tmp_path: Path, application: Application) -> None:
    (tmp_path / "x").mkdir()
    holder = "import fcntl, sys; f = open('x/run.lock', 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    with started([sys.executable, "-c", holder], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        error = application(*TINY, "hydra.run.dir=x")
        other.communicate(b"\n")
    assert error == (
        f"error: hydra.run.dir={tmp_path}/x is in use by another process: wait for its end, or choose another folder"
    )
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["run.lock"]
    assert application(*TINY, "hydra.run.dir=x") is None, "the file alone is no lock"
    assert not (tmp_path / "x" / "run.lock").exists()


def test_a_folder_holds_one_run(tmp_path: Path, application: Application) -> None:
    folder = ["hydra.run.dir=x", "hydra.sweep.dir=y"]
    assert application(*TINY, *folder, "resize_epoch=3") is None
    before = (tmp_path / "x" / "config.yaml").read_text()
    error = application(*TINY, *folder, "resize_epoch=4")
    assert error == f"error: {tmp_path}/x holds another run already: choose another folder, or remove it"
    assert (tmp_path / "x" / "config.yaml").read_text() == before
    assert application(*TINY, *folder, "resize_epoch=3", "progress=false") is None
    error = application("-m", *TINY, *folder, "hydra.sweep.subdir=z", "resize_epoch=0,1")
    assert error == (
        "error: hydra.sweep.subdir must be another for each run; got z for resize_epoch=0 and for resize_epoch=1"
    )
    assert application("-m", *TINY, *folder, "resize_epoch=3,4") is None
    error = application("-m", *TINY, *folder, "resize_epoch=4,3")
    assert error == f"error: {tmp_path}/y/0 holds another run already: choose another folder, or remove it"
    assert application("-m", *TINY, *folder, "resize_epoch=3,4") is None


def test_a_sweeps_folder_is_locked_before_anything_is_written(tmp_path: Path, application: Application) -> None:
    with Sweep(tmp_path / "y", []).owned():
        error = application("-m", *TINY, "hydra.sweep.dir=y", "resize_epoch=3,4")
        assert error is not None
        assert f"error: {tmp_path}/y is in use by process {os.getpid()} on " in error
        assert [path.name for path in (tmp_path / "y").iterdir()] == ["sweep.lock"]


def test_batches_of_a_sweeper_are_one_sweep(tmp_path: Path, application: Application) -> None:
    batches = ["-m", *TINY, "hydra.sweeper.max_batch_size=1", "hydra.sweep.dir=y"]
    error = application(*batches, "resize_epoch=3,70")
    assert error is not None
    assert "resize_epoch=70: resize_epoch must be" in error
    assert runs(tmp_path) == []
    assert application(*batches, "resize_epoch=3,4") is None
    assert [run.name for run in Sweep.read(tmp_path / "y").runs] == ["resize_epoch=3", "resize_epoch=4"]


def test_an_experiments_launcher_is_not_ignored(tmp_path: Path, application: Application) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /hydra/launcher: slurm\n"
    (tmp_path / "mine" / "experiment" / "cluster.yaml").write_text(text)
    error = application("-cd", "mine", "experiment=cluster", *TINY)
    assert error == "error: hydra/launcher must be local without -m; got slurm: add -m, for a single run too"
    (tmp_path / "mine" / "experiment" / "swept.yaml").write_text(
        "# @package _global_\nhydra: {sweeper: {params: {seed: '1,2'}}}\n"
    )
    error = application("-cd", "mine", "experiment=swept", *TINY)
    assert error == "error: hydra.sweeper.params declares a sweep: add -m"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "resize_epoch=0,1", "--cfg", "job"], "error: only one of --multirun, --cfg can be given"),
        pytest.param(
            ["--experimental-rerun", "x"],
            "error: --experimental-rerun: File x does not exist!",
            marks=pytest.mark.filterwarnings("ignore:Experimental rerun"),
        ),
        *(
            (
                ["-m", word],
                f"error: {word}: these settings declare no hydra.sweeper.params; here a sweep is KEY=VALUE,VALUE",
            )
            for word in ("hydra.sweeper.params={seed: '0,1'}", "+hydra.sweeper.params.seed='0,1'")
        ),
        (["--resolve"], "error: --resolve must come with --cfg or --help"),
        (["--config-dir", "lr=0.1/conf"], "error: --config-dir must be a folder of configs; got lr=0.1/conf"),
        (["~logger", "data=synthetic", "--cfg", "job"], None),
        (["data=synthetic", "--cfg", "job", "seed=2", "--package", "optim"], None),
        (["data=synthetic", "--info"], None),
        (["seed=3", "--hydra-help"], None),
    ],
)
def test_options_and_settings_in_any_order(application: Application, arguments: list[str], message: str | None) -> None:
    assert application(*arguments) == message


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_completes_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("shtab", reason="pip install 'rescaler[completion]'")
    cli.main(["completion", shell])
    script = capsys.readouterr().out
    assert all(word in script for word in ("status", "watch", "multirun"))
    if shell == "bash":
        (tmp_path / "script").write_text(script)
        ask = "COMP_WORDS=(rescaler status --w); COMP_CWORD=2; _shtab_rescaler rescaler --w; echo ${COMPREPLY[*]}"
        done = subprocess.run(["bash", "-c", f"source ./script; {ask}"], cwd=tmp_path, capture_output=True, check=True)
        assert done.stdout == b"--watch\n"


@pytest.mark.parametrize("words", [["run", "--version"], ["--version"], ["plan", "--version"]])
def test_the_version_is_ours(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(words)
    assert re.fullmatch(r"rescaler \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_output_ends_quietly_with_its_pipe_and_knows_no_encoding_error(tmp_path: Path) -> None:
    plan = " ".join(command("plan", "sweep=table2", "--hours", "1", "2", module="rescaler"))
    piped = subprocess.run(
        f"{plan} | head -1; PYTHONIOENCODING=ascii {plan}", shell=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert piped.stderr == ""
    assert re.search(r"^Target +0 \+ 55 +110.0 h +\?$", piped.stdout, flags=re.MULTILINE), "? for a dash"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        words = command("plan", "sweep=table2", "--hours", "1", "2", module="rescaler")
        ended = subprocess.run(words, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (1, "error: cannot write the output: No space left on device\n")


def test_help_names_groups_and_commands(tmp_path: Path) -> None:
    finished = run(tmp_path, "--help")
    assert finished.returncode == 0
    assert "python -m rescaler.run -m resize_epoch=0,17,18,19,20,never" in finished.stdout
    assert "model: overfeat_fast, overfeat_small, resnet18, resnet34, resnet_small" in finished.stdout
    assert "sweep: figure6" in finished.stdout


def test_showing_the_config_does_not_import_torch(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rescaler.run", "--cfg", "job"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "resize_epoch: auto" in finished.stdout
    imported = set(re.findall(r"^import time:.*\|\s+(\S+)$", finished.stderr, flags=re.MULTILINE))
    assert "hydra" in imported
    assert not imported & {"torch", "pandas", "wandb", "matplotlib", "torchvision"}
