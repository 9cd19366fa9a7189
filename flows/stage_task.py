"""One DVC stage as one Prefect task: skipped, run, retried where that helps, or failed with what it said."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, StateType, TaskRun
from prefect.states import Completed, Failed
from prefect.tasks import exponential_backoff

from flows import sharing
from flows.dag import Stage, dvc, environment
from flows.process import Processes
from flows.show import slug
from t2.stages.fingerprint import fingerprint

RETRIES = 5
FIRST_DELAY = 2.0
"""Seconds before the first retry; each later one waits twice as long."""
PAUSE = 2.0
"""Seconds between two looks at a stage that another worker runs."""

SKIPPED, NOT_REACHED = "Skipped", "NotReached"
"""Names of states: of a stage that there was no need to run, and of one behind a stage that did not complete."""

_TRANSIENT = re.compile(
    r"is busy|Busy: |database is locked|Unable to acquire lock|Connection (refused|reset)|Temporary failure", re.I
)
_PROGRESS = re.compile(r"^\S+\s+(\d+)/(\d+)\s")
_RAN = re.compile(r"^Running stage '")


class StageFailed(RuntimeError):
    """A stage ended with an error; the message holds the end of its standard error."""


class StageBusy(StageFailed):
    """A stage that could not run just now: something else holds a lock, or a service did not answer."""


@dataclass
class Execution:
    """What the tasks of one flow run share.

    Attributes:
        running: The commands that run at present.
        slots: Stages side by side, at most.
        gpu: Held by a stage that runs the model; as many as there are GPUs, or None where there is none.
        grace: Seconds between SIGTERM and SIGKILL for a stage that is stopped.
        force: Run stages that DVC calls unchanged as well.
        shared: Results are shared with other machines through a DVC remote.
        environment: Variables for the stages.
        complete: Stages that are as they should be.
    """

    slots: threading.BoundedSemaphore
    gpu: threading.BoundedSemaphore | None
    grace: float
    force: bool
    shared: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    complete: set[str] = field(default_factory=set)
    running: Processes = field(default_factory=Processes)

    @contextmanager
    def slot(self, stage: Stage) -> Iterator[None]:
        """Waits for room for a stage."""
        with ExitStack() as stack:
            stack.enter_context(self.gpu if stage.gpu and self.gpu else nullcontext())
            stack.enter_context(self.slots)
            yield


def _is_transient(_task: Any, _run: TaskRun, state: State) -> bool:
    return state.type == StateType.FAILED and isinstance(state.result(raise_on_failure=False), StageBusy)


@task(
    name="stage",
    task_run_name="{stage.name}",
    retries=RETRIES,
    retry_delay_seconds=exponential_backoff(FIRST_DELAY),
    retry_condition_fn=_is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def run_stage(stage: Stage, changed: bool, execution: Execution) -> State[Any]:
    """Runs ``dvc repro --single-item`` on a stage.

    Returns:
        A state that the UI shows: Completed, Skipped where there was nothing to do, NotReached where a stage
        before it did not complete.

    Raises:
        StageBusy: For another try.
        StageFailed: DVC or the stage failed.
    """
    missing = sorted(stage.upstream - execution.complete)
    if missing:
        # Of the type FAILED: behind a cancelled or crashed task Prefect would leave others pending for ever.
        return Failed(name=NOT_REACHED, message=f"did not complete before it: {', '.join(missing)}")
    if not changed and not execution.force:
        execution.complete.add(stage.name)
        return Completed(name=SKIPPED, message="unchanged, as DVC's status says")
    logger = get_run_logger()
    progress, lines = _ProgressBar(stage.name), []

    def on_line(line: str, is_error: bool) -> None:
        lines.append(line)
        (logger.warning if is_error else logger.info)(line)
        progress.follow(line)

    def run(*arguments: str, again: bool = False) -> None:
        ended = execution.running.run(
            dvc(*arguments),
            on_line=on_line,
            grace=execution.grace,
            environment={**environment(), **execution.environment},
        )
        if ended.status:
            kind = StageBusy if again or _TRANSIENT.search(ended.tail) else StageFailed
            raise kind(f"{stage.name}: `dvc {' '.join(arguments)}` ended with status {ended.status}\n{ended.tail}")

    force = ["--force"] if execution.force else []
    if execution.shared:
        try:
            _run_shared(stage, execution, run, force)
        except sharing.SharingError as error:
            raise StageBusy(str(error)) from error
    else:
        with execution.slot(stage):
            run("repro", "--single-item", *force, stage.name)
    execution.complete.add(stage.name)
    progress.finish()
    if not any(_RAN.match(line) for line in lines):
        return Completed(name=SKIPPED, message="its inputs came out as they were, or the result was known")
    return Completed(message=f"{stage.name} ran")


def _run_shared(stage: Stage, execution: Execution, run: Callable[..., None], force: Sequence[str]) -> None:
    """Runs a stage, or takes over what another worker made of the same inputs."""
    inputs = fingerprint(stage.name)
    while True:
        with execution.slot(stage), sharing.only_one(inputs) as mine:
            if mine:
                known = None if force else take_over(stage, inputs, run)
                run("repro", "--single-item", "--pull", *force, stage.name)
                if known is None or sharing.entry(stage) != known:
                    run("push", stage.name, again=True)  # it is computed: another try only uploads
                    sharing.offer(stage, inputs)
                return
        execution.running.pause(PAUSE)  # another worker has it: this one's other stages may go first


def take_over(stage: Stage, inputs: str, run: Callable[..., None]) -> Mapping[str, Any] | None:
    """Brings another worker's result into the workspace, and returns its entry of ``dvc.lock``; None without one."""
    known = sharing.take(stage, inputs)
    absent = [path for path in stage.persistent_outs if not Path(path).exists()]
    try:
        if known is not None:
            run("pull", "--force", stage.name)
        elif absent and sharing.entry(stage) is not None:
            # Such a stage goes on from what it made of other inputs, which `dvc repro --pull` would not bring.
            run("pull", "--allow-missing", *absent)
    except StageBusy:
        raise
    except StageFailed as error:
        get_run_logger().warning(f"{error}\nits data are not in the remote; computing them")
        return None
    return known


class _ProgressBar:
    """The stage's own ``done/total`` lines as a progress artifact, from the first one on."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._artifact: UUID | None = None

    def follow(self, line: str) -> None:
        found = _PROGRESS.match(line)
        if found and int(found[2]):
            self._show(100 * int(found[1]) / int(found[2]), line)

    def finish(self) -> None:
        if self._artifact is not None:
            self._show(100.0, f"{self._stage}: done")

    def _show(self, percent: float, line: str) -> None:
        if self._artifact is None:
            key = f"progress-{slug(self._stage)}"
            self._artifact = cast(UUID, create_progress_artifact(percent, key=key, description=line))
        else:
            update_progress_artifact(self._artifact, percent, description=line)
