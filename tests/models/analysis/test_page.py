"""The page: what is in it, and in what order."""

import html
import re

import pytest

from state_of_sparsity.models.analysis.finished_runs import read_runs, runs_named
from state_of_sparsity.models.analysis.page import _table_figure, write_page
from state_of_sparsity.models.analysis.points import summarize
from tests.models.analysis.conftest import PUBLISHED


@pytest.fixture
def page(study, tmp_path):
    """The page of the study, and its file."""
    runs, _ = read_runs([study], {"dropout": "<dropout> & co"})
    chosen = runs_named(runs, ["magnitude_pruning_0.9_0"])
    path = tmp_path / "page.html"
    write_page(summarize(runs), path, chosen, "My <study>")
    return path


def without_scripts(page):
    text = page.read_text(encoding="utf-8")
    return re.sub(r"(?s)<script([^>]*)>.*?</script>", r"<script\1>", text)


def headings(page):
    found = re.findall(r"<h[12]>(.*?)</h[12]>", without_scripts(page))
    return [html.unescape(text) for text in found]


def test_the_page_loads_nothing_and_has_all_pictures_and_the_table(page):
    assert not re.search("src=|href=|<link|<iframe|<img", without_scripts(page))
    # What a point says, when the mouse is over it.
    said = "top-1 accuracy (%): 90.00 (88.00 to 92.00)"
    assert said in page.read_text(encoding="utf-8")
    assert headings(page) == [
        "My <study>",
        "Quality over sparsity",
        "Quality over operations of inference",
        "Sparsity by layer",
        "Table",
    ]


def test_the_page_offers_no_upload(page):
    text = page.read_text(encoding="utf-8")
    configs = re.findall(r'"showSendToCloud": ?(\w+)', text)
    assert configs == ["false"] * 4


def test_the_same_comparison_is_the_same_page(study, tmp_path):
    points = summarize(read_runs([study])[0])
    for name in ("one", "again"):
        write_page(points, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "again").read_bytes()


def test_a_page_of_published_tables_alone_has_no_flops(tmp_path):
    runs, _ = read_runs(PUBLISHED)
    runs = runs[runs.model == "transformer"]
    write_page(summarize(runs), tmp_path / "page.html")
    assert headings(tmp_path / "page.html") == [
        "transformer on wmt14_translate/de-en",
        "Quality over sparsity",
        "Table",
    ]


@pytest.mark.parametrize("again", [False, True])
def test_a_button_sorts_the_table_up_and_once_more_down(study, again):
    runs, _ = read_runs([study], {"dropout": "<dropout> & co"})
    figure = _table_figure(summarize(runs))
    table = figure.data[0]
    place = table.header["values"].index("<b>top-1 accuracy (%)</b>")
    button = figure.layout.updatemenus[place].buttons[0]
    cells = (button.args2 if again else button.args)[0]["cells.values"][0]
    accuracies = [float(text.split()[0]) for text in cells[place]]
    assert accuracies == sorted([96, 94, 90, 93], reverse=again)
    assert "&lt;dropout&gt; &amp; co" in cells[0]
    # Whole rows are moved.
    rows = {*zip(*cells, strict=True)}
    assert rows == {*zip(*table.cells["values"], strict=True)}
