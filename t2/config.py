"""The typed view of ``params.yaml``: every number that someone may change, validated before any work starts.

Torch-free and cheap to import. :func:`load` reads a file, checks every section and every relation between
sections, and raises one :class:`ConfigError` that lists *all* that is wrong.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

Share = Annotated[float, Field(gt=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.-]*$")]
Kind = Literal["math", "boxed", "code", "choice"]
Reading = Literal["generation", "likelihood", "choice"]
Layout = Literal["miniature", "gsm8k", "math", "humaneval", "humaneval_plus", "mbpp", "mbpp_plus", "arc"]

_COMMIT = re.compile(r"[0-9a-f]{40}")

OTHER = "other"
"""The category that no expert serves: its prompts are answered by the base model."""
RESERVED = {OTHER, "classifier"}
"""Names of split folders that no task may have."""


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, one line each."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(
            f"{source} is not a valid configuration; {len(problems)} problem(s):\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )


class Section(BaseModel):
    """A block of ``params.yaml``: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Base(Section):
    """A base model: a local folder or a Hugging Face id with a pinned revision.

    ``quantisation``: its weights in 8 or 4 bits, see :mod:`t2.svf.quantised`; null: as ``dtype`` says.
    """

    name: Name
    path: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantisation: Literal["int8", "nf4"] | None = None

    @model_validator(mode="after")
    def _pinned(self) -> Base:
        if self.is_hub_id and not _COMMIT.fullmatch(self.revision or ""):
            raise ValueError(
                f"{self.path!r} is no folder here, so it is a Hugging Face id, whose files may change: set `revision` "
                "to a commit of it (40 hexadecimal digits, on its page under Files, History)"
            )
        return self

    @property
    def is_hub_id(self) -> bool:
        """Whether ``path`` is owner/name on the Hugging Face hub; a folder of that name comes first."""
        return re.fullmatch(r"[\w.-]+/[\w.-]+", self.path) is not None and not Path(self.path).is_dir()


class Sizes(Section):
    """Items drawn for each split of a task; a split of size 0 is an empty file."""

    train: Count
    valid: Count
    test: PositiveInt
    shots: Count


class Source(Section):
    """Where a task's items come from.

    ``miniature`` generates the named family. The other layouts read rows: ``train`` for the train, valid and
    shots splits and ``test`` for the test split. These name local files or, where ``hub`` is the id of a
    data set on the Hugging Face hub, its splits.
    """

    layout: Layout
    family: str | None = None
    train: str | None = None
    test: str | None = None
    hub: str | None = None
    subset: str | None = None
    revision: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Source:
        rows = (self.train, self.test, self.hub, self.subset, self.revision)
        if self.layout == "miniature":
            if self.family is None or any(rows):
                raise ValueError("layout 'miniature' takes `family` and neither files nor `hub`")
            return self
        if self.family is not None or not (self.train and self.test):
            raise ValueError(f"layout {self.layout!r} takes the files `train` and `test` and no `family`")
        if self.hub and not self.revision:
            raise ValueError(f"hub data set {self.hub!r} needs `revision`, a commit that fixes what is read")
        if not self.hub and (self.subset or self.revision):
            raise ValueError("`subset` and `revision` belong to a `hub` data set, and `hub` is not set")
        return self


class Task(Section):
    """A benchmark task: how its replies are graded, which expert family it belongs to, its items.

    Attributes:
        max_new_tokens: The longest reply.
        stop: Strings that end a reply where it comes to one, for models that go on after the answer.
    """

    kind: Kind
    family: Name
    source: Source
    sizes: Sizes
    max_new_tokens: PositiveInt
    stop: list[Annotated[str, Field(min_length=1)]] = []


class Other(Section):
    """Prompts that belong to no expert; only dispatchers are evaluated on them."""

    source: Source
    sizes: Sizes


class Splits(Section):
    """How splits are drawn."""

    seed: Count


class Svf(Section):
    """Where z vectors are put and how they are parametrised (paper, section 3.2 and table 6)."""

    target_modules: list[str] = Field(min_length=1)
    layers: Literal["all", "half"] | list[Count]
    parametrisation: Literal["direct", "sigmoid"]
    init_mean: float
    init_std: NonNegative
    max_mult: PositiveFloat
    renormalise: bool


class Lora(Section):
    """The LoRA baseline (paper, table 6)."""

    rank: PositiveInt
    alpha: PositiveFloat
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    target_modules: list[str] = Field(min_length=1)


class Training(Section):
    """What every trained adapter shares: optimiser, rollouts, reward and selection (paper, appendix A.1).

    A batch is learned from in micro-batches. Their sizes, checkpointing and chunks decide about memory and time; the
    gradient is the same, but for its last bits.

    Attributes:
        micro_batch: The most samples at once.
        micro_tokens: The most tokens at once: prompts, answers and padding. A sample of more is alone. Null: no limit.
        gradient_checkpointing: Keep only each decoder layer's input for the backward pass, and run the layer again
            there.
        logit_chunk: Answer tokens whose logits over the vocabulary exist at once. Null: all of a micro-batch.
    """

    seeds: list[Count] = Field(min_length=1)
    batch: PositiveInt
    micro_batch: PositiveInt
    micro_tokens: PositiveInt | None
    gradient_checkpointing: bool
    logit_chunk: PositiveInt | None
    weight_decay: NonNegative
    warmup_steps: Count
    temperature: NonNegative
    reward_right: float
    reward_wrong: float
    baseline: Literal["none", "mean"]
    normalise_rewards: bool
    kl_direction: Literal["policy_base", "base_policy"]
    valid_every: PositiveInt
    patience: PositiveInt | None
    checkpoint_every: PositiveInt
    threads: PositiveInt


class Recipe(Section):
    """What may differ from one trained adapter to the next."""

    method: Literal["svf", "lora"]
    objective: Literal["reinforce", "next_token"]
    steps: PositiveInt
    lr: PositiveFloat
    clip: PositiveFloat
    kl: NonNegative


class Classifier(Section):
    """The classifier expert: trained like the others on (prompt, category) pairs (paper, section 3.2 B)."""

    recipe: Recipe
    per_family: Sizes
    max_new_tokens: PositiveInt


class Cem(Section):
    """The cross-entropy search over mixing weights (paper, section 3.1 and appendix A.4)."""

    form: Literal["normalised", "free"]
    per_layer: bool
    include_base: bool
    renormalise: bool
    population: PositiveInt
    elite_share: Share
    generations: PositiveInt
    init_std: PositiveFloat
    min_std: NonNegative


class Adaptation(Section):
    """Few-shot adaptation: independent draws of the shots, each with its own search."""

    cem: Cem
    shots: PositiveInt
    draws: PositiveInt
    seed: Count


class Benchmark(Section):
    """How scores are measured and compared.

    Attributes:
        batch: Prompts side by side.
        bootstrap: Resamples of the items for the interval of a difference.
        seed: Of the resamples.
        dispatch: How the first pass of two is read, see :func:`t2.adaptation.dispatch.dispatch`; ``choice`` needs vLLM.
    """

    batch: PositiveInt
    bootstrap: PositiveInt
    seed: Count
    dispatch: Reading


class Sandbox(Section):
    """Limits of the processes in which generated code runs."""

    cpu_seconds: PositiveFloat
    wall_seconds: PositiveFloat
    memory_mb: PositiveInt
    file_mb: PositiveInt
    processes: PositiveInt
    output_kb: PositiveInt
    allow_unsafe: bool


class Vllm(Section):
    """How vLLM runs, and how experts live in it.

    Attributes:
        experts: ``folded``: an expert at a time, pushed as weights; for few experts and large batches.
            ``per_request``: experts in adapter slots, side by side in a batch.
        slots: Per request: different experts in one step; a whole CEM population should fit.
        max_num_seqs: Prompts side by side.
        max_num_batched_tokens: Tokens in one step; longer prompts are read in chunks. Null: vLLM's choice.
        max_model_len: Tokens of prompt and reply. Null: what the model allows.
        gpu_memory_utilisation: Share of the device's memory that vLLM takes, where ``kv_cache_gb`` is null.
        kv_cache_gb: Memory for keys and values.
        tensor_parallel: Devices that each hold a part of every matrix; of experts, only folded ones can be divided.
        own_process: Whether the engine runs beside the caller, not in it.
        sleep: Whether the engine leaves the device's memory to gradients between the rollouts of a training.
        eager: Run without compiled graphs; always so per request.
    """

    experts: Literal["folded", "per_request"]
    slots: PositiveInt
    max_num_seqs: PositiveInt
    max_num_batched_tokens: PositiveInt | None
    max_model_len: PositiveInt | None
    gpu_memory_utilisation: Share
    kv_cache_gb: PositiveFloat | None
    tensor_parallel: PositiveInt
    own_process: bool
    sleep: bool
    eager: bool


class Engine(Section):
    """What generates: transformers, or vLLM as ``vllm`` says."""

    name: Literal["hf", "vllm"]
    vllm: Vllm


class Execution(Section):
    """Where the work runs; no result depends on it.

    Attributes:
        workers: Seeds or draws side by side, each in a process with a model of its own.
        device: ``auto``: the GPU where there is one. ``spread``: a transformers model's layers divided among all GPUs;
            vLLM divides matrices instead, see ``engine.vllm.tensor_parallel``.
    """

    workers: PositiveInt
    device: Literal["auto", "cpu", "cuda", "spread"]


class Tracking(Section):
    """The MLflow store; ``uri`` null: ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the root of the main checkout."""

    uri: str | None
    experiment: str


class Plan(Section):
    """What ``make plan`` assumes, see :mod:`t2.plan`; no stage depends on it."""

    gpu: str
    compute: Share
    bandwidth: Share
    eigh: Share
    layer_ms: PositiveFloat
    prompt_tokens: PositiveInt
    reply_share: Share


class Params(Section):
    """All of ``params.yaml``."""

    base: Base
    control: Base | None
    trained: dict[Name, Task] = Field(min_length=1)
    unseen: dict[Name, Task]
    other: Other | None
    splits: Splits
    svf: Svf
    lora: Lora
    training: Training
    experts: dict[Name, Recipe]
    classifier: Classifier
    baselines: dict[Name, Recipe]
    adaptation: Adaptation
    benchmark: Benchmark
    sandbox: Sandbox
    engine: Engine
    execution: Execution
    tracking: Tracking
    plan: Plan

    @property
    def tasks(self) -> dict[str, Task]:
        """Trained and unseen tasks by name, trained ones first."""
        return {**self.trained, **self.unseen}

    @property
    def categories(self) -> list[str]:
        """What a dispatcher may answer: the experts' families, then ``other``."""
        return [*(task.family for task in self.trained.values()), OTHER]


def load(path: str | Path = "params.yaml") -> Params:
    """Reads and validates a parameter file.

    Args:
        path: The YAML file.

    Returns:
        The typed parameters.

    Raises:
        ConfigError: Lists every unknown key, missing key, bad value and broken relation at once.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise ConfigError(str(path), [f"no such file; run from the project's root (here: {os.getcwd()})"]) from None
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [f"not YAML: {error}"]) from None
    return parse(raw, source=str(path))


def parse(raw: Any, *, source: str = "params") -> Params:
    """Validates parameters that are already in memory; see :func:`load`."""
    if not isinstance(raw, dict):
        raise ConfigError(source, [f"expected a mapping of sections, got {type(raw).__name__}"])
    unknown = raw.keys() - Params.model_fields.keys()
    problems = [f"{name}: unknown section; remove it or correct its spelling" for name in unknown]
    valid: dict[str, Any] = {}
    for name, field in Params.model_fields.items():
        if name not in raw:
            problems.append(f"{name}: missing; every section is written out")
            continue
        try:
            valid[name] = TypeAdapter(cast(Any, field.annotation)).validate_python(raw[name])
        except ValidationError as error:
            problems += [_describe(name, entry) for entry in error.errors()]
    problems += _relations(valid)
    if problems:
        raise ConfigError(source, sorted(problems))
    return Params(**valid)


def _describe(section: str, entry: Any) -> str:
    """One pydantic error as 'where: what is wrong (got …)'."""
    where = ".".join(str(part) for part in (section, *entry["loc"]))
    if entry["type"] == "extra_forbidden":
        return f"{where}: unknown key; remove it or correct its spelling"
    if entry["type"] == "missing":
        return f"{where}: missing; every parameter is written out"
    return f"{where}: {entry['msg']} (got {entry['input']!r})"


def _relations(valid: dict[str, Any]) -> Iterator[str]:
    """Checks across sections, over those sections that are valid by themselves."""

    def has(*names: str) -> bool:
        return all(name in valid for name in names)

    if has("trained"):
        families = [task.family for task in valid["trained"].values()]
        if len(set(families)) < len(families):
            yield f"trained: each task needs a family of its own, got {families}"
        if OTHER in families:
            yield f"trained: the family {OTHER!r} is reserved for prompts that no expert serves"
        for name, task in valid["trained"].items():
            if not task.sizes.train or not task.sizes.valid:
                yield f"trained.{name}.sizes: a trained task needs train and valid items, got {task.sizes}"
    if has("trained", "unseen"):
        for name in (valid["trained"].keys() | valid["unseen"].keys()) & RESERVED:
            yield f"{name}: the name is reserved for splits that the pipeline makes; rename the task"
        for name in valid["trained"].keys() & valid["unseen"].keys():
            yield f"unseen.{name}: the name is also a trained task; scores are keyed by task name"
        families = [task.family for task in valid["trained"].values()]
        for name, task in valid["unseen"].items():
            if task.family not in families:
                yield f"unseen.{name}.family: {task.family!r} is no trained family; allowed: {families}"
    if has("trained", "experts") and valid["trained"].keys() != valid["experts"].keys():
        yield (
            f"experts: one recipe a trained task; trained has {sorted(valid['trained'])}, "
            f"experts has {sorted(valid['experts'])}"
        )
    if has("experts"):
        for name, recipe in valid["experts"].items():
            if recipe.method != "svf":
                yield f"experts.{name}.method: an expert is a z vector, so 'svf'; got {recipe.method!r}"
    if has("classifier") and valid["classifier"].recipe.method != "svf":
        yield f"classifier.recipe.method: an expert is a z vector, so 'svf'; got {valid['classifier'].recipe.method!r}"
    if has("unseen", "adaptation"):
        for name, task in valid["unseen"].items():
            if task.sizes.shots < valid["adaptation"].shots:
                yield (
                    f"unseen.{name}.sizes.shots: {task.sizes.shots} items cannot give a draw of "
                    f"adaptation.shots = {valid['adaptation'].shots}"
                )
    if has("engine"):
        vllm = valid["engine"].vllm
        if vllm.experts == "per_request" and vllm.tensor_parallel > 1:
            yield (
                f"engine.vllm.tensor_parallel: {vllm.tensor_parallel} devices, while experts per request need whole "
                "matrices; set it to 1, or engine.vllm.experts to 'folded'"
            )
    if has("engine", "benchmark") and valid["benchmark"].dispatch == "choice" and valid["engine"].name != "vllm":
        yield (
            f"benchmark.dispatch: 'choice' needs structured output, which engine.name {valid['engine'].name!r} does "
            "not offer; set 'generation' or 'likelihood', or engine.name to 'vllm'"
        )
    if has("engine") and valid["engine"].name == "vllm":
        for name in ("base", "control"):
            if valid.get(name) and valid[name].quantisation is not None:
                yield (
                    f"{name}.quantisation: {valid[name].quantisation} runs with transformers only; vLLM would quantise "
                    "in its own way, which experts are not made for; set engine.name to hf, or this to null"
                )
    if has("engine", "execution") and valid["engine"].name == "vllm":
        vllm, workers = valid["engine"].vllm, valid["execution"].workers
        if vllm.kv_cache_gb is None and workers * vllm.gpu_memory_utilisation > 1:
            yield (
                f"engine.vllm.gpu_memory_utilisation: {workers} engines side by side (execution.workers) would take "
                f"{workers} times {vllm.gpu_memory_utilisation} of the memory; lower one of them, or set kv_cache_gb"
            )
        if vllm.sleep and valid["execution"].device == "cpu":
            yield (
                "engine.vllm.sleep: true, while execution.device is 'cpu', whose memory vLLM cannot give back; set it "
                "to false"
            )
    if has("base", "control") and valid["control"] and valid["base"].name == valid["control"].name:
        yield f"control.name: {valid['control'].name!r} is also the base's name; scores are keyed by it"
    if has("training"):
        training = valid["training"]
        if len(set(training.seeds)) < len(training.seeds):
            yield f"training.seeds: seeds repeat: {training.seeds}"
        if training.micro_batch > training.batch:
            yield f"training.micro_batch: {training.micro_batch} is more than training.batch = {training.batch}"
