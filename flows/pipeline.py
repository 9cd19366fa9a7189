"""The flows that a deployment schedules and the UI starts: pipeline, train-expert, adapt, benchmark."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
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
from t2 import tracking

Expert = StrEnum("Expert", parameters.names("trained"))  # type: ignore[misc]
"""Tasks that an expert can be trained for, as ``params.yaml`` names them."""
Unseen = StrEnum("Unseen", parameters.names("unseen"))  # type: ignore[misc]
"""Tasks to adapt to."""


class PipelineFailed(RuntimeError):
    """A stage failed, was not reached, or did not leave DVC's status clean."""


class Strategy(StrEnum):
    """How an expert is chosen or mixed for an unseen task (paper, section 3.2)."""

    fewshot = "fewshot"
    classifier = "classifier"
    prompt = "prompt"


Overrides = Annotated[
    list[str],
    Field(description="Parameters to change, in DVC's syntax: experts.math.lr=1e-2. They stay in params.yaml."),
]
Parallel = Annotated[int, Field(ge=1, le=64, description="Stages side by side, at most; GPU stages one at a time.")]
Grace = Annotated[float, Field(ge=0, description="Seconds that a cancelled stage has to end by itself.")]
Force = Annotated[bool, Field(description="Run stages that DVC calls unchanged as well.")]

# A thread a stage: those that wait for others cost nothing, and the slots bound the rest.
_THREADS: Any = ThreadPoolTaskRunner(max_workers=256)


@flow(name="pipeline", task_runner=_THREADS, persist_result=False)
def pipeline(
    overrides: Overrides = [],  # noqa: B006
    parallel: Parallel = 2,
    force: Force = False,
    grace: Grace = 10.0,
) -> State[Any]:
    """Runs every stage that changed, and what is made from it."""
    return _run(None, overrides, parallel, force, grace)


@flow(name="train-expert", task_runner=_THREADS, persist_result=False)
def train_expert(
    task: Expert,
    overrides: Overrides = [],  # noqa: B006
    parallel: Parallel = 2,
    force: Force = False,
    grace: Grace = 10.0,
) -> State[Any]:
    """Trains the expert of one task, and makes first what that needs."""
    return _run([f"expert@{task}"], overrides, parallel, force, grace)


@flow(name="adapt", task_runner=_THREADS, persist_result=False)
def adapt(
    task: Unseen,
    strategy: Strategy = Strategy.fewshot,
    shots: Annotated[int | None, Field(ge=1, description="Few-shot: held-out prompts; empty: as params.yaml")] = None,
    generations: Annotated[int | None, Field(ge=1, description="Few-shot: CEM's generations")] = None,
    overrides: Overrides = [],  # noqa: B006
    parallel: Parallel = 2,
    grace: Grace = 10.0,
) -> State[Any]:
    """Makes what a strategy needs for an unseen task; few-shot searches the mixing weights."""
    if strategy is not Strategy.fewshot and (shots, generations) != (None, None):
        raise parameters.OverrideError(
            f"shots and generations belong to the strategy fewshot, not to {strategy}; leave them empty"
        )
    given = {"adaptation.shots": shots, "adaptation.cem.generations": generations}
    changes = [f"{name}={value}" for name, value in given.items() if value is not None]
    needed = {
        Strategy.fewshot: [f"adapt@{task}"],
        Strategy.classifier: [f"expert@{name}" for name in Expert] + ["classifier"],
        Strategy.prompt: [f"expert@{name}" for name in Expert],
    }
    return _run(needed[strategy], [*overrides, *changes], parallel, False, grace)


@flow(name="benchmark", task_runner=_THREADS, persist_result=False)
def benchmark(
    overrides: Overrides = [],  # noqa: B006
    parallel: Parallel = 2,
    force: Force = False,
    grace: Grace = 10.0,
) -> State[Any]:
    """Measures every method on every task and writes the report, after what these need."""
    return _run(["report"], overrides, parallel, force, grace)


def _run(
    targets: Sequence[str] | None, overrides: Sequence[str], parallel: int, force: bool, grace: float
) -> State[Any]:
    """Runs targets and what they need; None: all stages."""
    params = parameters.apply(overrides)
    stages = dag.read_dag()
    wanted = stages if targets is None else dag.with_upstream(stages, targets)
    try:
        due = set(wanted) if force else dag.with_downstream(wanted, dag.changed_stages(wanted))
    except dag.StatusBusy:
        due = set(wanted)  # DVC says of each stage, in its turn, whether there is anything to do
    names = ", ".join(name for name in wanted if name in due)
    get_run_logger().info(f"{len(due)} of {len(wanted)} stages to run{': ' if names else ''}{names}")
    slots = threading.BoundedSemaphore(parallel)
    gpu = threading.BoundedSemaphore(1) if shutil.which("nvidia-smi") else None
    if not due:
        _run_stages(wanted, due, Execution(slots, gpu, grace, force))
        return Completed(name="Unchanged", message="every stage is as DVC knows it")
    root = Path.cwd()
    with tracking.pipeline_run(
        f"flow {flow_run.get_name()}",
        settings=params.tracking,
        root=root,
        tags={"prefect.flow_run_id": flow_run.get_id(), "prefect.flow_run_url": flow_run.get_flow_run_ui_url()},
    ) as parent:
        environment = {tracking.PARENT: parent.run_id}
        states = _run_stages(wanted, due, Execution(slots, gpu, grace, force, sharing.has_remote(), environment))
        ran = [name for name, state in states.items() if state.is_completed() and state.name != SKIPPED]
        show.show_results(ran, tracking.store_uri(params.tracking, root), parent.experiment_id)
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
