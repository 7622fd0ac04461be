"""What the two drills share: a small project, commands as processes that can be killed, records that are compared."""

import argparse
import contextlib
import dataclasses
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from benchmarks.reporting import parser
from rescaler import cli, execution, figures, run, train  # noqa: F401 - loaded once: each command is a fork
from rescaler.ledger import Ledger
from rescaler.record import CLOCKS
from rescaler.sweep import local  # noqa: F401

SETTINGS = [
    "data=synthetic", "data.train_images=64", "data.test_images=32", "schedule.epochs=3",
    "schedule.batches_per_epoch=4", "schedule.milestones=[2]", "schedule.learning_rates=[0.05,0.01]",
    "optim.batch_size=16", "resize_epoch=1,2", "logger=none", "checkpoint_every_min=0.0001", "progress=false",
    "device=cpu",
]  # fmt: skip
"""Of two runs that share an epoch, and save after almost every batch."""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    """Of its exit; the signal's number below zero."""
    out: str
    error: str


def sweep(seed: int) -> list[str]:
    """Words of the command that trains the sweep of a seed, in a folder of its name."""
    return ["run", "-m", *SETTINGS, f"seed={seed}", f"hydra.sweep.dir={seed}"]


def call(folder: Path, words: Sequence[str], kill: int = 0, when: Callable[[], bool] = lambda: False) -> Ended:
    """Run ``rescaler WORDS`` in a folder; send it the signal ``kill`` when ``when`` says so, unless it has ended."""
    files = [folder.with_suffix(suffix) for suffix in (".out", ".err")]
    for path in files:
        path.write_bytes(b"")
    child = os.fork()
    if child == 0:
        _become(folder, words, files)
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if when():
            os.kill(child, kill)
            break
        time.sleep(0.002)
    _, status = os.waitpid(child, 0)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    return Ended(os.waitstatus_to_exitcode(status), *texts)


def _become(folder: Path, words: Sequence[str], files: Sequence[Path]) -> NoReturn:
    code = 1
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell's background ignores it
    try:
        os.chdir(folder)
        for number, path in enumerate(files, start=1):
            os.dup2(os.open(path, os.O_WRONLY), number)
        cli.main(list(words))
        code = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """All that the ledger of a project says of its epochs, but for the times, by key."""
    found = {}
    for record in Ledger(folder / "ledger").records():
        values = dataclasses.asdict(record)
        found[record.key] = {name: value for name, value in values.items() if name not in CLOCKS}
    return found


def differing(found: dict[str, dict[str, Any]], wanted: dict[str, dict[str, Any]]) -> list[str]:
    """Keys that both have and whose records differ, and keys that only ``found`` has."""
    return [key for key, values in found.items() if wanted.get(key) != values]


def arguments(doc: str | None) -> argparse.Namespace:
    """Options of a drill, from the command line."""
    made = parser(doc)
    made.add_argument("--minutes", type=float, default=1, help="how long it goes on; default: %(default)g")
    made.add_argument("--seed", type=int, help="of what is drawn; default: another one each time")
    found = made.parse_args()
    found.seed = random.randrange(10**6) if found.seed is None else found.seed
    return found


def until(minutes: float) -> Iterator[int]:
    """Count from 0 until the time is over."""
    end, number = time.monotonic() + 60 * minutes, 0
    while number == 0 or time.monotonic() < end:
        yield number
        number += 1


SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
