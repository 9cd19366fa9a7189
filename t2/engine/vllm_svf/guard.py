"""Requests whose logits are not finite end with an error, alone.

Left to itself, vLLM answers them with whatever token comes first, and leaves their keys and values in blocks that it
gives to others later: attention multiplies what a request does not use by zero, and zero times infinity is not a
number. Here vLLM empties each block before it is used again, as it does for models with recurrent states, and ends
requests by its own count of values that are not numbers, which it takes where ``VLLM_COMPUTE_NANS_IN_LOGITS`` is set.
"""

from __future__ import annotations

import os
from typing import Any

from vllm import envs
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import KVCacheConfig

COUNT_VARIABLE = "VLLM_COMPUTE_NANS_IN_LOGITS"

_needs_zeroing = KVCacheConfig.needs_kv_cache_zeroing.fget
_update_from_output = Scheduler.update_from_output


def guard() -> None:
    """Guards the engines that this process is yet to start, in it and in processes of their own."""
    install()
    os.environ.setdefault(COUNT_VARIABLE, "1")


def install() -> None:
    """Puts the guard into vLLM, where it acts if the environment of :func:`guard` says so."""
    KVCacheConfig.needs_kv_cache_zeroing = property(needs_zeroing)
    Scheduler.update_from_output = update_from_output


def needs_zeroing(config: KVCacheConfig) -> bool:
    """Whether blocks are emptied before they are used."""
    return envs.VLLM_COMPUTE_NANS_IN_LOGITS or _needs_zeroing(config)


def update_from_output(scheduler: Scheduler, planned: Any, output: Any) -> Any:
    """What vLLM does after a step, with an error in place of the token for requests without finite logits."""
    broken = {request for request, count in (output.num_nans_in_logits or {}).items() if count}
    for request in broken:
        if output.sampled_token_ids:
            output.sampled_token_ids[output.req_id_to_index[request]] = []
        output.prompt_logprobs_dict.pop(request, None)
    # The set of requests that end with an error in this step, whatever the reason.
    scheduler.grammar_compile_error_reqs |= broken
    return _update_from_output(scheduler, planned, output)
