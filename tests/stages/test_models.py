"""What stages run is what the base that they name was trained into."""

from __future__ import annotations

from pathlib import Path

import pytest
from t2.stages.models import trained_expert

from t2.config import Base
from t2.stages import paths
from t2.svf import Expert, base_expert, build_cache, checkpoint_weights, save_expert
from t2.svf.identity import Origin


def test_an_expert_of_another_base_is_refused_by_its_folder(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = Base(name="tiny", path=str(tiny_folder), revision=None, dtype="float32", quantisation=None)
    cache = build_cache(checkpoint_weights(tiny_folder, ["up_proj"]), paths.basis(base))
    z = base_expert({name: cache.load(name).sigma for name in cache})
    save_expert(Expert(z, Origin.of(cache.matrices).noted()), Path("own"))
    assert trained_expert(base, Path("own")).keys() == z.keys()
    save_expert(Expert(z, {"basis_fingerprint": "0" * 64}), Path("other"))
    with pytest.raises(ValueError, match=r"^other: .* was made for other base weights"):
        trained_expert(base, Path("other"))
