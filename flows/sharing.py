"""Several machines, one pipeline: a stage with given inputs is computed once, by whoever comes first.

A clone whose DVC has a default remote shares through it. Before a stage runs, its worker takes a Prefect
concurrency slot named after the stage's fingerprint. When it has run, its data are pushed, and a *record* is put
beside them under the fingerprint: the stage's entry of ``dvc.lock``, and the outs that git keeps. Whoever comes later
takes the record over and pulls the data, after which DVC calls the stage unchanged.

DVC's run cache would do that for most stages, but it leaves out those with an out that persists or that git keeps.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from httpx import HTTPStatusError
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from ruamel.yaml import YAML

from flows.dag import Stage, dvc

LEASE = 60.0
"""Seconds after which the slot of a worker that died is free again; Prefect allows no shorter lease."""
# It calls a slot that is taken an error, each time that it is asked for.
logging.getLogger("prefect._internal.concurrency").setLevel(logging.CRITICAL)
_LOCKED = 423
"""HTTP's status where all slots are taken."""
RECORDS = "stages"
"""The remote's folder of records."""
_ENTRY = "dvc.lock"


class SharingError(RuntimeError):
    """A record could not be written or read; another try may do."""


def has_remote() -> bool:
    """Whether DVC has a default remote here."""
    done = subprocess.run(dvc("config", "core.remote"), capture_output=True, text=True, check=False)
    return bool(done.stdout.strip())


@contextmanager
def only_one(fingerprint: str) -> Iterator[bool]:
    """Holds the slot of a stage, and gives True; or False where another worker runs it on the same inputs."""
    name = f"stage-{fingerprint[:16]}"
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


def entry(stage: Stage) -> Mapping[str, Any] | None:
    """A stage's entry of ``dvc.lock``; None without one."""
    lock = _read(_lock_file(stage))
    found: Mapping[str, Any] | None = lock.get("stages", {}).get(stage.key)
    return found


def offer(stage: Stage, fingerprint: str) -> None:
    """Puts a stage's record into the default remote; its data must be there already.

    Args:
        stage: It has run, and ``dvc.lock`` holds it as it stands in the workspace.
        fingerprint: Of its inputs.

    Raises:
        SharingError: The remote did not take it.
    """
    packed = io.BytesIO()
    text = io.BytesIO()
    _yaml().dump(entry(stage), text)
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo(_ENTRY)
        member.size = text.tell()
        text.seek(0)
        archive.addfile(member, text)
        for path in stage.git_outs:
            archive.add(path)
    packed.seek(0)
    with _remote(stage, fingerprint) as (fs, path):
        fs.put_file(packed, path)


def take(stage: Stage, fingerprint: str) -> Mapping[str, Any] | None:
    """Takes over the record of a stage that another worker has run on the same inputs.

    Afterwards ``dvc.lock`` holds it and what git keeps of it is in the workspace; its data remain to be pulled.

    Args:
        stage: What it reads is in the workspace.
        fingerprint: Of its inputs.

    Returns:
        Its entry of ``dvc.lock``; None where nobody has offered one.

    Raises:
        SharingError: The remote, or DVC's lock, did not answer; or the record is damaged.
    """
    with _remote(stage, fingerprint) as (fs, path):
        try:
            with fs.open(path, "rb") as file:
                packed = io.BytesIO(file.read())
        except FileNotFoundError:
            return None
        try:
            with tarfile.open(fileobj=packed, mode="r:") as archive:
                described = archive.extractfile(_ENTRY)
                found: Mapping[str, Any] = _yaml().load(described)
                for out in map(Path, stage.git_outs):
                    shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
                archive.extractall(".", [each for each in archive if each.name != _ENTRY], filter="data")
        except (tarfile.TarError, KeyError) as error:
            raise SharingError(f"{stage.name}: the record {path} is damaged ({error}); remove it") from error
        _write_entry(stage, found)
    return found


@contextmanager
def _remote(stage: Stage, fingerprint: str) -> Iterator[tuple[Any, str]]:
    """The file system of the default remote, as DVC is configured to reach it, and a record's path in it."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            remote = repo.cloud.get_remote()
            yield remote.fs, remote.fs.join(remote.path, RECORDS, fingerprint[:2], f"{fingerprint}.tar")
    except (DvcException, OSError) as error:
        raise SharingError(f"{stage.name}: no access to its record in DVC's default remote: {error}") from error


def _write_entry(stage: Stage, found: Mapping[str, Any]) -> None:
    """Writes a stage's entry of ``dvc.lock``, under DVC's own lock: other stages of this checkout may be ending."""
    path = _lock_file(stage)
    with _dvc_lock():
        lock = _read(path) or {"schema": "2.0"}
        lock.setdefault("stages", {})[stage.key] = found
        beside = path.with_name(f".{path.name}.new")
        with open(beside, "wb") as file:
            _yaml().dump(lock, file)
        os.replace(beside, path)


@contextmanager
def _dvc_lock() -> Iterator[None]:
    """Holds the lock that every ``dvc`` of this checkout takes; waits for it, since one that pushes has it for long."""
    from dvc.lock import LockError
    from dvc.repo import Repo

    with Repo() as repo, ExitStack() as stack:
        while True:
            try:
                stack.enter_context(repo.lock)
                break
            except LockError:  # after three seconds
                continue
        yield


def _lock_file(stage: Stage) -> Path:
    return Path(stage.file).with_suffix(".lock")


def _read(path: Path) -> dict[str, Any]:
    return (_yaml().load(path.read_bytes()) if path.exists() else None) or {}


def _yaml() -> YAML:
    """YAML as DVC writes it; PyYAML would read 1e-05 as text."""
    made = YAML()
    made.default_flow_style = False
    return made
