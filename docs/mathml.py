"""A hook of MkDocs: formulas become MathML while the site is built.

Current browsers show MathML by themselves. So a page needs no script and no other host, and can be
read from the disk. Write `$x_t$` within a line, and `$$ ... $$` for a formula on its own line.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

# What pymdownx.arithmatex (generic: true) makes of the two.
FORMULA = re.compile(
    r'(?P<tag><(?:span|div) class="arithmatex">)\\[(\[](?P<tex>.*?)\\[)\]](?P<end></(?:span|div)>)',
    re.DOTALL,
)
# A function's name without a bracket behind it, such as the log of "log x": a thin space follows.
NAME = re.compile(r"(<mi>[a-z]{2,}</mi>)(?!<mo[^>]*>&#x00028;|</)")


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Replace the formulas of a page; a formula that is not LaTeX stops the build."""

    def mathml(match: re.Match[str]) -> str:
        tex = html.unescape(match["tex"]).strip()
        wrong = f"{page.file.src_path}: not a formula: {tex!r}"
        try:
            shown = convert(tex, display="block" if "div" in match["tag"] else "inline")
        except Exception as error:
            raise PluginError(f"{wrong} ({error!r})") from error
        if "\\" in shown:  # a command that the converter does not know is left as it is
            raise PluginError(f"{wrong} has an unknown command")
        return match["tag"] + NAME.sub(r'\1<mspace width=".17em" />', shown) + match["end"]

    return FORMULA.sub(mathml, content)
