import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_runs import FakeRun, load, paper_like

from rescaler.cli import main
from rescaler.page import render
from rescaler.page.content import Comparison, Headline, compare, headline, read_command
from rescaler.results import load_epochs, load_runs, over_seeds, table

TARGETS = [FakeRun(0, [0.5, 0.7, 0.8, best], seed=seed) for seed, best in enumerate((0.90, 0.91, 0.92))]


def resized(*gains: float, resize_epoch: int = 2) -> list[FakeRun]:
    """Runs of seeds 0, 1, 2 whose best accuracy is the target's and a gain; 5.5 of the target's 16 s saved."""
    return [
        FakeRun(resize_epoch, [0.5, 0.6, 0.55, target.top1[-1] + gain], seed=target.seed)
        for target, gain in zip(TARGETS, gains, strict=False)
    ]


def write(folder: Path, *runs: FakeRun, **config: Any) -> Path:
    for index, run in enumerate(runs):
        path = run.write(folder / str(index))
        if config:
            settings = config | {"resize_epoch": run.resize_epoch, "seed": run.seed}
            (path / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return folder


def page(folder: Path) -> str:
    return render(*load(folder))


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a target and a resized network, three seeds each."""
    return page(write(tmp_path_factory.mktemp("runs"), *TARGETS, *resized(0.01, 0.0, -0.01)))


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, to be quick; ``standard`` is made before, and has them."""
    monkeypatch.setattr("rescaler.page.content.pictures", lambda *_, **__: [])


def text(page: str) -> str:
    body = page[page.index("<body>") :]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def said(folder: Path, *runs: FakeRun) -> Headline:
    return headline(over_seeds(table(*load(folder, *runs))))


def report(*arguments: str | Path) -> None:
    main(["report", *map(str, arguments)])


# What is said first.


def test_headline_of_preserved_and_lost_accuracy(tmp_path: Path) -> None:
    found = said(tmp_path / "one", *TARGETS, *resized(0.01, 0.01, 0.01))
    assert found.saving == "Training time saved: 34.4 ± 0.0 % (Resized at epoch 2, 3 runs)"
    assert found.verdicts == {"preserved": ["Resized at epoch 2: +1.00 (+1.00 to +1.00) points"]}
    assert found.cautions == []
    later = resized(-0.02, -0.02, -0.02, resize_epoch=3)
    found = said(tmp_path / "two", *TARGETS, *resized(0.0, 0.0, 0.0), *later)
    # Resized at 3: 1 + 1 + 1 + 4.5 of 16 s.
    assert found.saving == "Training time saved: 34.4 % to 53.1 % (means of 2 resized networks, 3 runs each)"
    assert list(found.verdicts) == ["preserved", "lost"]
    assert found.cautions == [
        "Each interval stands alone: the best of several networks, picked afterwards, looks too good."
    ]


def test_headline_of_single_runs_claims_nothing(tmp_path: Path) -> None:
    found = said(tmp_path, TARGETS[0], *resized(0.01))
    assert found.saving == "Training time saved: 34.4 % (Resized at epoch 2, 1 run)"
    assert found.verdicts == {"not enough runs to tell": ["Resized at epoch 2: +1.00 points"]}
    assert found.cautions == [
        "A difference between single runs has no interval: it may be chance. Train further seeds."
    ]


def test_headline_without_a_target(tmp_path: Path) -> None:
    found = said(tmp_path, *resized(0.0))
    assert found.verdicts == {}
    assert any("estimated" in caution for caution in found.cautions)
    assert any("no target of the same seed" in caution for caution in found.cautions)


@pytest.mark.parametrize(
    ("run", "saving"),
    [
        (FakeRun(2, [0.5], status="running"), "No resized run has finished yet"),
        (FakeRun("never", [0.5] * 4), "No run was resized"),
    ],
)
def test_headline_of_nothing_to_say(tmp_path: Path, run: FakeRun, saving: str) -> None:
    assert said(tmp_path, TARGETS[0], run) == Headline(saving, {}, [])


# The page.


def test_page_needs_nothing_from_elsewhere(standard: str) -> None:
    assert "<script" not in standard
    assert standard.count("<img ") == standard.count('<img src="data:image/svg+xml;base64,') == 4
    assert "://" not in re.sub(r"base64,[^\"]*", "", standard)


def test_page_has_the_numbers_of_networks_and_runs(standard: str) -> None:
    found = text(standard)
    assert "Target (28×28) 3 of 3 91.00 ± 1.00 % (4) 16.00 ± 0.00 s" in found
    assert "Resized at epoch 2 3 of 3 91.00 ± 0.00 % (4) 10.50 ± 0.00 s 34.4 ± 0.0 %" in found
    assert "2 91.00 % 91.00 % (4) 10.50 s 5.50 s (34.4 %)" in found, "the run of seed 2"
    assert '<th scope="rowgroup" class="words" rowspan="3">Target (28×28)</th>' in standard
    assert "The runs’ config.yaml is not at hand." in found
    assert "Beside the paper" not in found


def test_unfinished_runs_are_listed_with_their_error(tmp_path: Path) -> None:
    failed = FakeRun(2, [0.5, 0.6], status="failed", error="<b>no space</b> & more")
    running = FakeRun(0, [0.5], seed=1, status="running")
    found = page(write(tmp_path, *TARGETS[:1], failed, running))
    assert "<b>" not in found
    assert "2 unfinished runs" in found
    when = "last written 2024-05-01 12:00 UTC"
    assert f"Resized at epoch 2, seed 0: failed, 2 of 4 epochs, {when}: <b>no space</b> & more" in text(found)
    assert f"Target (28×28), seed 1: running, 1 of 4 epochs, {when} " in text(found)


def test_a_sweep_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    found = text(page(write(tmp_path, FakeRun(2, [], status="running"))))
    assert "No resized run has finished yet" in found
    assert "No figure: no run has finished an epoch yet." in found
    assert "Resized at epoch 2 0 of 1" in found


def test_comparisons_are_kept_apart(tmp_path: Path) -> None:
    write(tmp_path / "a", *TARGETS, optim={"batch_size": 64, "momentum": 0.9})
    other = FakeRun(0, [0.1] * 4, comparison="deadbeef")
    write(
        tmp_path / "b", other, FakeRun(2, [0.1] * 4, comparison="deadbeef"), optim={"batch_size": 32, "momentum": 0.9}
    )
    found = page(tmp_path)
    assert re.findall(r'<section id="([^"]*)"', found) == ["c-c0ffee00", "c-deadbeef", "between"]
    assert text(found).count("(comparison deadbeef)") == 3, "contents, heading, table between"
    between = found[found.index('<section id="between"') :]
    assert re.search(r"optim\.batch_size</th>\s*<td[^>]*>64</td>\s*<td[^>]*>32</td>", between)
    assert "optim.momentum" not in between
    assert re.search(r"seed</th>\s*<td[^>]*>differs within</td>\s*<td[^>]*>0</td>", between)


def test_settings_that_differ_and_that_are_shared(tmp_path: Path) -> None:
    found = text(page(write(tmp_path, *TARGETS, *resized(0.0), optim={"batch_size": 64})))
    assert "resize_epoch 0 (3), 2 (1)" in found
    assert "seed 0 (2), 1 (1), 2 (1)" in found
    assert "What all runs share (settings: 1)" in found
    assert "4 epochs, batch size 64" in found


def test_keys_of_the_chain(tmp_path: Path) -> None:
    runs = load_runs(write(tmp_path, *resized(0.0)))
    epochs = load_epochs(runs).assign(
        parent=["0" * 32, "1" * 32, "2" * 32, "3" * 32], reused=[True, True, False, False]
    )
    epochs["key"] = ["1" * 32, "2" * 32, "3" * 32, "4" * 32]
    found = render(runs, epochs)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", found[found.index("<caption>Where the numbers are from") :])
    # Run, seed, origin, the last of two pre-train epochs, last epoch, reused.
    assert cells[:6] == ["c0ffee00", "0", "00000000", "22222222", "44444444", "2 of 4"]


def test_the_papers_table_stands_beside_runs_of_its_kind(tmp_path: Path) -> None:
    found = text(page(write(tmp_path, paper_like(0), paper_like(17))))
    assert "Beside the paper’s Table 2: OverFeat-fast on ImageNet, 55 epochs" in found
    assert "Resized at Epoch 17 paper 59.25 % (54) 220.0 h 18.2 %" in found
    assert "Resized at Epoch 18 paper 59.01 % (55) 217.0 h 19.4 % −0.24 ours not run" in found
    assert "Table 3" not in found
    assert "Table 4" not in found


# What runs were asked to do.


def test_compare_tells_shared_from_differing() -> None:
    each = [{"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"a": "1", "b": "x", "c": "new"}]
    assert compare(each) == Comparison({"a": "1"}, {"b": {"x": 2, "y": 1}, "c": {"(none)": 2, "new": 1}})


def hydra(path: Path, *, mode: str, task: list[str], more: list[str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    overrides = {"hydra": [f"hydra.mode={mode}", *(more or [])], "task": task}
    path.write_text(json.dumps({"hydra": {"overrides": overrides}}))  # JSON is YAML


def test_commands_of_a_run_and_of_a_sweep(tmp_path: Path) -> None:
    assert read_command(tmp_path) is None
    hydra(tmp_path / "multirun.yaml", mode="MULTIRUN", task=["seed=0,1"])
    assert read_command(tmp_path) is None, "that of a folder's sweep stands above it"
    hydra(tmp_path / ".hydra" / "hydra.yaml", mode="RUN", task=["resize_epoch=17", "data.folder=/my data"])
    assert read_command(tmp_path) == "python -m rescaler.run resize_epoch=17 'data.folder=/my data'"
    hydra(tmp_path / "3" / ".hydra" / "hydra.yaml", mode="MULTIRUN", task=["seed=0"])
    hydra(tmp_path / "multirun.yaml", mode="MULTIRUN", task=["seed=0,1"], more=["hydra/launcher=submitit_slurm"])
    assert read_command(tmp_path / "3") == "python -m rescaler.run -m hydra/launcher=submitit_slurm seed=0,1"


# The command.


def test_report_writes_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "page.html"
    report(write(tmp_path / "runs", *TARGETS), "-o", output)
    assert capsys.readouterr().out == f"Report on 3 runs: {output}\n"
    assert output.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert list(output.parent.iterdir()) == [output]


def test_report_reads_earlier_and_judges_by_the_margin(tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    report(write(tmp_path / "runs", *TARGETS, *resized(0.0)), "-o", output, "--epochs", "3", "--margin", "2")
    found = text(output.read_text(encoding="utf-8"))
    assert "lies above −2 points" in found
    assert ", 3 epochs, " in found
    assert "Schedule 4 epochs, read after epoch 3 " in found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no runs in nothing"),
        (["runs", "-o", "runs"], "cannot write .*runs"),
        (["runs", "-o", "runs/0/summary.json/page.html"], "cannot write .*summary.json"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "runs", *TARGETS[:1])
    with pytest.raises(SystemExit, match=message):
        report(*arguments)
