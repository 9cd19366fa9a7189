"""The page that sets the paper's tables and figures beside ours: whole, up to date, and of files that exist."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from t2.report import index
from t2.report.index import MAP, NUMBERS, PAGE, Part, page, parts
from t2.report.render import inline

ROOT = Path(__file__).parents[2]
MADE = [*(f"Table {n}" for n in range(1, 11)), *(f"Figure {n}" for n in (4, 5, 6, 7, 9, 10, 11)), "Beyond the paper"]
"""What of the paper has a counterpart here."""
TOLD = [*(f"Figure {n}" for n in (1, 2, 3, 8))]
"""What has none: illustrations."""


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_each_table_and_figure_of_the_paper_stands_in_the_map() -> None:
    found = parts()
    assert {part.item for part in found} == {*MADE, *TOLD}
    for item in MADE:
        of_item = [part for part in found if part.item == item]
        assert any(part.file for part in of_item) and any(part.says for part in of_item)
    for part in found:
        assert not part.file or Path(part.file).is_file(), part
        assert bool(part.file) == bool(part.place), part
    assert all((NUMBERS / f"table-{n}.csv").is_file() for n in range(1, 11))


def test_the_page_is_that_of_the_committed_results() -> None:
    """Of the main run, which a reader may have run again, only what the map says of it."""
    text = PAGE.read_text(encoding="utf-8")
    for part in parts():
        assert str(inline(part.says)) in text, f"stale at {part.item}; `make readme` writes it"
        if not part.place.startswith("main run"):
            assert str(part.shown()) in text, f"stale at {part.item}; `make readme` writes it"
    assert len(page(parts())) == pytest.approx(len(text), rel=0.1)


def test_the_page_loads_nothing_and_its_links_lead_somewhere() -> None:
    text = PAGE.read_text(encoding="utf-8")
    without = re.sub(r'src="data:[^"]*"', "", text)
    assert not re.findall(r"<script|<link|@import|src=", without)
    addresses: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            addresses.extend(value for name, value in attributes if name == "href" and value)

    Links().feed(text)
    targets = set(re.findall(r'id="([^"]+)"', text))
    for address in addresses:
        if address.startswith("#"):
            assert address[1:] in targets
        elif not address.startswith("https://arxiv.org/"):
            assert (PAGE.parent / address).is_file(), address


def test_a_block_that_is_not_there_is_named() -> None:
    part = Part("Table 1", "t", "score", "reports/report.html", "Table 99. Nothing.", "")
    with pytest.raises(ValueError, match=r"report\.html has 0 blocks called 'Table 99\. Nothing\.'"):
        part.shown()


def test_a_map_of_other_columns_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / MAP.name).write_text("item,title\nTable 1,t\n")
    monkeypatch.setattr(index, "MAP", tmp_path / MAP.name)
    with pytest.raises(ValueError, match="needs the columns item, title, place, file, block, says"):
        parts()
