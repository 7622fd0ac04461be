"""The study's command: what it runs, in which order, and that all of it can run."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import study
from rescaler.compose import jobs


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    called: list[list[str]] = []

    def call(command: list[str], **_: Any) -> int:
        called.append(command[3:])
        return 0

    monkeypatch.setattr("subprocess.call", call)
    return called


def test_references_are_measured_before_anything_runs_beside(tmp_path: Path, commands: list[list[str]]) -> None:
    study.main(["--folder", str(tmp_path), "--results", str(tmp_path), "--cifar10", "pictures"])
    count = len(study.COMPARISONS)
    assert [words[0] for words in commands] == ["measure"] * count + ["fair"] * count
    assert all("data.folder=pictures" in words for words in commands if "experiment=fair_cifar10" in words)
    tuned = {Path(words[words.index("--tuned") + 1]).name for words in commands if "--tuned" in words}
    assert tuned == {"cifar10_vgg"}
    last = [words for words in commands if "--tuned" in words]
    assert commands[-len(last) :] == last, "learning rates are chosen before they are taken over"


@pytest.mark.parametrize("name", study.COMPARISONS)
def test_every_comparison_can_be_composed(tmp_path: Path, commands: list[list[str]], name: str) -> None:
    study.main([name, "--folder", str(tmp_path), "--results", str(tmp_path)])
    settings = [word for word in commands[0] if "=" in word]
    assert [job.experiment.arm for job in jobs(settings)] == ["rescaled", "input_only", "paper"]
    assert [word for word in commands[1] if "=" in word] == settings[:-2]


def test_an_unknown_comparison_is_one_line(tmp_path: Path, commands: list[list[str]]) -> None:
    with pytest.raises(SystemExit, match="^error: NAME must be among cifar10_vgg, .*; got mnist$"):
        study.main(["mnist", "--folder", str(tmp_path)])
    assert not commands
