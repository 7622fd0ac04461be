"""What is made of the words of SLURM's commands, here stand-ins on the path."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rescaler.errors import InputError
from rescaler.sweep.scheduler import JobState, cancel, complaint, max_array_size, states

Command = Callable[[str, str], None]

QUEUE = """
71_0      PENDING    0
71_1      RUNNING    2
71_2      OUT_OF_MEMORY    1
99        RUNNING    N/A
"""
ACCOUNTS = """
60|COMPLETED
61|CANCELLED by 0
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Puts a command, given as lines of a shell script, on a path that has no other."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return put


def says(text: str) -> str:
    return f"echo '{text.strip()}'"


def test_accounting_knows_what_the_queue_has_forgotten(command: Command) -> None:
    command("squeue", says(QUEUE))
    command("sacct", says(ACCOUNTS))
    assert states(["71_0", "71_1", "71_2", "60", "61", "62"]) == {
        "71_0": JobState("PENDING"),
        "71_1": JobState("RUNNING", 2),
        "71_2": JobState("OUT_OF_MEMORY", 1),
        "60": JobState("COMPLETED"),
        "61": JobState("CANCELLED"),
        "62": JobState(""),
    }


def test_without_accounting_what_the_queue_has_forgotten_is_over(command: Command) -> None:
    command("squeue", says(QUEUE))
    found = states(["71_0", "60"])
    assert found["60"] == JobState("")
    assert {job: state.is_over for job, state in found.items()} == {"71_0": False, "60": True}


def test_a_cluster_that_does_not_answer_is_said(command: Command) -> None:
    with pytest.raises(InputError, match="no squeue on the path: look at a sweep of SLURM jobs where"):
        states(["71_0"])
    command("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(InputError, match="^squeue: Unable to contact slurm controller$"):
        states(["71_0"])


def test_a_refused_cancellation_is_said_if_jobs_are_left(command: Command) -> None:
    command("squeue", says(QUEUE))
    command("scancel", "echo 'scancel: error: Access/permission denied' >&2; exit 1")
    cancel(["71_2", "60"])  # both are over
    with pytest.raises(InputError, match="^scancel: Access/permission denied; still there: 71_1$"):
        cancel(["71_1", "60"])


def test_the_size_of_an_array_is_the_clusters(command: Command) -> None:
    command("scontrol", says("MaxArraySize            = 77"))
    assert max_array_size() == 77
    command("scontrol", says("MaxJobCount             = 10000"))
    assert max_array_size() == 1000


def test_a_complaint_says_everything_once() -> None:
    text = "sbatch: error: bad partition\n\nsbatch: error: bad partition\nsbatch: error: Batch job submission failed\n"
    assert complaint(text) == "bad partition; Batch job submission failed"
    assert complaint("") == "failed without a word"
