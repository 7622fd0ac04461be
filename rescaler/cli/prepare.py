"""``rescaler prepare``: smaller copies of ImageNet's files, once, so that no run waits for them."""

import argparse
import contextlib
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import progress
from rich.console import Console

from rescaler.compose import Job, jobs
from rescaler.data import image_folder, streams_from_files
from rescaler.data.decoding import shorter_px
from rescaler.data.folder import others_text, read_tree
from rescaler.data.preparation import Preparation, Progress
from rescaler.data.prepared import is_prepared
from rescaler.errors import InputError, listed
from rescaler.networks import Networks, networks_of
from rescaler.text import Lines


def prepare(arguments: argparse.Namespace) -> None:
    """Prepare what the given runs need."""
    runs = jobs(arguments.overrides, arguments.config_dir, arguments.config_path, arguments.config_name)
    preparation = _preparation(runs, arguments.output)
    estimated_bytes = preparation.estimated_bytes()
    counts = " + ".join(f"{len(split.labels):,}" for split in preparation.tree)
    print(
        f"{preparation.tree.train.folder}: {counts} images (train + val) -> {preparation.folder}, shorter sides "
        f"of {listed(map(str, preparation.shorter_px), most=8)} pixels: about {estimated_bytes / 1e9:,.2f} GB; "
        f"{preparation.free_bytes() / 1e9:,.2f} GB are free for them",
        flush=True,
    )
    preparation.check_disk(estimated_bytes)
    with _shown() as show:
        manifest = preparation.run(show)
    size_bytes, left_out = sum(part.size_bytes for part in manifest.parts), manifest.left_out
    print(f"{sum(part.images for part in manifest.parts):,} images, {size_bytes / 1e9:,.2f} GB; all checksums hold")
    if left_out:
        print(f"{len(left_out):,} could not be read and are left out (prepared.json has all, with the reasons):")
        print(*(f"  {name}: {why}" for name, why in list(left_out.items())[:10]), sep="\n")
    if manifest.others:
        print(others_text(manifest.others))
    print(f"train on them with {shlex.quote(f'data.folder={preparation.folder}')}")


def _preparation(runs: Sequence[Job], out: Path | None) -> Preparation:
    data = runs[0].experiment.data
    for other in (run.experiment.data for run in runs):
        if not streams_from_files(other) or other.name == "custom":
            memory = ", data.in_memory=true" if other.in_memory else ""
            raise InputError(
                "data must be imagenet, or folder with data.in_memory=false, to be prepared: other sets are in memory "
                f"anyway; got {other.name}{memory}"
            )
        if (other.folder, other.classes) != (data.folder, data.classes):
            raise InputError(f"data.folder and data.classes must be the same in all runs; got {other.folder}")
    tree = image_folder(data)
    if is_prepared(tree):
        raise InputError(f"data.folder={data.folder} is a prepared set; it must be the tree that it was made from")
    known: dict[str, Networks] = {}
    small_px = {shrunk.image_px for run in runs for shrunk in networks_of(run.experiment, known).pretrain}
    sizes = set(map(shorter_px, small_px | {run.experiment.data.image_px for run in runs}))
    folder = out.expanduser().absolute() if out else tree / "prepared"
    return Preparation(read_tree(tree, classes=data.classes, holdout=data.holdout), folder, sorted(sizes), data.workers)


@contextlib.contextmanager
def _shown() -> Iterator[Progress]:
    """A bar in a terminal, a line every few seconds elsewhere."""
    console, lines, start = Console(stderr=True), Lines(), time.monotonic()
    if console.is_terminal:
        columns = progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeRemainingColumn()
        with progress.Progress("images", *columns, console=console) as bar:
            task = bar.add_task("images", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return

    def say(done: int, total: int) -> None:
        if lines.due():
            print(f"{done:,} of {total:,} images after {time.monotonic() - start:,.0f} s", file=sys.stderr, flush=True)

    yield say
