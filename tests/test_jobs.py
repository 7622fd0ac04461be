"""Jobs before they come to a node and after they are told to end."""

from pathlib import Path

import pytest
from conftest import MakeExperiment

from rescaler.checkpoint import Saver
from rescaler.errors import InputError
from rescaler.ledger import Ledger
from rescaler.sweeps.jobs import RunJob


@pytest.fixture
def job(tmp_path: Path, make_experiment: MakeExperiment, monkeypatch: pytest.MonkeyPatch) -> RunJob:
    """Of a run whose ledger this machine sees, as Submitit starts it where there is no cluster."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    for name, value in (("JOB_ID", "1"), ("NTASKS", "1"), ("LOCALID", "0"), ("GLOBALID", "0")):
        monkeypatch.setenv(f"SUBMITIT_LOCAL_{name}", value)
    ledger = Ledger(tmp_path / "ledger")
    ledger.check_writable()
    return RunJob(
        ledger_folder=ledger.folder,
        ledger_id=ledger.id,
        timeout_min=5,
        host="login",
        experiment=make_experiment(ledger__folder=str(ledger.folder)),
        folder=tmp_path / "0",
        group="sweep",
    )


def test_a_job_that_never_comes_to_a_save_is_not_requeued_for_ever(
    job: RunJob, monkeypatch: pytest.MonkeyPatch
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


def test_a_job_trains_its_run(job: RunJob) -> None:
    job()
    assert (job.folder / "metrics.csv").read_text().count("\n") == 1 + 6


def test_a_node_that_sees_another_ledger_does_not_train(job: RunJob) -> None:
    (job.ledger_folder / "id").write_text("of another machine's disk")
    with pytest.raises(InputError, match="does not see there what login has written; it must be on a file system that"):
        job()
    assert not job.folder.exists()
