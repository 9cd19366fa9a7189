"""What an inference engine offers, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from t2.config.rows import Reward
from t2.tasks.prompt import Image, Prompt

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[int], None]
"""Told the number of prompts that were just finished."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: The longest reply, EOS included.
        temperature: 0 takes the likeliest token; above 0, samples from the softmax of logits / temperature.
        seed: Seeds the sampling. A prompt's random numbers depend on the seed and its index in the call only.
        stop: A reply ends with the token that completes one of these strings in its text; the text ends before it.
        choices: The only texts that a reply may have, for engines with structured output; empty: any text.
    """

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: Names the setting, its value and what is allowed.
        """
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be 0 (greedy) or above, and finite")
        if not all(self.stop) or not all(self.choices):
            raise ValueError(f"stop is {self.stop}, choices are {self.choices}; none of these strings may be empty")

    @classmethod
    def of(cls, reward: Reward, *, temperature: float = 0.0, seed: int = 0) -> Sampling:
        """Within a task's limits: its longest reply, and the strings that end one. Greedy unless told otherwise."""
        return cls(reward.max_new_tokens, temperature, seed, tuple(reward.stop))


@dataclass(frozen=True, slots=True)
class Generation:
    """One reply.

    Attributes:
        text: The reply without special tokens, and without the string that stopped it.
        tokens: Its token ids, with EOS or the stop string where it came to one.
        logprobs: The log-probability of each of them at temperature 1, in nats.
        finished: Whether it came to its end, by EOS or a stop string.
        prompt_tokens: The prompt's length with the chat template around it.
        too_long: The prompt leaves no room for ``max_new_tokens`` in the context, so nothing was generated.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool
    prompt_tokens: int
    too_long: bool = False


class Engine(Protocol):
    """A model that answers prompts, each under its own expert."""

    tokenizer: PreTrainedTokenizerBase

    @property
    def context(self) -> int:
        """The most tokens that prompt and reply may have together."""
        ...

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of prompts within the chat template, up to where the reply starts."""
        ...

    def inputs(self, ids: Tensor, images_of: Sequence[Sequence[Image]]) -> Mapping[str, Tensor]:
        """What the model is given of encoded prompts and what follows them, for who runs it without the engine.

        Args:
            ids: (B, T).
            images_of: What each prompt shows.

        Returns:
            The model's arguments: the ids; or embeddings (B, T, hidden), where something is shown.
        """
        ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        experts: Mapping[str, Tensor] | None = None,
        rows: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> list[Generation]:
        """Answers prompts, in their order.

        Args:
            prompts: Texts as a user types them, or messages; the chat template is applied here.
            sampling: How tokens are chosen.
            experts: z of E experts, (E, r), by module name. None: the model as its active adapter stands.
            rows: With ``experts``: the expert of each prompt, in [0, E); −1 is the base.
            progress: Called as prompts are finished.
        """
        ...

    def score(
        self,
        prompts: Sequence[Prompt],
        choices: Sequence[str],
        *,
        experts: Mapping[str, Tensor] | None = None,
        rows: Sequence[int] | None = None,
    ) -> list[list[float]]:
        """How likely each of a few replies is to each prompt, without decoding.

        What counts are the tokens that tell it from the others, from the first that not all of them share to the one
        with which it is alone: what all begin with, and what follows then, is no choice.

        Args:
            prompts: Texts as a user types them, or messages.
            choices: C different replies.
            experts: As in :meth:`generate`.
            rows: As in :meth:`generate`.

        Returns:
            Log-probabilities at temperature 1, summed over tokens, in nats: C for each prompt, all −∞ where the
            context cannot hold one of them.
        """
        ...

    def read(
        self,
        prompts: Sequence[Prompt],
        replies: Sequence[str],
        *,
        experts: Mapping[str, Tensor] | None = None,
        rows: Sequence[int] | None = None,
    ) -> list[list[float]]:
        """How likely a given reply to each prompt is, token by token.

        Args:
            prompts: Texts as a user types them, or messages.
            replies: One to each prompt.
            experts: As in :meth:`generate`.
            rows: As in :meth:`generate`.

        Returns:
            Log-probabilities at temperature 1 of each reply's tokens, the one that ends it included, in nats; none
            where the context cannot hold it.
        """
        ...


def fit_to_context(
    encoded: Sequence[Sequence[int]], sampling: Sampling, context: int, progress: Progress | None
) -> tuple[list[Generation], list[int]]:
    """Tells which prompts leave room for a reply, and fills in a reply that says "too long" for every prompt.

    Args:
        encoded: The prompts' token ids.
        sampling: Says how much room a reply needs.
        context: The most tokens that prompt and reply may have together.
        progress: Told of the prompts that leave no room, which are finished with.

    Returns:
        A reply per prompt, each marked as too long; and the indices of the prompts that fit, whose replies the engine
        puts in place.
    """
    replies = [Generation("", (), (), False, len(ids), too_long=True) for ids in encoded]
    fitting = [i for i, ids in enumerate(encoded) if len(ids) + sampling.max_new_tokens <= context]
    if progress and len(fitting) < len(encoded):
        progress(len(encoded) - len(fitting))
    return replies, fitting


def check_rows(prompts: Sequence[Prompt], experts: Mapping[str, Tensor] | None, rows: Sequence[int] | None) -> None:
    """Raises ValueError unless experts come with one row per prompt, or neither comes."""
    if (experts is None) != (rows is None):
        raise ValueError("experts and rows go together: pass both, or neither for the model as it stands")
    if rows is not None and len(rows) != len(prompts):
        raise ValueError(f"rows must name one expert per prompt: got {len(rows)} for {len(prompts)} prompts")
