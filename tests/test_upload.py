"""``rescaler upload`` and ``wandb sync`` with W&B's real client, against a stand-in for its server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fake_runs import FakeRun
from wandb_server import Server

TOP1 = [0.5, 0.6, 0.7, 0.8]
TARGET, RESIZED = FakeRun(0, TOP1), FakeRun(2, TOP1)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Of a user who is logged in."""
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server


def write(sweep: Path, *, done: int) -> None:
    """A sweep: the target baseline and a resized run that trained ``done`` of its four epochs."""
    sweep.mkdir(exist_ok=True)
    (sweep / "multirun.yaml").touch()
    status = "done" if done == 4 else "running"
    for number, run in enumerate((TARGET, FakeRun(2, TOP1[:done], status=status))):
        folder = sweep / str(number)
        aside = run.write(sweep.parent / f"new{done}{number}")
        folder.mkdir(exist_ok=True)
        for file in aside.iterdir():
            file.replace(folder / file.name)
        config = {"schedule": {"epochs": 4}, "logger": {"project": "kernels", "tags": ["mine"]}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))


def commands(folder: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """Run in one process of its own, since the client remembers its first environment."""
    code = "import json\nfrom pathlib import Path\nfrom rescaler.cli import main\n" + "\n".join(lines)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_upload_sends_what_is_missing_once(tmp_path: Path, server: Server) -> None:
    target, resized = f"kernels/{TARGET.run}", f"kernels/{RESIZED.run}"
    write(tmp_path / "sweep", done=3)
    FakeRun(1, TOP1).write(tmp_path / "sweep" / "2")
    (tmp_path / "sweep" / "2" / "config.yaml").write_text("[half writ")
    upload = "main(['upload', 'sweep'])"
    first = commands(tmp_path, upload)
    assert "skipped sweep/2, which cannot be read" in first.stderr
    assert "2 of 2 runs sent to W&B, 0 needed nothing" in first.stderr
    assert server.steps(target) == [1, 2, 3, 4]
    assert server.steps(resized) == [1, 2, 3]
    assert json.loads(server.runs[resized]["summary"])["status"] == "running"
    assert (server.runs[resized]["group"], server.runs[resized]["tags"][-2:]) == ("sweep", ["resized", "mine"])

    write(tmp_path / "sweep", done=4)
    read = "from rescaler.loggers.wandb_client import read_project\nprint(json.dumps(read_project('me/kernels')))"
    then = commands(tmp_path, upload, upload, read, "read_project('nothing')")
    assert "1 of 2 runs sent to W&B, 1 needed nothing" in then.stderr
    assert "0 of 2 runs sent to W&B, 2 needed nothing" in then.stderr
    assert server.steps(resized) == [1, 2, 3, 4]
    summary = json.loads(server.runs[resized]["summary"])
    assert (summary["status"], summary["resize_epoch"], summary["best_top1"]) == ("done", 2, 0.8)
    assert (summary["saved_s"], summary["saved_estimated"]) == (16 - 10.5, False)
    assert list((tmp_path / "sweep" / "1").glob("wandb*")) == []

    assert "InputError: no W&B project 'nothing': it must exist, and your login must see it" in then.stderr
    copies = {summary["run"]: (summary, epochs) for _, summary, epochs in json.loads(then.stdout)}
    for folder in ("0", "1"):
        expected = json.loads((tmp_path / "sweep" / folder / "summary.json").read_text())
        summary, epochs = copies[expected["run"]]
        assert summary.items() >= expected.items()
        assert [epoch["test_top1"] for epoch in epochs] == TOP1


def test_offline_files_of_all_attempts_are_sent_by_one_command(tmp_path: Path, server: Server) -> None:
    upload = "main(['upload', 'sweep', '--offline', '--project', 'other', '--group', 'mine'])"
    write(tmp_path / "sweep", done=3)
    assert "2 of 2 runs written" in commands(tmp_path, upload).stderr
    write(tmp_path / "sweep", done=4)
    again = commands(tmp_path, upload, upload)
    assert "1 of 2 runs written" in again.stderr
    assert "0 of 2 runs written" in again.stderr
    assert server.runs == {}

    wandb = f"{sys.executable} -m wandb"
    command = f"find sweep -type d -name wandb -exec {wandb} sync {{}} +"
    assert command.replace(wandb, "wandb") in again.stderr
    for _ in range(2):
        subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=True)
        assert server.steps(f"other/{TARGET.run}") == [1, 2, 3, 4]
        assert server.steps(f"other/{RESIZED.run}") == [1, 2, 3, 4]
    sent = server.runs[f"other/{RESIZED.run}"]
    assert (sent["state"], sent["group"]) == ("finished", "mine")


@pytest.mark.usefixtures("server")
def test_a_user_who_is_not_logged_in_reads_one_line_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    write(tmp_path / "sweep", done=4)
    refused = commands(tmp_path, "main(['upload', 'sweep'])")
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == ["error: not logged in to W&B: run `wandb login`, or set WANDB_API_KEY"]
