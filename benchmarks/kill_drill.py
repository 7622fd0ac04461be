"""Kill a sweep at random moments until it is done, and compare every record with an undisturbed sweep, bit for bit.

    python -m benchmarks.kill_drill [--minutes 1] [--seed N] [--out FILE]

Each sweep has two runs that share an epoch. It gets SIGKILL, SIGTERM or SIGINT after a random time, again and again; it
is started again by the same command or by ``rescaler retry``. Exits with 1 if a record differs, or a command fails.
"""

import functools
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.drills import SIGNALS, arguments, call, differing, records, sweep, until
from benchmarks.reporting import provenance, write


def main() -> None:
    options = arguments(__doc__)
    draw = random.Random(options.seed)
    kills, faults, sweeps = Counter[str](), list[str](), 0
    with tempfile.TemporaryDirectory() as made:
        whole = Path(made, "whole")
        whole.mkdir()
        undisturbed = call(whole, sweep(0))
        if undisturbed.code != 0:
            sys.exit(f"the undisturbed sweep failed: {undisturbed.error}")
        wanted, began = records(whole), time.monotonic()
        (Path(made, "timed")).mkdir()
        call(Path(made, "timed"), sweep(0))
        seconds = time.monotonic() - began
        for number in until(options.minutes):
            folder = Path(made, str(number))
            folder.mkdir()
            faults += [
                f"sweep {number}: {fault}" for fault in _drill(folder, draw, seconds, kills) or _odd(folder, wanted)
            ]
            shutil.rmtree(folder)
            sweeps += 1
            print(f"{sweeps} sweeps, {kills.total()} kills, {len(faults)} faults", flush=True)
    report = {"sweeps": sweeps, "kills": dict(kills), "records": len(wanted), "faults": faults, "seed": options.seed}
    write(options.out, {**provenance("kill_drill"), **report})
    if faults:
        sys.exit("\n".join(faults))


def _odd(folder: Path, wanted: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What of a sweep's records is not as in the undisturbed one."""
    found = records(folder)
    for key in differing(found, wanted):
        other = wanted.get(key, {})
        yield f"record {key} differs: {[name for name, value in found[key].items() if other.get(name) != value]}"
    if missing := len(wanted.keys() - found.keys()):
        yield f"{missing} of {len(wanted)} records are missing"


def _drill(folder: Path, draw: random.Random, seconds: float, kills: Counter[str]) -> list[str]:
    """Kill a sweep until it is done; what went wrong."""
    while True:
        can_retry = (folder / "0" / "sweep.json").exists()
        words = ["retry", "0"] if can_retry and draw.random() < 0.5 else sweep(0)
        name = draw.choice(list(SIGNALS))
        end = time.monotonic() + draw.uniform(0, seconds)
        ended = call(folder, words, SIGNALS[name], functools.partial(_is_over, end))
        if ended.code == 0:
            return []
        said = "interrupted" in ended.error and "Traceback" not in ended.error
        interrupted = name == "SIGINT" and (said or not ended.error)
        if ended.code != -SIGNALS[name] and not interrupted:
            return [f"{' '.join(words[:2])} ended with {ended.code} after {name}: {ended.error[-2000:]}"]
        kills[name] += 1


def _is_over(end: float) -> bool:
    return time.monotonic() > end


if __name__ == "__main__":
    main()
