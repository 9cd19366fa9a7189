"""``make serve``: a Prefect server, the deployments and a worker on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from flows.dag import environment
from flows.process import Processes

POOL = "t2"
CHECKOUT = "T2_CHECKOUT"
"""Environment variable of a worker: the folder that its runs work in."""
_PATIENCE = 120.0
"""Seconds for the server to answer; its first start sets up a database."""
_GRACE = 20.0


class ServeError(RuntimeError):
    """The server did not come up, or a command against it failed; the message holds its last lines."""


def main() -> None:
    """Starts everything, prints the address of the UI, and stops everything on SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description=__doc__)
    parser.add_argument("--port", type=int, default=4200, help="of the server and its UI (default: 4200)")
    parser.add_argument("--limit", type=int, default=1, help="flow runs side by side, over all workers (default: 1)")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    sys.exit(serve(options.port, options.limit, stop))


def serve(port: int, limit: int, stop: threading.Event) -> int:
    """Serves until ``stop`` is set.

    The server's database lies in ``.t2/prefect``; it listens on the loopback interface only.

    Args:
        port: Of the server.
        limit: Flow runs that the work pool runs side by side.
        stop: Set it to end everything.

    Returns:
        0; 1 where server or worker ended by itself.
    """
    home = Path(".t2/prefect").resolve()
    home.mkdir(parents=True, exist_ok=True)
    variables = {**environment(), **settings(port, home)}
    commands, ended = Processes(), threading.Event()

    def start(name: str, *command: str) -> threading.Thread:
        def run() -> None:
            with open(home / f"{name}.log", "a", buffering=1) as log:
                commands.run(
                    [sys.executable, "-m", "prefect", *command],
                    on_line=lambda line, _: print(line, file=log),
                    grace=_GRACE,
                    environment=variables,
                )
            ended.set()

        thread = threading.Thread(target=run, name=name)
        thread.start()
        return thread

    threads = []
    try:
        if _answers(f"http://127.0.0.1:{port}/api/health"):
            raise ServeError(f"something serves port {port} already; end it, or choose another with --port")
        threads.append(start("server", "server", "start", "--host", "127.0.0.1", "--port", str(port)))
        wait_for_server(port, home / "server.log", stop, ended)
        _prefect(["work-pool", "create", POOL, "--type", "process", "--overwrite"], variables)
        _prefect(["work-pool", "set-concurrency-limit", POOL, str(limit)], variables)
        _prefect(["--no-prompt", "deploy", "--all"], variables)
        # One run at a time: two would stand in each other's way in one checkout.
        name = f"here-{os.getpid()}"
        threads.append(start("worker", "worker", "start", "--pool", POOL, "--limit", "1", "--name", name))
        print(f"Prefect UI:  http://127.0.0.1:{port}/deployments\nLogs:        {home}/*.log\nCtrl-C stops it all.")
        sys.stdout.flush()
        while not stop.wait(0.5) and not ended.is_set():
            pass
        if ended.is_set():
            print(f"server or worker ended by itself; see {home}/*.log", file=sys.stderr)
        return int(ended.is_set())
    except ServeError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        commands.stop()
        for thread in threads:
            thread.join()


def settings(port: int, home: Path) -> dict[str, str]:
    """Prefect's settings for a server on this machine that tells nobody anything."""
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api",
        CHECKOUT: str(Path.cwd()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def wait_for_server(port: int, log: Path, stop: threading.Event, ended: threading.Event) -> None:
    """Returns when the server on a port of this machine answers.

    Args:
        port: Where it listens.
        log: What it writes; an error quotes its end.
        stop: Ends the wait.
        ended: Set where the server is known to have ended.

    Raises:
        ServeError: It did not come up in time, or one of the events was set.
    """
    deadline = time.monotonic() + _PATIENCE
    while not _answers(f"http://127.0.0.1:{port}/api/health"):
        if stop.wait(0.2) or ended.is_set() or time.monotonic() > deadline:
            tail = "\n".join(log.read_text().splitlines()[-15:]) if log.is_file() else ""
            raise ServeError(f"the Prefect server did not come up on port {port}; the end of {log}:\n{tail}")


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=2) as reply:
            return reply.status == 200
    except (URLError, OSError):
        return False


def _prefect(arguments: Sequence[str], variables: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServeError(f"`prefect {' '.join(arguments)}` failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
