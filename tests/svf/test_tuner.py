"""SVF as a PEFT method, on a whole model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils import PeftType
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from svf.models import TARGETS, make_model
from t2.svf import SvfConfig, SvfLinear, attach, build_cache, load_expert, model_weights, save_expert, stack

Randomise = Callable[..., None]


def close(first: Tensor, second: Tensor) -> bool:
    """Float32 logits that differ by no more than 1e-4 of the largest."""
    return bool((first - second).abs().max() <= 1e-4 * second.abs().max())


def test_peft_knows_the_method() -> None:
    assert PeftType("SVF") is PeftType.SVF and PeftType.SVF in list(PeftType)  # type: ignore[attr-defined]
    assert PeftType.SVF == "SVF" and "SVF" in PeftType.__members__  # type: ignore[attr-defined]
    assert SvfConfig(target_modules=["x"]).peft_type is PeftType.SVF  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("folding", [True, False])
def test_z_of_one_reproduces_the_base_logits_bit_for_bit(
    dtype: torch.dtype, folding: bool, tokens: Tensor, config: SvfConfig
) -> None:
    expected = make_model(dtype=dtype)(tokens).logits
    model = get_peft_model(make_model(dtype=dtype), config)
    model.set_folding(folding)
    assert torch.equal(model(tokens).logits, expected)
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, expected)
    with model.per_sample(stack([model.z()]), [0] * len(tokens)):
        assert torch.equal(model(tokens).logits, expected)
        with torch.no_grad():
            assert torch.equal(model(tokens).logits, expected)
    assert all(layer.svf_z["default"].dtype == torch.float32 for layer in model.svf_layers().values())


def test_only_z_is_trained_and_base_weights_are_never_written_to(
    model: LlamaForCausalLM, config: SvfConfig, tokens: Tensor
) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    peft_model = get_peft_model(model, config)
    trained = {name for name, parameter in peft_model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 21 and all(name.endswith(".svf_z.default") for name in trained)
    optimiser = torch.optim.AdamW((p for p in peft_model.parameters() if p.requires_grad), lr=0.1)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = peft_model(tokens, labels=tokens).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    peft_model.merge_and_unload()
    after = peft_model.unload().state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_paths_agree_on_logits_and_gradients(
    model: LlamaForCausalLM, config: SvfConfig, tokens: Tensor, randomise: Randomise
) -> None:
    peft_model = get_peft_model(model.double(), config)
    randomise(peft_model, std=0.2)
    results = []
    for folding in (True, False):
        peft_model.set_folding(folding)
        peft_model.zero_grad()
        output = peft_model(tokens, labels=tokens)
        output.loss.backward()
        results.append(torch.cat([p.grad for p in peft_model.parameters() if p.requires_grad]))
    assert torch.allclose(results[0], results[1], rtol=1e-7, atol=1e-9)
    assert results[0].norm() > 0


def test_model_checkpointing_gives_the_same_gradients(
    model: LlamaForCausalLM, config: SvfConfig, tokens: Tensor, randomise: Randomise
) -> None:
    peft_model = get_peft_model(model, config).train()
    randomise(peft_model)
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            peft_model.base_model.model.gradient_checkpointing_enable()
        peft_model.zero_grad()
        peft_model(tokens, labels=tokens).loss.backward()
        results.append(torch.cat([p.grad for p in peft_model.parameters() if p.requires_grad]))
    assert torch.equal(results[0], results[1])


# Targets


@pytest.mark.parametrize(
    ("target", "count"),
    [
        (["up_proj"], 3),
        (r".*\.[12]\.mlp\.(up|down)_proj", 4),
        ("all-linear", 21),
        (["layers.1.mlp.up_proj"], 1),
    ],
)
def test_target_modules_as_list_pattern_or_all(model: LlamaForCausalLM, target: list[str] | str, count: int) -> None:
    assert len(get_peft_model(model, SvfConfig(target_modules=target)).svf_layers()) == count


def test_layers_to_transform(model: LlamaForCausalLM) -> None:
    config = SvfConfig(target_modules=["up_proj", "q_proj"], layers_to_transform=[0, 2])
    assert [name.split(".")[2] for name in get_peft_model(model, config).svf_layers()] == ["0", "0", "2", "2"]
    with pytest.raises(ValueError, match="layers_to_transform needs target_modules as a list"):
        SvfConfig(target_modules="all-linear", layers_to_transform=[0])


@pytest.mark.parametrize(
    "settings",
    [{"parametrisation": "softmax"}, {"init_std": -1.0}, {"max_mult": 0.0}],
)
def test_bad_settings_are_named(settings: dict[str, object]) -> None:
    (name, value) = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        SvfConfig(target_modules=["x"], **settings)  # type: ignore[arg-type]


def test_layers_of_other_kinds_are_refused_by_name(model: LlamaForCausalLM) -> None:
    with pytest.raises(TypeError, match=r"model\.embed_tokens is a Embedding"):
        get_peft_model(model, SvfConfig(target_modules=["embed_tokens"]))
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2, n_positions=8))
    with pytest.raises(TypeError, match=r"c_attn is a Conv1D"):
        get_peft_model(gpt2, SvfConfig(target_modules=["c_attn"]))


def test_a_weight_that_is_not_finite_is_refused_by_name(model: LlamaForCausalLM, config: SvfConfig) -> None:
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds values that are not finite"):
        get_peft_model(model, config)


# Files


@pytest.mark.parametrize(
    "settings",
    [
        {"init_std": 0.2},
        {"parametrisation": "sigmoid", "init_std": 0.5},
        {"parametrisation": "sigmoid", "init_std": 0.5, "renormalise": True},
    ],
    ids=["direct", "sigmoid", "renormalised"],
)
def test_saved_and_loaded_experts_are_the_same_to_the_bit(
    settings: dict[str, object], tokens: Tensor, tmp_path: Path
) -> None:
    config = SvfConfig(target_modules=list(TARGETS), task="math", seed=3, revision="main", **settings)  # type: ignore[arg-type]
    trained = get_peft_model(make_model(), config).eval()
    trained.save_pretrained(tmp_path)

    loaded = PeftModel.from_pretrained(make_model(), tmp_path)
    stored = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(stored, SvfConfig) and stored.parametrisation == "direct" and not stored.renormalise
    assert (stored.task, stored.seed, stored.revision) == ("math", 3, "main")
    assert stored.basis_fingerprint == trained.peft_config["default"].basis_fingerprint
    assert config.basis_fingerprint is None
    assert torch.equal(loaded(tokens).logits, trained(tokens).logits)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    z = trained.z()
    assert all(torch.equal(z[name], loaded.z()[name]) for name in z)
    expert = load_expert(tmp_path)
    assert expert.z.keys() == z.keys() and all(torch.equal(expert.z[name], z[name]) for name in z)
    stored_keys = load_file(tmp_path / "adapter_model.safetensors").keys()
    assert {key for key in stored_keys if not key.startswith("parameter.")} == {
        f"base_model.model.{n}.svf_z" for n in z
    }


def test_adapter_files_do_not_load_into_another_parametrisation(
    config: SvfConfig, tmp_path: Path, model: LlamaForCausalLM
) -> None:
    get_peft_model(make_model(), config).save_pretrained(tmp_path)
    sigmoid = SvfConfig(target_modules=list(TARGETS), parametrisation="sigmoid")
    with pytest.raises(ValueError, match="loads as parametrisation 'direct'"):
        PeftModel.from_pretrained(model, tmp_path, config=sigmoid)


def test_an_expert_of_other_base_weights_is_refused(config: SvfConfig, tmp_path: Path) -> None:
    get_peft_model(make_model(seed=0), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="was made for other base weights"):
        PeftModel.from_pretrained(make_model(seed=1), tmp_path)
    stored = SvfConfig.from_pretrained(str(tmp_path))
    stored.basis_fingerprint = None
    PeftModel.from_pretrained(make_model(seed=1), tmp_path, config=stored)


def test_an_expert_runs_on_its_base_in_another_dtype_with_a_note(
    config: SvfConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = get_peft_model(make_model(), config)
    trained.save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path).basis_dtype == "float32"
    loaded = PeftModel.from_pretrained(make_model(dtype=torch.bfloat16), tmp_path)
    (note,) = caplog.messages
    assert "in float32; here they are in bfloat16" in note
    assert all(torch.equal(z, trained.z()[name]) for name, z in loaded.z().items())
    with pytest.raises(ValueError, match=r"those of this model \(bfloat16, .*\(float32, not quantised\)"):
        PeftModel.from_pretrained(make_model(seed=1, dtype=torch.bfloat16), tmp_path)


def test_the_fingerprint_is_the_same_with_and_without_a_cache(
    model: LlamaForCausalLM, config: SvfConfig, tmp_path: Path, tokens: Tensor, randomise: Randomise
) -> None:
    build_cache(model_weights(model, TARGETS), tmp_path / "basis")
    computed = get_peft_model(make_model(), config)
    config.basis = str(tmp_path / "basis")
    cached = get_peft_model(model, config)
    assert cached.peft_config["default"].basis_fingerprint == computed.peft_config["default"].basis_fingerprint
    randomise(cached)
    cached.save_pretrained(tmp_path / "expert")
    assert json.loads((tmp_path / "expert/adapter_config.json").read_text())["basis"] == config.basis
    loaded = PeftModel.from_pretrained(make_model(), tmp_path / "expert")
    assert torch.equal(loaded(tokens).logits, cached.eval()(tokens).logits)
    assert not any("svf_q" in key or key.endswith(".q") for key in cached.state_dict())
    assert sum(t.numel() for t in load_file(tmp_path / "expert/adapter_model.safetensors").values()) == sum(
        min(weight.shape) for weight in model_weights(make_model(), TARGETS).values()
    )


def test_an_expert_with_a_relative_basis_cache_loads_from_elsewhere(
    tmp_path: Path,
    tokens: Tensor,
    randomise: Randomise,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    build_cache(model_weights(make_model(), TARGETS), "basis")
    trained = get_peft_model(make_model(), SvfConfig(target_modules=list(TARGETS), basis="basis"))
    randomise(trained)
    trained.save_pretrained("expert")
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = PeftModel.from_pretrained(make_model(), tmp_path / "project" / "expert")
    assert torch.equal(loaded(tokens).logits, trained(tokens).logits)
    assert caplog.messages == ["there is no basis cache basis, which 'default' names; bases are computed"]
    with pytest.raises(ValueError, match="there is no basis cache in basis"):
        get_peft_model(make_model(), SvfConfig(target_modules=list(TARGETS), basis="basis"))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("used", [False, True])
def test_a_pickled_model_is_the_model(
    cached: bool, used: bool, tmp_path: Path, tokens: Tensor, randomise: Randomise
) -> None:
    basis = tmp_path / "basis" if cached else None
    if basis:
        build_cache(model_weights(make_model(), TARGETS), basis)
    model = get_peft_model(make_model(), SvfConfig(target_modules=list(TARGETS), basis=basis and str(basis))).eval()
    randomise(model)
    if used:
        model(tokens)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


SAVE = """
import sys, torch; from pathlib import Path
sys.path.insert(0, sys.argv[2]); torch.set_num_threads(1)
from peft import get_peft_model
from svf.models import TARGETS, make_model
from t2.svf import SvfConfig, build_cache, load_expert, model_weights, save_expert
out = Path(sys.argv[1]); model = make_model()
build_cache(model_weights(model, TARGETS), out / "basis")
for name, targets in (("list", set(TARGETS)), ("all", "all-linear")):
    torch.manual_seed(0)
    peft_model = get_peft_model(make_model(), SvfConfig(target_modules=targets, init_std=0.1))
    optimiser = torch.optim.AdamW((p for p in peft_model.parameters() if p.requires_grad), lr=0.1)
    peft_model(torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    optimiser.step()
    peft_model.save_pretrained(out / name)
    save_expert(load_expert(out / name), out / f"{name}_without_model")
"""


@pytest.mark.slow
def test_equal_runs_write_equal_bytes_under_two_hash_seeds(tmp_path: Path) -> None:
    tests = str(Path(__file__).parents[1])
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", SAVE, str(tmp_path / seed), tests],
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    assert [run.wait() for run in runs] == [0, 0]
    first, second = (
        {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
        for root in (tmp_path / "1", tmp_path / "2")
    )
    assert len(first) == 22 + 2 * 3 + 2 * 2
    assert first == second


# Several adapters


def test_named_adapters_switch_disable_and_delete(
    model: LlamaForCausalLM, config: SvfConfig, tokens: Tensor, randomise: Randomise, tmp_path: Path
) -> None:
    base = model(tokens).logits
    peft_model = get_peft_model(model, config, adapter_name="a")
    peft_model.add_adapter("b", SvfConfig(target_modules=["q_proj", "up_proj"]))
    randomise(peft_model, 1, "a")
    a = peft_model(tokens).logits
    with torch.no_grad():
        for layer in peft_model.svf_layers().values():
            if "b" in layer.svf_z:
                layer.svf_z["b"].fill_(1.5)
    assert torch.equal(peft_model(tokens).logits, a)
    peft_model.set_adapter("b")
    b = peft_model(tokens).logits
    assert not torch.equal(b, a) and not torch.equal(b, base)
    assert {n.rsplit(".", 1)[1] for n, p in peft_model.named_parameters() if p.requires_grad} == {"b"}
    with peft_model.disable_adapter():
        assert torch.equal(peft_model(tokens).logits, base)
    assert torch.equal(peft_model(tokens).logits, b)
    peft_model.save_pretrained(tmp_path)
    assert len(load_expert(tmp_path / "a").z) == 21 and len(load_expert(tmp_path / "b").z) == 6
    with pytest.raises(ValueError, match="cannot be active together"):
        peft_model.base_model.set_adapter(["a", "b"])
    peft_model.set_adapter("a")
    assert torch.equal(peft_model(tokens).logits, a)
    peft_model.delete_adapter("a")
    assert torch.equal(peft_model(tokens).logits, b)


def test_a_pass_of_the_base_between_two_does_not_build_the_weights_anew(
    model: LlamaForCausalLM, config: SvfConfig, tokens: Tensor, randomise: Randomise
) -> None:
    peft_model = get_peft_model(model, config)
    randomise(peft_model)
    expected = peft_model(tokens).logits
    built = {name: layer._folded.fold for name, layer in peft_model.svf_layers().items()}
    with peft_model.disable_adapter():
        peft_model(tokens)
    assert torch.equal(peft_model(tokens).logits, expected)
    assert all(layer._folded.fold is built[name] for name, layer in peft_model.svf_layers().items())


def test_merging_returns_a_plain_copy_and_leaves_the_model_as_it_is(
    model: LlamaForCausalLM, config: SvfConfig, tokens: Tensor, randomise: Randomise, tmp_path: Path
) -> None:
    peft_model = get_peft_model(model, config).eval()
    randomise(peft_model)
    before = {name: weight.clone() for name, weight in peft_model.state_dict().items()}
    with pytest.raises(NotImplementedError, match="merge_and_unload"):
        peft_model.merge_adapter()
    expected = peft_model(tokens).logits
    merged = peft_model.merge_and_unload(safe_merge=True)
    assert isinstance(merged, LlamaForCausalLM)
    assert not any(isinstance(module, SvfLinear) for module in merged.modules())
    assert close(merged(tokens).logits, expected)
    assert torch.equal(peft_model(tokens).logits, expected)
    assert all(torch.equal(weight, before[name]) for name, weight in peft_model.state_dict().items())
    merged.save_pretrained(tmp_path)
    assert torch.equal(LlamaForCausalLM.from_pretrained(tmp_path)(tokens).logits, merged(tokens).logits)
    with pytest.raises(ValueError, match="merging takes one adapter"):
        peft_model.merge_and_unload(adapter_names=["nobody"])


# Mixed batches


@pytest.fixture
def mixed(config: SvfConfig) -> tuple[PeftModel, dict[str, Tensor]]:
    """A frozen model and tables of three experts."""
    model = attach(make_model(), config)
    generator = torch.Generator().manual_seed(5)
    tables = {
        name: 1 + 0.3 * torch.randn(3, layer.rank, generator=generator) for name, layer in model.svf_layers().items()
    }
    return model, tables


def test_a_mixed_batch_gives_each_sample_what_it_gets_alone(
    mixed: tuple[PeftModel, dict[str, Tensor]], tokens: Tensor
) -> None:
    model, tables = mixed
    rows = torch.tensor([2, -1, 0, 1])
    with torch.no_grad():
        with model.per_sample(tables, rows):
            together = model(tokens).logits
            with (
                pytest.raises(RuntimeError, match="per_sample is open already"),
                model.per_sample(tables, rows),
            ):
                pass
        base = model(tokens).logits
        assert torch.equal(base, make_model()(tokens).logits)
        for i, row in enumerate(rows.tolist()):
            with model.per_sample(tables, [row]):
                alone = model(tokens[i : i + 1]).logits
            assert close(together[i], alone[0])
            if row < 0:
                assert torch.equal(alone, make_model()(tokens[i : i + 1]).logits)
            else:
                for layer in model.svf_layers().values():
                    layer.svf_z["default"].copy_(tables[layer.key][row])
                assert close(alone, model(tokens[i : i + 1]).logits)
                assert not close(alone[0], base[i])


def test_a_batch_of_one_expert_runs_folded_and_a_mixed_one_after_it_does_not(
    mixed: tuple[PeftModel, dict[str, Tensor]],
) -> None:
    model, tables = mixed
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(model.config.vocab_size, (4, 20), generator=generator)
    layers = list(model.svf_layers().values())
    with torch.no_grad():
        outputs = []
        for folding in (True, False):
            model.set_folding(folding)
            with model.per_sample(tables, [1] * 4):
                logits = [model(tokens).logits]
                assert all((layer._shared_fold[1] is not None) == folding for layer in layers)
                model.set_rows([1, 1])  # the batch shrinks
                logits.append(model(tokens[:2]).logits)
                model.set_rows([2] * 4)  # another expert
                logits.append(model(tokens).logits)
                model.set_rows([0, 2, 1, -1])
                logits.append(model(tokens).logits)
            assert not any(layer._shared_fold for layer in layers)
            outputs.append(logits)
    assert all(close(folded, factored) for folded, factored in zip(*outputs, strict=True))
    with torch.no_grad(), model.per_sample(tables, [1]):
        model(tokens[:1, :1])
        assert not any(layer._shared_fold for layer in layers)  # one token does not pay for a fold


def test_rows_follow_a_shrinking_batch_with_a_cache(mixed: tuple[PeftModel, dict[str, Tensor]], tokens: Tensor) -> None:
    model, tables = mixed
    with torch.no_grad(), model.per_sample(tables, [0, 1, -1, 2]):
        whole = model(tokens).logits
        output = model(tokens[:, :5], use_cache=True)
        kept = torch.tensor([1, 3])
        cache = output.past_key_values
        cache.batch_select_indices(kept)
        model.set_rows([1, 2])
        for position in range(5, 9):
            output = model(tokens[kept, position : position + 1], past_key_values=cache, use_cache=True)
            assert close(output.logits[:, 0], whole[kept, position])
        with pytest.raises(ValueError, match="got a batch of 4 samples while 2 rows are set"):
            model(tokens)


def test_per_sample_gradients_equal_those_of_each_expert(
    mixed: tuple[PeftModel, dict[str, Tensor]], tokens: Tensor
) -> None:
    model, tables = mixed
    for table in tables.values():
        table.requires_grad_()
    with model.per_sample(tables, [0, 0, 1, -1]):
        model(tokens).logits.square().mean(dim=(1, 2)).sum().backward()
    gradients = {name: table.grad.clone() for name, table in tables.items()}
    assert all((gradient[2] == 0).all() for gradient in gradients.values())
    model.base_model.set_adapter("default")
    with torch.no_grad():
        for name, layer in model.svf_layers().items():
            layer.svf_z["default"].copy_(tables[name][1])
    model(tokens[2:3]).logits.square().mean(dim=(1, 2)).sum().backward()
    for name, layer in model.svf_layers().items():
        expected = layer.svf_z["default"].grad
        assert (gradients[name][1] - expected).norm() <= 1e-3 * expected.norm()


def test_modules_without_a_table_stay_the_base(
    mixed: tuple[PeftModel, dict[str, Tensor]], tokens: Tensor, randomise: Randomise
) -> None:
    model, tables = mixed
    name = "model.layers.1.mlp.up_proj"
    randomise(model)
    with torch.no_grad():
        with model.per_sample({name: tables[name]}, [1] * 4):
            one = model(tokens).logits
        others = {key: table if key == name else torch.ones_like(table) for key, table in tables.items()}
        with model.per_sample(others, [1] * 4):
            assert torch.equal(model(tokens).logits, one)


def test_wrong_tables_and_rows_are_refused(mixed: tuple[PeftModel, dict[str, Tensor]], tokens: Tensor) -> None:
    model, tables = mixed
    name, table = next(iter(tables.items()))
    for wrong, rows, message in [
        ({"nowhere": table}, [0], "no adapted module is called"),
        ({name: table[:, :-1]}, [0], r"must be \(E, 32\), got \(3, 31\)"),
        ({**tables, name: table[:2]}, [0], "the same number of experts"),
        (tables, [3], r"rows must be .* from -1 \(the base\) to 2"),
        (tables, [-2], "rows must be"),
    ]:
        with pytest.raises(ValueError, match=message), model.per_sample(wrong, rows):
            pass
    with pytest.raises(RuntimeError, match="open per_sample"):
        model.set_rows([0])
    assert torch.equal(model(tokens).logits, make_model()(tokens).logits)


def test_adapter_names_as_in_lora(
    model: LlamaForCausalLM, config: SvfConfig, tokens: Tensor, randomise: Randomise
) -> None:
    peft_model = get_peft_model(model, config, adapter_name="a")
    peft_model.add_adapter("b", SvfConfig(target_modules=["q_proj", "down_proj"]))
    randomise(peft_model, 1, "a")
    with torch.no_grad():
        for layer in peft_model.svf_layers().values():
            if "b" in layer.svf_z:
                layer.svf_z["b"].mul_(1.4)
    names = ["b", "__base__", "a", "b"]
    with pytest.raises(ValueError, match="training mode"):
        peft_model.train()(tokens, adapter_names=names)
    peft_model.eval()
    with torch.no_grad():
        together = peft_model(tokens, adapter_names=names).logits
        written = peft_model.generate(input_ids=tokens, adapter_names=names, max_new_tokens=5, do_sample=False)
        peft_model.generate(input_ids=tokens, adapter_names=names, max_new_tokens=3, num_beams=2)
        for i, name in enumerate(names):
            sample = tokens[i : i + 1]
            if name == "__base__":
                with peft_model.disable_adapter():
                    alone = peft_model(sample).logits
                    assert torch.equal(peft_model(sample, adapter_names=[name]).logits, alone)
                    text = peft_model.generate(input_ids=sample, max_new_tokens=5, do_sample=False)
            else:
                peft_model.set_adapter(name)
                alone = peft_model(sample).logits
                text = peft_model.generate(input_ids=sample, max_new_tokens=5, do_sample=False)
            assert close(together[i], alone[0])
            assert torch.equal(written[i], text[0])
    with pytest.raises(ValueError, match=r"unknown adapters \['c'\]"):
        peft_model(tokens, adapter_names=["c"] * 4)


def test_moving_and_casting_keep_z_and_basis_exact(
    model: LlamaForCausalLM, config: SvfConfig, tokens: Tensor, randomise: Randomise
) -> None:
    peft_model = get_peft_model(model, config)
    layer = next(iter(peft_model.svf_layers().values()))
    randomise(peft_model)
    z = peft_model.z()
    peft_model(tokens)
    peft_model.to(torch.bfloat16)
    assert layer.basis().q.dtype == torch.float32
    assert peft_model(tokens).logits.dtype == torch.bfloat16
    assert torch.equal(peft_model.z()[layer.key], z[layer.key].bfloat16().float())


def test_an_expert_saved_without_a_model_loads_with_one(tmp_path: Path, tokens: Tensor, randomise: Randomise) -> None:
    trained = get_peft_model(make_model(), SvfConfig(target_modules=list(TARGETS)))
    randomise(trained)
    trained.save_pretrained(tmp_path / "peft")
    save_expert(load_expert(tmp_path / "peft"), tmp_path / "plain")
    loaded = PeftModel.from_pretrained(make_model(), tmp_path / "plain")
    assert torch.equal(loaded(tokens).logits, trained(tokens).logits)


def test_a_model_that_is_no_transformer() -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 4))
    x = torch.randn(7, 5)
    expected = model(x)
    peft_model = get_peft_model(model, SvfConfig(target_modules=["0", "2"]))
    assert torch.equal(peft_model(x), expected)
    table = {"0": torch.full((1, 3), 1.5), "2": torch.full((1, 3), 0.5)}
    with peft_model.per_sample(table, [0] * 6 + [-1]):
        out = peft_model(x)
    assert torch.equal(out[-1], expected[-1]) and not torch.allclose(out[0], expected[0])


def test_loading_without_initial_values(tmp_path: Path, tokens: Tensor, randomise: Randomise) -> None:
    trained = get_peft_model(make_model(), SvfConfig(target_modules=list(TARGETS)))
    randomise(trained)
    trained.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_model(), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(loaded(tokens).logits, trained(tokens).logits)
