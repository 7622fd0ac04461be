import errno
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import make_record
from torch import Tensor

from rescaler import checkpoint
from rescaler import ledger as ledger_module
from rescaler.checkpoint import digest
from rescaler.cli import main
from rescaler.errors import InputError
from rescaler.files import write_text
from rescaler.ledger import Ledger
from rescaler.record import Record

KEY, OTHER = "ab" + "0" * 30, "cd" + "0" * 30


def tensors(value: float) -> dict[str, Tensor]:
    return {"network.weight": torch.full((2, 3), float(value))}


def record(key: str = KEY, value: float = 1.0, **changes: Any) -> Record:
    return make_record(key, **{"digest": digest(tensors(value)), **changes})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def test_an_entry_is_load_cached(ledger: Ledger) -> None:
    published = ledger.publish(record(), tensors(1))
    assert ledger.record(KEY) == published == record()
    state = ledger.state(KEY)
    assert state is not None
    assert torch.equal(state["network.weight"], tensors(1)["network.weight"])
    assert ledger.record(OTHER) is None


def test_first_writer_wins(ledger: Ledger) -> None:
    first = ledger.publish(record(train_s=1.0), tensors(1))
    assert ledger.publish(record(value=2.0), tensors(2)) == first
    state = ledger.state(KEY)
    assert state is not None
    assert digest(state) == first.digest


def test_a_removed_state_is_put_back_under_its_first_record(ledger: Ledger) -> None:
    first = ledger.publish(record(), tensors(1))
    ledger.state_path(KEY).unlink()
    assert ledger.publish(record(train_s=9.0), tensors(1)) == first
    assert ledger.state(KEY) is not None

    # Other bits, as a GPU may give: the record is immutable, so that the epochs after it stay what they are.
    ledger.state_path(KEY).unlink()
    assert ledger.publish(record(value=2.0), tensors(2)) == first
    state = ledger.state(KEY)
    assert state is not None
    assert torch.equal(state["network.weight"], tensors(2)["network.weight"])


@pytest.mark.parametrize("keep_bytes", [0, 100, 700])
def test_a_truncated_state_is_named_and_not_trusted(
    ledger: Ledger, keep_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    published = ledger.publish(record(), tensors(1))
    path = ledger.state_path(KEY)
    os.truncate(path, keep_bytes)
    with caplog.at_level(logging.WARNING):
        assert ledger.state(KEY) is None
    assert f"damaged ledger entry {path}" in caplog.text
    assert ledger.publish(record(), tensors(1)) == published
    assert ledger.state(KEY) is not None


def test_a_state_with_other_content_is_not_trusted(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    published = ledger.publish(record(), tensors(1))
    checkpoint.write(ledger.state_path(KEY), tensors(3), known_digest=published.digest, more={"key": KEY})
    assert ledger.state(KEY) is None
    assert "damaged ledger entry" in caplog.text


def test_wherever_a_state_is_cut_off_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    checkpoint.write(path, {"weight": torch.ones(300_000)})
    for size in range(path.stat().st_size - 1, 0, -99_991):
        os.truncate(path, size)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            checkpoint.read(path)


def test_a_damaged_state_is_set_aside_and_prune_removes_it(ledger: Ledger, tmp_path: Path) -> None:
    ledger.publish(record(), tensors(1))
    ledger.save(KEY, tensors(1), {})
    ledger.hold(KEY, "run", tmp_path)
    for path in (ledger.state_path(KEY), ledger.folder / "saves" / f"{KEY}.safetensors"):
        path.write_bytes(b"not a state")
    assert ledger.state(KEY) is None
    assert ledger.saved(KEY) is None
    assert {path.read_bytes() for path in ledger.folder.rglob("*.damaged")} == {b"not a state"}
    assert len(list(ledger.folder.rglob("*.damaged"))) == 2
    ledger.prune()
    assert list(ledger.folder.rglob("*.damaged")) == []


UNREADABLE = [
    (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
    (MemoryError(), "there is too little memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate"), "too little memory"),
]


@pytest.mark.parametrize(("error", "reason"), UNREADABLE)
def test_a_state_that_cannot_be_read_now_stays(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    ledger.publish(record(), tensors(1))
    ledger.save(KEY, tensors(1), {})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        for read in (ledger.state, ledger.saved):
            with pytest.raises(InputError, match=f"^cannot read .*{KEY}.*: .*{reason}"):
                read(KEY)
    assert ledger.state(KEY) is not None
    assert ledger.saved(KEY) is not None


def test_a_record_that_cannot_be_read_now_stays(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    first = ledger.publish(record(), tensors(1))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", fail)
        with pytest.raises(InputError, match=r"^cannot read .*record\.json: Input/output error$"):
            ledger.publish(record(value=2.0), tensors(2))
    assert ledger.record(KEY) == first


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from rescaler.errors import InputError
from rescaler.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 80_000_000,) * 2)  # the state takes 160
try:
    ledger.state(sys.argv[2])
except InputError as error:
    sys.exit(str(error))
"""
"""Of its own interpreter, in which nothing is left to be freed: with a little more room libraries abort or hang."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits the address space")
def test_a_process_with_too_little_memory_deletes_nothing(ledger: Ledger) -> None:
    ledger.publish(record(), {"network.weight": torch.zeros(40_000_000)})
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(ledger.folder), KEY]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "there is too little memory" in ended.stderr
    assert ledger.state_path(KEY).exists()


def test_a_panic_of_safetensors_for_lack_of_memory_is_no_damage(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):
        """As its binding to Rust raises."""

    def panic(_: bytes) -> None:
        raise PanicException("PyObject pointer is null")

    ledger.publish(record(), tensors(1))
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.load", panic)
        with pytest.raises(InputError, match="there is too little memory"):
            ledger.state(KEY)
    assert ledger.state(KEY) is not None


@pytest.mark.parametrize(
    "text", ["", '{"key": ', "[]", '{"key": "x"}', '{"schema": 1, "key": "x", "parent": "", "epoch": 1}']
)
def test_a_damaged_record_is_named_and_replaced(ledger: Ledger, text: str, caplog: pytest.LogCaptureFixture) -> None:
    ledger.publish(record(), tensors(1))
    path = ledger.state_path(KEY).with_name("record.json")
    path.write_text(text)
    assert ledger.record(KEY) is None
    assert f"damaged ledger entry {path}" in caplog.text
    again = ledger.publish(record(value=2.0), tensors(2))
    assert ledger.record(KEY) == again == record(value=2.0)
    state = ledger.state(KEY)
    assert state is not None
    assert digest(state) == again.digest, "the record's own state"


def test_a_state_stays_while_any_run_holds_it(ledger: Ledger, tmp_path: Path) -> None:
    ledger.publish(record(), tensors(1))
    ledger.hold(KEY, "one", tmp_path)
    ledger.hold(KEY, "two", tmp_path)
    ledger.release(KEY, "one")
    assert ledger.state_path(KEY).exists()
    ledger.release(KEY, "two")
    assert not ledger.state_path(KEY).exists()
    assert ledger.record(KEY) is not None


def age(ledger: Ledger) -> None:
    """Make all files of a ledger two hours old."""
    then = time.time() - 2 * 3600
    for path in ledger.folder.rglob("*"):
        os.utime(path, (then, then))


def test_prune_removes_what_no_existing_run_holds(ledger: Ledger, tmp_path: Path) -> None:
    alive, removed = tmp_path / "alive", tmp_path / "removed"
    alive.mkdir()
    for key, run, folder in ((KEY, "one", alive), (OTHER, "two", removed)):
        ledger.publish(record(key), tensors(1))
        ledger.hold(key, run, folder)
    assert ledger.prune().states == 0, "it may be needed soon"
    age(ledger)
    size = ledger.size_bytes()
    foreseen = ledger.prune(dry_run=True)
    assert ledger.size_bytes() == size
    assert ledger.prune() == foreseen
    assert foreseen.states == 1
    assert foreseen.size_bytes == size - ledger.size_bytes()
    assert ledger.state_path(KEY).exists()
    assert not ledger.state_path(OTHER).exists()
    assert {found.key for found in ledger.records()} == {KEY, OTHER}


@pytest.mark.parametrize("damage", [b"../elsewhere", b"", b"\xff\0"])
def test_a_damaged_hold_counts_as_alive(ledger: Ledger, tmp_path: Path, damage: bytes) -> None:
    ledger.publish(record(), tensors(1))
    ledger.hold(KEY, "one", tmp_path)
    (hold,) = ledger.folder.glob("holds/??/*/*")
    hold.write_bytes(damage)
    age(ledger)
    assert ledger.prune().states == 0
    assert ledger.state_path(KEY).exists()


def test_a_copy_of_the_runs_folder_may_go(ledger: Ledger, tmp_path: Path) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    ledger.publish(record(), tensors(1))
    for folder in (first, copy):
        folder.mkdir()
        ledger.hold(KEY, "one", folder)
    copy.rmdir()
    assert ledger.prune().states == 0
    assert ledger.holders(KEY) == {"one"}
    first.rmdir()
    age(ledger)
    with pytest.raises(InputError, match=r"the folders of all runs that hold states of .* are gone: .*--force"):
        ledger.prune()
    assert ledger.state_path(KEY).exists()
    assert ledger.prune(force=True).states == 1


def test_prune_removes_old_remains_of_killed_writers_only(ledger: Ledger) -> None:
    remains = ("tmp/{}/state.safetensors", "saves/.KEY.safetensors.{}", "holds/ab/KEY/.run.{}")
    old, new = ([ledger.folder / name.format(age) for name in remains] for age in ("old", "new"))
    for path in (*old, *new):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    two_days_ago = time.time() - 2 * 24 * 3600
    for path in old:
        os.utime(path, (two_days_ago, two_days_ago))
    ledger.prune()
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in new)


def test_a_state_of_another_epoch_is_not_trusted(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    for key in (KEY, OTHER):
        ledger.publish(record(key), tensors(1))
    shutil.copy(ledger.state_path(KEY), ledger.state_path(OTHER))
    assert ledger.state(OTHER) is None
    assert "damaged ledger entry" in caplog.text


def test_no_bit_of_a_save_can_flip_unseen(ledger: Ledger) -> None:
    ledger.save(KEY, tensors(1), {"batches": 59, "seconds": {"train": 1.5}})
    path = ledger.folder / "saves" / f"{KEY}.safetensors"
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        assert ledger.saved(KEY) is None, place
    path.write_bytes(whole)
    assert ledger.saved(KEY) is not None


def test_verify_finds_all_that_is_damaged(ledger: Ledger) -> None:
    third = "ef" + "0" * 30
    for key, parent, epoch in ((KEY, "", 1), (OTHER, KEY, 2), (third, OTHER, 3)):
        ledger.publish(record(key, parent=parent, epoch=epoch), tensors(1))
    ledger.save("12" * 16, tensors(1), {})
    assert list(ledger.verify()) == [""] * 4
    (ledger.state_path(KEY).with_name("record.json")).write_text("{}")
    ledger.state_path(third).write_bytes(b"")
    (ledger.folder / "saves" / f"{'12' * 16}.safetensors").write_bytes(b"")
    assert [problem.partition(": ")[2] for problem in ledger.verify()] == [
        "its record is damaged or gone",
        "the epoch before it has no record",
        "its state is damaged",
        "what was saved in the middle of it is damaged",
    ]


def test_a_moved_project_keeps_its_states(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    ledger = Ledger(before / "ledger")
    ledger.publish(record(), tensors(1))
    (before / "runs" / "run").mkdir(parents=True)
    ledger.hold(KEY, "run", before / "runs" / "run")
    before.rename(after)
    age(Ledger(after / "ledger"))
    assert Ledger(after / "ledger").prune().states == 0


def test_origins_are_the_same_but_for_rounding(ledger: Ledger) -> None:
    values = {"weight": [1.0, -2.0, 0.5, 3.0, 0.1, 40.0]}
    first = ledger.origin("c" * 32, values)
    assert ledger.origin("c" * 32, values) == first
    rounded = {"weight": [1.002, *values["weight"][1:]]}  # by less than a ten thousandth of the norm, 40
    assert ledger.origin("c" * 32, rounded) != first, "the ledger has seen none yet"
    ledger.keep_origin("c" * 32, values)
    assert ledger.origin("c" * 32, rounded) == first
    assert ledger.origin("c" * 32, {"weight": [1.1, *values["weight"][1:]]}) != first
    assert ledger.origin("d" * 32, values) != first


def test_digest_ignores_layout_and_sees_every_value() -> None:
    weight = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert digest({"w": weight}) == digest({"w": weight.contiguous(memory_format=torch.channels_last)})
    changed = weight.clone()
    changed[0, 1, 2, 3] += 1e-5
    assert (
        len({digest({"w": weight}), digest({"w": changed}), digest({"v": weight}), digest({"w": weight.view(24)})}) == 4
    )


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file.*: Not a directory"):
        Ledger(tmp_path / "file" / "ledger").check_writable()


def test_two_sweeps_that_begin_a_ledger_at_once_agree_on_its_id(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, seen = Ledger(ledger.folder), []

    def write_after_the_other(path: Path, text: str) -> None:
        if path.name != "probe":
            monkeypatch.undo()
            other.check_writable()
            seen.append(other.id)
        write_text(path, text)

    monkeypatch.setattr(ledger_module, "write_text", write_after_the_other)
    ledger.check_writable()
    assert seen == [ledger.id]
    assert ledger.id


def test_where_there_are_no_links_a_ledger_has_an_id_too(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    ledger.check_writable()
    first = ledger.id
    assert first
    ledger.check_writable()
    assert ledger.id == first
    assert list((ledger.folder / "tmp").iterdir()) == [ledger.folder / "tmp" / "probe"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named_as_such() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.write(Path("/dev/full"), tensors(1))


def test_a_full_disk_is_one_line_and_leaves_nothing_half(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ledger_module, "sync", no_space)
    with pytest.raises(InputError, match=r"^cannot write .*: No space left on device$"):
        ledger.publish(record(), tensors(1))
    assert ledger.record(KEY) is None
    assert list((ledger.folder / "tmp").iterdir()) == []


def test_a_folder_of_other_things_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("")
    with pytest.raises(SystemExit, match=f"^error: --folder: no ledger at {tmp_path}$"):
        main(["ledger", "--folder", str(tmp_path)])


def test_folders_in_the_place_of_files_are_damage(ledger: Ledger) -> None:
    for key in (KEY, OTHER):
        ledger.publish(record(key), tensors(1))
    for path in (ledger.state_path(KEY), ledger.state_path(OTHER).with_name("record.json")):
        path.unlink()
        path.mkdir()
    assert ledger.state(KEY) is None
    assert [found.key for found in ledger.records()] == [KEY]
    ledger.prune(force=True)
    assert not list(ledger.folder.rglob("*.damaged"))
    (ledger.folder / "id").mkdir()
    with pytest.raises(InputError, match="cannot read .*/id: Is a directory"):
        _ = ledger.id
