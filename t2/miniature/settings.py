"""The typed view of ``data/miniature/params.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from t2.config import ConfigError
from t2.config.rows import Count, Section, Share

PATH = Path("data/miniature/params.yaml")

Weight = Annotated[float, Field(ge=0.0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Architecture(Section):
    """The Llama that is pretrained; embeddings are tied."""

    vocabulary: Annotated[int, Field(ge=512)]
    context: Annotated[int, Field(ge=1024)]
    hidden: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    mlp: PositiveInt
    init_std: PositiveFloat


class Shape(Section):
    """What another shape than that of :class:`Architecture` differs in; null: nothing."""

    hidden: PositiveInt | None = None
    layers: PositiveInt | None = None
    heads: PositiveInt | None = None
    kv_heads: PositiveInt | None = None
    mlp: PositiveInt | None = None


class Corpus(Section):
    """What the bases read.

    Attributes:
        seed: Of what is drawn, and of the tokenizer that all bases share.
        careful: The share of the steps, the first ones, in which every reply is careful.
        drills_careful: Share of bare equations among the samples of that phase.
        drills_mixed: The same for the rest of the steps.
        families: Relative weights of problem families that are answered.
        classification: Relative weight of classification prompts, about problems of all families.
        misnaming: A classification is wrong with this times the probability of a careless reply.
    """

    seed: Count
    careful: Share
    drills_careful: Probability
    drills_mixed: Probability
    families: dict[str, Weight]
    classification: Weight
    misnaming: Probability


class Optimiser(Section):
    """Muon for the matrices inside the layers, AdamW for embeddings and norms.

    Attributes:
        warmup: Steps in which the learning rates rise.
        decay: Share of the steps, at the end, in which they fall linearly to zero.
    """

    seed: Count
    threads: PositiveInt
    steps: PositiveInt
    batch: PositiveInt
    warmup: Count
    muon_lr: PositiveFloat
    adamw_lr: PositiveFloat
    clip: PositiveFloat
    decay: Share


class Base(Section):
    """A base model to make.

    Attributes:
        careless: False keeps its replies careful to the end, as in the control.
        seed: Of its problems and weights, in place of ``corpus.seed`` and ``optimiser.seed``; null: those.
        shape: What differs from ``architecture``.
    """

    careless: bool
    seed: Count | None = None
    shape: Shape = Shape()


class MiniatureParams(Section):
    """All of ``data/miniature/params.yaml``."""

    architecture: Architecture
    corpus: Corpus
    optimiser: Optimiser
    bases: dict[str, Base]

    def architecture_of(self, base: str) -> Architecture:
        """The shape of one base."""
        return self.architecture.model_copy(update=self.bases[base].shape.model_dump(exclude_none=True))

    def seed_of(self, base: str) -> int:
        """The seed of one base's problems."""
        seed = self.bases[base].seed
        return self.corpus.seed if seed is None else seed

    def seeds(self) -> list[int]:
        """Of the problems of all bases, each once."""
        return sorted({self.seed_of(base) for base in self.bases})


def load(path: str | Path = PATH) -> MiniatureParams:
    """Reads and validates the parameters.

    Raises:
        ConfigError: Lists every unknown key, missing key and bad value at once.
    """
    from t2.miniature.problems import FAMILIES

    try:
        params = MiniatureParams.model_validate(yaml.safe_load(Path(path).read_text()))
    except FileNotFoundError:
        raise ConfigError(str(path), ["no such file; run from the project's root"]) from None
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [f"not YAML: {error}"]) from None
    except ValidationError as error:
        found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
        raise ConfigError(str(path), found) from None
    if params.corpus.families.keys() != set(FAMILIES):
        raise ConfigError(
            str(path),
            [f"corpus.families: a weight for each of {list(FAMILIES)}, got {list(params.corpus.families)}"],
        )
    return params
