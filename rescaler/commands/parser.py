"""The command line of ``python -m rescaler``: all commands and their arguments.

It imports nothing heavy, so that ``--help`` comes at once; what a command needs is imported when it is run.
"""

import argparse
from pathlib import Path

CPU_BATCH = 16
"""Images in a step that ``describe`` times on a CPU, at most, unless told otherwise: one of 128 takes many seconds."""
RUNS = Path("runs")
STDOUT = "-"


def parser() -> argparse.ArgumentParser:
    """What reads the command line; ``command`` is then the name of a module of :mod:`rescaler.commands`."""
    found = argparse.ArgumentParser(
        prog="rescaler",
        description="Look at networks, plan runs, read what runs recorded. To train: `python -m rescaler.run --help`.",
    )
    commands = found.add_subparsers(metavar="COMMAND", dest="command", required=True)
    _describe(
        commands.add_parser(
            "describe",
            help="what shrinking makes of a network, layer by layer, and how fast it is here",
            description="Kernels, feature maps and multiplications of both networks. No images needed.",
            epilog="example: python -m rescaler describe model=resnet34 data=imagenet --measure",
        )
    )
    _plan(
        commands.add_parser(
            "plan",
            help="the time that runs and sweeps will take, before anything is trained",
            description="Time of every run, what it saves against the target network, and what the sweep costs with "
            "its trunk shared. Times some training steps on this device, on random images, unless --hours says how "
            "long epochs take.",
            epilog="example: python -m rescaler plan sweep=table2_imagenet --hours 1.94 4.89",
        )
    )
    _prepare(
        commands.add_parser(
            "prepare",
            help="copy ImageNet's files to the sizes that runs need, in a few large files that load faster",
            description="Resizes every image once, for each stage of the given runs, and leaves out what cannot be "
            "read. What was stopped goes on with the same command; on a finished set it checks every file, and makes "
            "damaged ones anew. Prepared images are other data than the tree: runs on them share no epochs with runs "
            "on it.",
            epilog="example: python -m rescaler prepare experiment=imagenet_resnet data.folder=/path/to/imagenet",
        )
    )
    _status(
        commands.add_parser(
            "status",
            help="how the runs of a sweep stand, on this machine or on a cluster",
            description="State of each run (waiting, running, done, failed, lost, cancelled), epoch, accuracy, time "
            "left.",
        )
    )
    _retry(
        commands.add_parser(
            "retry",
            help="run again the runs of a sweep that failed, were lost or cancelled",
            description="Each goes on from its last save, in its own folder, with the settings that it was started "
            "with: on the cluster, with the same requests, or on this machine.",
        )
    )
    _sweep(
        commands.add_parser(
            "cancel",
            help="end the runs of a sweep that wait or run",
            description="What is trained stays in the ledger: `rescaler retry` goes on from it.",
        )
    )
    _tables(
        commands.add_parser(
            "tables",
            help="accuracy, training time and time saved of all runs found",
            description="Best accuracy, training time and time saved against the target network, for all runs in and "
            "below the given folders. Runs of different models, data or schedules come in separate tables.",
        )
    )
    _report(
        commands.add_parser(
            "report",
            help="one page with tables, figures and settings, to send to a colleague",
            description="Write one HTML file, which needs no network: what was compared, how much time was saved and "
            "whether accuracy was preserved, tables, figures, how the runs' settings differ, and how to run them "
            "again.",
        )
    )
    _upload(
        commands.add_parser(
            "upload",
            help="send recorded runs to W&B afterwards",
            description="Send all runs in and below the given folders to W&B, those in progress as far as they are. "
            "What is there already is not sent again, and a run that went on is continued: repeat it at any time.",
        )
    )
    _ledger(
        commands.add_parser(
            "ledger",
            help="show what the ledger holds and how much disk it takes; prune or verify it",
            description="The ledger keeps a record of every trained epoch, and the states that runs go on from.",
        )
    )
    return found


def _describe(command: argparse.ArgumentParser) -> None:
    _settings(command, "settings")
    command.add_argument("--all", action="store_true", help="a row for each layer, even where layers are alike")
    command.add_argument("--measure", action="store_true", help="time training steps of the networks on this device")
    command.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help=f"images in a timed step; default: optim.batch_size, on a CPU at most {CPU_BATCH}",
    )
    _files(command, "each layer's numbers")


def _plan(command: argparse.ArgumentParser) -> None:
    _settings(command, "settings and sweeps")
    command.add_argument(
        "-m", "--multirun", action="store_true", help="as for rescaler.run; not needed for sweeps here"
    )
    command.add_argument(
        "--hours",
        nargs="+",
        metavar=("PRETRAIN", "TARGET"),
        help="hours of one epoch of each network, the smallest first; then no network and no data are needed",
    )


def _prepare(command: argparse.ArgumentParser) -> None:
    _settings(command, "settings and sweeps")
    command.add_argument("-o", "--output", type=Path, metavar="DIR", help="default: prepared/ below data.folder")


def _status(command: argparse.ArgumentParser) -> None:
    _sweep(command)
    command.add_argument("--watch", action="store_true", help="look again every few seconds, until all runs are over")


def _retry(command: argparse.ArgumentParser) -> None:
    _sweep(command)
    command.add_argument("--detach", action="store_true", help="on a cluster: return when all is submitted")


def _tables(command: argparse.ArgumentParser) -> None:
    _sources(command)
    command.add_argument(
        "--table", type=int, choices=(2, 3, 4), help="the paper's Table 2, 3 or 4, its numbers and ours side by side"
    )
    _files(command, "all numbers")
    command.add_argument("--latex", metavar="FILE", help="write the tables as LaTeX (booktabs); - for standard output")
    command.add_argument("--plot", type=Path, metavar="FILE", help="draw the figure: FILE.png, FILE.svg or FILE.pdf")


def _report(command: argparse.ArgumentParser) -> None:
    _sources(command)
    command.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), metavar="FILE", help="default: %(default)s"
    )


def _upload(command: argparse.ArgumentParser) -> None:
    command.add_argument("folders", nargs="*", type=Path, default=[RUNS], metavar="DIR", help=f"default: {RUNS}")
    command.add_argument("--project", help="default: the runs' own logger.project")
    command.add_argument("--entity", help="default: the runs' own logger.entity")
    command.add_argument("--group", help="default: the runs' own logger.group, or the name of their sweep's folder")
    command.add_argument("--offline", action="store_true", help="write W&B's offline files instead, for `wandb sync`")


def _ledger(command: argparse.ArgumentParser) -> None:
    command.add_argument("action", nargs="?", choices=["show", "prune", "verify"], default="show")
    command.add_argument("--folder", type=Path, default=Path("ledger"), help="default: %(default)s")
    command.add_argument("--dry-run", action="store_true", help="prune: only say what would be removed")


def _settings(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"{what}, as for python -m rescaler.run")
    command.add_argument(
        "--config-dir",
        "-cd",
        type=Path,
        metavar="DIR",
        help="folder of your own configs, as for python -m rescaler.run",
    )


def _sweep(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "sweep", nargs="?", type=Path, metavar="SWEEP", help=f"folder of the sweep; default: the newest in {RUNS}/"
    )


def _sources(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "sources",
        nargs="*",
        default=[str(RUNS)],
        metavar="RUNS",
        help=f"folders, or wandb:ENTITY/PROJECT; default: {RUNS}",
    )
    command.add_argument(
        "--margin",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="accuracy that may be lost and still counts as preserved; default: %(default)s",
    )
    command.add_argument("--epochs", type=int, metavar="N", help="count only the first N epochs of each run")


def _files(command: argparse.ArgumentParser, numbers: str) -> None:
    command.add_argument("--csv", metavar="FILE", help=f"write {numbers} as CSV; - for standard output")
    command.add_argument("--markdown", metavar="FILE", help="write the tables as Markdown; - for standard output")
