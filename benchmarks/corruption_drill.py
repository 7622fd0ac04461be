"""Damage every kind of file of a project in every way, and see what the next commands make of it.

    python -m benchmarks.corruption_drill [--minutes 1] [--seed N] [--out FILE]

The project has a finished sweep, one that was stopped in the middle of an epoch, and their ledger. One file is emptied,
cut in half, has a bit flipped or other text, is gone, or is a folder. Then ``tables``, ``status``, ``ledger verify``,
``retry``, the sweeps' own commands and ``ledger prune`` are typed. Each must give the right result or one line that
says what is wrong. Exits with 1 after a traceback, a wrong number, or a number that is missing without a word.
"""

import csv
import io
import itertools
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.drills import Ended, arguments, call, differing, records, sweep, until
from benchmarks.reporting import provenance, write

DONE, STOPPED = "0", "1"
"""Seeds of the sweeps, and names of their folders."""
KINDS = [
    "ledger/id",
    "ledger/entries/??/*/record.json",
    "ledger/entries/??/*/state.safetensors",
    "ledger/saves/[!.]*",
    "ledger/holds/??/*/[!.]*",
    "ledger/origins/??/*/[!.]*",
    *(f"{DONE}/0/{name}" for name in ("config.yaml", "chain.json", "metrics.csv", "summary.json")),
    *(f"{STOPPED}/0/{name}" for name in ("config.yaml", "chain.json", "metrics.csv", "summary.json")),
    *(f"{each}/{name}" for each in (DONE, STOPPED) for name in ("sweep.json", "sweep.lock", "multirun.yaml")),
]
WAYS = ["empty", "half", "flipped", "other", "gone", "folder"]
NUMBERS = ["run", "resize_epoch", "seed", "best_top1", "best_epoch", "epochs", "status"]
"""Columns of the table that do not depend on the machine's speed."""


def damage(path: Path, way: str, draw: random.Random) -> None:
    """Damage a file in one of the ways."""
    content = bytearray(path.read_bytes())
    path.unlink()
    if way == "folder":
        path.mkdir()
    elif way == "flipped" and content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    elif way != "gone":
        path.write_bytes({"empty": b"", "half": bytes(content[: len(content) // 2])}.get(way, b"something else\n"))


def rows(table: str) -> dict[str, dict[str, str]]:
    """Numbers of the runs in a table that was written as CSV."""
    found = csv.DictReader(io.StringIO(table))
    return {row["run"]: {name: row.get(name, "") for name in NUMBERS} for row in found}


def faults_after(folder: Path, whole: Path, table: dict[str, dict[str, str]]) -> Iterator[str]:
    """Type the commands in a damaged project; what went wrong.

    Args:
        folder: the project.
        whole: where the same sweeps ran undisturbed.
        table: of the finished sweep there.
    """
    before = call(folder, ["tables", DONE, "--csv", "-"])
    yield from _table_faults(before, table)
    commands = [["status", STOPPED], ["ledger", "verify"], ["retry", STOPPED], sweep(1), sweep(0), ["ledger", "prune"]]
    for words in commands:
        ended = call(folder, words)
        name = " ".join(word for word in words[:2])
        if "Traceback" in ended.error + ended.out:
            yield f"{name}: traceback: {ended.error[-1500:]}"
        elif ended.code != 0 and "error: " not in (ended.error.splitlines() or [""])[-1]:
            yield f"{name}: ended with {ended.code} and no clear line: {ended.error[-500:]}"
    if wrong := differing(records(folder), records(whole)):
        yield f"records differ: {', '.join(wrong)}"
    after = call(folder, ["tables", DONE, "--csv", "-"])
    yield from _table_faults(after, table)


def _table_faults(ended: Ended, table: dict[str, dict[str, str]]) -> Iterator[str]:
    found = rows(ended.out) if ended.code == 0 else {}
    if "Traceback" in ended.error:
        yield f"tables: traceback: {ended.error[-1500:]}"
    wrong = [run for run, values in found.items() if values != table.get(run)]
    said = any(word in ended.error for word in ("skipped", "damaged", "error: ", "in its metrics", "failed"))
    if (wrong or found.keys() != table.keys()) and not said:
        yield f"tables: wrong or missing numbers without a word: {[found[run] for run in wrong]}"
    if any(run not in table or found[run]["best_top1"] not in ("", table[run]["best_top1"]) for run in wrong):
        yield f"tables: wrong numbers: {[found[run] for run in wrong]}"


def main() -> None:
    options = arguments(__doc__)
    draw = random.Random(options.seed)
    faults, cases = list[str](), 0
    with tempfile.TemporaryDirectory() as made:
        whole, project = Path(made, "whole"), Path(made, "project")
        for folder in (whole, project):
            folder.mkdir()
            for words in [sweep(0), *([sweep(1)] if folder is whole else [])]:
                if (ended := call(folder, words)).code != 0:
                    sys.exit(f"the undisturbed sweep failed: {ended.error}")
        call(project, sweep(1), signal.SIGKILL, lambda: any(project.glob("ledger/saves/[!.]*")))
        table = rows(call(project, ["tables", DONE, "--csv", "-"]).out)
        every = list(itertools.product(KINDS, WAYS))
        draw.shuffle(every)
        for number in until(options.minutes):
            kind, way = every[number % len(every)]
            folder = Path(made, "case")
            shutil.copytree(project, folder)
            path = draw.choice(sorted(folder.glob(kind)) or [folder / "0" / "sweep.json"])
            damage(path, way, draw)
            found = list(faults_after(folder, whole, table))
            faults += [f"{path.relative_to(folder)} {way}: {fault}" for fault in found]
            shutil.rmtree(folder)
            cases += 1
            if found or cases % 5 == 0:
                print(f"{cases} of {len(every)} cases, {len(faults)} faults", flush=True)
                print("\n".join(faults[len(faults) - len(found) :]), end="\n" if found else "", flush=True)
    report = {"cases": cases, "kinds": len(KINDS), "ways": WAYS, "faults": faults, "seed": options.seed}
    write(options.out, {**provenance("corruption_drill"), **report})
    if faults:
        sys.exit(f"{len(faults)} faults in {cases} cases")
    print(f"{cases} cases, no fault")


if __name__ == "__main__":
    main()
