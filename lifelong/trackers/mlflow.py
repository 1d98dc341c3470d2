"""MLflow: where MLFLOW_TRACKING_URI says, else a SQLite file in the run's folder."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any

from lifelong.trackers.base import Known

if TYPE_CHECKING:
    from lifelong.context import Stores

EXPERIMENT = "lifelong"
RUN_TAG, TIMESTEP_TAG = "lifelong.run_id", "lifelong.timestep"
PARENT_TAG, NAME_TAG = "mlflow.parentRunId", "mlflow.runName"


class MLflow:
    """An MLflow run for the lifelong run, found again by a tag, and one nested in it for each training."""

    def __init__(self, stores: Stores) -> None:
        import mlflow
        from mlflow import MlflowClient

        folder = stores.root.resolve() / "tracking"
        self._own = not mlflow.is_tracking_uri_set()
        self._training = False
        if self._own:
            folder.mkdir(exist_ok=True)
        self.uri = f"sqlite:///{folder / 'mlflow.db'}" if self._own else mlflow.get_tracking_uri()
        self.client = MlflowClient(self.uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            # Without a place for them MLflow makes a folder where the process happens to be.
            artifacts = (folder / "artifacts").as_uri() if self._own else None
            self.experiment = self.client.create_experiment(name, artifacts)
        else:
            self.experiment = experiment.experiment_id
        tags = {RUN_TAG: stores.ledger.get_meta("run_id"), NAME_TAG: stores.root.resolve().name}
        self.run_id = self._found(RUN_TAG, tags[RUN_TAG]) or self._made(tags)

    def spelled(self, name: str) -> str:
        # As Transformers' own integration spells them.
        return re.sub(r"[^0-9A-Za-z_\-\.\ :/]", "_", name)

    def known(self) -> Known:
        return self._metrics(self.run_id)

    def log(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        for start in range(0, len(metrics), 1000):  # as many as MLflow takes at once
            self.client.log_batch(self.run_id, metrics[start : start + 1000])
        self.client.set_terminated(self.run_id)  # none is "running" between two timesteps

    def training(self, timestep: int) -> tuple[Any, int]:
        import mlflow
        from transformers.integrations import MLflowCallback

        child = self._found(TIMESTEP_TAG, str(timestep), PARENT_TAG, self.run_id)
        tags = {PARENT_TAG: self.run_id, TIMESTEP_TAG: str(timestep), NAME_TAG: f"timestep {timestep}"}
        done = max((step for _, step in self._metrics(child)), default=0) if child else 0
        callback = MLflowCallback()
        # Parameters are logged at the first start; MLflow refuses others later, such as another scratch folder.
        if done:
            callback._initialized, callback._async_log = True, False
        if self._own:
            mlflow.set_tracking_uri(self.uri)
        # Transformers' callback logs to the process's active run. One that the user has stays below it.
        mlflow.start_run(run_id=child or self._made(tags), nested=True)
        self._training = True
        return callback, done

    def close(self) -> None:
        import mlflow

        try:
            if self._training:
                mlflow.end_run()
        finally:
            if self._training and self._own:
                mlflow.set_tracking_uri(None)
            self._training = False

    def _metrics(self, run_id: str) -> Known:
        names = self.client.get_run(run_id).data.metrics
        return {
            (name, point.step): point.value
            for name in names
            for point in self.client.get_metric_history(run_id, name)
        }

    def _found(self, *tags: str) -> str | None:
        wanted = " and ".join(
            f"tags.`{tag}` = '{value}'" for tag, value in zip(tags[::2], tags[1::2], strict=True)
        )
        runs = self.client.search_runs([self.experiment], wanted, order_by=["attributes.start_time ASC"])
        return runs[0].info.run_id if runs else None

    def _made(self, tags: dict[str, str]) -> str:
        run_id: str = self.client.create_run(self.experiment, tags=tags).info.run_id
        return run_id
