"""Execute the notebooks beside this file; the executed ones are put in ``executed/``.

python analysis/execute.py [RUNS]   # a folder of runs, or wandb:ENTITY/PROJECT; default: $RESCALER_RUNS, else runs/
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from traitlets.config import Config

from rescaler.errors import InputError
from rescaler.files import write_text, writing
from rescaler.results import load_runs

NOTEBOOKS = Path(__file__).resolve().parent
CELL_TIMEOUT_S = 600
# Kernels talk on ports of the machine: other users of it need not read along.
PRIVATE = Config({"KernelManager": {"transport_encryption": "auto"}})


def main() -> None:
    """Execute all notebooks; the exit status is 1 if one fails, and each that does says why in a line."""
    default = os.environ.get("RESCALER_RUNS", str(NOTEBOOKS.parent / "runs"))
    parser = argparse.ArgumentParser(description="Execute all notebooks of this folder.")
    parser.add_argument("runs", nargs="?", default=default, metavar="RUNS", help="default: %(default)s")
    parser.add_argument(
        "-o", "--output", type=Path, default=NOTEBOOKS / "executed", metavar="FOLDER", help="default: %(default)s"
    )
    arguments = parser.parse_args()
    try:
        os.environ["RESCALER_RUNS"] = _checked(arguments.runs)
        with writing(arguments.output):
            arguments.output.mkdir(parents=True, exist_ok=True)
        failures = asyncio.run(_execute_all(arguments.output))
    except InputError as error:
        sys.exit(f"error: {error}")
    sys.exit(1 if failures else 0)


def _checked(runs: str) -> str:
    """Say where the notebooks find the runs: they are executed in their own folder."""
    if runs.startswith("wandb:"):
        return runs
    load_runs(runs)  # one clear line, before anything is started
    return str(Path(runs).resolve())


async def _execute_all(output: Path) -> int:
    """Execute the notebooks at the same time; returns how many failed."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("cells"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        paths = sorted(NOTEBOOKS.glob("*.ipynb"))
        failures = await asyncio.gather(*(_execute(path, output / path.name, progress) for path in paths))
    for path, failure in zip(paths, failures, strict=True):
        print(f"{path.name}: failed: {failure}" if failure else output / path.name)
    return sum(failure is not None for failure in failures)


async def _execute(path: Path, executed: Path, progress: Progress) -> str | None:
    """Execute one notebook and keep it, as far as it got; returns why it failed."""
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    task = progress.add_task(path.name, total=sum(cell.cell_type == "code" for cell in notebook.cells))
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_executed=lambda **_: progress.advance(task),
        config=PRIVATE,
    )
    failure = None
    try:
        await client.async_execute()
    except CellExecutionError as error:
        failure = " ".join(f"{error.ename}: {error.evalue}".split())
    except (CellTimeoutError, DeadKernelError) as error:
        failure = " ".join(str(error).split())
    try:
        write_text(executed, nbformat.writes(notebook))  # type: ignore[no-untyped-call]
    except InputError as error:
        return str(error)
    return failure


if __name__ == "__main__":
    main()
