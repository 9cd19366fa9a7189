"""What MLflow is told: one run per executed stage, under one parent per pipeline run.

MLflow observes; nothing is computed from what it holds. :mod:`t2.serving` is what it serves, and the only other module
that imports it.
"""

from __future__ import annotations

import fcntl
import functools
import io
import json
import logging
import math
import os
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

# Read when MLflow is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

import psutil
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from t2 import config
from t2.config.rows import Tracking
from t2.files import replacing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PARENT = "T2_PARENT_RUN_ID"
"""Environment variable with the parent run of a flow. MLflow's own ``MLFLOW_RUN_ID`` would make every stage
log into the parent itself."""

_PARENT_TAG = "mlflow.parentRunId"
_NAME_TAG = "mlflow.runName"
_WORK_TAG = "t2.work"
_PIPELINE_TAG = "t2.pipeline"
_NOTE_TAG = "mlflow.note.content"  # shown as the run's description
_SCORE_TAG = "best_valid_score"
_BEST = "best"
_METRICS_A_CALL, _PARAMS_A_CALL = 1000, 100  # limits of MLflow's log_batch

_log = logging.getLogger(__name__)
for _name in ("alembic", "mlflow.store.db.utils"):
    logging.getLogger(_name).setLevel(logging.WARNING)


_PAGE = """<!doctype html><meta charset="utf-8"><style>
body { font: 14px sans-serif } table { border-collapse: collapse } th { position: sticky; top: 0; background: #eee }
td, th { border: 1px solid #ccc; padding: 4px 8px; text-align: left; vertical-align: top; white-space: pre-wrap }
</style><table><tr>{% for name in rows[0] %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for value in row.values() %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table>
"""


class _Store:
    """The store as one stage or flow writes to it, until it fails.

    Args:
        client: MLflow's.
        experiment_id: Where the runs lie.
        remedy: What the user may do about runs that are not whole.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, remedy: str) -> None:
        self.client, self.experiment_id, self.remedy = client, experiment_id, remedy
        self.answers = True

    @contextmanager
    def observing(self) -> Iterator[None]:
        """MLflow observes: what it cannot log costs no result; it is said, and nothing more is logged."""
        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            self.answers = False
            _log.warning("MLflow's store failed, the work goes on without it; %s: %s", self.remedy, error)


_P = ParamSpec("_P")


def _observed(log: Callable[Concatenate[StageRun, _P], None]) -> Callable[Concatenate[StageRun, _P], None]:
    """Makes a method of a run do nothing once the store has failed: later steps would hide that some are missing."""

    @functools.wraps(log)
    def method(run: StageRun, *args: _P.args, **kwargs: _P.kwargs) -> None:
        if run.whole:
            with run._store.observing():
                log(run, *args, **kwargs)

    return method


class StageRun:
    """What a stage logs into.

    A resumed run never gets a step, an image or a table twice: it asks the store what is there. A store that fails
    while the stage works costs no result: the run says so, and stays as it is until the stage runs again.

    Attributes:
        run_id: The run's id in the store; keep it with the checkpoint, and out of every result.
        parent_id: The run that this one is nested in.
        resumed: Whether an earlier process had begun this run.
    """

    def __init__(self, store: _Store, name: str, parent_id: str, tags: dict[str, str], known: str | None) -> None:
        self._store, self._client, self._tags = store, store.client, tags
        self.run_id = run_id = _begin(store.client, store.experiment_id, known, name, parent_id, tags)
        self.parent_id, self.resumed = parent_id, known is not None
        self._children: dict[str, StageRun] = {}
        self._last: dict[str, int] = {}
        self._ended = False
        if self.resumed:
            for key in self._client.get_run(run_id).data.metrics:
                self._last[key] = max(metric.step for metric in self._client.get_metric_history(run_id, key))

    @property
    def whole(self) -> bool:
        """Whether the store has taken all that was logged so far."""
        return self._store.answers

    def child(self, name: str, *, seed: int | None = None, tags: Mapping[str, object] | None = None) -> StageRun:
        """A run nested in this one, for a seed or a draw; it ends with this one.

        Args:
            name: Unique within the stage; a resumed stage finds the child that it had by it.
            seed: Becomes the tag ``t2.seed``.
            tags: Further tags.
        """
        if name not in self._children:
            given = {**(tags or {}), **({} if seed is None else {"t2.seed": seed})}
            self._nest(name, self._tags | {key: str(value) for key, value in given.items()})
        # Where the store has failed, one run takes as little as another.
        return self._children.get(name, self)

    @_observed
    def _nest(self, name: str, labels: dict[str, str]) -> None:
        known = None
        if self.resumed:
            known = _find(self._client, self._store.experiment_id, {_PARENT_TAG: self.run_id, _NAME_TAG: name})
        self._children[name] = StageRun(self._store, name, self.run_id, labels, known)

    @_observed
    def log_params(self, params: Mapping[str, Any]) -> None:
        """Logs parameters; nested mappings become dotted names. For settings, not for z or α."""
        entries = [Param(key, str(value)) for key, value in _flat(params)]
        for part in _parts(entries, _PARAMS_A_CALL):
            self._client.log_batch(self.run_id, params=part)

    def log_metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Logs numbers that belong to one step, or to the run as a whole."""
        self.log_history([{"step": step, **metrics}])

    @_observed
    def log_history(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Logs rows with a ``step`` and numbers; a metric's step that the store already has is left out.

        Args:
            rows: In the order of their steps. What is no finite number is skipped: text, None, NaN.
        """
        now = int(time.time() * 1000)
        metrics = []
        for row in rows:
            step = int(row["step"])
            for key, value in row.items():
                if key != "step" and _is_number(value) and step > self._last.get(key, -1):
                    metrics.append(Metric(key, float(value), now, step))
                    self._last[key] = step
        for part in _parts(metrics, _METRICS_A_CALL):
            self._client.log_batch(self.run_id, metrics=part)

    @_observed
    def log_tags(self, tags: Mapping[str, object]) -> None:
        """Sets tags."""
        self._client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    @_observed
    def log_dataset(self, name: str, sha256: str, n: int, *, source: str = "", context: str = "") -> None:
        """Names a file that the stage read.

        Args:
            name: For example ``math/train``.
            sha256: Digest of its bytes; the whole of it is a tag, MLflow's own field holds 36 characters.
            n: Items in it.
            source: Its path.
            context: What it was read for, for example ``train``.
        """
        from mlflow.entities import InputTag

        profile = f'{{"num_rows": {n}}}'
        dataset = Dataset(name, sha256[:36], "local", f'{{"uri": "{source}"}}', profile=profile)
        tags = [InputTag("mlflow.data.context", context)] if context else []
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, tags)])
        self.log_tags({f"dataset.{name}": sha256})

    @_observed
    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Logs a table that MLflow can show and compare over runs; it replaces an earlier one."""
        path = f"{name}.json"
        if self._has(path):  # MLflow would append to it
            text = table.to_json(orient="split", index=False, date_format="iso")
            self._client.log_text(self.run_id, text, path)
        else:
            self._client.log_table(self.run_id, table, path)

    @_observed
    def log_page(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Logs a table of texts to be read: as JSON, and as a page in which line breaks are kept."""
        import jinja2

        page = jinja2.Environment(autoescape=True).from_string(_PAGE).render(rows=rows)
        self._client.log_text(self.run_id, json.dumps(rows, indent=1), f"{name}.json")
        self._client.log_text(self.run_id, page, f"{name}.html")

    @_observed
    def log_files(self, paths: Iterable[Path]) -> None:
        """Logs files as artifacts."""
        for path in paths:
            self._client.log_artifact(self.run_id, str(path))

    @_observed
    def log_figure(self, figure: Figure, name: str, *, step: int = 0) -> None:
        """Logs a picture twice: as the artifact ``<name>.png`` and as an image of ``step`` to compare by."""
        import PIL.Image

        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=144)
        image = PIL.Image.open(buffer)
        self._client.log_image(self.run_id, image, f"{name}.png")
        if not self._has(f"images/{name.replace('/', '~')}+step+{step}+"):
            self._client.log_image(self.run_id, image, key=name, step=step)

    @_observed
    def log_expert(self, adapter: Path, folder: str = "expert") -> None:
        """Logs an expert: its z vectors, their statistics, and a picture of where it changes the model.

        Args:
            adapter: Its folder.
            folder: Folder of artifacts: ``z.safetensors``, ``statistics.json``, ``change.png``.
        """
        import pandas as pd
        from safetensors.torch import save_file

        from t2.report import expert_figures
        from t2.svf.experts import load_expert, statistics

        z = load_expert(adapter).z
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "z.safetensors"
            save_file({name: z[name].detach().cpu().contiguous() for name in sorted(z)}, path)
            self._client.log_artifact(self.run_id, str(path), folder)
        table = pd.DataFrame(list(statistics(z)))
        self.log_table(table, f"{folder}/statistics")
        self.log_figure(expert_figures.change(table), f"{folder}/change")
        self.log_metrics({"z.change": float(table["change"].mean())})

    @_observed
    def log_alpha(
        self,
        alpha: Mapping[str, float] | Mapping[str, Sequence[float]],
        history: pd.DataFrame,
        folder: str = "alpha",
    ) -> None:
        """Logs mixing weights and the search that found them.

        Args:
            alpha: What each expert weighs in the mix that was found; a sequence holds one per layer or matrix.
            history: One row per generation: ``generation``, ``raw.<expert>`` and ``raw_std.<expert>``, mean and
                deviation of the search's own variable, and any other number.
            folder: Folder of artifacts: ``alpha.json``, ``history.json``, ``search.png``.
        """
        import pandas as pd

        from t2.report import expert_figures

        weights = {name: values if isinstance(values, Sequence) else [values] for name, values in alpha.items()}
        rows = [
            {"expert": name, "alpha": fmean(values), "lowest": min(values), "highest": max(values)}
            for name, values in weights.items()
        ]
        self.log_table(pd.DataFrame(rows), f"{folder}/alpha")
        self.log_metrics({f"alpha.{name}": fmean(values) for name, values in weights.items()})
        self.log_table(history, f"{folder}/history")
        steps = history.rename(columns={"generation": "step"})
        self.log_history({str(key): value for key, value in row.items()} for row in steps.to_dict("records"))
        self.log_figure(expert_figures.search(history, list(alpha)), f"{folder}/search")

    @_observed
    def register_expert(self, name: str, folder: Path, score: float, description: str) -> None:
        """Logs an adapter folder and registers it as the next version of a model.

        The alias ``best`` names the version with the highest score, the newest among equals. Load one with
        :func:`t2.serving.load_registered`. A resumed run does not register twice.

        Args:
            name: The registered model, for example ``svf-math``.
            folder: A PEFT adapter folder.
            score: On validation items.
            description: What the version is.
        """
        from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

        known = self._client.search_model_versions(f"name='{name}' and run_id='{self.run_id}'")
        if known:
            version = int(known[0].version)
        else:
            self._client.log_artifacts(self.run_id, str(folder), "adapter")
            try:
                self._client.create_registered_model(name, description="An SVF expert: z vectors as a PEFT adapter.")
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = RunsArtifactRepository.get_underlying_uri(
                f"runs:/{self.run_id}/adapter", self._client.tracking_uri
            )
            created = self._client.create_model_version(
                name, source, run_id=self.run_id, tags={_SCORE_TAG: f"{score:.6f}"}, description=description
            )
            version = int(created.version)
        # Also where the version is known: the process that made it may have been killed before the alias.
        best = self._client.get_registered_model(name).aliases.get(_BEST)
        # An alias that somebody set by hand may name a version without a score.
        if best is None or (score, version) >= (self._score(name, best), int(best)):
            self._client.set_registered_model_alias(name, _BEST, str(version))

    def _score(self, name: str, version: str) -> float:
        return float(self._client.get_model_version(name, version).tags.get(_SCORE_TAG, "-inf"))

    @_observed
    def finish(self, status: str = "FINISHED") -> None:
        """Ends the run and those nested in it; ``status`` is MLflow's FINISHED, FAILED or KILLED."""
        for child in self._children.values():
            child.finish(status)
        if not self._ended:
            self._client.set_terminated(self.run_id, status)
        self._ended = True

    def _has(self, prefix: str) -> bool:
        """Whether the run has an artifact whose path begins so."""
        folder = prefix.rpartition("/")[0]
        entries = self._client.list_artifacts(self.run_id, folder or None)
        return any(entry.path.startswith(prefix) for entry in entries)


@contextmanager
def stage_run(
    stage: str,
    *,
    settings: Tracking,
    root: Path,
    fingerprint: str,
    base_model: str,
    folder: str | None = None,
    seed: int | None = None,
    params: Mapping[str, Any] | None = None,
    work: str | None = None,
) -> Iterator[StageRun]:
    """The run of an executing stage, nested in the pipeline's; both end as the block does.

    The parent is :data:`PARENT` where a flow set it, else the run of this DVC experiment or DVC process. The
    first stage that executes opens it. A parent shows as finished between stages, since no stage knows
    whether another follows; a stage that fails marks it as failed.

    Args:
        stage: As DVC calls it, for example ``train@svf-math``.
        settings: The store.
        root: The main checkout: where the default store and the lock lie.
        fingerprint: Digest of the stage's inputs.
        base_model: The base model's name or path.
        folder: The experiment folder that the stage is of; its runs bear it as the tag ``t2.folder``.
        seed: The stage's seed; stages with several use :meth:`StageRun.child`.
        params: Logged as parameters.
        work: A name, unique, for the work that the stage does; the run of an earlier, killed process of the same
            work is continued. Not the run's id: a process may be killed before it could note that.

    Raises:
        ValueError: :data:`PARENT` names no run of this store.
    """
    tags = {
        "t2.stage": stage,
        "t2.folder": folder,
        "t2.fingerprint": fingerprint,
        "t2.base_model": base_model,
        "t2.experiment": os.environ.get("DVC_EXP_NAME"),
        "t2.seed": seed,
        _WORK_TAG: work,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": f"t2.stages.{stage.partition('@')[0]}",
        "mlflow.source.git.commit": _git_commit(),
    }
    labels = {key: str(value) for key, value in tags.items() if value is not None}
    address = stage if folder is None else f"{folder}/dvc.yaml:{stage}"
    labels[_NOTE_TAG] = _description(address, labels)
    with _locked(root):
        client, experiment_id = _open(settings, root)
        parent = _parent(client, experiment_id)
        known = None if work is None else _find(client, experiment_id, {_WORK_TAG: work, _NAME_TAG: stage})
        store = _Store(client, experiment_id, f"`dvc repro -s -f {address}` logs the rest when it answers again")
        run = StageRun(store, stage, parent, labels, known)
    if params:
        run.log_params(params)
    owned = PARENT not in os.environ
    try:
        yield run
    except BaseException as error:
        run.finish("FAILED" if isinstance(error, Exception) else "KILLED")
        if owned and run.whole:
            with store.observing():
                client.set_terminated(parent, "FAILED")
        raise
    run.finish()
    if owned and run.whole:
        with store.observing():
            if client.get_run(parent).info.status != "FAILED":
                client.set_terminated(parent, "FINISHED")


@dataclass(frozen=True)
class PipelineRun:
    """The parent of the stages' runs: its id, and that of its experiment."""

    run_id: str
    experiment_id: str


@contextmanager
def pipeline_run(
    name: str, *, settings: Tracking, root: Path, tags: Mapping[str, object] | None = None
) -> Iterator[PipelineRun]:
    """A parent run for whoever starts the stages itself and hands its id on as :data:`PARENT`.

    It is removed again if no stage was executed under it.

    Args:
        name: What MLflow calls it.
        settings: The store.
        root: The main checkout.
        tags: Where it came from.
    """
    with _locked(root):
        client, experiment_id = _open(settings, root)
        labels = {"mlflow.source.type": "LOCAL", "mlflow.source.git.commit": _git_commit(), **(tags or {})}
        known = {key: str(value) for key, value in labels.items() if value is not None}
        run_id = client.create_run(experiment_id, tags=known, run_name=name).info.run_id
    store = _Store(client, experiment_id, f"the parent run {name!r} stays open there")
    try:
        yield PipelineRun(run_id, experiment_id)
    except BaseException as error:
        with store.observing():
            client.set_terminated(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    with store.observing():
        client.set_terminated(run_id, "FINISHED")
        if not client.search_runs([experiment_id], f"tags.`{_PARENT_TAG}` = '{run_id}'", max_results=1):
            client.delete_run(run_id)


def store_uri(settings: Tracking, root: Path) -> str:
    """Where the store is: the parameter, else ``MLFLOW_TRACKING_URI``, else ``mlflow.db``.

    A relative SQLite path is relative to ``root``, not to the working directory.
    """
    uri = settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = _sqlite_path(uri, root)
    return uri if path is None else _sqlite_uri(path)


def _open(settings: Tracking, root: Path) -> tuple[MlflowClient, str]:
    """A client and the experiment's id; call under the lock, as a new SQLite store is made here."""
    uri = store_uri(settings, root)
    path = _sqlite_path(uri, root)
    if path is not None and not _is_finished(path):
        _make_store(path, root)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(settings.experiment)
    if experiment is not None:
        if experiment.lifecycle_stage == "deleted":  # its name stays taken
            _log.warning("MLflow's experiment %r was deleted; it is restored, to take the new runs", experiment.name)
            client.restore_experiment(experiment.experiment_id)
        return client, experiment.experiment_id
    artifacts = None if path is None else _artifacts(root)
    # The kind of pages that MLflow's UI opens for it: training rather than chats.
    tags = {"mlflow.experimentKind": "custom_model_development"}
    return client, client.create_experiment(settings.experiment, artifact_location=artifacts, tags=tags)


def _artifacts(root: Path) -> str:
    return (Path(root).resolve() / "mlartifacts").as_uri()


def _sqlite_path(uri: str, root: Path) -> Path | None:
    """The file of an SQLite store; None: the store is no file."""
    if not uri.startswith("sqlite"):
        return None
    database = make_url(uri).database
    return None if database in (None, "", ":memory:") else Path(root).resolve() / database


def _sqlite_uri(path: Path) -> str:
    # Where the URL names no driver, MLflow makes the folder of the path, as it is quoted, once more.
    return URL.create("sqlite+pysqlite", database=str(path)).render_as_string()


def _is_finished(path: Path) -> bool:
    """Whether a file is a store that MLflow has set up to the end: it then holds an experiment at least."""
    if not path.exists():
        return False
    try:
        # Not read only: what a killed process had begun is taken back by the next one that reads.
        with closing(sqlite3.connect(path, timeout=60)) as store:
            tables = [name for (name,) in store.execute("SELECT name FROM sqlite_master")]
            return "experiments" in tables and store.execute("SELECT 1 FROM experiments").fetchone() is not None
    except sqlite3.DatabaseError as error:
        raise ValueError(
            f"{path} is no MLflow store that can be read ({error}); bring it back from a copy, or move it away and a "
            "new one is made"
        ) from error


def _make_store(path: Path, root: Path) -> None:
    """Makes an SQLite store under another name and renames it: MLflow cannot go on where a kill stopped it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with replacing(path) as unfinished:
        for left in (unfinished, _journal(unfinished)):
            left.unlink(missing_ok=True)
        SqlAlchemyStore(_sqlite_uri(unfinished), _artifacts(root)).engine.dispose()
        _journal(path).unlink(missing_ok=True)  # SQLite would play it into the new file


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}-journal")


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Holds the store's lock: several processes that open a fresh SQLite store at once would break it."""
    with open(Path(root) / "mlflow.db.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _begin(
    client: MlflowClient, experiment_id: str, known: str | None, name: str, parent: str, tags: dict[str, str]
) -> str:
    """Creates a nested run, or takes up a known one, which then belongs to this parent."""
    tags = {**tags, _PARENT_TAG: parent, _NAME_TAG: name}
    if known is None:
        return str(client.create_run(experiment_id, tags=tags, run_name=name).info.run_id)
    client.update_run(known, status="RUNNING")
    client.log_batch(known, tags=[RunTag(key, value) for key, value in tags.items()])
    return known


def _parent(client: MlflowClient, experiment_id: str) -> str:
    """The pipeline's run, opened if this stage is its first; call under the lock."""
    given = os.environ.get(PARENT)
    if given is not None:
        if not _exists(client, given):
            raise ValueError(f"{PARENT} is {given!r}, no run of the MLflow store; unset it or correct it")
        return given
    # Whoever opened these was killed before it could end them, as below.
    for run in client.search_runs([experiment_id], f"tags.`{_PIPELINE_TAG}` LIKE '%' and status = 'RUNNING'"):
        client.set_terminated(run.info.run_id, "FINISHED")
    name, key = _pipeline()
    parent = _find(client, experiment_id, {_PIPELINE_TAG: key})
    if parent is None:
        parent = str(client.create_run(experiment_id, tags={_PIPELINE_TAG: key}, run_name=name).info.run_id)
        client.set_terminated(parent, "FINISHED")
    return parent


def _pipeline() -> tuple[str, str]:
    """Name and key of the pipeline run that this process belongs to."""
    experiment = os.environ.get("DVC_EXP_NAME")
    if experiment:
        return f"experiment {experiment}", f"experiment {experiment}"
    itself = psutil.Process()
    runner = next((process for process in itself.parents() if _is_dvc(_command(process))), itself)
    # Of the machine's uptime: the clock may be set between two stages.
    started = f"{runner.create_time() - psutil.boot_time():.2f}"
    boot = Path("/proc/sys/kernel/random/boot_id")
    machine = boot.read_text().strip() if boot.exists() else "unknown"
    return f"pipeline {datetime.now():%Y-%m-%d %H:%M:%S}", f"process {machine} {runner.pid} {started}"


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended, or is somebody else's
        return []


def _is_dvc(command: Sequence[str]) -> bool:
    """Whether a command line is ``dvc …``, ``python …/dvc …`` or ``python -m dvc …``."""
    words = [Path(word).name for word in command[:3]]
    return "dvc" in words[:2] or words[1:] == ["-m", "dvc"]


def _find(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> str | None:
    """The id of a run that has these tags."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    found = client.search_runs([experiment_id], query, max_results=1)
    return str(found[0].info.run_id) if found else None


def _exists(client: MlflowClient, run_id: str) -> bool:
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException:
        return False


def _description(stage: str, labels: Mapping[str, str]) -> str:
    """What a run is and where it came from, as Markdown."""
    commit = labels.get("mlflow.source.git.commit")
    lines = [
        f"Stage `{stage}` of the pipeline on `{labels['t2.base_model']}`; again by `dvc repro -s -f {stage}`.",
        f"Commit {_commit_link(commit) if commit else 'unknown'}, inputs `{labels['t2.fingerprint'][:16]}`.",
    ]
    return "\n\n".join(lines)


def _commit_link(commit: str) -> str:
    """A commit, linked where the repository's origin has pages."""
    found = subprocess.run(["git", "remote", "get-url", "origin"], capture_output=True, text=True, check=False)
    origin = found.stdout.strip().removesuffix(".git")
    return f"[`{commit[:12]}`]({origin}/commit/{commit})" if origin.startswith("https://") else f"`{commit[:12]}`"


def _git_commit() -> str | None:
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _parts(entries: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def main() -> None:
    """Shows the project's store as MLflow's pages until Ctrl-C; one that is not there yet is made first."""
    settings, root = config.load().tracking, Path.cwd()
    with _locked(root):
        _open(settings, root)
    pages = ["mlflow", "ui", "--backend-store-uri", store_uri(settings, root), "--default-artifact-root"]
    os.execvp("mlflow", [*pages, _artifacts(root)])


if __name__ == "__main__":
    main()
