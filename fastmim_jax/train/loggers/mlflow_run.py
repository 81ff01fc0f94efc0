"""A run of MLflow. Its own variables, such as MLFLOW_TRACKING_URI, apply."""

import os
from collections.abc import Mapping
from typing import Any

from fastmim_jax.train.loggers.items import Picture, RunFacts, Scalars

EXPERIMENT = "fastmim_jax"
MOST_PARAMS = 100  # in a request
MOST_CHARACTERS = 6000  # of a parameter
# MLflow waits for minutes by default; `Sink` tries again by itself.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}


class MlflowRun:
    """A run on the server of MLFLOW_TRACKING_URI, or in WORKDIR/mlflow without one.

    Values at steps that a metric has already are left out.

    Args:
      facts: on the run.
      saved: `where` of the run that is continued, {} for a new one.
    """

    def __init__(self, facts: RunFacts, saved: Mapping[str, str]):
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        folder = facts.workdir / "mlflow"
        server = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not server:
            folder.mkdir(exist_ok=True)
        uri = server or f"sqlite:///{folder / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=uri)
        project = facts.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        run = self._find(saved) if saved.get("project") == project and saved.get("server") == uri else None
        if run is None:
            place = None if server else (folder / "artifacts").as_uri()
            run = self._client.create_run(self._experiment(project, place), run_name=facts.workdir.name)
        else:
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._id = run.info.run_id
        latest = getattr(run.data, "_metric_objs", None) or ()
        self._last = {metric.key: metric.step for metric in latest}
        self._log_config(facts.config, set(run.data.params))
        self.where = {"run": self._id, "project": project, "server": uri}
        experiment = run.info.experiment_id
        self.note = f"{server.rstrip('/')}/#/experiments/{experiment}/runs/{self._id}"
        if not server.startswith("http"):
            self.note = f"recorded in {uri}; `mlflow ui --backend-store-uri {uri}` shows it"

    def log_scalars(self, item: Scalars) -> None:
        """Log metrics."""
        from mlflow.entities import Metric

        milliseconds = round(item.time * 1000)
        metrics = [
            Metric(name, float(value), milliseconds, item.step)
            for name, value in item.values.items()
            if item.step > self._last.get(name, -1)
        ]
        if metrics:
            self._client.log_batch(self._id, metrics=metrics, synchronous=True)

    def log_picture(self, item: Picture) -> None:
        """Log a picture."""
        from PIL import Image

        with Image.open(item.path) as image:
            options: dict[str, Any] = dict(key=item.name, step=item.step, synchronous=True)
            self._client.log_image(self._id, image, timestamp=round(item.time * 1000), **options)

    def finish(self, done: bool) -> None:
        """Set the status of the run."""
        self._client.set_terminated(self._id, "FINISHED" if done else "KILLED")

    def _find(self, saved: Mapping[str, str]) -> Any:
        """Return the run that is continued; None if it was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(saved["run"])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _experiment(self, name: str, place: str | None) -> str:
        """Return the id of an experiment, created if missing; place: of its artifacts."""
        found = self._client.get_experiment_by_name(name)
        if found:
            return found.experiment_id
        return self._client.create_experiment(name, artifact_location=place)

    def _log_config(self, config: Mapping[str, Any], present: set[str]) -> None:
        """Log the keys of the config as parameters, which never change: those that are there stay."""
        from mlflow.entities import Param

        texts = {key: str(value)[:MOST_CHARACTERS] for key, value in config.items()}
        params = [Param(key, text) for key, text in texts.items() if key not in present]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._id, params=params[first : first + MOST_PARAMS], synchronous=True)
