import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import wait_until
from torch.utils.data import DataLoader, Dataset

from rescaler.data.folder import obey_parent, workers_alive

ORPHANS = """
import os, signal
from test_workers import Items, workers
from torch.utils.data import DataLoader
from rescaler.data.folder import obey_parent

options = {"num_workers": 1, "prefetch_factor": 16, "worker_init_fn": obey_parent}
pending = iter(DataLoader(Items(1_000_000), batch_size=None, **options))
open("pid", "w").write(str(workers()[0]))
next(pending)
os.kill(os.getpid(), signal.SIGKILL)
"""
"""A process that is killed while its worker, on a full pipe, waits for it."""


class Items(Dataset[bytes]):
    """Items of some bytes each."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __getitem__(self, index: int) -> bytes:
        return bytes(self._size)

    def __len__(self) -> int:
        return 100


def workers() -> list[int]:
    """Numbers of the processes that this one has started."""
    return [int(number) for number in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


@pytest.fixture
def loader() -> DataLoader[bytes]:
    return DataLoader(Items(1), batch_size=None, num_workers=1, worker_init_fn=obey_parent)


def test_a_worker_ends_for_its_parent_alone(loader: DataLoader[bytes]) -> None:
    items = workers_alive(loader)
    next(items)
    (worker,) = workers()
    subprocess.run(["kill", "-TERM", str(worker)], check=True)  # as the system does to all processes of a job
    assert len(list(items)) == 99
    items = workers_alive(loader)
    next(items)
    (worker,) = workers()
    os.kill(worker, signal.SIGTERM)
    _, status = os.waitpid(worker, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_worker_of_a_fork_server_ends_for_its_parent() -> None:
    options = {"num_workers": 1, "worker_init_fn": obey_parent, "multiprocessing_context": "forkserver"}
    pending = iter(DataLoader(Items(1), batch_size=None, **options))  # type: ignore[arg-type]
    next(pending)
    (worker,) = pending._workers  # type: ignore[attr-defined]
    worker.terminate()
    worker.join(timeout=10)
    assert worker.exitcode == 0


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    paths = {"PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run(
        [sys.executable, "-c", ORPHANS], cwd=tmp_path, env=os.environ | paths, stderr=subprocess.DEVNULL, check=False
    )
    worker = int((tmp_path / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the worker has ended")
