"""SVF with transformers' Trainer: next-token training of z, which resumes and keeps its best checkpoint.

    python examples/train_with_trainer.py [--base data/miniature/base] [--out expert] [--steps 60] [--resume]

Trainer knows nothing of SVF: it trains what requires gradients, and its checkpoints are PEFT adapters. In the form of
the paper's public code (``sigmoid``, rescaled to the same Σσ) they hold the parameters behind z as well, so that a run
that was stopped goes on to the bit.
"""

from __future__ import annotations

import argparse

from datasets import Dataset
from peft import get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

import t2.svf
from t2.miniature.problems import generate


def worked_problems(tokenizer: PreTrainedTokenizerBase, count: int, seed: int) -> Dataset:
    """Word problems with their worked replies as tokens; the loss is taken on the replies."""
    rows = []
    for problem in generate("math", count, seed):
        asked = [{"role": "user", "content": problem.fields["question"]}]
        answered = [*asked, {"role": "assistant", "content": problem.reply}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(answered, return_dict=False)
        rows.append({"input_ids": whole, "labels": [-100] * len(prompt) + whole[len(prompt) :]})
    return Dataset.from_list(rows)


def main() -> None:
    """Trains an expert and prints the loss of its validation problems, before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="data/miniature/base", help="a folder, or a Hugging Face id")
    parser.add_argument("--out", default="expert", help="where checkpoints and the expert go")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    arguments = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    base = AutoModelForCausalLM.from_pretrained(arguments.base)
    config = t2.svf.SvfConfig(
        task_type="CAUSAL_LM",
        target_modules=["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"],
        parametrisation="sigmoid",
        renormalise=True,
        task="math",
    )
    trainer = Trainer(
        get_peft_model(base, config),
        TrainingArguments(
            arguments.out,
            max_steps=arguments.steps,
            per_device_train_batch_size=32,
            learning_rate=0.05,  # of numbers near 0.1: far larger than for weights
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=max(arguments.steps // 3, 1),
            save_steps=max(arguments.steps // 3, 1),
            load_best_model_at_end=True,
            report_to=[],
        ),
        train_dataset=worked_problems(tokenizer, 512, seed=1),
        eval_dataset=worked_problems(tokenizer, 128, seed=2),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train(resume_from_checkpoint=arguments.resume)
    after = trainer.evaluate()["eval_loss"]
    trainer.model.save_pretrained(arguments.out)
    print(f"validation loss {before:.4f} -> {after:.4f}; the expert is in {arguments.out}")


if __name__ == "__main__":
    main()
