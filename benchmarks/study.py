"""Run the study of docs/study_protocol.md: comparisons at equal cost, each by ``rescaler fair``.

python -m benchmarks.study                                      # all of it; the same command goes on where it stopped
python -m benchmarks.study cifar10_vgg --cifar10 DIR            # one comparison; DIR: a tree train/CLASS, val/CLASS
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RESULTS = Path("analysis/study")
"""Where the CSV of each comparison goes, for docs/evidence.md and analysis/evidence.ipynb."""
_RESNET = ["model=resnet_small", "+model.blocks=1", "+model.widths=[8,16,32]"]
COMPARISONS: dict[str, list[str]] = {
    "cifar10_vgg": ["experiment=fair_cifar10"],
    "fashion_vgg": ["experiment=fair_fashion"],
    "cifar10_resnet": ["experiment=fair_cifar10", *_RESNET],
    "cifar10_vgg_half": ["experiment=fair_cifar10", "--budget", "0.5"],
    "cifar10_vgg_20_epochs": ["experiment=fair_cifar10", "schedule.epochs=20", "--seeds", "3"],
    "cifar10_vgg_40_epochs": ["experiment=fair_cifar10", "schedule.epochs=40", "--seeds", "3"],
    "paper_cifar10": ["experiment=fair_cifar10", "--arms", "target,paper", "--lr", "1", "--seeds", "3"],
}
"""Arguments of ``rescaler fair``; what begins with another's name takes the learning rates that it has chosen."""


def main(words: Sequence[str] | None = None) -> None:
    """Run the comparisons that are asked for, those that choose learning rates first."""
    parser = argparse.ArgumentParser(description="Run the study of docs/study_protocol.md.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(COMPARISONS)}")
    parser.add_argument("--folder", type=Path, default=Path("runs/study"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="of the CSVs; default: %(default)s"
    )
    parser.add_argument("--cifar10", type=Path, metavar="DIR", help="a tree of pictures, instead of the original files")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="at once; default: %(default)s")
    arguments = parser.parse_args(words)
    names = arguments.names or list(COMPARISONS)
    if unknown := {*names} - {*COMPARISONS}:
        sys.exit(f"error: NAME must be among {', '.join(COMPARISONS)}; got {', '.join(sorted(unknown))}")
    for folder in (arguments.folder, arguments.results):
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:  # while nothing else runs; what is measured is kept
        arms = ["arm=rescaled,input_only,paper", "schedule.budget=1"]  # whatever the budget, they cost the same
        if code := _call("measure", [*_settings(name, arguments.cifar10), *arms], arguments.folder / "measure.log"):
            sys.exit(code)
    bases = [name for name in names if _base(name) is None]
    for group in (bases, [name for name in names if name not in bases]):
        with ThreadPoolExecutor(max(1, arguments.processes)) as pool:
            codes = list(pool.map(lambda name: _compare(name, arguments), group))
        if any(codes):
            sys.exit(f"error: failed: {', '.join(name for name, code in zip(group, codes, strict=True) if code)}")


def _base(name: str) -> str | None:
    """Return the comparison that chooses the learning rates of another."""
    return next((other for other in COMPARISONS if name.startswith(f"{other}_")), None)


def _settings(name: str, cifar10: Path | None) -> list[str]:
    """Return the settings that all arms of a comparison have in common."""
    words = [word for word in COMPARISONS[name] if "=" in word]
    if cifar10 is not None and "experiment=fair_cifar10" in words:
        words += ["data.name=folder", "data.in_memory=true", f"data.folder={cifar10}"]
    return [*words, "logger=none"]


def _compare(name: str, arguments: argparse.Namespace) -> int:
    words = [word for word in COMPARISONS[name] if "=" not in word]
    words += [*_settings(name, arguments.cifar10), "--tuning-seeds", "1"]
    if (base := _base(name)) is not None:
        words += ["--tuned", str(arguments.folder / base)]
    words += ["--folder", str(arguments.folder / name), "--csv", str(arguments.results / f"{name}.csv")]
    return _call("fair", words, arguments.folder / f"{name}.log")


def _call(command: str, words: list[str], log: Path) -> int:
    """Run a command of ``rescaler``, then print what it said."""
    print(f"rescaler {' '.join([command, *words])}: {log}", flush=True)
    # A network this small gains nothing from several threads, and one gives the same bits on any machine of a kind.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        code = subprocess.call(
            [sys.executable, "-m", "rescaler", command, *words], env=environment, stdout=output, stderr=output
        )
    print(log.read_text(), flush=True)
    return code


if __name__ == "__main__":
    main()
