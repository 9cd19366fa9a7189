"""Several machines, one pipeline: a stage with given inputs is computed once, by whoever comes first.

A clone whose DVC has a default remote shares through it. Before a stage runs, its worker takes a Prefect
concurrency slot named after the stage's fingerprint; whoever waited finds the result in DVC's run cache.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from flows.dag import dvc
from t2.stages.fingerprint import fingerprint

LEASE = 60.0
"""Seconds after which the slot of a worker that died is free again; Prefect allows no shorter lease."""


def has_remote() -> bool:
    """Whether DVC has a default remote here."""
    done = subprocess.run(dvc("config", "core.remote"), capture_output=True, text=True, check=False)
    return bool(done.stdout.strip())


@contextmanager
def only_one(stage: str) -> Iterator[None]:
    """Waits until no other worker runs this stage on the same inputs.

    Args:
        stage: Its name; what it reads must be in the workspace.
    """
    name = f"stage-{fingerprint(stage)[:16]}"
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, 1)
    with concurrency(name, occupy=1, lease_duration=LEASE, strict=True):
        yield
