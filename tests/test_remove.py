import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import make_record
from conftest import MakeExperiment
from fake_runs import FakeRun

from rescaler.checkpoint import digest
from rescaler.cli import main
from rescaler.execution import execute
from rescaler.ledger import Ledger
from rescaler.sweep import Sweep

KEYS = {name: name * 32 for name in "abc"}


class Project:
    """Runs, and the ledger of their states."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ledger = folder, Ledger(folder / "ledger")
        self.ledger.check_writable()

    def run(self, name: str, *keys: str, run_id: str | None = None, **changes: Any) -> Path:
        """A run that holds states."""
        folder = FakeRun(0, [0.5] * 4, **changes).write(self.folder / name)
        (folder / "chain.json").write_text(json.dumps({"ledger": os.path.relpath(self.ledger.folder, folder)}))
        for key in keys:
            tensors = {"network.weight": torch.ones(3)}
            self.ledger.publish(make_record(KEYS[key], digest=digest(tensors)), tensors)
            self.ledger.hold(KEYS[key], run_id or name, folder)
        return folder

    def states(self) -> str:
        return "".join(name for name, key in KEYS.items() if self.ledger.state_path(key).exists())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def remove(*arguments: str | Path) -> None:
    main(["remove", *map(str, arguments)])


def test_what_another_run_holds_stays(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = project.run("one", "a", "b"), project.run("other", "b", "c")
    project.ledger.save(KEYS["a"], {}, {})
    remove(one)
    foreseen = capsys.readouterr().out
    assert (one.is_dir(), project.states()) == (True, "abc"), "without --yes nothing is removed"
    assert foreseen.splitlines()[0] == str(one)
    before = project.ledger.size_bytes()
    remove(one, "--yes")
    assert (one.exists(), other.is_dir(), project.states()) == (False, True, "bc")
    told = capsys.readouterr().out.strip()
    assert foreseen.splitlines()[1] == told.replace("removed", "would remove") + ": repeat with --yes to remove"
    assert f"2 states that no other run needs ({(before - project.ledger.size_bytes()) / 1e6:,.1f} MB)" in told
    assert project.ledger.saved(KEYS["a"]) is None
    assert project.ledger.holders(KEYS["b"]) == {"other"}
    assert project.ledger.record(KEYS["a"]) is not None, "records stay"


def test_a_copy_of_the_run_and_a_trunk_keep_their_states(project: Project) -> None:
    one = project.run("one", "a", "b", run_id="same")
    project.run("copy", "a", run_id="same")
    trunk = project.folder / "trunk"
    trunk.mkdir()
    project.ledger.hold(KEYS["b"], "same", trunk)
    remove(one, "--yes")
    assert project.states() == "ab"


def test_states_shared_by_the_runs_removed_together_go_and_those_that_no_run_held_stay(project: Project) -> None:
    folders = [project.run(name, "a", "b") for name in ("one", "two")]
    project.run("gone", "c")
    remove(*folders, folders[0], "--yes")
    assert project.states() == "c"


@pytest.mark.parametrize(("damaged", "content"), [("one/chain.json", b"{"), ("ledger/holds/??/*/*", b"\xff\0")])
def test_a_run_whose_holds_cannot_be_read_is_removed_alone(project: Project, damaged: str, content: bytes) -> None:
    one = project.run("one", "a")
    (path,) = project.folder.glob(damaged)
    path.write_bytes(content)
    remove(one, "--yes")
    assert (one.exists(), project.states()) == (False, "a"), "the states are left to prune"


def test_a_branch_of_a_removed_run_keeps_what_it_resumes_from(tmp_path: Path, make_experiment: MakeExperiment) -> None:
    ledger = Ledger(tmp_path / "ledger")
    runs = {name: tmp_path / name for name in ("first", "second")}
    branch = make_experiment(ledger__folder=str(ledger.folder), resize_epoch=4)
    execute(make_experiment(ledger__folder=str(ledger.folder), resize_epoch=3), runs["first"], group="")
    execute(branch, runs["second"], group="")
    kept = {key for key in _read(runs["second"], "epochs") if runs["second"] in _holders(ledger, key)}
    own = {key for key in _read(runs["first"], "epochs") if ledger.state_path(key).exists()} - kept
    assert len(kept) == len(own) == 2, "before its rescale, and its last"
    remove(runs["first"], "--yes")
    assert all(ledger.state_path(key).exists() for key in kept)
    assert not any(ledger.state_path(key).exists() for key in own)
    (runs["second"] / "model.safetensors").unlink()
    execute(branch, runs["second"], group="")
    assert _read(runs["second"], "reused") == [True] * 6
    assert (runs["second"] / "model.safetensors").is_file()


def _read(folder: Path, name: str) -> list[Any]:
    found: list[Any] = json.loads((folder / "chain.json").read_text())[name]
    return found


def _holders(ledger: Ledger, key: str) -> set[Path]:
    holds = (ledger.folder / "holds" / key[:2] / key).glob("*")
    return {Path(os.path.normpath(ledger.folder / hold.read_text())) for hold in holds}


def test_a_run_or_a_sweep_in_use_is_refused(project: Project) -> None:
    first = project.run("sweep/0", "b")
    sweep = Sweep(project.folder / "sweep", [])
    sweep.write()
    with sweep.owned(), pytest.raises(SystemExit, match=r"^error: the sweep of .*0 is in use by"):
        remove(first, "--yes")
    assert first.is_dir()
    one = project.run("one", "a", status="running")
    with pytest.raises(SystemExit, match=r"^error: .*one is being trained: cancel it first, or wait 10 minutes"):
        remove(one, "--yes")
    long_ago = time.time() - 3600
    os.utime(one / "summary.json", (long_ago, long_ago))
    remove(one, "--yes")
    assert not one.exists()


def test_a_run_that_another_starts_from_is_refused(project: Project) -> None:
    one, other = project.run("one", "a"), project.run("other", "b")
    (other / "config.yaml").write_text(f"init: {{from: {one}/model.safetensors}}\n")
    with pytest.raises(SystemExit, match=r"^error: .*one is where .*other starts from \(init.from\)"):
        remove(one, "--yes")
    remove(one, other, "--yes")
    assert project.states() == ""


def test_bad_input_removes_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    one = project.run("runs/one", "a")
    link = project.folder / "link"
    link.symlink_to(one)
    outer = project.run("outer")
    project.run("outer/inner")
    for bad, message in [
        (project.folder / "gone", "is no run's folder: it must have a summary.json"),
        (project.folder / "runs", "is no run's folder"),
        (link, "is a link: give the folder of the run itself"),
        (outer, "has another run in it, .*inner: remove that one first"),
    ]:
        with pytest.raises(SystemExit, match=f"^error: .*{message}"):
            remove(one, bad, "--yes")
    monkeypatch.chdir(one)
    with pytest.raises(SystemExit, match="is the working folder, or above it"):
        remove(one, "--yes")
    assert (one.is_dir(), project.states()) == (True, "a")


def test_a_folder_that_cannot_be_removed_keeps_its_states(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "chain.json")  # a name below the folder, as rmtree's

    one = project.run("runs/one", "a")
    monkeypatch.setattr("shutil.rmtree", refuse)
    with pytest.raises(SystemExit, match=f"^error: cannot remove {one}: Permission denied$"):
        remove(one, "--yes")
    assert project.states() == "a"


def test_a_ledger_in_the_folder_of_a_run_is_not_removed(tmp_path: Path) -> None:
    one = FakeRun(0, [0.5] * 4).write(tmp_path / "one")
    (one / "chain.json").write_text(json.dumps({"ledger": "ledger"}))
    Ledger(one / "ledger").check_writable()
    with pytest.raises(SystemExit, match="is a ledger, in the folder of a run to remove: move it first"):
        remove(one, "--yes")
