"""A real SLURM on this host for the tests, and the sweeps that they start on it."""

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from processes import wait_until

from rescaler.errors import InputError
from rescaler.sweep import Sweep, newest
from rescaler.sweep.status import RunStatus, statuses

COMMANDS = ("slurmctld", "slurmd", "sbatch", "munged")
DATA = ["data=synthetic", "data.train_images=200", "data.test_images=100", "device=cpu", "logger=none"]
SHORT = [
    *DATA,
    "model._target_=networks.slow",
    "schedule.epochs=6",
    "schedule.batches_per_epoch=5",
    "schedule.milestones=[4]",
    "schedule.learning_rates=[0.03,0.01]",
    "optim.batch_size=16",
]
"""A run of 30 steps, each of which takes as long as ``BATCH_S`` says."""
STEPS = 30
ON_SLURM = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.cpus_per_task=1"]
DETACHED = [*ON_SLURM, "hydra.launcher.detach=true"]
HOLD = "+hydra.launcher.additional_parameters={hold: true}"
MAX_ARRAY = 6
_SCRIPT = Path(__file__).with_name("slurm_cluster.sh")
_ROOT = ("/usr/sbin", "/sbin")
"""Where Debian has the daemons."""


def missing() -> list[str]:
    """Which of SLURM's commands this machine lacks."""
    return [name for name in COMMANDS if not shutil.which(name, path=os.pathsep.join((os.environ["PATH"], *_ROOT)))]


class SlurmCluster:
    """Virtual nodes on this host, with their files in ``folder`` (a short path: sockets are in it)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_SCRIPT.parent), "COLUMNS": "200"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # each process would compile torch anew
        self.environment: Mapping[str, str] = environment | {
            "SLURM_CONF": str(folder / "etc" / "slurm.conf"),
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }

    def script(self, command: str, *arguments: str, **settings: str) -> None:
        """Start or stop the cluster, or break and mend a node: see the head of the script."""
        subprocess.run(
            ["bash", _SCRIPT, command, self._folder, *arguments],
            env={**self.environment, **settings},
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def call(self, *command: str) -> str:
        """Output of one of SLURM's commands."""
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def node_of(self, job: str) -> str:
        """Node that runs a job; empty where none does."""
        return self.call("squeue", "--noheader", "--array", f"--jobs={job}", "--Format=NodeList:32").strip()

    def kill_daemon(self, node: str) -> None:
        """SLURM's daemon of a node dies, the jobs there go on, and SLURM takes the node for dead at once."""
        os.kill(int((self._folder / "run" / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)
        (self._folder / "run" / f"slurmd-{node}.pid").unlink()
        self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def start(self, folder: Path, *arguments: str, module: str = "rescaler.run", **extra: str) -> subprocess.Popen[str]:
        """Start the application, or with ``module`` another command, in ``folder``."""
        folder.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            env={**self.environment, **extra},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_in_terminal(self, folder: Path, *command: str) -> tuple[subprocess.Popen[bytes], Callable[..., str]]:
        """Start a command in a terminal; also returns what reads on until some text is there, or the command ends."""
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "rescaler", *command],
            cwd=folder,
            env={**self.environment, "TERM": "xterm"},
            stdin=follower,
            stdout=follower,
            stderr=follower,
        )
        os.close(follower)

        def screen(until: str | None = None) -> str:
            text = b""
            with contextlib.suppress(OSError):  # at its end the terminal is gone
                while (until is None or until.encode() not in text) and (written := os.read(leader, 4096)):
                    text += written
            if until is None:
                os.close(leader)
            return text.decode()

        return process, screen


def finish(process: subprocess.Popen[str], timeout_s: float = 180) -> tuple[int, str, str]:
    """Exit code and output of a process, once it is over."""
    try:
        out, error = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, error = process.communicate()
        raise AssertionError(f"not over after {timeout_s:g} s:\n{out}\n{error}") from None
    return process.returncode, out, error


def sweep_in(folder: Path) -> Sweep:
    """The newest sweep that was started in a folder."""
    return Sweep.read(newest(folder / "runs"))


def states(folder: Path) -> dict[str, RunStatus]:
    """How the runs of the newest sweep stand, by name."""
    return {status.name: status for status in statuses(sweep_in(folder))}


def are_submitted(folder: Path) -> bool:
    """Whether the runs of a sweep that was started in a folder have become jobs."""
    try:
        return all(run.job for run in sweep_in(folder).runs)
    except InputError:
        return False


def are_over(folder: Path) -> bool:
    """Whether all runs of the newest sweep are over."""
    return all(status.is_over for status in states(folder).values())


def metrics(folder: Path) -> dict[str, pd.DataFrame]:
    """Epochs of the runs of the newest sweep that came to train, by name."""
    sweep = sweep_in(folder)
    files = {run.name: sweep.folder_of(run) / "metrics.csv" for run in sweep.runs}
    return {name: pd.read_csv(path) for name, path in files.items() if path.exists()}


def digests(folder: Path) -> dict[str, list[str]]:
    """Digests of the states after each epoch of the runs of the newest sweep, by name."""
    return {name: found["digest"].tolist() for name, found in metrics(folder).items()}


def steps(folder: Path, job: str | None = None) -> list[int]:
    """Processes of the training steps that were begun, of one job or of all; see :class:`networks.Pause`."""
    path = folder / "steps.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = [(line + " ").split(" ")[:2] for line in lines]
    return [int(process) for process, of in pairs if job in (None, of)]


def wait_for_steps(count: int, folder: Path, job: str | None = None) -> None:
    """Wait until so many training steps were begun, of one job or of all."""
    wait_until(lambda: len(steps(folder, job)) >= count, f"{count} steps of {job or 'all jobs'}")
