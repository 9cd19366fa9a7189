"""What the sandbox costs per program: milliseconds, and the ratio to a bare ``python -c`` with no wall.

    python benchmarks/sandbox.py [--programs 500] [--workers 1]

The program is small, so that nearly all of the time is overhead: forks, namespaces, limits and the
conversation between the tests and the program.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from harness import options

from t2 import config
from t2.sandbox import Program, Sandbox

PROGRAM = Program("def f(x):\n    return x + 1\n", "assert f(1) == 2\nassert f(3) == 4\nassert f(5) == 6\n")


def main() -> None:
    arguments = options(__doc__, programs=500, workers=1)
    limits = config.load().sandbox

    start = time.perf_counter()
    with Sandbox(limits, workers=arguments.workers) as sandbox:
        opened = 1e3 * (time.perf_counter() - start)
        walled = []
        for _ in range(5):
            start = time.perf_counter()
            verdicts = sandbox.run([PROGRAM] * (arguments.programs // 5))
            walled.append(1e3 * (time.perf_counter() - start) / len(verdicts))
            assert all(verdict.passed for verdict in verdicts), verdicts[0]

    spent = os.times()
    processor = 1e3 * (spent.children_user + spent.children_system) / (5 * len(verdicts))
    bare = []
    for _ in range(20):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", PROGRAM.code + PROGRAM.tests], check=True)
        bare.append(1e3 * (time.perf_counter() - start))

    mean = statistics.median(walled)
    print(f"isolation {sandbox.isolation}, {arguments.workers} worker(s), opened in {opened:.0f} ms")
    print(f"sandboxed      {mean:6.2f} ms per program (best {min(walled):.2f}, worst {max(walled):.2f})")
    print(f"processor time {processor:6.2f} ms per program, on a busy machine the steadier figure")
    print(f"bare python -c {statistics.median(bare):6.2f} ms per program")
    print(f"ratio sandboxed / bare {mean / statistics.median(bare):.2f}")


if __name__ == "__main__":
    main()
