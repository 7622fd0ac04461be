"""Sweeps on a real SLURM: what must hold however jobs fail, are preempted, time out or lose their node."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import image_tree
import pandas as pd
import pytest
from processes import wait_until
from slurm_cluster import (
    DATA,
    DETACHED,
    HOLD,
    ON_SLURM,
    SHORT,
    STEPS,
    SlurmCluster,
    are_over,
    are_submitted,
    digests,
    finish,
    metrics,
    states,
    steps,
    sweep_in,
    wait_for_steps,
)

from rescaler.ledger import Ledger
from rescaler.loggers.wandb_client import fragments

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def undisturbed(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """Epochs of the runs of ``SHORT``, by seed, as this machine trains them."""
    folder = tmp_path_factory.mktemp("local")
    code, _, error = finish(cluster.start(folder, "-m", "seed=0,1,2,3,4", "resize_epoch=3", *SHORT))
    assert code == 0, error
    return metrics(folder)


def start_within_two_minutes(cluster: SlurmCluster, folder: Path, *settings: str, **environment: str) -> None:
    """Submit runs, of which a job has two minutes and a minute's warning, to a node of their own."""
    launch = cluster.start(
        folder,
        *("-m", "resize_epoch=3", *SHORT, *DETACHED, *settings),
        *("hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=60"),
        "+hydra.launcher.additional_parameters={nodelist: node5}",
        **environment,
    )
    assert finish(launch)[0] == 0


@pytest.fixture(scope="module")
def timed_out(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that takes longer than its time limit, several times over; started first and looked at last."""
    folder = tmp_path_factory.mktemp("timed_out")
    start_within_two_minutes(cluster, folder, "seed=4", "logger.mode=offline", BATCH_S="6")
    return folder


@pytest.fixture(scope="module")
def too_short(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two runs that end at their time limit: one that takes too long to start, one that has long steps."""
    folder = tmp_path_factory.mktemp("too_short")
    slow_start = "hydra.launcher.setup=['[ $SLURM_ARRAY_TASK_ID = 1 ] || export BUILD_S=300']"
    start_within_two_minutes(cluster, folder, "seed=0,1", slow_start, BATCH_S="300")
    return folder


@pytest.mark.usefixtures("timed_out", "too_short")
def test_an_array_behind_its_trunk_gives_what_this_machine_gives(cluster: SlurmCluster, tmp_path: Path) -> None:
    arguments = ["-m", "resize_epoch=17,18,19,20", *DATA, "+model.widths=[4,8,8]"]
    arguments += ["schedule.batches_per_epoch=5", "optim.batch_size=16"]
    here, there = tmp_path / "here", tmp_path / "there"
    jobs = cluster.start(there, *arguments, *ON_SLURM)
    code, _, error = finish(cluster.start(here, *arguments))
    assert code == 0, error
    code, out, error = finish(jobs)
    assert code == 0, error
    assert "4 done" in out
    assert "Resized at epoch 20" in out

    assert digests(there) == digests(here)
    assert len(list(there.glob("**/model.safetensors"))) == 4
    assert all(len(found) == 55 for found in digests(there).values())
    # 20 epochs before any rescale, then those of each run alone.
    assert len(list(Ledger(there / "ledger").records())) == 20 + (55 - 17) + (55 - 18) + (55 - 19) + (55 - 20)
    reused = {name: int(found["reused"].sum()) for name, found in metrics(there).items()}
    # The trunk ends where no two runs go on together: the 20th epoch is one run's alone.
    assert reused == {"resize_epoch=17": 17, "resize_epoch=18": 18, "resize_epoch=19": 19, "resize_epoch=20": 19}
    jobs_of_runs = {run.job for run in sweep_in(there).runs}
    assert len({(job or "").partition("_")[0] for job in jobs_of_runs}) == 1, "one array"


def test_a_run_that_loses_its_job_goes_on_bit_for_bit(
    cluster: SlurmCluster, tmp_path: Path, undisturbed: dict[str, pd.DataFrame]
) -> None:
    seeds = ["seed=0", "seed=1", "seed=2", "seed=3"]
    launch = cluster.start(
        tmp_path,
        *("-m", "seed=0,1,2,3", "resize_epoch=3", *SHORT, *DETACHED, "hydra.launcher.cpus_per_task=3"),
        "checkpoint_every_min=0.01",
        BATCH_S="1",
    )
    code, out, error = finish(launch)
    assert code == 0, error
    assert "python -m rescaler status" in out
    runs = {run.name: run.job or "" for run in sweep_in(tmp_path).runs}
    requeued, preempted, died, abandoned = (runs[seed] for seed in seeds)
    for job in runs.values():
        wait_for_steps(8, tmp_path, job)
    nodes = {job: cluster.node_of(job) for job in runs.values()}
    assert len(set(nodes.values())) == 4

    cluster.call("scontrol", "requeue", requeued)
    urgent = ["--partition=urgent", f"--nodelist={nodes[preempted]}", "--cpus-per-task=4"]
    cluster.call("sbatch", *urgent, "--output=/dev/null", "--wrap=sleep 1")
    cluster.script("fail", nodes[died])
    cluster.kill_daemon(nodes[abandoned])
    for node in (nodes[died], nodes[abandoned]):
        cluster.script("up", node)
    wait_until(lambda: all(status.detail for status in states(tmp_path).values()), "all are requeued")
    wait_until(lambda: are_over(tmp_path), "all runs are over")

    found = states(tmp_path)
    assert {status.state for status in found.values()} == {"done"}
    assert {status.detail for status in found.values()} == {"requeued 1 time"}
    for seed in seeds:
        assert digests(tmp_path)[seed] == undisturbed[seed]["digest"].tolist()
    trained = {job: len(steps(tmp_path, job)) for job in runs.values()}
    assert trained[preempted] == STEPS, "the save at the warning signal lost something"
    assert max(trained[requeued], trained[died]) <= STEPS + 2, "more than the part since the last save"


def write_case(folder: Path, name: str, images: str = "synthetic", **changes: dict[str, Any]) -> None:
    """An experiment file for ``--config-dir``: ``SHORT`` with some changes."""
    case: dict[str, Any] = {
        "defaults": [{"override /model": "overfeat_small"}, {"override /data": images}],
        "name": "cases",
        "model": {"_target_": "networks.slow"},
        "data": {"train_images": 200, "test_images": 100},
        "schedule": {"epochs": 6, "batches_per_epoch": 5, "milestones": [4], "learning_rates": [0.03, 0.01]},
        "optim": {"batch_size": 16},
    }
    case |= {key: {**case[key], **change} for key, change in changes.items()}
    (folder / "experiment").mkdir(parents=True, exist_ok=True)
    (folder / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{json.dumps(case)}\n")


def test_what_fails_is_named_and_tried_again_and_the_rest_finishes(
    cluster: SlurmCluster, tmp_path: Path, undisturbed: dict[str, pd.DataFrame]
) -> None:
    cases, images = tmp_path / "cases", image_tree.plant(tmp_path / "images")
    write_case(cases, "good")
    write_case(cases, "diverges", schedule={"learning_rates": [1e9, 1e9]})
    write_case(cases, "killed", schedule={"learning_rates": [0.02, 0.01]})
    write_case(cases, "memory", model={"scratch_gb": 1000})
    files = {"folder": str(images), "image_px": 28, "classes": 2, "channels": 3, "workers": 0}
    files |= {"train_images": 0, "test_images": 0}  # all that are there
    write_case(cases, "files", "imagenet", data=files, optim={"batch_size": 2})
    arguments = ["-m", "--config-dir", "cases", "experiment=good,diverges,killed,memory,files", "resize_epoch=3"]
    arguments += ["device=cpu", "logger=none", *ON_SLURM, "hydra.launcher.setup=['ulimit -v 60000000']"]
    launch = cluster.start(tmp_path, *arguments, HOLD, BATCH_S="0.5")
    wait_until(lambda: are_submitted(tmp_path) or launch.poll() is not None, "the jobs are submitted")
    assert launch.poll() is None, finish(launch)

    jobs = {run.name.partition("=")[2]: run.job or "" for run in sweep_in(tmp_path).runs}
    assert {status.state for status in states(tmp_path).values()} == {"waiting"}
    images.rename(tmp_path / "elsewhere")
    write_case(cases, "good", schedule={"learning_rates": [0.5, 0.5]})  # what was submitted is frozen
    for job in jobs.values():
        cluster.call("scontrol", "release", job)
    for name in ("good", "killed"):
        wait_for_steps(8, tmp_path, jobs[name])
    os.kill(steps(tmp_path, jobs["killed"])[-1], signal.SIGKILL)
    cluster.call("scontrol", "requeue", jobs["good"])
    code, out, error = finish(launch)
    assert code == 1
    assert "Resized at epoch 3" in out

    found = {name.partition("=")[2]: status for name, status in states(tmp_path).items()}
    told = {name: (status.state, status.detail) for name, status in found.items()}
    assert told["good"] == ("done", "requeued 1 time")
    assert told["killed"] == ("lost", f"its job {jobs['killed']} ended without a word (FAILED)")
    assert told["files"][1].startswith(f"data.folder={images} must hold train/<class>/*.JPEG")
    assert told["files"][0] == told["diverges"][0] == told["memory"][0] == "failed"
    assert "the loss became nan in epoch 1" in told["diverges"][1]
    assert told["memory"][1].startswith("the device's memory is too small; lower step.micro_batch_size")
    last = error.splitlines()[-1]
    assert last.startswith("error: 4 of 5 runs failed: experiment=diverges: the loss became nan")
    for name in ("diverges", "killed", "memory", "files"):
        assert f"experiment={name}: {told[name][1]}" in last
    assert digests(tmp_path)["experiment=good"] == undisturbed["seed=0"]["digest"].tolist()

    (tmp_path / "elsewhere").rename(images)
    retry = cluster.start(tmp_path, "retry", module="rescaler", BATCH_S="0")
    code, _, error = finish(retry)
    assert code == 1
    assert error.splitlines()[-1].startswith("error: 2 of 5 runs failed: experiment=diverges")
    again = {run.name.partition("=")[2]: run.job or "" for run in sweep_in(tmp_path).runs}
    assert [name for name, job in again.items() if job == jobs[name]] == ["good"]
    assert [status.state for status in states(tmp_path).values()] == ["done", "failed", "done", "failed", "done"]


def test_two_sweeps_at_once_share_a_ledger_and_a_third_finds_all_done(
    cluster: SlurmCluster, tmp_path: Path, undisturbed: dict[str, pd.DataFrame]
) -> None:
    arguments = ["-m", "resize_epoch=2,3", *SHORT, *ON_SLURM, f"ledger.folder={tmp_path / 'ledger'}"]
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for launch in [cluster.start(folder, *arguments, BATCH_S="0.1") for folder in (one, two)]:
        code, _, error = finish(launch)
        assert code == 0, error
    assert digests(one) == digests(two)
    assert digests(one)["resize_epoch=3"] == undisturbed["seed=0"]["digest"].tolist()
    assert len(list(Ledger(tmp_path / "ledger").records())) == 2 + (6 - 2) + (6 - 2)
    code, out, error = finish(cluster.start(tmp_path, "ledger", "verify", module="rescaler"))
    assert code == 0, error
    assert "entries are whole" in out

    code, _, error = finish(cluster.start(three, *arguments, BATCH_S="0.1"))
    assert code == 0, error
    assert digests(three) == digests(one)
    assert steps(three) == []
    assert sweep_in(three).trunk_jobs == {}


def test_two_processes_learn_what_one_does_and_are_requeued_together(
    cluster: SlurmCluster, tmp_path: Path, undisturbed: dict[str, pd.DataFrame]
) -> None:
    arguments = ["-m", "seed=0", "resize_epoch=3", *SHORT, *DETACHED, "hydra.launcher.processes_per_node=2"]
    code, _, error = finish(cluster.start(tmp_path, *arguments, BATCH_S="0.5"))
    assert code == 0, error
    (run,) = sweep_in(tmp_path).runs
    wait_for_steps(2 * 8, tmp_path)
    cluster.call("scancel", "--signal=USR2", run.job or "")
    wait_until(lambda: are_over(tmp_path), "the run is over")
    (status,) = states(tmp_path).values()
    assert (status.state, status.detail) == ("done", "requeued 1 time")
    (found,), expected = metrics(tmp_path).values(), undisturbed["seed=0"]
    assert found["stage"].tolist() == ["pretrain"] * 3 + ["target"] * 3
    for loss in ("train_loss", "test_loss"):
        assert found[loss].tolist() == pytest.approx(expected[loss].tolist(), rel=1e-4)
    assert 2 * STEPS <= len(steps(tmp_path)) <= 2 * STEPS + 1  # the second process was ahead when the first saved


@pytest.mark.parametrize("launcher", ["submitit_local", "submitit_slurm"])
def test_hydras_own_launchers_run_the_application(
    cluster: SlurmCluster, tmp_path: Path, undisturbed: dict[str, pd.DataFrame], launcher: str
) -> None:
    arguments = [
        "-m",
        "seed=0,1",
        "resize_epoch=3",
        *SHORT,
        f"hydra/launcher={launcher}",
        "hydra.launcher.timeout_min=5",
    ]
    code, _, error = finish(cluster.start(tmp_path, *arguments))
    assert code == 0, error
    found = {json.loads(path.read_text())["seed"]: path.parent for path in tmp_path.rglob("summary.json")}
    assert sorted(found) == [0, 1]
    for seed, folder in found.items():
        digest = pd.read_csv(folder / "metrics.csv")["digest"].tolist()
        assert digest == undisturbed[f"seed={seed}"]["digest"].tolist()


def test_a_ledger_that_the_node_does_not_see_is_named(cluster: SlurmCluster, tmp_path: Path) -> None:
    code, _, error = finish(cluster.start(tmp_path, "-m", *SHORT, *DETACHED, HOLD))
    assert code == 0, error
    (tmp_path / "ledger" / "id").write_text("of another machine's disk")
    (run,) = sweep_in(tmp_path).runs
    cluster.call("scontrol", "release", run.job or "")
    wait_until(lambda: are_over(tmp_path), "the run is over")
    (status,) = states(tmp_path).values()
    assert status.state == "failed"
    assert status.detail.startswith(f"ledger.folder={tmp_path / 'ledger'}: the node ")
    assert status.detail.endswith("it must be on a file system that all nodes share")


@pytest.mark.usefixtures("undisturbed")
def test_a_time_limit_too_short_for_a_save_ends_it(too_short: Path) -> None:
    wait_until(lambda: are_over(too_short), "the runs are over", timeout_s=200)
    start, step = (states(too_short)[f"seed={seed}"] for seed in (0, 1))
    assert (start.state, step.state) == ("failed", "lost")
    assert start.detail.startswith("hydra.launcher.timeout_min=2 is too short: 2 times in a row")
    assert step.detail == "its time limit passed before it could save"


def test_a_time_limit_shorter_than_the_run_is_normal_life(
    timed_out: Path, undisturbed: dict[str, pd.DataFrame]
) -> None:
    wait_until(lambda: are_over(timed_out), "the run is over", timeout_s=300)
    (status,) = states(timed_out).values()
    assert status.state == "done"
    assert int(status.detail.split()[1]) >= 2
    assert digests(timed_out)[status.name] == undisturbed["seed=4"]["digest"].tolist()
    assert len(steps(timed_out)) == STEPS, "a save at the warning signal lost something"
    sweep = sweep_in(timed_out)
    folder = sweep.folder_of(sweep.runs[0])
    wait_until(lambda: any(found.state == "finished" for found in fragments(folder)), "the run is mirrored")
    (mirror,) = fragments(folder)  # the attempts are one run of W&B, with every epoch once
    assert mirror.run == json.loads((folder / "summary.json").read_text())["run"]
    assert sorted(mirror.rows) == [1, 2, 3, 4, 5, 6]
