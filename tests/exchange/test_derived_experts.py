"""What becomes of an expert that is carried to another base, shuffled, negated, summed or cut to what changes most."""

from __future__ import annotations

import pytest
import torch

from t2.config.rows import Change, Copied, Largest, Negated, Resampled, Shuffled, Summed
from t2.exchange.derived import derived
from t2.svf.mixture import BASE, Mixture

UP, DOWN = "model.layers.{}.mlp.up_proj", "model.layers.{}.mlp.down_proj"


def expert(layers: int, rank: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(layers)
    names = [name.format(layer) for layer in range(layers) for name in (UP, DOWN)]
    return {name: 1 + 0.1 * torch.randn(rank, generator=generator) for name in names}


def sigma(layers: int, rank: int = 6) -> dict[str, torch.Tensor]:
    names = [name.format(layer) for layer in range(layers) for name in (UP, DOWN)]
    return {name: torch.arange(rank, 0, -1).float() + place for place, name in enumerate(names)}


def test_a_copy_is_equal() -> None:
    z = expert(2)
    assert all(torch.equal(value, z[name]) for name, value in derived(z, Copied(kind="copied"), sigma(2), 0).items())


def test_shuffling_keeps_each_matrix_numbers_and_hangs_on_both_seeds() -> None:
    z = expert(2)
    first = derived(z, Shuffled(kind="shuffled", seed=1), sigma(2), 0)
    for name, value in first.items():
        assert torch.equal(value.sort().values, z[name].sort().values)
        assert not torch.equal(value, z[name])
    for again, equal in (((1, 0), True), ((2, 0), False), ((1, 1), False)):
        other = derived(z, Shuffled(kind="shuffled", seed=again[0]), sigma(2), again[1])
        assert all(torch.equal(other[name], first[name]) for name in z) is equal


def test_negation_is_its_own_opposite() -> None:
    z, change = expert(2), Negated(kind="negated")
    there = derived(z, change, sigma(2), 0)
    back = derived(there, change, sigma(2), 0)
    for name in z:
        torch.testing.assert_close(there[name] - 1, 1 - z[name])
        torch.testing.assert_close(back[name], z[name])


def test_a_sum_is_the_mixture_in_which_each_weighs_one_and_the_base_takes_back_what_is_too_much() -> None:
    experts = {
        name: {module: z * scale for module, z in expert(2).items()}
        for name, scale in (("a", 1.0), ("b", 1.1), ("c", 0.7))
    }
    found = derived(experts["a"], Summed(kind="summed", others=["b", "c"]), sigma(2), 0, [experts["b"], experts["c"]])
    expected = Mixture({**dict.fromkeys(experts, 1.0), BASE: -2.0}).z(experts)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])
        torch.testing.assert_close(value - 1, torch.stack([z[name] - 1 for z in experts.values()]).sum(0))


@pytest.mark.parametrize("share", [0.01, 0.25, 1.0])
def test_what_is_kept_changes_the_weights_most(share: float) -> None:
    z, base = expert(3), sigma(3)
    kept = derived(z, Largest(kind="largest", share=share), base, 0)
    moved = {name: (base[name] * (z[name] - 1)).abs() for name in z}
    inside = torch.cat([moved[name][kept[name] != 1] for name in z])
    outside = torch.cat([moved[name][kept[name] == 1] for name in z])
    assert len(inside) == max(1, round(share * 36))
    assert not len(outside) or inside.min() > outside.max()
    assert all(torch.equal(kept[name][kept[name] != 1], z[name][kept[name] != 1]) for name in z)


def test_resampling_onto_the_same_shapes_changes_nothing() -> None:
    z = expert(3)
    for name, value in derived(z, Resampled(kind="resampled"), sigma(3), 0).items():
        torch.testing.assert_close(value, z[name])


def test_resampling_keeps_ends_and_goes_in_between() -> None:
    line = {UP.format(layer): torch.linspace(0, 1, 5) + layer for layer in range(2)}
    base = {UP.format(layer): torch.ones(9) for layer in range(3)}
    found = derived(line, Resampled(kind="resampled"), base, 0)
    for layer in range(3):
        torch.testing.assert_close(found[UP.format(layer)], torch.linspace(0, 1, 9) + layer / 2)


@pytest.mark.parametrize("change", [Copied(kind="copied"), Negated(kind="negated"), Shuffled(kind="shuffled", seed=0)])
def test_other_shapes_are_carried_over_by_resampling_only(change: Change) -> None:
    for base in (sigma(2, rank=7), sigma(1)):
        with pytest.raises(ValueError, match="carry it over by `resampled`"):
            derived(expert(2), change, base, 0)


def test_a_module_that_the_expert_has_not_cannot_be_resampled() -> None:
    with pytest.raises(ValueError, match="nothing is there to resample"):
        derived(expert(2), Resampled(kind="resampled"), {"model.layers.0.self_attn.q_proj": torch.ones(6)}, 0)
