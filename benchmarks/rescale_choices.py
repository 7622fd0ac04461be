"""What each choice of the rescale keeps of what was learnt: the table of docs/rescale_choices.md.

    python -m benchmarks.rescale_choices                      both networks, 3 seeds: minutes on two cores
    python -m benchmarks.rescale_choices --whole              and the demo's whole schedule with the foremost choices
    python -m benchmarks.rescale_choices --seeds 1 --epochs 2 --networks overfeat_small --out /tmp/try     a quick try

Each network is pre-trained once a seed up to just before the first drop of the learning rate, then every choice goes on
from there: accuracy on the test set before the rescale, right after it, and after the first target epoch. The ledger
keeps all of it, so what is stopped goes on.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import track

from benchmarks.reporting import provenance, write
from rescaler.compose import jobs
from rescaler.config import Experiment
from rescaler.errors import InputError
from rescaler.files import write_text
from rescaler.ledger import Ledger
from rescaler.plan import Run, device_for, plan
from rescaler.state import State
from rescaler.text import TextTable
from rescaler.train import evaluate, start_stage, train

ROOT = Path(__file__).parent.parent
MARK = "<!-- below: written by benchmarks/rescale_choices.py -->\n"

NETWORKS = {
    "overfeat_small": ["experiment=fashion_overfeat"],
    "resnet_small": ["experiment=fashion_resnet"],
}
THREE_STAGES = {
    "overfeat_small": ["shrink=three_stages"],
    "resnet_small": ["shrink=three_stages", "shrink.middle.0.image_px=23"],
}
MOMENTUM = "rescale.optimizer_state=resize"
PLAIN = ["rescale.interpolation=bilinear", "rescale.recalibrate=false", MOMENTUM]
BEST = ["rescale.interpolation=fit", "rescale.recalibrate=true", MOMENTUM]
WHOLE = {
    "the target from the start": ["resize_epoch=0"],
    "resized at 17, bilinear": ["resize_epoch=17", *PLAIN],
    "resized at 17, pinv": ["resize_epoch=17", "rescale.interpolation=pinv", "rescale.recalibrate=false", MOMENTUM],
    "resized at 17, fit": ["resize_epoch=17", *BEST],
    "resized at 42, bilinear": ["resize_epoch=42", *PLAIN],
    "resized at 42, fit": ["resize_epoch=42", *BEST],
}


@dataclass(frozen=True)
class Measurement:
    """One choice with one seed; accuracies as fractions of the test set."""

    before: float
    after: float
    epoch_later: float
    rescale_s: float

    @property
    def kept(self) -> float:
        """Share of the accuracy that is there right after the rescale."""
        return self.after / self.before


def choices(network: str) -> Iterator[list[str]]:
    """Overrides of each choice; those that mean nothing for a network repeat an earlier one."""
    for recalibrate in ("false", "true"):
        for interpolation in ("bilinear", "bicubic", "nearest", "area", "pinv", "fit"):
            yield [f"rescale.interpolation={interpolation}", f"rescale.recalibrate={recalibrate}", MOMENTUM]
    batches = jobs(NETWORKS[network])[0].experiment.schedule.batches_per_epoch
    by_batches = [[f"rescale.{key}_batches={batches}"] for key in ("warmup", "distill")]
    for more in (["rescale.optimizer_state=reset"], *by_batches):
        for choice in (PLAIN, BEST):
            yield [*choice, *more]
    for shrink in (THREE_STAGES[network], ["shrink=input_only"]):
        for choice in (PLAIN, BEST):
            yield [*choice, *shrink]


def label(run: Run) -> str:
    """A choice in words, without what has nothing to act on."""
    recipe = run.chain.rescale
    parts = [recipe.interpolation]
    if recipe.recalibrate:
        parts.append("recalibrated")
    if recipe.optimizer_state == "reset":
        parts.append("momentum reset")
    if recipe.warmup_batches:
        parts.append(f"warm-up over {recipe.warmup_batches} batches")
    if recipe.distill_batches:
        parts.append(f"distilled over {recipe.distill_batches} batches")
    if run.experiment.shrink.middle:
        parts.append("three stages")
    if run.experiment.shrink.input_only:
        parts.append("input only")
    return ", ".join(parts)


def measure(run: Run, ledger: Ledger, folder: Path) -> Measurement:
    """Train the run to its first target epoch, and look again at how that began."""
    folder.mkdir(parents=True, exist_ok=True)
    records = train(run, ledger, folder)
    resized = run.chain.forks[-1]
    tensors, epoch = ledger.state(records[resized - 1].key), run.chain.next(records[:resized])
    if tensors is None or epoch is None:
        raise InputError(f"{ledger.folder}: the state before the rescale is gone; prune nothing while this runs")
    state = State(run.network(run.chain.stage(resized)))
    state.load(tensors, records[resized - 1].digest)
    after = evaluate(start_stage(run, epoch, state).network, epoch.recipe, run.data).top1
    return Measurement(records[resized - 1].test_top1, after, records[resized].test_top1, records[resized].rescale_s)


def experiment(overrides: Sequence[str], epochs: int | None) -> Experiment:
    """The network with a choice, up to its first target epoch; ``epochs``: of pre-training, where not the paper's."""
    made = jobs(overrides)[0].experiment
    last = epochs or made.schedule.milestones[0] - made.schedule.auto_resize_before
    made.resize_epoch, made.schedule.epochs = last, last + 1
    return made


def compare(network: str, seeds: int, epochs: int | None, work: Path) -> dict[str, list[Measurement]]:
    """All choices for one network; one measurement a seed."""
    found: dict[str, list[Measurement]] = {}
    todo = [(seed, choice) for seed in range(seeds) for choice in choices(network)]
    seen: set[str] = set()
    for seed, choice in track(todo, description=network):
        run = plan(experiment([*NETWORKS[network], *choice, f"seed={seed}"], epochs))
        if run.id not in seen:
            seen.add(run.id)
            found.setdefault(label(run), []).append(measure(run, run.ledger, work / run.id))
    return found


def whole(seeds: int, work: Path) -> dict[str, list[float]]:
    """Test accuracy at the end of the demo's whole schedule, by choice and seed."""
    found: dict[str, list[float]] = {}
    todo = [(name, choice, seed) for name, choice in WHOLE.items() for seed in range(seeds)]
    for name, choice, seed in track(todo, description="whole schedules"):
        run = plan(jobs([*NETWORKS["overfeat_small"], *choice, f"seed={seed}"])[0].experiment)
        folder = work / run.id
        folder.mkdir(parents=True, exist_ok=True)
        records = train(run, run.ledger, folder)
        found.setdefault(name, []).append(records[-1].test_top1)
    return found


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, in percent."""
    percent = [100 * value for value in values]
    return f"{statistics.mean(percent):.1f}" + (f" ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else "")


def table(network: str, found: dict[str, list[Measurement]]) -> TextTable:
    """One row a choice; all in percent."""
    columns = ("choice", "before", "right after", "share kept", "an epoch later")
    rows = [
        [name, *(spread([getattr(one, key) for one in values]) for key in ("before", "after", "kept", "epoch_later"))]
        for name, values in found.items()
    ]
    return TextTable(f"{network}, {len(next(iter(found.values())))} seeds: test accuracy in %", columns, rows)


def main() -> None:
    """Measure, print, and write the page and the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of pre-training; default: until the learning rate would drop")
    parser.add_argument("--whole", action="store_true", help="also train whole schedules")
    parser.add_argument("--work", type=Path, default=Path("runs/rescale_choices"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=ROOT, help="writes docs/ and benchmarks/results/ below")
    arguments = parser.parse_args()
    origin = provenance("rescale_choices", device_for(jobs([])[0].experiment.device))
    try:
        compared = {
            name: compare(name, arguments.seeds, arguments.epochs, arguments.work) for name in arguments.networks
        }
        finals = whole(arguments.seeds, arguments.work) if arguments.whole else {}
    except InputError as error:
        sys.exit(f"error: {error}")
    tables = [table(name, found) for name, found in compared.items()]
    if finals:
        rows = [[name, spread(values)] for name, values in finals.items()]
        title = f"overfeat_small, {arguments.seeds} seeds: test accuracy after all 55 epochs, in %"
        tables.append(TextTable(title, ("choice", "accuracy"), rows))
    for one in tables:
        print(one, end="\n\n")
    source = (
        f"`{origin['command']}`; {origin['device']}, torch {origin['torch']}, n = {arguments.seeds} seeds, "
        "mean ± standard deviation."
    )
    page = arguments.out / "docs" / "rescale_choices.md"
    story = page.read_text(encoding="utf-8").partition(MARK)[0] if page.exists() else ""
    write_text(page, story + MARK + "\n" + "\n".join(one.markdown() for one in tables) + f"\n{source}\n")
    measured = {
        name: {choice: [asdict(value) for value in values] for choice, values in found.items()}
        for name, found in compared.items()
    }
    numbers = origin | {"n": arguments.seeds, "choices": measured, "whole_final_top1": finals}
    results = arguments.out / "benchmarks" / "results" / "rescale_choices.json"
    write(results, numbers)


if __name__ == "__main__":
    main()
