"""Every Python block of README and docs runs, page by page, as a reader would type it.

A block below an HTML comment `<!-- compiled only: reason -->`, which is not visible on the page, is
only compiled: it needs a GPU, or a network that is not in the repository.
"""

import html
import importlib
import importlib.util
import math
import pkgutil
import re
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from test_layers import LAYERS

import scoresde

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?P<only><!-- compiled only: [^>]+ -->\s*)?^(?P<indent> *)```(?P<language>\w+)[^\n]*\n"
    r"(?P<code>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    language: str
    code: str
    line: int
    run: bool


def blocks(page, language):
    text = page.read_text()
    for match in FENCE.finditer(text):
        if match["language"] == language:
            code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
            line = text.count("\n", 0, match.start("code"))
            yield Block(language, code, line, match["only"] is None)


def name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if [*blocks(p, "python")]], ids=name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page")  # a real module, so that its classes can be pickled
    monkeypatch.setitem(sys.modules, "page", module)
    for block in blocks(page, "python"):
        # Blank lines ahead, so that a traceback points at the line of the page.
        code = compile("\n" * block.line + block.code, str(page), "exec")
        if block.run:
            exec(code, module.__dict__)


def test_blocks_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\na = 1\n```\n<!-- compiled only: a GPU -->\n```python\nb = 2\n```\n"
        "- item\n\n    ```python\n    c = 3\n    ```\n```bash\nmake test\n```\n"
    )
    found = [(block.code, block.line, block.run) for block in blocks(page, "python")]
    assert found == [("a = 1\n", 1, True), ("b = 2\n", 5, False), ("c = 3\n", 10, True)]
    assert [block.code for block in blocks(page, "bash")] == ["make test\n"]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target
        for block in blocks(page, "bash")
        for target in re.findall(r"^make (\w+)", block.code, re.MULTILINE)
    } | set(re.findall(r"`make (\w+)`", page.read_text()))
    assert named <= targets


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name)
def test_relative_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_in_the_library_exist(page):
    """Dotted names in backticks, such as `scoresde.grid.karras`."""
    for dotted in set(re.findall(r"`(scoresde(?:\.\w+)+)", page.read_text())):
        if dotted.endswith((".py", ".yml")):
            continue
        try:
            importlib.import_module(dotted)
        except ImportError:
            module, attribute = dotted.rsplit(".", 1)
            assert hasattr(importlib.import_module(module), attribute), dotted


def test_reference_pages_name_every_module():
    named = set()
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        named |= set(re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE))
    public = {
        module.name
        for module in pkgutil.walk_packages(scoresde.__path__, "scoresde.")
        if "._" not in module.name and module.name.count(".") == 1
    } - {"scoresde.cli", "scoresde.cli.demo"}  # docs/cli.md tells of their commands
    assert public <= {".".join(path.split(".")[:2]) for path in named}


@pytest.mark.parametrize("package", ["scoresde.solvers", "scoresde.likelihood", "scoresde.sde"])
def test_a_package_on_several_reference_pages_is_there_whole(package):
    """Every public name stands on one page, and on one only."""
    chosen = rf"^::: {package}\n    options:\n(?:      .*\n)*?      members: \[(.*)\]"
    named = [
        name
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for names in re.findall(chosen, page.read_text(), re.MULTILINE)
        for name in names.split(", ")
    ]
    private = {"CLEAN"}  # a constant of the driver's
    assert sorted(named) == sorted(set(importlib.import_module(package).__all__) - private)


def test_reference_pages_name_nothing_private():
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        assert not re.findall(r"^::: scoresde\S*\._", page.read_text(), re.MULTILINE)


def mathml():
    """The hook of the site that turns formulas into MathML."""
    pytest.importorskip("latex2mathml")
    spec = importlib.util.spec_from_file_location("mathml", ROOT / "docs" / "mathml.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    return hook.on_page_content


@pytest.mark.parametrize("page", [*(ROOT / "docs").glob("*.md")], ids=name)
def test_every_formula_is_shown(page):
    """No LaTeX is left in the text of a page."""
    extensions = ["tables", "md_in_html", "pymdownx.arithmatex", "pymdownx.superfences"]
    settings = {"pymdownx.arithmatex": {"generic": True}}
    markdown = pytest.importorskip("markdown")
    content = markdown.markdown(page.read_text(), extensions=extensions, extension_configs=settings)
    shown = mathml()(content, page=SimpleNamespace(file=SimpleNamespace(src_path=name(page))))
    assert shown.count("<math") == content.count('class="arithmatex"')
    text = re.sub(r"<(pre|code|math)\b.*?</\1>", "", shown, flags=re.DOTALL)
    assert not re.findall(r"\$|\\\w+", text)


def test_a_formula_keeps_its_parts():
    page = SimpleNamespace(file=SimpleNamespace(src_path="a.md"))
    shown = mathml()(r'<span class="arithmatex">\(\sigma_t &lt; 1\)</span>', page=page)
    symbols = re.findall(r"<m[ion]>([^<]+)</m[ion]>", html.unescape(shown))
    assert symbols == ["\N{GREEK SMALL LETTER SIGMA}", "t", "1"]
    assert "<mo>&#x0003C;</mo>" in shown
    spaced = mathml()(r'<span class="arithmatex">\(\log x + \log(x)\)</span>', page=page)
    assert spaced.count("<mspace") == 1


@pytest.mark.parametrize("tex", [r"\left( 1", r"x^", r"\foo"])
def test_a_wrong_formula_stops_the_build(tex):
    exceptions = pytest.importorskip("mkdocs.exceptions")
    page = SimpleNamespace(file=SimpleNamespace(src_path="a.md"))
    with pytest.raises(exceptions.PluginError, match=r"a\.md: not a formula"):
        mathml()(rf'<span class="arithmatex">\({tex}\)</span>', page=page)


def test_the_layers_that_contributors_read_are_those_that_are_tested():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text.partition("| layer | rooms |\n| --- | --- |\n")[2].partition("\n\n")[0]
    rows = [row.split("|")[2] for row in table.splitlines()]
    assert [
        {name.replace("/", ".") for name in re.findall(r"`([\w/]+)`", row)} for row in rows
    ] == LAYERS


def test_the_solvers_of_the_guide_are_the_rules_it_states():
    """Both rules in rho, written out again here with floats, for eps = y^2 / 5 in one dimension."""
    page = ROOT / "docs" / "adding_a_solver.md"
    module = ModuleType("guide")
    sys.modules["guide"] = module  # where dataclasses look their annotations up
    try:
        for block in blocks(page, "python"):
            if "(Solver)" in block.code and "ConfigError" not in block.code:
                exec(block.code, module.__dict__)
    finally:
        del sys.modules["guide"]
    sde = scoresde.VPSDE()

    def slope(y, rho):
        return (y / (1 + rho)) ** 2 / 5

    def net(x, time):  # told rho; its input is alpha y
        rho = time[:, None]
        return slope(x * (1 + rho**2).sqrt(), rho)

    model = scoresde.ScoreModel(net, sde, time="rho")
    grid = scoresde.uniform_t(sde, 6, t_min=0.05, clean=False)
    rho = [float(knot.rho) for knot in grid.knots]
    start = 1.3 * grid.knots[0].radius * torch.ones(1, 1, dtype=torch.float64)
    y = first = float(start / grid.knots[0].alpha)
    before = None
    for k, (t, s) in enumerate(pairwise(rho)):
        now, h = slope(y, t), s - t
        correction = 0.0 if before is None else h**2 / (2 * (t - rho[k - 1])) * (now - before)
        y, before = y + h * now + correction, now
    two_step = y
    y = first
    for t, s in pairwise(rho):
        middle = math.sqrt(t * s)
        y += (s - t) * slope(y + (middle - t) * slope(y, t), middle)
    for solver, want in ((module.AdamsBashforth(), two_step), (module.Midpoint(), y)):
        got = scoresde.sample(model, solver, grid, x=start).x / grid.knots[-1].alpha
        assert float(got) == pytest.approx(want, rel=1e-9)
