"""A vLLM plugin: the engine's adapter slots hold SVF experts, one per request, in mixed batches.

vLLM finds it by its entry point (group ``vllm.general_plugins``) in every one of its processes. It does nothing
unless the engine's ``additional_config`` names a basis cache (``svf_basis``), or the environment does
(``T2_SVF_BASIS``); what :mod:`~t2.engine.vllm_svf.guard` does depends on ``VLLM_COMPUTE_NANS_IN_LOGITS``, which a
basis in the environment sets.
"""

import os


def register() -> None:
    """Puts the SVF layers before vLLM's own adapter layers, guards, and makes experts known to its server by name."""
    # Every process of vLLM comes here, whether it runs experts or not.
    from vllm.lora import utils

    from t2.engine.vllm_svf import guard
    from t2.engine.vllm_svf.layers import SvfColumnLinear, SvfRowLinear
    from t2.engine.vllm_svf.slots import BASIS_VARIABLE, EXPERTS_VARIABLE

    own = (SvfColumnLinear, SvfRowLinear)
    utils._all_lora_classes = own + tuple(known for known in utils._all_lora_classes if known not in own)
    guard.install()
    if BASIS_VARIABLE in os.environ:
        guard.guard()
    if EXPERTS_VARIABLE in os.environ:
        from t2.engine.vllm_svf.served import ServedExperts, serve_experts

        serve_experts(ServedExperts.from_environment())
