"""What is installed is whole, whichever way it was built."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(source: Path, target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=source, capture_output=True, check=True)
    (built,) = folder.iterdir()
    return built


def test_a_wheel_from_the_sdist_holds_what_the_checkout_does(tmp_path: Path) -> None:
    with tarfile.open(build(ROOT, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    with zipfile.ZipFile(build(source, "wheel", tmp_path / "wheel")) as wheel:
        held = set(wheel.namelist())
    files = subprocess.run(
        ["git", "ls-files", "rescaler", "hydra_plugins", "conf", "sweeps"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    links = ("rescaler/conf", "conf/sweep")
    moved = {"conf": "rescaler/conf", "sweeps": "rescaler/conf/sweep"}
    tops = (file.partition("/") for file in files if file not in links)
    wanted = {f"{moved.get(top, top)}/{rest}" for top, _, rest in tops}
    assert {name for name in held if ".dist-info/" not in name} == wanted
    assert "rescaler/py.typed" in held
