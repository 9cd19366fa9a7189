"""The finished two-pass system: base model, experts, classifier expert and the α that searches found."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2.adaptation.two_pass import TwoPass, generate_two_pass
from t2.config import Params
from t2.engine.base import Sampling
from t2.engine.hf import HfEngine, load_base
from t2.svf import SvfConfig, attach, load_expert, mix_by_name, stack
from t2.svf.experts import Form
from t2.svf.quantised import Quantisation

STRATEGIES = ("classifier", "prompt", "fewshot")
MIX = "mix"
"""The category of a reply that a found α gave."""


@dataclass(frozen=True)
class Settings:
    """How the system runs; plain values, so that a logged model can carry them.

    Attributes:
        base: Folder or Hugging Face id of the base model.
        revision: Of a Hugging Face id.
        dtype: Of the base weights.
        basis: The base's basis cache; None: bases are computed when the system is loaded.
        families: What the first pass calls each expert, by task.
        dispatch_tokens: The longest answer of the first pass.
        batch: Prompts side by side.
        form: Of the found α.
        renormalise: Whether their free form is rescaled.
        device: As ``execution.device``.
        quantisation: Of the base weights.
    """

    base: str
    revision: str | None
    dtype: str
    basis: str | None
    families: dict[str, str]
    dispatch_tokens: int
    batch: int
    form: Form
    renormalise: bool
    device: str = "auto"
    quantisation: Quantisation | None = None

    @classmethod
    def of(cls, params: Params, basis: Path | None) -> Settings:
        """Those of a project and its basis cache; local folders become absolute."""
        base = Path(params.base.path)
        return cls(
            base=str(base.resolve()) if base.is_dir() else params.base.path,
            revision=params.base.revision,
            dtype=params.base.dtype,
            basis=None if basis is None else str(basis.resolve()),
            families={task: declared.family for task, declared in params.trained.items()},
            dispatch_tokens=params.classifier.max_new_tokens,
            batch=params.benchmark.batch,
            form=params.adaptation.cem.form,
            renormalise=params.adaptation.cem.renormalise,
            device=params.execution.device,
            quantisation=params.base.quantisation,
        )


class TwoPassSystem:
    """Answers prompts in two passes (paper, section 3.2).

    Args:
        settings: How it runs.
        experts: Adapter folder of each expert, by task.
        classifier: That of the classifier expert; None where the strategy ``classifier`` is not asked for.
        alphas: The outcome of a few-shot search, ``alpha.json``, by unseen task.

    Raises:
        FileNotFoundError: The base model is not there.
        ValueError: A folder holds no expert, or the basis belongs to other weights.
    """

    def __init__(
        self,
        settings: Settings,
        experts: Mapping[str, Path],
        classifier: Path | None = None,
        alphas: Mapping[str, Path] | None = None,
    ) -> None:
        self.settings = settings
        self._alphas = {task: json.loads(path.read_text())["alpha"] for task, path in (alphas or {}).items()}
        first = load_expert(next(iter(experts.values())))
        config = SvfConfig(target_modules=list(first.z), basis=settings.basis)
        model, tokenizer = load_base(
            settings.base,
            settings.dtype,
            settings.revision,
            quantisation=settings.quantisation,
            device=settings.device,
        )
        adapted: Any = attach(model, config)
        base = adapted.matrices()
        self._experts = {task: load_expert(folder, base).z for task, folder in experts.items()}
        self._classifier = None if classifier is None else load_expert(classifier, base).z
        self._engine = HfEngine(adapted, tokenizer, batch_size=settings.batch)

    def answer(
        self, prompts: Sequence[str], sampling: Sampling, strategy: str = "classifier", task: str = ""
    ) -> TwoPass:
        """Answers prompts, in their order.

        Args:
            prompts: Texts as users type them.
            sampling: How tokens of the replies are chosen.
            strategy: ``classifier`` or ``prompt``: who names the expert of each prompt in a first pass.
                ``fewshot``: the α that was found for ``task`` mixes one expert for all of them.
            task: The unseen task whose α is taken.

        Raises:
            ValueError: An unknown strategy, no classifier expert, or no α for the task.
        """
        if strategy == "fewshot":
            return self._mixed(prompts, sampling, task)
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy is {strategy!r}; allowed: {', '.join(STRATEGIES)}")
        if strategy == "classifier" and self._classifier is None:
            raise ValueError("the system has no classifier expert; train one, or use the strategy 'prompt'")
        return generate_two_pass(
            self._engine,
            prompts,
            sampling,
            {self.settings.families[task]: z for task, z in self._experts.items()},
            dispatch_tokens=self.settings.dispatch_tokens,
            classifier=self._classifier if strategy == "classifier" else None,
        )

    def _mixed(self, prompts: Sequence[str], sampling: Sampling, task: str) -> TwoPass:
        if task not in self._alphas:
            raise ValueError(f"no α was searched for task {task!r}; there is one for {', '.join(self._alphas)}")
        alpha, settings = self._alphas[task], self.settings
        start = time.perf_counter()
        sigma = self._engine.model.sigmas() if settings.form == "free" else None
        z = mix_by_name(self._experts, alpha, settings.form, sigma, settings.renormalise)
        between = time.perf_counter()
        replies = self._engine.generate(prompts, sampling, experts=stack([z]), rows=[0] * len(prompts))
        end = time.perf_counter()
        return TwoPass(replies, [MIX] * len(prompts), between - start, end - between, alpha)
