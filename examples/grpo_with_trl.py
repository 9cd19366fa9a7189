"""SVF with TRL's GRPO: reinforcement learning of z, from a reward of one's own.

    pip install -e '.[examples]'
    python examples/grpo_with_trl.py [--base data/miniature/base] [--out expert] [--steps 30]

With ``beta`` above 0 the divergence is taken from the base model, for which TRL switches the adapter off: give
``GRPOTrainer`` the configuration. An adapted model in its place would get a second adapter, "ref", into which TRL does
not copy SVF's numbers: it would be the base all the same. Leave ``use_vllm`` off: TRL would merge the adapter into the
base weights, which SVF refuses; the pipeline's own training generates with vLLM instead (``engine.name: vllm``).
"""

from __future__ import annotations

import argparse
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import t2.svf
from t2.miniature.problems import generate
from t2.tasks import math


def questions(count: int, seed: int) -> Dataset:
    """Word problems with their answers."""
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": problem.fields["question"]}], "answer": problem.answer}
            for problem in generate("math", count, seed)
        ]
    )


def correctness(completions: list[list[dict[str, str]]], answer: list[str], **_: Any) -> list[float]:
    """1 for a reply whose final number is right, −1 for any other, as in the paper."""
    replies = [messages[0]["content"] for messages in completions]
    return [1.0 if math.correct(right, reply) else -1.0 for right, reply in zip(answer, replies, strict=True)]


def main() -> None:
    """Trains an expert and prints the mean reward, in the first steps and in the last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="data/miniature/base", help="a folder, or a Hugging Face id")
    parser.add_argument("--out", default="expert")
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()

    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(arguments.base),
        correctness,
        GRPOConfig(
            arguments.out,
            max_steps=arguments.steps,
            per_device_train_batch_size=64,
            num_generations=8,
            max_completion_length=80,
            learning_rate=0.02,
            beta=0.02,
            gradient_checkpointing=False,
            bf16=False,  # z and its gradients are float32 whatever the base is in
            logging_steps=1,
            report_to=[],
        ),
        train_dataset=questions(512, seed=1),
        processing_class=AutoTokenizer.from_pretrained(arguments.base),
        peft_config=t2.svf.SvfConfig(task_type="CAUSAL_LM", target_modules="all-linear", task="math"),
    )
    trainer.train()
    trainer.save_model(arguments.out)
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    first, last = rewards[:5], rewards[-5:]
    print(f"mean reward {sum(first) / len(first):.3f} -> {sum(last) / len(last):.3f}; the expert is in {arguments.out}")


if __name__ == "__main__":
    main()
