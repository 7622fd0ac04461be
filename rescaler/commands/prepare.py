"""``rescaler prepare``: smaller copies of ImageNet's files, once, so that no run waits for them."""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rescaler.errors import InputError, listed

if TYPE_CHECKING:
    from rescaler.compose import Job
    from rescaler.data.preparation import Preparation, Progress

# Hydra and torch take seconds to import, so they are imported where they are used.

_LINE_S = 10.0
"""Seconds between lines where there is no terminal."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "prepare",
        help="copy ImageNet's files to the sizes that runs need, in a few large files that load faster",
        description="Resizes every image once, for each stage of the given runs, and leaves out what cannot be read. "
        "What was stopped goes on with the same command; on a finished set it checks every file, and makes damaged "
        "ones anew. Prepared images are other data than the tree: runs on them share no epochs with runs on it.",
        epilog="example: python -m rescaler prepare experiment=imagenet_resnet data.folder=/path/to/imagenet",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings and sweeps, as for rescaler.run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: prepared/ below data.folder")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prepare what the given runs need.

    Raises:
        InputError: a setting is impossible, or the images cannot be read, written or used.
    """
    from rescaler.compose import jobs

    preparation = _preparation(jobs(arguments.overrides), arguments.out)
    estimated_bytes = preparation.estimated_bytes()
    counts = " + ".join(f"{len(split.labels):,}" for split in preparation.tree)
    print(
        f"{preparation.tree.train.root.parent}: {counts} images (train + val) -> {preparation.folder}, shorter sides "
        f"of {_sizes(preparation)} pixels: about {estimated_bytes / 1e9:,.2f} GB; "
        f"{preparation.free_bytes() / 1e9:,.2f} GB are free for them",
        flush=True,
    )
    preparation.check_disk(estimated_bytes)
    with _shown() as progress:
        manifest = preparation.run(progress)
    size_bytes, left_out = sum(part.size_bytes for part in manifest.parts), manifest.left_out
    print(f"{sum(part.images for part in manifest.parts):,} images, {size_bytes / 1e9:,.2f} GB; all checksums hold")
    if left_out:
        print(f"{len(left_out):,} could not be read and are left out (prepared.json has all, with the reasons):")
        print(*(f"  {name}: {why}" for name, why in list(left_out.items())[:10]), sep="\n")
    print(f"train on them with data.folder={preparation.folder}")


def _preparation(jobs: "Sequence[Job]", out: Path | None) -> "Preparation":
    from rescaler.commands.networks import candidates
    from rescaler.data import image_folder, streams_from_files
    from rescaler.data.decoding import shorter_px
    from rescaler.data.preparation import Preparation
    from rescaler.data.prepared import is_prepared
    from rescaler.data.tree import read_tree

    data = jobs[0].experiment.data
    for other in (job.experiment.data for job in jobs):
        if not streams_from_files(other):
            raise InputError(f"data must be imagenet to be prepared: other sets are in memory anyway; got {other.name}")
        if (other.folder, other.classes) != (data.folder, data.classes):
            raise InputError(f"data.folder and data.classes must be the same in all runs; got {other.folder}")
    tree = image_folder(data)
    if is_prepared(tree):
        raise InputError(f"data.folder={data.folder} is a prepared set; it must be the tree that it was made from")
    sizes = {shorter_px(network.image_px) for job in jobs for network in candidates(job.experiment).values()}
    folder = out.expanduser().absolute() if out else tree / "prepared"
    return Preparation(read_tree(tree, classes=data.classes), folder, sorted(sizes), data.workers)


def _sizes(preparation: "Preparation") -> str:
    return listed(map(str, preparation.shorter_px), most=8)


@contextlib.contextmanager
def _shown() -> "Iterator[Progress]":
    """A bar in a terminal, a line every few seconds elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if console.is_terminal:
        columns = TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("images", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    start = said = time.monotonic()

    def say(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > _LINE_S:
            said = time.monotonic()
            print(f"{done:,} of {total:,} images after {said - start:,.0f} s", file=sys.stderr, flush=True)

    yield say
