"""vLLM answers as transformers does, whichever way experts live in it, and whatever ran before."""

from __future__ import annotations

import importlib.util
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from t2.engine.base import Sampling
from t2.engine.hf import HfEngine, load_base
from t2.engine.vllm import engine as vllm_engine
from t2.svf import SvfConfig, attach, build_cache, checkpoint_weights, mix, mix_population
from t2.tasks.prompt import Image, Message
from tests.engine.vllm_setting import (
    LONG,
    MINIATURE,
    MISSING,
    PROMPTS,
    TARGETS,
    WAYS,
    damaged,
    make_setting,
    tokens,
    vllm_settings,
    write_biased_llama,
)

if importlib.util.find_spec("vllm") is None:
    pytest.skip(MISSING, allow_module_level=True)


@pytest.fixture(scope="module", params=["miniature", "biased"])
def setting(request, tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = MINIATURE if request.param == "miniature" else write_biased_llama(folder / "model", tiny_tokenizer)
    return make_setting(model, folder / "basis")


@pytest.fixture(scope="module", params=WAYS)
def engine(request, setting):
    return setting.vllm(request.param)


@pytest.fixture
def cached(engine, monkeypatch):
    """The number of a call's prompt tokens that came from the prefix cache, call by call."""
    found = []
    run = engine._llm.generate

    def watched(*args, **kwargs):
        outputs = run(*args, **kwargs)
        found.append(sum(output.num_cached_tokens for output in outputs))
        return outputs

    monkeypatch.setattr(engine._llm, "generate", watched)
    return found


def test_a_mixed_batch_equals_transformers(setting, engine):
    experts, rows = setting.experts(3), [n % 4 - 1 for n in range(len(PROMPTS))]
    wanted = setting.hf.generate(PROMPTS, Sampling(40), experts=experts, rows=rows)
    found = engine.generate(PROMPTS, Sampling(40), experts=experts, rows=rows)
    for one, other in zip(found, wanted, strict=True):
        assert replace(one, logprobs=()) == replace(other, logprobs=())
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
    plain = engine.generate(PROMPTS, Sampling(40))
    assert sum(one != other for one, other in zip(tokens(plain), tokens(found), strict=True)) >= 6
    assert engine.context == setting.hf.context


def test_one_expert_after_the_other_and_back_on_the_base(setting, engine):
    experts = setting.experts(2)
    before = engine.generate(PROMPTS, Sampling(30))
    assert tokens(before) == tokens(setting.hf.generate(PROMPTS, Sampling(30), experts={}, rows=[-1] * len(PROMPTS)))
    for row in (0, 1, 0):
        rows = [row] * len(PROMPTS)
        found = engine.generate(PROMPTS, Sampling(30), experts=experts, rows=rows)
        assert tokens(found) == tokens(setting.hf.generate(PROMPTS, Sampling(30), experts=experts, rows=rows))
    assert engine.generate(PROMPTS, Sampling(30)) == before


def test_long_prompts_cold_and_cached_never_meet_another_experts_cache(setting, engine, cached):
    experts = setting.experts(2)
    assert min(map(len, engine.encode(LONG))) > 256
    for rows in ([0, 0], [0, 0], [1, 1], [-1, -1], [0, 0], [0, 1], [1, -1]):
        found = engine.generate(LONG, Sampling(12), experts=experts, rows=rows)
        assert tokens(found) == tokens(setting.hf.generate(LONG, Sampling(12), experts=experts, rows=rows)), rows
    assert cached[0] == 0 and cached[1] > 256


def test_seeded_samples_are_those_of_transformers(setting, engine):
    experts, rows = setting.experts(2), [n % 3 - 1 for n in range(len(PROMPTS))]
    for sampling in (Sampling(20, temperature=1.0, seed=3), Sampling(20, temperature=0.6, seed=4)):
        found = engine.generate(PROMPTS, sampling, experts=experts, rows=rows)
        assert tokens(found) == tokens(setting.hf.generate(PROMPTS, sampling, experts=experts, rows=rows))
        fewer = engine.generate(PROMPTS[:5], sampling, experts=experts, rows=rows[:5])
        assert tokens(fewer) == tokens(found)[:5]
    assert tokens(found) != tokens(engine.generate(PROMPTS, replace(sampling, seed=5), experts=experts, rows=rows))


def test_stop_strings_mean_what_they_mean_in_transformers(setting, engine):
    rows = [n % 3 - 1 for n in range(len(PROMPTS))]
    experts = {name: 1 + (table - 1) / 10 for name, table in setting.experts(2).items()}
    plain = engine.generate(PROMPTS, Sampling(40), experts=experts, rows=rows)
    middles = {one.text[len(one.text) // 2 :].partition("\ufffd")[0][:3] for one in plain}
    stop = tuple(sorted(middles - {""})[::2])
    assert stop
    for sampling in (Sampling(40, stop=stop), Sampling(40, temperature=0.6, seed=4, stop=stop)):
        found = engine.generate(PROMPTS, sampling, experts=experts, rows=rows)
        wanted = setting.hf.generate(PROMPTS, sampling, experts=experts, rows=rows)
        assert [replace(one, logprobs=()) for one in found] == [replace(one, logprobs=()) for one in wanted]
        assert sum(len(one.tokens) < len(free.tokens) for one, free in zip(found, plain, strict=True)) > 3
        assert not any(string in one.text for one in found for string in stop)


def test_replies_are_held_to_choices(setting, engine):
    choices = ("\\boxed{math}", "\\boxed{code}", "\\boxed{other}")
    experts, rows = setting.experts(2), [n % 3 - 1 for n in range(len(PROMPTS))]
    found = engine.generate(PROMPTS, Sampling(40, choices=choices), experts=experts, rows=rows)
    assert all(one.text in choices and one.finished for one in found)
    free = engine.generate(PROMPTS, Sampling(40), experts=experts, rows=rows)
    assert not any(one.text in choices for one in free)


@pytest.mark.parametrize("choices", [["math", "code", "other"], ["a long way", "a long walk", "away"], ["#### 12"]])
def test_scores_are_those_of_transformers(setting, engine, choices):
    experts, rows = setting.experts(2), [n % 3 - 1 for n in range(len(PROMPTS))]
    prompts = [*PROMPTS[:-1], PROMPTS[-1] + "\x00" * engine.context]
    wanted = torch.tensor(setting.hf.score(prompts, choices, experts=experts, rows=rows))
    for _ in range(2):
        found = torch.tensor(engine.score(prompts, choices, experts=experts, rows=rows))
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0.0)
    assert found[-1].eq(-math.inf).all() and found[:-1].isfinite().all()


def test_given_replies_are_as_likely_as_under_transformers(setting, engine):
    experts, rows = setting.experts(2), [n % 3 - 1 for n in range(len(PROMPTS))]
    prompts = [*PROMPTS[:-1], PROMPTS[-1] + "\x00" * engine.context]
    replies = [f"It is {n}" for n in range(len(PROMPTS))]
    wanted = setting.hf.read(prompts, replies, experts=experts, rows=rows)
    found = engine.read(prompts, replies, experts=experts, rows=rows)
    assert found[-1] == wanted[-1] == []
    for one, other in zip(found[:-1], wanted[:-1], strict=True):
        assert one == pytest.approx(other, abs=1e-3)


def test_a_mix_made_at_run_time(setting, engine):
    experts = setting.experts(2)
    one, other = ({name: table[row] for name, table in experts.items()} for row in (0, 1))
    table = {name: z[None] for name, z in mix([one, other], torch.tensor([0.3, 0.7])).items()}
    rows = [0] * len(PROMPTS)
    found = engine.generate(PROMPTS, Sampling(20), experts=table, rows=rows)
    assert tokens(found) == tokens(setting.hf.generate(PROMPTS, Sampling(20), experts=table, rows=rows))


def test_a_policy_in_training_is_what_a_call_without_experts_runs(setting, engine, monkeypatch):
    z = {name: table[0] for name, table in setting.experts(1, seed=8).items()}
    monkeypatch.setattr(engine, "policy", lambda: z)
    for step in range(3):
        z = {name: values + 0.05 * step for name, values in z.items()}
        table = {name: values[None] for name, values in z.items()}
        wanted = setting.hf.generate(PROMPTS, Sampling(12), experts=table, rows=[0] * len(PROMPTS))
        assert tokens(engine.generate(PROMPTS, Sampling(12))) == tokens(wanted)


def test_a_prompt_without_room_for_the_reply_is_not_run(engine):
    counted = []
    prompts = ["apples", "apples" + "\x00" * engine.context, "pears"]
    found = engine.generate(prompts, Sampling(10), progress=counted.append)
    assert [generation.too_long for generation in found] == [False, True, False]
    assert found[1].tokens == () and found[0].tokens and found[2].tokens
    assert sum(counted) == 3
    assert engine.generate([], Sampling(4)) == []


def test_a_prompt_that_shows_an_image_is_refused(engine):
    prompts = ["apples", (Message("user", "What does it say?", (Image(Path("sign.png")),)),)]
    said = r"^image sign\.png: shown to a model that reads text alone; name a base with `vision` in its row"
    with pytest.raises(ValueError, match=said):
        engine.generate(prompts, Sampling(4))
    with pytest.raises(ValueError, match=said):
        engine.score(prompts, ["apples", "pears"])
    assert engine.generate(prompts[:1], Sampling(4))[0].tokens


def test_wrong_experts_are_named(setting, engine):
    experts = setting.experts(2)
    name = next(iter(experts))
    with pytest.raises(ValueError, match="go together"):
        engine.generate(PROMPTS[:1], Sampling(4), experts=experts)
    with pytest.raises(ValueError, match="holds no"):
        engine.generate(PROMPTS[:1], Sampling(4), experts={"model.layers.0.nowhere": torch.ones(1, 4)}, rows=[0])
    with pytest.raises(ValueError, match=r"must be \(E, "):
        engine.generate(PROMPTS[:1], Sampling(4), experts=experts | {name: torch.ones(2, 3)}, rows=[0])
    with pytest.raises(ValueError, match=r"got rows \[2\]"):
        engine.generate(PROMPTS[:1], Sampling(4), experts=experts, rows=[2])


@pytest.mark.parametrize("way", WAYS)
def test_experts_of_query_and_value_only(way, tiny_tokenizer, tmp_path):
    """Key shares a matrix of vLLM with them, and stays the base's."""
    setting = make_setting(
        write_biased_llama(tmp_path / "model", tiny_tokenizer), tmp_path / "basis", ("q_proj", "v_proj")
    )
    engine, experts = setting.vllm(way), setting.experts(2)
    rows = [n % 3 - 1 for n in range(len(PROMPTS))]
    for _ in range(2):
        found = engine.generate(PROMPTS, Sampling(20), experts=experts, rows=rows)
        assert tokens(found) == tokens(setting.hf.generate(PROMPTS, Sampling(20), experts=experts, rows=rows))


def test_more_experts_than_slots_and_prompts_in_chunks(setting):
    """A whole CEM population, evicted and read again, beside the base."""
    engine = setting.vllm("per_request", slots=3, max_num_seqs=16, max_num_batched_tokens=128)
    pair = setting.experts(2)
    experts = [{name: table[row] for name, table in pair.items()} for row in (0, 1)]
    population = mix_population(experts, torch.randn(32, 2, generator=torch.Generator().manual_seed(0))).tables
    prompts = [*PROMPTS[:10], LONG[0]] * 3
    rows = [n - 1 for n in range(len(prompts))]
    found = engine.generate(prompts, Sampling(12), experts=population, rows=rows)
    assert tokens(found) == tokens(setting.hf.generate(prompts, Sampling(12), experts=population, rows=rows))


def test_a_push_that_does_not_arrive_is_noticed_and_mended(setting, monkeypatch):
    engine, experts = setting.vllm("folded"), setting.experts(2)
    worker = engine._llm.llm_engine.model_executor.driver_worker.worker
    reload, hit = worker.reload_weights, "model.layers.1.mlp.up_proj"

    def altered(weights_iterator):
        reload(weights_iterator=((key, 1.01 * tensor if hit in key else tensor) for key, tensor in weights_iterator))

    def lost(weights_iterator):
        reload(weights_iterator=((key, tensor) for key, tensor in weights_iterator if hit not in key))

    for row, disturbed in enumerate((altered, lost)):
        rows = [row] * len(PROMPTS)
        with monkeypatch.context() as patch:
            patch.setattr(worker, "reload_weights", disturbed)
            for _ in range(2):
                with pytest.raises(RuntimeError, match="did not arrive in the engine"):
                    engine.generate(PROMPTS, Sampling(20), experts=experts, rows=rows)
        found = engine.generate(PROMPTS, Sampling(20), experts=experts, rows=rows)
        assert tokens(found) == tokens(setting.hf.generate(PROMPTS, Sampling(20), experts=experts, rows=rows))


def test_a_push_that_breaks_off_is_mended_by_the_next(setting, tmp_path):
    basis = shutil.copytree(setting.basis, tmp_path / "basis")
    engine, experts = replace(setting, basis=basis).vllm("folded"), setting.experts(1)
    plain = engine.generate(PROMPTS, Sampling(20))
    rows = [0] * len(PROMPTS)
    with damaged(basis), pytest.raises(RuntimeError, match=r"could not be pushed .* is damaged"):
        engine.generate(PROMPTS, Sampling(20), experts=experts, rows=rows)
    found = engine.generate(PROMPTS, Sampling(20), experts=experts, rows=rows)
    assert tokens(found) == tokens(setting.hf.generate(PROMPTS, Sampling(20), experts=experts, rows=rows))
    assert engine.generate(PROMPTS, Sampling(20)) == plain


def test_an_engine_that_shares_its_device_is_awake_in_calls_only(setting, engine, cached, monkeypatch):
    """On the CPU build vLLM's sleep only pauses the scheduler and empties the prefix cache."""
    experts, rows, calls = setting.experts(2), [0, 1], []
    for name in ("wake_up", "sleep", "collective_rpc", "generate"):
        function = getattr(engine._llm, name)
        monkeypatch.setattr(
            engine._llm,
            name,
            lambda *args, name=name, function=function, **kwargs: calls.append(name) or function(*args, **kwargs),
        )
    monkeypatch.setattr(engine, "_sleeps", True)
    asleep = engine._llm.llm_engine.is_sleeping
    try:
        engine._llm.sleep()
        for _ in range(2):
            calls.clear()
            found = engine.generate(LONG, Sampling(12), experts=experts, rows=rows)
            assert tokens(found) == tokens(setting.hf.generate(LONG, Sampling(12), experts=experts, rows=rows))
            assert calls[0] == "wake_up" and calls[-1] == "sleep" and len(calls) > 2 and asleep()
        assert sum(cached) == 0
        engine.score(LONG, ["1", "2"], experts=experts, rows=rows)
        assert asleep()
    finally:
        engine._llm.wake_up()
    assert not asleep()


def test_sleep_where_vllm_has_none_is_an_error(setting):
    with pytest.raises(ValueError, match=r"engine.vllm.sleep is true, and vLLM cannot sleep on this platform \(cpu\)"):
        setting.vllm("folded", sleep=True)


@pytest.mark.parametrize("way", WAYS)
def test_a_basis_of_other_weights_is_refused(way, setting, tmp_path):
    other = {name: 2 * layer.base_layer.weight for name, layer in setting.hf.model.svf_layers().items()}
    build_cache(other, tmp_path / "other")
    strange = replace(setting, basis=tmp_path / "other")
    with pytest.raises((ValueError, RuntimeError), match=r"other weights"):
        strange.vllm(way).generate(PROMPTS[:1], Sampling(4), experts=setting.experts(1), rows=[0])


def test_a_true_lora_cannot_take_a_slot(setting, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from vllm.lora.request import LoRARequest

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(setting.folder),
        LoraConfig(r=1, target_modules=list(TARGETS), init_lora_weights=False),
    )
    model.save_pretrained(str(tmp_path / "lora"))
    engine = setting.vllm("per_request")
    with pytest.raises(ValueError, match="slots of this engine hold SVF experts only"):
        engine._llm.llm_engine.add_lora(LoRARequest("lora", 7, str(tmp_path / "lora")))


def test_a_matrix_without_a_slot_is_an_error(setting, monkeypatch):
    options = vllm_engine.PerRequest.options
    fewer = ["q_proj", "o_proj", "down_proj"]
    monkeypatch.setattr(vllm_engine.PerRequest, "options", lambda way: options(way) | {"lora_target_modules": fewer})
    with pytest.raises(ValueError, match="gave no adapter slots"):
        setting.vllm("per_request")


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_finite_is_an_error_that_leaves_nothing_behind(setting, way):
    """In so small a cache blocks are used again at once."""
    engine, experts = setting.vllm(way, kv_cache_gb=3 * 2**20 / 2**30, max_model_len=512), setting.experts(2)
    prompts, rows = [*PROMPTS, *LONG], [n % 3 - 1 for n in range(len(PROMPTS) + len(LONG))]
    before = engine.generate(prompts, Sampling(12), experts=experts, rows=rows)
    huge = {name: torch.cat([table, 1e20 * table[:1]]) for name, table in experts.items()}
    for sampling in (Sampling(12), Sampling(12, temperature=1.0, seed=3)):
        for victims in ([2] * len(prompts), [2, *rows[1:]]):
            with pytest.raises(FloatingPointError, match=r"logits of prompts \[0.* not finite under .* rows \[2\]"):
                engine.generate(prompts, sampling, experts=huge, rows=victims)
        assert engine.generate(prompts, Sampling(12), experts=experts, rows=rows) == before
    with pytest.raises(FloatingPointError, match="not finite"):
        engine.score(prompts, ["1", "2"], experts=huge, rows=[2] * len(prompts))
    name = next(iter(experts))
    for value in (math.nan, math.inf):
        wrong = experts | {name: experts[name].index_fill(1, torch.tensor([1]), value)}
        with pytest.raises(ValueError, match=f"z of {name} is not finite"):
            engine.generate(prompts[:1], Sampling(4), experts=wrong, rows=[0])
    assert engine.generate(prompts, Sampling(12), experts=experts, rows=rows) == before


def test_a_z_near_1_arrives_in_16_bits_or_is_refused(setting, tmp_path):
    """1.002 times a weight of bfloat16, rounded, is that weight. On CPUs vLLM packs weights, which no one can read."""
    build_cache(checkpoint_weights(setting.folder, TARGETS, torch.bfloat16), tmp_path / "basis")
    start = partial(vllm_engine.VllmEngine, setting.folder, basis=tmp_path / "basis", dtype="bfloat16")
    rounded, tokenizer = load_base(setting.folder, "bfloat16")
    exact = HfEngine(attach(rounded.float(), SvfConfig(target_modules=list(TARGETS))), tokenizer, batch_size=16)
    experts = {name: torch.full((1, len(sigma)), 1.002) for name, sigma in exact.model.sigmas().items()}
    with pytest.raises(RuntimeError, match=r"would hold 0\.[0-4]. of the change .* take the base in float32"):
        start(vllm_settings(experts="folded")).generate(PROMPTS, Sampling(4), experts=experts, rows=[0] * 12)
    if not torch.cuda.is_available():
        with pytest.raises(NotImplementedError, match=r"computes in torch\.bfloat16.* run the engine in float32"):
            start(vllm_settings())
        return
    engine = start(vllm_settings())
    replies = [prompt * 3 for prompt in PROMPTS]
    changes = []
    for each in (exact, engine):
        base, scaled = (
            torch.tensor([x for row in each.read(PROMPTS, replies, experts=experts, rows=[row] * 12) for x in row])
            for row in (-1, 0)
        )
        changes.append(scaled - base)
    assert float(changes[0] @ changes[1] / changes[0].square().sum()) == pytest.approx(1, abs=0.2)
