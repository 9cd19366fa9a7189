"""Singular value fine-tuning as a PEFT method, and experts as sets of z vectors (paper, section 3.2)."""

from peft.utils import register_peft_method

from t2.svf.basis import Basis, narrow_basis, nuclear_share, scaled_weight
from t2.svf.cache import BasisCache, build_cache, checkpoint_weights, model_weights
from t2.svf.config import SvfConfig, layer_indices
from t2.svf.experts import (
    Expert,
    base_expert,
    compare,
    load_expert,
    save_expert,
    stack,
    statistics,
)
from t2.svf.layer import SvfLinear
from t2.svf.mixture import Mixture, mix, mix_population
from t2.svf.tuner import SvfModel, attach

__all__ = [
    "Basis",
    "BasisCache",
    "Expert",
    "Mixture",
    "SvfConfig",
    "SvfLinear",
    "SvfModel",
    "attach",
    "base_expert",
    "build_cache",
    "checkpoint_weights",
    "compare",
    "layer_indices",
    "load_expert",
    "mix",
    "mix_population",
    "model_weights",
    "narrow_basis",
    "nuclear_share",
    "save_expert",
    "scaled_weight",
    "stack",
    "statistics",
]

register_peft_method(name="svf", config_cls=SvfConfig, model_cls=SvfModel)
