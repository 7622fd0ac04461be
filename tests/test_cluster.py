"""What the launcher of sweeps on SLURM shows, submits and refuses, on a real SLURM."""

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import (
    DETACHED,
    HOLD,
    MAX_ARRAY,
    ON_SLURM,
    SHORT,
    SlurmCluster,
    finish,
    states,
    sweep_in,
)

from rescaler.run import main

pytestmark = pytest.mark.slurm


def test_a_sweep_is_left_looked_at_and_cancelled(cluster: SlurmCluster, tmp_path: Path) -> None:
    launch = cluster.start(tmp_path, "-m", "resize_epoch=1,2", "seed=0,1,2,3", *SHORT, *ON_SLURM, HOLD)
    assert launch.stdout is not None
    assert launch.stdout.readline() == "8 waiting\n", finish(launch)
    launch.send_signal(signal.SIGINT)
    code, _, error = finish(launch)
    assert code == 1
    look = f"look at them with: python -m rescaler status {sweep_in(tmp_path).folder}"
    assert error == f"error: no longer watched, but the jobs go on; {look}\n"
    assert {status.state for status in states(tmp_path).values()} == {"waiting"}

    process, screen = cluster.start_in_terminal(tmp_path, "status", "--watch")
    assert "8 waiting" in screen("Time left")
    code, out, error = finish(cluster.start(tmp_path, "cancel", module="rescaler"))
    assert code == 0, error
    assert "8 runs cancelled" in out
    assert {status.state for status in states(tmp_path).values()} == {"cancelled"}
    assert "8 cancelled" in screen()
    assert process.wait() == 0


def test_an_array_is_as_large_as_the_cluster_allows(cluster: SlurmCluster, tmp_path: Path) -> None:
    seeds = ",".join(map(str, range(2 * MAX_ARRAY + 1)))
    code, _, error = finish(cluster.start(tmp_path, "-m", f"seed={seeds}", *SHORT, *DETACHED, HOLD))
    assert code == 0, error
    jobs = [run.job or "" for run in sweep_in(tmp_path).runs]
    listed = cluster.call("squeue", "--noheader", "--array", "--Format=JobArrayID:64").split()
    assert set(jobs) <= set(listed)
    arrays = Counter(job.partition("_")[0] for job in jobs if "_" in job)
    assert list(arrays.values()) == [MAX_ARRAY, MAX_ARRAY]


Application = Callable[..., tuple[str | None, str]]


@pytest.fixture
def application(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Application]:
    """Calls the application in this process, which submits nothing; returns the line it ends with and output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("COLUMNS", "200")

    def queue() -> list[str]:
        return cluster.call("squeue", "--noheader", "--array", "--Format=JobArrayID:64,State:16").splitlines()

    def call(*arguments: str) -> tuple[str | None, str]:
        monkeypatch.setattr(sys, "argv", ["rescaler.run", "-m", *SHORT, *ON_SLURM, *arguments])
        code: object = None
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        assert code is None or isinstance(code, str)  # which Python prints to stderr, and exits with 1
        assert "\n" not in (code or "")
        return code, capsys.readouterr().out

    before = queue()
    yield call
    assert queue() == before


def test_a_dry_run_shows_what_would_be_submitted(application: Application, tmp_path: Path) -> None:
    error, out = application(
        "resize_epoch=3,auto,2,1",
        "hydra.launcher.dry_run=true",
        "hydra.launcher.epoch_hours=[1,2]",
        "hydra.launcher.partition=urgent",
        "hydra.launcher.array_parallelism=2",
    )
    assert error is None
    assert "resize_epoch=auto is the same run as resize_epoch=3: it is run once" in out
    assert "trunk 1: 1 job, 2 epochs, for 3 runs" in out
    assert "an array of 3, 2 at a time, after trunk 1:\n  resize_epoch=3\n  resize_epoch=2\n  resize_epoch=1\n" in out
    assert "#SBATCH --array=0-2%2" in out
    assert "#SBATCH --partition=urgent" in out
    assert out.endswith("Nothing was submitted.\n")
    assert list(tmp_path.rglob("config.yaml")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hydra.launcher.partition=nowhere"], "sbatch: invalid partition specified: nowhere; Batch job submission"),
        (["+hydra.launcher.additional_parameters={nonsense: 1}"], "sbatch: unrecognized option '--nonsense=1'"),
        (["hydra.launcher.cpus_per_task=5"], "sbatch: CPU count per node can not be satisfied; Batch job"),
        (["hydra.launcher.signal_delay_s=0"], "hydra.launcher.signal_delay_s must be at least 1; got 0"),
        (["hydra.launcher.array_parallelism=0"], "hydra.launcher.array_parallelism must be at least 1; got 0"),
        (["hydra.launcher.processes_per_node=0"], "hydra.launcher.processes_per_node must be at least 1; got 0"),
        (
            ["hydra.launcher.timeout_min=2"],
            "hydra.launcher.timeout_min must be at least 3: jobs are told to save hydra",
        ),
        (["hydra.launcher.mem_gb=0"], "hydra.launcher.mem_gb must be above 0; got 0"),
        (["hydra.launcher.partitoin=debug"], "unknown key hydra.launcher.partitoin"),
        (["resize_epoch=2,70"], "resize_epoch=70: resize_epoch must be between 0 and epochs (=6)"),
    ],
)
def test_a_mistake_ends_with_one_line_and_leaves_nothing(
    application: Application, tmp_path: Path, arguments: list[str], message: str
) -> None:
    error, _ = application("seed=0,1", *arguments)
    assert error is not None
    assert error.startswith("error: ")
    assert message in error
    assert not list((tmp_path / "runs").rglob("*"))


def test_away_from_the_cluster_it_says_so(
    application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        error, _ = application()
    assert error == ("error: hydra/launcher=slurm: no sbatch on the path; start it on a login node of the cluster")
    assert list(tmp_path.rglob("config.yaml")) == []
