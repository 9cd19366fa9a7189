"""SVF with TRL's SFT: TRL attaches the adapter, as it does any of PEFT's.

    pip install -e '.[examples]'
    python examples/sft_with_trl.py [--base data/miniature/base] [--out expert] [--steps 40]

Give ``SFTTrainer`` the configuration rather than an adapted model. On a base in 4 bits, TRL casts what is trained to
bfloat16, in which most changes of a z near 1 vanish: bring it back with ``p.data = p.data.float()`` before ``train()``.
"""

from __future__ import annotations

import argparse

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import t2.svf
from t2.miniature.problems import generate


def conversations(count: int, seed: int) -> Dataset:
    """Word problems with their worked replies, in TRL's prompt-completion form."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": problem.fields["question"]}],
                "completion": [{"role": "assistant", "content": problem.reply}],
            }
            for problem in generate("math", count, seed)
        ]
    )


def main() -> None:
    """Trains an expert and prints the loss of its validation problems, before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="data/miniature/base", help="a folder, or a Hugging Face id")
    parser.add_argument("--out", default="expert")
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()

    base = AutoModelForCausalLM.from_pretrained(arguments.base)
    trainer = SFTTrainer(
        base,
        SFTConfig(
            arguments.out,
            max_steps=arguments.steps,
            per_device_train_batch_size=32,
            learning_rate=0.02,
            gradient_checkpointing=False,
            bf16=False,  # z and its gradients are float32 whatever the base is in
            report_to=[],
        ),
        train_dataset=conversations(512, seed=1),
        eval_dataset=conversations(128, seed=2),
        processing_class=AutoTokenizer.from_pretrained(arguments.base),
        peft_config=t2.svf.SvfConfig(task_type="CAUSAL_LM", target_modules="all-linear", task="math"),
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    trainer.save_model(arguments.out)
    print(f"validation loss {before:.4f} -> {after:.4f}; the expert is in {arguments.out}")


if __name__ == "__main__":
    main()
