"""The report as Markdown and as one self-contained HTML page, from the same outline."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from t2.files import replace_file
from t2.report import figures, render, tables
from t2.report.claims import claims_table
from t2.report.systems import System
from t2.report.tables import Table


@dataclass(frozen=True)
class ReportInputs:
    """All that the report shows; an empty frame leaves its part out.

    Bases, tasks, stages, searches and experts keep the order in which they stand in the frames.

    Attributes:
        base: The main base model's label; figures show it alone, tables show every base.
        systems: Those of every base, in the order of tables.
        notes: Paragraphs on what the base model is and is not, and on what did not come out.
        scores: Columns of ``reports/scores.csv``.
        readings: Columns of ``reports/readings.csv``.
        comparisons: Columns of ``reports/comparisons.csv``.
        timings: base, system, task, n, first_seconds, second_seconds.
        histories: base, label, adapter, task, seed, step, valid_score, chosen.
        confusions: base, dispatcher, suite, task, seed, truth, predicted, count.
        dispatch: Columns of ``reports/dispatch.csv``.
        alphas: base, search, task, seed, draw, expert, alpha, lowest, highest; effective weights, of several layers or
            matrices their mean and range.
        searches: Columns of ``reports/searches.csv``.
        changes: base, adapter, layer, module, change; the mean of |z − 1| over components and seeds.
        similarities: base, left, left_seed, right, right_seed, module, cosine; of z − 1, ``all`` modules together too.
        replies: task, label, question, before, after, gained; see :func:`t2.report.tables.replies_table`.
        images: task, and see :func:`t2.report.tables.image_table`.
        trained: See :func:`t2.report.tables.adapter_table`.
        shown: See :func:`t2.report.tables.shots_table`.
        runs: stage, run_id, seconds.
    """

    base: str
    systems: Sequence[System]
    scores: pd.DataFrame
    readings: pd.DataFrame = field(default_factory=pd.DataFrame)
    comparisons: pd.DataFrame = field(default_factory=pd.DataFrame)
    timings: pd.DataFrame = field(default_factory=pd.DataFrame)
    histories: pd.DataFrame = field(default_factory=pd.DataFrame)
    confusions: pd.DataFrame = field(default_factory=pd.DataFrame)
    dispatch: pd.DataFrame = field(default_factory=pd.DataFrame)
    alphas: pd.DataFrame = field(default_factory=pd.DataFrame)
    searches: pd.DataFrame = field(default_factory=pd.DataFrame)
    changes: pd.DataFrame = field(default_factory=pd.DataFrame)
    similarities: pd.DataFrame = field(default_factory=pd.DataFrame)
    replies: pd.DataFrame = field(default_factory=pd.DataFrame)
    images: pd.DataFrame = field(default_factory=pd.DataFrame)
    trained: pd.DataFrame = field(default_factory=pd.DataFrame)
    shown: pd.DataFrame = field(default_factory=pd.DataFrame)
    runs: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: Sequence[str] = ()
    title: str = "Transformer-Squared"


@dataclass(frozen=True)
class Picture:
    """A figure: its file name without ending, the SVG, and its words."""

    name: str
    svg: str
    title: str
    caption: str

    @property
    def address(self) -> str:
        """The picture itself, as an address."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg.encode()).decode()}"


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, tables and pictures below it."""

    title: str
    blocks: tuple[str | Table | Picture, ...]


def write_report(inputs: ReportInputs, folder: str | Path) -> None:
    """Writes ``report.md``, ``report.html`` and ``figures``, always with the same bytes.

    The HTML page holds its figures and images; the Markdown page links to them.

    Args:
        inputs: What to show.
        folder: Created where absent.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    sections = outline(inputs)
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Picture):
                replace_file(folder / "figures" / f"{block.name}.svg", block.svg)
            for image in block.images if isinstance(block, Table) else ():
                replace_file(folder / "figures" / image.name, image.content)
    replace_file(folder / "report.md", render.page(inputs.title, sections, html=False))
    replace_file(folder / "report.html", render.page(inputs.title, sections, html=True))


def outline(inputs: ReportInputs) -> list[Section]:
    """The report's sections, without those that have nothing to show."""
    scores, comparisons = _rows(inputs.scores), _rows(inputs.comparisons)
    base, systems = inputs.base, inputs.systems
    alike = inputs.similarities
    whole = alike if alike.empty else alike[alike["module"] == tables.WHOLE]
    parts: list[tuple[str, list[str | Table | Picture | None]]] = [
        ("", [_LEAD, *inputs.notes]),
        (
            "What the methods gain",
            [
                claims_table(comparisons, systems, "What the intervals say."),
                _picture("differences", _draw(figures.difference_figure, inputs.comparisons, systems, base)),
            ],
        ),
        (
            "Trained tasks",
            [
                tables.score_table(scores, comparisons, systems, "trained", "Table 1. Fine-tuning."),
                tables.difference_table(comparisons, systems, "trained", "Paired differences on trained tasks."),
            ],
        ),
        (
            "Unseen tasks",
            [
                tables.score_table(scores, comparisons, systems, "unseen", "Table 2. Self-adaptation on unseen tasks."),
                tables.difference_table(comparisons, systems, "unseen", "Paired differences on unseen tasks."),
                tables.transfer_table(scores, comparisons, systems, base, "Every adapter on every task."),
            ],
        ),
        (
            "Skill and form",
            [
                tables.readings_table(_rows(inputs.readings), systems, "How replies are read."),
                tables.replies_table(_rows(inputs.replies), "Replies that changed."),
                *_image_tables(_rows(inputs.images)),
            ],
        ),
        (
            "Training",
            [
                tables.adapter_table(_rows(inputs.trained), "What is trained."),
                tables.checkpoint_table(_rows(inputs.histories), "Which checkpoint is kept."),
                _picture("learning", _draw(figures.learning_figure, inputs.histories, inputs.scores, systems, base)),
                _picture("changes", _draw(figures.change_figure, inputs.changes, base)),
                _picture("similarities", _draw(figures.similarity_figure, whole, base)),
                tables.similarity_table(_rows(inputs.similarities), "How alike experts are."),
            ],
        ),
        (
            "Dispatching and mixing",
            [
                tables.dispatch_table(_rows(inputs.dispatch), _rows(inputs.confusions), systems, "The first pass."),
                _picture("confusion", _draw(figures.confusion_figure, inputs.confusions, systems, base)),
                _picture("alpha", _draw(figures.alpha_figure, inputs.alphas, base)),
                tables.search_table(_rows(inputs.searches), "What a search adds."),
                tables.shots_table(_rows(inputs.shown), "Shots in the prompt."),
            ],
        ),
        (
            "Time",
            [
                tables.timing_table(_rows(inputs.timings), "Table 3. Time of two-pass inference."),
                tables.runs_table(_rows(inputs.runs), "Where the time goes."),
            ],
        ),
    ]
    sections = [Section(title, tuple(block for block in blocks if block)) for title, blocks in parts]
    return [section for section in sections if section.blocks]


def _rows(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """A frame's rows with None where nothing stands."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _image_tables(answers: list[dict[Any, Any]]) -> list[Table | None]:
    tasks = dict.fromkeys(row["task"] for row in answers)
    return [
        tables.image_table([row for row in answers if row["task"] == task], f"What was asked on {task}.")
        for task in tasks
    ]


def _draw(figure: Any, frame: pd.DataFrame, *arguments: Any) -> str | None:
    return None if frame.empty else figure(frame, *arguments)


def _picture(name: str, svg: str | None) -> Picture | None:
    return Picture(name, svg, *_CAPTIONS[name]) if svg else None


_LEAD = (
    "Singular value fine-tuning (SVF) scales the singular values of every weight matrix by a learned vector "
    "z; an expert is a set of such vectors, trained by reinforcement on one task. At inference a first pass "
    "finds out which expert, or which mixture, a prompt needs, and a second pass answers with it (Sun, "
    "Cetin and Tang, arXiv 2501.06252)."
)

_CAPTIONS = {
    "differences": (
        "Differences to the base model.",
        "Points of accuracy on the test questions, each compared with itself. Dot: mean over seeds. Thick line: 95 % "
        "interval over training runs and test questions. Thin line: range over single seeds or draws.",
    ),
    "learning": (
        "Figure 4. Learning curves.",
        "Accuracy on the validation items over training steps, a line per seed. Dashed: the base model on the "
        "test items. Red dot: the checkpoint that is kept, the best on validation. Training is drawn to its "
        "end, without early stopping.",
    ),
    "changes": (
        "Where experts change the model.",
        "The mean of |z − 1| over a matrix' components and the seeds, by layer and module; darkest at 0, where the "
        "matrix is the base model's, and in each panel lightest at what is written over it.",
    ),
    "similarities": (
        "How alike experts' changes are.",
        "The cosine of z − 1, over all matrices, between any two trained experts; each adapter's block is its seeds. "
        "Seeds far from 1 have learned different vectors; adapters far from 0 share what they have learned.",
    ),
    "confusion": (
        "Figure 6. Confusion matrices of the dispatchers.",
        "Per cent of each row, over trained and unseen tasks of a family and the seeds of what asks; n is the number "
        "of prompts times such seeds. Prompts of `other` belong to no expert and are left to the base model, and so "
        "are those that were called nothing, `none`.",
    ),
    "alpha": (
        "Figure 7. Mixing weights found by few-shot search.",
        "What each expert weighs in the mix that answers, on each task that was searched on: a point per seed of the "
        "experts and draw of the shots, the bar is their mean over draws and seeds. Where layers or matrices have "
        "weights of their own, the point is their mean and the line their range. Dashed: the uniform mix.",
    ),
}
