"""Seconds from the command line of the demo to its first training step, and how many of them are imports.

    python -m benchmarks.startup [--launches 11] [--out FILE]

Fashion-MNIST must be there already. The interpreter's start counts; the files' first reading from a disk does not, as a
launch before the first warms the file system's cache and writes the bytecode.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks.reporting import parser, provenance, write
from rescaler.measure import Spread

_LAUNCH = """
import os
import sys
import time
from rescaler import run

def and_end(step):
    def call(self, *args):
        step(self, *args)
        print("first step at", time.time(), flush=True)
        os._exit(0)
    return call

def execute(experiment, folder, *, group, execute=run._execute):
    from rescaler.train import TrainingStep
    TrainingStep.__call__ = and_end(TrainingStep.__call__)
    execute(experiment, folder, group=group)

run._execute = execute
run.main()
"""


def launch(*options: str) -> tuple[float, str]:
    """Start the demo as a user does, with options for Python, and end it after its first step.

    Returns:
        Seconds to there, and what it wrote to the standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = ["resize_epoch=17", f"ledger.folder={folder}/ledger", f"hydra.run.dir={folder}/run"]
        start = time.time()
        command = [sys.executable, *options, "-c", _LAUNCH, *settings]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=_environment())
    return float(done.stdout.rpartition("first step at")[2]) - start, done.stderr


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def import_s() -> float:
    """Seconds of all imports before the first step, as Python counts them."""
    _, log = launch("-X", "importtime")
    return sum(map(int, re.findall(r"^import time:\s+(\d+)", log, flags=re.MULTILINE))) / 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures, and write them with what they were measured on."""
    command_line = parser(__doc__)
    command_line.add_argument("--launches", type=int, default=11, help="default: %(default)s")
    options = command_line.parse_args(arguments)
    origin = provenance("startup")
    launch()
    results = origin | {
        "n": options.launches,
        "first_step_s": Spread.of([launch()[0] for _ in range(options.launches)])._asdict(),
        "imports_s": Spread.of([import_s() for _ in range(options.launches)])._asdict(),
    }
    print(json.dumps(results, indent=1))
    write(options.out, results)


if __name__ == "__main__":
    main()
