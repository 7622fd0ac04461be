"""Jobs for SLURM: what is submitted, to a stand-in of the cluster; what a job does before and after it trains."""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import MakeExperiment

from rescaler.compose import Job, read_experiment
from rescaler.config import SlurmSettings
from rescaler.errors import InputError
from rescaler.ledger import Ledger
from rescaler.resume import Saver
from rescaler.sweep import Sweep, scheduler, slurm
from rescaler.sweep.planner import Planned, plan_runs
from rescaler.sweep.slurm import TrainingJob, submit


@pytest.fixture
def job(tmp_path: Path, make_experiment: MakeExperiment, monkeypatch: pytest.MonkeyPatch) -> TrainingJob:
    """Of a run whose ledger this machine sees, as Submitit starts it where there is no cluster."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    for name, value in (("JOB_ID", "1"), ("NTASKS", "1"), ("LOCALID", "0"), ("GLOBALID", "0")):
        monkeypatch.setenv(f"SUBMITIT_LOCAL_{name}", value)
    ledger = Ledger(tmp_path / "ledger")
    ledger.check_writable()
    return TrainingJob(
        ledger_folder=ledger.folder,
        ledger_id=ledger.id,
        timeout_min=5,
        host="login",
        experiment=make_experiment(ledger__folder=str(ledger.folder)),
        folder=tmp_path / "0",
        group="sweep",
    )


def test_a_job_that_never_comes_to_a_save_is_not_requeued_for_ever(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.checkpoint()  # a preemption may be early
    with monkeypatch.context() as patch:
        patch.setattr(Saver, "due", True)
        job()
    assert job.standstills == 1
    job.checkpoint()
    assert job.standstills == 0
    assert job.checkpoint().function is job
    with pytest.raises(InputError, match=r"timeout_min=5 is too short: 2 times in a row .* before it came to a save"):
        job.checkpoint()


def test_a_job_trains_its_run(job: TrainingJob) -> None:
    job()
    assert (job.folder / "metrics.csv").read_text().count("\n") == 1 + 6
    assert (job.folder / "model.safetensors").is_file()


def test_a_node_that_sees_another_ledger_does_not_train(job: TrainingJob) -> None:
    (job.ledger_folder / "id").write_text("of another machine's disk")
    with pytest.raises(InputError, match="does not see there what login has written; it must be on a file system that"):
        job()
    assert not job.folder.exists()


@pytest.fixture
def cancelled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the jobs that were cancelled."""
    found: list[str] = []
    monkeypatch.setattr(scheduler, "cancel", found.extend)
    return found


@pytest.fixture
def planned(make_experiment: MakeExperiment, tmp_path: Path) -> list[Planned]:
    """Two runs with a trunk."""
    changes = {"ledger__folder": str(tmp_path / "ledger")}
    jobs = [Job((f"a={i}",), make_experiment(resize_epoch=2 + i, **changes), i, str(i)) for i in (0, 1)]
    return plan_runs(jobs, tmp_path / "sweep")


def start(planned: list[Planned], monkeypatch: pytest.MonkeyPatch, accepts: int) -> tuple[Sweep, list[str | None]]:
    """Submit to a cluster that accepts so many times; also returns what each submission waits for."""
    waits: list[str | None] = []

    class Cluster:
        def __init__(self, *_: object) -> None: ...

        def submit(self, jobs: Sequence[Callable[[], None]], name: str, after: str | None = None) -> list[str]:
            if len(waits) == accepts:
                raise InputError(f"sbatch: no more of {name}")
            waits.append(after)
            return [f"{len(waits)}_{task}" for task in range(len(jobs))]

    monkeypatch.setattr(slurm, "Cluster", Cluster)
    folder = planned[0].folder.parent
    sweep = Sweep(folder, [one.entry for one in planned], {})
    submit(sweep, planned, SlurmSettings())
    return sweep, waits


def test_runs_wait_for_their_trunk(
    planned: list[Planned], monkeypatch: pytest.MonkeyPatch, cancelled: list[str]
) -> None:
    sweep, waits = start(planned, monkeypatch, accepts=2)
    assert waits == [None, "1_0"]
    kept = Sweep.read(sweep.folder)
    assert kept.trunk_jobs == {"trunks/0": "1_0"}
    assert [(run.trunk, run.job) for run in kept.runs] == [("trunks/0", "2_0"), ("trunks/0", "2_1")]
    assert cancelled == []


def test_what_is_refused_in_part_is_undone_but_earlier_results_stay(
    planned: list[Planned], monkeypatch: pytest.MonkeyPatch, cancelled: list[str]
) -> None:
    old, new = (one.folder for one in planned)
    old.mkdir(parents=True)
    (old / "metrics.csv").write_text("of an earlier sweep")
    with pytest.raises(InputError, match="sbatch: no more of rescaler-"):
        start(planned, monkeypatch, accepts=1)
    assert cancelled == ["1_0"]
    assert (old / "metrics.csv").read_text() == "of an earlier sweep"
    assert not new.exists()
    assert not (old.parent / "sweep.json").exists()


def test_a_folder_whose_jobs_are_alive_is_not_submitted_to(
    planned: list[Planned], monkeypatch: pytest.MonkeyPatch, cancelled: list[str]
) -> None:
    monkeypatch.setattr("rescaler.sweep.status.states", lambda ids: dict.fromkeys(ids, scheduler.JobState("PENDING")))
    start(planned, monkeypatch, accepts=2)
    before = (planned[0].folder.parent / "sweep.json").read_text()
    with pytest.raises(InputError, match="jobs of .*sweep wait or run: wait for them, or python -m rescaler cancel"):
        start(planned, monkeypatch, accepts=2)
    assert (planned[0].folder.parent / "sweep.json").read_text() == before
    assert cancelled == []


def test_a_job_with_gpus_does_not_train_on_a_cpu(
    make_experiment: MakeExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: TrainingJob
) -> None:
    experiment = make_experiment(device="auto", ledger__folder=str(job.ledger_folder))
    planned = plan_runs([Job((), experiment)], tmp_path / "sweep", elsewhere="cuda")
    start(planned, monkeypatch, accepts=1)
    job.experiment = read_experiment(planned[0].folder)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=f"torch finds no CUDA device on {socket.gethostname()}"):
        job()
