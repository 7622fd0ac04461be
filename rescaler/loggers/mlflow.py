"""MLflow logger: to the server of ``MLFLOW_TRACKING_URI``, else into MLflow's own ``mlflow.db``."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rescaler.loggers.wandb import AXES, History
from rescaler.record import Record

_CLIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Unless the user says otherwise: the training waits for a server that does not answer."""
_LONGEST = 500


class Mlflow:
    """Logs parameters and the numbers of each epoch; a run that is started again continues its own.

    Args:
        folder: of the run.
        experiment: MLflow's, to which the run belongs.
        uri: where it is kept; null: ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` here.
    """

    def __init__(self, folder: Path, experiment: str = "rescaler", uri: str | None = None) -> None:
        self._folder, self._experiment, self._uri, self._history = folder, experiment, uri, History()

    def start(self, summary: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Find the run, or begin it."""
        os.environ.update({name: os.environ.get(name, value) for name, value in _CLIENT.items()})
        from mlflow import MlflowClient

        self._client = MlflowClient(self._uri)
        known = self._client.get_experiment_by_name(self._experiment)
        where = known.experiment_id if known else self._client.create_experiment(self._experiment)
        found = self._client.search_runs([where], f"tags.rescaler_run = '{summary['run']}'", max_results=1)
        name, tags = str(summary["name"]), {"rescaler_run": summary["run"], "folder": str(self._folder)}
        run = found[0] if found else self._client.create_run(where, tags=tags, run_name=name)
        self._run, self._logged = run.info.run_id, run.data.metrics.get("epoch", 0)
        self._client.update_run(self._run, "RUNNING")
        for key, value in _flat(config, ""):
            if key not in run.data.params:
                self._client.log_param(self._run, key, str(value)[:_LONGEST])

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Log the numbers of an epoch, unless an earlier attempt has."""
        row = self._history.row(record, reused=reused)
        for name in AXES if record.epoch > self._logged else ():
            if isinstance(value := row.get(name), int | float):
                self._client.log_metric(self._run, name, value, step=record.epoch)

    def finish(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


def _flat(values: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    pairs = [(f"{prefix}{key}".replace("*", "_"), value) for key, value in values.items()]
    nested = [_flat(value, f"{key}.") if isinstance(value, Mapping) else [(key, value)] for key, value in pairs]
    return [pair for part in nested for pair in part]
