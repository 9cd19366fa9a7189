"""What a flow adds to ``dvc repro``: seconds on a pipeline that is up to date, and the ratio on a whole run.

    python benchmarks/flow.py [--checkout .] [--repeats 5] [--full] [--parallel 1 2]

The checkout's pipeline has run before. A Prefect server is started first and is not counted; the process that
runs the flow is, imports included. ``--full`` forces every stage, once by DVC and once by a flow for each number of
stages side by side (1: what a flow costs; 2: what it gains), and leaves the checkout's results renewed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from harness import options

from flows.dag import dvc, environment
from flows.process import Processes
from flows.serve import settings, wait_for_server

FLOW = "import sys; from flows.pipeline import pipeline; pipeline(force={force}, parallel={parallel})"


def main() -> None:
    arguments = options(__doc__, checkout=Path(), repeats=5, port=4299, full=False, parallel=[1, 2])

    with tempfile.TemporaryDirectory() as home:
        variables = {**environment(), **settings(arguments.port, Path(home)), "PYTHONPATH": str(arguments.checkout)}

        def seconds(*command: str) -> float:
            start = time.perf_counter()
            subprocess.run(
                command, cwd=arguments.checkout, env=os.environ | variables, check=True, stdout=subprocess.DEVNULL
            )
            return time.perf_counter() - start

        def by_dvc(*options: str) -> float:
            return seconds(*dvc("repro", *options))

        def by_flow(force: bool = False, parallel: int = 1) -> float:
            return seconds(sys.executable, "-c", FLOW.format(force=force, parallel=parallel))

        server, log = Processes(), Path(home) / "server.log"
        command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(arguments.port)]
        lines: list[str] = []
        thread = threading.Thread(
            target=lambda: server.run(
                command, on_line=lambda line, _: lines.append(line), grace=10.0, environment=variables
            )
        )
        thread.start()
        try:
            wait_for_server(arguments.port, log, threading.Event(), threading.Event())
            pairs = [(by_dvc(), by_flow()) for _ in range(arguments.repeats)]
            plain, flow = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(f"up to date: dvc repro {plain:.1f} s, flow {flow:.1f} s, difference {flow - plain:.1f} s")
            if arguments.full:
                plain = by_dvc("--force")
                for parallel in arguments.parallel:
                    flow = by_flow(True, parallel)
                    print(
                        f"every stage: dvc repro {plain:.0f} s, flow with parallel={parallel} {flow:.0f} s, "
                        f"ratio flow / dvc {flow / plain:.2f}"
                    )
        finally:
            server.stop()
            thread.join()


if __name__ == "__main__":
    main()
