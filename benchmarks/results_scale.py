"""Reading results at scale: 10,000 runs of 90 epochs, generated in a temporary folder.

    python -m benchmarks.results_scale [--runs 10000] [--epochs 90] [--out FILE]

Measures, each in a process of its own: loading, the tables, and those in words. Times are seconds by the wall, and of
the processor where the machine has other work; memory is the peak resident set.
"""

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from rich.progress import track

from benchmarks.reporting import parser, provenance, write
from rescaler.record import EPOCH_FIELDS, METRICS_FILE, SUMMARY_FILE, Record
from rescaler.summary import totals

_LOAD = """
import json, resource, sys, time
start = time.perf_counter()
from rescaler.results import load_epochs, load_runs, over_seeds, table, table2
from rescaler.results.report import reports
imported, imported_cpu = time.perf_counter(), time.process_time()
runs = load_runs(sys.argv[1])
epochs = load_epochs(runs)
loaded, loaded_cpu = time.perf_counter(), time.process_time()
def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
load_peak_mb = peak_mb()
rows = table(runs, epochs)
seeds = over_seeds(rows)
table2(seeds)
done, done_cpu = time.perf_counter(), time.process_time()
reports(rows, seeds, epochs)
told = time.perf_counter()
print(json.dumps({
    "runs": len(runs), "epochs": len(epochs), "import_s": imported - start, "load_s": loaded - imported,
    "load_processor_s": loaded_cpu - imported_cpu, "tables_s": done - loaded,
    "tables_processor_s": done_cpu - loaded_cpu, "words_s": told - done,
    "load_peak_mb": load_peak_mb, "peak_mb": peak_mb(),
}))
"""


def generate(folder: Path, runs: int, epochs: int) -> None:
    """Runs resized after each of the first epochs, and both baselines, of 12 seeds a comparison."""
    kinds = ["never", 0, *range(1, 41)]
    for number in track(range(runs), "generating", transient=True):
        seed, resize_epoch = number // len(kinds), kinds[number % len(kinds)]
        write_run(folder / f"sweep{number // 500}" / str(number), seed, resize_epoch, epochs)


def write_run(folder: Path, seed: int, resize_epoch: int | str, epochs: int) -> None:
    last_pretrain = epochs if resize_epoch == "never" else int(resize_epoch)
    records: list[Record] = []
    for epoch in range(1, epochs + 1):
        pretrain = epoch <= last_pretrain
        key = f"{seed:04x}{last_pretrain if not pretrain else 0:04x}{epoch:04x}".ljust(32, "0")
        records.append(
            Record(
                key=key, parent=records[-1].key if records else "origin", epoch=epoch,
                stage="pretrain" if pretrain else "target", image_px=160 if pretrain else 224,
                rescaled=epoch == last_pretrain + 1 > 1, learning_rate=0.1, weight_decay=1e-4, held=False,
                images=1_281_167, train_loss=1 / epoch, train_top1=1 - 1 / epoch, test_loss=1 / epoch,
                test_top1=1 - 1 / (epoch + seed % 7), test_top5=1.0, train_s=100.0 if pretrain else 250.0, data_s=1.0,
                rescale_s=0.0, compile_s=0.0, evaluation_s=5.0, device="GPU", torch="2.11", digest=key,
                parent_digest=key,
            )
        )  # fmt: skip
    folder.mkdir(parents=True)
    with (folder / METRICS_FILE).open("w", newline="") as file:
        writer = csv.DictWriter(file, EPOCH_FIELDS)
        writer.writeheader()
        writer.writerows({**record.to_dict(), "reused": False} for record in records)
    summary = {
        "run": f"{seed:08x}{last_pretrain if resize_epoch != 'never' else 255:08x}", "comparison": f"{seed // 12:016x}",
        "name": "scale", "model": "resnet34", "data": "imagenet", "seed": seed, "resize_epoch": resize_epoch,
        "hold": False, "variant": "", "status": "done", "error": None, "epochs_planned": epochs,
        **totals([(record, False) for record in records]), "device": "GPU", "torch": "2.11",
        "version": "0.1.0", "commit": None, "updated": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    (folder / SUMMARY_FILE).write_text(json.dumps(summary))


def load(folder: Path) -> dict[str, float]:
    found = subprocess.run([sys.executable, "-c", _LOAD, folder], check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(found.stdout)
    return measured


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--runs", type=int, default=10_000)
    command_line.add_argument("--epochs", type=int, default=90)
    command_line.add_argument("--repeats", type=int, default=3, help="loads")
    arguments = command_line.parse_args()
    origin = provenance("results_scale")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        generate(folder, arguments.runs, arguments.epochs)
        measured = {"loads": [load(folder) for _ in range(arguments.repeats)]}
    for name, loads in measured.items():
        for one in loads:
            print(
                f"{name}: {one['runs']:,.0f} runs, {one['epochs']:,.0f} epochs: loaded in {one['load_s']:.1f} s, "
                f"tables in {one['tables_s']:.2f} s, in words {one['words_s']:.1f} s, "
                f"imports {one['import_s']:.1f} s, peak {one['load_peak_mb']:,.0f} MB, "
                f"with the tables {one['peak_mb']:,.0f} MB"
            )
    write(arguments.out, origin | {"pandas": pd.__version__} | measured)


if __name__ == "__main__":
    main()
