"""Runs of MLflow, in the local store of its real client."""

import math

import pytest
from PIL import Image

from fastmim_jax.train.loggers.items import Picture, RunFacts, Scalars
from fastmim_jax.train.loggers.mlflow_run import MlflowRun

PICTURES = ("reconstructions", "curve", "confusion")  # names of a run's pictures
pytestmark = [pytest.mark.slow, pytest.mark.torch]  # both are heavy and may be missing


def test_a_run_its_config_pictures_and_continuation(tmp_path, monkeypatch):
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package, reason="needs the mlflow extra: pip install '.[mlflow]'")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    from mlflow.tracking import MlflowClient

    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    facts = RunFacts(tmp_path, {f"section.key{index}": index for index in range(120)})
    run = MlflowRun(facts, {})
    run.log_scalars(Scalars(1, 9.5, {"loss": 0.25, "lr": float("nan")}))
    for name in PICTURES:
        run.log_picture(Picture(1, 9.5, name, tmp_path / "a.png"))
    run.finish(False)
    assert run.note.startswith(f"recorded in sqlite:///{tmp_path}/mlflow/mlflow.db; `mlflow ui ")
    client = MlflowClient(tracking_uri=run.where["server"])
    found = client.get_run(run.where["run"])
    assert (found.info.status, found.info.run_name) == ("KILLED", tmp_path.name)
    assert len(found.data.params) == 120 and found.data.params["section.key7"] == "7"
    assert found.data.metrics["loss"] == 0.25 and math.isnan(found.data.metrics["lr"])
    assert all(len(list((tmp_path / "mlflow").rglob(f"{name}*.png"))) == 1 for name in PICTURES)

    again = MlflowRun(facts._replace(config={**facts.config, "run.keep": 3}), run.where)
    for step, loss in ((1, 0.25), (2, 0.125)):
        again.log_scalars(Scalars(step, 9.75, {"loss": loss}))
    again.finish(True)
    assert again.where == run.where
    points = client.get_metric_history(run.where["run"], "loss")
    assert [(point.step, point.value, point.timestamp) for point in points] == [
        (1, 0.25, 9500),
        (2, 0.125, 9750),
    ]
    found = client.get_run(run.where["run"])
    assert (found.info.status, found.data.params["run.keep"]) == ("FINISHED", "3")

    client.delete_run(run.where["run"])
    assert MlflowRun(facts, run.where).where["run"] != run.where["run"]
