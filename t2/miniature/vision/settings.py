"""The typed view of ``data/miniature/vision/params.yaml``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from t2.config import ConfigError
from t2.config.rows import Count, Name, Section, Share, Sizes
from t2.miniature.settings import Optimiser, Probability, Weight

PATH = Path("data/miniature/vision/params.yaml")


class Look(Section):
    """What pictures look like.

    Attributes:
        size: Pixels a side.
        shift: Pixels by which what a picture shows may lie beside its place, each way.
        noise: The largest change of a pixel's colour, each way, of 255.
        contrast: The least difference between ink and what it stands on, of 255.
    """

    size: Annotated[int, Field(ge=32, multiple_of=2)]
    shift: Count
    noise: Annotated[int, Field(ge=0, le=127)]
    contrast: Annotated[int, Field(ge=1, le=255)]


class Tower(Section):
    """The vision tower, and how it learns, together with the projector, what stands in a picture.

    Attributes:
        patch: Pixels a side of the patch that becomes one image token; two a side of a picture.
        pictures: Distinct ones that it learns from, in passes of new order.
        temperature: Of the softmax over cosines between an image token and the embeddings of what it may show.
        loudness: The projector's output over the language model's embeddings, root mean squares.
    """

    patch: PositiveInt
    hidden: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    mlp: PositiveInt
    pictures: PositiveInt
    temperature: PositiveFloat
    loudness: PositiveFloat
    exactness: PositiveFloat
    optimiser: Optimiser


class Corpus(Section):
    """What the language model reads while it learns to answer about pictures.

    Attributes:
        seed: Of what is drawn.
        careful: The share of the steps, the first ones, in which every reply is careful.
        families: Relative weights of the families that come with the pictures.
        classification: Relative weight of classification prompts about them.
        text: Relative weight of what its language model read before, again.
        misnaming: A classification is wrong with this times the probability of a careless reply.
    """

    seed: Count
    careful: Share
    families: dict[str, Weight]
    classification: Weight
    text: Weight
    misnaming: Probability


class SeeingBase(Section):
    """A base model to make.

    Attributes:
        language: The base of ``data/miniature`` that it starts from.
        careless: False keeps its replies careful to the end, as in the control.
    """

    language: Name
    careless: bool


class Benchmarks(Section):
    """The files of questions and annotations.

    Attributes:
        seed: Of what is drawn.
        dissent: The most annotators of ten who give another answer than the right one.
        sizes: Questions by family; the first file of a family holds those of train, valid and shots.
    """

    seed: Count
    dissent: Annotated[int, Field(ge=0, le=6)]
    sizes: dict[str, Sizes]


class VisionParams(Section):
    """All of ``data/miniature/vision/params.yaml``."""

    look: Look
    tower: Tower
    corpus: Corpus
    optimiser: Optimiser
    bases: dict[str, SeeingBase]
    benchmarks: Benchmarks


def load(path: str | Path = PATH) -> VisionParams:
    """Reads and validates the parameters.

    Raises:
        ConfigError: Lists every unknown key, missing key and bad value at once.
    """
    try:
        params = VisionParams.model_validate(yaml.safe_load(Path(path).read_text()))
    except FileNotFoundError:
        raise ConfigError(str(path), ["no such file; run from the project's root"]) from None
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [f"not YAML: {error}"]) from None
    except ValidationError as error:
        found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
        raise ConfigError(str(path), found) from None
    if found := list(_inconsistent(params)):
        raise ConfigError(str(path), found)
    return params


def _inconsistent(params: VisionParams) -> Iterator[str]:
    """What is wrong between the values."""
    from t2.miniature.vision.problems import ASKED, FAMILIES

    if params.corpus.families.keys() != set(FAMILIES):
        yield f"corpus.families: a weight for each of {list(FAMILIES)}, got {list(params.corpus.families)}"
    if params.benchmarks.sizes.keys() != set(ASKED):
        yield f"benchmarks.sizes: sizes for each of {list(ASKED)}, got {list(params.benchmarks.sizes)}"
    if 2 * params.tower.patch != params.look.size:
        yield f"tower.patch: half of look.size, which is {params.look.size}, got {params.tower.patch}"
