"""The rows of ``params.yaml``, typed: what an experiment consists of, and every number that someone may change.

A row says what it is and names other rows; no field has a default, so that a file says all that its results depend
on. Rows are read, never changed: a file that is loaded and dumped is the file that it was.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    Tag,
    model_validator,
)

Share = Annotated[float, Field(gt=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
"""Of a row; it becomes a folder, an MLflow model and a part of a stage's name."""
Text = Annotated[str, Field(min_length=1)]
Kind = Literal["math", "boxed", "code", "choice", "vqa"]
Reading = Literal["generation", "likelihood", "choice"]
Form = Literal["normalised", "free"]


def _entry(value: Any, name: str) -> Any:
    """Of a row as it is read, or typed already."""
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def _word_or_list(value: Any) -> str:
    return "<list>" if isinstance(value, list) else "<word>"


# Tags say which member of a union a value is meant to be, so that what is wrong with it is said once.
Layers = Annotated[
    Annotated[Literal["all", "half"], Tag("<word>")] | Annotated[list[Count], Tag("<list>")],
    Discriminator(_word_or_list),
]
Tasks = Annotated[
    Annotated[Literal["all"], Tag("<word>")] | Annotated[list[Name], Tag("<list>")],
    Discriminator(_word_or_list),
]

OTHER = "other"
"""The category that no expert serves: its prompts are answered by the base model."""

SVF = "svf"
"""The method whose adapters can be mixed in every form, chosen prompt by prompt, and moved to another base."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


class Section(BaseModel):
    """A block of ``params.yaml``: frozen, taken as it stands, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Base(Section):
    """A base model: a local folder or a Hugging Face id with a pinned revision.

    Attributes:
        label: What tables call it.
        path: The folder, or owner/name.
        revision: The commit of a Hugging Face id.
        dtype: What its weights are loaded in.
        quantisation: Its linear layers in 8 or 4 bits, see :mod:`t2.svf.quantised`; null: as ``dtype`` says.
        prompting: ``chat``: within its own chat template. ``completion``: as plain text, for a model without one.
        files: What DVC watches in its place: the folder, or for a Hugging Face id, whose commit says all, any file.
        adapt: Names of the modules whose weights are decomposed.
        layers: The decoder layers in which they are.
    """

    label: Text
    path: Text
    revision: str | None
    dtype: Literal["float32", "bfloat16", "float16"]
    quantisation: Literal["int8", "nf4"] | None
    prompting: Literal["chat", "completion"]
    files: Text
    adapt: list[Text] = Field(min_length=1)
    layers: Layers

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


class Vision(Section):
    """What an image-text-to-text model is shown; splits that show more are refused.

    Attributes:
        formats: Of image files, as Pillow calls them.
        modes: Of pixels, as Pillow calls them, that may become RGB: ``L``, ``P``, ``1``.
        max_bytes: Of a file.
        max_pixels: Width times height, read from a file's header before anything is decoded.
        features_mb: Memory for features of images that are kept, so that each image is looked at once; no result
            depends on it.
    """

    formats: list[Literal["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"]] = Field(min_length=1)
    modes: list[Literal["1", "L", "P", "RGB", "CMYK", "YCbCr"]] = Field(min_length=1)
    max_bytes: PositiveInt
    max_pixels: PositiveInt
    features_mb: PositiveInt


class SeeingBase(Base):
    """An image-text-to-text model, whose language layers alone are adapted.

    Attributes:
        vision: What it is shown.
    """

    vision: Vision


AnyBase = Annotated[
    Annotated[Base, Tag("<text>")] | Annotated[SeeingBase, Tag("<seeing>")],
    Discriminator(lambda value: "<text>" if _entry(value, "vision") is None else "<seeing>"),
]


class Example(Section):
    """A worked example of a prompt: what a user asks, and the reply."""

    user: Text
    reply: Text


class Prompt(Section):
    """How a row becomes a prompt.

    Attributes:
        system: The system message; null: none.
        user: The user's message: a template over the fields of the task's layout, ``{question}``; a literal brace is
            doubled.
        examples: Turns that come before it.
        prefix: How the reply opens; the model goes on from there. Null: it opens as it likes.
    """

    system: str | None
    user: Text
    examples: list[Example]
    prefix: str | None


class Generated(Section):
    """Items that the miniature's generators make."""

    layout: Literal["miniature"]
    family: Text


class Files(Section):
    """Rows of local benchmark files; ``train`` is for the train, valid and shots splits."""

    layout: Literal["gsm8k", "math", "humaneval", "humaneval_plus", "mbpp", "mbpp_base", "mbpp_plus", "arc"]
    train: Text
    test: Text


class Hub(Files):
    """Rows of a data set on the Hugging Face hub: ``train`` and ``test`` name its splits, ``revision`` a commit."""

    hub: Text
    subset: str | None
    revision: Text


class TextVqaPart(Section):
    """Part of TextVQA.

    Attributes:
        questions: ``TextVQA_0.5.1_train.json``, with answers.
        images: The folder with ``<image_id>.jpg``.
        ocr: ``TextVQA_Rosetta_OCR_v0.2_train.json``, whose tokens a prompt may then name, ``{ocr}``; null: none.
    """

    questions: Text
    images: Text
    ocr: Text | None


class TextVqa(Section):
    """Local files of TextVQA (https://textvqa.org); ``train`` is for the train, valid and shots splits."""

    layout: Literal["textvqa"]
    train: TextVqaPart
    test: TextVqaPart


class OkVqaPart(Section):
    """Part of OK-VQA.

    Attributes:
        questions: ``OpenEnded_mscoco_train2014_questions.json``.
        annotations: ``mscoco_train2014_annotations.json``; null: questions alone, for role ``other``.
        images: COCO's folder, with ``COCO_train2014_<image_id>.jpg``; null: nothing is shown.
    """

    questions: Text
    annotations: Text | None
    images: Text | None


class OkVqa(Section):
    """Local files of OK-VQA (https://okvqa.allenai.org); ``train`` is for the train, valid and shots splits."""

    layout: Literal["okvqa"]
    train: OkVqaPart
    test: OkVqaPart


Asking = TextVqa | OkVqa
"""Sources of questions about images."""


class Dispatching(Section):
    """Which category does a prompt belong to? Items are made of those of other tasks, split by split.

    Attributes:
        tasks: Rows of the roles ``trained`` and ``other``; their families, in this order, are the categories.
    """

    layout: Literal["dispatch"]
    tasks: list[Name] = Field(min_length=1)


class Rotated(Section):
    """Items of a task of choices with every option some places further on, split by split.

    How far a score hangs on where the answers stand.

    Attributes:
        task: The row of that task.
        by: Places.
    """

    layout: Literal["rotated"]
    task: Name
    by: PositiveInt


class Redrawn(Section):
    """Items of a task of choices with answers drawn at random among the options, split by split.

    A control: what is gained by learning from these is not learned from rewards.

    Attributes:
        task: The row of that task.
        seed: Of the answers.
    """

    layout: Literal["redrawn"]
    task: Name
    seed: Count


Derived = Rotated | Redrawn
"""Sources whose questions are those of another task; its sizes are at most that one's."""


def _source(value: Any) -> str:
    if (layout := _entry(value, "layout")) in ("miniature", "textvqa", "okvqa", "dispatch", "rotated", "redrawn"):
        return f"<{layout}>"
    return "<files>" if _entry(value, "hub") is None else "<hub>"


Source = Annotated[
    Annotated[Generated, Tag("<miniature>")]
    | Annotated[Hub, Tag("<hub>")]
    | Annotated[Files, Tag("<files>")]
    | Annotated[TextVqa, Tag("<textvqa>")]
    | Annotated[OkVqa, Tag("<okvqa>")]
    | Annotated[Dispatching, Tag("<dispatch>")]
    | Annotated[Rotated, Tag("<rotated>")]
    | Annotated[Redrawn, Tag("<redrawn>")],
    Discriminator(_source),
]


class Sizes(Section):
    """Items drawn for each split of a task; a split of size 0 is an empty file.

    For layout ``dispatch``: items per task that it is made of; of role ``other``, as many as there are up to that. Who
    is to learn ``other`` needs sizes train and valid of that task.
    """

    train: Count
    valid: Count
    test: PositiveInt
    shots: Count


class Reward(Section):
    """What a reply is worth, and where it ends.

    Attributes:
        kind: How it is graded.
        right: The reward of a right reply.
        wrong: That of any other.
        stop: Strings that end a reply where it comes to one, for models that go on after the answer.
        max_new_tokens: The longest reply.
    """

    kind: Kind | Literal["dispatch"]
    right: float
    wrong: float
    stop: list[Text]
    max_new_tokens: PositiveInt


class VqaReward(Reward):
    """What an answer to a question about an image is worth; systems are measured by its accuracy, a share.

    Attributes:
        pass_mark: The least accuracy that is right, for rewards, validation and searches.
        statement: Whether a reply has to say "The answer is …"; else all of it is the answer, as VQA has it.
    """

    pass_mark: Share
    statement: bool


AnyReward = Annotated[
    Annotated[Reward, Tag("<plain>")] | Annotated[VqaReward, Tag("<vqa>")],
    Discriminator(lambda value: "<vqa>" if _entry(value, "kind") == "vqa" else "<plain>"),
]


class Task(Section):
    """A benchmark task, as a declaration.

    Attributes:
        role: ``trained``: an expert may be trained on it. ``unseen``: none is. ``other``: prompts that no expert
            serves, which only dispatchers see. ``dispatch``: naming a prompt's category.
        family: The category of its prompts, and so the expert nearest to it; the truth for dispatchers.
        prompt: How its rows become prompts.
        source: Where they come from.
        sizes: Of its splits.
        reward: Of replies; null for role ``other``, which nobody answers for a reward.
    """

    role: Literal["trained", "unseen", "other", "dispatch"]
    family: Name
    prompt: Prompt
    source: Source
    sizes: Sizes
    reward: AnyReward | None


class Train(Section):
    """How an adapter is trained, as far as recipes differ.

    Attributes:
        objective: ``reinforce``: from sampled replies. ``expected_reward``: the same expectation in closed form, for
            a choice that is one token behind the prompt's ``prefix``. ``next_token``: from worked replies.
        steps: Updates.
        batch: Samples per step.
        samples: Of each prompt, in rollouts: a step has ``batch / samples`` prompts. Other objectives take one.
        lr: Learning rate of the first of them.
        clip: The gradient's largest norm.
        kl: The weight λ of the divergence from the base model.
    """

    objective: Literal["reinforce", "expected_reward", "next_token"]
    steps: PositiveInt
    batch: PositiveInt
    samples: PositiveInt
    lr: PositiveFloat
    clip: PositiveFloat
    kl: NonNegative


class Recipe(Section):
    """An adapter's PEFT configuration, and how it is trained.

    Attributes:
        peft: ``peft_type`` and the keys of that method's configuration class.
        layers: The decoder layers that are adapted.
        train: Objective and optimiser.
        seeds: One adapter is trained per seed.
    """

    peft: dict[str, Any]
    layers: Layers
    train: Train
    seeds: list[Count] = Field(min_length=1)

    @property
    def method(self) -> str:
        """The PEFT method, in lower case: ``svf``, ``lora``."""
        return str(self.peft.get("peft_type", "")).lower()


class Training(Section):
    """What every trained adapter shares: optimiser, rollouts and selection (paper, appendix A.1).

    A batch is learned from in micro-batches. Their sizes, checkpointing and chunks decide about memory and time; the
    gradient is the same, but for its last bits.

    Attributes:
        generation_batch: Prompts side by side in rollouts and validation.
        micro_batch: The most samples at once.
        micro_tokens: The most tokens at once: prompts, answers and padding. A sample of more is alone. Null: no limit.
        gradient_checkpointing: Keep only each decoder layer's input for the backward pass, and run the layer again
            there.
        logit_chunk: Answer tokens whose logits over the vocabulary exist at once. Null: all of a micro-batch.
        weight_decay: Decoupled (AdamW), towards the base model: SVF's z towards 1.
        baseline: What rewards are compared with: nothing, the batch's mean, or that of a prompt's samples (``group``).
        kl_every: Every how many steps the divergence is measured where its weight is 0. Null: never.
        threads: Per process, in training, searching and measuring.
    """

    generation_batch: PositiveInt
    micro_batch: PositiveInt
    micro_tokens: PositiveInt | None
    gradient_checkpointing: bool
    logit_chunk: PositiveInt | None
    weight_decay: NonNegative
    warmup_steps: Count
    temperature: NonNegative
    baseline: Literal["none", "mean", "group"]
    normalise_rewards: bool
    kl_direction: Literal["policy_base", "base_policy"]
    kl_every: PositiveInt | None
    valid_every: PositiveInt
    patience: PositiveInt | None
    checkpoint_every: PositiveInt
    threads: PositiveInt


class Adapter(Section):
    """What is trained: a recipe on a task, on a base model."""

    base: Name
    recipe: Name
    task: Name


class Copied(Section):
    """Nothing changes but the base that it runs on."""

    kind: Literal["copied"]


class Shuffled(Section):
    """The numbers of each z in another order: a control, which keeps all but where they belong."""

    kind: Literal["shuffled"]
    seed: Count


class Resampled(Section):
    """Carried over to matrices of other shapes and depths, by share of the components and of the layers."""

    kind: Literal["resampled"]


class Negated(Section):
    """The opposite change, 2 − z."""

    kind: Literal["negated"]


class Largest(Section):
    """Only the components that change the weights most, by |σ(z − 1)|; z = 1 elsewhere.

    Attributes:
        share: Of all components, over all matrices.
    """

    kind: Literal["largest"]
    share: Share


class Summed(Section):
    """Its change and those of other adapters of its base, all whole: 1 + Σ (z − 1). Equal parts are a uniform mix.

    Attributes:
        others: What is added to it.
    """

    kind: Literal["summed"]
    others: list[Name] = Field(min_length=1)


Change = Annotated[
    Annotated[Copied, Tag("<copied>")]
    | Annotated[Shuffled, Tag("<shuffled>")]
    | Annotated[Resampled, Tag("<resampled>")]
    | Annotated[Negated, Tag("<negated>")]
    | Annotated[Largest, Tag("<largest>")]
    | Annotated[Summed, Tag("<summed>")],
    Discriminator(
        lambda value: f"<{_entry(value, 'kind')}>",
        custom_error_type="change",
        custom_error_message="`kind` is one of copied, shuffled, resampled, negated, largest, summed",
    ),
]


class DerivedAdapter(Adapter):
    """An SVF adapter that is made of a trained one, on its base or on another.

    Its recipe has the PEFT configuration of that one's, and of its seeds all or some.

    Attributes:
        of: The adapter that it is made of.
        change: What becomes of its z.
    """

    of: Name
    change: Change

    @property
    def others(self) -> list[str]:
        """Further adapters that it is made of, seed by seed."""
        return self.change.others if isinstance(self.change, Summed) else []


AnyAdapter = Annotated[
    Annotated[Adapter, Tag("<trained>")] | Annotated[DerivedAdapter, Tag("<derived>")],
    Discriminator(lambda value: "<trained>" if _entry(value, "of") is None else "<derived>"),
]


class Set(Section):
    """Adapters that are chosen from, or mixed; listed by name, since DVC does not notice a folder's missing one."""

    members: list[Name] = Field(min_length=1)


class Accuracy(Section):
    """A candidate's score is its share of right replies; the likelihood of the right ones breaks ties.

    Attributes:
        temperature: 0: the likeliest reply. Above, sampled ones.
        samples: Replies to each shot; of the likeliest there is one.
    """

    kind: Literal["accuracy"]
    temperature: NonNegative
    samples: PositiveInt


class Likelihood(Section):
    """A candidate's score is the likelihood of the shots' worked replies: the geometric mean over their tokens."""

    kind: Literal["likelihood"]


Objective = Annotated[
    Annotated[Accuracy, Tag("<accuracy>")] | Annotated[Likelihood, Tag("<likelihood>")],
    Discriminator(
        lambda value: f"<{_entry(value, 'kind')}>",
        custom_error_type="objective",
        custom_error_message="`kind` is one of accuracy, likelihood",
    ),
]


class Budget(Section):
    """A search for mixing weights (paper, section 3.1 and appendix A.4), and how much of it.

    Attributes:
        algorithm: ``cem``: the cross-entropy method. ``random``: every generation is drawn as its first one is.
        form: Of the mix: ``normalised``, or ``free``.
        granularity: Weights per expert: ``one``, one per ``layer``, or one per ``matrix``.
        include_base: The base model takes part in the mix.
        renormalise: Rescale each matrix of the free form by Σσ / Σσz'.
        objective: What candidates are scored by.
        split: Where the shots come from; settings are compared on ``valid``, then used on ``shots``.
        shots: Held-out prompts that candidates are scored on.
        draws: Searches per seed of the experts, each on shots of its own.
        seed: Of the draws and the searches.
        population: Candidates per generation.
        elite_share: The share of them that the next generation comes from.
        generations: How many.
        init_std: Deviation of the first generation.
        min_std: Its floor later.
    """

    algorithm: Literal["cem", "random"]
    form: Form
    granularity: Literal["one", "layer", "matrix"]
    include_base: bool
    renormalise: bool
    objective: Objective
    split: Literal["valid", "shots"]
    shots: PositiveInt
    draws: PositiveInt
    seed: Count
    population: PositiveInt
    elite_share: Share
    generations: PositiveInt
    init_std: PositiveFloat
    min_std: NonNegative


class Search(Section):
    """Few-shot adaptation of a set to a task, on items of its split ``shots``."""

    base: Name
    set: Name
    task: Name
    budget: Name


class Temperature(Section):
    """A search for the temperature of soft dispatch, one for all tasks, on their validation splits.

    Attributes:
        base: The base model.
        set: The adapters that are mixed.
        dispatch: The task that asks for a prompt's category.
        tasks: Rows of role ``trained``: the best mean of their accuracies wins, the first of equals.
        values: What is tried.
    """

    base: Name
    set: Name
    dispatch: Name
    tasks: list[Name] = Field(min_length=1)
    values: list[PositiveFloat] = Field(min_length=1)


class Searching(Section):
    """What every search shares: prompts side by side."""

    batch: PositiveInt


class _System(Section):
    """A row of the tables.

    Attributes:
        label: What they call it; a base's own row bears the base's label.
        base: The base model.
        variant: Tells it from other systems of the same method and strategy; empty: it needs none.
        tasks: Where it is measured: on every trained and unseen task (``all``), or on these.
    """

    label: Text
    base: Name
    variant: str
    tasks: Tasks


class Bare(_System):
    """The base model as it is."""

    strategy: Literal["none"]


class Single(_System):
    """One adapter, whatever the task."""

    strategy: Literal["adapter"]
    adapter: Name


class Own(_System):
    """The member that was trained on the task's family."""

    strategy: Literal["own"]
    set: Name


class Oracle(_System):
    """The member that is right on most of the test questions, chosen by them: a bound that nobody can reach honestly.

    The paper's LoRA on unseen tasks is the best of all (section 4.2).
    """

    strategy: Literal["oracle"]
    set: Name


class Uniform(_System):
    """All members in equal parts.

    Attributes:
        set: The members.
        budget: Of the searches that it stands beside, whose form and members it has; null: the normalised form,
            without the base model.
    """

    strategy: Literal["uniform"]
    set: Name
    budget: Name | None


class Prompted(_System):
    """The base model names each prompt's category in a first pass; ``dispatch`` is the task that asks for it."""

    strategy: Literal["prompt"]
    set: Name
    dispatch: Name
    reading: Reading


class Classified(_System):
    """The same under an adapter that was trained to name categories (paper, section 3.2 B)."""

    strategy: Literal["classifier"]
    set: Name
    dispatch: Name
    adapter: Name
    reading: Reading


class Soft(_System):
    """All members, each as much as the base model believes in its category, at the temperature that a search found."""

    strategy: Literal["soft"]
    set: Name
    dispatch: Name
    temperature: Name

    @property
    def reading(self) -> Reading:
        """Beliefs are likelihoods."""
        return "likelihood"


Dispatched = Prompted | Classified | Soft
"""Systems with a first pass over each prompt."""


class Found(_System):
    """The mix that a search found for the task; searches of different tasks."""

    strategy: Literal["fewshot"]
    set: Name
    searches: list[Name] = Field(min_length=1)


class InContext(_System):
    """The base model with the shots of searches as worked examples in the prompt; nothing is adapted.

    Attributes:
        searches: Of different tasks; their shots, seed by seed and draw by draw.
    """

    strategy: Literal["in_context"]
    searches: list[Name] = Field(min_length=1)


class Best(Section):
    """Of several systems the best: for each task, seed and draw, the first of equals.

    It answers nothing by itself: what the one that is chosen has answered counts.

    Attributes:
        label: What tables call it; one that is chosen by test questions says that it is an oracle.
        base: That of the systems.
        variant: As any system's.
        systems: Among which is chosen.
        by: ``test``: by the test questions themselves, a bound that nobody can reach honestly; so are the paper's
            few-shot rows (appendix A.4). ``rest``: by how the mix that a search found does on what the pool of shots
            holds besides, which is no test question.
    """

    label: Text
    base: Name
    variant: str
    strategy: Literal["best"]
    systems: list[Name] = Field(min_length=2)
    by: Literal["test", "rest"]

    @property
    def tasks(self) -> list[Name]:
        """Where it is measured by itself: nowhere."""
        return []


def _strategy(value: Any) -> str:
    return f"<{_entry(value, 'strategy')}>"


System = Annotated[
    Annotated[Bare, Tag("<none>")]
    | Annotated[Single, Tag("<adapter>")]
    | Annotated[Own, Tag("<own>")]
    | Annotated[Oracle, Tag("<oracle>")]
    | Annotated[Uniform, Tag("<uniform>")]
    | Annotated[Prompted, Tag("<prompt>")]
    | Annotated[Classified, Tag("<classifier>")]
    | Annotated[Soft, Tag("<soft>")]
    | Annotated[Found, Tag("<fewshot>")]
    | Annotated[InContext, Tag("<in_context>")]
    | Annotated[Best, Tag("<best>")],
    Discriminator(
        _strategy,
        custom_error_type="strategy",
        custom_error_message="`strategy` is one of none, adapter, own, oracle, uniform, prompt, classifier, soft, "
        "fewshot, in_context, best",
    ),
]


class Measure(Section):
    """How systems are measured: prompts side by side."""

    batch: PositiveInt


class Score(Section):
    """How scores are compared.

    Attributes:
        contrasts: Pairs of systems, left and right, beside each system's difference to its base.
    """

    contrasts: list[Annotated[list[Name], Field(min_length=2, max_length=2)]]


class NearDuplicates(Section):
    """Which test questions of real benchmarks count as nearly learned from; they are named in the splits' manifest.

    Attributes:
        threshold: The least Jaccard similarity of two questions' runs of words.
        words: The length of a run.
        permutations: Of the MinHash that finds candidates; more find pairs near the threshold more surely.
    """

    threshold: Share
    words: PositiveInt
    permutations: PositiveInt


class Splits(Section):
    """How splits are drawn, and what is reported about them."""

    seed: Count
    near_duplicates: NearDuplicates


class Publish(Section):
    """What is registered in MLflow as a model that answers.

    Attributes:
        systems: Over one base; the first answers by default.
        set: Their adapters, and no others: what makes the stage due.
        model: The name of the model.
    """

    systems: list[Name] = Field(min_length=1)
    set: Name
    model: Name


class Sandbox(Section):
    """Limits of the processes in which generated code runs, and answers are compared by computer algebra.

    Attributes:
        symbolic_seconds: Processor time of one such comparison; what takes longer counts as wrong.
    """

    cpu_seconds: PositiveFloat
    wall_seconds: PositiveFloat
    memory_mb: PositiveInt
    file_mb: PositiveInt
    processes: PositiveInt
    output_kb: PositiveInt
    symbolic_seconds: PositiveInt
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
    prompt_tokens: PositiveInt


class Params(Section):
    """All of ``params.yaml``; a key of a section of rows is the row's name."""

    bases: dict[Name, AnyBase] = Field(min_length=1)
    tasks: dict[Name, Task] = Field(min_length=1)
    splits: Splits
    recipes: dict[Name, Recipe]
    training: Training
    adapters: dict[Name, AnyAdapter]
    sets: dict[Name, Set]
    budgets: dict[Name, Budget]
    searches: dict[Name, Search]
    temperatures: dict[Name, Temperature]
    search: Searching
    systems: dict[Name, System] = Field(min_length=1)
    measure: Measure
    score: Score
    publish: Publish
    sandbox: Sandbox
    engine: Engine
    execution: Execution
    tracking: Tracking
    plan: Plan
    _taken: frozenset[str] = PrivateAttr(frozenset())

    def with_taken(self, taken: frozenset[str]) -> Params:
        """The same parameters, as those of an experiment folder; see :attr:`taken`."""
        copy = self.model_copy()
        copy._taken = taken
        return copy

    @property
    def taken(self) -> frozenset[str]:
        """What an experiment folder takes from the main run: ``adapters.svf-math``, ``training``."""
        return self._taken

    def key_of(self, name: str) -> tuple[str, str, str]:
        """Method, strategy and variant of a system: what score files know it by.

        The method is the PEFT method of the adapters that answer; ``base`` where the base model answers, and
        ``in_context`` where it is shown shots.
        """
        system = self.systems[name]
        methods = {self.recipes[self.adapters[adapter].recipe].method for adapter in self.adapters_of(name)}
        alone = "in_context" if isinstance(system, InContext) else "base"
        return "+".join(sorted(methods)) or alone, system.strategy, system.variant

    def adapters_of(self, name: str) -> list[str]:
        """The adapters that a system answers with or chooses from; none where the base model answers as it is."""
        system = self.systems[name]
        if isinstance(system, Bare | InContext):
            return []
        if isinstance(system, Best):
            return list(dict.fromkeys(adapter for other in system.systems for adapter in self.adapters_of(other)))
        return [system.adapter] if isinstance(system, Single) else self.sets[system.set].members

    def seeds_of(self, name: str) -> list[int]:
        """Those of a set, whose adapters are taken seed by seed."""
        return self.recipes[self.adapters[self.sets[name].members[0]].recipe].seeds
