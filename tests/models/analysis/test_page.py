"""The page: what is in it, and what a browser makes of it."""

import html.parser
import re
import shutil
import subprocess

import pytest

from state_of_sparsity.models.analysis.finished_runs import read_runs, runs_named
from state_of_sparsity.models.analysis.page import write_page
from state_of_sparsity.models.analysis.points import summarize
from tests.models.analysis.conftest import PUBLISHED

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
# What users do is done by a script that only the tests add.
CLICK = (
    "document.querySelectorAll('#table .updatemenu-button')[{place}]"
    ".dispatchEvent(new MouseEvent('click', {{bubbles: true}}));"
)
HOVER = "Plotly.Fx.hover('quality-over-sparsity', [{curveNumber: 1, pointNumber: 1}]);"


@pytest.fixture
def page(study, tmp_path):
    """The page of the study, and its file."""
    runs, _ = read_runs([study], {"dropout": "<dropout> & co"})
    chosen = runs_named(runs, ["magnitude_pruning_0.9_0"])
    path = tmp_path / "page.html"
    write_page(summarize(runs), path, chosen, "My <study>")
    return path


class Parts(html.parser.HTMLParser):
    """What a page would load, and its headings."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.headings, self._in_heading = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._in_heading = tag in ("h1", "h2")
        self.loaded += [v for k, v in attrs if k in ("src", "href")]
        assert tag not in ("link", "iframe", "img")

    def handle_endtag(self, tag):
        self._in_heading = False

    def handle_data(self, data):
        if self._in_heading:
            self.headings.append(data)


def test_the_page_loads_nothing_and_has_all_pictures_and_the_table(page):
    parts = Parts(page.read_text(encoding="utf-8"))
    assert not parts.loaded
    assert parts.headings == [
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
    parts = Parts((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert parts.headings == [
        "transformer on wmt14_translate/de-en",
        "Quality over sparsity",
        "Table",
    ]


def seen(page, *scripts):
    """What a browser without a network has in the page after it has run scripts."""
    text = page.read_text(encoding="utf-8")
    done = f"<script>{' '.join(scripts)}</script></body>"
    tried = page.with_name("tried.html")
    tried.write_text(text.replace("</body>", done), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1300,3000"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000"]
    dom = subprocess.run(
        [BROWSER, *flags, "--dump-dom", tried.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    return re.sub(r"(?s)<script.*?</script>", "", dom)


def techniques(dom):
    """The first column of the table, from above."""
    table = dom[dom.index('id="table"') :]
    cells = re.findall(r'class="cell-text"[^>]*>(?:<tspan[^>]*>)?([^<]*)', table)
    names = ("dense", "magnitude pruning", "&lt;dropout&gt; &amp; co")
    return [cell for cell in cells if cell in names]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
class TestInABrowser:
    """A headless browser shows the page."""

    def test_pictures_and_table_are_drawn(self, page):
        dom = seen(page)
        for text in ("90 %", "top-1 accuracy (%)", "conv2/kernel", "10.00x"):
            assert text in dom
        assert techniques(dom) == [
            "dense",
            "magnitude pruning",
            "magnitude pruning",
            "&lt;dropout&gt; &amp; co",
        ]

    def test_a_button_sorts_the_table_up_and_once_more_down(self, page):
        # Accuracy, after technique, sparsity, runs, seeds and steps: 90, 93, 94, 96.
        click = CLICK.format(place=5)
        up = techniques(seen(page, click))
        assert up == [
            "magnitude pruning",
            "&lt;dropout&gt; &amp; co",
            "magnitude pruning",
            "dense",
        ]
        assert techniques(seen(page, click, click)) == up[::-1]

    def test_a_point_says_what_it_is_when_the_mouse_is_over_it(self, page):
        assert "88.00 to 92.00" not in seen(page).partition('id="table"')[0]
        dom = seen(page, HOVER).partition('id="table"')[0]
        assert "top-1 accuracy (%): 90.00 (88.00 to 92.00)" in dom
