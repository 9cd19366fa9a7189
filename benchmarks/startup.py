"""What it takes to start each program: seconds of its imports, beside those of torch alone.

    python benchmarks/startup.py [--repeats 5] [--checkout .] [--no-op]

Programs take turns, so that other work on the machine meets all of them; medians are printed. Processor time says more
than the clock where the machine is shared. Bytecode and disk are warm: a first round is not counted. ``--no-op`` times
``dvc repro`` as well, in a checkout whose pipeline has run.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

from harness import options

from flows.dag import dvc, environment

BASELINE = "import torch"
STAGES = ("split", "basis", "train", "set", "search", "temperature", "measure", "score", "report", "publish")


def seconds(command: list[str], checkout: Path) -> tuple[float, float]:
    """By the clock and of the processor."""
    variables = os.environ | environment() | {"PYTHONPATH": str(checkout.resolve())}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    subprocess.run(command, cwd=checkout, env=variables, check=True, stdout=subprocess.DEVNULL)
    clock, after = perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    arguments = options(__doc__, repeats=5, checkout=Path(), no_op=False)
    imports = [BASELINE, "import mlflow", "import t2.svf", *(f"import t2.stages.{stage}" for stage in STAGES)]
    commands = {program: [sys.executable, "-c", program] for program in imports}
    commands["t2 --help"] = [sys.executable, "-m", "t2", "--help"]
    if arguments.no_op:
        commands["dvc repro"] = dvc("repro")
    rounds = [
        {name: seconds(command, arguments.checkout) for name, command in commands.items()}
        for _ in range(1 + arguments.repeats)
    ][1:]

    print(f"{'program':<28} {'clock':>7} {'CPU':>7} {'CPU / torch':>12}")
    for name in commands:
        clock, cpu = (statistics.median(column) for column in zip(*(found[name] for found in rounds), strict=True))
        ratio = statistics.median(found[name][1] / found[BASELINE][1] for found in rounds)
        print(f"{name:<28} {clock:>6.2f}s {cpu:>6.2f}s {ratio:>12.2f}")


if __name__ == "__main__":
    main()
