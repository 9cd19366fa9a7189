"""Learning from prompts that show images: the same gradient as alone, images looked at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from visual import LIMITS, answers, picture

from t2.config.rows import SeeingBase, VqaReward
from t2.engine import select
from t2.engine.hf import HfEngine
from t2.tasks import vqa
from t2.tasks.grading import grade
from t2.tasks.item import Item
from t2.tasks.prompt import Image, Message, shown
from t2.training import reinforce
from t2.training.logits import accumulate_gradient, answer_logits, base_logits
from t2.training.loop import train
from t2.training.sequences import Batch, Pair, micro_batches, pad

from .setting import adapted, moved, recipe, trainable, training

ROOT = Path(__file__).parents[2]
REWARD = VqaReward(kind="vqa", right=1.0, wrong=-0.1, stop=[], max_new_tokens=3, pass_mark=0.3, statement=False)
ANSWERS = [[8, 9], [11, 12, 13, 14], [4], [21, 22], [5, 6, 7]]


@pytest.fixture
def base(llava_folder: Path) -> SeeingBase:
    row = yaml.safe_load((ROOT / "params.yaml").read_text())["bases"]["main"]
    return SeeingBase(**{**row, "path": str(llava_folder), "vision": LIMITS})


@pytest.fixture
def engine(base: SeeingBase) -> HfEngine:
    model, tokenizer = select.load(base, "cpu")
    attached = moved(adapted(model, layers="half"))
    return HfEngine(attached, tokenizer, batch_size=16, vision=select.vision(base, attached))


def items(folder: Path, count: int, first: int = 0) -> list[Item]:
    """Every third without an image."""
    found = []
    for n in range(first, first + count):
        picture(n).save(folder / f"{n}.png")
        images = () if n % 3 == 2 else (Image(folder / f"{n}.png", item=f"i-{n}"),)
        prompt = (Message("user", f"What are the {'apples ' * (n % 4)}?", images),)
        found.append(Item(f"i-{n}", prompt, vqa.written(answers("apples", "Tom")), reply="Tom has"))
    return found


def pairs(engine: HfEngine, asked: Sequence[Item]) -> list[Pair]:
    prompts = [item.prompt for item in asked]
    encoded = zip(engine.encode(prompts), prompts, ANSWERS, strict=True)
    return [Pair(ids, tuple(answer), shown(prompt)) for ids, prompt, answer in encoded]


def test_logits_are_those_of_the_models_own_pass(engine: HfEngine, tmp_path: Path) -> None:
    asked = items(tmp_path, 5)
    batch = pad(pairs(engine, asked), "cpu", engine.inputs)
    logits = answer_logits(engine.model, batch)
    vision: Any = engine.vision
    for row, (item, answer) in enumerate(zip(asked, ANSWERS, strict=True)):
        (ids,) = engine.encode([item.prompt])
        pixels = [picture(int(image.path.stem)) for image in shown(item.prompt)]
        given = vision._processor.image_processor(pixels, return_tensors="pt") if pixels else {}
        alone = engine.model(input_ids=torch.tensor([[*ids, *answer]]), **given).logits[0]
        before = len(ids) - 1
        torch.testing.assert_close(
            logits[batch.sample == row], alone[before : before + len(answer)], atol=1e-4, rtol=1e-4
        )


def _loss(batch: Batch, base: Any, advantages: torch.Tensor, logits: torch.Tensor, tokens: slice) -> torch.Tensor:
    found = reinforce.terms(
        logits, batch.tokens[tokens], batch.sample[tokens], advantages, temperature=1.0, base_logits=base(tokens)
    )
    return found.loss(0.2, 5)


@pytest.mark.parametrize(("size", "chunk"), [(1, None), (2, None), (5, 3), (3, 1)])
def test_the_gradient_does_not_depend_on_micro_batches(
    engine: HfEngine, size: int, chunk: int | None, tmp_path: Path
) -> None:
    asked = items(tmp_path, 5)

    def learn(size: int, chunk: int | None) -> torch.Tensor:
        engine.model.zero_grad()
        of_batch = pairs(engine, asked)
        for rows in micro_batches(of_batch, size):
            batch = pad([of_batch[row] for row in rows], "cpu", engine.inputs)
            before = base_logits(engine.model, batch, chunk)
            advantages = torch.tensor([1.0, -1.0, 0.5, -0.1, 0.7])[rows]

            loss = partial(_loss, batch, before, advantages)
            accumulate_gradient(engine.model, batch, loss, chunk)
        return torch.cat([value.grad.flatten() for value in engine.model.parameters() if value.grad is not None])

    whole = learn(5, None)
    assert whole.norm() > 1e-3
    torch.testing.assert_close(learn(size, chunk), whole, rtol=1e-3, atol=1e-5)


def test_an_answer_that_holds_the_placeholder_is_learned_from(engine: HfEngine, tmp_path: Path) -> None:
    (item,) = items(tmp_path, 1)
    vision: Any = engine.vision
    (ids,) = engine.encode([item.prompt])
    pair = Pair(ids, (vision._placeholder, 7, vision._placeholder), shown(item.prompt))
    assert answer_logits(engine.model, pad([pair], "cpu", engine.inputs)).isfinite().all()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_learns_and_looks_at_each_image_once(
    base: SeeingBase, checkpointing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = select.load(base, "cpu")
    attached = adapted(model, layers="half")
    engine = HfEngine(attached, tokenizer, batch_size=16, vision=select.vision(base, attached))
    looked: list[int] = []
    inner = model.get_image_features
    monkeypatch.setattr(model, "get_image_features", lambda **given: (looked.append(1), inner(**given))[1])
    learned, chosen = items(tmp_path, 12), items(tmp_path, 6, first=12)

    def run(scratch: str) -> Any:
        return train(
            attached,
            engine,
            recipe(steps=4, batch=6),
            training(gradient_checkpointing=checkpointing, valid_every=2),
            reward=REWARD,
            train_items=learned,
            valid_items=chosen,
            grade=lambda items, replies: grade("vqa", items, replies, reward=REWARD),
            seed=1,
            scratch=tmp_path / scratch,
            fingerprint="inputs",
        )

    result = run("scratch")
    assert len(looked) == len({image for item in [*learned, *chosen] for image in shown(item.prompt)})
    assert [row["step"] for row in result.history] == [0, 1, 2, 3, 4]
    rewards = [row["reward"] for row in result.history[1:]]
    assert all(-0.1001 < value <= 1.0 for value in rewards) and min(rewards) < 0
    assert all(row["grad_norm"] > 0 for row in result.history[1:])
    after = {name: value.clone() for name, value in trainable(attached).items()}
    assert run("scratch").history == result.history  # from its checkpoint
    assert all(torch.equal(value, after[name]) for name, value in trainable(attached).items())
