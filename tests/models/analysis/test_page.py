"""The page: what is in it, and how its table sorts."""

import html.parser
import re
import shutil
import subprocess

import pytest

from state_of_sparsity.models.analysis.axes import AXES
from state_of_sparsity.models.analysis.page import write_page
from state_of_sparsity.models.analysis.pictures import draw_quality
from tests.models.analysis.conftest import points_of

NODE = shutil.which("node")
# As much of a browser as the page's script needs, and clicks on the quality.
CLICKS = """
const page = require("fs").readFileSync(process.argv[1], "utf-8");
const cells = (row) => [...row.matchAll(/<td>(.*?)<\\/td>/g)];
const table = page.slice(page.indexOf("<tbody>"), page.indexOf("</tbody>"));
const body = [];
const append = (row) => { body.splice(body.indexOf(row), 1); body.push(row); };
for (const row of table.split("<tr>").slice(1)) {
  const texts = cells(row).map((cell) => ({ textContent: cell[1] }));
  body.push({ cells: texts, parentNode: { append } });
}
const headings = [...page.matchAll(/<th>(.*?)<\\/th>/g)].map((found) => ({}));
const document = {
  querySelectorAll: (what) => (what.endsWith("tr") ? [...body] : headings),
};
eval(page.match(/<script>([^]*)<\\/script>/)[1]);
for (const column of [5, 5, 6, 0]) {
  headings[column].onclick();
  console.log(body.map((row) => row.cells[column].textContent).join(" | "));
}
"""


@pytest.fixture
def page(study, tmp_path):
    """The page of the study, and its file."""
    points = points_of(study, labels={"dropout": "<dropout> & co"})
    for name in ("page.html", "again.html"):
        figures = {axis.title: draw_quality(points, axis) for axis in AXES}
        write_page(points, tmp_path / name, figures, "My <study>")
    return tmp_path / "page.html"


class Parts(html.parser.HTMLParser):
    """What a page would load, its headings, and what its marks say."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.texts, self._tag = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        own = [v for k, v in attrs if k in ("src", "href", "xlink:href")]
        self.loaded += [place for place in own if not place.startswith("#")]
        assert tag not in ("link", "iframe", "img")

    def handle_data(self, data):
        if data.strip():
            self.texts.setdefault(self._tag, []).append(data)
        self._tag = None


def test_the_page_loads_nothing_and_has_all_pictures_and_the_table(page):
    parts = Parts(page.read_text(encoding="utf-8"))
    assert not parts.loaded
    assert parts.texts["h1"] == ["My <study>"]
    assert parts.texts["h2"] == [*(axis.title for axis in AXES), "Table"]
    assert "<dropout> & co" in parts.texts["td"]


def test_each_point_says_what_it_is_and_where_it_is_from(page, study):
    said = Parts(page.read_text(encoding="utf-8")).texts["title"]
    for variant in ("dense", "magnitude pruning", "<dropout> & co"):
        points = [text for text in said if text.startswith(f"technique: {variant}\n")]
        assert len(points) == 2 * (2 if "pruning" in variant else 1)
    (first, _) = [text for text in said if "sparsity: 90.00 %" in text]
    assert "top-1 accuracy (%): 90.00 (88.00 to 92.00)" in first
    assert str(study / "magnitude_pruning_0.9_1") in first


def test_the_same_comparison_is_the_same_page(page):
    assert page.read_bytes() == page.with_name("again.html").read_bytes()


@pytest.mark.skipif(NODE is None, reason="no Node.js is installed")
def test_a_click_on_a_heading_sorts_the_table_up_and_once_more_down(page):
    done = subprocess.run(
        [NODE, "-e", CLICKS, page], capture_output=True, text=True, check=True
    )
    up, down, to_dense, names = (
        [re.match(r"[^ ]*", text)[0] for text in line.split(" | ")]
        for line in done.stdout.splitlines()
    )
    assert up == ["90.00", "93.00", "94.00", "96.00"]
    assert down == up[::-1]
    # What is dense has no difference to dense, and stays below.
    assert to_dense == ["-6.00", "-3.00", "-2.00", "-"]
    assert names == ["&lt;dropout&gt;", "dense", "magnitude", "magnitude"]
