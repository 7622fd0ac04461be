import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from fake_runs import FakeRun, paper_like

ANALYSIS = Path(__file__).parents[1] / "analysis"
NOTEBOOKS = sorted(ANALYSIS.glob("*.ipynb"))


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def execute(script: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, (script, *arguments))]
    environment = {name: value for name, value in os.environ.items() if name != "RESCALER_RUNS"} | variables
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, cwd=script.parent.parent, env=environment
    )


def outputs(notebook: Any, kind: str) -> list[str]:
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [output.data[kind] for cell in cells for output in cell.outputs if kind in output.get("data", {})]


def test_there_are_the_papers_tables_and_figures() -> None:
    assert [path.name for path in NOTEBOOKS] == [
        "evidence.ipynb", "figures.ipynb", "table2.ipynb", "table3.ipynb", "table4.ipynb"
    ]  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None] == []
    assert {key for cell in notebook.cells for key in cell.metadata} == set(), "traces of an execution"
    assert notebook.metadata.language_info == {"name": "python"}, "traces of somebody's Python"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_only_show(path: Path) -> None:
    code = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "code")
    words = {word for line in code.splitlines() for word in line.split()}
    assert not words & {"def", "class", "while", "if", "lambda"}, "logic belongs into the package, where it is tested"


def test_all_are_executed_on_an_unfinished_sweep(tmp_path: Path) -> None:
    # Table 2 in part, Table 3 with one row, no residual network.
    held = dataclasses.replace(paper_like(18), hold=True, held=5)
    runs = paper_like("never"), paper_like(0), paper_like(17), paper_like(18, done=30), held
    for index, run in enumerate(runs):
        run.write(tmp_path / "runs" / str(index))
    before = {path: path.read_bytes() for path in NOTEBOOKS}

    done = execute(ANALYSIS / "execute.py", tmp_path / "runs", "--output", tmp_path / "executed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == [str(tmp_path / "executed" / path.name) for path in NOTEBOOKS]
    assert "4/4" in done.stderr, "progress is shown, in cells"
    assert {path: path.read_bytes() for path in NOTEBOOKS} == before

    executed = {path.stem: read(path) for path in (tmp_path / "executed").iterdir()}
    tables = {name: "\n".join(outputs(executed[name], "text/markdown")) for name in ("table2", "table3", "table4")}
    assert "| Resized at Epoch 17 | paper | 59.25 % (54) |" in tables["table2"]
    assert tables["table2"].count("ours, n = 1") == 3
    assert tables["table2"].count("not run") == 3
    assert tables["table3"].count("not run") == 2
    assert "Ours: none of these was run" in tables["table4"]
    assert len(outputs(executed["figures"], "image/svg+xml")) == 10


def test_runs_may_be_named_by_the_environment_and_must_be_there(tmp_path: Path) -> None:
    failed = execute(ANALYSIS / "execute.py", RESCALER_RUNS=str(tmp_path))
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"error: no runs in {tmp_path}")
    assert failed.stderr.count("\n") == 1


def test_where_nothing_can_be_written_a_line_says_so(tmp_path: Path) -> None:
    FakeRun(0, [0.5]).write(tmp_path / "runs")
    (tmp_path / "file").touch()
    failed = execute(ANALYSIS / "execute.py", tmp_path / "runs", "--output", tmp_path / "file" / "executed")
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"error: cannot write {tmp_path / 'file'}")
    assert failed.stderr.count("\n") == 1


def test_a_notebook_that_fails_says_why_in_a_line(tmp_path: Path) -> None:
    FakeRun(0, [0.5]).write(tmp_path / "runs")
    folder = tmp_path / "analysis"
    folder.mkdir()
    shutil.copy(ANALYSIS / "execute.py", folder)
    cells = [nbformat.v4.new_code_cell(source) for source in ("print('got here')", "1 / 0")]  # type: ignore[no-untyped-call]
    notebook = nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]
    (folder / "broken.ipynb").write_text(nbformat.writes(notebook))  # type: ignore[no-untyped-call]

    failed = execute(folder / "execute.py")  # runs/ beside the folder is the default
    assert failed.returncode == 1
    assert failed.stdout == "broken.ipynb: failed: ZeroDivisionError: division by zero\n"
    assert "Traceback" not in failed.stderr
    assert read(folder / "executed" / "broken.ipynb").cells[0].outputs[0].text == "got here\n", "as far as it got"
