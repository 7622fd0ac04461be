"""A sweeper of Hydra's that searches: it gets each run's objective, and chooses the next runs by it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import MakeExperiment
from test_run import TINY, metrics, runs, summary

from rescaler.errors import InputError
from rescaler.execution import execute

ROOT = Path(__file__).parents[1]
SWEEPER = """
import json
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class TinySweeper(Sweeper):
    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        values, arguments = [], [word for word in arguments if "interval" not in word]
        for number, epoch in enumerate((1, 2)):
            (job,) = self.launcher.launch([(*arguments, f"resize_epoch={epoch}")], initial_job_idx=number)
            values.append(job.return_value)
        open("values.json", "w").write(json.dumps(values))


@dataclass
class TinySweeperConfig:
    _target_: str = "hydra_plugins.tiny_sweeper.TinySweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="tiny", node=TinySweeperConfig)
"""


def _run(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rescaler.run", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("launcher", "objective"), [("local", "final_top1"), ("basic", "training_s")])
def test_a_sweeper_gets_the_objective_of_each_run(tmp_path: Path, launcher: str, objective: str) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "tiny_sweeper.py").write_text(SWEEPER)
    words = ["-m", "hydra/sweeper=tiny", f"hydra/launcher={launcher}", f"objective={objective}", *TINY]
    words += ["optim.lr_factor=interval(0.5,2)"]  # which Hydra's own sweeper does not know
    done = _run(tmp_path, words)
    assert done.returncode == 0, done.stderr
    found = {summary(folder)["resize_epoch"]: summary(folder)[objective] for folder in runs(tmp_path)}
    assert json.loads((tmp_path / "values.json").read_text()) == pytest.approx([found[1], found[2]])


def test_optuna_searches_and_the_ledger_shares_what_its_trials_have_in_common(tmp_path: Path) -> None:
    words = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra.sweeper.sampler.seed=1"]
    words += [
        "hydra.sweeper.n_trials=4",
        "hydra.sweeper.n_jobs=2",
        "resize_epoch=choice(1,2)",
        "ledger.keep=all",
        *TINY,
    ]
    done = _run(tmp_path, words)
    assert done.returncode == 0, done.stderr
    (sweep,) = {folder.parent for folder in runs(tmp_path)}
    best = yaml.safe_load((sweep / "optimization_results.yaml").read_text())
    finals = {summary(folder)["resize_epoch"]: summary(folder)["final_top1"] for folder in runs(tmp_path)}
    assert best["best_value"] == max(finals.values()) == finals[best["best_params"]["resize_epoch"]]
    epochs = pd.concat([metrics(folder) for folder in runs(tmp_path)])
    trained = epochs[~epochs["reused"]]
    assert len(trained) == trained["key"].nunique() == epochs["key"].nunique() < len(epochs)


def test_the_cost_of_a_run_by_hand(tmp_path: Path, make_experiment: MakeExperiment) -> None:
    # Three of six epochs at a quarter of the target's step, three at all of it.
    experiment = make_experiment(objective="cost", cost__reference=[0.25, 1.0])
    assert execute(experiment, tmp_path / "run", group="") == pytest.approx(3 / 6 / 4 + 3 / 6)
    assert metrics(tmp_path / "run")["images"].sum() == 6 * 5 * 16


def test_a_cost_that_is_not_known_is_refused(tmp_path: Path, make_experiment: MakeExperiment) -> None:
    with pytest.raises(InputError, match="^objective=cost needs cost.reference, or a schedule by cost$"):
        execute(make_experiment(objective="cost"), tmp_path / "run", group="")
