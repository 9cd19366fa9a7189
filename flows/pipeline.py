"""The flows that a deployment schedules and the UI starts: pipeline, train, adapt, measure, table."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from prefect import allow_failure, flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import dag, parameters, sharing, show
from flows.stage_task import NOT_REACHED, SKIPPED, Execution, run_stage
from t2 import config, tracking

FOLDERS = "reports"
"""Where experiment folders lie."""


class PipelineFailed(RuntimeError):
    """A stage failed, was not reached, or did not leave DVC's status clean."""


def _choice(description: str, names: Sequence[str]) -> Any:
    """A field of a form with the names to choose from."""
    return Field(description=description, json_schema_extra={"enum": [*names]} if names else None)


Adapter = Annotated[str, _choice("What to train: a row of `adapters`.", parameters.names("adapters"))]
Search = Annotated[str, _choice("A row of `searches`.", parameters.names("searches"))]
Folder = Annotated[
    str,
    _choice(
        f"An experiment folder: {FOLDERS}/<name> with a dvc.yaml.",
        sorted(path.parent.name for path in Path(FOLDERS).glob(f"*/{dag.FILE}")),
    ),
]
Overrides = Annotated[
    list[str],
    Field(description="Parameters to change, in DVC's syntax: recipes.svf.train.lr=1e-2. They stay in params.yaml."),
]
Parallel = Annotated[int, Field(ge=1, le=64, description="Stages side by side, at most; GPU stages one at a time.")]
Grace = Annotated[float, Field(ge=0, description="Seconds that a cancelled stage has to end by itself.")]
Force = Annotated[bool, Field(description="Run stages that DVC calls unchanged as well.")]

# A thread per stage: those that wait for others cost nothing, and the slots bound the rest.
_THREADS: Any = ThreadPoolTaskRunner(max_workers=256)


@flow(name="pipeline", task_runner=_THREADS, persist_result=False)
def pipeline(
    overrides: Overrides = [],  # noqa: B006
    parallel: Parallel = 2,
    force: Force = False,
    grace: Grace = 10.0,
) -> State[Any]:
    """Runs every stage that changed, and what is made from it."""
    return _run_main(None, overrides, parallel, force, grace)


@flow(name="train", task_runner=_THREADS, persist_result=False)
def train(
    adapter: Adapter,
    overrides: Overrides = [],  # noqa: B006
    parallel: Parallel = 2,
    force: Force = False,
    grace: Grace = 10.0,
) -> State[Any]:
    """Trains an adapter, and makes first what that needs."""
    return _run_main([f"train@{adapter}"], overrides, parallel, force, grace)


@flow(name="adapt", task_runner=_THREADS, persist_result=False)
def adapt(
    search: Search,
    overrides: Overrides = [],  # noqa: B006
    parallel: Parallel = 2,
    force: Force = False,
    grace: Grace = 10.0,
) -> State[Any]:
    """Searches mixing weights for a task, and makes first what that needs."""
    return _run_main([f"search@{search}"], overrides, parallel, force, grace)


@flow(name="measure", task_runner=_THREADS, persist_result=False)
def measure(
    overrides: Overrides = [],  # noqa: B006
    parallel: Parallel = 2,
    force: Force = False,
    grace: Grace = 10.0,
) -> State[Any]:
    """Measures every system on every task and writes the report, after what these need."""
    return _run_main(["report"], overrides, parallel, force, grace)


@flow(name="table", task_runner=_THREADS, persist_result=False)
def table(
    name: Folder,
    parallel: Parallel = 2,
    force: Force = False,
    grace: Grace = 10.0,
) -> State[Any]:
    """Runs the stages of an experiment folder that changed, on what is there of the main run."""
    params = config.load(parameters.PARAMS)
    file = f"{FOLDERS}/{name}/{dag.FILE}"
    stages = dag.read_dag(dag.FILE, file)
    own = {key: stage for key, stage in stages.items() if stage.file == file}
    try:
        first = dag.due_before(stages, file)
        (get_run_logger().warning if first else get_run_logger().info)(dag.describe_due(first, file))
    except dag.StatusBusy as error:
        get_run_logger().warning(f"what is due in the main run is not known: {error}")
    return _run(own, params, parallel, force, grace, given=stages.keys() - own.keys())


def _run_main(
    targets: Sequence[str] | None, overrides: Sequence[str], parallel: int, force: bool, grace: float
) -> State[Any]:
    """Runs targets of the main run and what they need; None: all stages."""
    params = parameters.apply(overrides)
    stages = dag.read_dag()
    wanted = stages if targets is None else dag.with_upstream(stages, targets)
    return _run(wanted, params, parallel, force, grace)


def _run(
    wanted: Mapping[str, dag.Stage],
    params: config.Params,
    parallel: int,
    force: bool,
    grace: float,
    given: Collection[str] = (),
) -> State[Any]:
    """Runs those of the stages that are due; ``given``: stages before them that are taken as they are."""
    try:
        due = set(wanted) if force else dag.due_stages(wanted)
    except dag.StatusBusy:
        due = set(wanted)  # DVC says of each stage, in its turn, whether there is anything to do
    names = ", ".join(name for name in wanted if name in due)
    get_run_logger().info(f"{len(due)} of {len(wanted)} stages to run{': ' if names else ''}{names}")
    slots = threading.BoundedSemaphore(parallel)
    gpu = threading.BoundedSemaphore(1) if shutil.which("nvidia-smi") else None
    execution = Execution(slots, gpu, grace, force, complete=set(given))
    if not due:
        _run_stages(wanted, due, execution)
        return Completed(name="Unchanged", message="every stage is as DVC knows it")
    root = Path.cwd()
    with tracking.pipeline_run(
        f"flow {flow_run.get_name()}",
        settings=params.tracking,
        root=root,
        tags={"prefect.flow_run_id": flow_run.get_id(), "prefect.flow_run_url": flow_run.get_flow_run_ui_url()},
    ) as parent:
        execution.shared, execution.environment = sharing.has_remote(), {tracking.PARENT: parent.run_id}
        states = _run_stages(wanted, due, execution)
        ran = [name for name, state in states.items() if state.is_completed() and state.name != SKIPPED]
        show.show_results(wanted, ran, tracking.store_uri(params.tracking, root), parent.experiment_id)
        failed = [name for name, state in states.items() if not (state.is_completed() or state.name == NOT_REACHED)]
        if failed:
            behind = [name for name, state in states.items() if state.name == NOT_REACHED]
            not_reached = f"; not reached: {', '.join(behind)}" if behind else ""
            raise PipelineFailed(f"failed: {', '.join(failed)}{not_reached}")
        unclean = dag.changed_stages(wanted)
        if unclean:
            raise PipelineFailed(f"all stages ran, but DVC still calls these changed: {', '.join(sorted(unclean))}")
    return Completed(message=f"ran {len(ran)} of {len(wanted)} stages; DVC's status is clean")


def _run_stages(wanted: Mapping[str, dag.Stage], due: Collection[str], execution: Execution) -> dict[str, State[Any]]:
    """Submits every stage behind those that it reads from, and waits for all; their final states by name."""
    futures: dict[str, PrefectFuture[Any]] = {}
    try:
        for name, stage in wanted.items():
            # They run behind failed ones too, to end in a state that says so: Prefect would leave them pending.
            upstream = [allow_failure(futures[other]) for other in sorted(stage.upstream) if other in futures]
            futures[name] = run_stage.submit(stage, name in due, execution, return_state=False, wait_for=upstream)
        wait(list(futures.values()))
    except BaseException:
        # The flow is cancelled or crashes: its threads would wait for their stages to the end.
        execution.running.stop()
        raise
    return {name: future.state for name, future in futures.items()}
