from __future__ import annotations

import ast
import base64
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from report_example import SYSTEMS
from report_example import inputs as example_inputs

from t2 import config
from t2.files import write_csv
from t2.report import figures, style
from t2.report.page import ReportInputs, outline, write_report
from t2.report.render import page as whole_page
from t2.report.render import to_html, to_markdown
from t2.report.systems import System, label_of, systems_of
from t2.report.tables import (
    Cell,
    Image,
    Table,
    adapter_table,
    checkpoint_table,
    difference_table,
    dispatch_table,
    holm,
    image_table,
    readings_table,
    replies_table,
    runs_table,
    score_table,
    search_table,
    shots_table,
    similarity_table,
    timing_table,
    to_text,
    transfer_table,
)
from t2.stages.report import isolation, processors

REPOSITORY = Path(__file__).parents[2]
MINI = [replace(system, base="mini") for system in SYSTEMS if system.base == "miniature"]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    return example_inputs()


@pytest.fixture(scope="module")
def folder(inputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    write_report(inputs, folder)
    return folder


def score(task, method="svf", strategy="own", share=0.5, n=200, **key):
    row = {
        "base": "mini",
        "suite": "trained",
        "task": task,
        "family": task,
        "variant": "",
        "seed": "",
        "draw": "",
    }
    interval = {"ci_low": str(share - 0.07), "ci_high": str(share + 0.07)}
    return row | {"method": method, "strategy": strategy, "n": str(n), "score": str(share)} | interval | key


def compared(left, task="math", p=0.001, *, right="base", mean=0.65, ratio="1.3", **key):
    row = {"base": "mini", "suite": "trained", "task": task, "left": left, "right": right, "n_runs": "3", "p": str(p)}
    row |= {"left_low": str(mean - 0.05), "left_high": str(mean + 0.05)}
    row |= {"ratio": ratio, "ratio_low": "1.1", "ratio_high": "1.5"}
    row |= {"difference": "0.1", "ci_low": "0.05", "ci_high": "0.15", "run_low": "-0.004", "run_high": "0.2"}
    return row | key


def cells(table: Table) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for group in table.groups for row in group}


class Checker(HTMLParser):
    """Checks that tags are balanced and collects every address."""

    void = ("meta", "img", "br", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag not in self.void:
            self.open.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_score_table_is_laid_out_like_the_papers():
    rows = [
        score("math", "base", "none", 0.5),
        score("code", "base", "none", 0.0),
        *(score("math", share=share, seed=str(seed)) for seed, share in enumerate((0.6, 0.7))),
        score("math", "lora", share=0.55, variant="next_token", seed="0"),
        score("math", strategy="adapter", variant="code", share=0.1, seed="0"),
        score("code", share=0.02, seed="0"),
        score("hard", "base", "none", suite="unseen"),
    ]
    against = [compared("svf/own", p=0.02), compared("svf/own", "code", 0.03, mean=0.02, ratio="")]
    against += [compared("lora/own/next_token", p=0.02, mean=0.55), compared("svf/adapter/code", p=1e-9)]
    table = score_table(rows, against, MINI, "trained", "T")
    assert [cell.text for cell in table.header] == ["Method", "math", "code", "Runs"]
    assert table.header[1].asides == ("n = 200",)
    assert cells(table) == {
        "mini": ["50", "0", "–"],
        "+ LoRA (next token)": ["55", "–", "1 seed"],
        "+ SVF": ["65", "2", "2 seeds"],
    }
    asides = [[cell.asides for cell in row[1:3]] for row in table.groups[0]]
    assert asides[0][0] == ("[43, 57]",), "a single run's own"
    assert asides[2] == [("[60, 70]", "× 1.30 [1.10, 1.50]"), ("[-3, 7]",)]
    strong = [cell.strong for row in table.groups[0] for cell in row]
    assert not any(strong), "by Holm's rule over three comparisons, 0.02 is not enough"
    against[0]["p"] = "0.01"
    table = score_table(rows, against, MINI, "trained", "T")
    assert [cell.text for row in table.groups[0] for cell in row if cell.strong] == ["55", "65", "2"]
    assert score_table(rows, against, MINI, "other", "T") is None


def test_a_lines_mean_weighs_seeds_alike():
    rows = [score("math", strategy="fewshot", share=0.4, seed="0", draw=str(draw)) for draw in range(3)]
    rows += [score("math", strategy="fewshot", share=0.8, seed="1", draw="0")]
    assert cells(score_table(rows, [], MINI, "trained", "T")) == {
        "+ Transformer² (Few-shot)": ["60", "3 draws, 2 seeds"]
    }


def test_holms_rule_steps_down():
    assert holm([0.04, 0.001, 0.02, 0.3]) == [False, True, False, False]
    assert holm([0.01, 0.02, 0.04]) == [True, True, True]
    assert holm([0.03, 0.03]) == [False, False]
    assert holm([]) == []


def test_order_and_words_are_those_of_the_rows_and_unknown_kinds_are_shown():
    soft = System("mini", "ia3+svf", "soft", "t=2", "Softly")
    rows = [
        score("math", "svf", "own"),
        score("math", "base", "none"),
        score("math", "dora", "stacked", variant="a/b"),
        score("math", "ia3+svf", "soft", variant="t=2"),
    ]
    table = score_table(rows, [], [soft, *MINI], "trained", "T")
    assert list(cells(table)) == ["+ Softly", "mini", "+ SVF", "+ dora/stacked/a/b"]


def test_several_bases_are_groups_in_the_order_of_the_file():
    rows = [
        score("math", "base", "none"),
        score("math", "base", "none", base="control"),
        score("math", base="control"),
    ]
    table = score_table(rows, [], [*MINI, *SYSTEMS], "trained", "T")
    assert [[row[0].text for row in group] for group in table.groups] == [["mini"], ["control", "+ SVF"]]


def test_readings_stand_side_by_side_in_the_order_of_the_systems():
    keys = {"base": "mini", "suite": "trained", "task": "math", "family": "math", "variant": "", "n": 50}
    rows = [
        {**keys, "method": "base", "strategy": "none", "strict": 0.1, "flexible": 0.4, "cut_off": 0.02},
        {**keys, "method": "svf", "strategy": "own", "strict": 0.5, "flexible": 0.5, "cut_off": 0.0},
        {**keys, "method": "svf", "strategy": "own", "strict": 0.3, "flexible": 0.4, "cut_off": 0.1},
    ]
    systems = [System("mini", "base", "none", "", "mini"), System("mini", "svf", "own", "", "SVF")]
    table = readings_table(rows, systems, "Readings.")
    assert [[(cell.text, cell.asides) for cell in line] for line in table.groups[0]] == [
        [("mini", ()), ("40 / 10", ("cut 2",))],
        [("+ SVF", ()), ("45 / 40", ("cut 5",))],
    ]
    assert readings_table([], systems, "Readings.") is None


def test_transfer_table_marks_own_families():
    rows = [score(task, "base", "none", 0.5) for task in ("math", "code")]
    rows += [score("math", share=0.8), score("code", share=0.7)]
    rows += [score("code", strategy="adapter", variant="math", share=0.2)]
    rows += [score("code", strategy="adapter", variant="code", share=0.71)]
    against = [compared("svf/own"), compared("svf/adapter/math", "code", 0.5, mean=0.2, ratio="0.4")]
    table = transfer_table(rows, against, MINI, "mini", "T")
    assert cells(table) == {"SVF, math expert": ["80°", "20"], "SVF, code expert": ["–", "71°"]}
    assert [cell.strong for cell in table.groups[0][0][1:]] == [True, False]
    assert table.groups[0][0][2].asides == ("[15, 25]",)
    assert transfer_table(rows[:-2], against, MINI, "mini", "T") is None


def test_differences_are_bold_by_holms_rule():
    rows = [
        compared("svf/uniform", right="svf/own"),
        compared("svf/own", p=0.01),
        compared("svf/uniform", p=0.04, n_runs="1", difference="-0.0001", ci_low="-0.0001"),
        compared("svf/adapter/code", p=1e-9),
    ]
    table = difference_table(rows, MINI, "trained", "T")
    first, second, third = table.groups[0]
    assert third[0] == Cell("Uniform mix of experts − SVF")
    assert first == (Cell("SVF − mini"), Cell("+10", ("[+5, +15]", "0 … +20"), strong=True))
    assert second[1] == Cell("0", ("[0, +15]",), strong=True), "the last of three needs 0.05"
    assert difference_table(rows, MINI, "unseen", "T") is None
    assert difference_table(rows[-1:], MINI, "trained", "T") is None
    rows[1]["p"], rows[2]["p"] = "0.03", "0.04"
    strong = [row[1].strong for row in difference_table(rows, MINI, "trained", "T").groups[0]]
    assert strong == [False, False, True]


def test_dispatch_table_has_the_balanced_accuracy_each_recall_and_what_names_nothing(inputs):
    rows, counts = (frame.astype(object).to_dict("records") for frame in (inputs.dispatch, inputs.confusions))
    table = dispatch_table(rows, counts, SYSTEMS, "T")
    assert [cell.text for cell in table.header] == [
        *("First pass", "balanced", "math", "code", "reasoning", "other", "none")
    ]
    assert table.header[1].asides == ("n = 840",) and table.header[2].asides == ("n = 240",)
    (prompt, classifier), (difference,) = table.groups
    assert prompt[0].text == "Transformer² (Prompt)"
    recalls = [int(cell.text) for cell in classifier[2:6]]
    assert int(classifier[1].text) == pytest.approx(sum(recalls) / 4, abs=1)
    assert classifier[6].text == "0"
    assert difference[0] == Cell("Transformer² (Cls-expert)", ("− Transformer² (Prompt)",))
    assert difference[1].strong and difference[1].text.startswith("+")
    nothing = [{**row, "predicted": "none"} for row in counts]
    assert dispatch_table(rows, nothing, SYSTEMS, "T").groups[0][0][6].text == "100"
    assert dispatch_table([], [], SYSTEMS, "T") is None


def test_timings_are_averaged_and_the_first_pass_is_a_share_of_the_second():
    row = {"base": "mini", "system": "Ask", "task": "math", "n": 600, "first_seconds": 1.0, "second_seconds": 10.0}
    table = timing_table([row, row | {"first_seconds": 3.0}], "T")
    assert cells(table) == {"math": ["600", "2.00 (20%)", "10.00"]}
    assert table.header[2:] == (Cell("1st (s)", ("Ask",)), Cell("2nd (s)", ("Ask",)))
    several = timing_table([row, row | {"base": "control", "first_seconds": 5.0}], "T")
    assert cells(several) == {"math": ["600", "1.00 (10%)", "10.00", "5.00 (50%)", "10.00"]}
    assert [cell.asides for cell in several.header[2::2]] == [("Ask", "mini"), ("Ask", "control")]
    assert timing_table([], "T") is None
    assert timing_table([row | {"second_seconds": 0.0}], "T").groups[0][0][2].text == "1.00"


def test_where_the_time_goes_is_added_up():
    table = runs_table([{"stage": s, "seconds": t, "run_id": s * 3} for s, t in (("a", 1.0), ("b", 2.5))], "T")
    assert list(cells(table).items()) == [
        ("b", ["2.5", "bbb"]),
        ("a", ["1.0", "aaa"]),
        ("all stages", ["3.5", ""]),
    ]


def test_systems_of_parameters_say_what_tables_need():
    params = config.load(REPOSITORY / "params.yaml")
    found = {(system.base, system.name): system for system in systems_of(params)}
    assert [label for label, _ in found] == [params.bases[row.base].label for row in params.systems.values()]
    assert found["miniature", "lora/own/next_token"].label == "LoRA (next token)"
    assert found["control", "base"].label == "control"
    expert = found["miniature", "svf/adapter/math"]
    assert (expert.label, expert.family, expert.own) == ("SVF, math expert", "math", "svf/own")
    labels = [label_of(params, name) for name in ("svf-code", "lopg-math", "classifier", "control-math")]
    assert labels == ["SVF", "LoRA (policy gradient)", "Transformer² (Cls-expert)", "SVF"]
    unmeasured = params.model_copy(update={"systems": {"base": params.systems["base"]}})
    assert label_of(unmeasured, "lora-math") == "lora_next_token"


def test_two_bases_may_have_systems_of_one_name():
    table = difference_table(
        [compared("svf/own", base=base) for base in ("miniature", "control")],
        [replace(system, label=f"{system.base[0]}: {system.label}") for system in SYSTEMS],
        "trained",
        "T",
    )
    assert list(cells(table)) == ["m: SVF − miniature", "c: SVF − control"]


def test_one_table_three_ways():
    rows = ((Cell("a|b", strong=True), Cell("1", ("± 2", "3 … 4"))), (Cell("c<d"), Cell("–")))
    table = Table("T", "n > 5", (Cell("x"), Cell("y", ("n = 6",))), (rows,))
    assert to_markdown(table).splitlines()[2:6] == [
        "| x | y n = 6 |",
        "| --- | ---: |",
        "| **a\\|b** | 1 ± 2<br>3 … 4 |",
        "| c<d | – |",
    ]
    assert to_text(table).splitlines()[4:6] == ["a|b    1 ± 2", "c<d        –"]
    page = to_html(table)
    assert "c&lt;d" in page
    assert "n &gt; 5" in page
    assert "<small>± 2</small><small>3 … 4</small>" in page


def test_page_is_whole_self_contained_and_has_every_part(folder):
    page = (folder / "report.html").read_text()
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.addresses) == 6
    assert all(address.startswith("data:image/svg+xml;base64,") for address in checker.addresses)
    pictures = [base64.b64decode(address.partition(",")[2]).decode() for address in checker.addresses]
    for text in (re.sub(r'src="data:[^"]*"', "", page), *pictures):
        assert not re.findall(r"(?:@import|<script|<link|url\((?!#)|<!DOCTYPE svg)", text)
        links = set(re.findall(r"https?://[^\s\"'<>)]+", text))
        assert links <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"} | {
            link for link in links if "purl.org" in link or "w3.org/1999/02/22-rdf" in link or "creativecommons" in link
        }, "namespaces only"
    for words in (
        "Table 1",
        "Table 2",
        "Table 3",
        "Figure 4",
        "Figure 6",
        "Figure 7",
        "n = 120",
    ):
        assert words in page
    assert 'name="viewport"' in page
    assert "prefers-color-scheme" in page


def test_markdown_page_links_to_figures_that_exist(folder):
    page = (folder / "report.md").read_text()
    links = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    assert len(links) == 6
    for link in links:
        root = ElementTree.parse(folder / link).getroot()
        assert root.tag == f"{SVG}svg"
    assert "| + Transformer² (Few-shot) |" in page


def test_equal_inputs_give_equal_bytes_also_under_another_hash_seed(folder, tmp_path):
    script = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "import report_example as example; from t2.report.page import write_report\n"
        "write_report(example.inputs(), sys.argv[3])"
    )
    arguments = [str(REPOSITORY), str(Path(__file__).parent), str(tmp_path)]
    environment = {"PYTHONHASHSEED": "77", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, env=environment)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(names) == 8
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_learning_curves_mark_what_was_kept_and_the_base(inputs):
    svg = figures.learning_figure(inputs.histories, inputs.scores, SYSTEMS, "miniature")
    red = drawn(svg).count(style.RED)
    kept = int(inputs.histories["chosen"].sum())
    assert kept == 27
    assert red >= kept
    assert svg.count("stroke-dasharray") == 9, "one dashed line per panel"
    assert figures.learning_figure(inputs.histories, inputs.scores, SYSTEMS, "nobody") is None


def test_every_colour_that_a_figure_is_drawn_in_has_a_dark_value(folder):
    for path in (folder / "figures").iterdir():
        svg = path.read_text()
        used = set(re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", drawn(svg)))
        assert used and all(f'[style*="{colour}"]' in svg for colour in used)


def drawn(svg: str) -> str:
    """A figure without its first style sheet, which names all colours."""
    return svg.split("</style>", 1)[1]


def texts(svg: str) -> list[str]:
    return [node.text for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_adapters_of_other_tasks_have_panels_of_their_own(inputs):
    dispatch = inputs.histories[inputs.histories["task"] == "math"].assign(label="stranger", task="dispatch")
    histories = pd.concat([inputs.histories[inputs.histories["label"] == "SVF"], dispatch])
    shown = texts(figures.learning_figure(histories, inputs.scores, SYSTEMS, "miniature"))
    assert [text for text in shown if text in ("math", "code", "reasoning", "dispatch", "SVF", "stranger")] == [
        *("SVF", "math", "code", "reasoning"),
        *("stranger", "dispatch"),
    ]


def test_methods_with_one_panel_each_stand_side_by_side(inputs):
    curve = inputs.histories[inputs.histories["adapter"] == "SVF math"]
    many = pd.concat([curve.assign(label=f"rate {place}", adapter=f"rate-{place}") for place in range(6)])
    svg = figures.learning_figure(many, inputs.scores, SYSTEMS, "miniature")
    assert [text for text in texts(svg) if text.startswith("rate")] == [f"rate {place}: math" for place in range(6)]
    _, _, width, height = map(float, ElementTree.fromstring(svg).get("viewBox").split())
    assert width > 1.8 * height


def test_adapters_are_told_by_what_they_adapt_and_what_they_take(inputs):
    table = adapter_table(inputs.trained.astype(object).to_dict("records"), "What is trained.")
    (svf, lora) = table.groups[0]
    assert [cell.text for cell in svf] == ["svf-math", "reinforce", "q_proj, v_proj", "3,072", "41"]
    assert [cell.asides for cell in lora[1:3]] == [("learning rate 0.01",), ("layers: half",)]
    assert adapter_table([], "") is None


def test_alike_experts_are_told_by_seeds_and_by_tasks(inputs):
    rows = inputs.similarities.to_dict("records")
    table = similarity_table(rows, "How alike experts are.")
    assert [[cell.text for cell in line] for line in table.groups[0]] == [
        ["all", "0.60", "−0.20"],
        ["q_proj", "0.60", "−0.20"],
    ]
    whole = inputs.similarities[inputs.similarities["module"] == "all"]
    svg = figures.similarity_figure(whole, "miniature")
    assert [text for text in texts(svg) if text.startswith("svf-")] == ["svf-math", "svf-code"] * 2
    assert figures.similarity_figure(whole, "nobody") is None
    alone = [row for row in rows if (row["left"], row["left_seed"]) == (row["right"], row["right_seed"])][:2]
    assert similarity_table(alone, "") is None
    assert figures.similarity_figure(whole[:1], "miniature") is None


def test_adapters_of_other_matrices_are_drawn_beside_each_other(inputs):
    fewer = inputs.changes[(inputs.changes["adapter"] != "svf-code") | (inputs.changes["module"] == "up_proj")]
    shown = texts(figures.change_figure(fewer, "miniature"))
    assert shown.count("up_proj") == 3 and shown.count("q_proj") == 3
    alike = inputs.similarities[inputs.similarities["left"] == inputs.similarities["right"]]
    assert "svf-code" in texts(figures.similarity_figure(alike[alike["module"] == "all"], "miniature"))


def test_a_search_pays_once_the_added_tokens_are_as_many_as_it_took(inputs):
    table = shots_table(inputs.shown.to_dict("records"), "Shots in the prompt.")
    three, twenty = table.groups[0]
    # 200 more tokens a prompt; the search: 600 replies of 120 tokens.
    assert [cell.text for cell in three] == ["3 shots", "300", "0%", "+200", "360"]
    assert [cell.text for cell in twenty] == ["20 shots", "80", "25%", "−20", "–"]
    crowded = inputs.shown.assign(too_long=200).to_dict("records")
    assert [line[-1].text for line in shots_table(crowded, "").groups[0]] == ["–", "–"]
    assert shots_table([], "") is None


def test_systems_have_colours_by_their_place_also_more_than_there_are_hues(inputs):
    more = [System("miniature", "svf", f"kind-{i}", "", f"Kind {i}") for i in range(len(style.PALETTE) + 1)]
    rows = inputs.comparisons[(inputs.comparisons["left"] == "svf/own") & (inputs.comparisons["right"] == "base")]
    many = pd.concat([rows.assign(left=system.name) for system in more])
    svg = figures.difference_figure(many, more, "miniature")
    used = [drawn(svg).count(colour) for colour in style.PALETTE]
    assert len(set(used[1:])) == 1
    assert used[0] > 1.5 * used[1] > 0


def test_several_searches_on_a_task_are_panels_that_bear_their_names(inputs):
    light = inputs.alphas[inputs.alphas["task"] == "math_hard"].assign(search="light", expert="svf-math")
    shown = texts(figures.alpha_figure(pd.concat([inputs.alphas, light]), "miniature"))
    assert {"math_hard", "light", "code_hard", "reasoning_hard", "svf-math"} <= set(shown)
    assert shown.count("math_hard") == 1


def test_confusion_figure_shows_percentages_the_other_row_and_replies_without_category():
    rows = [("math", "math", 3), ("math", "none", 1), ("other", "other", 2), ("other", "code", 0)]
    frame = pd.DataFrame(rows, columns=["truth", "predicted", "count"]).assign(base="mini", dispatcher="prompt")
    frame = frame[["base", "dispatcher", "truth", "predicted", "count"]]
    shown = texts(figures.confusion_figure(frame, MINI, "mini"))
    assert {"75", "25", "100", "none", "other", "Transformer² (Prompt)", "balanced 88 %"} <= set(shown)
    assert "code" not in shown, "a category that is nobody's truth and nobody's answer"
    strange = pd.DataFrame([("mini", "prompt", "vision", "code", 4)], columns=list(frame))
    shown = texts(figures.confusion_figure(pd.concat([frame, strange]), MINI, "mini"))
    assert {"vision", "code", "balanced 88 %"} <= set(shown), "what no category stands for is in no balance"
    alone = texts(figures.confusion_figure(strange, MINI, "mini"))
    assert {"vision", "code", "Transformer² (Prompt)"} <= set(alone) and not any("balanced" in text for text in alone)


def test_parts_without_data_are_left_out_and_zero_scores_are_shown(inputs):
    scores = inputs.scores.assign(score=0.0, correct=0, ci_low=0.0, ci_high=0.01)
    sections = outline(ReportInputs(base="miniature", systems=SYSTEMS, scores=scores))
    assert [section.title for section in sections] == ["", "Trained tasks", "Unseen tasks"]
    page = whole_page("x", sections, html=True)
    assert ">0<small>" in page or ">0</td>" in page
    assert "nan" not in page


def test_notes_and_titles_are_escaped(inputs):
    page = whole_page("a < b", outline(replace(inputs, notes=["x < y & `z`"])), html=True)
    assert "<h1>a &lt; b</h1>" in page
    assert "x &lt; y &amp; <code>z</code>" in page


def test_terminal_summary_starts_at_once_and_says_where_everything_is(inputs, tmp_path):
    (tmp_path / "reports").mkdir()
    write_csv(tmp_path / "reports" / "scores.csv", inputs.scores)
    write_csv(tmp_path / "reports" / "comparisons.csv", inputs.comparisons)
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    for path in (
        "reports/report.html",
        "mlflow.db",
        "data/adapters/svf-math/seed-0/x",
        "data/adapters/gone/seed-0/x",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    command = [sys.executable, "-m", "t2.report.terminal"]
    environment = {"PYTHONPATH": str(REPOSITORY), "PYTHONUTF8": "1"}
    before = os.times()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    after = os.times()
    seconds = after.children_user - before.children_user
    assert seconds < 1.5, "0.4 s of computing; heavy imports would take several, however busy the machine is"
    shown = done.stdout
    for words in (
        "+ Transformer² (Few-shot)",
        "control",
        "2 draws, 3 seeds",
        "report.html",
        "make ui",
        "(svf-math)",
    ):
        assert words in shown
    assert re.search(r"\+ SVF +\d+ \[\d+, \d+\]", shown)


def test_terminal_summary_imports_nothing_heavy():
    script = "import sys, t2.report.terminal; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "peft", "pandas", "numpy", "matplotlib", "mlflow", "dvc"}
    assert not heavy & set(ast.literal_eval(done.stdout))


def test_terminal_summary_without_scores_says_what_to_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "t2.report.terminal"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "make repro" in done.stderr


def test_terminal_summary_with_broken_parameters_says_what_is_wrong(inputs, tmp_path):
    (tmp_path / "reports").mkdir()
    write_csv(tmp_path / "reports" / "scores.csv", inputs.scores)
    command, environment = [sys.executable, "-m", "t2.report.terminal"], {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "params.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_report_names_the_walls_behind_which_programs_were_graded() -> None:
    records = [
        {"stage": "measure", "isolation": ["namespaces"]},
        {"stage": "search@code_hard", "isolation": ["landlock", "namespaces"]},
        {"stage": "train@svf-math", "isolation": []},
        {"stage": "basis@main"},
    ]
    (told,) = isolation(records)
    assert told.endswith("sandbox: `landlock` in search@code_hard; `namespaces` in measure, search@code_hard.")
    assert isolation(records[2:]) == []


def test_the_report_says_on_what_processor_models_ran() -> None:
    known = [{"stage": "train@svf-math", "processor": "Quick AVX2"}, {"stage": "score", "processor": None}]
    (told,) = processors([*known, {"stage": "measure", "processor": "Quick AVX2"}, {"stage": "basis@main"}])
    assert told.startswith("Models ran on `Quick AVX2`. Another kind")
    (told,) = processors([*known, {"stage": "measure", "processor": "Slow"}])
    assert "on several processors: `Quick AVX2` in train@svf-math; `Slow` in measure." in told
    assert processors([{"stage": "score", "processor": None}]) == []


def test_the_checkpoint_that_is_kept_stands_between_the_untrained_and_the_last() -> None:
    def curve(seed: int, scores: list[float | None], kept: int) -> list[dict[str, object]]:
        row = {"base": "mini", "label": "SVF", "adapter": "svf-math", "seed": seed}
        return [row | {"step": n, "valid_score": one, "chosen": n == kept} for n, one in enumerate(scores)]

    table = checkpoint_table([*curve(0, [0.5, None, 0.8, 0.6], 2), *curve(1, [0.5, 0.4, None, 0.4], 0)], "T")
    assert cells(table) == {"svf-math": ["50", "65", "50", "1 of 2"]}
    assert checkpoint_table([], "T") is None


def test_what_a_search_adds_is_told_beside_random_draws() -> None:
    row = {"base": "mini", "search": "hard", "algorithm": "cem", "seed": 0, "draw": 0, "shots": 10, "evaluations": 256}
    row |= {"generations": 8, "score": 0.6, "best_generation": 5, "score_generation": 1}
    row |= {"gain_over_first": 0.0, "gain_over_random": -0.1, "objective": "accuracy"}
    row |= {"rest_score": 0.5, "rest_uniform": 0.52}
    later = {"draw": 1, "best_generation": 8, "score_generation": 3, "gain_over_first": 0.1, "gain_over_random": 0.1}
    rows = [
        row,
        row | later,
        row | {"search": "luck", "algorithm": "random", "gain_over_random": None, "rest_score": None},
    ]
    table = search_table(rows, "T")
    assert cells(table) == {
        "hard": ["60", "6.5", "1 of 2", "+5", "0", "−2", "256"],
        "luck": ["60", "5.0", "0 of 1", "0", "–", "–", "256"],
    }
    assert table.groups[0][0][2].asides == ("5–8, of 8",)
    assert search_table([], "T") is None


def test_figure_7_shows_the_range_of_weights_by_matrix(inputs):
    wide = inputs.alphas.assign(lowest=inputs.alphas["alpha"] - 0.5, highest=inputs.alphas["alpha"] + 0.5)
    narrow, shown = (figures.alpha_figure(frame, "miniature") for frame in (inputs.alphas, wide))
    assert narrow != shown


def test_replies_stand_as_they_were_written_on_one_line_and_cut(inputs):
    table = replies_table(inputs.replies.to_dict("records"), "Replies that changed.")
    markdown, page = to_markdown(table), to_html(table)
    assert "| `What is 1\\|2 < 3?` | `'five' ⏎ or <b>six</b>` |" in markdown
    assert f"`{'6' * 239}…`" in markdown
    assert markdown.count("| the expert |") == 1 and markdown.count("| the base model |") == 1
    assert "<code>What is 1|2 &lt; 3?</code>" in page
    assert "<code>`five` ⏎ or &lt;b&gt;six&lt;/b&gt;</code>" in page
    assert "<code>(nothing)</code>" in page


PNG = b"\x89PNG of a sign"


@pytest.fixture
def asked() -> pd.DataFrame:
    sign, tree = Image("0a1b.png", PNG), Image("2c3d.jpg", b"JPEG of a tree")
    return pd.DataFrame(
        [
            ("signs", "one", "What does it | say?", sign, "stop", "miniature", "go\nthere", 0.0),
            ("signs", "two", "What is it?", tree, "oak", "miniature", "", 0.0),
            ("signs", "one", "What does it | say?", sign, "stop", "SVF", "stop", 1.0),
            ("signs", "two", "What is it?", tree, "oak", "SVF", "tree", 0.3),
        ],
        columns=["task", "id", "question", "image", "expected", "label", "reply", "right"],
    )


def test_questions_about_images_stand_with_the_image_and_what_each_system_answers(asked):
    table = image_table(asked.to_dict("records"), "What was asked.")
    markdown, page = to_markdown(table), to_html(table)
    assert "| ![](figures/0a1b.png) What does it \\| say? stop | ![](figures/2c3d.jpg) What is it? oak |" in markdown
    assert "| miniature | ✗ go ⏎ there | ✗ (nothing) |" in markdown
    assert "| SVF | ✓ stop | ✓ tree |" in markdown
    assert (
        f'src="data:image/png;base64,{base64.b64encode(PNG).decode()}">What does it | say?<small>stop</small>' in page
    )
    assert 'src="data:image/jpeg;base64,' in page
    assert image_table([], "What was asked.") is None


def test_images_of_questions_lie_beside_the_figures(inputs, asked, tmp_path):
    write_report(replace(inputs, images=asked), tmp_path)
    assert (tmp_path / "figures" / "0a1b.png").read_bytes() == PNG
    checker = Checker()
    checker.feed((tmp_path / "report.html").read_text())
    assert checker.open == []
    assert "What was asked on signs." in (tmp_path / "report.md").read_text()


def test_each_experts_panel_says_what_its_lightest_matrix_is(inputs):
    shown = texts(figures.change_figure(inputs.changes, "miniature"))
    assert {"svf-math", "lightest: 0.040", "lightest: 0.080", "lightest: 0.120", "q_proj", "up_proj", "3"} <= set(shown)
    assert figures.change_figure(inputs.changes, "control") is None
