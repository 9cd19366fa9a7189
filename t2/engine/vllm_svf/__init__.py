"""A vLLM plugin: the engine's adapter slots hold SVF experts, one a request, in mixed batches.

vLLM finds it by its entry point (group ``vllm.general_plugins``) in every one of its processes. It does nothing
unless the engine's ``additional_config`` names a basis cache (``svf_basis``), or the environment does
(``T2_SVF_BASIS``).
"""


def register() -> None:
    """Puts the SVF layers before vLLM's own adapter layers, and makes experts known to its server by name."""
    # Every process of vLLM comes here, whether it runs experts or not.
    from vllm.lora import utils
    from vllm.lora.resolver import LoRAResolverRegistry

    from t2.engine.vllm_svf.layers import SvfColumnLinear, SvfRowLinear
    from t2.engine.vllm_svf.resolver import ExpertResolver

    own = (SvfColumnLinear, SvfRowLinear)
    utils._all_lora_classes = own + tuple(known for known in utils._all_lora_classes if known not in own)
    resolver = ExpertResolver.from_environment()
    if resolver is not None:
        LoRAResolverRegistry.register_resolver("svf", resolver)
