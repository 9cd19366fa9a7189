"""Several machines, one pipeline: a stage with given inputs is computed once, by whoever comes first.

A clone whose DVC has a default remote shares through it. Before a stage runs, its worker takes a Prefect
concurrency slot named after the stage's fingerprint; whoever comes later finds the result in DVC's run cache.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from httpx import HTTPStatusError
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency

from flows.dag import dvc
from t2.stages.fingerprint import fingerprint

LEASE = 60.0
"""Seconds after which the slot of a worker that died is free again; Prefect allows no shorter lease."""
# It calls a slot that is taken an error, each time that it is asked for.
logging.getLogger("prefect._internal.concurrency").setLevel(logging.CRITICAL)
_LOCKED = 423
"""HTTP's status where all slots are taken."""


class SharingError(RuntimeError):
    """Results could not be uploaded; computed as they are, another try uploads them."""


def has_remote() -> bool:
    """Whether DVC has a default remote here."""
    done = subprocess.run(dvc("config", "core.remote"), capture_output=True, text=True, check=False)
    return bool(done.stdout.strip())


@contextmanager
def only_one(stage: str) -> Iterator[bool]:
    """Holds the slot of a stage, and gives True; or False where another worker runs it on the same inputs.

    Args:
        stage: Its name; what it reads must be in the workspace.
    """
    name = f"stage-{fingerprint(stage)[:16]}"
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, 1)
    with ExitStack() as stack:
        try:
            # No time-out: a request that is given up may be granted all the same, and holds the slot for a lease.
            stack.enter_context(concurrency(name, max_retries=0, lease_duration=LEASE, strict=True))
            mine = True
        except ConcurrencySlotAcquisitionError as error:
            if not (isinstance(error.__cause__, HTTPStatusError) and error.__cause__.response.status_code == _LOCKED):
                raise
            mine = False
        yield mine


def share(stage: str) -> None:
    """Uploads a stage's results, and the run cache that says which inputs they came from, to the default remote.

    ``dvc repro`` makes no entry in the run cache for a stage with an output that git keeps (``cache: false``), and
    ``dvc push --run-cache`` leaves such outputs out: another checkout would compute the stage again.

    Args:
        stage: Its name; ``dvc.lock`` holds it as it stands in the workspace.

    Raises:
        SharingError: The remote did not take everything.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage.serialize import to_single_stage_lockfile

    try:
        with Repo() as repo:
            (done,) = repo.stage.collect(stage)
            repo.stage_cache.save(done)
            # As the run cache describes the stage, every output is cached.
            entry = repo.stage_cache._create_stage(to_single_stage_lockfile(done), wdir=done.wdir)
            for objects in entry.get_used_objs().values():
                if failed := repo.cloud.push(objects).failed:
                    raise SharingError(f"{stage}: the remote did not take {len(failed)} of {len(objects)} objects")
            repo.stage_cache.push(None)
    except (DvcException, OSError) as error:
        raise SharingError(f"{stage}: its results could not be uploaded: {error}") from error
