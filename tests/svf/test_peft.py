"""What PEFT's LoRA takes: SVF takes it too, or refuses with the reason. ``docs/peft.md`` has the table."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, convert_to_lora, get_model_status, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from svf.models import TARGETS, make_model
from t2.exchange.export import low_rank_change
from t2.svf import SvfConfig, load_expert, mix, stack

Randomise = Callable[..., None]


def close(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).abs().max() <= 1e-4 * second.abs().max())


def two_adapters(config: SvfConfig, randomise: Randomise) -> PeftModel:
    model = get_peft_model(make_model(), config, adapter_name="a").eval()
    model.add_adapter("b", SvfConfig(target_modules=list(TARGETS), parametrisation="sigmoid", renormalise=True))
    randomise(model, 1, "a")
    randomise(model, 2, "b")
    return model


# modules_to_save


@pytest.fixture
def with_head(model: LlamaForCausalLM, randomise: Randomise) -> PeftModel:
    config = SvfConfig(target_modules=["q_proj", "up_proj"], modules_to_save=["lm_head"])
    adapted = get_peft_model(model, config).eval()
    randomise(adapted)
    with torch.no_grad():
        adapted.base_model.model.lm_head.weight.mul_(1.5)
    return adapted


def test_modules_to_save_are_trained_saved_loaded_and_merged(
    with_head: PeftModel, tokens: Tensor, tmp_path: Path
) -> None:
    base = make_model()
    trained = {name for name, parameter in with_head.named_parameters() if parameter.requires_grad}
    assert "base_model.model.lm_head.modules_to_save.default.weight" in trained and len(trained) == 7
    expected = with_head(tokens).logits
    with with_head.disable_adapter():
        assert torch.equal(with_head(tokens).logits, base(tokens).logits)
    with_head.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_model(), tmp_path)
    assert torch.equal(loaded(tokens).logits, expected)
    merged = with_head.merge_and_unload()
    assert type(merged.lm_head) is nn.Linear and close(merged(tokens).logits, expected)
    assert torch.equal(with_head(tokens).logits, expected)
    with pytest.raises(ValueError, match=r"holds modules beside its z \(lm_head\).*PeftModel\.from_pretrained"):
        load_expert(tmp_path)


def test_samples_of_their_own_z_under_modules_to_save_are_refused(with_head: PeftModel, tokens: Tensor) -> None:
    for name, z in [("default", with_head.z())]:
        with pytest.raises(ValueError, match=r"lm_head is trained whole .* one for all samples"):
            with_head(tokens, adapter_names=[name] * 4)
        with pytest.raises(ValueError, match="lm_head is trained whole"), with_head.per_sample(stack([z]), [0] * 4):
            pass


# Several adapters


@pytest.mark.parametrize("form", ["normalised", "free"])
def test_a_weighted_adapter_is_our_mixture(form: Any, config: SvfConfig, tokens: Tensor, randomise: Randomise) -> None:
    model = two_adapters(config, randomise)
    before = model(tokens).logits
    model.add_weighted_adapter(["a", "b"], [0.3, 0.5], "both", combination_type=form)
    assert torch.equal(model(tokens).logits, before)
    expected = mix([model.z("a"), model.z("b")], torch.tensor([0.3, 0.5]), form, model.sigmas())
    found = model.z("both")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert not any(p.requires_grad for name, p in model.named_parameters() if name.endswith(".both"))
    model.set_adapter("both")
    mixed = model(tokens).logits
    with model.per_sample(stack([expected]), [0] * len(tokens)):
        assert close(model(tokens).logits, mixed)


def test_mixtures_that_mean_nothing_here_are_refused(config: SvfConfig, randomise: Randomise) -> None:
    model = two_adapters(config, randomise)
    model.add_adapter("part", SvfConfig(target_modules=["q_proj"]))
    for names, arguments, message in [
        (["a", "c"], {}, "takes names of"),
        ([], {}, "takes names of"),
        (["a", "part"], {}, "do not adapt the same matrices"),
        (["a", "b"], {"combination_type": "svd"}, "form is 'svd'; it must be 'normalised' or 'free'"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.add_weighted_adapter(names, [0.5] * len(names), "new", **arguments)
        assert "new" not in model.peft_config
    with pytest.raises(ValueError, match="takes names of"):
        model.add_weighted_adapter(["a"], [1.0], "b")


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_return_sequences": 3, "do_sample": True},
        {"num_return_sequences": 2, "num_beams": 3, "do_sample": False},
    ],
    ids=["samples", "beams"],
)
@pytest.mark.parametrize("as_object", [False, True])
def test_adapter_names_with_several_sequences_a_prompt(
    arguments: dict[str, Any], as_object: bool, config: SvfConfig, tokens: Tensor, randomise: Randomise
) -> None:
    model = two_adapters(config, randomise)
    names = ["b", "__base__", "a", "b"]
    given = arguments | {"max_new_tokens": 4, "pad_token_id": 0}
    if as_object:
        settings = model.generation_config
        settings.update(**given)
        model.generation_config = type(settings)()
        given = {"generation_config": settings}
    torch.manual_seed(0)
    together = model.generate(input_ids=tokens, adapter_names=names, **given)
    repeat = arguments["num_return_sequences"]
    assert len(together) == repeat * len(names)
    if arguments["do_sample"]:
        with torch.no_grad():  # each sequence's tokens have the likelihood that its own adapter gives them
            rows = [name for name in names for _ in range(repeat)]
            logits = model(together, adapter_names=rows).logits
            for row, name in enumerate(rows):
                expected = model(together[row : row + 1], adapter_names=[name]).logits
                assert close(logits[row], expected[0])
        return
    for i, name in enumerate(names):
        alone = model.generate(input_ids=tokens[i : i + 1], adapter_names=[name], **given)
        assert torch.equal(together[repeat * i : repeat * (i + 1)], alone)


# Conversion to LoRA


@pytest.mark.parametrize("rank", [32, 5])
def test_peft_converts_to_the_lora_that_we_export(
    rank: int, model: LlamaForCausalLM, tokens: Tensor, randomise: Randomise
) -> None:
    targets = ["q_proj", "o_proj", "up_proj", "down_proj"]  # tall, square and wide, of rank 32
    adapted = get_peft_model(model, SvfConfig(target_modules=targets)).eval()
    randomise(adapted)
    assert adapted.supports_lora_conversion()
    config, state = convert_to_lora(adapted, rank=rank)
    for name, layer in adapted.svf_layers().items():
        basis, z, weight = layer.basis(), layer.z("default").detach(), layer.base_layer.weight.detach()
        ours = low_rank_change(weight, basis, z, rank)
        key = f"base_model.model.{name}"
        theirs = state[f"{key}.lora_B.weight"] @ state[f"{key}.lora_A.weight"]
        assert torch.allclose(theirs, ours.b @ ours.a, atol=1e-4)
    if rank == 32:
        lora = get_peft_model(make_model(), config).eval()
        assert not set_peft_model_state_dict(lora, state).unexpected_keys
        assert close(lora(tokens).logits, adapted(tokens).logits)


def test_a_quantised_layer_says_that_it_cannot_be_converted(model: LlamaForCausalLM, config: SvfConfig) -> None:
    adapted = get_peft_model(model, config)
    layer = next(iter(adapted.svf_layers().values()))
    layer.base_layer.weight = nn.Parameter(layer.base_layer.weight.to(torch.int8), requires_grad=False)
    assert not adapted.supports_lora_conversion()
    with pytest.raises(TypeError, match="do not support LoRA conversion"):
        convert_to_lora(adapted, rank=4)


# Other architectures


def test_linear_layers_in_words_of_their_own_fold_and_merge(tokens: Tensor, randomise: Randomise) -> None:
    def make() -> FalconForCausalLM:
        torch.manual_seed(0)
        settings = FalconConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, bias=True)
        return FalconForCausalLM(settings).eval()

    model = get_peft_model(make(), SvfConfig(target_modules=["query_key_value", "dense_4h_to_h"]))
    assert torch.equal(model(tokens).logits, make()(tokens).logits)
    randomise(model)
    model(tokens, labels=tokens).loss.backward()
    assert all(layer.svf_z["default"].grad.norm() > 0 for layer in model.svf_layers().values())
    with torch.no_grad():
        folded = model(tokens).logits
    assert all(layer._folded.fold is not None for layer in model.svf_layers().values())
    model.set_folding(False)
    assert close(folded, model(tokens).logits)
    assert close(model.merge_and_unload()(tokens).logits, folded)


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Scaled(nn.Linear):
    def __init__(self, n: int, m: int) -> None:
        super().__init__(n, m)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x)


@pytest.mark.parametrize("kind", [Doubled, Scaled])
def test_linear_layers_that_do_more_run_factored(kind: type[nn.Linear], randomise: Randomise) -> None:
    model = get_peft_model(nn.Sequential(kind(5, 7), nn.Tanh(), kind(7, 5)), SvfConfig(target_modules=["0", "2"]))
    randomise(model)
    model(torch.randn(3, 5))
    assert all(layer._folded.fold is None for layer in model.svf_layers().values())
    with pytest.raises(TypeError, match="cannot be merged"):
        model.merge_and_unload()


def test_samples_keep_their_z_where_a_model_flattens_its_tokens(tokens: Tensor) -> None:
    torch.manual_seed(0)
    settings = OPTConfig(
        vocab_size=61,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        init_std=0.3,
        dropout=0.0,
    )
    model = get_peft_model(OPTForCausalLM(settings), SvfConfig(target_modules=["q_proj", "fc1", "fc2"])).eval()
    generator = torch.Generator().manual_seed(5)
    layers = model.svf_layers().items()
    tables = {name: 1 + 0.3 * torch.randn(3, layer.rank, generator=generator) for name, layer in layers}
    rows = [2, -1, 0, 1]
    with torch.no_grad():
        with model.per_sample(tables, rows):
            together = model(tokens).logits
            embedded = model(inputs_embeds=model.get_input_embeddings()(tokens)).logits
            written = model.generate(input_ids=tokens, max_new_tokens=4, do_sample=False)
            with pytest.raises(ValueError, match="got a batch of"):
                model(tokens[:2])
        assert close(embedded, together)
        for i, row in enumerate(rows):
            with model.per_sample(tables, [row]):
                assert close(together[i], model(tokens[i : i + 1]).logits[0])
                alone = model.generate(input_ids=tokens[i : i + 1], max_new_tokens=4, do_sample=False)
            assert torch.equal(written[i], alone[0])


def test_a_transposed_layer_is_refused_and_the_way_out_works(tokens: Tensor) -> None:
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=8, n_layer=1, n_head=2, n_positions=16)).eval()
    with pytest.raises(TypeError, match=r"c_fc is a Conv1D, which holds its weight transposed.*weight\.T"):
        get_peft_model(gpt2, SvfConfig(target_modules=["c_fc"]))
    expected = gpt2(tokens).logits
    mlp = gpt2.transformer.h[0].mlp
    plain = nn.Linear(*mlp.c_fc.weight.shape)
    plain.load_state_dict({"weight": mlp.c_fc.weight.T, "bias": mlp.c_fc.bias})
    mlp.c_fc = plain
    assert close(get_peft_model(gpt2, SvfConfig(target_modules=["c_fc"]))(tokens).logits, expected)


# The rest of PEFT


def test_nothing_is_merged_in_place(model: LlamaForCausalLM, config: SvfConfig) -> None:
    adapted = get_peft_model(model, config)
    for call in (adapted.merge_adapter, adapted.unmerge_adapter):
        with pytest.raises(NotImplementedError, match="merge_and_unload"):
            call()


@pytest.mark.parametrize(
    "setting", ["target_parameters", "bias", "rank_pattern", "trainable_token_indices", "use_dora"]
)
def test_settings_of_lora_alone_are_refused(setting: str) -> None:
    with pytest.raises(TypeError, match=setting):
        SvfConfig(target_modules=["x"], **{setting: ["y"]})


@pytest.mark.parametrize("parametrisation", ["direct", "sigmoid"])
def test_transformers_own_way_to_adapters(
    parametrisation: Any, model: LlamaForCausalLM, tokens: Tensor, tmp_path: Path
) -> None:
    config = SvfConfig(target_modules=list(TARGETS), parametrisation=parametrisation, init_std=0.3)
    model.add_adapter(config)
    expected = model(tokens).logits
    assert not close(expected, make_model()(tokens).logits)
    model.save_pretrained(tmp_path)
    again = make_model()
    again.load_adapter(str(tmp_path))
    assert torch.equal(again(tokens).logits, expected)
    loaded = PeftModel.from_pretrained(make_model(), tmp_path)
    assert torch.equal(loaded(tokens).logits, expected)
    assert load_expert(tmp_path).z.keys() == loaded.z().keys()


def test_peft_tells_the_status(config: SvfConfig, randomise: Randomise) -> None:
    status = get_model_status(two_adapters(config, randomise))
    assert (status.peft_types, status.active_adapters, status.merged_adapters) == ({"a": "SVF", "b": "SVF"}, ["a"], [])
    assert status.num_adapter_layers == 21 and status.enabled is True


def test_without_the_import_peft_does_not_know_the_method(config: SvfConfig, tmp_path: Path) -> None:
    get_peft_model(make_model(), config).save_pretrained(tmp_path)
    program = "import sys; from peft import PeftConfig; PeftConfig.from_pretrained(sys.argv[1])"
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.splitlines()[-1] == "KeyError: 'SVF'"
    program = "import t2.svf, " + program.removeprefix("import ")
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=Path(__file__).parents[2])
