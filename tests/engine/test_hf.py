"""The decode loop gives what the model gives alone, whatever shares its batch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from t2.engine import decode
from t2.engine.attention import GROUPED_SDPA
from t2.engine.base import Sampling
from t2.engine.chat import encode_reply
from t2.engine.hf import HfEngine, load_base
from t2.engine.likelihood import loglikelihoods, reply_loglikelihoods
from t2.svf import SvfConfig, attach

PROMPTS = [f"{'Tom has many apples. ' * (n % 5)}Tom has {n} apples and buys {3 * n} more. How many?" for n in range(24)]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def engine(tiny_model, tiny_tokenizer):
    return HfEngine(tiny_model, tiny_tokenizer, batch_size=8)


@pytest.fixture
def svf_engine(tiny_model, tiny_tokenizer):
    return HfEngine(attach(tiny_model, SvfConfig(target_modules=TARGETS)), tiny_tokenizer, batch_size=64)


def random_tables(engine: HfEngine, experts: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        name: 1 + 0.5 * torch.randn(experts, len(sigma), generator=generator)
        for name, sigma in engine.model.sigmas().items()
    }


def reference(model, ids: list[int], max_new_tokens: int) -> list[int]:
    inputs = torch.tensor([ids])
    output = model.generate(
        inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=max_new_tokens, do_sample=False
    )
    return output[0, len(ids) :].tolist()


def tokens(generations):
    return [generation.tokens for generation in generations]


@pytest.mark.parametrize("attention", ["sdpa", GROUPED_SDPA])
def test_greedy_replies_equal_generate_alone_while_samples_leave_the_batch(engine, attention, monkeypatch):
    engine.model.set_attn_implementation(attention)
    dropped = []
    select = decode.DynamicCache.batch_select_indices
    monkeypatch.setattr(
        decode.DynamicCache,
        "batch_select_indices",
        lambda cache, kept: (dropped.append(len(kept)), select(cache, kept)),
    )
    generations = engine.generate(PROMPTS, Sampling(60))
    for ids, generation in zip(engine.encode(PROMPTS), generations, strict=True):
        assert list(generation.tokens) == reference(engine.model, ids, 60)
        assert generation.prompt_tokens == len(ids)
        assert generation.finished == (generation.tokens[-1] == engine.tokenizer.eos_token_id)
        assert generation.text == engine.tokenizer.decode(generation.tokens, skip_special_tokens=True)
    assert {generation.finished for generation in generations} == {True, False}
    assert dropped and len({len(generation.tokens) for generation in generations}) > 3


def test_logprobs_are_the_models_own_at_temperature_one(engine):
    for temperature in (0.0, 0.5):
        for prompt, generation in zip(PROMPTS, engine.generate(PROMPTS, Sampling(20, temperature)), strict=True):
            (ids,) = engine.encode([prompt])
            with torch.no_grad():
                logits = engine.model(torch.tensor([[*ids, *generation.tokens]])).logits[0]
            expected = (
                logits[len(ids) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(generation.tokens)[:, None])[:, 0]
            )
            torch.testing.assert_close(torch.tensor(generation.logprobs), expected, atol=1e-4, rtol=0)


def test_a_batch_of_mixed_experts_gives_each_sample_what_it_gets_alone(svf_engine):
    tables, rows = random_tables(svf_engine, 3), [n % 4 - 1 for n in range(len(PROMPTS))]
    together = svf_engine.generate(PROMPTS, Sampling(40), experts=tables, rows=rows)
    for prompt, row, generation in zip(PROMPTS, rows, together, strict=True):
        if row < 0:
            with svf_engine.model.disable_adapter():
                (alone,) = svf_engine.generate([prompt], Sampling(40))
        else:
            one = {name: table[row : row + 1] for name, table in tables.items()}
            (alone,) = svf_engine.generate([prompt], Sampling(40), experts=one, rows=[0])
        assert generation.tokens == alone.tokens
    assert len(set(tokens(together))) > len(PROMPTS) // 2


def test_experts_leave_no_trace(svf_engine):
    before = svf_engine.generate(PROMPTS, Sampling(20))
    svf_engine.generate(PROMPTS, Sampling(20), experts=random_tables(svf_engine, 1), rows=[0] * len(PROMPTS))
    assert svf_engine.generate(PROMPTS, Sampling(20)) == before


def test_draws_are_seeded_and_do_not_depend_on_the_batch(engine):
    sampling = Sampling(30, temperature=1.0, seed=3)
    first = engine.generate(PROMPTS, sampling)
    for batch_size in (1, 5, 64):
        engine.batch_size = batch_size
        assert tokens(engine.generate(PROMPTS, sampling)) == tokens(first)
    assert tokens(engine.generate(PROMPTS[:7], sampling)) == tokens(first[:7])
    assert tokens(engine.generate(PROMPTS, replace(sampling, seed=4))) != tokens(first)


def test_equal_prompts_get_draws_of_their_own(engine):
    replies = engine.generate(PROMPTS[:1] * 8, Sampling(10, temperature=1.0))
    assert len(set(tokens(replies))) == 8


def test_draws_follow_the_softmax(engine):
    """Tokens drawn from one prompt 20,000 times occur as often as the model says."""
    (ids,) = engine.encode(PROMPTS[:1])
    with torch.no_grad():
        logits = engine.model(torch.tensor([ids])).logits[0, -1]
    for temperature in (0.7, 1.5):
        draws = decode.uniform_numbers(20_000, Sampling(1, temperature))
        chosen = decode._choose(logits.expand(20_000, -1), temperature, draws)
        observed = torch.bincount(chosen, minlength=len(logits)) / 20_000
        expected = (logits / temperature).softmax(0)
        deviation = (expected * (1 - expected) / 20_000).sqrt()
        assert ((observed - expected).abs() <= 5 * deviation + 1e-9).all()


def test_a_prompt_without_room_for_the_reply_is_not_run(engine):
    sampling = Sampling(40)
    (short,) = engine.encode(["apples"])
    filler = engine.context - sampling.max_new_tokens - len(short)
    prompts = ["apples", "apples" + "\x00" * filler, "apples" + "\x00" * (filler + 1)]
    lengths = [len(ids) for ids in engine.encode(prompts)]
    assert lengths[1:] == [engine.context - 40, engine.context - 39]
    counted = []
    generations = engine.generate(prompts, sampling, progress=counted.append)
    assert [generation.too_long for generation in generations] == [False, False, True]
    assert generations[2].text == "" and generations[2].prompt_tokens == lengths[2]
    assert not generations[2].tokens and not generations[2].finished
    assert sum(counted) == 3


def exhaust_gpu():
    raise torch.OutOfMemoryError("out of memory")


def exhaust_cpu():
    torch.empty(1 << 50)  # more than a process can address


@pytest.mark.parametrize("exhaust", [exhaust_gpu, exhaust_cpu])
def test_a_batch_that_does_not_fit_into_memory_is_halved(engine, exhaust):
    expected = tokens(engine.generate(PROMPTS, Sampling(10)))
    sizes = []

    def small_memory(module, args, kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 3:
            exhaust()

    engine.model.register_forward_pre_hook(small_memory, with_kwargs=True)
    counted = []
    assert tokens(engine.generate(PROMPTS, Sampling(10), progress=counted.append)) == expected
    assert sizes[:3] == [8, 4, 2] and max(sizes[2:]) == 2
    assert sum(counted) == len(PROMPTS)


@pytest.mark.parametrize("exhaust", [exhaust_gpu, exhaust_cpu])
def test_memory_too_small_for_one_prompt_is_an_error_that_says_what_needs_less(engine, exhaust):
    engine.model.register_forward_pre_hook(lambda *_: exhaust())
    with pytest.raises(MemoryError, match=r"^out of memory \(.*; one prompt alone .* max_new_tokens"):
        engine.generate(PROMPTS[:2], Sampling(10))


def test_other_errors_of_a_batch_are_no_lack_of_memory(engine):
    engine.model.register_forward_pre_hook(lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        engine.generate(PROMPTS[:2], Sampling(10))


def test_every_end_token_of_the_generation_settings_ends_a_reply(engine, tiny_tokenizer):
    plain = engine.generate(PROMPTS, Sampling(20))
    token = plain[0].tokens[4]
    engine.model.generation_config.eos_token_id = [tiny_tokenizer.eos_token_id, token]
    ended = HfEngine(engine.model, tiny_tokenizer, batch_size=8).generate(PROMPTS[:1], Sampling(20))[0]
    assert ended.finished and ended.tokens == plain[0].tokens[: plain[0].tokens.index(token) + 1]


def test_a_stop_string_ends_a_reply_with_the_token_that_completes_it(engine):
    plain = engine.generate(PROMPTS, Sampling(40))
    stop = (plain[0].text[5:8], plain[1].text[9:14], plain[2].text[7])
    stopped = engine.generate(PROMPTS, Sampling(40, stop=stop))
    for free, held in zip(plain, stopped, strict=True):
        texts = [
            engine.tokenizer.decode(free.tokens[:n], skip_special_tokens=True) for n in range(len(free.tokens) + 1)
        ]
        ends = [n for n, text in enumerate(texts) if any(string in text for string in stop)]
        end = ends[0] if ends else len(free.tokens)
        assert held.tokens == free.tokens[:end] and held.logprobs == pytest.approx(free.logprobs[:end], abs=1e-4)
        cuts = [texts[end].index(string) for string in stop if string in texts[end]]
        assert held.text == texts[end][: min(cuts, default=None)]
        assert held.finished == (bool(cuts) or free.finished)
    assert len({len(held.tokens) for held in stopped}) > 3
    assert any(len(held.tokens) < len(free.tokens) for free, held in zip(plain[3:], stopped[3:], strict=True))


def test_the_models_mode_returns(engine):
    engine.model.train()
    engine.generate(PROMPTS[:2], Sampling(2))
    assert engine.model.training


CHOICES = {
    "told apart by their first tokens": ["math", "code", "other"],
    "by later ones": ["a long way", "a long walk", "a", "away"],
    "alone": ["#### 12"],
}


@pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("opening", ["", "Tom has 3 apples and this is what all of them begin with. "])
def test_choices_score_what_a_whole_pass_gives_the_tokens_that_tell_them_apart(svf_engine, choices, opening):
    prompts = [opening + prompt for prompt in [*PROMPTS, *PROMPTS[:12], svf_engine.context * "\x00"]]
    tables, rows = random_tables(svf_engine, 2), [n % 3 - 1 for n in range(len(prompts))]
    svf_engine.batch_size = 7
    found = svf_engine.score(prompts, choices, experts=tables, rows=rows)
    whole = [encode_reply(svf_engine.tokenizer, choice) for choice in choices]
    shared = min((n for n in range(9) if len({tuple(ids[: n + 1]) for ids in whole}) > 1), default=0)
    parts = [
        next(n for n in range(1, len(ids) + 1) if all(ids[:n] != other[:n] for other in whole if other is not ids))
        if len(whole) > 1
        else len(ids)
        for ids in whole
    ]
    for prompt, row, scores in zip(prompts, rows, found, strict=True):
        (ids,) = svf_engine.encode([prompt])
        if len(ids) + max(parts) > svf_engine.context:
            assert scores == [-math.inf] * len(choices)
            continue
        for choice, part, score in zip(whole, parts, scores, strict=True):
            before, own = [*ids, *choice[:shared]], choice[shared:part]
            with torch.no_grad(), svf_engine.model.per_sample(tables, [row]):
                logits = svf_engine.model(torch.tensor([[*before, *own]])).logits[0, len(before) - 1 : -1]
            expected = logits.log_softmax(-1).gather(1, torch.tensor(own)[:, None]).sum()
            assert score == pytest.approx(float(expected), rel=1e-4)
    assert [-math.inf in scores for scores in found] == [False] * (len(found) - 1) + [True]


def test_choices_that_are_one_reply_are_refused(engine):
    for choices in (["math", "code", "math"], []):
        with pytest.raises(ValueError, match=r"none twice; got \["):
            engine.score(PROMPTS[:1], choices)


def test_a_given_reply_is_as_likely_as_a_pass_over_it_alone_says(svf_engine):
    prompts = [*PROMPTS, svf_engine.context * "\x00"]
    replies = [f"{'I think that it is ' * (n % 4)}{n}" for n in range(len(prompts))]
    tables, rows = random_tables(svf_engine, 2), [n % 3 - 1 for n in range(len(prompts))]
    svf_engine.batch_size = 5
    found = svf_engine.read(prompts, replies, experts=tables, rows=rows)
    assert found[-1] == []
    for prompt, reply, row, logprobs in zip(prompts[:-1], replies, rows, found, strict=False):
        (ids,) = svf_engine.encode([prompt])
        own = encode_reply(svf_engine.tokenizer, reply)
        with torch.no_grad(), svf_engine.model.per_sample(tables, [row]):
            logits = svf_engine.model(torch.tensor([[*ids, *own]])).logits[0, len(ids) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(own)[:, None])[:, 0]
        assert logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    with pytest.raises(ValueError, match="got 1 replies for 2 prompts"):
        svf_engine.read(prompts[:2], replies[:1])


def test_no_prompts(engine):
    assert engine.generate([], Sampling(4)) == []
    assert engine.score([], ["a", "b"]) == []
    assert engine.read([], []) == []


def test_wrong_arguments_are_named(engine, svf_engine):
    with pytest.raises(ValueError, match="batch_size is 0"):
        HfEngine(engine.model, engine.tokenizer, batch_size=0)
    with pytest.raises(ValueError, match="go together"):
        svf_engine.generate(PROMPTS[:1], Sampling(4), experts={})
    with pytest.raises(ValueError, match="got 2 for 1"):
        svf_engine.generate(PROMPTS[:1], Sampling(4), experts={}, rows=[-1, -1])
    with pytest.raises(ValueError, match="temperature is -1"):
        Sampling(4, temperature=-1.0)
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        Sampling(0)
    with pytest.raises(ValueError, match=r"stop is \('', 'a'\)"):
        Sampling(4, stop=("", "a"))
    with pytest.raises(ValueError, match="holds no reply to choices"):
        engine.generate(PROMPTS[:1], Sampling(4, choices=("yes", "no")))


def test_experts_need_svf(tiny_folder):
    model, tokenizer = load_base(tiny_folder, "float32")
    with pytest.raises(ValueError, match="attach SVF"):
        HfEngine(model, tokenizer, batch_size=1).generate(PROMPTS[:1], Sampling(4), experts={}, rows=[-1])


def test_load_base_reads_a_folder(tiny_folder, engine):
    model, tokenizer = load_base(tiny_folder, "bfloat16")
    assert model.dtype == torch.bfloat16 and not model.training
    assert model.config._attn_implementation == GROUPED_SDPA
    model, tokenizer = load_base(str(tiny_folder), "float32")
    loaded = HfEngine(model, tokenizer, batch_size=8)
    assert tokens(loaded.generate(PROMPTS, Sampling(20))) == tokens(engine.generate(PROMPTS, Sampling(20)))


def test_load_base_says_what_is_missing(tiny_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="data/miniature/nowhere"):
        load_base("data/miniature/nowhere", "float32")
    (tmp_path / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(FileNotFoundError, match=r"weights \(\*.safetensors\), a tokenizer"):
        load_base(tmp_path, "float32")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_output_layer_is_copied_for_no_prompt(tiny_model, dtype) -> None:
    """A view of the states that is not contiguous costs a copy of the weight per prompt in 16 bits."""
    model = tiny_model.to(dtype)
    contiguous = []
    model.get_output_embeddings().register_forward_pre_hook(lambda _, args: contiguous.append(args[0].is_contiguous()))
    prompts = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    decode.decode(model, prompts, {2}, Sampling(3), decode.uniform_numbers(3, Sampling(3)))
    loglikelihoods(model, prompts, [[1], [2, 3]])
    reply_loglikelihoods(model, prompts, [[1, 2], [3], [4, 5, 6]])
    assert len(contiguous) > 5 and (all(contiguous) or dtype == torch.float32)
