"""Mixtures: what weights make of experts, and how mixtures are named."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from t2.svf import Mixture, base_expert, mix, mix_population

NAMES = ["model.layers.0.mlp.up_proj", "model.layers.2.mlp.up_proj", "model.layers.10.mlp.up_proj"]
SIGMA = {name: torch.linspace(3, 1, 6) for name in NAMES}


def experts(k: int = 3, std: float = 0.3) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{name: 1 + std * torch.randn(6, generator=generator) for name in NAMES} for _ in range(k)]


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("form", ["normalised", "free"])
def test_a_one_hot_row_is_its_expert_unscaled_in_every_form(form: str, renormalise: bool) -> None:
    k = experts()
    assert equal(mix(k, torch.tensor([0.0, 1.0, 0.0]), form, SIGMA, renormalise), k[1])  # type: ignore[arg-type]
    named = {"math": k[0], "code": k[1]}
    for alpha, wanted in (
        ({"math": 1}, k[0]),
        ({"math": 0, "code": 1, "base": 0}, k[1]),
        ({"base": 1}, base_expert(k[0])),
    ):
        assert equal(Mixture(alpha, form, renormalise).z(named, SIGMA), wanted)  # type: ignore[arg-type]
    # Only the rows that are one-hot: layer 0 is code, the others are mixed.
    mixed = Mixture({"math": [0, 0.5, 2], "code": [1, 0.3, 1]}, form, renormalise).z(named, SIGMA)  # type: ignore[arg-type]
    assert [torch.equal(mixed[name], k[1][name]) for name in NAMES] == [True, False, False]


def test_an_expert_that_cannot_be_rescaled_still_is_itself() -> None:
    negative = {name: -z for name, z in experts(1)[0].items()}
    tables, valid = mix_population([negative, experts(2)[1]], torch.tensor([[1.0, 0.0], [1.0, 0.1]]), "free", SIGMA)
    assert valid.tolist() == [True, False]
    assert all(torch.equal(tables[name][0], negative[name]) for name in NAMES)


def test_the_normalised_form_spreads_what_is_missing_over_all_experts() -> None:
    k = experts()
    alpha = torch.tensor([0.9, -0.4, 0.2])
    weights = alpha + (1 - alpha.sum()) / 3
    assert weights.sum().item() == pytest.approx(1)
    mixed = mix(k, alpha)
    for name in NAMES:
        expected = sum(w * expert[name] for w, expert in zip(weights, k, strict=True))
        assert torch.allclose(mixed[name], expected, atol=1e-6)
    # Equal experts are their own mixture, whatever α: the weights sum to one.
    same = mix([k[0]] * 3, alpha)
    assert all(torch.allclose(same[name], k[0][name], atol=1e-6) for name in NAMES)
    assert all(torch.allclose(z, torch.ones(6), atol=1e-6) for z in mix([base_expert(k[0])] * 3, alpha).values())


def test_the_free_form_keeps_the_sum_of_singular_values_for_each_matrix() -> None:
    k = experts()
    mixed = mix(k, torch.tensor([0.1, 0.7, -0.1]), "free", SIGMA)
    for name in NAMES:
        assert (SIGMA[name] @ mixed[name]).item() == pytest.approx(SIGMA[name].sum().item())
    plain = mix(k, torch.tensor([0.1, 0.7, -0.1]), "free", renormalise=False)
    for name in NAMES:
        assert torch.allclose(plain[name], 0.1 * k[0][name] + 0.7 * k[1][name] - 0.1 * k[2][name], atol=1e-6)
        ratio = mixed[name] / plain[name]
        assert torch.allclose(ratio, ratio[0].expand(6), rtol=1e-4)


def test_layers_may_have_their_own_weights() -> None:
    k = experts()
    alpha = torch.eye(3)  # layer 0 takes expert 0, layer 2 takes expert 1, layer 10 takes expert 2
    mixed = mix(k, alpha)
    for expert, name in enumerate(NAMES):
        assert torch.equal(mixed[name], k[expert][name])
    with pytest.raises(
        ValueError, match=r"alpha has 2 rows; it may have 1, one per layer \(3\) or one per matrix \(3\)"
    ):
        mix(k, torch.ones(2, 3))


def test_matrices_may_have_their_own_weights() -> None:
    k = [expert | {name.replace("up", "down"): 2 * z for name, z in expert.items()} for expert in experts(2)]
    names = sorted(k[0], key=lambda name: (int(name.split(".")[2]), name))
    mixed = mix(k, torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 3))
    assert all(torch.equal(mixed[name], k[row % 2][name]) for row, name in enumerate(names))


def test_one_row_is_for_all_matrices() -> None:
    k, alpha = experts(), torch.tensor([0.5, 0.2, -0.3])
    assert equal(mix(k, alpha[None], "free", SIGMA), mix(k, alpha, "free", SIGMA))


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("form", ["normalised", "free"])
def test_a_population_is_its_members(form: str, per_layer: bool) -> None:
    k = experts()
    shape = (5, 3, 3) if per_layer else (5, 3)
    alphas = 1 / 3 + 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(3))
    tables, valid = mix_population(k, alphas, form, SIGMA)  # type: ignore[arg-type]
    assert valid.all()
    for member, alpha in enumerate(alphas):
        mixed = mix(k, alpha, form, SIGMA)  # type: ignore[arg-type]
        assert all(torch.allclose(tables[name][member], mixed[name], atol=1e-6) for name in NAMES)


def test_what_cannot_be_rescaled_is_marked_and_stays_finite() -> None:
    k = experts()
    alphas = torch.tensor([[1.0, 0.0, 0.0], [-1.0, -1.0, -1.0], [0.0, 0.0, 0.0]])
    tables, valid = mix_population(k, alphas, "free", SIGMA)
    assert valid.tolist() == [True, False, False]
    assert all(torch.isfinite(table).all() and (table[1:] == 1).all() for table in tables.values())
    with pytest.raises(ValueError, match="Σσz' <= 0"):
        mix(k, alphas[1], "free", SIGMA)
    assert mix_population(k, alphas, "free", renormalise=False).valid.all()


def test_what_does_not_fit_is_refused() -> None:
    k = experts()
    with pytest.raises(ValueError, match="pass sigma"):
        mix(k, torch.ones(3), "free")
    with pytest.raises(ValueError, match=r"alphas must be \(P, 3\) or \(P, G, 3\), got \(1, 2\)"):
        mix(k, torch.ones(2))
    with pytest.raises(ValueError, match="form is 'soft'"):
        mix(k, torch.ones(3), "soft")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="holds no layer index"):
        mix([{"up": torch.ones(2)}] * 2, torch.ones(2, 2))


def test_a_mixture_takes_what_an_alpha_file_holds() -> None:
    a, b = experts(2)
    named = {"math": a, "code": b}
    # The sum follows the experts' order, the base last, whatever the order of the weights.
    for alpha in ({"code": 0.2, "base": -0.1, "math": 0.7}, {"math": 0.7, "code": 0.2, "base": -0.1}):
        found, expected = Mixture(alpha).z(named), mix([a, b, base_expert(a)], torch.tensor([0.7, 0.2, -0.1]))
        assert all(torch.allclose(found[name], expected[name], rtol=1e-6) for name in NAMES)
    assert equal(Mixture({"code": 0.2, "math": 0.8}).z(named), mix([a, b], torch.tensor([0.8, 0.2])))
    by_layer = {"math": [1, 0.2, 0.5], "code": [0.3, 1, 0.5]}
    expected = mix([a, b], torch.tensor([[1, 0.3], [0.2, 1], [0.5, 0.5]]), "free", SIGMA)
    assert equal(Mixture(by_layer, "free").z(named, SIGMA), expected)
    with pytest.raises(ValueError, match=r"alpha names \['art'\]; it may name math, code, base"):
        Mixture({"art": 1}).z(named)
    # The base is z = 1, whatever stands under its name.
    assert equal(Mixture({"base": 1}).z(named | {"base": b}), base_expert(a))


@pytest.mark.parametrize("shape", [(3,), (3, 3)])
def test_a_mixture_holds_what_its_members_weigh_in_the_end(shape: tuple[int, ...]) -> None:
    k = dict(zip("abc", experts(), strict=True))
    alpha = 1 / 3 + 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(5))
    mixture = Mixture.of(list(k), alpha)
    sums = torch.tensor(list(mixture.rows.values())).sum(0)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    found, expected = mixture.z(k), mix(list(k.values()), alpha)
    plain = Mixture(mixture.alpha, "free", renormalise=False).z(k)
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(plain[name], expected[name], rtol=1e-5, atol=1e-6)
    # α and α + c are one mixture; exact powers of two leave nothing to rounding.
    shifted = [Mixture({"a": 0.5 + c, "b": 0.25 + c, "c": c}) for c in (0.0, 1.0, -0.5)]
    assert len({str(m) for m in shifted}) == len(set(shifted)) == 1
    assert shifted[0].effective(k) == shifted[0]


@pytest.mark.parametrize("shape", [(3,), (3, 3)])
def test_the_free_form_weighs_by_matrix_what_it_is_rescaled_to(shape: tuple[int, ...]) -> None:
    k = {
        name: e | {key.replace("up", "down"): z.flip(0) ** 2 for key, z in e.items()}
        for name, e in zip("abc", experts(), strict=True)
    }
    sigma = {name: torch.linspace(3, 1, 6) for name in k["a"]}
    alpha = 0.6 + 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(6))
    mixture = Mixture.of(list(k), alpha, "free")
    effective = mixture.effective(k, sigma)
    assert len(effective.rows["a"]) == len(sigma) and not effective.needs_sigma
    found, expected = effective.z(k), mixture.z(k, sigma)
    for name in sigma:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    assert effective.effective(k) == effective
    row = effective.rows["b"]
    assert f"b {sum(row) / len(row):.2f} ({min(row):.2f} to {max(row):.2f})" in effective.summary
    one_hot = Mixture({"a": 1, "b": 0, "c": 0}, "free").effective(k, sigma)
    assert equal(one_hot.z(k), k["a"]), "unscaled, to the bit"
    assert Mixture({"a": 0.5, "b": 0.5}).summary == "a=0.5,b=0.5"


def test_the_uniform_mix_has_the_form_and_members_of_a_search() -> None:
    assert str(Mixture.uniform(["a", "b"])) == "a=0.5,b=0.5"
    mixture = Mixture.uniform(["a", "b", "c"], "free", renormalise=False, base=True)
    assert str(mixture) == "a=0.25,b=0.25,c=0.25,base=0.25"
    assert (mixture.form, mixture.renormalise) == ("free", False)


def test_a_table_of_weights_has_a_column_for_the_base_or_not() -> None:
    names, alpha = ["code", "math"], torch.tensor([[0.5, 0.25, 0.125], [1, 2, 3]])
    by_name = {"base": [0.125, 3], "code": [0.5, 1], "math": [0.25, 2]}
    assert Mixture.of(names, alpha, "free") == Mixture(by_name, "free")
    assert Mixture.of(names, alpha[:, :2], "free") == Mixture({"code": [0.5, 1], "math": [0.25, 2]}, "free")
    assert str(Mixture.of(names, alpha[0], "free")) == "code=0.5,math=0.25,base=0.125"
    with pytest.raises(ValueError, match=r"alpha has 4 columns for 2 experts"):
        Mixture.of(names, torch.ones(4))


# Of the normalised form, what is added to the largest numbers of float32 may be too much for it.
weights = st.floats(-(2.0**100), 2.0**100, width=32)
member_names = st.text(st.characters(blacklist_characters="=,", blacklist_categories=["Cs"]), min_size=1, max_size=6)
forms = st.sampled_from(["normalised", "free"])


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    members = draw(st.lists(st.one_of(st.just("base"), member_names), min_size=1, max_size=4, unique=True))
    row = st.lists(weights, min_size=(size := draw(st.integers(1, 3))), max_size=size)
    return Mixture({name: draw(row) for name in members}, draw(forms), draw(st.booleans()))


@given(mixtures(), st.randoms())
def test_the_spelling_of_a_mixture_reads_back_in_any_order(mixture: Mixture, random) -> None:
    spelling = str(mixture)
    parts = spelling.split(",")
    random.shuffle(parts)
    for text in (spelling, ",".join(parts)):
        read = Mixture.parse(text, mixture.form, mixture.renormalise)
        assert read == mixture and hash(read) == hash(mixture) and str(read) == spelling


def test_spellings_of_one_mixture_are_one() -> None:
    for spelling in ("math", "math=1", "math=1.00", "math=1e0", "math=+1", "math=01.0", "math= 1"):
        assert str(Mixture.parse(spelling)) == "math" and Mixture.parse(spelling, "free") == Mixture(
            {"math": 1}, "free"
        )
    assert str(Mixture.parse("math=.3,base=-0.0,code=7e-1")) == "code=0.7,math=0.3,base=0"
    assert Mixture.parse("math=0.3:1,code=0.7:0") == Mixture({"math": [0.3, 1], "code": [0.7, 0]})
    assert Mixture({"math": 1}) != Mixture({"math": 1}, "free")
    assert Mixture({"math": -3, "code": 2}).largest == 3


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("", "'' cannot be a member"),
        ("math,", "'' cannot be a member"),
        ("=1", "'' cannot be a member"),
        ("math=", "'math=' is no NAME=WEIGHT"),
        ("math=much", "'math=much' is no NAME=WEIGHT"),
        ("math=1=2", "'math=1=2' is no NAME=WEIGHT"),
        ("math,math=1", "'math' stands twice"),
        ("math=nan,code", r"the weight of 'math' is \[nan\]"),
        ("math=1e39,code", r"1e\+39.* no finite number in float32"),
        ("math=1:2,code=1", "all members need as many weights.* code 1, math 2"),
        ("math=0.5", "'math=0.5' alone comes to 1; half an expert is math=0.5,base=0.5"),
    ],
)
def test_what_is_no_mixture_is_refused(spelling: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture.parse(spelling)
