"""The plan's numbers against the paper's, against published ones, and against real runs of small models."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from live_bytes import Live
from peft import PeftModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from t2 import cli, profiles
from t2.config.rows import Params, Recipe
from t2.engine.attention import GROUPED_SDPA
from t2.engine.hf import load_base
from t2.plan import GPUS, PlanError, make_plan, memory
from t2.plan.operations import per_sample
from t2.plan.render import render
from t2.plan.shapes import Attached, read_adapter, read_shapes
from t2.svf import build_cache, checkpoint_weights
from t2.training import reinforce
from t2.training.adapters import build_adapter
from t2.training.logits import accumulate_gradient, base_logits
from t2.training.loop import recompute_layers
from t2.training.sequences import Batch, Pair, pad

ATTENTION, MLP = ["q_proj", "v_proj"], ["gate_proj", "up_proj", "down_proj"]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", *MLP]
MODELS = ["smollm2-135m", "qwen2.5-0.5b", "llama3-8b", "mistral-7b", "llama3-70b", "llava-next-8b"]


def choosing(params: Params, targets: list[str], layers: Any = "all", **peft: Any) -> Params:
    """Parameters with other adapted modules, for all recipes and for what the base decomposes."""

    def chosen(recipe: Recipe) -> Recipe:
        own = peft if recipe.method == "svf" else {}
        of_lora = recipe.layers if recipe.method == "lora" else layers
        settings = {**recipe.peft, "target_modules": targets, **own}
        return recipe.model_copy(update={"peft": settings, "layers": of_lora})

    base = params.bases["main"].model_copy(update={"adapt": targets, "layers": layers})
    recipes = {name: chosen(recipe) for name, recipe in params.recipes.items()}
    return params.model_copy(update={"bases": {**params.bases, "main": base}, "recipes": recipes})


def attached(params: Params, recipe: str) -> Attached:
    """A recipe on the main base."""
    base = params.bases["main"]
    return read_adapter(base, params.recipes[recipe], read_shapes(base))


def with_row(params: Params, section: str, name: str, **values: Any) -> Params:
    """Parameters with one row changed."""
    rows = getattr(params, section)
    return params.model_copy(update={section: {**rows, name: rows[name].model_copy(update=values)}})


# Shapes


@pytest.mark.parametrize(
    ("profile", "targets", "svf", "lora", "printed"),
    [
        # Printed: the paper's table 4, in millions. It prints no counts for the other two models.
        ("llama3-8b", MLP, 393_216, 28_311_552, (0.39, None)),
        ("llama3-8b", ATTENTION, 163_840, 6_815_744, (0.16, 6.82)),
        ("llama3-8b", ATTENTION + MLP, 557_056, 35_127_296, (0.58, 35.13)),
        ("mistral-7b", MLP, 393_216, 28_311_552, (None, None)),
        ("mistral-7b", ATTENTION, 163_840, 6_815_744, (None, None)),
        ("mistral-7b", ATTENTION + MLP, 557_056, 35_127_296, (None, None)),
        ("llama3-70b", MLP, 983_040, 141_557_760, (None, None)),  # SVF on half of the layers, LoRA on all
        ("llama3-70b", ATTENTION, 368_640, 32_768_000, (None, None)),
        ("llama3-70b", ATTENTION + MLP, 1_351_680, 174_325_760, (None, None)),
    ],
)
def test_trainable_parameters_beside_the_paper_s(
    profile: str, targets: list[str], svf: int, lora: int, printed: tuple[float | None, float | None]
) -> None:
    loaded = profiles.load(profile)
    params = choosing(loaded, targets, layers=loaded.bases["main"].layers)
    assert (attached(params, "svf").parameters, attached(params, "lora_next_token").parameters) == (svf, lora)
    for ours, paper in zip((svf, lora), printed, strict=True):
        # 557,056 is printed as 0.58M: rounded up from the sum of the parts, it seems.
        assert paper is None or ours / 1e6 == pytest.approx(paper, abs=0.03)


def test_the_basis_of_llama_3_8b_has_2_75_g_numbers_where_the_svd_has_9_7_g() -> None:
    shapes = read_shapes(choosing(profiles.load("llama3-8b"), ALL).bases["main"])
    assert shapes.cache_bytes / 4e9 == pytest.approx(2.75, abs=0.005)
    assert shapes.svd_numbers / 1e9 == pytest.approx(9.7, abs=0.05)


def test_shipped_architectures_have_the_published_numbers_of_parameters() -> None:
    published = [134_515_008, 494_032_768, 8_030_261_248, 7_248_023_552, 70_553_706_496, 8_355_276_800]
    found = []
    for name in MODELS:
        shapes = read_shapes(profiles.load(name).bases["main"])
        assert shapes.source.startswith("profiles/architectures/")
        found.append(shapes.parameters)
    assert found == published


def test_the_miniature_s_basis_and_adapters_are_predicted_to_the_byte(tmp_path: Path) -> None:
    params = profiles.load("miniature")
    base = params.bases["main"]
    shapes = read_shapes(base)
    cache = build_cache(checkpoint_weights(base.path, base.adapt, torch.float32), tmp_path)
    tensors = [tensor for name in cache for tensor in cache.load(name)[:2]]
    assert shapes.cache_bytes == sum(tensor.nbytes for tensor in tensors)
    for name, recipe in params.recipes.items():
        model = AutoModelForCausalLM.from_pretrained(base.path)
        assert shapes.parameters == model.num_parameters()
        adapted = build_adapter(model, recipe, seed=0, task="test")
        assert attached(params, name).parameters == adapted.get_nb_trainable_parameters()[0]


def test_half_of_the_layers_are_the_upper_ones() -> None:
    params = choosing(profiles.load("miniature"), ALL, layers="half")
    shapes = read_shapes(params.bases["main"])
    assert {matrix.layer for matrix in shapes.adapted} == {2, 3}
    assert shapes.first_adapted == attached(params, "svf").first == 2
    assert attached(params, "lora_next_token").first == 0
    assert 2 * shapes.cache_bytes == read_shapes(choosing(params, ALL).bases["main"]).cache_bytes


def test_a_recipe_may_adapt_less_than_its_base_decomposes() -> None:
    params = profiles.load("miniature")
    recipe = params.recipes["svf"]
    fewer = with_row(params, "recipes", "svf", layers=[3], peft={**recipe.peft, "target_modules": ["q_proj"]})
    adapter = attached(fewer, "svf")
    assert [matrix.layer for matrix in adapter.targets] == [3] and adapter.shapes.adapted == adapter.targets
    assert adapter.parameters == adapter.targets[0].rank
    assert len(read_shapes(fewer.bases["main"]).adapted) == 28


def test_methods_on_vectors_have_no_rank() -> None:
    params = profiles.load("miniature")
    peft = {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    adapter = attached(with_row(params, "recipes", "svf", peft=peft), "svf")
    keys, downs = (
        [matrix for matrix in adapter.targets if matrix.name.endswith(name)] for name in ("k_proj", "down_proj")
    )
    assert adapter.parameters == sum(m.rows for m in keys) + sum(m.columns for m in downs)
    assert not adapter.is_svf and adapter.rank == 0


# Memory, against what a real step takes


class Case:
    """A small Llama on disk's terms: the shapes as the plan reads them, and the model as a stage adapts it."""

    def __init__(
        self,
        folder: Path,
        *,
        method: Any = "svf",
        dtype: str = "float32",
        layers: Any = "all",
        attention: str = "eager",
        recompute: bool = False,
        chunk: int | None = None,
        **sizes: int,
    ) -> None:
        settings = LlamaConfig(
            **{
                "vocab_size": 61,
                "hidden_size": 64,
                "intermediate_size": 160,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                **sizes,
            }
        )
        settings.save_pretrained(folder)
        params = choosing(profiles.load("miniature"), ATTENTION + MLP, layers=layers, init_std=0.05)
        base = params.bases["main"].model_copy(update={"path": str(folder), "dtype": dtype})
        recipe = params.recipes["svf" if method == "svf" else "lora_next_token"]
        self.adapter = read_adapter(base, recipe, read_shapes(base))
        self.shapes = self.adapter.shapes
        torch.manual_seed(0)
        model = LlamaForCausalLM(settings).to(getattr(torch, dtype))
        model.set_attn_implementation(attention)
        self.model: PeftModel = build_adapter(model, recipe, seed=0, task="test")
        if recompute:
            recompute_layers(self.model)
        self.model.train()
        self.chunk = chunk

    def gradient(self, batch: Batch, samples: int, divergence: bool) -> None:
        base = base_logits(self.model, batch, self.chunk) if divergence else None

        def loss(logits: torch.Tensor, tokens: slice) -> torch.Tensor:
            return reinforce.terms(
                logits,
                batch.tokens[tokens],
                batch.sample[tokens],
                torch.ones(samples),
                temperature=1.0,
                base_logits=base(tokens) if base else None,
            ).loss(0.1, samples)

        accumulate_gradient(self.model, batch, loss, self.chunk)

    def warm(self) -> None:
        with torch.no_grad():
            self.model(input_ids=torch.ones(1, 1, dtype=torch.long))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("divergence", [True, False])
@pytest.mark.parametrize("sizes", [{}, {"vocab_size": 3000}, {"intermediate_size": 320}, {"hidden_size": 128}])
def test_peak_memory_of_a_gradient_is_what_its_tensors_take(
    tmp_path: Path, dtype: str, divergence: bool, sizes: dict[str, int]
) -> None:
    case, samples = Case(tmp_path, dtype=dtype, attention=GROUPED_SDPA, **sizes), 16
    batch = pad([Pair([1] * 10, [2] * 10)] * samples)
    case.warm()
    with Live() as live:
        case.gradient(batch, samples, divergence)
    kept = memory.kept_by_layers(case.shapes, 0) + memory.kept_by_svf(case.shapes)
    planned = memory.learning(case.shapes, kept, samples=samples, prompt=10, reply=10, divergence=divergence)
    assert live.peak == pytest.approx(planned, rel=0.03)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("divergence", [True, False])
@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("chunk", [None, 40])
@pytest.mark.parametrize("sizes", [{}, {"vocab_size": 3000}, {"num_hidden_layers": 12}])
def test_peak_memory_with_chunks_of_logits_and_recomputed_layers(
    tmp_path: Path, dtype: str, divergence: bool, recompute: bool, chunk: int | None, sizes: dict[str, int]
) -> None:
    case = Case(tmp_path, dtype=dtype, attention=GROUPED_SDPA, recompute=recompute, chunk=chunk, **sizes)
    samples = 16
    batch = pad([Pair([1] * 10, [2] * 10)] * samples)
    case.warm()
    with Live() as live:
        case.gradient(batch, samples, divergence)
    kept = memory.kept_by_layers(case.shapes, 0) + memory.kept_by_svf(case.shapes)
    recomputed = kept / case.shapes.layers if recompute else 0.0
    planned = memory.learning(
        case.shapes,
        memory.kept_inputs(case.shapes, 0) if recompute else kept,
        samples=samples,
        prompt=10,
        reply=10,
        divergence=divergence,
        recomputed=recomputed,
        chunk=chunk,
    )
    # The backward pass stops within the recomputed layer, some of which is gone by then: no exact account.
    bound = 0.08 if dtype == "float32" else 0.12
    assert live.peak == pytest.approx(planned, rel=bound if recompute else 0.03)


def test_operations_are_those_that_torch_counts_of_a_real_pass(tmp_path: Path) -> None:
    case = Case(tmp_path)
    plain: Any = case.model.unload()
    plain.requires_grad_(False)
    base = profiles.load("miniature").bases["main"].model_copy(update={"path": str(tmp_path)})
    states = torch.ones(1, 18, 64, requires_grad=True)
    with FlopCounterMode(display=False) as counted:
        logits = plain(inputs_embeds=states, use_cache=False).logits
        forward = counted.get_total_flops()
        logits.sum().backward()
    assert per_sample(base, 18) == (forward, counted.get_total_flops())


@pytest.mark.parametrize("profile", ["llama3-8b", "llava-next-8b"])
def test_a_pass_takes_two_operations_per_weight_and_token(profile: str) -> None:
    base = profiles.load(profile).bases["main"]
    shapes, tokens = read_shapes(base), 100
    weights = sum(matrix.size for matrix in shapes.linears) + shapes.hidden * shapes.vocabulary
    forward, both = per_sample(base, tokens)
    assert forward == pytest.approx(2 * weights * tokens, rel=0.01) and both == pytest.approx(2 * forward, rel=0.01)


# Plans


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_has_a_plan(name: str) -> None:
    plan = make_plan(profiles.load(name))
    text = render(plan)
    assert all(stage.name in text for stage in plan.stages)
    assert all(stage.total > 0 for stage in plan.stages)
    assert all(f"{adapter.parameters:,} trainable parameters" in text for adapter in plan.main.adapters.values())
    assert plan.gpu.source in text and f"prompts of {plan.params.plan.prompt_tokens} tokens" in text
    assert ("It fits one GPU." in text) == (name != "llama3-70b")


def test_memory_follows_the_parameters() -> None:
    params = profiles.load("qwen2.5-0.5b")
    training = params.training
    plain = training.model_copy(update={"gradient_checkpointing": False, "logit_chunk": None, "micro_tokens": None})
    plan = make_plan(params.model_copy(update={"training": plain}))
    for saving in ({"micro_batch": 1}, {"micro_tokens": 800}, {"gradient_checkpointing": True, "logit_chunk": 64}):
        smaller = make_plan(params.model_copy(update={"training": plain.model_copy(update=saving)}))
        assert smaller.peak < plan.peak
    workers = params.execution.model_copy(update={"workers": 3})
    found = {stage.name: stage for stage in make_plan(params.model_copy(update={"execution": workers})).stages}
    assert found["search@math500"].processes == 3 and found["basis@main"].processes == 1
    unknown = params.model_copy(update={"plan": params.plan.model_copy(update={"gpu": "abacus"})})
    with pytest.raises(PlanError, match=r"'abacus'; known are h200, h100"):
        make_plan(unknown)


def test_the_command_plans_the_parameters_as_they_stand_or_a_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["t2", "plan", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    profiles.write("qwen2.5-0.5b", tmp_path / "params.yaml")
    assert run("qwen2.5-0.5b") == run()
    shown = run("llama3-8b", "--gpu", "h200")
    assert "557,056 trainable parameters in 160 matrices" in shown
    assert "h200, 141 GB" in shown and "\ntrain@svf-math" in shown
    monkeypatch.setattr("sys.argv", ["t2", "plan", "nobody"])
    with pytest.raises(SystemExit, match="no profile 'nobody'"):
        cli.main()


def test_a_model_whose_configuration_is_nowhere_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    mine = with_row(profiles.load("miniature"), "bases", "main", path="nobody/nothing", revision="0" * 40)
    with pytest.raises(PlanError, match=r"nobody/nothing is not here.*nobody--nothing.json.*HF_HUB_OFFLINE=0"):
        make_plan(mine)


def test_gpus_say_where_their_numbers_are_from() -> None:
    for gpu in GPUS.values():
        assert gpu.source and gpu.operations > 1e14
        assert gpu.memory > 1e9


# A quantised base


def in_bits(name: str, kind: Any) -> Params:
    return with_row(profiles.load(name), "bases", "main", quantisation=kind)


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("nf4", 4.127)])
def test_a_quantised_base_takes_its_bits_a_weight_and_no_fold(kind: str, bits: float) -> None:
    plain, params = make_plan(profiles.load("llama3-8b")), in_bits("llama3-8b", kind)
    plan = make_plan(params)
    shapes = plan.main.shapes
    size = sum(m.size for m in shapes.linears)
    # QLoRA's figure: 0.127 bits for scales in two levels (arXiv 2305.14314, section 3).
    assert 8 * shapes.linear_bytes / size == pytest.approx(bits, abs=0.02)
    assert plain.main.shapes.weight_bytes - shapes.weight_bytes == pytest.approx(size * (16 - bits) / 8, rel=1e-2)
    assert all(stage.memory.get("W'", 0.0) == 0 for stage in plan.stages)
    assert plan.peak < plain.peak
    assert f"linear layers in {kind}" in render(plan)


@pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed; `pip install -e '.[quantised]'`"
)
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_the_bytes_of_a_quantised_miniature_are_predicted(kind: Any) -> None:
    base = in_bits("miniature", kind).bases["main"]
    shapes = read_shapes(base)
    model: Any = load_base(base.path, base.dtype, quantisation=kind)[0]
    targets = tuple(base.adapt)
    found = 0
    for name, value in model.state_dict().items():
        if not name.rpartition(".weight")[0].endswith(targets) and ".SCB" not in name:
            continue
        # What is named apart: the tables of the two levels, and how the state is packed.
        if not name.endswith(("weight_format", "quant_map", "bitsandbytes__nf4")):
            found += value.nbytes
    assert shapes.linear_bytes == pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("divergence", [True, False])
def test_peak_memory_of_a_factored_gradient_is_what_its_tensors_take(
    tmp_path: Path, dtype: str, divergence: bool
) -> None:
    case, samples = Case(tmp_path, dtype=dtype, attention=GROUPED_SDPA), 16
    case.model.set_folding(False)
    batch = pad([Pair([1] * 10, [2] * 10)] * samples)
    case.warm()
    with Live() as live:
        case.gradient(batch, samples, divergence)
    shapes = replace(case.shapes, quantisation="nf4")
    kept = memory.kept_by_layers(shapes, 0) + memory.kept_by_svf(shapes)
    planned = memory.learning(shapes, kept, samples=samples, prompt=10, reply=10, divergence=divergence)
    assert live.peak == pytest.approx(planned, rel=0.05)
