"""``rescaler compare``: runs side by side, with the settings that differ."""

import argparse
from pathlib import Path

from rich.console import Console

from rescaler.cli import STDOUT, write
from rescaler.errors import InputError
from rescaler.figures import figure_format, save_figure
from rescaler.figures.compare import compare_figure
from rescaler.results import load_epochs, load_runs, select
from rescaler.results.compare import compare_table, side_by_side


def run(arguments: argparse.Namespace) -> None:
    """Print the table, write it and draw the figure."""
    if arguments.output is not None:
        figure_format(arguments.output)  # before all is read
    for source in arguments.runs:
        if not (source.startswith("wandb:") or Path(source).is_dir()):
            raise InputError(f"no folder {source}: compare takes folders of runs, or folders above them")
    runs = select(load_runs(arguments.runs), arguments.where)
    epochs = load_epochs(runs)
    rows = side_by_side(runs, epochs)
    console = Console(stderr=arguments.csv == STDOUT)  # what is piped on is the file alone
    compare_table(rows).print(console)
    if arguments.csv is not None:
        write(arguments.csv, rows.to_csv(index=False))
    if arguments.output is not None:
        save_figure(compare_figure(rows, epochs), arguments.output)
        console.print(f"Accuracy of each run: {arguments.output}", markup=False, highlight=False, soft_wrap=True)
