"""Figures 10 and 11: what share of their sum the largest singular values have."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2 import config
from t2.report.spectra import spectrum_figure
from t2.spectrum import SHARES, ratios, singular_values, spectra
from t2.stages.spectrum import linear_weights
from t2.svf import narrow_basis

ROOT = Path(__file__).parents[1]


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 99))
def test_shares_rise_to_one_and_more_components_never_have_less_than_their_part(rows: int, columns: int, seed: int):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    rank = min(rows, columns)
    found = ratios(singular_values(weight), range(1, rank + 1))
    assert found == sorted(found)
    assert found[-1] == pytest.approx(1)
    assert all(ratio >= count / rank - 1e-12 for count, ratio in enumerate(found, start=1))
    scaled = ratios(singular_values(3 * weight.T), range(1, rank + 1))
    assert scaled == pytest.approx(found)


def test_equal_singular_values_have_equal_parts_and_one_alone_has_all() -> None:
    assert ratios(singular_values(torch.eye(8)), [1, 2, 4]) == pytest.approx([1 / 8, 1 / 4, 1 / 2])
    assert ratios(singular_values(torch.outer(torch.arange(1.0, 5), torch.ones(9))), [1]) == pytest.approx(
        [1], abs=1e-6
    )


def test_a_matrix_of_zeros_is_refused() -> None:
    with pytest.raises(ValueError, match="a matrix of zeros has no components"):
        ratios(singular_values(torch.zeros(3, 4)), [1])


def test_the_basis_has_the_same_singular_values() -> None:
    weight = torch.randn(20, 12, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(narrow_basis(weight).sigma.double(), singular_values(weight), rtol=1e-5)


def test_every_linear_layer_of_a_base_stands_beside_a_random_matrix_of_its_shape() -> None:
    base = config.load(ROOT / "params.yaml").bases["main"]
    rows = pd.DataFrame(spectra(list(linear_weights(base))[:7], seed=1))
    modules = [name.rpartition(".")[2] for name in dict.fromkeys(rows["name"])]
    assert modules == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert rows.groupby(["name", "weights"]).size().tolist() == [len(SHARES)] * 14
    again = pd.DataFrame(spectra(list(linear_weights(base))[:7], seed=1))
    pd.testing.assert_frame_equal(rows, again)
    other = pd.DataFrame(spectra(list(linear_weights(base))[:7], seed=2))
    assert (rows["ratio"] == other["ratio"]).tolist() == (rows["weights"] == "trained").tolist()


def test_the_figure_has_a_panel_for_each_kind_of_module_and_always_the_same_bytes() -> None:
    rows = pd.DataFrame(
        {"module": module, "layer": layer, "weights": weights, "share": share, "ratio": share}
        for module in ("q_proj", "down_proj")
        for layer in range(3)
        for weights in ("trained", "random")
        for share in SHARES
    )
    drawn = spectrum_figure(rows, "a base")
    assert drawn == spectrum_figure(rows, "a base")
    for text in ("q_proj", "down_proj", "1/64", "a base: in the largest … of the components"):
        assert text in drawn
