"""Several machines, one pipeline: a stage with given inputs is computed once, by whoever comes first.

A clone whose DVC has a default remote shares through it. Before a stage runs, its worker takes a Prefect
concurrency slot named after the stage's fingerprint; whoever comes later finds the result in DVC's run cache.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from flows.dag import dvc
from t2.stages.fingerprint import fingerprint

LEASE = 60.0
"""Seconds after which the slot of a worker that died is free again; Prefect allows no shorter lease."""
_PATIENCE = 1.0
"""Seconds to ask for a slot; whoever does not get it lets another of its stages go first."""


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
            held = concurrency(name, occupy=1, timeout_seconds=_PATIENCE, lease_duration=LEASE, strict=True)
            stack.enter_context(held)
        except TimeoutError:
            yield False
        else:
            yield True
