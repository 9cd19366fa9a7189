"""Whether references are graded right and trivial replies wrong, file by file, and what HumanEval's grading costs.

    python benchmarks/grading.py DATA [--workers 2] [--all]

DATA holds the files of data/sources/README.md; absent ones are left out. Without ``--all``, one in ten of the
EvalPlus tasks is run. The baseline for speed is what needs no sandbox: one bare ``python -c`` after the other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from t2 import config, profiles
from t2.config.rows import Prompt
from t2.sandbox import Sandbox
from t2.tasks import choice, code
from t2.tasks.grading import grade
from t2.tasks.item import Item
from t2.tasks.prompt import question
from t2.tasks.sources import load

HUMANEVAL = "humaneval/HumanEval.jsonl.gz"


@dataclass(frozen=True)
class File:
    layout: str
    kind: str
    path: str
    sampled: bool = False


FILES = [
    File("gsm8k", "math", "gsm8k/train.jsonl"),
    File("gsm8k", "math", "gsm8k/test.jsonl"),
    File("math", "boxed", "math500/test.jsonl"),
    File("humaneval", "code", HUMANEVAL),
    File("humaneval_plus", "code", "humaneval/HumanEvalPlus.jsonl.gz", sampled=True),
    File("mbpp", "code", "mbpp/mbpp.jsonl"),
    File("mbpp", "code", "mbpp/sanitized-mbpp.json"),
    File("mbpp_plus", "code", "mbpp/MbppPlus.jsonl.gz", sampled=True),
    File("arc", "choice", "arc/ARC-Easy-Dev.jsonl"),
    File("arc", "choice", "arc/ARC-Easy-Test.jsonl"),
    File("arc", "choice", "arc/ARC-Challenge-Dev.jsonl"),
    File("arc", "choice", "arc/ARC-Challenge-Test.jsonl"),
    File("arc", "choice", "arc/hf_layout/arc_easy/train.json"),
    File("arc", "choice", "arc/hf_layout/arc_easy/validation.json"),
    File("arc", "choice", "arc/llm_adapters_layout/ARC-Challenge/train.json"),
]


def wrong(kind: str, item: Item) -> str:
    """A reply in the right form with another answer."""
    if kind == "math":
        return f"#### {int(item.answer) + 1}"
    if kind == "boxed":
        return f"\\boxed{{{item.answer} + 1}}"
    if kind == "choice":
        return choice.statement(next(letter for letter in choice.LETTERS if letter != item.answer))
    return "pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--all", action="store_true", help="every EvalPlus task (some minutes)")
    arguments = parser.parse_args()
    # MBPP+ 599 takes 19 s of processor time for the reference and as much for an equal program.
    patient = {"cpu_seconds": 60.0, "wall_seconds": 240.0, "memory_mb": 1024}
    limits = config.load().sandbox.model_copy(update=patient)
    templates = read_templates()

    def read(file: File) -> list[Item]:
        problems = load(file.layout, arguments.data / file.path)
        return [problem.item(templates[file.layout]) for problem in problems]

    with Sandbox(limits, workers=arguments.workers) as sandbox:
        print(f"{'file':<52} {'items':>6} {'right':>6} {'wrong scored':>13} {'empty scored':>13} {'seconds':>8}")
        for file in FILES:
            if (arguments.data / file.path).is_file():
                items = read(file)
                print_counts(file, items[:: 10 if file.sampled and not arguments.all else 1], sandbox)
        if (arguments.data / HUMANEVAL).is_file():
            print_speed(read(next(file for file in FILES if file.path == HUMANEVAL)), sandbox)


def read_templates() -> dict[str, Prompt]:
    """The prompts of the profiles by layout; those of MBPP+ and HumanEval+ are MBPP's and HumanEval's too."""
    tasks = [task for name in ("paper", "real") for task in profiles.load(name).tasks.values()]
    found: dict[str, Prompt] = {task.source.layout: task.prompt for task in tasks}
    return {**found, "mbpp": found["mbpp_plus"]}


def print_counts(file: File, items: list[Item], sandbox: Sandbox) -> None:
    start = time.perf_counter()
    right = grade(file.kind, items, [item.reply for item in items], sandbox)
    seconds = time.perf_counter() - start
    other = sum(grade(file.kind, items, [wrong(file.kind, item) for item in items], sandbox))
    empty = sum(grade(file.kind, items, [""] * len(items), sandbox))
    name = f"{file.path} ({file.layout})"
    print(f"{name:<52} {len(items):>6} {sum(right):>6} {other:>13} {empty:>13} {seconds:>8.2f}", flush=True)
    for item, passed in zip(items, right, strict=True):
        if not passed:
            print(f"    {item.id}: the reference is graded wrong")


def print_speed(items: list[Item], sandbox: Sandbox) -> None:
    """The 164 references, in the sandbox and bare, one after the other."""
    programs = [code.program(item.reply, question(item.prompt)) for item in items]
    start = time.perf_counter()
    for program, item in zip(programs, items, strict=True):
        subprocess.run([sys.executable, "-c", f"{program}\n{item.answer}"], check=True)
    bare = time.perf_counter() - start
    start = time.perf_counter()
    # A comment makes them new: what was graded before is remembered.
    assert all(grade("code", items, [f"{program}\n# again" for program in programs], sandbox))
    walled = time.perf_counter() - start
    print(f"\n{len(items)} HumanEval references, isolation {sandbox.isolation}, {sandbox.workers} worker(s)")
    print(f"sandboxed             {walled:6.2f} s")
    print(f"bare python -c        {bare:6.2f} s, one after the other")
    print(f"ratio sandboxed / bare {walled / bare:.2f}")


if __name__ == "__main__":
    main()
