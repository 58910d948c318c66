"""The report page: complete, self-contained, and readable without scripts."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from scoresde.bench import Cell, Setup, Table, recommendations, write
from scoresde.bench.svg import Point, Scale, plot
from scoresde.metrics import Estimate


def cell(solver, budget, value, **kw):
    half = kw.pop("half", 0.1)
    scores = {"error": Estimate(value, value * (1 - half), value * (1 + half))}
    made = kw.pop("scores", scores)
    return Cell(
        solver, "uniform_lambda", budget, nfe=budget, steps=budget, seconds=0.5, scores=made, **kw
    )


@pytest.fixture
def table():
    shown = torch.linspace(-1, 1, 4 * 64).reshape(4, 1, 8, 8)
    path = ((80.0, 0.0), (1.0, 0.03), (0.0, 0.1))
    kept = {"shown": shown, "trajectory": torch.zeros(3, 2, 2), "path_error": path}
    cells = (
        cell("DDIM", 5, 0.5, **kept),
        cell("DDIM", 10, 0.1, **kept),
        cell("UniPC<3>", 5, 0.2, **kept),
        cell("UniPC<3>", 10, 0.09, **kept),
        Cell("Bad", "uniform_lambda", 5, failed="NonFiniteError: at step 3 & more"),
    )
    setup = Setup(
        {"": {"model": "abc", "sde": {}, "reference": {"accuracy": 1e-6, "nfe": 300}}}, 4, 0,
        "float32", floor={"error": Estimate(0.05, 0.04, 0.06)}, environment={"torch": "x"},
    )  # fmt: skip
    return Table(cells, setup)


class Strict(HTMLParser):
    """Raises at a tag that is not closed in order, and collects what the page refers to."""

    void = frozenset({"meta", "input", "img", "line", "polyline", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.references, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [v for k, v in attrs if k in ("src", "href", "data", "action")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_fetches_nothing(table, tmp_path):
    write(table, tmp_path, title="A <title> & more")
    text = (tmp_path / "report.html").read_text()
    page = Strict()
    page.feed(text)
    assert page.open == []
    assert page.tags.count("script") == 1
    assert "link" not in page.tags
    assert page.tags.count("svg") == 3 + 2 + 2 + 4  # key, metric, paths, ways
    assert "A &lt;title&gt; &amp; more" in text
    assert "UniPC&lt;3&gt;" in text
    assert "UniPC<3>" not in text
    assert "at step 3 &amp; more" in text
    assert len(page.references) == 4
    for source in page.references:
        assert source.startswith("data:image/png;base64,")
        assert base64.b64decode(source.partition(",")[2]).startswith(b"\x89PNG")
    assert not re.search(r"url\(|@import|https?://", text)
    assert "prefers-color-scheme: dark" in text


def test_other_files_hold_the_same_numbers(table, tmp_path):
    write(table, tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["cells"][0]["scores"]["error"] == pytest.approx([0.5, 0.45, 0.55])
    rows = list(csv.DictReader((tmp_path / "report.csv").read_text().splitlines()))
    assert [float(r["value"]) for r in rows if r["value"]] == [0.5, 0.1, 0.2, 0.09]
    assert rows[-1]["failed"].startswith("NonFiniteError")
    assert "| **0.2** |" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_says_how_it_was_made_and_what_its_marks_mean(table, tmp_path):
    nine, silent = cell("Heun", 10, 0.3), cell("SDE", 5, 0.1, scores={})
    cells = (*table.cells, replace(nine, nfe=9.0), silent)
    setup = replace(table.setup, seed=7, truth=50, models={"": {"model": "abc", "sde": {
        "name": "VPSDE", "beta_max": 20.0, "log_alphas": [0.0, -1.0]}}})  # fmt: skip
    write(Table(cells, setup), tmp_path, command="scoresde bench 'ring8(seed=3)'")
    text = (tmp_path / "report.md").read_text()
    assert "| 0.3 (9) |" in text
    assert "In brackets: network evaluations taken" in text
    assert "Not measured: SDE. " in text
    assert text.split("## How it was made\n\n")[1].splitlines() == [
        "- Command: `scoresde bench 'ring8(seed=3)'`",
        "- 4 samples a cell, seeds 7 to 10, float32, against 50 true samples",
        "- Model: abc, name VPSDE, beta_max 20.0",
        "- torch x",
    ]
    told = json.loads((tmp_path / "report.json").read_text())["setup"]["command"]
    assert told == "scoresde bench 'ring8(seed=3)'"
    for mark in ("In brackets", "Not measured"):  # told where they are seen alone
        assert mark not in str(table)


def test_recommendation_says_whether_the_lead_is_clear(table):
    five, ten = recommendations(table)
    assert five.startswith("5 network evaluations: UniPC<3>")
    assert "clearly ahead of DDIM" in five
    assert "not clearly" not in five
    assert "not clearly ahead of DDIM" in ten


def test_points_are_where_they_belong():
    x = Scale(1.0, 100.0, 0.0, 0.0, 200.0)
    assert [x(v) for v in (1, 10, 100, 1000)] == pytest.approx([0, 100, 200, 200])
    assert x.ticks() == pytest.approx([1, 2, 5, 10, 20, 50, 100])
    bent = Scale(-1.0, 1.0, 0.1, 100.0, 0.0)
    assert bent(0.0) == pytest.approx(50)
    assert bent(-0.3) + bent(0.3) == pytest.approx(100)
    assert bent(0.01) == pytest.approx(50 - 50 * 0.1 / math.asinh(10), rel=1e-3)  # linear near 0
    assert {-1.0, 0.0, 1.0} <= set(bent.ticks())
    marks = [Point(x, Estimate(x**-2.0, x**-2.0, x**-2.0), "p") for x in (1.0, 10.0, 100.0)]
    drawn = plot({"a": marks}, x_label="x", y_label="y")
    points = re.search(r'polyline points="([^"]+)"', drawn)[1].split()
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in points)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)  # a power law is a straight line
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2)
    worse = [Point(x, Estimate(y, y, y), "p") for x, y in ((1.0, 2.0), (5.0, 3.0), (9.0, 1.0))]
    for better, kept in (("lower", (0, 2)), ("higher", (0, 1))):
        drawn = plot({"a": worse}, x_label="x", y_label="y", front=better)
        front, line = re.findall(r'points="([^"]+)"', drawn)[:2]
        assert front.split() == [line.split()[k] for k in kept]
    said = plot({"a": []}, x_label="x", y_label="y")
    assert said == '<p class="note">Nothing to draw: no run has y and x.</p>'
    unknown = [Point(math.nan, Estimate(1.0, 1.0, 1.0), "p")]  # of a run without seconds
    assert plot({"a": unknown}, x_label="x", y_label="y") == said
    bare = plot({"a": [Point(1.0, Estimate(1.0, math.nan, math.nan), "p")]}, x_label="", y_label="")
    assert "nan" not in bare


# -- in a browser --------------------------------------------------------------------------------


@pytest.fixture
def page(table, tmp_path):
    """The report, opened by Debian's chromium through Playwright, on a small phone in the dark."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium to open the page with")
    write(table, tmp_path)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True
        )
        opened = context.new_page()
        opened.said, opened.fetched = [], []
        opened.on("console", lambda message: opened.said.append(message.text))
        opened.on("pageerror", lambda error: opened.said.append(str(error)))
        opened.on("request", lambda request: opened.fetched.append(request.url))
        opened.goto((tmp_path / "report.html").as_uri())
        yield opened
        browser.close()


def test_a_browser_shows_the_page(page):
    assert page.said == []
    assert all(url.startswith(("file:", "data:")) for url in page.fetched)
    assert page.locator("img").count() == 4
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    # Nothing sticks out of a phone's screen but tables, which scroll by themselves.
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(21, 23, 26)"


def test_a_reader_points_chooses_and_hides(page):
    mark = page.locator("svg .s0 .mark:visible").first
    mark.hover()
    assert (
        page.locator("#tip").inner_text().startswith("DDIM: error 0.5 [0.45, 0.55], 5 network eval")
    )
    assert page.locator("svg title").count() == 0  # not told twice
    chooser = page.get_by_label("budget")
    assert page.locator("h2:visible", has_text="10 network evaluations").count() == 0
    chooser.select_option("10 network evaluations")
    assert page.locator("h2:visible", has_text="10 network evaluations").count() == 1
    assert page.locator("h2:visible", has_text="5 network evaluations").count() == 0
    assert page.locator("svg g.s0:visible").count() == 3
    page.get_by_role("checkbox", name="DDIM").uncheck()
    assert page.locator("svg g.s0:visible").count() == 0
    assert page.locator("svg g.s1:visible").count() >= 2


def test_all_of_it_is_there_without_scripts(page):
    quiet = page.context.browser.new_context(java_script_enabled=False).new_page()
    quiet.goto(page.url)
    for head in ("error", "5 network evaluations", "10 network evaluations"):
        assert quiet.get_by_role("heading", name=head, exact=True).is_visible()
    assert quiet.locator("svg title").count() > 0
