"""Made-up results of a whole run, small and seeded, with every kind of row."""

from __future__ import annotations

import numpy as np
import pandas as pd

from t2.report.page import ReportInputs
from t2.report.systems import System
from t2.statistics import Measurement, Prediction, compare, confusion, readings, recalls, scores

TASKS = {"math": "trained", "code": "trained", "reasoning": "trained"} | {
    f"{name}_hard": "unseen" for name in ("math", "code", "reasoning")
}
SYSTEMS = [
    System("miniature", "base", "none", "", "miniature"),
    System("miniature", "lora", "own", "next_token", "LoRA (next token)"),
    System("miniature", "lora", "own", "policy_gradient", "LoRA (policy gradient)"),
    System("miniature", "svf", "own", "", "SVF"),
    System("miniature", "svf", "prompt", "", "Transformer² (Prompt)"),
    System("miniature", "svf", "classifier", "", "Transformer² (Cls-expert)"),
    System("miniature", "svf", "fewshot", "", "Transformer² (Few-shot)"),
    System("miniature", "svf", "uniform", "", "Uniform mix of experts"),
    *(
        System("miniature", "svf", "adapter", family, f"SVF, {family} expert", family, own="svf/own")
        for family in ("math", "code", "reasoning")
    ),
    System("control", "base", "none", "", "control"),
    System("control", "svf", "own", "", "SVF"),
]
CONTRASTS = [
    (("svf", "fewshot", ""), ("svf", "uniform", "")),
    (("svf", "classifier", ""), ("svf", "prompt", "")),
    (("svf", "own", ""), ("lora", "own", "next_token")),
    (("svf", "own", ""), ("lora", "own", "policy_gradient")),
]
EXPERTS = [(f"svf-{family}", seed) for family in ("math", "code") for seed in range(3)]
CATEGORIES = ["math", "code", "reasoning", "other"]
LEVEL = {
    "base": 0.5,
    "lora": 0.62,
    "svf": 0.68,
    "prompt": 0.6,
    "classifier": 0.66,
    "fewshot": 0.67,
    "uniform": 0.6,
}


def measurements(n: int = 120) -> list[Measurement]:
    """Every system on every task of a main base, and base and SVF on a control."""
    random = np.random.default_rng(0)
    found = []

    def add(base, task, method, strategy, share, called=None, **key):
        family = task.partition("_")[0]
        difficulty = np.linspace(0.02, 0.98, n)
        right = difficulty < share + random.normal(0, 0.12, n)
        items = [
            Prediction(
                f"{task}-{i:05d}",
                bool(r),
                category=called and str(random.choice(CATEGORIES, p=called[family])),
                flexible=bool(r) or i % 10 == 9,
                cut_off=i % 20 == 19,
            )
            for i, r in enumerate(right)
        ]
        suite = TASKS.get(task, "other")
        found.append(Measurement(base, suite, task, family, method, strategy, items=tuple(items), **key))

    def called(right):
        rest = (1 - right) / 3
        return {family: [right if name == family else rest for name in CATEGORIES] for family in CATEGORIES}

    for task, suite in TASKS.items():
        shift = -0.2 if suite == "unseen" else 0.0
        family = task.partition("_")[0]
        for base in ("miniature", "control"):
            own = 0.2 if base == "control" else 0.0
            add(base, task, "base", "none", LEVEL["base"] + shift + own)
            for seed in range(3):
                add(base, task, "svf", "own", LEVEL["svf"] + shift + own / 2 + 0.01 * seed, seed=seed)
        for seed in range(3):
            for variant in ("next_token", "policy_gradient"):
                level = LEVEL["lora"] + shift - (0.1 if variant == "next_token" else 0)
                add("miniature", task, "lora", "own", level, variant=variant, seed=seed)
            for expert in ("math", "code", "reasoning"):
                if expert != family:
                    add("miniature", task, "svf", "adapter", 0.45 + shift, variant=expert, seed=seed)
            for strategy, right in (("prompt", 0.72), ("classifier", 0.95)):
                asked = seed if strategy == "classifier" else None
                share = LEVEL[strategy] + shift
                add("miniature", task, "svf", strategy, share, called(right), seed=seed, dispatcher_seed=asked)
            add("miniature", task, "svf", "uniform", LEVEL["uniform"] + shift, seed=seed)
        if suite == "unseen":
            for run in range(6):
                add("miniature", task, "svf", "fewshot", LEVEL["fewshot"] + shift, seed=run % 3, draw=run // 3)
    for seed in range(3):
        add("miniature", "other", "svf", "prompt", 0.55, called(0.55), seed=seed)
        add("miniature", "other", "svf", "classifier", 0.9, called(0.9), seed=seed, dispatcher_seed=seed)
    bases, tasks = ["miniature", "control"], [*TASKS, "other"]
    return sorted(found, key=lambda m: (bases.index(m.base), tasks.index(m.task)))


def inputs(n: int = 120) -> ReportInputs:
    """What the report stage hands over."""
    random = np.random.default_rng(1)
    found = measurements(n)
    histories = []
    for label, end in (("SVF", 0.68), ("LoRA (next token)", 0.52), ("LoRA (policy gradient)", 0.62)):
        for task in ("math", "code", "reasoning"):
            for seed in range(3):
                steps = np.arange(0, 31)
                curve = 0.5 + (end - 0.5) * (1 - np.exp(-steps / 9)) + random.normal(0, 0.012, len(steps))
                valid = [value if step % 5 == 0 else None for step, value in zip(steps, curve, strict=True)]
                best = int(np.nanargmax(np.array(valid, dtype=float)))
                for step, value in zip(steps, valid, strict=True):
                    histories.append(("miniature", label, f"{label} {task}", task, seed, step, value, step == best))
    alphas = [
        (
            "miniature",
            task,
            task,
            draw % 3,
            draw // 3,
            expert,
            float(random.normal(0.75 if task.startswith(expert) else 0.12, 0.15)),
        )
        for task in TASKS
        if TASKS[task] == "unseen"
        for draw in range(6)
        for expert in ("math", "code", "reasoning")
    ]
    timings = [
        ("miniature", label, task, n, 2.0 + seed / 10 + place, 9.0 + seed / 5)
        for label in ("Transformer² (Prompt)", "Transformer² (Cls-expert)")
        for place, task in enumerate(TASKS)
        for seed in range(3)
        if TASKS[task] == "unseen"
    ]
    runs = [(f"stage-{i}", f"{i:032x}", 100.0 / (i + 1)) for i in range(6)]
    return ReportInputs(
        base="miniature",
        systems=SYSTEMS,
        scores=scores(found),
        readings=readings(found),
        comparisons=compare(found, contrasts=CONTRASTS),
        timings=pd.DataFrame(timings, columns=["base", "system", "task", "n", "first_seconds", "second_seconds"]),
        histories=pd.DataFrame(
            histories,
            columns=["base", "label", "adapter", "task", "seed", "step", "valid_score", "chosen"],
        ),
        confusions=confusion(found, CATEGORIES),
        dispatch=recalls(found, contrasts=CONTRASTS),
        alphas=pd.DataFrame(alphas, columns=["base", "search", "task", "seed", "draw", "expert", "alpha"]).assign(
            lowest=lambda rows: rows["alpha"], highest=lambda rows: rows["alpha"]
        ),
        changes=pd.DataFrame(
            [
                ("miniature", f"svf-{family}", layer, module, 0.01 * (layer + 1) * (place + 1))
                for place, family in enumerate(("math", "code", "reasoning"))
                for layer in range(4)
                for module in ("q_proj", "v_proj", "up_proj")
            ],
            columns=["base", "adapter", "layer", "module", "change"],
        ),
        replies=pd.DataFrame(
            [
                ("math", "SVF", "What is 1|2 < 3?", "`five`\n\nor <b>six</b>", "6" * 400, True),
                ("code", "SVF", "Write f.", "def f(): ...", "", False),
            ],
            columns=["task", "label", "question", "before", "after", "gained"],
        ),
        similarities=pd.DataFrame(
            [
                ("miniature", *left, *right, module, 1.0 if left == right else 0.6 if left[0] == right[0] else -0.2)
                for left in EXPERTS
                for right in EXPERTS
                for module in ("all", "q_proj")
            ],
            columns=["base", "left", "left_seed", "right", "right_seed", "module", "cosine"],
        ),
        trained=pd.DataFrame(
            [
                ("miniature", "svf-math", "SVF", "reinforce", 0.005, "q_proj, v_proj", "all", 3072, 3, 41.2),
                ("miniature", "lora-math", "LoRA", "next_token", 0.01, "q_proj", "half", 65536, 5, None),
            ],
            columns=[
                *("base", "adapter", "label", "objective", "lr", "modules", "layers", "parameters", "seeds", "seconds")
            ],
        ),
        shown=pd.DataFrame(
            [
                ("miniature", "3 shots", "math_hard", 200, 300.0, 20.0, 0, 120.0, 600),
                ("miniature", "20 shots", "math_hard", 200, 80.0, 20.0, 50, 120.0, 600),
            ],
            columns=[
                *("base", "label", "task", "n", "prompt_tokens", "reply_tokens", "too_long", "base_tokens", "searched")
            ],
        ),
        runs=pd.DataFrame(runs, columns=["stage", "run_id", "seconds"]),
        notes=[
            "The base model is a **miniature**: a Llama of a million parameters, trained on generated "
            "problems. It shows that the method works as described, not what a language model would score."
        ],
    )
