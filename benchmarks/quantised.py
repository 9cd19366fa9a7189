"""The base model in 8 and in 4 bits against its own dtype: bytes of its layers, accuracy, seconds.

Run ``python benchmarks/quantised.py [--items 100] [--family math]``, where bitsandbytes is installed. Accuracy is the
base's own, by greedy replies to one family of the miniature's problems; gained and lost are items that are right in
this form only, and in the dtype only.
"""

from __future__ import annotations

import time
from typing import Any

from harness import options
from transformers.utils.logging import disable_progress_bar

from t2.config.rows import Prompt
from t2.engine.base import Sampling
from t2.engine.hf import HfEngine, load_base
from t2.miniature.problems import generate
from t2.tasks.grading import grade

FORMS: tuple[Any, ...] = (None, "int8", "nf4")


def stored(model: Any) -> int:
    """Bytes of the layers' weights with their scales and tables."""
    return sum(value.nbytes for name, value in model.state_dict().items() if "_proj." in name)


def main() -> None:
    args = options(__doc__, base="data/miniature/base", family="math", items=100)
    disable_progress_bar()
    template = Prompt(user="{question}")
    items = [problem.item(template) for problem in generate(args.family, args.items, seed=1)]
    kind = "choice" if args.family.startswith("reasoning") else "math"
    plain: list[bool] = []
    size = 0
    for form in FORMS:
        model, tokenizer = load_base(args.base, "float32", quantisation=form)
        size = size or stored(model)
        engine = HfEngine(model, tokenizer, batch_size=64)
        start = time.perf_counter()
        replies = engine.generate([item.prompt for item in items], Sampling(64))
        seconds = time.perf_counter() - start
        right = grade(kind, items, [reply.text for reply in replies])
        plain = plain or right
        gained = sum(now > before for now, before in zip(right, plain, strict=True))
        lost = sum(now < before for now, before in zip(right, plain, strict=True))
        print(
            f"{form or 'float32':<8} {stored(model):9,} bytes  ratio {stored(model) / size:.3f}  "
            f"{sum(right)} of {len(right)} right ({gained} gained, {lost} lost)  {seconds:.1f} s"
        )


if __name__ == "__main__":
    main()
