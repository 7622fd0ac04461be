"""Arguments of the commands: one parser for all.

It imports nothing heavy, so that ``--help`` comes at once.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CPU_BATCH = 16
"""Images in a step that ``describe`` times on a CPU, at most, unless --batch says: one of 128 takes many seconds."""
RUNS = Path("runs")


def parsers(*complete: str) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of all commands and each command's own; options have those that are to be ``complete``."""
    top = argparse.ArgumentParser(prog="rescaler", description="Train networks, plan runs, read what runs recorded.")
    top.add_argument("--version", action=_Version)
    commands = top.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, (module, add_arguments, summary) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, add_help=name != "run")
        command.set_defaults(command=name, module=f"rescaler.{module}")
        if name in complete:
            add_arguments(command)
            command.add_argument("--version", action=_Version)
    return top, commands.choices


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version  # takes a twentieth of a second

        print(f"rescaler {version('rescaler')}")
        parser.exit()


def completion(arguments: argparse.Namespace) -> None:
    """Print a script with which a shell completes commands and options."""
    import shtab

    top, commands = parsers(*_COMMANDS)
    for command in commands.values():
        for action in command._actions:
            action.help = action.help and str(action.help)  # Hydra's are made when they are shown
            if action.nargs != 0 and action.choices is None:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(top, arguments.shell))


def _run(command: argparse.ArgumentParser) -> None:
    from hydra._internal.utils import get_args_parser

    for action in get_args_parser()._actions:
        if action.dest != "version":
            command._add_action(action)


def _describe(command: argparse.ArgumentParser) -> None:
    _settings(command)
    command.add_argument("--all", action="store_true", help="a row for each layer, even where layers are alike")
    command.add_argument("--measure", action="store_true", help="time training steps of the networks on this device")
    batch = f"images in a timed step; default: optim.batch_size, on a CPU at most {CPU_BATCH}"
    command.add_argument("--batch", type=int, metavar="N", help=batch)
    _files(command, "each layer's numbers")


def _plan(command: argparse.ArgumentParser) -> None:
    _settings(command)
    hours = "hours of one epoch of each network, the smallest first; then no data are needed"
    command.add_argument("--hours", nargs="+", metavar=("PRETRAIN", "TARGET"), help=hours)


def _fair(command: argparse.ArgumentParser) -> None:
    _settings(command)
    command.add_argument("--budget", type=float, default=0.65, help="cost of all arms but the target in full; 0.65")
    arms = "target,squeezed,input_only,rescaled"
    command.add_argument("--arms", default=arms, help="configs of conf/arm, by commas; default: %(default)s")
    command.add_argument("--seeds", type=int, default=10, metavar="N", help="of the claim; default: %(default)s")
    factors = "learning rates to choose from, times the schedule's; default: %(default)s"
    command.add_argument("--lr", default="0.5,1,2", metavar="FACTORS", help=factors)
    tuned = "take the learning rates that an earlier comparison has chosen, by its folder, instead of --lr"
    command.add_argument("--tuned", type=Path, metavar="DIR", help=tuned)
    tuning = "seeds that choose learning rates on a hold-out; default: %(default)s"
    command.add_argument("--tuning-seeds", type=int, default=3, metavar="N", help=tuning)
    held = "share of the training set that is held out to choose; default: %(default)s"
    command.add_argument("--holdout", type=float, default=0.1, metavar="SHARE", help=held)
    margin = "accuracy that may be lost to the target in full; default: %(default)s"
    command.add_argument("--margin", type=float, default=0.3, metavar="POINTS", help=margin)
    command.add_argument("--folder", type=Path, metavar="DIR", help="where the runs go; default: below runs/")
    command.add_argument("--csv", metavar="FILE", help="write every epoch of all runs as CSV; - for standard output")


def _measure(command: argparse.ArgumentParser) -> None:
    _settings(command)
    command.add_argument("--again", action="store_true", help="measure anew what was measured before")
    sizes = (
        "also with all sizes of pre-train images within 10 %% that suit the networks, to choose shrink.image_px from"
    )
    command.add_argument("--sizes", action="store_true", help=sizes)


def _prepare(command: argparse.ArgumentParser) -> None:
    _settings(command)
    command.add_argument("-o", "--output", type=Path, metavar="DIR", help="default: prepared/ below data.folder")


def _status(command: argparse.ArgumentParser) -> None:
    which = f"folder of the sweep, or of a run; default: the newest in {RUNS}/"
    command.add_argument("sweep", nargs="?", type=Path, metavar="FOLDER", help=which)
    command.add_argument("--watch", action="store_true", help="look again every few seconds, until all runs are over")


def _retry(command: argparse.ArgumentParser) -> None:
    _sweep(command)
    command.add_argument("--detach", action="store_true", help="on a cluster: return when all is submitted")


def _tables(command: argparse.ArgumentParser) -> None:
    _sources(command)
    table = "the paper's Table 2, 3 or 4, its numbers and ours side by side"
    command.add_argument("--table", type=int, choices=(2, 3, 4), help=table)
    _files(command, "all numbers")
    column = "one more column: a function of yours that takes the epochs of a run as a data frame; may be repeated"
    command.add_argument("--column", action="append", default=[], metavar="PACKAGE.FUNCTION", help=column)
    command.add_argument("--latex", metavar="FILE", help="write the tables as LaTeX (booktabs); - for standard output")
    command.add_argument("--plot", type=Path, metavar="FILE", help="draw the figure: FILE.png, FILE.svg or FILE.pdf")


def _report(command: argparse.ArgumentParser) -> None:
    _sources(command)
    output = Path("report.html")
    command.add_argument("-o", "--output", type=Path, default=output, metavar="FILE", help="default: %(default)s")


def _compare(command: argparse.ArgumentParser) -> None:
    runs = "folders of runs, or above them; or wandb:ENTITY/PROJECT"
    command.add_argument("runs", nargs="+", metavar="RUN", help=runs)
    _where(command)
    figure = "draw accuracy over cost, or over training time where a cost is not known: FILE.png, FILE.svg or FILE.pdf"
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help=figure)
    _csv(command, "the table")


def _export(command: argparse.ArgumentParser) -> None:
    _model(command)
    formats = "safetensors (default), torch (a state_dict), onnx or torchscript"
    command.add_argument("--format", default="safetensors", metavar="FORMAT", help=formats)
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: the run's name, in this folder")


def _evaluate(command: argparse.ArgumentParser) -> None:
    _model(command)
    settings = "settings of data; default: the run's own test set, at the size of the network's images"
    command.add_argument("overrides", nargs="*", metavar="data.KEY=VALUE", help=settings)
    command.add_argument("--config-dir", "-cd", metavar="DIR", help="folder of your own configs")
    _csv(command, "the confusion of all classes")


def _predict(command: argparse.ArgumentParser) -> None:
    _model(command)
    command.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="image files, or folders of them")
    command.add_argument("--top", type=int, default=3, metavar="N", help="classes to name; default: %(default)s")
    _csv(command, "them")


def _remove(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    command.add_argument("--yes", action="store_true", help="remove them; otherwise only say what would be removed")


def _doctor(command: argparse.ArgumentParser) -> None:
    command.add_argument("--folder", type=Path, default=Path("ledger"), help="of the ledger; default: %(default)s")


def _completion(command: argparse.ArgumentParser) -> None:
    command.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="whose script is printed")


def _model(command: argparse.ArgumentParser) -> None:
    which = "folder of a run that is done, or its model.safetensors"
    command.add_argument("model", type=Path, metavar="RUN", help=which)


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
    force = "prune: even where the folders of all runs are gone, and what is younger than an hour"
    command.add_argument("--force", action="store_true", help=force)


def _settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings and sweeps, as for rescaler run")
    command.add_argument("-m", "--multirun", action="store_true", help="as for rescaler run; not needed here")
    command.add_argument("--config-dir", "-cd", metavar="DIR", help="folder of your own configs")
    command.add_argument("--config-path", "-cp", metavar="DIR", help="folder of configs instead of conf/")
    command.add_argument("--config-name", "-cn", metavar="NAME", help="primary config instead of config")


def _sweep(command: argparse.ArgumentParser) -> None:
    which = f"folder of the sweep; default: the newest in {RUNS}/"
    command.add_argument("sweep", nargs="?", type=Path, metavar="SWEEP", help=which)


def _sources(command: argparse.ArgumentParser) -> None:
    sources = f"folders, or wandb:ENTITY/PROJECT; default: {RUNS}"
    command.add_argument("sources", nargs="*", default=[str(RUNS)], metavar="RUNS", help=sources)
    _where(command)
    margin = "accuracy that may be lost and still counts as preserved; default: %(default)s"
    command.add_argument("--margin", type=float, default=0.5, metavar="POINTS", help=margin)
    command.add_argument("--epochs", type=int, metavar="N", help="count only the first N epochs of each run")


def _where(command: argparse.ArgumentParser) -> None:
    where = "only runs with this value, such as data=cifar10 or optim.lr_factor=0.5; may be repeated"
    command.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help=where)


def _files(command: argparse.ArgumentParser, numbers: str) -> None:
    _csv(command, numbers)
    command.add_argument("--markdown", metavar="FILE", help="write the tables as Markdown; - for standard output")


def _csv(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--csv", metavar="FILE", help=f"write {what} as CSV; - for standard output")


_COMMANDS = {
    "run": ("run", _run, "train one run, or with -m a sweep; the same as python -m rescaler.run"),
    "describe": (
        "cli.networks",
        _describe,
        "kernels, feature maps and multiplications of a network, and how fast it is here",
    ),
    "plan": (
        "cli.sweeps",
        _plan,
        "the time that runs and sweeps will take; times training steps on this device, unless --hours says",
    ),
    "fair": (
        "cli.sweeps",
        _fair,
        "kernel rescaling against its opponents at equal cost, with seeds, intervals and a verdict",
    ),
    "measure": (
        "cli.networks",
        _measure,
        "reference time of each network's step, by which budgets and comparisons count",
    ),
    "prepare": ("cli.prepare", _prepare, "copy image files to the sizes that runs need, or check such copies"),
    "status": ("cli.sweeps", _status, "how the runs of a sweep stand, on this machine or on a cluster"),
    "retry": (
        "cli.sweeps",
        _retry,
        "run again the runs of a sweep that failed, were lost or cancelled, from their last saves",
    ),
    "cancel": ("cli.sweeps", _sweep, "end the runs of a sweep that wait or run; what is trained stays in the ledger"),
    "tables": ("cli.results", _tables, "accuracy, training time and time saved of all runs in and below some folders"),
    "report": ("cli.results", _report, "one HTML page with tables, figures and settings, to send to a colleague"),
    "compare": ("cli.results", _compare, "runs side by side: the settings that differ, accuracy, training time, cost"),
    "export": ("cli.models", _export, "write a run's trained network in a format for use elsewhere, and check it"),
    "evaluate": ("cli.models", _evaluate, "loss, accuracy and confusion of a trained network, at any image size"),
    "predict": ("cli.models", _predict, "the most likely classes of pictures, by a trained network"),
    "upload": ("cli.upload", _upload, "send recorded runs to W&B afterwards, but for what is there already"),
    "ledger": ("cli.upkeep", _ledger, "what the ledger holds and how much disk it takes; prune or verify it"),
    "remove": ("cli.upkeep", _remove, "remove runs' folders, and of the ledger what no other run needs"),
    "doctor": ("cli.upkeep", _doctor, "versions, device, SLURM, W&B, ledger and disk, to paste into a bug report"),
    "completion": (
        "cli.arguments",
        _completion,
        "a script with which a shell completes these commands and their options",
    ),
}
"""Module below ``rescaler`` whose function of the same name runs the command, what adds its arguments, summary."""
